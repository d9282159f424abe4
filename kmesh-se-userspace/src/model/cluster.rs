//! Objects of Kubernetes as written, as far as ServiceEntries and enrolment depend on them.
//!
//! In: deserialised YAML or JSON. Out: Pod, Service, Node and Namespace with the fields that are read here.
//! Never: a warning about the many fields that are not.

use serde::Deserialize;

use super::{Kind, Metadata, Namespace, ObjectRef};

/// A Pod: a workload that a selector may pick.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct Pod {
    pub metadata: Metadata,
    pub spec: PodSpec,
    pub status: PodStatus,
}

/// `spec` of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct PodSpec {
    pub node_name: String,
    pub service_account_name: String,
    pub containers: Vec<Container>,
    pub init_containers: Vec<Container>,
    pub host_network: bool,
    pub runtime_class_name: String,
    pub dns_policy: String,
    pub dns_config: PodDnsConfig,
}

/// `spec.dnsConfig` of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct PodDnsConfig {
    pub searches: Vec<String>,
}

/// A container of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct Container {
    pub name: String,
    pub restart_policy: String,
    pub ports: Vec<ContainerPort>,
}

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct ContainerPort {
    pub name: String,
    pub container_port: i64,
}

/// `status` of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct PodStatus {
    pub phase: String,
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    pub conditions: Vec<PodCondition>,
}

impl PodStatus {
    /// Its addresses, as written.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let listed = self.pod_ips.iter().map(|address| address.ip.as_str());
        let only = Some(self.pod_ip.as_str()).filter(|ip| self.pod_ips.is_empty() && !ip.is_empty());
        listed.chain(only)
    }

    /// Whether the kubelet finds it ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    /// Whether it runs no more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.phase.as_str(), "Failed" | "Succeeded")
    }
}

/// One of `status.podIPs`.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct PodIp {
    pub ip: String,
}

/// One of a Pod's `status.conditions`.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct PodCondition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
}

/// A Service: its host is its own, whatever entries say.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct KubeService {
    pub metadata: Metadata,
    pub spec: KubeServiceSpec,
}

/// `spec` of a Service.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct KubeServiceSpec {
    #[serde(rename = "type")]
    pub type_: String,
}

/// A Node or a Namespace: their labels and annotations are all that counts.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct ClusterObject {
    pub metadata: Metadata,
}

impl ClusterObject {
    /// Which object this is. It is in no namespace.
    #[must_use]
    pub fn object_ref(&self, kind: Kind) -> ObjectRef {
        ObjectRef { kind, namespace: Namespace::new(""), name: self.metadata.name.as_str().into() }
    }
}
