//! Objects as written, before validation.
//!
//! In: deserialised YAML or JSON. Out: ServiceEntry and WorkloadEntry with every field of the API.
//! Never: a judgement about their values.

use std::{collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::{
    ClusterObject, ConfigMap, HttpRoute, Kind, KubeService, MAX_ADDRESSES, MAX_ENDPOINTS, MAX_HOSTS,
    MAX_PORTS, Namespace, ObjectRef, Pod,
};

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
    /// A ConfigMap by which the controller tells of a waypoint. No file holds one.
    ConfigMap(Box<ConfigMap>),
    /// An HTTPRoute.
    HttpRoute(Box<HttpRoute>),
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
            Self::ConfigMap(map) => map.metadata.object_ref(Kind::ConfigMap),
            Self::HttpRoute(route) => route.object_ref(),
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
            Self::ConfigMap(map) => &map.metadata,
            Self::HttpRoute(route) => &route.metadata,
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

/// What a host means, on which ports, and who answers there.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[schemars(extend("required" = ["hosts"]))]
pub struct ServiceEntrySpec {
    /// DNS names, of which the first label may be `*`.
    #[schemars(length(min = 1, max = MAX_HOSTS))]
    pub hosts: Vec<String>,
    /// Virtual addresses of the hosts: IP addresses, and with resolution NONE or STATIC also CIDR prefixes. Empty: an address is
    /// allocated.
    #[schemars(length(max = MAX_ADDRESSES), inner(length(max = 64)))]
    pub addresses: Vec<String>,
    /// The ports that clients dial.
    #[schemars(length(max = MAX_PORTS))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub ports: Vec<ServicePort>,
    /// Whether the hosts are part of the mesh. Default: MESH_EXTERNAL.
    #[schemars(extend("enum" = ["MESH_EXTERNAL", "MESH_INTERNAL"]))]
    pub location: String,
    /// How the addresses behind the hosts are found. Default: NONE.
    #[schemars(extend("enum" = ["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"]))]
    pub resolution: String,
    /// Who answers. Empty: what the hosts themselves resolve to.
    #[schemars(length(max = MAX_ENDPOINTS))]
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// Who answers, by labels of Pods and WorkloadEntries of the same namespace.
    pub workload_selector: Option<WorkloadSelector>,
    /// The namespaces whose clients see the hosts; `.` is the entry's own, `*` (the default) is all, `~` is none.
    pub export_to: Vec<String>,
    /// Names that certificates of the endpoints may have.
    pub subject_alt_names: Vec<String>,
}

/// One port. Its numbers are wide, so that one out of range is told by its path and value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[schemars(description = "One port.", extend("required" = ["number", "name"]))]
pub struct ServicePort {
    /// The port that clients dial.
    #[serde(deserialize_with = "whole_number")]
    #[schemars(range(min = 1, max = 65535))]
    pub number: Option<i64>,
    /// HTTP, HTTPS, HTTP2, GRPC, TLS, TCP (the default), UDP or another that Istio knows.
    #[schemars(length(max = 256))]
    pub protocol: String,
    /// By which endpoints name it.
    #[schemars(length(max = 256))]
    pub name: String,
    /// The port of the endpoints, where they do not say it themselves. Default: the port that clients dial.
    #[serde(deserialize_with = "whole_number")]
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: Option<i64>,
}

/// Labels that all of the selected have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct WorkloadSelector {
    /// Names and values.
    #[schemars(extend("maxProperties" = 256))]
    pub labels: BTreeMap<String, String>,
}

/// One who answers: `spec` of a WorkloadEntry, and one of a ServiceEntry's `spec.endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[schemars(description = "One who answers.")]
pub struct WorkloadEntrySpec {
    /// An IP address, with resolution DNS a name, or `unix:///PATH`.
    #[schemars(length(max = 256))]
    pub address: String,
    /// The ports, by the names of the ServiceEntry's ports.
    #[serde(deserialize_with = "whole_numbers")]
    #[schemars(schema_with = "ports_by_name")]
    pub ports: BTreeMap<String, i64>,
    /// Labels, for selectors.
    #[schemars(extend("maxProperties" = 256))]
    pub labels: BTreeMap<String, String>,
    /// The network that the address belongs to.
    #[schemars(length(max = 2048))]
    pub network: String,
    /// Where it is: `region/zone/subzone`.
    #[schemars(length(max = 2048))]
    pub locality: String,
    /// Its share, in proportion to the others'.
    #[serde(deserialize_with = "whole_number")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub weight: Option<i64>,
    /// The service account that it runs as.
    #[schemars(length(max = 253))]
    pub service_account: String,
}

/// `status` of a WorkloadEntry.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[schemars(description = "What controllers found out.", extend("x-kubernetes-preserve-unknown-fields" = true))]
#[expect(missing_docs, reason = "the names are Istio's own")]
pub struct WorkloadEntryStatus {
    pub conditions: Vec<Condition>,
    #[schemars(schema_with = "any_objects")]
    pub validation_messages: Vec<Value>,
    /// A number, or one in a string.
    #[schemars(schema_with = "number_or_text")]
    pub observed_generation: Value,
}

/// `status` of a ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[schemars(description = "What controllers found out.", extend("x-kubernetes-preserve-unknown-fields" = true))]
#[expect(missing_docs, reason = "the names are Istio's own")]
pub struct ServiceEntryStatus {
    /// Addresses that were allocated for the hosts.
    pub addresses: Vec<StatusAddress>,
    pub conditions: Vec<Condition>,
    #[schemars(schema_with = "any_objects")]
    pub validation_messages: Vec<Value>,
    /// A number, or one in a string.
    #[schemars(schema_with = "number_or_text")]
    pub observed_generation: Value,
}

/// One of `status.addresses`: an address that somebody allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct StatusAddress {
    /// The address.
    pub value: String,
    /// The host that it is for; empty for all hosts.
    pub host: String,
}

/// One of `status.conditions`.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize, JsonSchema)]
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
    #[schemars(schema_with = "number_or_text")]
    pub observed_generation: Value,
}

fn ports_by_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 128,
        "additionalProperties": {"type": "integer", "format": "int64", "minimum": 1, "maximum": 65535},
    })
}

fn number_or_text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-int-or-string": true})
}

fn any_objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
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

            /// `80.0` and `8e1`, which the API server takes for 80.
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Whole, E> {
                /// Above it not every whole number is a float.
                const MAX: f64 = (1_u64 << 53) as f64;
                if number.fract() != 0.0 {
                    return Err(E::invalid_type(de::Unexpected::Float(number), &self));
                }
                if number.abs() > MAX {
                    return Err(E::custom(format_args!("the number {number} is too large")));
                }
                Ok(Whole(number as i64))
            }
        }

        deserializer.deserialize_i64(Visitor)
    }
}

pub(super) fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(Option::<Whole>::deserialize(deserializer)?.map(|n| n.0))
}

fn whole_numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, i64>, D::Error> {
    Ok(BTreeMap::<String, Whole>::deserialize(deserializer)?.into_iter().map(|(k, v)| (k, v.0)).collect())
}
