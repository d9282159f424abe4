//! Takes over maps that an earlier agent filled.
//!
//! In: what the maps hold. Out: a sink that knows which ids are in use, with the rows in `actual` under stand-in names until
//! the desired rows claim them. Never: a change to a row; what nobody claims goes by the next diff.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use kmesh_se_common::{
    addr,
    maps::{self, AddressKey, Cidr, CidrKey, FrontendKey, SCOPE_MESH, Service, WORKLOAD_EXEMPT, Workload},
};

use super::{
    BackendId, Capacities, Enrolment, MapError, Maps, ScopeId, ServiceIds, Sink, range_at, unlisted_of,
};
use crate::{
    desired::{Address, AddressRange, AddressRule, Backend, Frontend, LedTo, Scope, ServiceKey, Tables},
    model::{HostName, Kind, Namespace, ObjectRef, Transport, WaypointName},
};

/// Everything that the maps hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the content of the map of that name")]
pub struct Contents {
    pub frontends: Vec<(FrontendKey, u32)>,
    pub addresses: Vec<(AddressKey, maps::Address)>,
    pub cidrs: Vec<(CidrKey, Cidr)>,
    /// The services and waypoints with slots, and the services that go through a waypoint.
    pub services: BTreeMap<u32, Service>,
    /// The slots of those services.
    pub slots: BTreeMap<u32, maps::Slot>,
    /// The backends of those slots.
    pub backends: BTreeMap<u32, maps::Backend>,
    pub workloads: Vec<(u64, Workload)>,
}

impl<M: Maps> Sink<M> {
    /// A sink over maps that an earlier agent may have filled. `scopes` are the ids that it gave to namespaces; `levels` are
    /// the depths of the cgroups that still exist, and the enrolments of others are removed.
    ///
    /// # Errors
    /// The maps cannot be read or written.
    pub fn restore(
        maps: M,
        capacities: Capacities,
        scopes: &BTreeMap<Namespace, u32>,
        levels: &BTreeMap<u64, u8>,
    ) -> Result<Self, MapError> {
        let contents = maps.contents()?;
        let mut sink = Self::new(maps, capacities);
        for (namespace, id) in scopes {
            sink.scopes.insert(namespace.clone(), ScopeId { id: *id, rows: 0 });
        }
        let namespaces: HashMap<u32, Scope> =
            scopes.iter().map(|(namespace, id)| (*id, Scope::Namespace(namespace.clone()))).collect();
        let scope = |id: u32| if id == SCOPE_MESH { Some(Scope::Mesh) } else { namespaces.get(&id).cloned() };
        sink.restore_services(&contents);
        for (key, service) in &contents.frontends {
            sink.restore_frontend(*key, *service, scope(key.scope))?;
        }
        for (key, address) in &contents.addresses {
            match scope(key.scope) {
                Some(scope) => sink.restore_address(addr::to_ip(key.addr).into(), address, scope),
                None => sink.maps.remove_address(*key)?,
            }
        }
        for (key, cidr) in &contents.cidrs {
            let prefix = u8::try_from(cidr.prefix).unwrap_or(u8::MAX);
            match (scope(u32::from_be_bytes(key.scope)), range_at(key.addr, prefix)) {
                (Some(scope), Some(range)) => {
                    sink.restore_address(range, &cidr.rule, scope);
                    sink.cidrs += 1;
                }
                _ => sink.maps.remove_cidr(*key, prefix)?,
            }
        }
        sink.count_cidrs(0)?;
        for (cgroup, workload) in &contents.workloads {
            sink.restore_workload(*cgroup, workload, scope(workload.scope), levels.get(cgroup))?;
        }
        // Half-made services of an agent that was killed have no frontend; the first settling frees them.
        let unreachable: Vec<ServiceKey> =
            sink.services.keys().filter(|key| !sink.actual.services.contains_key(key)).cloned().collect();
        unreachable.iter().try_for_each(|key| sink.remove_service(key))?;
        sink.settle()?;
        let levels = sink.levels(None);
        sink.write_levels(&levels)?;
        Ok(sink)
    }

    fn restore_services(&mut self, contents: &Contents) {
        // A service that nothing leads to any more may name a waypoint that has gone.
        let used: BTreeSet<u32> = contents.frontends.iter().map(|(_, service)| *service).collect();
        let waypoint = |id: &u32| {
            let word = contents.services.get(id).filter(|_| used.contains(id))?;
            word.waypoint().map(|(waypoint, _)| waypoint)
        };
        for id in contents.services.keys().filter_map(waypoint).filter(|id| !used.contains(id)) {
            let word = contents.services.get(&id).copied().unwrap_or(Service::EMPTY);
            if word.waypoint().is_none() && !self.waypoints.contains_key(&waypoint_stand_in(id)) {
                let ids = self.restore_run(contents, id, word);
                let replicas = ids.backends.iter().map(|(address, _)| *address).collect();
                self.waypoints.insert(waypoint_stand_in(id), ids);
                self.actual.waypoints.insert(waypoint_stand_in(id), replicas);
            }
        }
        let waypoints: BTreeSet<u32> = self.waypoints.values().map(|waypoint| waypoint.id).collect();
        for (id, word) in contents.services.iter().filter(|(id, _)| !waypoints.contains(id)) {
            let mut ids = self.restore_run(contents, *id, *word);
            ids.waypoint = waypoint(id).filter(|id| waypoints.contains(id)).map(waypoint_stand_in);
            self.count_services(ids.waypoint.as_ref(), 1);
            self.services.insert(stand_in(*id), ids);
        }
    }

    /// Takes the ids of a service or waypoint.
    fn restore_run(&mut self, contents: &Contents, id: u32, word: Service) -> ServiceIds {
        self.service_ids.reserve(id, 1);
        let mut places = Vec::new();
        if word.slot_count() > 0 {
            self.slot_ids.reserve(word.slot_base, word.slot_count());
            let slots = (0..word.slot_count()).filter_map(|i| contents.slots.get(&(word.slot_base + i)));
            let ids: BTreeSet<u32> = slots.flat_map(|slot| [slot.backend, slot.alias]).collect();
            for backend_id in ids {
                let Some(backend) = contents.backends.get(&backend_id) else { continue };
                let place = (addr::to_ip(backend.addr), backend.port);
                self.backend_ids.reserve(backend_id, 1);
                self.backends.entry(place).or_insert(BackendId { id: backend_id, users: 0 }).users += 1;
                places.push(place);
            }
        }
        ServiceIds { id, slots: word, backends: places, waypoint: None, users: 0 }
    }

    fn restore_frontend(
        &mut self,
        key: FrontendKey,
        service: u32,
        scope: Option<Scope>,
    ) -> Result<(), MapError> {
        // A namespace whose id is not known any more: nobody can be shown this row, so it goes.
        let (Some(scope), Some(address)) = (scope, range_at(key.addr, key.prefix)) else {
            return self.maps.remove_frontend(key);
        };
        let transport = if key.proto == 17 { Transport::Udp } else { Transport::Tcp };
        let frontend = Frontend { scope, address, port: key.port, transport };
        let stand_in = stand_in(service);
        if !self.services.contains_key(&stand_in) {
            // A service without backends has no slots, so its word did not tell of it.
            self.service_ids.reserve(service, 1);
            let ids = ServiceIds {
                id: service,
                slots: Service::EMPTY,
                backends: Vec::new(),
                waypoint: None,
                users: 0,
            };
            self.services.insert(stand_in.clone(), ids);
        }
        if let Some(ids) = self.services.get(&stand_in) {
            let led_to = match (&ids.waypoint, ids.slots.waypoint()) {
                (Some(waypoint), Some((_, port))) => LedTo::Waypoint(waypoint.clone(), port),
                _ => LedTo::Backends(ids.backends.iter().map(unnamed).collect()),
            };
            self.actual.services.insert(stand_in.clone(), led_to);
        }
        self.count_row(&frontend.scope);
        self.count_use(Some(&stand_in), 1);
        self.actual.frontends.insert(frontend, stand_in);
        Ok(())
    }

    fn restore_address(&mut self, address: AddressRange, row: &maps::Address, scope: Scope) {
        // A service without frontends goes, and the row is written anew.
        let sorts_by = Some(stand_in(row.sorts_by)).filter(|key| self.actual.services.contains_key(key));
        self.count_row(&scope);
        self.count_use(sorts_by.as_ref(), 1);
        let rule = AddressRule { unlisted: unlisted_of(row.unlisted), sorts_by };
        self.actual.addresses.insert(Address { scope, address }, rule);
    }

    fn restore_workload(
        &mut self,
        cgroup: u64,
        workload: &Workload,
        scope: Option<Scope>,
        level: Option<&u8>,
    ) -> Result<(), MapError> {
        let namespace = match scope {
            _ if workload.flags & WORKLOAD_EXEMPT != 0 => Some(None),
            Some(Scope::Namespace(namespace)) => Some(Some(namespace)),
            _ => None,
        };
        let (Some(namespace), Some(level)) = (namespace, level) else {
            self.limbo.hash_elements = true;
            return self.maps.remove_workload(cgroup);
        };
        let enrolment = Enrolment { level: *level, namespace, dns_port: workload.dns_port };
        self.workloads.insert(cgroup, (workload.id, enrolment));
        self.next_workload = self.next_workload.max(workload.id + 1);
        Ok(())
    }

    fn count_row(&mut self, scope: &Scope) {
        if let Scope::Namespace(namespace) = scope
            && let Some(entry) = self.scopes.get_mut(namespace)
        {
            entry.rows += 1;
        }
    }

    /// Gives restored services the names that the desired rows have for them, so that they keep their ids: a service is the one
    /// that its frontends lead to, and a waypoint the one that its services are led to.
    pub fn adopt(&mut self, desired: &Tables) {
        let mut frontends_of: HashMap<ServiceKey, Vec<Frontend>> = HashMap::new();
        for (frontend, key) in self.actual.frontends.iter().filter(|(_, key)| is_stand_in(key)) {
            frontends_of.entry(key.clone()).or_default().push(frontend.clone());
        }
        let mut renamed = HashMap::new();
        for (frontend, key) in &desired.frontends {
            let Some(stand_in) = self.actual.frontends.get(frontend).cloned() else { continue };
            if self.services.contains_key(key) {
                continue;
            }
            let Some(frontends) = frontends_of.remove(&stand_in) else { continue };
            if let Some(ids) = self.services.remove(&stand_in) {
                self.services.insert(key.clone(), ids);
            }
            if let Some(led_to) = self.actual.services.remove(&stand_in) {
                self.actual.services.insert(key.clone(), led_to);
            }
            for frontend in frontends {
                self.actual.frontends.insert(frontend, key.clone());
            }
            renamed.insert(stand_in, key.clone());
        }
        for key in self.actual.addresses.values_mut().filter_map(|rule| rule.sorts_by.as_mut()) {
            if let Some(name) = renamed.get(key) {
                *key = name.clone();
            }
        }
        self.adopt_waypoints(desired);
    }

    fn adopt_waypoints(&mut self, desired: &Tables) {
        let mut renamed: HashMap<WaypointName, WaypointName> = HashMap::new();
        for (key, led_to) in &desired.services {
            let stand_in = self.actual.services.get(key).and_then(LedTo::waypoint);
            let (Some(stand_in), Some(name)) = (stand_in, led_to.waypoint()) else { continue };
            if !is_waypoint_stand_in(stand_in) || self.waypoints.contains_key(name) {
                continue;
            }
            let stand_in = stand_in.clone();
            let Some(ids) = self.waypoints.remove(&stand_in) else { continue };
            self.waypoints.insert(name.clone(), ids);
            if let Some(replicas) = self.actual.waypoints.remove(&stand_in) {
                self.actual.waypoints.insert(name.clone(), replicas);
            }
            renamed.insert(stand_in, name.clone());
        }
        let of_ids = self.services.values_mut().filter_map(|ids| ids.waypoint.as_mut());
        let of_rows = self.actual.services.values_mut().filter_map(|led_to| match led_to {
            LedTo::Waypoint(waypoint, _) => Some(waypoint),
            LedTo::Backends(_) => None,
        });
        for waypoint in of_ids.chain(of_rows) {
            if let Some(name) = renamed.get(waypoint) {
                *waypoint = name.clone();
            }
        }
    }
}

/// The same as [`stand_in`] of a waypoint.
fn waypoint_stand_in(id: u32) -> WaypointName {
    WaypointName { namespace: Namespace::new(""), name: id.to_string().into() }
}

fn is_waypoint_stand_in(name: &WaypointName) -> bool {
    name.namespace.as_str().is_empty()
}

/// The name of a restored service until the desired rows claim it. No object has an empty namespace.
fn stand_in(id: u32) -> ServiceKey {
    let entry =
        ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::new(""), name: id.to_string().into() };
    ServiceKey { host: HostName::new("restored"), entry, port: 0 }
}

fn is_stand_in(key: &ServiceKey) -> bool {
    key.entry.namespace.as_str().is_empty()
}

/// A backend whose weight and source the maps do not tell: different from every desired one, so it is written anew.
fn unnamed(place: &(IpAddr, u16)) -> Backend {
    Backend { address: place.0, port: place.1, weight: 0, source: "".into() }
}
