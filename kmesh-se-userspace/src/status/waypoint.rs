//! How the waypoint of a node is.
//!
//! In: made by `agent`. Out: JSON whose keys keep their meaning. Never: a look at the agent.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ConditionStatus;
use crate::{
    desired::Condition,
    model::{HostName, ObjectRef},
};

/// Part of [`super::Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaypointStatus {
    /// The program.
    pub program: String,
    /// What it writes.
    pub log: String,
    /// Where its listeners are.
    pub listen: Vec<IpAddr>,
    /// Whether it runs, and its listeners take connections.
    pub running: bool,
    /// Its process id; none when it does not run.
    pub pid: Option<u32>,
    /// Whether it hears of changes.
    pub connected: bool,
    /// How often it had to be started anew by this agent.
    pub restarts: u32,
    /// Why, the last time.
    pub last_end: Option<String>,
    /// How many services have a port there.
    pub services: usize,
    /// How many of these it takes connections for.
    pub through: usize,
    /// What the others wait for.
    pub conditions: Vec<ConditionStatus>,
}

impl ConditionStatus {
    /// A condition of an entry for one of its hosts.
    #[must_use]
    pub fn of(entry: &ObjectRef, host: &HostName, condition: Condition) -> Self {
        Self {
            namespace: entry.namespace.to_string(),
            name: entry.name.to_string(),
            host: host.to_string(),
            kind: condition.kind.to_owned(),
            status: condition.status.to_owned(),
            reason: condition.reason.to_owned(),
            message: condition.message,
        }
    }
}
