//! The accepted HTTPRoutes, and what each has to do with.
//!
//! In: accepted and removed routes. Out: look-ups by entry and by backend. Never: a route without a ServiceEntry for a parent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Snapshot;
use crate::model::{BackendTarget, HostName, ObjectRef, RequestRoute};

/// Routes by name, by the entries that they are about and by what they lead to.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    all: BTreeMap<ObjectRef, Arc<RequestRoute>>,
    by_entry: BTreeMap<ObjectRef, BTreeSet<ObjectRef>>,
    by_target: BTreeMap<BackendTarget, BTreeSet<ObjectRef>>,
}

impl Routes {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<RequestRoute>> {
        self.all.values()
    }

    pub(super) fn get(&self, object: &ObjectRef) -> Option<&Arc<RequestRoute>> {
        self.all.get(object)
    }

    /// Adds or replaces a route, or removes it if it has no parents.
    pub(super) fn set(&mut self, route: Arc<RequestRoute>) {
        self.remove(&route.object);
        if route.parents.is_empty() {
            return;
        }
        let object = &route.object;
        for parent in &route.parents {
            self.by_entry.entry(parent.entry.clone()).or_default().insert(object.clone());
        }
        for target in route.targets() {
            self.by_target.entry(target.clone()).or_default().insert(object.clone());
        }
        self.all.insert(object.clone(), route);
    }

    pub(super) fn remove(&mut self, object: &ObjectRef) -> Option<Arc<RequestRoute>> {
        let route = self.all.remove(object)?;
        for parent in &route.parents {
            forget(&mut self.by_entry, &parent.entry, object);
        }
        for target in route.targets() {
            forget(&mut self.by_target, target, object);
        }
        Some(route)
    }

    /// Those that are about `entry`, the oldest first.
    pub(super) fn of(&self, entry: &ObjectRef) -> Vec<&Arc<RequestRoute>> {
        let objects = self.by_entry.get(entry).into_iter().flatten();
        let mut routes: Vec<_> = objects.filter_map(|object| self.all.get(object)).collect();
        routes.sort_by(|a, b| a.age_order().cmp(&b.age_order()));
        routes
    }

    /// The entries that some route leads from to `target`.
    pub(super) fn leading_to(&self, target: &BackendTarget) -> impl Iterator<Item = &ObjectRef> {
        let objects = self.by_target.get(target).into_iter().flatten();
        let routes = objects.filter_map(|object| self.all.get(object));
        routes.flat_map(|route| route.parents.iter().map(|parent| &parent.entry))
    }
}

impl Snapshot {
    pub(super) fn apply_route(&mut self, route: Arc<RequestRoute>) -> BTreeSet<HostName> {
        let before = self.routes.get(&route.object);
        if before == Some(&route) || (before.is_none() && route.parents.is_empty()) {
            return BTreeSet::new();
        }
        self.revision += 1;
        let mut touched = before.map_or_else(BTreeSet::new, |route| self.hosts_of_parents(route));
        touched.extend(self.hosts_of_parents(&route));
        self.routes.set(route);
        touched
    }

    pub(super) fn hosts_of_parents(&self, route: &RequestRoute) -> BTreeSet<HostName> {
        let entries = route.parents.iter().filter_map(|parent| self.entries.get(&parent.entry));
        entries.flat_map(|entry| entry.hosts.clone()).collect()
    }

    /// All hosts with routes while no Service is known: which there are is not asked then.
    pub(super) fn hosts_without_services(&self) -> BTreeSet<HostName> {
        let routes = self.routes.iter().filter(|_| self.services.is_empty());
        routes.flat_map(|route| self.hosts_of_parents(route)).collect()
    }

    /// Adds the hosts whose requests are led to what was touched: to hosts, or to the entry `object`, which may be gone.
    pub(super) fn with_routed(
        &self,
        mut touched: BTreeSet<HostName>,
        object: Option<&ObjectRef>,
    ) -> BTreeSet<HostName> {
        if self.routes.is_empty() || (touched.is_empty() && object.is_none()) {
            return touched;
        }
        let mut targets: BTreeSet<_> =
            object.map(|object| BackendTarget::Entry(object.clone())).into_iter().collect();
        for host in &touched {
            targets.extend(self.entries_of(host).map(|entry| BackendTarget::Entry(entry.object.clone())));
            targets.extend([BackendTarget::Host(host.clone()), BackendTarget::Service(host.clone())]);
        }
        let from = targets.iter().flat_map(|target| self.routes.leading_to(target));
        touched
            .extend(from.filter_map(|entry| self.entries.get(entry)).flat_map(|entry| entry.hosts.clone()));
        touched
    }

    /// The HTTPRoutes that are about `entry`, which need not be there, the oldest first.
    #[must_use]
    pub fn routes_of(&self, entry: &ObjectRef) -> Vec<&Arc<RequestRoute>> {
        self.routes.of(entry)
    }

    /// All HTTPRoutes for entries, by namespace and name.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<RequestRoute>> {
        self.routes.iter()
    }

    /// Whether any Service of the cluster is known, as it is where those that there are can be asked for.
    #[must_use]
    pub fn knows_services(&self) -> bool {
        !self.services.is_empty()
    }
}

fn forget<K: Ord>(index: &mut BTreeMap<K, BTreeSet<ObjectRef>>, key: &K, object: &ObjectRef) {
    if let Some(objects) = index.get_mut(key) {
        objects.remove(object);
        if objects.is_empty() {
            index.remove(key);
        }
    }
}
