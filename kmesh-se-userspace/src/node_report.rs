//! What an agent says of its node in a Lease of its own, for the controller.
//!
//! In: the newest entry that the maps hold, and entries that they do not hold wholly. Out: a Lease, and back. Never: a number or a
//! time that changes by itself: each change is a write.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::Lease,
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::ObjectRef;

/// By this label and value the controller knows these Leases.
pub const LABEL: (&str, &str) = ("app.kubernetes.io/component", "node-report");
/// For how long an agent counts as there after it has renewed its Lease.
pub const DURATION_SECS: i32 = 90;
/// How many entries are named.
pub const NAMED: usize = 100;

const PREFIX: &str = "kmesh-se-node-";
const APPLIED: &str = "kmesh-se.io/applied";
const EXCEPTIONS: &str = "kmesh-se.io/exceptions";
const MORE: &str = "kmesh-se.io/more-exceptions";
const NODE: &str = "kmesh-se.io/node";

/// Why an entry is not served on a node as it says, in the order in which they matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lack {
    /// A map has no room for it.
    MapFull,
    /// It could not be written for another reason.
    NotWritten,
    /// No backend is known: connections are refused.
    NoBackends,
    /// Its names are not answered: connections go to the last addresses.
    StaleNames,
}

impl Lack {
    /// The code of a condition.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MapFull => "MapFull",
            Self::NotWritten => "NotWritten",
            Self::NoBackends => "NoBackends",
            Self::StaleNames => "StaleNames",
        }
    }
}

/// One entry that is not served as it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exception {
    /// Why.
    pub reason: Lack,
    /// In words.
    pub message: String,
}

/// What a node says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeReport {
    /// The newest `resourceVersion` of ServiceEntries of which the maps know.
    pub applied: u64,
    /// Entries by `namespace/name`.
    pub exceptions: BTreeMap<String, Exception>,
    /// How many more there are than are named.
    pub more: usize,
}

impl NodeReport {
    /// Only so many are named.
    #[must_use]
    pub fn new(applied: u64, mut exceptions: BTreeMap<String, Exception>) -> Self {
        let more = exceptions.len().saturating_sub(NAMED);
        if let Some(first) = exceptions.keys().nth(NAMED).cloned() {
            exceptions.split_off(&first);
        }
        Self { applied, exceptions, more }
    }
}

/// How an entry is named in a report.
#[must_use]
pub fn key(object: &ObjectRef) -> String {
    format!("{}/{}", object.namespace, object.name)
}

/// The name of a node's Lease.
#[must_use]
pub fn lease_name(node: &str) -> String {
    format!("{PREFIX}{node}")
}

/// The fields of the Lease of `node`, renewed `now`, as a merge patch.
#[must_use]
pub fn patch(node: &str, report: &NodeReport, now: Timestamp) -> Value {
    let exceptions = serde_json::to_string(&report.exceptions).unwrap_or_default();
    json!({
        "metadata": {
            "labels": {LABEL.0: LABEL.1},
            "annotations": {
                NODE: node,
                APPLIED: report.applied.to_string(),
                EXCEPTIONS: exceptions,
                MORE: report.more.to_string(),
            },
        },
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": DURATION_SECS,
            "renewTime": MicroTime(now),
        },
    })
}

/// The same as a new Lease.
///
/// # Errors
/// Never: the patch has the form of a Lease.
pub fn lease(node: &str, report: &NodeReport, now: Timestamp) -> serde_json::Result<Lease> {
    let lease: Lease = serde_json::from_value(patch(node, report, now))?;
    let metadata = ObjectMeta { name: Some(lease_name(node)), ..lease.metadata };
    Ok(Lease { metadata, ..lease })
}

/// The node and what it says, of a Lease that an agent has written.
#[must_use]
pub fn read(lease: &Lease) -> Option<(String, NodeReport)> {
    let annotations = lease.metadata.annotations.as_ref()?;
    let node = annotations.get(NODE)?.clone();
    let applied = annotations.get(APPLIED)?.parse().ok()?;
    let exceptions = annotations.get(EXCEPTIONS).and_then(|text| serde_json::from_str(text).ok());
    let more = annotations.get(MORE).and_then(|text| text.parse().ok()).unwrap_or_default();
    Some((node, NodeReport { applied, exceptions: exceptions.unwrap_or_default(), more }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_only_so_many_are_named() {
        let exception = Exception { reason: Lack::NoBackends, message: "no backend is known".to_owned() };
        let all = (0..NAMED + 7).map(|i| (format!("default/e{i:04}"), exception.clone())).collect();
        let report = NodeReport::new(12, all);
        assert_eq!((report.exceptions.len(), report.more), (NAMED, 7));
        let lease = lease("n1", &report, Timestamp::UNIX_EPOCH).expect("a Lease");
        assert_eq!(lease.metadata.name.as_deref(), Some("kmesh-se-node-n1"));
        assert_eq!(read(&lease), Some(("n1".to_owned(), report)));
        assert_eq!(read(&Lease::default()), None);
    }
}
