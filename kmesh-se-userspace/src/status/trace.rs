//! What `trace` shows of one connection.
//!
//! In: made by `agent`. Out: JSON whose keys keep their meaning. Never: a look at the agent.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One connection, or one refusal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceEvent {
    /// When.
    pub time: Timestamp,
    /// Which [`kmesh_se_common::maps::Outcome`]: `connected`, or why it was refused.
    pub outcome: String,
    /// The client's process id, in the initial namespace.
    pub pid: u32,
    /// The name of the client's thread; none for a refusal.
    pub comm: Option<String>,
    /// `namespace/name` of the client's pod, if it is one.
    #[serde(default)]
    pub pod: Option<String>,
    /// The client's namespace.
    pub namespace: String,
    /// The address dialled.
    pub address: IpAddr,
    /// The port dialled.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The host whose address that is, if it is known.
    pub host: Option<String>,
    /// `namespace/name` of its entry.
    pub entry: Option<String>,
    /// Where the connection goes; none for a refusal.
    pub backend_address: Option<IpAddr>,
    /// And to which port.
    pub backend_port: Option<u16>,
}

impl TraceEvent {
    /// Whether it was refused.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.backend_address.is_none()
    }
}
