//! What a running agent says of itself, as the admin socket carries it.
//!
//! In: made by `agent`. Out: JSON whose keys keep their meaning, and the values that the command line prints. Never: a
//! look at the agent.

mod inventory;
mod trace;
mod waypoint;

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::desired::AddressRange;

pub use self::inventory::{
    BackendRow, BackendUse, Backends, NameRow, Names, PodRow, SourceRow, WorkloadRow, Workloads,
};
pub use self::trace::TraceEvent;
pub use self::waypoint::WaypointStatus;

/// The answer to `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether connections and names are served as the objects say.
    pub healthy: bool,
    /// Why not, one sentence each.
    pub unhealthy_because: Vec<String>,
    /// The agent's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_secs: u64,
    /// The revision that the maps hold.
    pub revision: u64,
    /// Where objects come from.
    pub source: SourceStatus,
    /// The programs in the kernel.
    pub programs: ProgramsStatus,
    /// The routes that refuse what the programs do not handle; none with `--vip-routes false`.
    pub routes: Vec<RouteStatus>,
    /// How many cgroups are enrolled.
    pub workloads: usize,
    /// The pods of this node; none when pods are not enrolled.
    #[serde(default)]
    pub pods: Option<PodsStatus>,
    /// How full the maps are.
    pub maps: Vec<MapStatus>,
    /// Hosts that are not wholly programmed.
    pub failures: Vec<FailureStatus>,
    /// Hosts that wait for an address that others allocate.
    pub pending: Vec<ConditionStatus>,
    /// The waypoint of this node; none when none is served.
    #[serde(default)]
    pub waypoint: Option<WaypointStatus>,
    /// The DNS server.
    pub dns: DnsStatus,
    /// Resolved names.
    pub resolve: ResolveStatus,
    /// Connections and datagrams by outcome.
    pub counters: BTreeMap<String, u64>,
    /// The newest refusals, the newest last.
    pub refusals: Vec<Refusal>,
}

/// Part of [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// As given with `--source`.
    pub location: String,
    /// Whether all that existed at start was read.
    pub synced: bool,
    /// Accepted ServiceEntries.
    pub entries: usize,
    /// Rejected objects, and accepted ones with warnings.
    pub objects: Vec<ObjectStatus>,
    /// Input that gave no objects.
    pub problems: Vec<ProblemStatus>,
}

/// One object with errors or warnings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "as in `validate`")]
pub struct ObjectStatus {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub accepted: bool,
    pub errors: Vec<IssueStatus>,
    pub warnings: Vec<IssueStatus>,
}

/// One error or warning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in `validate`")]
pub struct IssueStatus {
    pub field: String,
    pub reason: String,
    pub message: String,
}

/// Input that gave no objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProblemStatus {
    /// A file, or a resource.
    pub origin: String,
    /// CamelCase code.
    pub reason: String,
    /// What happened and what to do.
    pub message: String,
}

/// Part of [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramsStatus {
    /// Whether they are attached.
    pub attached: bool,
    /// To this cgroup.
    pub cgroup: String,
    /// Each program with its id in the kernel.
    pub programs: Vec<ProgramStatus>,
    /// Programs of others at the same hooks, here or at a cgroup above.
    #[serde(default)]
    pub others: Vec<OtherProgram>,
    /// What does the same as this agent on this node, one sentence each.
    #[serde(default)]
    pub rivals: Vec<String>,
}

/// Part of [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodsStatus {
    /// How many are enrolled.
    pub enrolled: usize,
    /// How many are not, by reason.
    pub left_alone: BTreeMap<String, usize>,
}

/// Another program of the cgroup or of one above it, which also sees connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OtherProgram {
    /// Its name, as far as the kernel keeps it.
    pub name: String,
    /// Its id in the kernel.
    pub id: u32,
}

/// One program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ProgramStatus {
    pub name: String,
    pub id: u32,
}

/// The `unreachable` route of a range of virtual addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// The range.
    pub range: String,
    /// Why it is not there, and what to do.
    pub problem: Option<String>,
}

/// How full one map is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct MapStatus {
    pub name: String,
    pub used: u32,
    pub capacity: u32,
}

/// A host that is not wholly programmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct FailureStatus {
    pub host: String,
    pub reason: String,
    pub message: String,
}

/// A condition of an entry for one of its hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in `plan`")]
pub struct ConditionStatus {
    pub namespace: String,
    pub name: String,
    pub host: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

/// Part of [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsStatus {
    /// Address and first port of the listeners.
    pub listen: String,
    /// The resolvers whose port 53 is captured.
    pub resolvers: Vec<String>,
    /// Milliseconds since the serving loops last ran; none while nothing listens.
    pub last_beat_ms: Option<u64>,
    /// Counts since the start.
    pub queries: BTreeMap<String, u64>,
}

/// Part of [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResolveStatus {
    /// Names that are kept resolved.
    pub names: usize,
    /// Names of hosts that nobody has used for a while: their last addresses stay.
    #[serde(default)]
    pub idle: usize,
    /// Hosts that no client has asked for yet.
    #[serde(default)]
    pub not_asked_for: usize,
    /// Names whose newest query failed.
    pub failing: Vec<FailingName>,
}

/// A name whose newest query failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailingName {
    /// The name.
    pub name: String,
    /// Whether older addresses are served meanwhile.
    pub stale: bool,
    /// Seconds since the last good answer.
    pub age_secs: Option<u64>,
    /// Why.
    pub error: String,
}

/// A connection or datagram that was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Which [`kmesh_se_common::maps::Outcome`].
    pub reason: String,
    /// The client's process id, in the initial namespace.
    pub pid: u32,
    /// The client's namespace.
    pub namespace: String,
    /// The address dialled.
    pub address: IpAddr,
    /// The port dialled.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
}

/// One row of the answer to `services`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// The entry's namespace.
    pub namespace: String,
    /// The entry's name.
    pub name: String,
    /// The host.
    pub host: String,
    /// Its virtual addresses, ranges included.
    pub vips: Vec<AddressRange>,
    /// The port.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Whose clients reach it: `*` or a namespace.
    pub scopes: Vec<String>,
    /// The backends in the maps.
    pub backends: Vec<BackendStatus>,
    /// Connections and first datagrams since the service was programmed.
    pub connects: u64,
    /// Refusals since then.
    pub refused: u64,
    /// What is to be known of it besides: whether it goes through the waypoint that it is bound to.
    #[serde(default)]
    pub conditions: Vec<ConditionStatus>,
}

/// One backend of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in `plan`")]
pub struct BackendStatus {
    pub address: IpAddr,
    pub port: u16,
    pub weight: u32,
    pub source: String,
}

/// The answer to `services`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Services {
    /// One for each port of each host.
    pub services: Vec<ServiceStatus>,
    /// Hosts that wait for an address that others allocate.
    #[serde(default)]
    pub pending: Vec<ConditionStatus>,
}

/// What `exec` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Whose view the command gets.
    pub namespace: String,
}

/// What `exec` gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecAnswer {
    /// The cgroup that the command is to enter.
    pub cgroup: String,
}
