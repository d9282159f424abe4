//! All accepted objects at one revision.
//!
//! In: accepted and removed objects. Out: look-ups by host and by selector. Never: rejected objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeFrom,
    sync::Arc,
};

use super::{Entry, HostName, Kind, Namespace, ObjectRef, Workload};

/// The accepted objects. Values are shared and immutable; a change is a new value and a new revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts changes; an object that is as it was is none.
    pub revision: u64,
    entries: BTreeMap<ObjectRef, Arc<Entry>>,
    workloads: BTreeMap<ObjectRef, Arc<Workload>>,
    by_host: BTreeMap<HostName, BTreeSet<ObjectRef>>,
    /// The entries with a selector that can select something.
    selecting: BTreeSet<ObjectRef>,
    /// Address -> how many times entries write it or have it in their status.
    written: BTreeMap<IpAddr, usize>,
}

impl Snapshot {
    /// Adds or replaces an entry; returns the hosts that the change touches, old and new.
    pub fn apply_entry(&mut self, entry: Arc<Entry>) -> BTreeSet<HostName> {
        if self.entries.get(&entry.object) == Some(&entry) {
            return BTreeSet::new();
        }
        let mut touched = self.take_entry(&entry.object);
        self.revision += 1;
        for host in &entry.hosts {
            self.by_host.entry(host.clone()).or_default().insert(entry.object.clone());
            touched.insert(host.clone());
        }
        for address in entry.own_addresses() {
            *self.written.entry(address).or_default() += 1;
        }
        if entry.selects_some() {
            self.selecting.insert(entry.object.clone());
        }
        self.entries.insert(entry.object.clone(), entry);
        touched
    }

    /// Adds or replaces a workload; returns the hosts whose entries select it, before or after.
    pub fn apply_workload(&mut self, workload: Arc<Workload>) -> BTreeSet<HostName> {
        if self.workloads.get(&workload.object) == Some(&workload) {
            return BTreeSet::new();
        }
        self.revision += 1;
        let mut touched = self.hosts_selecting(&workload);
        if let Some(old) = self.workloads.insert(workload.object.clone(), workload) {
            touched.extend(self.hosts_selecting(&old));
        }
        touched
    }

    /// Removes an object; returns the hosts that the change touches, none if it was not there.
    pub fn remove(&mut self, object: &ObjectRef) -> BTreeSet<HostName> {
        if let Some(workload) = self.workloads.remove(object) {
            self.revision += 1;
            return self.hosts_selecting(&workload);
        }
        self.revision += u64::from(self.entries.contains_key(object));
        self.take_entry(object)
    }

    fn take_entry(&mut self, object: &ObjectRef) -> BTreeSet<HostName> {
        let Some(entry) = self.entries.remove(object) else { return BTreeSet::new() };
        for host in &entry.hosts {
            if let Some(objects) = self.by_host.get_mut(host) {
                objects.remove(object);
                if objects.is_empty() {
                    self.by_host.remove(host);
                }
            }
        }
        for address in entry.own_addresses() {
            if let Some(count) = self.written.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    self.written.remove(&address);
                }
            }
        }
        self.selecting.remove(object);
        entry.hosts.iter().cloned().collect()
    }

    /// The entries that name `host`, the oldest first, then by namespace and name.
    #[must_use]
    pub fn entries_of(&self, host: &HostName) -> Vec<&Arc<Entry>> {
        let mut found: Vec<_> =
            self.by_host.get(host).into_iter().flatten().filter_map(|o| self.entries.get(o)).collect();
        found.sort_by_key(|e| e.age_order());
        found
    }

    /// The workloads that `entry` selects; none without a selector or with an empty one.
    pub fn selected_by<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a Arc<Workload>> {
        let of_namespace = from_namespace(Kind::WorkloadEntry, &entry.object.namespace);
        let candidates = entry.selects_some().then(|| self.workloads.range(of_namespace));
        candidates
            .into_iter()
            .flatten()
            .take_while(|(object, _)| object.namespace == entry.object.namespace)
            .map(|(_, workload)| workload)
            .filter(|workload| entry.selects(workload))
    }

    /// Whether some entry writes `address` or has it in its status, so that it is not free for allocation.
    #[must_use]
    pub fn is_written(&self, address: IpAddr) -> bool {
        self.written.contains_key(&address)
    }

    /// All entries, by namespace and name.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// All workloads, by namespace and name.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// All hosts that some entry names.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.by_host.keys()
    }

    fn hosts_selecting(&self, workload: &Workload) -> BTreeSet<HostName> {
        self.selecting
            .range(from_namespace(Kind::ServiceEntry, &workload.object.namespace))
            .take_while(|object| object.namespace == workload.object.namespace)
            .filter_map(|object| self.entries.get(object))
            .filter(|entry| entry.selects(workload))
            .flat_map(|entry| entry.hosts.clone())
            .collect()
    }
}

/// Objects of a kind are sorted by namespace: the place where those of `namespace` begin.
fn from_namespace(kind: Kind, namespace: &Namespace) -> RangeFrom<ObjectRef> {
    ObjectRef { kind, namespace: namespace.clone(), name: "".into() }..
}

impl Entry {
    /// Sorts entries as every conflict does: the oldest first (an entry without a time is the oldest),
    /// then by namespace and name.
    #[must_use]
    pub fn age_order(&self) -> (Option<jiff::Timestamp>, &ObjectRef) {
        (self.created, &self.object)
    }

    /// The plain addresses of `spec.addresses` and `status.addresses`.
    fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let plain = self.addresses.iter().filter(|net| net.prefix_len() == net.max_prefix_len());
        plain.map(|net| net.addr()).chain(self.status_addresses.iter().map(|(address, _)| *address))
    }

    fn selects_some(&self) -> bool {
        self.workload_selector.as_ref().is_some_and(|wanted| !wanted.is_empty())
    }

    /// Whether this entry's selector picks `workload`.
    #[must_use]
    pub fn selects(&self, workload: &Workload) -> bool {
        self.object.namespace == workload.object.namespace
            && self.workload_selector.as_ref().is_some_and(|wanted| {
                !wanted.is_empty() && wanted.iter().all(|(k, v)| workload.labels.get(k) == Some(v))
            })
    }
}
