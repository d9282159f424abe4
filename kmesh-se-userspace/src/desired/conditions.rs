//! What an accepted entry does not get, for people.
//!
//! In: an entry, one of its hosts, whose view. Out: conditions in the manner of Kubernetes. Never: a decision, which is
//! made elsewhere and told here.

use std::fmt;

use serde::Serialize;

use super::{
    Scope,
    build::lacks_vip,
    winner::{self, Ruling},
};
use crate::model::{Entry, HostName, Snapshot};

/// A condition in the manner of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

/// That `entry` is accepted, what it loses of `host` by `ruling` in the view of `scope`, and what it was warned of.
pub(super) fn conditions(
    snapshot: &Snapshot,
    ruling: &Ruling<'_>,
    host: &HostName,
    scope: &Scope,
    entry: &Entry,
) -> Vec<Condition> {
    let mut found =
        vec![Condition { kind: "Accepted", status: "True", reason: "Accepted", message: String::new() }];
    for loss in winner::losses(ruling, host, scope, entry) {
        found.push(Condition {
            kind: "Shadowed",
            status: "True",
            reason: loss.reason,
            message: loss.message("this namespace"),
        });
    }
    for warning in &entry.warnings {
        let message = format!("{}: {}", warning.field, warning.message);
        add(&mut found, warning.reason, message);
    }
    let selected: Vec<_> = snapshot.selected_by(entry).collect();
    let waiting: Vec<_> = selected.iter().filter(|w| !w.is_ready).map(|w| w.object.to_string()).collect();
    if !waiting.is_empty() {
        add(
            &mut found,
            "WorkloadNotReady",
            format!("gets no connections until it is ready: {}", first_of(&waiting)),
        );
    }
    if selected.is_empty() && entry.workload_selector.as_ref().is_some_and(|labels| !labels.is_empty()) {
        let message = "no Pod or WorkloadEntry of the entry's namespace has these labels".to_owned();
        add(&mut found, "NothingSelected", message);
    }
    found
}

/// That nobody has allocated an address for `host` of `entry` yet, where that is for others to do.
#[must_use]
pub fn address_pending(entry: &Entry, host: &HostName) -> Option<Condition> {
    lacks_vip(entry, host).then(|| Condition {
        kind: "Programmed",
        status: "False",
        reason: "AddressPending",
        message: "no address is allocated yet: the controller writes it to status.addresses, and does not run or has not come to \
                  it; or set spec.addresses, or on a single node let the agent allocate with --allocate-vips true"
            .to_owned(),
    })
}

/// Adds something to know of; what has one reason is one condition.
pub(super) fn add(found: &mut Vec<Condition>, reason: &'static str, message: String) {
    match found.iter_mut().find(|condition| condition.kind == reason) {
        Some(condition) => {
            condition.message.push_str("; ");
            condition.message.push_str(&message);
        }
        None => found.push(Condition { kind: reason, status: "True", reason, message }),
    }
}

/// The first of `names`, and how many more there are.
pub(crate) fn first_of<T: fmt::Display>(names: &[T]) -> String {
    const SHOWN: usize = 3;
    let shown = names.iter().take(SHOWN).map(T::to_string).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{shown} and {more} more"),
        _ => shown,
    }
}
