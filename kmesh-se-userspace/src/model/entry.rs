//! A ServiceEntry or WorkloadEntry after validation: every value parsed, every default applied.
//!
//! In: nothing by itself; `validate` makes these. Out: the values that `desired` builds from.
//! Never: text that is still to be parsed.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use super::{HostName, Locality, Namespace, ObjectRef, RequestRoute, WaypointLabel, WaypointProxies};

/// A validated ServiceEntry.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Which object this is.
    pub object: ObjectRef,
    /// `metadata.creationTimestamp`; files have none. The oldest wins a conflict.
    pub created: Option<Timestamp>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.hosts`, in the order written.
    pub hosts: Vec<HostName>,
    /// `spec.addresses`, masked; a plain address is a full-length prefix.
    pub addresses: Vec<IpNet>,
    /// `status.addresses`: addresses somebody allocated, each with its host (none: all hosts).
    pub status_addresses: Vec<(IpAddr, Option<HostName>)>,
    /// Whether a VIP may be allocated: the label `networking.istio.io/enable-autoallocate-ip` is not `"false"`.
    pub may_allocate: bool,
    /// `spec.ports`.
    pub ports: Vec<Port>,
    /// `spec.location`.
    pub location: Location,
    /// `spec.resolution`.
    pub resolution: Resolution,
    /// `spec.endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// `spec.workloadSelector.labels`; absent when there is no selector, and an empty map selects nothing.
    pub workload_selector: Option<BTreeMap<String, String>>,
    /// `spec.exportTo`.
    pub export_to: ExportTo,
    /// `spec.subjectAltNames`.
    pub subject_alt_names: Vec<String>,
    /// The annotation `networking.istio.io/traffic-distribution`; none: that of the namespace.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// The waypoint that it is bound to by its own labels; unset: that of the namespace.
    pub waypoint: WaypointLabel,
    /// What is allowed but probably not meant, for conditions.
    pub warnings: Vec<Issue>,
}

/// Which backends are preferred to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TrafficDistribution {
    /// None: all are equal.
    Any,
    /// Those of the node's zone, else of its region, else all.
    PreferSameZone,
    /// Those of the node, else of its subzone, zone or region, else all.
    PreferSameNode,
}

/// A validated WorkloadEntry, or a Pod: what a selector may pick.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Which object this is.
    pub object: ObjectRef,
    /// Labels of `spec` and `metadata` together; `metadata` wins.
    pub labels: BTreeMap<String, String>,
    /// The workload as endpoints: one, or one for each address of a Pod.
    pub endpoints: Vec<Endpoint>,
    /// Whether it takes connections: a Pod that is ready and not about to go, a WorkloadEntry that no check has failed.
    pub is_ready: bool,
}

/// A Service of Kubernetes: the owner of its host.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterHost {
    /// Which object this is.
    pub object: ObjectRef,
    /// Its name in the cluster's DNS.
    pub host: HostName,
    /// Who sees it.
    pub export_to: ExportTo,
    /// Whether it is of type ExternalName, which owns nothing.
    pub is_alias: bool,
}

/// The domain of names in a cluster.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// A Node of Kubernetes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Which object this is.
    pub object: ObjectRef,
    /// Where its labels say that it is.
    pub locality: Locality,
}

/// A Namespace of Kubernetes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeNamespace {
    /// Which object this is.
    pub object: ObjectRef,
    /// What entries without the annotation have.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// The waypoint of entries without the label.
    pub waypoint: WaypointLabel,
}

/// A valid object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Accepted {
    /// A ServiceEntry.
    Entry(Arc<Entry>),
    /// A WorkloadEntry or Pod.
    Workload(Arc<Workload>),
    /// A Service.
    Service(Arc<ClusterHost>),
    /// A Node.
    Node(Arc<Node>),
    /// A Namespace.
    Namespace(Arc<KubeNamespace>),
    /// A waypoint of the cluster.
    Waypoint(Arc<WaypointProxies>),
    /// An HTTPRoute.
    Route(Arc<RequestRoute>),
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// The port that clients dial, 1 to 65535.
    pub number: u16,
    /// Its name, unique in the entry.
    pub name: String,
    /// The application protocol.
    pub protocol: Protocol,
    /// The port of the backends unless an endpoint says otherwise; defaults to `number`.
    pub target_port: u16,
}

/// `spec.ports[].protocol`. Everything but UDP travels over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are Istio's own")]
pub enum Protocol {
    Http,
    Https,
    Http2,
    Grpc,
    #[serde(rename = "GRPC-WEB")]
    GrpcWeb,
    #[serde(rename = "HTTP_PROXY")]
    HttpProxy,
    Mongo,
    Tcp,
    Tls,
    Udp,
    Redis,
    Mysql,
}

impl Protocol {
    /// Whether requests can be read: HTTP and what is built on it, as long as it is not encrypted.
    #[must_use]
    pub fn carries_requests(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// The transport that carries it.
    #[must_use]
    pub fn transport(self) -> Transport {
        if self == Self::Udp { Transport::Udp } else { Transport::Tcp }
    }
}

/// The transport protocols that connections are rewritten for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Transport {
    Tcp,
    Udp,
}

/// `spec.location`: a label in metrics, no change of path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are Istio's own")]
pub enum Location {
    #[default]
    MeshExternal,
    MeshInternal,
}

/// `spec.resolution`: where backends come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// Straight to the address dialled.
    #[default]
    None,
    /// The addresses as listed.
    Static,
    /// Every address of every endpoint's name, or of the host itself without endpoints.
    Dns,
    /// The first address of the newest answer.
    DnsRoundRobin,
    /// Each concrete name under a wildcard, when asked for.
    DynamicDns,
}

/// One listed target of an entry, before resolution.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Where it is.
    pub address: EndpointAddress,
    /// Port name -> port of this endpoint, in preference to the entry's `targetPort`.
    pub ports: BTreeMap<String, u16>,
    /// Share of the traffic; absent or 0 in the object counts as 1.
    pub weight: u32,
    /// `region/zone/subzone`, empty when not given.
    pub locality: String,
    /// Its network, empty when not given.
    pub network: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its service account, empty when not given.
    pub service_account: String,
    /// The node that it runs on, empty when not known.
    pub node: String,
}

impl Endpoint {
    /// An endpoint with every default, at `name`.
    #[must_use]
    pub fn of_name(name: HostName) -> Self {
        Self {
            address: EndpointAddress::Name(name),
            ports: BTreeMap::new(),
            weight: 1,
            locality: String::new(),
            network: String::new(),
            labels: BTreeMap::new(),
            service_account: String::new(),
            node: String::new(),
        }
    }
}

/// The address of an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EndpointAddress {
    /// An address to dial.
    Ip(IpAddr),
    /// A name to resolve.
    Name(HostName),
    /// A Unix socket, which an inet socket cannot reach.
    Unix(String),
    /// Only a network is given.
    None,
}

/// Who sees an entry: `spec.exportTo`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ExportTo {
    /// `*`, and the default: every namespace.
    All,
    /// `~`: nobody.
    Nobody,
    /// These namespaces (`.` already replaced by the entry's own).
    Namespaces(Vec<Namespace>),
}

impl ExportTo {
    /// Whether clients of `namespace` see what is exported so.
    #[must_use]
    pub fn includes(&self, namespace: &Namespace) -> bool {
        match self {
            Self::All => true,
            Self::Nobody => false,
            Self::Namespaces(list) => list.contains(namespace),
        }
    }
}

impl Entry {
    /// Whether clients of `namespace` see this entry.
    #[must_use]
    pub fn is_visible_to(&self, namespace: &Namespace) -> bool {
        self.export_to.includes(namespace)
    }
}

/// One thing wrong, or worth a warning, in an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// Path of the field, as `spec.ports[0].number`.
    pub field: String,
    /// CamelCase code from a closed set, for labels and conditions.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// The words in which an issue is told wherever it is. One with the text as a whole has no field.
impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{} ({})", self.message, self.reason)
    }
}

/// What validation says of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict<T> {
    /// The validated value; none when there are errors.
    pub accepted: Option<Arc<T>>,
    /// Every error found, in the order of the fields.
    pub errors: Vec<Issue>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Issue>,
}

/// What validation says of an object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The validated object; none when there are errors.
    pub accepted: Option<Accepted>,
    /// Every error found, in the order of the fields.
    pub errors: Vec<Issue>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Issue>,
}

impl<T> Verdict<T> {
    pub(super) fn into_judgement(self, wrap: impl FnOnce(Arc<T>) -> Accepted) -> Judgement {
        Judgement { accepted: self.accepted.map(wrap), errors: self.errors, warnings: self.warnings }
    }
}
