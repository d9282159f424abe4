//! Makes the maps and the DNS server what the objects and the resolved names say.
//!
//! In: source events and resolver updates. Out: map operations through the sink, names in the table, names to resolve.
//! Never: a rebuild of hosts that a change does not touch.

mod leases;
mod needs;
mod report;
mod vips;
mod waypoints;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use self::needs::Needs;
pub use self::{
    needs::HostUse,
    report::{ObjectReport, Report},
};
use crate::{
    desired::{self, Desired, Keys, Known, Leases, LedTo, NameEntry, Tables, VipPool, Waypoints},
    diff::{MapOp, diff},
    dns::NameTable,
    model::{
        Accepted, Addresses, HostName, Object, ObjectRef, Place, Resolved, Snapshot, WaypointName, validate,
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
    waypoints: Waypoints,
    /// The waypoints that may have other replicas than in the maps.
    moved: BTreeSet<WaypointName>,
    /// The hosts with a service for which no port was left at its waypoint.
    unassigned: BTreeSet<HostName>,
    /// Whether ports of an earlier run that nobody needs were taken back.
    assignments_are_ours: bool,
    /// Whether hosts get addresses from `vips`.
    allocates: bool,
    /// The names below DYNAMIC_DNS wildcards that clients use.
    leases: Leases,
    desired: Desired,
    sink: Sink<M>,
    names: Arc<NameTable>,
    /// The hosts that wait to be rebuilt.
    dirty: BTreeSet<HostName>,
    /// The rows of each host that could not be written; tried again with every change.
    failed: BTreeMap<HostName, Keys>,
    /// Whether it is time to try again what failed.
    retry: bool,
    needs: Needs,
    report: Report,
    /// Addresses from an earlier run, for names that are needed before they are answered.
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
    /// Names whose addresses stay as they are, since nobody uses them.
    pub rest: BTreeSet<HostName>,
    /// Names that nobody needs any more.
    pub unwant: BTreeSet<HostName>,
    /// Whether VIPs or ids of namespaces changed, to be saved before the step is carried out.
    pub must_save: bool,
    /// Whether names below wildcards got or lost addresses, to be saved like those.
    pub must_save_leases: bool,
    /// Whether services got or lost ports at a waypoint, to be saved like those.
    pub must_save_ports: bool,
    /// The rows to be written, by host.
    touched: BTreeMap<HostName, Keys>,
}

impl Step {
    /// The hosts whose rows are written.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.touched.keys()
    }
}

impl<M: Maps> Reconciler<M> {
    /// With nothing in it; `vips` and `leases` hold what an earlier run allocated.
    pub fn new(sink: Sink<M>, vips: VipPool, leases: Leases, names: Arc<NameTable>) -> Self {
        Self {
            snapshot: Snapshot::default(),
            resolved: Resolved::new(),
            vips,
            waypoints: Waypoints::default(),
            moved: BTreeSet::new(),
            unassigned: BTreeSet::new(),
            assignments_are_ours: false,
            allocates: true,
            leases,
            desired: Desired::default(),
            sink,
            names,
            dirty: BTreeSet::new(),
            failed: BTreeMap::new(),
            retry: false,
            needs: Needs::default(),
            report: Report::default(),
            remembered: Resolved::new(),
            takes_over: false,
        }
    }

    /// Sees everything from `place`. To be called before the first event.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.snapshot = Snapshot::at(place);
        self
    }

    /// Whether hosts without an address get one here; if not, they wait until an object has one. To be called before the first
    /// event.
    #[must_use]
    pub fn allocating(mut self, allocates: bool) -> Self {
        self.allocates = allocates;
        self
    }

    /// Goes on from where an earlier agent stopped: the sink holds its rows, which stay until the source has synced and then
    /// become the desired ones; `remembered` are the addresses that its names had. `replaces_others`: its programs are at work on
    /// maps of their own.
    #[must_use]
    pub fn taking_over(mut self, remembered: Resolved, replaces_others: bool) -> Self {
        self.takes_over = *self.sink.actual() != Tables::default();
        self.needs.known_before = remembered.keys().cloned().collect();
        self.needs.assumes_use = remembered.is_empty() && (self.takes_over || replaces_others);
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
        let verdict = validate(object);
        if let Some(Accepted::Waypoint(proxies)) = &verdict.accepted {
            self.moved.insert(proxies.waypoint.clone());
        }
        self.report.set_object(&reference, verdict.errors, verdict.warnings);
        if let Object::ServiceEntry(raw) = object {
            self.report.set_rejected_hosts(&reference, &raw.spec.hosts);
        }
        let touched = match verdict.accepted {
            Some(accepted) => self.snapshot.apply(accepted),
            None => self.snapshot.remove(&reference),
        };
        self.touch(touched);
    }

    fn delete(&mut self, object: &ObjectRef) {
        self.report.forget_object(object);
        let touched = self.snapshot.remove(object);
        self.touch(touched);
    }

    /// Has these hosts rebuilt, and the concrete names below those that are wildcards.
    fn touch(&mut self, hosts: BTreeSet<HostName>) {
        let suffixes = hosts.iter().filter_map(HostName::wildcard_suffix);
        self.dirty.extend(suffixes.flat_map(|suffix| self.leases.below(suffix)).cloned());
        self.dirty.extend(hosts);
    }

    /// Takes in the addresses of a name. A late answer for a name that nobody needs any more is dropped.
    pub fn resolved(&mut self, name: HostName, addresses: Addresses) {
        if self.needs.needs(&name) && self.resolved.get(&name) != Some(&addresses) {
            self.dirty.extend(self.needs.dependents(&name).cloned());
            self.resolved.insert(name, addresses);
        }
    }

    /// Whether every name of a host in use has been answered, or has failed, or is remembered.
    #[must_use]
    pub fn is_resolved(&self) -> bool {
        self.needs.fresh().all(|name| self.resolved.contains_key(name) || self.needs.is_complete(name))
    }

    /// Whether [`Reconciler::prepare`] has something to do.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        if self.takes_over {
            return self.report.synced;
        }
        self.retry || !self.dirty.is_empty() || self.report.revision != self.snapshot.revision
    }

    /// Has what failed tried again by the next [`Reconciler::prepare`], which then has something to do: rows that could
    /// not be written, and hosts for which no address was left.
    pub fn retry_failed(&mut self) {
        self.dirty.extend(self.report.exhausted_hosts().chain(&self.unassigned).cloned());
        self.retry = !self.failed.is_empty();
    }

    /// Rebuilds the hosts that changed. Names that are gone leave the DNS table now, before their rows.
    pub fn prepare(&mut self, now: Timestamp) -> Step {
        self.retry = false;
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut step = Step { touched: std::mem::take(&mut self.failed), ..Step::default() };
        self.end_unused_leases(&dirty, now);
        self.update_needs(&dirty, now, &mut step);
        dirty.extend(step.rest.iter().flat_map(|name| self.needs.dependents(name)).cloned());
        for host in self.in_order_of_age(&dirty) {
            step.must_save |= self.update_vips(&host, now);
            self.update_lease(&host, now);
        }
        self.needs.assumes_use = false;
        self.rebuild_with_followers(dirty, now, &mut step);
        self.release_unused_assignments(now, &mut step);
        if std::mem::take(&mut self.takes_over) {
            step.must_save |= self.release_unused_vips(now);
            self.take_over(&mut step.touched);
        }
        if !self.moved.is_empty() {
            let no_host = step.touched.entry(HostName::new("")).or_default();
            no_host.waypoints.extend(std::mem::take(&mut self.moved));
        }
        step.must_save_leases = self.leases.take_changed();
        let frontends = step.touched.values().flat_map(|keys| &keys.frontends).map(|f| &f.scope);
        let addresses = step.touched.values().flat_map(|keys| &keys.addresses).map(|a| &a.scope);
        step.must_save |= self.sink.reserve_scopes(frontends.chain(addresses));
        step
    }

    /// Builds these hosts anew, those that have endpoints at them, and those that have endpoints at those: where an endpoint
    /// leads depends on where the endpoints lead that it is followed to. Nothing reaches further.
    fn rebuild_with_followers(&mut self, dirty: BTreeSet<HostName>, now: Timestamp, step: &mut Step) {
        let mut built = BTreeSet::new();
        let mut next = dirty;
        for _ in 0..3 {
            let mut followers = BTreeSet::new();
            for host in next {
                let keys = self.rebuild(&host, now, step);
                followers.extend(self.desired.followers(&keys).cloned());
                followers.extend(self.needs.dependents(&host).cloned());
                step.touched.entry(host.clone()).or_default().extend(keys);
                built.insert(host);
            }
            next = followers.difference(&built).cloned().collect();
        }
        self.follow_uses(&built, step);
    }

    /// Builds `host` anew; returns the rows that it had or has.
    fn rebuild(&mut self, host: &HostName, now: Timestamp, step: &mut Step) -> Keys {
        let exists = self.snapshot.has_host(host);
        let mut built = exists.then(|| desired::host(self.known(), host));
        if self.update_assignments(host, built.as_ref(), now, step) {
            built = exists.then(|| desired::host(self.known(), host));
        }
        if !exists {
            self.names.set(host.clone(), None);
        }
        if let Some(concrete) = self.build_concrete(host) {
            built.get_or_insert_default().join(concrete);
        } else {
            self.names.set_concrete(host, None);
        }
        self.desired.set(host, built)
    }

    fn known(&self) -> Known<'_> {
        Known {
            snapshot: &self.snapshot,
            resolved: &self.resolved,
            vips: &self.vips,
            waypoints: &self.waypoints,
        }
    }

    /// Names the restored rows as the desired ones are named, and has all of them compared: what nobody wants goes. A service
    /// whose names have not been answered since the start keeps the backends it has until they are.
    fn take_over(&mut self, touched: &mut BTreeMap<HostName, Keys>) {
        let mut wanted = Keys::default();
        touched.values().for_each(|keys| wanted.extend(keys.clone()));
        let rows = self.rows(&wanted);
        self.sink.adopt(&rows);
        for (host, keys) in touched.iter_mut() {
            let is_unanswered = self.desired.get(host).is_some_and(|d| !d.unresolved.is_empty());
            keys.services.retain(|key| {
                let is_empty = rows.services.get(key).is_none_or(LedTo::is_nowhere);
                !(is_unanswered && is_empty && self.sink.actual().services.contains_key(key))
            });
        }
        let mut left = self.sink.actual().clone();
        left.services.retain(|key, _| !wanted.services.contains(key));
        left.waypoints.retain(|name, _| !wanted.waypoints.contains(name));
        left.frontends.retain(|frontend, _| !wanted.frontends.contains(frontend));
        left.addresses.retain(|address, _| !wanted.addresses.contains(address));
        touched.entry(HostName::new("")).or_default().extend(left.into_keys());
    }

    /// Writes the step to the maps, then publishes the names of its hosts.
    pub fn commit(&mut self, step: Step) {
        self.write(&step.touched);
        self.report.revision = self.snapshot.revision;
        self.publish(step.touched.keys());
    }

    /// Makes the rows that each host touched what they should be.
    fn write(&mut self, touched: &BTreeMap<HostName, Keys>) {
        let mut keys = Keys::default();
        for (host, own) in touched {
            self.report.clear_failures(host);
            keys.extend(own.clone());
        }
        self.add_waypoints_left(&mut keys);
        let ops = diff(&self.sink.actual().rows(&keys), &self.rows(&keys));
        if ops.is_empty() {
            return;
        }
        let count = ops.len();
        let failures = self.sink.apply(ops);
        for failure in &failures {
            let host = self.host_of(&failure.op, touched);
            tracing::error!(host = %host, error = %failure.error, "map write failed");
            self.report.add_failure(&host, &failure.error);
            add_key(self.failed.entry(host).or_default(), &failure.op);
        }
        tracing::info!(
            revision = self.snapshot.revision,
            operations = count,
            failed = failures.len(),
            "maps written"
        );
    }

    /// Whose row an operation is about. An address that nobody wants any more belonged to a host that was touched.
    fn host_of(&self, op: &MapOp, touched: &BTreeMap<HostName, Keys>) -> HostName {
        let owner = match op {
            MapOp::SetService(key, _) | MapOp::RemoveService(key) | MapOp::SetFrontend(_, key) => {
                Some(&key.host)
            }
            MapOp::SetWaypoint(name, _) | MapOp::RemoveWaypoint(name) => self.host_through(name, touched),
            MapOp::RemoveFrontend(frontend) => {
                self.sink.actual().frontends.get(frontend).map(|key| &key.host)
            }
            MapOp::SetAddress(address, _) | MapOp::RemoveAddress(address) => {
                let had = || touched.iter().find(|(_, keys)| keys.addresses.contains(address));
                self.desired.user_of(address).or_else(|| had().map(|(host, _)| host))
            }
        };
        owner.cloned().unwrap_or_else(|| HostName::new(""))
    }

    /// Puts the names of rebuilt hosts into the DNS table. So that no client is sent to an address that leads nowhere yet,
    /// a name is new only when its rows are written, and a client waits until its backends are known. Other changes of a name
    /// are there at once.
    fn publish<'a>(&mut self, hosts: impl Iterator<Item = &'a HostName>) {
        for host in hosts {
            let Some(desired) = self.desired.get(host) else { continue };
            self.publish_concrete(host, &desired.concrete);
            let has_address = |names: NameEntry| names.views.values().any(|view| !view.vips.is_empty());
            if self.failed.contains_key(host) && !self.names.get(host).is_some_and(has_address) {
                continue;
            }
            let is_complete = self.needs.are_complete(host);
            self.names.set(host.clone(), Some(NameEntry { is_complete, ..desired.names.clone() }));
        }
    }

    /// Allocation goes by age, so that the same objects get the same addresses whatever the order of arrival.
    fn in_order_of_age(&self, hosts: &BTreeSet<HostName>) -> Vec<HostName> {
        let mut hosts: Vec<_> = hosts.iter().cloned().collect();
        hosts.sort_by_cached_key(|host| {
            let oldest = self.snapshot.entries_of(host).next().map(|e| (e.created, e.object.clone()));
            (oldest, host.clone())
        });
        hosts
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

    /// The concrete names in use.
    #[must_use]
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// What the maps and names should be.
    #[must_use]
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// What the DNS server answers.
    #[must_use]
    pub fn names(&self) -> &NameTable {
        &self.names
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

fn add_key(keys: &mut Keys, op: &MapOp) {
    match op.clone() {
        MapOp::SetWaypoint(name, _) | MapOp::RemoveWaypoint(name) => keys.waypoints.insert(name),
        MapOp::SetService(key, _) | MapOp::RemoveService(key) => keys.services.insert(key),
        MapOp::SetFrontend(frontend, _) | MapOp::RemoveFrontend(frontend) => keys.frontends.insert(frontend),
        MapOp::SetAddress(address, _) | MapOp::RemoveAddress(address) => keys.addresses.insert(address),
    };
}
