//! From a name to a backend, step by step, and why it ends where it ends.
//!
//! In: [`Facts`] that the agent gathered: objects, answers, and what the kernel's maps hold. Out: an [`Explanation`].
//! Never: a look at a map, a clock or a socket.

mod causes;
mod facts;
mod paths;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr};

use kmesh_se_common::maps::Slot;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::facts::{
    AgentFacts, Answered, Asked, Client, Dial, EnrolledAs, EntryFacts, Facts, FailureFacts, LiveBackend,
    LiveService, LiveWaypoint, Lookup, NameFacts, RejectedFacts, SourceFacts, TargetError, Trouble,
    WaypointFacts,
};

/// The answer to `explain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked for, as it was written.
    pub target: String,
    /// Whose view.
    pub namespace: String,
    /// Whether every port that was looked at leads to a backend.
    pub reachable: bool,
    /// The way, in the order in which a connection takes it.
    pub steps: Vec<Step>,
    /// Why it is not reachable.
    pub cause: Option<Cause>,
    /// What does not stop a connection, but may surprise.
    pub warnings: Vec<Cause>,
    /// Where connections go.
    pub backends: Vec<Target>,
}

/// One step of the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// `programs`, `client`, `name`, `address`, `frontend`, `service`, `backend`, `waypoint` or `routes`.
    pub step: String,
    /// Whether the way goes on from here.
    pub ok: bool,
    /// What was found, as a sentence.
    pub detail: String,
    /// The same for programs; which keys there are depends on the step.
    #[serde(flatten)]
    pub facts: Map<String, Value>,
}

/// Why a way ends, or what is odd about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// CamelCase code from a closed set.
    pub reason: String,
    /// What happened, to which object, and what to do.
    pub message: String,
}

/// One backend of one port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The port that clients dial.
    pub for_port: u16,
    /// Where the connection goes.
    pub address: IpAddr,
    /// And to which port.
    pub port: u16,
    /// The part of the connections that goes there, in percent.
    pub share_percent: f64,
    /// What the address was resolved from, or the address itself; empty when no object wants this backend.
    pub source: String,
    /// Seconds since the name last resolved; none for an address that was written as such.
    pub age_secs: Option<u64>,
    /// Whether the newest query for the name failed, so that an older answer is used.
    pub stale: bool,
}

/// Follows the way of a connection.
#[must_use]
pub fn explain(facts: &Facts) -> Explanation {
    let mut explanation = Explanation {
        target: facts.target.clone(),
        namespace: facts.namespace.clone(),
        ..Explanation::default()
    };
    if let Err(cause) = paths::walk(facts, &mut explanation) {
        explanation.cause = Some(cause);
    }
    explanation.reachable = explanation.cause.is_none();
    explanation
}

/// What part of the connections each backend id gets, 0 to 1, by the slots of a service.
#[must_use]
pub fn shares(slots: &[Slot]) -> BTreeMap<u32, f64> {
    let mut shares = BTreeMap::new();
    let column = 1.0 / slots.len() as f64;
    for slot in slots {
        let own = if slot.alias == slot.backend { 1.0 } else { f64::from(slot.threshold) / 4_294_967_296.0 };
        *shares.entry(slot.backend).or_default() += own * column;
        if slot.alias != slot.backend {
            *shares.entry(slot.alias).or_default() += (1.0 - own) * column;
        }
    }
    shares
}

/// What `explain` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// As [`Asked::parse`] reads it.
    pub target: String,
    /// Whose view, unless a cgroup is given.
    pub namespace: String,
    /// A client's cgroup.
    pub cgroup: Option<String>,
    /// A client that is a pod of this node: `namespace/name`.
    #[serde(default)]
    pub pod: Option<String>,
    /// Only UDP.
    pub udp: bool,
}

impl Cause {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

impl Explanation {
    fn step(&mut self, step: &str, ok: bool, detail: impl Into<String>, facts: Value) {
        let facts = if let Value::Object(facts) = facts { facts } else { Map::new() };
        self.steps.push(Step { step: step.to_owned(), ok, detail: detail.into(), facts });
    }

    fn warn(&mut self, reason: &str, message: impl Into<String>) {
        let warning = Cause::new(reason, message);
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}
