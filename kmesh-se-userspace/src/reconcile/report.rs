//! What people need to be told about their objects.
//!
//! In: verdicts, problems of sources, failures of the sink. Out: one list, serialised by `status`. Never: a decision.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    desired::Exhausted,
    model::{HostName, Issue, ObjectRef},
    sink::MapError,
    source::Problem,
};

/// All that is wrong now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The revision that the maps hold.
    pub revision: u64,
    /// Whether the source has told all that existed at start.
    pub synced: bool,
    objects: BTreeMap<ObjectRef, ObjectReport>,
    rejected_hosts: BTreeMap<ObjectRef, BTreeSet<HostName>>,
    problems: BTreeMap<String, Vec<Problem>>,
    failures: BTreeMap<HostName, BTreeSet<(&'static str, String)>>,
    exhausted: BTreeMap<HostName, String>,
    full: BTreeMap<HostName, (Timestamp, String)>,
}

/// What validation said of one object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReport {
    /// Its errors; an object with one is rejected.
    pub errors: Vec<Issue>,
    /// Its warnings.
    pub warnings: Vec<Issue>,
}

impl Report {
    pub(super) fn set_object(&mut self, object: &ObjectRef, errors: Vec<Issue>, warnings: Vec<Issue>) {
        for issue in &errors {
            tracing::warn!(entry = %object, field = issue.field, reason = issue.reason, message = issue.message, "rejected");
        }
        if errors.is_empty() && warnings.is_empty() {
            self.objects.remove(object);
        } else {
            self.objects.insert(object.clone(), ObjectReport { errors, warnings });
        }
    }

    pub(super) fn forget_object(&mut self, object: &ObjectRef) {
        self.objects.remove(object);
        self.rejected_hosts.remove(object);
    }

    /// Keeps the hosts of an object that was just rejected, as it wrote them; forgets those of another.
    pub(super) fn set_rejected_hosts(&mut self, object: &ObjectRef, hosts: &[String]) {
        if self.objects.get(object).is_some_and(|said| !said.errors.is_empty()) {
            let hosts = hosts.iter().map(|host| HostName::new(host)).collect();
            self.rejected_hosts.insert(object.clone(), hosts);
        } else {
            self.rejected_hosts.remove(object);
        }
    }

    pub(super) fn set_problems(&mut self, origin: String, problems: Vec<Problem>) {
        for problem in &problems {
            tracing::warn!(source = origin, reason = problem.reason, message = problem.message, "bad input");
        }
        if problems.is_empty() {
            self.problems.remove(&origin);
        } else {
            self.problems.insert(origin, problems);
        }
    }

    pub(super) fn clear_failures(&mut self, host: &HostName) {
        self.failures.remove(host);
    }

    pub(super) fn add_failure(&mut self, host: &HostName, error: &MapError) {
        self.failures.entry(host.clone()).or_default().insert((error.reason(), error.to_string()));
    }

    /// Says whether this is new.
    pub(super) fn set_exhausted(&mut self, host: &HostName, error: &Exhausted) -> bool {
        self.exhausted.insert(host.clone(), error.to_string()).is_none()
    }

    pub(super) fn exhausted_hosts(&self) -> impl Iterator<Item = &HostName> {
        self.exhausted.keys()
    }

    pub(super) fn clear_exhausted(&mut self, host: &HostName) {
        self.exhausted.remove(host);
    }

    /// A name below a wildcard, or the wildcard itself, got no address just now. Says whether this is new.
    pub(super) fn set_full(&mut self, host: &HostName, message: String, now: Timestamp) -> bool {
        self.full.insert(host.clone(), (now, message)).is_none()
    }

    pub(super) fn forget_full(&mut self, before: Timestamp) {
        self.full.retain(|_, (at, _)| *at >= before);
    }

    /// What validation said, of every object with an error or a warning.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectRef, &ObjectReport)> {
        self.objects.iter()
    }

    /// The rejected objects that name `host`.
    pub fn rejected_for<'a>(
        &'a self,
        host: &'a HostName,
    ) -> impl Iterator<Item = (&'a ObjectRef, &'a ObjectReport)> {
        let naming = self.rejected_hosts.iter().filter(|(_, hosts)| hosts.contains(host));
        naming.filter_map(|(object, _)| Some((object, self.objects.get(object)?)))
    }

    /// The problems of each origin.
    pub fn problems(&self) -> impl Iterator<Item = (&String, &Vec<Problem>)> {
        self.problems.iter()
    }

    /// Hosts that are not, or not wholly, programmed: host, reason, message.
    pub fn failures(&self) -> impl Iterator<Item = (&HostName, &'static str, &str)> {
        let writes =
            self.failures.iter().flat_map(|(h, set)| set.iter().map(move |(r, m)| (h, *r, m.as_str())));
        let exhausted = self.exhausted.iter().map(|(h, m)| (h, "NoAddressLeft", m.as_str()));
        let full = self.full.iter().map(|(h, (_, m))| (h, "TooManyNames", m.as_str()));
        writes.chain(exhausted).chain(full)
    }
}
