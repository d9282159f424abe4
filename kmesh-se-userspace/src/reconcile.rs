//! Makes the maps and the DNS server what the objects and the resolved names say.
//!
//! In: source events and resolver updates. Out: map operations through the sink, names in the table, names to resolve.
//! Never: a rebuild of hosts that a change does not touch.

mod report;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

pub use self::report::{ObjectReport, Report};
use crate::{
    desired::{self, Desired, Tables, VipPool},
    diff::{MapOp, diff},
    dns::NameTable,
    model::{
        Addresses, HostName, Object, ObjectRef, Resolved, Snapshot, validate_service_entry,
        validate_workload_entry,
    },
    sink::{Maps, Sink},
    source::Event,
};

/// The state between the edges. Every method is quick; the loop around it is in `agent`.
#[derive(Debug)]
pub struct Reconciler<M> {
    snapshot: Snapshot,
    resolved: Resolved,
    vips: VipPool,
    desired: Desired,
    sink: Sink<M>,
    names: Arc<NameTable>,
    /// The hosts that wait to be rebuilt.
    dirty: BTreeSet<HostName>,
    /// The hosts some of whose rows could not be written; tried again with every change.
    failed: BTreeSet<HostName>,
    /// Resolved name -> the hosts whose backends come from it.
    dependents: BTreeMap<HostName, BTreeSet<HostName>>,
    /// Host -> the names that it needs.
    needs: BTreeMap<HostName, BTreeSet<HostName>>,
    report: Report,
    /// Addresses from an earlier run, for names that are wanted before they are answered.
    remembered: Resolved,
    /// Whether the maps hold rows of an earlier agent that have not been compared with the desired ones yet.
    takes_over: bool,
}

/// What one step changes: made by [`Reconciler::prepare`], carried out by [`Reconciler::commit`].
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// Names to resolve from now on.
    pub want: BTreeSet<HostName>,
    /// Names that nobody needs any more.
    pub unwant: BTreeSet<HostName>,
    /// Whether VIPs or scope ids changed, to be saved before the step is carried out.
    pub must_save: bool,
    /// The hosts that were rebuilt.
    hosts: BTreeSet<HostName>,
    /// They, and those that share addresses with them.
    touched: BTreeSet<HostName>,
    ops: Vec<MapOp>,
}

impl<M: Maps> Reconciler<M> {
    /// With nothing in it; `vips` holds what an earlier run allocated.
    pub fn new(sink: Sink<M>, vips: VipPool, names: Arc<NameTable>) -> Self {
        Self {
            snapshot: Snapshot::default(),
            resolved: Resolved::new(),
            vips,
            desired: Desired::default(),
            sink,
            names,
            dirty: BTreeSet::new(),
            failed: BTreeSet::new(),
            dependents: BTreeMap::new(),
            needs: BTreeMap::new(),
            report: Report::default(),
            remembered: Resolved::new(),
            takes_over: false,
        }
    }

    /// Goes on from where an earlier agent stopped: the sink holds its rows, which stay until the source has synced and then
    /// become the desired ones; `remembered` are the addresses that its names had.
    #[must_use]
    pub fn taking_over(mut self, remembered: Resolved) -> Self {
        self.takes_over = *self.sink.actual() != Tables::default();
        self.remembered = remembered;
        self
    }

    /// Takes in what a source tells. An object that is rejected takes the place of nothing: what it said before is
    /// withdrawn, as it would be for a client that reads the object itself.
    pub fn event(&mut self, event: Event) {
        match event {
            Event::Apply(object) => self.apply(&object),
            Event::Delete(object) => self.delete(&object),
            Event::Problems { origin, problems } => self.report.set_problems(origin, problems),
            Event::Synced => self.report.synced = true,
        }
    }

    fn apply(&mut self, object: &Object) {
        let reference = object.object_ref();
        let touched = match object {
            Object::ServiceEntry(raw) => {
                let verdict = validate_service_entry(raw);
                self.report.set_object(&reference, verdict.errors, verdict.warnings);
                verdict.accepted.map(|entry| self.snapshot.apply_entry(entry))
            }
            Object::WorkloadEntry(raw) => {
                let verdict = validate_workload_entry(raw);
                self.report.set_object(&reference, verdict.errors, verdict.warnings);
                verdict.accepted.map(|workload| self.snapshot.apply_workload(workload))
            }
        };
        let touched = touched.unwrap_or_else(|| self.snapshot.remove(&reference));
        self.dirty.extend(touched);
    }

    fn delete(&mut self, object: &ObjectRef) {
        self.report.forget_object(object);
        let touched = self.snapshot.remove(object);
        self.dirty.extend(touched);
    }

    /// Takes in the addresses of a name. A late answer for a name that nobody needs any more is dropped.
    pub fn resolved(&mut self, name: HostName, addresses: Addresses) {
        if let Some(hosts) = self.dependents.get(&name) {
            self.dirty.extend(hosts.iter().cloned());
            self.resolved.insert(name, addresses);
        }
    }

    /// Whether every name that is needed has been answered, or remembered, at least once.
    #[must_use]
    pub fn is_resolved(&self) -> bool {
        self.dependents.keys().all(|name| self.resolved.contains_key(name))
    }

    /// Whether [`Reconciler::prepare`] has something to do.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        let must_wait = self.takes_over && !self.report.synced;
        !must_wait && (self.takes_over || !self.dirty.is_empty())
    }

    /// Marks what could not be written before, so that it is tried again.
    pub fn retry_failed(&mut self) {
        self.dirty.append(&mut self.failed);
    }

    /// Rebuilds the hosts that changed and compares them with the maps. Names that are gone leave the DNS table now, before
    /// their rows.
    pub fn prepare(&mut self, now: Timestamp) -> Step {
        self.retry_failed();
        let mut step = Step { hosts: std::mem::take(&mut self.dirty), ..Step::default() };
        step.touched.clone_from(&step.hosts);
        let mut before = Tables::default();
        for host in self.in_order_of_age(&step.hosts) {
            self.update_needs(&host, &mut step);
            step.must_save |= self.update_vips(&host, now);
            let exists = !self.snapshot.entries_of(&host).is_empty();
            let built =
                exists.then(|| desired::host(&self.snapshot, &self.resolved, self.vips.get(&host), &host));
            if built.is_none() {
                self.names.set(host.clone(), None);
            }
            let change = self.desired.set(&host, built);
            before.extend(change.old);
            step.touched.extend(change.hosts);
        }
        let after = if std::mem::take(&mut self.takes_over) {
            // What the earlier agent left and nobody wants goes with this step.
            let all = self.desired.effective(self.desired.hosts().map(|(host, _)| host));
            self.sink.adopt(&all);
            step.must_save |= self.release_unused_vips(now);
            before = self.sink.actual().clone();
            all
        } else {
            self.desired.effective(&step.touched)
        };
        step.ops = diff(&self.sink.actual().restricted(&before, &after), &after);
        step.must_save |= self.sink.reserve_scopes(&after);
        step
    }

    /// Writes the step to the maps, then publishes the names of its hosts.
    pub fn commit(&mut self, step: Step) {
        let Step { hosts, touched, ops, .. } = step;
        self.write(ops, &touched);
        self.report.revision = self.snapshot.revision;
        self.publish(&hosts);
    }

    fn write(&mut self, ops: Vec<MapOp>, touched: &BTreeSet<HostName>) {
        if ops.is_empty() {
            return;
        }
        let count = ops.len();
        let failures = self.sink.apply(ops);
        for host in touched {
            self.report.clear_failures(host);
        }
        for failure in &failures {
            let host = self.host_of(&failure.op);
            tracing::error!(host = %host, error = %failure.error, "map write failed");
            self.report.add_failure(&host, &failure.error);
            self.failed.insert(host);
        }
        tracing::info!(
            revision = self.snapshot.revision,
            operations = count,
            failed = failures.len(),
            "maps written"
        );
    }

    fn host_of(&self, op: &MapOp) -> HostName {
        let owner = match op {
            MapOp::SetService(key, _) | MapOp::RemoveService(key) | MapOp::SetFrontend(_, key) => {
                Some(&key.host)
            }
            MapOp::RemoveFrontend(frontend) => {
                self.sink.actual().frontends.get(frontend).map(|key| &key.host)
            }
            MapOp::SetAddress(address, _) | MapOp::RemoveAddress(address) => self.desired.user_of(address),
        };
        owner.cloned().unwrap_or_else(|| HostName::new(""))
    }

    /// Puts the names of rebuilt hosts into the DNS table. A name whose backends were never resolved waits for the first
    /// answer, so that no client is sent to an address that leads nowhere yet.
    fn publish(&self, hosts: &BTreeSet<HostName>) {
        for host in hosts {
            let needs = self.needs.get(host).into_iter().flatten();
            let is_answered =
                needs.clone().count() == 0 || needs.clone().any(|n| self.resolved.contains_key(n));
            if let Some(desired) = self.desired.get(host)
                && is_answered
            {
                self.names.set(host.clone(), Some(desired.names.clone()));
            }
        }
    }

    /// Allocation goes by age, so that the same objects get the same addresses whatever the order of arrival.
    fn in_order_of_age(&self, hosts: &BTreeSet<HostName>) -> Vec<HostName> {
        let mut hosts: Vec<_> = hosts.iter().cloned().collect();
        hosts.sort_by_cached_key(|host| {
            let oldest = self.snapshot.entries_of(host).first().map(|e| (e.created, e.object.clone()));
            (oldest, host.clone())
        });
        hosts
    }

    fn update_needs(&mut self, host: &HostName, step: &mut Step) {
        let new = desired::wanted_names(&self.snapshot, host);
        let old = self.needs.remove(host).unwrap_or_default();
        for name in old.difference(&new) {
            if let Some(hosts) = self.dependents.get_mut(name) {
                hosts.remove(host);
                if hosts.is_empty() {
                    self.dependents.remove(name);
                    self.resolved.remove(name);
                    step.want.remove(name);
                    step.unwant.insert(name.clone());
                }
            }
        }
        for name in new.difference(&old) {
            let hosts = self.dependents.entry(name.clone()).or_default();
            if hosts.is_empty() {
                step.unwant.remove(name);
                step.want.insert(name.clone());
                if let Some(addresses) = self.remembered.remove(name) {
                    self.resolved.insert(name.clone(), addresses);
                }
            }
            hosts.insert(host.clone());
        }
        if !new.is_empty() {
            self.needs.insert(host.clone(), new);
        }
    }

    /// Allocates or releases the host's VIPs; says whether something changed.
    fn update_vips(&mut self, host: &HostName, now: Timestamp) -> bool {
        let had = self.vips.get(host).copied();
        if !desired::needs_vip(&self.snapshot, host) {
            self.vips.release(host, now);
            return had.is_some();
        }
        match self.vips.ensure(host, now) {
            Ok(vips) => {
                self.report.clear_exhausted(host);
                had != Some(vips)
            }
            Err(error) => {
                tracing::error!(host = %host, %error, "no virtual address left");
                self.report.set_exhausted(host, &error);
                false
            }
        }
    }

    /// The hosts that kept their VIP from an earlier run but that no object names now lose it.
    fn release_unused_vips(&mut self, now: Timestamp) -> bool {
        let unused: Vec<HostName> = self
            .vips
            .iter()
            .map(|(h, _)| h)
            .filter(|h| !desired::needs_vip(&self.snapshot, h))
            .cloned()
            .collect();
        unused.iter().for_each(|host| self.vips.release(host, now));
        !unused.is_empty()
    }

    /// What was rejected, warned of or failed.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The accepted objects.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The answers in use.
    #[must_use]
    pub fn resolution(&self) -> &Resolved {
        &self.resolved
    }

    /// The allocated VIPs.
    #[must_use]
    pub fn vips(&self) -> &VipPool {
        &self.vips
    }

    /// What the maps and names should be.
    #[must_use]
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The writer of the maps.
    #[must_use]
    pub fn sink(&self) -> &Sink<M> {
        &self.sink
    }

    /// The writer of the maps, for enrolments.
    pub fn sink_mut(&mut self) -> &mut Sink<M> {
        &mut self.sink
    }
}
