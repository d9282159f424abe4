//! All accepted objects at one revision.
//!
//! In: accepted and removed objects. Out: look-ups by host and by selector. Never: rejected objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Entry, HostName, ObjectRef, Workload};

/// The accepted objects. Values are shared and immutable; a change is a new value and a new revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts changes.
    pub revision: u64,
    entries: BTreeMap<ObjectRef, Arc<Entry>>,
    workloads: BTreeMap<ObjectRef, Arc<Workload>>,
    by_host: BTreeMap<HostName, BTreeSet<ObjectRef>>,
}

impl Snapshot {
    /// Adds or replaces an entry; returns the hosts that the change touches, old and new.
    pub fn apply_entry(&mut self, entry: Arc<Entry>) -> BTreeSet<HostName> {
        let mut touched = self.remove(&entry.object);
        for host in &entry.hosts {
            self.by_host.entry(host.clone()).or_default().insert(entry.object.clone());
            touched.insert(host.clone());
        }
        self.entries.insert(entry.object.clone(), entry);
        touched
    }

    /// Adds or replaces a workload; returns the hosts whose entries select it, before or after.
    pub fn apply_workload(&mut self, workload: Arc<Workload>) -> BTreeSet<HostName> {
        let mut touched = self.remove(&workload.object);
        touched.extend(self.hosts_selecting(&workload));
        self.workloads.insert(workload.object.clone(), workload);
        touched
    }

    /// Removes an object; returns the hosts that the change touches, none if it was not there.
    pub fn remove(&mut self, object: &ObjectRef) -> BTreeSet<HostName> {
        self.revision += 1;
        if let Some(workload) = self.workloads.remove(object) {
            return self.hosts_selecting(&workload);
        }
        let Some(entry) = self.entries.remove(object) else { return BTreeSet::new() };
        for host in &entry.hosts {
            if let Some(objects) = self.by_host.get_mut(host) {
                objects.remove(object);
                if objects.is_empty() {
                    self.by_host.remove(host);
                }
            }
        }
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
        self.workloads.values().filter(|w| entry.selects(w))
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
        self.entries.values().filter(|e| e.selects(workload)).flat_map(|e| e.hosts.clone()).collect()
    }
}

impl Entry {
    /// Sorts entries as every conflict does: the oldest first (an entry without a time is the oldest),
    /// then by namespace and name.
    #[must_use]
    pub fn age_order(&self) -> (Option<jiff::Timestamp>, &ObjectRef) {
        (self.created, &self.object)
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
