//! The answers to `backends`, `names` and `workloads`.
//!
//! In: made by `agent`. Out: JSON whose keys keep their meaning. Never: a look at the agent.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::reconcile::HostUse;

/// The answer to `backends`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Backends {
    /// Each address and port once.
    pub backends: Vec<BackendRow>,
}

/// One address and port that some service uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRow {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The services that use it.
    pub services: Vec<BackendUse>,
    /// Seconds since the oldest of the names that it comes from last resolved; none when it was written as an address.
    pub age_secs: Option<u64>,
    /// Whether the newest query for one of these names failed, so that an older answer is used.
    pub stale: bool,
}

/// One service of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendUse {
    /// The entry's namespace.
    pub namespace: String,
    /// The entry's name.
    pub name: String,
    /// The host.
    pub host: String,
    /// The port that clients dial.
    pub service_port: u16,
    /// The backend's weight there.
    pub weight: u32,
    /// The same as a part of the service's connections, in percent.
    pub share_percent: f64,
    /// What the address was resolved from, or the address itself.
    pub source: String,
    /// Seconds since that name last resolved; none when it was written as an address.
    pub age_secs: Option<u64>,
    /// Whether the newest query for that name failed, so that an older answer is used.
    pub stale: bool,
    /// Connections of the whole service since it was programmed; the kernel does not count by backend.
    pub service_connects: u64,
}

/// The answer to `names`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Names {
    /// Each host for each scope.
    pub names: Vec<NameRow>,
}

/// What one host answers in one scope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NameRow {
    /// The host; it may be a wildcard.
    pub name: String,
    /// `*`, or the namespace whose clients get this.
    pub scope: String,
    /// The virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether the IPv4 addresses are answered.
    pub answers_v4: bool,
    /// Whether the IPv6 addresses are answered.
    pub answers_v6: bool,
    /// `namespace/name` of the entry.
    pub entry: String,
    /// Whether it is answered at all; a name waits for the first answer of the names below.
    pub answered: bool,
    /// How the names below are resolved: `always`; `whileUsed`, by clients that ask for this name or connect to it; `idle`, when
    /// nobody has used it for a while, so that the last addresses stay; `notAskedFor` before the first client asks, who waits
    /// for them. None without names.
    #[serde(default)]
    pub resolved: Option<HostUse>,
    /// Whether it is a wildcard that gives each name below it addresses when a client asks.
    pub on_demand: bool,
    /// The names that its backends are resolved from.
    pub resolved_from: Vec<SourceRow>,
    /// Seconds since the oldest of these last resolved.
    pub age_secs: Option<u64>,
    /// Whether one of these is served from an older answer.
    pub stale: bool,
}

/// A name that backends are resolved from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceRow {
    /// The name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Seconds since an answer last held one.
    pub age_secs: Option<u64>,
    /// Seconds until the next query.
    pub next_refresh_secs: u64,
    /// Whether the newest query failed, so that an older answer is used.
    pub stale: bool,
    /// What is wrong with the newest query.
    pub error: Option<String>,
}

/// The answer to `workloads`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workloads {
    /// Each enrolled cgroup.
    pub workloads: Vec<WorkloadRow>,
    /// Each pod of this node that is not enrolled; none when pods are not enrolled at all.
    #[serde(default)]
    pub pods_left_alone: Vec<PodRow>,
}

/// A pod that is not enrolled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRow {
    /// `namespace/name`.
    pub pod: String,
    /// Its cgroup; none when that is not there.
    pub cgroup: Option<String>,
    /// CamelCase code.
    pub reason: String,
    /// The same as a sentence.
    pub message: String,
}

/// One enrolled cgroup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadRow {
    /// The cgroup's id in the kernel.
    pub id: u64,
    /// Its path; none when it is gone.
    pub cgroup: Option<String>,
    /// Processes in it, without those of cgroups below; none when it is gone.
    pub processes: Option<usize>,
    /// The number by which events name it.
    pub workload: u32,
    /// `namespace/name` of the pod whose it is.
    #[serde(default)]
    pub pod: Option<String>,
    /// Whose view it has; none when it is exempt.
    pub namespace: Option<String>,
    /// Its depth in the tree.
    pub level: u8,
    /// The port of its namespace's first DNS listener; none when its DNS is not captured.
    pub dns_port: Option<u16>,
    /// Whether its connections are never handled.
    pub exempt: bool,
}
