//! Objects as written, before validation.
//!
//! In: deserialised YAML or JSON. Out: ServiceEntry and WorkloadEntry with every field of the API.
//! Never: a judgement about their values.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::{ClusterObject, Kind, KubeService, Namespace, ObjectRef, Pod};

/// The API group of ServiceEntry and WorkloadEntry.
pub const GROUP: &str = "networking.istio.io";
/// The versions of [`GROUP`] that are read; they are one schema.
pub const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];

/// An object of one of the kinds that are read.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Object {
    /// A ServiceEntry.
    ServiceEntry(Box<ServiceEntry>),
    /// A WorkloadEntry.
    WorkloadEntry(Box<WorkloadEntry>),
    /// A Pod.
    Pod(Box<Pod>),
    /// A Service.
    Service(Box<KubeService>),
    /// A Node.
    Node(Box<ClusterObject>),
    /// A Namespace.
    Namespace(Box<ClusterObject>),
}

impl Object {
    /// Which object this is. The name is empty when the object has none, which validation rejects.
    #[must_use]
    pub fn object_ref(&self) -> ObjectRef {
        match self {
            Self::ServiceEntry(entry) => entry.object_ref(),
            Self::WorkloadEntry(entry) => entry.object_ref(),
            Self::Pod(pod) => pod.metadata.object_ref(Kind::Pod),
            Self::Service(service) => service.metadata.object_ref(Kind::Service),
            Self::Node(node) => node.object_ref(Kind::Node),
            Self::Namespace(namespace) => namespace.object_ref(Kind::Namespace),
        }
    }

    /// The object's metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::ServiceEntry(entry) => &entry.metadata,
            Self::WorkloadEntry(entry) => &entry.metadata,
            Self::Pod(pod) => &pod.metadata,
            Self::Service(service) => &service.metadata,
            Self::Node(object) | Self::Namespace(object) => &object.metadata,
        }
    }
}

/// `networking.istio.io` ServiceEntry as written.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct ServiceEntry {
    /// `apiVersion`, one of the group's [`VERSIONS`].
    pub api_version: String,
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: ServiceEntrySpec,
    /// `status`; the CRD's schema does not list all of it.
    pub status: ServiceEntryStatus,
}

impl ServiceEntry {
    /// Which object this is.
    #[must_use]
    pub fn object_ref(&self) -> ObjectRef {
        self.metadata.object_ref(Kind::ServiceEntry)
    }
}

/// `networking.istio.io` WorkloadEntry as written.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct WorkloadEntry {
    /// `apiVersion`, one of the group's [`VERSIONS`].
    pub api_version: String,
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: WorkloadEntrySpec,
    /// `status`.
    pub status: WorkloadEntryStatus,
}

impl WorkloadEntry {
    /// Which object this is.
    #[must_use]
    pub fn object_ref(&self) -> ObjectRef {
        self.metadata.object_ref(Kind::WorkloadEntry)
    }
}

/// `metadata` of any Kubernetes object.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct Metadata {
    pub name: String,
    pub generate_name: String,
    /// As written; see [`Metadata::namespace`] for the default.
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    #[serde(deserialize_with = "whole_number")]
    pub generation: Option<i64>,
    /// RFC 3339.
    pub creation_timestamp: Option<String>,
    /// RFC 3339.
    pub deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "whole_number")]
    pub deletion_grace_period_seconds: Option<i64>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub finalizers: Vec<String>,
    pub owner_references: Vec<Value>,
    pub managed_fields: Vec<Value>,
    pub self_link: String,
}

impl Metadata {
    /// The object's namespace, `default` when none is written.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        if self.namespace.is_empty() { Namespace::default() } else { Namespace::new(&self.namespace) }
    }

    /// Which object of `kind` this is.
    #[must_use]
    pub fn object_ref(&self, kind: Kind) -> ObjectRef {
        ObjectRef { kind, namespace: self.namespace(), name: self.name.as_str().into() }
    }
}

/// `spec` of a ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Istio's own")]
pub struct ServiceEntrySpec {
    pub hosts: Vec<String>,
    pub addresses: Vec<String>,
    pub ports: Vec<ServicePort>,
    pub location: String,
    pub resolution: String,
    pub endpoints: Vec<WorkloadEntrySpec>,
    pub workload_selector: Option<WorkloadSelector>,
    pub export_to: Vec<String>,
    pub subject_alt_names: Vec<String>,
}

/// One of `spec.ports`. Numbers are wide, so that one out of range is told by its path and value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Istio's own")]
pub struct ServicePort {
    #[serde(deserialize_with = "whole_number")]
    pub number: Option<i64>,
    pub protocol: String,
    pub name: String,
    #[serde(deserialize_with = "whole_number")]
    pub target_port: Option<i64>,
}

/// `spec.workloadSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Istio's own")]
pub struct WorkloadSelector {
    pub labels: BTreeMap<String, String>,
}

/// `spec` of a WorkloadEntry, and one of a ServiceEntry's `spec.endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Istio's own")]
pub struct WorkloadEntrySpec {
    pub address: String,
    #[serde(deserialize_with = "whole_numbers")]
    pub ports: BTreeMap<String, i64>,
    pub labels: BTreeMap<String, String>,
    pub network: String,
    pub locality: String,
    #[serde(deserialize_with = "whole_number")]
    pub weight: Option<i64>,
    pub service_account: String,
}

/// `status` of a WorkloadEntry.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Istio's own")]
pub struct WorkloadEntryStatus {
    pub conditions: Vec<Condition>,
    pub validation_messages: Vec<Value>,
    /// A number, or one in a string.
    pub observed_generation: Value,
}

/// `status` of a ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Istio's own")]
pub struct ServiceEntryStatus {
    pub addresses: Vec<StatusAddress>,
    pub conditions: Vec<Condition>,
    pub validation_messages: Vec<Value>,
    /// A number, or one in a string.
    pub observed_generation: Value,
}

/// One of `status.addresses`: an address that somebody allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct StatusAddress {
    /// The address.
    pub value: String,
    /// The host that it is for; empty for all hosts.
    pub host: String,
}

/// One of `status.conditions`.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Istio's own")]
pub struct Condition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    /// RFC 3339.
    pub last_probe_time: String,
    /// RFC 3339.
    pub last_transition_time: String,
    /// A number, or one in a string.
    pub observed_generation: Value,
}

/// Any whole number, said in those words when it is something else.
struct Whole(i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Whole, E> {
                Ok(Whole(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Whole, E> {
                i64::try_from(number)
                    .map(Whole)
                    .map_err(|_| E::custom(format_args!("the number {number} is too large")))
            }
        }

        deserializer.deserialize_i64(Visitor)
    }
}

fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(Option::<Whole>::deserialize(deserializer)?.map(|n| n.0))
}

fn whole_numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, i64>, D::Error> {
    Ok(BTreeMap::<String, Whole>::deserialize(deserializer)?.into_iter().map(|(k, v)| (k, v.0)).collect())
}
