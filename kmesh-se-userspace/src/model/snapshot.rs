//! All accepted objects at one revision.
//!
//! In: accepted and removed objects. Out: look-ups by host and by selector. Never: rejected objects.

mod routes;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeFrom,
    sync::Arc,
};

use ipnet::IpNet;

use self::routes::Routes;
use super::{
    Accepted, ClusterHost, Endpoint, Entry, ExportTo, HostName, Kind, KubeNamespace, Locality, Namespace,
    Node, ObjectRef, Place, WaypointLabel, WaypointName, WaypointProxies, Workload,
};

/// The accepted objects. Values are shared and immutable; a change is a new value and a new revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts changes; an object that is as it was is none.
    pub revision: u64,
    entries: BTreeMap<ObjectRef, Arc<Entry>>,
    workloads: BTreeMap<ObjectRef, Arc<Workload>>,
    /// The Services of the cluster, by their host. No two have the same.
    services: BTreeMap<HostName, Arc<ClusterHost>>,
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
    namespaces: BTreeMap<Arc<str>, Arc<KubeNamespace>>,
    routes: Routes,
    place: Place,
    by_host: BTreeMap<HostName, Named>,
    /// The entries with a selector that can select something.
    selecting: BTreeSet<ObjectRef>,
    /// The waypoints of the cluster.
    waypoints: BTreeMap<WaypointName, Arc<WaypointProxies>>,
    /// Address -> the entries that write it or have it in their status.
    written: BTreeMap<IpNet, BTreeSet<ObjectRef>>,
}

/// The entries that name one host: all of them, and by namespace; in either, the oldest first. Many entries may name one host,
/// and each view of it is to be found without a look at all of them.
#[derive(Clone, Debug, Default)]
struct Named {
    all: Vec<Arc<Entry>>,
    by_namespace: Vec<Arc<Entry>>,
}

impl Named {
    fn insert(&mut self, entry: &Arc<Entry>) {
        if let (Err(all), Err(own)) = self.places(entry) {
            self.all.insert(all, entry.clone());
            self.by_namespace.insert(own, entry.clone());
        }
    }

    /// Says whether none is left.
    fn remove(&mut self, entry: &Entry) -> bool {
        if let (Ok(all), Ok(own)) = self.places(entry) {
            self.all.remove(all);
            self.by_namespace.remove(own);
        }
        self.all.is_empty()
    }

    /// Where an entry is in both lists, or would be.
    fn places(&self, entry: &Entry) -> (Result<usize, usize>, Result<usize, usize>) {
        let by_age = |other: &Arc<Entry>| other.age_order().cmp(&entry.age_order());
        let by_namespace = |other: &Arc<Entry>| other.object.namespace.cmp(&entry.object.namespace);
        let own = self.by_namespace.binary_search_by(|other| by_namespace(other).then_with(|| by_age(other)));
        (self.all.binary_search_by(by_age), own)
    }

    fn of_namespace(&self, namespace: &Namespace) -> &[Arc<Entry>] {
        let from = self.by_namespace.partition_point(|entry| entry.object.namespace < *namespace);
        let own = &self.by_namespace[from..];
        &own[..own.partition_point(|entry| entry.object.namespace == *namespace)]
    }
}

impl Snapshot {
    /// Nothing yet, as seen from `place`.
    #[must_use]
    pub fn at(place: Place) -> Self {
        Self { place, ..Self::default() }
    }

    /// Adds or replaces an object; returns the hosts that the change touches.
    pub fn apply(&mut self, object: Accepted) -> BTreeSet<HostName> {
        let touched = match object {
            Accepted::Entry(entry) => self.apply_entry(entry),
            Accepted::Workload(workload) => self.apply_workload(workload),
            Accepted::Service(service) => self.apply_service(service),
            Accepted::Node(node) => self.apply_node(node),
            Accepted::Namespace(namespace) => self.apply_namespace(namespace),
            Accepted::Waypoint(proxies) => self.apply_waypoint(proxies),
            Accepted::Route(route) => self.apply_route(route),
        };
        self.with_routed(touched, None)
    }

    /// Adds or replaces an entry; returns the hosts that the change touches, old and new.
    pub fn apply_entry(&mut self, entry: Arc<Entry>) -> BTreeSet<HostName> {
        if self.entries.get(&entry.object) == Some(&entry) {
            return BTreeSet::new();
        }
        let mut touched = self.take_entry(&entry.object);
        self.revision += 1;
        for host in &entry.hosts {
            self.by_host.entry(host.clone()).or_default().insert(&entry);
            touched.insert(host.clone());
        }
        for address in entry.own_addresses() {
            self.written.entry(address).or_default().insert(entry.object.clone());
            touched.extend(self.hosts_sharing(address, &entry.object.namespace));
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

    fn apply_service(&mut self, service: Arc<ClusterHost>) -> BTreeSet<HostName> {
        if self.services.get(&service.host) == Some(&service) {
            return BTreeSet::new();
        }
        self.revision += 1;
        let mut touched = self.hosts_without_services();
        touched.insert(service.host.clone());
        self.services.insert(service.host.clone(), service);
        touched
    }

    fn apply_node(&mut self, node: Arc<Node>) -> BTreeSet<HostName> {
        let name = node.object.name.clone();
        if self.nodes.get(&name) == Some(&node) {
            return BTreeSet::new();
        }
        self.revision += 1;
        self.nodes.insert(name.clone(), node);
        self.hosts_near(&name)
    }

    fn apply_namespace(&mut self, namespace: Arc<KubeNamespace>) -> BTreeSet<HostName> {
        let name = namespace.object.name.clone();
        if self.namespaces.get(&name) == Some(&namespace) {
            return BTreeSet::new();
        }
        self.revision += 1;
        self.namespaces.insert(name.clone(), namespace);
        self.hosts_of_namespace(&name)
    }

    fn apply_waypoint(&mut self, proxies: Arc<WaypointProxies>) -> BTreeSet<HostName> {
        let before = self.waypoints.get(&proxies.waypoint);
        if before == Some(&proxies) {
            return BTreeSet::new();
        }
        let mut touched = proxies.touched(before.map(Arc::as_ref));
        if before.is_none() {
            touched.extend(self.hosts_bound_to(&proxies.waypoint));
        }
        self.revision += 1;
        self.waypoints.insert(proxies.waypoint.clone(), proxies);
        touched
    }

    /// Removes an object; returns the hosts that the change touches, none if it was not there.
    pub fn remove(&mut self, object: &ObjectRef) -> BTreeSet<HostName> {
        let revision = self.revision + 1;
        let touched = match object.kind {
            Kind::ServiceEntry => self.entries.contains_key(object).then(|| self.take_entry(object)),
            Kind::WorkloadEntry | Kind::Pod => {
                self.workloads.remove(object).map(|workload| self.hosts_selecting(&workload))
            }
            Kind::Service => {
                let found = self.services.values().find(|service| service.object == *object);
                found.map(|service| service.host.clone()).map(|host| {
                    self.services.remove(&host);
                    let mut touched = self.hosts_without_services();
                    touched.insert(host);
                    touched
                })
            }
            Kind::Node => self.nodes.remove(&object.name).map(|_| self.hosts_near(&object.name)),
            Kind::Namespace => {
                self.namespaces.remove(&object.name).map(|_| self.hosts_of_namespace(&object.name))
            }
            Kind::ConfigMap => {
                let found = self.waypoints.values().find(|proxies| proxies.object == *object);
                found.map(|proxies| proxies.waypoint.clone()).map(|waypoint| {
                    self.waypoints.remove(&waypoint);
                    self.hosts_bound_to(&waypoint)
                })
            }
            Kind::HttpRoute => self.routes.remove(object).map(|route| self.hosts_of_parents(&route)),
        };
        if touched.is_some() {
            self.revision = revision;
        }
        touched.map(|touched| self.with_routed(touched, Some(object))).unwrap_or_default()
    }

    fn take_entry(&mut self, object: &ObjectRef) -> BTreeSet<HostName> {
        let Some(entry) = self.entries.remove(object) else { return BTreeSet::new() };
        let mut touched: BTreeSet<_> = entry.hosts.iter().cloned().collect();
        for host in &entry.hosts {
            if self.by_host.get_mut(host).is_some_and(|named| named.remove(&entry)) {
                self.by_host.remove(host);
            }
        }
        for address in entry.own_addresses() {
            if let Some(objects) = self.written.get_mut(&address) {
                objects.remove(object);
                if objects.is_empty() {
                    self.written.remove(&address);
                }
            }
            touched.extend(self.hosts_sharing(address, &entry.object.namespace));
        }
        self.selecting.remove(object);
        touched
    }

    /// The hosts that share `address` with an entry of `namespace`, if entries of other namespaces do: they have views of
    /// each other.
    fn hosts_sharing(&self, address: IpNet, namespace: &Namespace) -> BTreeSet<HostName> {
        let has_others = match self.namespaces_at(address) {
            Some((first, last)) => first != namespace || last != namespace,
            None => false,
        };
        if !has_others {
            return BTreeSet::new();
        }
        self.writers_of(address).flat_map(|entry| entry.hosts.clone()).collect()
    }

    /// The entries that name `host`, the oldest first, then by namespace and name.
    pub fn entries_of(&self, host: &HostName) -> impl Iterator<Item = &Arc<Entry>> + Clone {
        self.by_host.get(host).into_iter().flat_map(|named| &named.all).inspect(looked_at)
    }

    /// Those of `namespace`, in the same order.
    pub fn entries_within(
        &self,
        host: &HostName,
        namespace: &Namespace,
    ) -> impl Iterator<Item = &Arc<Entry>> + Clone {
        let own = self.by_host.get(host).map(|named| named.of_namespace(namespace));
        own.into_iter().flatten().inspect(looked_at)
    }

    /// Whether some entry names `host`.
    #[must_use]
    pub fn has_host(&self, host: &HostName) -> bool {
        self.by_host.contains_key(host)
    }

    /// The workloads that `entry` selects; none without a selector or with an empty one.
    pub fn selected_by<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a Arc<Workload>> {
        let kinds = entry.selects_some().then_some([Kind::WorkloadEntry, Kind::Pod]);
        let candidates = kinds.into_iter().flatten().flat_map(move |kind| {
            let of_namespace = from_namespace(kind, &entry.object.namespace);
            self.workloads.range(of_namespace).take_while(move |(object, _)| {
                (object.kind, &object.namespace) == (kind, &entry.object.namespace)
            })
        });
        candidates.map(|(_, workload)| workload).filter(|workload| entry.selects(workload))
    }

    /// The endpoints of `entry`: those listed, and those of the workloads that it selects and that are ready.
    pub fn endpoints_of<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = &'a Endpoint> {
        let ready = self.selected_by(entry).filter(|workload| workload.is_ready);
        entry.endpoints.iter().chain(ready.flat_map(|workload| &workload.endpoints))
    }

    /// How far `endpoint` is from this node as `entry` counts it; 0 is the nearest.
    #[must_use]
    pub fn distance(&self, entry: &Entry, endpoint: &Endpoint) -> u8 {
        if self.place == Place::default() {
            return 0;
        }
        let of_node = |name: &str| self.nodes.get(name).map(|node| node.locality.clone()).unwrap_or_default();
        let to = match endpoint.locality.as_str() {
            "" => of_node(&endpoint.node),
            text => Locality::new(text),
        };
        let of_namespace = || self.namespaces.get(entry.object.namespace.as_str())?.traffic_distribution;
        let preferred = entry.traffic_distribution.or_else(of_namespace);
        let Place { locality, node } = &self.place;
        let here = if locality.is_unknown() { of_node(node) } else { locality.clone() };
        Place { locality: here, node: node.clone() }.distance(&to, &endpoint.node, preferred)
    }

    /// The waypoint that `entry` is bound to: by its own labels, else by those of its namespace.
    #[must_use]
    pub fn waypoint_of<'a>(&'a self, entry: &'a Entry) -> Option<&'a WaypointName> {
        match &entry.waypoint {
            WaypointLabel::Unset => self.namespaces.get(entry.object.namespace.as_str())?.waypoint.bound(),
            own => own.bound(),
        }
    }

    /// A waypoint of the cluster, if there is one of this name.
    #[must_use]
    pub fn waypoint(&self, name: &WaypointName) -> Option<&Arc<WaypointProxies>> {
        self.waypoints.get(name)
    }

    /// All waypoints of the cluster, by name.
    pub fn waypoints(&self) -> impl Iterator<Item = &Arc<WaypointProxies>> {
        self.waypoints.values()
    }

    /// The Service of the cluster that has `host` for its own, if clients of `namespace` (none: of every namespace) see
    /// it.
    #[must_use]
    pub fn cluster_host(&self, host: &HostName, namespace: Option<&Namespace>) -> Option<&Arc<ClusterHost>> {
        let sees = |service: &&Arc<ClusterHost>| match namespace {
            None => service.export_to == ExportTo::All,
            Some(namespace) => service.export_to.includes(namespace),
        };
        self.services.get(host).filter(|service| !service.is_alias).filter(sees)
    }

    /// The Service that has `host`, whoever sees it.
    #[must_use]
    pub fn service_of(&self, host: &HostName) -> Option<&Arc<ClusterHost>> {
        self.services.get(host)
    }

    /// The entries that write `address`, which may be a range, or have it in their status.
    pub fn writers_of(&self, address: IpNet) -> impl Iterator<Item = &Arc<Entry>> {
        let objects = self.written.get(&address).into_iter().flatten();
        objects.filter_map(|object| self.entries.get(object)).inspect(looked_at)
    }

    /// Whether entries of several namespaces write `address` or have it in their status.
    #[must_use]
    pub fn is_shared(&self, address: IpNet) -> bool {
        self.namespaces_at(address).is_some_and(|(first, last)| first != last)
    }

    /// The first and the last of the namespaces that write `address`.
    fn namespaces_at(&self, address: IpNet) -> Option<(&Namespace, &Namespace)> {
        let objects = self.written.get(&address)?;
        Some((&objects.first()?.namespace, &objects.last()?.namespace))
    }

    /// Whether some entry writes `address` or has it in its status, so that it is not free for allocation.
    #[must_use]
    pub fn is_written(&self, address: IpAddr) -> bool {
        self.written.contains_key(&address.into())
    }

    /// The entry that `object` is, if it was accepted.
    #[must_use]
    pub fn entry(&self, object: &ObjectRef) -> Option<&Arc<Entry>> {
        self.entries.get(object)
    }

    /// All entries, by namespace and name.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// All workloads, by kind, namespace and name.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// `host` as the index has it, if some entry names it.
    #[must_use]
    pub fn host(&self, host: &HostName) -> Option<&HostName> {
        self.by_host.get_key_value(host).map(|(host, _)| host)
    }

    /// All hosts that some entry names.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.by_host.keys()
    }

    /// The hosts whose backends are on the node `name`, or are chosen from there.
    fn hosts_near(&self, name: &str) -> BTreeSet<HostName> {
        if *name == *self.place.node {
            return self.by_host.keys().cloned().collect();
        }
        let is_there = |workload: &&Arc<Workload>| workload.endpoints.iter().any(|e| *e.node == *name);
        self.workloads.values().filter(is_there).flat_map(|w| self.hosts_selecting(w)).collect()
    }

    fn hosts_bound_to(&self, waypoint: &WaypointName) -> BTreeSet<HostName> {
        let bound = self.entries.values().filter(|entry| self.waypoint_of(entry) == Some(waypoint));
        bound.flat_map(|entry| entry.hosts.clone()).collect()
    }

    fn hosts_of_namespace(&self, name: &str) -> BTreeSet<HostName> {
        let entries = self.entries.range(from_namespace(Kind::ServiceEntry, &Namespace::new(name)));
        let own = entries
            .take_while(|(object, _)| object.kind == Kind::ServiceEntry && object.namespace.as_str() == name);
        own.flat_map(|(_, entry)| entry.hosts.clone()).collect()
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

/// Counts the entries that are looked at, for tests that say how work grows.
fn looked_at(_entry: &&Arc<Entry>) {
    #[cfg(test)]
    LOOKED_AT.with(|count| count.set(count.get() + 1));
}

#[cfg(test)]
thread_local! {
    /// How many entries this thread has looked at.
    pub(crate) static LOOKED_AT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

impl Entry {
    /// Sorts entries as every conflict does: the oldest first (an entry without a time is the oldest),
    /// then by namespace and name.
    #[must_use]
    pub fn age_order(&self) -> (Option<jiff::Timestamp>, &ObjectRef) {
        (self.created, &self.object)
    }

    /// The addresses and ranges of `spec.addresses` and `status.addresses`.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpNet> {
        let in_status = self.status_addresses.iter().map(|(address, _)| IpNet::from(*address));
        self.addresses.iter().copied().chain(in_status)
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
