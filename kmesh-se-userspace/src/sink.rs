//! The only writer of the maps: turns [`MapOp`]s in words into map elements with ids.
//!
//! In: changes and enrolments. Out: writes through [`Maps`], in an order in which no reader ever meets a freed element.
//! Never: a decision about what the maps should hold.

mod alias;
pub mod aya;
mod ids;
pub mod memory;
mod restore;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use kmesh_se_common::{
    addr,
    limits::{LEVEL_END, MAX_LEVELS},
    maps::{
        self, AddressKey, FrontendKey, SCOPE_MESH, Service, UNLISTED_PASS, UNLISTED_REFUSE, WORKLOAD_EXEMPT,
        WORKLOAD_PRIVATE_VIEW, Workload,
    },
};

use self::ids::Runs;
pub use self::restore::Contents;
use crate::{
    desired::{Address, Backend, Frontend, Scope, ServiceKey, Tables, Unlisted},
    diff::MapOp,
    model::{Namespace, Transport},
};

/// The maps as the sink needs them: one element at a time.
pub trait Maps {
    /// Writes an element of `kmse_backend`.
    fn set_backend(&mut self, id: u32, backend: maps::Backend) -> Result<(), MapError>;
    /// Writes an element of `kmse_slot`.
    fn set_slot(&mut self, id: u32, slot: maps::Slot) -> Result<(), MapError>;
    /// Writes the slots' word of a service in one store.
    fn set_service(&mut self, id: u32, service: Service) -> Result<(), MapError>;
    /// Sets the counters of a service to zero.
    fn reset_service_count(&mut self, id: u32) -> Result<(), MapError>;
    /// Adds or replaces a frontend.
    fn insert_frontend(&mut self, key: FrontendKey, service: u32) -> Result<(), MapError>;
    /// Removes a frontend; one that is not there is no error.
    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), MapError>;
    /// Adds or replaces a known address.
    fn insert_address(&mut self, key: AddressKey, address: maps::Address) -> Result<(), MapError>;
    /// Removes a known address; one that is not there is no error.
    fn remove_address(&mut self, key: AddressKey) -> Result<(), MapError>;
    /// Enrols a cgroup.
    fn insert_workload(&mut self, cgroup: u64, workload: Workload) -> Result<(), MapError>;
    /// Removes a cgroup; one that is not there is no error.
    fn remove_workload(&mut self, cgroup: u64) -> Result<(), MapError>;
    /// Writes the depths at which cgroups are enrolled.
    fn set_levels(&mut self, levels: [u8; MAX_LEVELS]) -> Result<(), MapError>;
    /// Everything that the maps hold, for an agent that takes them over.
    fn contents(&self) -> Result<Contents, MapError>;
    /// Returns when no program still runs that was running at the call.
    fn wait_for_readers(&mut self) -> Result<(), MapError>;
}

/// A write to a map failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The map is full.
    #[error("map {map} is full ({capacity} elements): start the agent with a larger --max-{flag}")]
    Full {
        /// The map's name.
        map: &'static str,
        /// Its capacity in elements.
        capacity: u32,
        /// Which flag raises it.
        flag: &'static str,
    },
    /// The kernel refused the call.
    #[error("{call} on map {map}: {error}")]
    Sys {
        /// The map's name.
        map: &'static str,
        /// What was tried.
        call: &'static str,
        /// The kernel's answer.
        error: String,
    },
    /// Cgroups are enrolled at too many different depths.
    #[error("cgroups are enrolled at more than {MAX_LEVELS} different depths of the tree; enrol fewer")]
    Levels,
}

impl MapError {
    /// Code for labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Full { .. } => "MapFull",
            Self::Sys { .. } => "MapWriteFailed",
            Self::Levels => "TooManyCgroupDepths",
        }
    }
}

/// How many elements the maps have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the capacity of the map of that name")]
pub struct Capacities {
    pub workloads: u32,
    pub frontends: u32,
    pub addresses: u32,
    pub services: u32,
    pub slots: u32,
    pub backends: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        use kmesh_se_common::limits as l;
        Self {
            workloads: l::MAX_WORKLOADS,
            frontends: l::MAX_FRONTENDS,
            addresses: l::MAX_ADDRESSES,
            services: l::MAX_SERVICES,
            slots: l::MAX_SLOTS,
            backends: l::MAX_BACKENDS,
        }
    }
}

/// An enrolled cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// Depth of the cgroup in the tree; the root is 0.
    pub level: u8,
    /// Whose view it has; `None` exempts it although an ancestor is enrolled.
    pub namespace: Option<Namespace>,
    /// Listener port of its namespace for the first resolver, host order; 0: DNS is not captured.
    pub dns_port: u16,
}

/// An operation that did not succeed; the maps are as before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was to be done.
    pub op: MapOp,
    /// Why it was not.
    pub error: MapError,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// The map's name.
    pub name: &'static str,
    /// Elements in use.
    pub used: u32,
    /// Elements that fit.
    pub capacity: u32,
}

/// The sink over some maps.
#[derive(Debug)]
pub struct Sink<M> {
    maps: M,
    capacities: Capacities,
    actual: Tables,
    services: HashMap<ServiceKey, ServiceIds>,
    backends: HashMap<(IpAddr, u16), BackendId>,
    scopes: BTreeMap<Namespace, ScopeId>,
    workloads: BTreeMap<u64, (u32, Enrolment)>,
    next_workload: u32,
    service_ids: Runs,
    slot_ids: Runs,
    backend_ids: Runs,
    limbo: Limbo,
}

#[derive(Debug)]
struct ServiceIds {
    id: u32,
    slots: Service,
    backends: Vec<(IpAddr, u16)>,
}

#[derive(Debug)]
struct BackendId {
    id: u32,
    users: u32,
}

#[derive(Debug)]
struct ScopeId {
    id: u32,
    rows: u32,
}

/// Elements that no new reader can reach, but that one may still be reading.
#[derive(Debug, Default)]
struct Limbo {
    services: Vec<u32>,
    slots: Vec<Service>,
    backends: Vec<u32>,
    hash_elements: bool,
}

impl<M: Maps> Sink<M> {
    /// A sink over empty `maps`.
    pub fn new(maps: M, capacities: Capacities) -> Self {
        Self {
            maps,
            capacities,
            actual: Tables::default(),
            services: HashMap::new(),
            backends: HashMap::new(),
            scopes: BTreeMap::new(),
            workloads: BTreeMap::new(),
            next_workload: 1,
            service_ids: Runs::new(capacities.services),
            slot_ids: Runs::new(capacities.slots),
            backend_ids: Runs::new(capacities.backends),
            limbo: Limbo::default(),
        }
    }

    /// What the maps hold.
    #[must_use]
    pub fn actual(&self) -> &Tables {
        &self.actual
    }

    /// The maps themselves.
    #[must_use]
    pub fn maps(&self) -> &M {
        &self.maps
    }

    /// The id of a service, for reading its counters.
    #[must_use]
    pub fn service_id(&self, key: &ServiceKey) -> Option<u32> {
        self.services.get(key).map(|s| s.id)
    }

    /// The enrolled cgroups.
    pub fn workloads(&self) -> impl Iterator<Item = (u64, &Enrolment)> {
        self.workloads.iter().map(|(cgroup, (_, enrolment))| (*cgroup, enrolment))
    }

    /// The namespace of a scope id.
    #[must_use]
    pub fn namespace_of(&self, scope: u32) -> Option<&Namespace> {
        self.scopes.iter().find(|(_, s)| s.id == scope).map(|(n, _)| n)
    }

    /// How full the maps are.
    #[must_use]
    pub fn usage(&self) -> Vec<Usage> {
        use kmesh_se_common::limits as l;
        let of = |name, used: usize, capacity| Usage {
            name,
            used: u32::try_from(used).unwrap_or(u32::MAX),
            capacity,
        };
        vec![
            of(l::MAP_ENROL, self.workloads.len(), self.capacities.workloads),
            of(l::MAP_FRONTEND, self.actual.frontends.len(), self.capacities.frontends),
            of(l::MAP_ADDRESS, self.actual.addresses.len(), self.capacities.addresses),
            of(l::MAP_SERVICE, self.service_ids.used() as usize, self.capacities.services),
            of(l::MAP_SLOT, self.slot_ids.used() as usize, self.capacities.slots),
            of(l::MAP_BACKEND, self.backend_ids.used() as usize, self.capacities.backends),
        ]
    }

    /// Applies `ops` in order. An operation that fails is reported and leaves its row as it was; the others go on.
    pub fn apply(&mut self, ops: Vec<MapOp>) -> Vec<Failure> {
        let mut failures = Vec::new();
        for op in ops {
            let done = match &op {
                MapOp::SetService(key, backends) => self.set_service(key, backends),
                MapOp::RemoveService(key) => self.remove_service(key),
                MapOp::SetFrontend(frontend, key) => self.set_frontend(frontend, key),
                MapOp::RemoveFrontend(frontend) => self.remove_frontend(frontend),
                MapOp::SetAddress(address, unlisted) => self.set_address(address, *unlisted),
                MapOp::RemoveAddress(address) => self.remove_address(address),
            };
            match done {
                Ok(()) => self.actual.apply(&op),
                Err(error) => failures.push(Failure { op, error }),
            }
        }
        if let Err(error) = self.settle() {
            tracing::warn!(%error, "could not wait for readers; freed ids stay unused");
        }
        failures
    }

    /// Waits for readers and frees what waits in limbo.
    fn settle(&mut self) -> Result<(), MapError> {
        let limbo = &self.limbo;
        if limbo.services.is_empty()
            && limbo.slots.is_empty()
            && limbo.backends.is_empty()
            && !limbo.hash_elements
        {
            return Ok(());
        }
        self.maps.wait_for_readers()?;
        let limbo = std::mem::take(&mut self.limbo);
        for id in limbo.services {
            self.maps.set_service(id, Service { slot_base: 0, slot_count: 0 })?;
            self.service_ids.free(id, 1);
        }
        for run in limbo.slots {
            self.slot_ids.free(run.slot_base, run.slot_count);
        }
        for id in limbo.backends {
            self.backend_ids.free(id, 1);
        }
        Ok(())
    }

    /// Writes the new backends and a new run of slots, then leads the service to them with one store.
    fn set_service(&mut self, key: &ServiceKey, backends: &[Backend]) -> Result<(), MapError> {
        let new_id = match self.services.get(key) {
            Some(_) => None,
            None => Some(self.allocate(Pool::Services, 1)?),
        };
        let written = self.write_backends(backends).and_then(|ids| {
            self.write_slots(backends, &ids).inspect_err(|_| self.drop_backends(backends.iter().map(place)))
        });
        let slots = match written {
            Ok(slots) => slots,
            Err(error) => {
                // Nothing leads to a new id yet.
                new_id.into_iter().for_each(|id| self.service_ids.free(id, 1));
                return Err(error);
            }
        };
        let id = new_id.or_else(|| self.services.get(key).map(|s| s.id)).unwrap_or_default();
        if new_id.is_some() {
            self.maps.reset_service_count(id)?;
        }
        self.maps.set_service(id, slots)?;
        let places: Vec<_> = backends.iter().map(place).collect();
        if let Some(old) = self.services.insert(key.clone(), ServiceIds { id, slots, backends: places }) {
            self.retire(old.slots, old.backends);
        }
        Ok(())
    }

    fn remove_service(&mut self, key: &ServiceKey) -> Result<(), MapError> {
        if let Some(old) = self.services.remove(key) {
            self.limbo.services.push(old.id);
            self.retire(old.slots, old.backends);
        }
        Ok(())
    }

    /// Puts what an old run used in limbo.
    fn retire(&mut self, slots: Service, backends: Vec<(IpAddr, u16)>) {
        if slots.slot_count > 0 {
            self.limbo.slots.push(slots);
        }
        self.drop_backends(backends.into_iter());
    }

    /// Ids for `backends`, each written unless another service has it already. All or none are counted as used.
    fn write_backends(&mut self, backends: &[Backend]) -> Result<Vec<u32>, MapError> {
        let mut ids = Vec::with_capacity(backends.len());
        for (done, backend) in backends.iter().enumerate() {
            match self.write_backend(backend) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    self.drop_backends(backends[..done].iter().map(place));
                    return Err(error);
                }
            }
        }
        Ok(ids)
    }

    fn write_backend(&mut self, backend: &Backend) -> Result<u32, MapError> {
        if let Some(known) = self.backends.get_mut(&place(backend)) {
            known.users += 1;
            return Ok(known.id);
        }
        let id = self.allocate(Pool::Backends, 1)?;
        let value = maps::Backend { addr: addr::from_ip(backend.address), port: backend.port, _pad: 0 };
        if let Err(error) = self.maps.set_backend(id, value) {
            self.backend_ids.free(id, 1);
            return Err(error);
        }
        self.backends.insert(place(backend), BackendId { id, users: 1 });
        Ok(id)
    }

    fn drop_backends(&mut self, places: impl Iterator<Item = (IpAddr, u16)>) {
        for place in places {
            if let Some(known) = self.backends.get_mut(&place) {
                known.users -= 1;
                if known.users == 0 {
                    self.limbo.backends.push(known.id);
                    self.backends.remove(&place);
                }
            }
        }
    }

    fn write_slots(&mut self, backends: &[Backend], ids: &[u32]) -> Result<Service, MapError> {
        let slot_count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        if slot_count == 0 {
            return Ok(Service { slot_base: 0, slot_count: 0 });
        }
        let slot_base = self.allocate(Pool::Slots, slot_count)?;
        let weights: Vec<u32> = backends.iter().map(|b| b.weight).collect();
        for (offset, column) in (0..).zip(alias::table(&weights)) {
            let slot = maps::Slot {
                backend: ids[column.own],
                alias: ids[column.alias],
                threshold: column.threshold,
            };
            if let Err(error) = self.maps.set_slot(slot_base + offset, slot) {
                self.slot_ids.free(slot_base, slot_count);
                return Err(error);
            }
        }
        Ok(Service { slot_base, slot_count })
    }

    /// A run of free ids; when there is none, those in limbo are freed first.
    fn allocate(&mut self, pool: Pool, count: u32) -> Result<u32, MapError> {
        if let Some(id) = self.pool(pool).allocate(count) {
            return Ok(id);
        }
        self.settle()?;
        self.pool(pool).allocate(count).ok_or_else(|| pool.full(&self.capacities))
    }

    fn pool(&mut self, pool: Pool) -> &mut Runs {
        match pool {
            Pool::Services => &mut self.service_ids,
            Pool::Slots => &mut self.slot_ids,
            Pool::Backends => &mut self.backend_ids,
        }
    }

    fn set_frontend(&mut self, frontend: &Frontend, key: &ServiceKey) -> Result<(), MapError> {
        // A service that could not be set up has been reported; its frontend must not lead to another's id.
        let Some(service) = self.services.get(key).map(|s| s.id) else {
            return Err(MapError::Full {
                map: kmesh_se_common::limits::MAP_SERVICE,
                capacity: self.capacities.services,
                flag: "services",
            });
        };
        self.settle_hash_elements()?;
        let is_new = !self.actual.frontends.contains_key(frontend);
        let key = self.frontend_key(frontend);
        self.maps.insert_frontend(key, service)?;
        // The kernel reuses the element that a replaced value had.
        self.limbo.hash_elements |= !is_new;
        if is_new { self.add_row(&frontend.scope) } else { Ok(()) }
    }

    fn remove_frontend(&mut self, frontend: &Frontend) -> Result<(), MapError> {
        let key = self.frontend_key(frontend);
        self.maps.remove_frontend(key)?;
        self.limbo.hash_elements = true;
        self.drop_row(&frontend.scope)
    }

    fn set_address(&mut self, address: &Address, unlisted: Unlisted) -> Result<(), MapError> {
        self.settle_hash_elements()?;
        let is_new = !self.actual.addresses.contains_key(address);
        let key = AddressKey { scope: self.scope_id(&address.scope), addr: addr::from_ip(address.address) };
        let unlisted = match unlisted {
            Unlisted::Pass => UNLISTED_PASS,
            Unlisted::Refuse => UNLISTED_REFUSE,
        };
        self.maps.insert_address(key, maps::Address { unlisted })?;
        self.limbo.hash_elements |= !is_new;
        if is_new { self.add_row(&address.scope) } else { Ok(()) }
    }

    fn remove_address(&mut self, address: &Address) -> Result<(), MapError> {
        let key = AddressKey { scope: self.scope_id(&address.scope), addr: addr::from_ip(address.address) };
        self.maps.remove_address(key)?;
        self.limbo.hash_elements = true;
        self.drop_row(&address.scope)
    }

    /// An inserted element may be one that was just removed and is still being read: waits first.
    fn settle_hash_elements(&mut self) -> Result<(), MapError> {
        if self.limbo.hash_elements { self.settle() } else { Ok(()) }
    }

    fn frontend_key(&mut self, frontend: &Frontend) -> FrontendKey {
        FrontendKey {
            scope: self.scope_id(&frontend.scope),
            addr: addr::from_ip(frontend.address),
            port: frontend.port,
            proto: match frontend.transport {
                Transport::Tcp => 6,
                Transport::Udp => 17,
            },
            _pad: 0,
        }
    }

    /// The id of a scope. A namespace keeps its id for as long as the agent runs.
    fn scope_id(&mut self, scope: &Scope) -> u32 {
        match scope {
            Scope::Mesh => SCOPE_MESH,
            Scope::Namespace(namespace) => {
                let next = self.scopes.values().map(|s| s.id).max().unwrap_or(SCOPE_MESH) + 1;
                self.scopes.entry(namespace.clone()).or_insert(ScopeId { id: next, rows: 0 }).id
            }
        }
    }

    /// Gives ids to the namespaces that `rows` name; says whether there was a new one, to be saved before its rows are written.
    pub fn reserve_scopes(&mut self, rows: &Tables) -> bool {
        let before = self.scopes.len();
        let scopes: BTreeSet<&Scope> =
            rows.frontends.keys().map(|f| &f.scope).chain(rows.addresses.keys().map(|a| &a.scope)).collect();
        for scope in scopes {
            self.scope_id(scope);
        }
        self.scopes.len() > before
    }

    /// The same for the namespace of a client.
    pub fn reserve_scope(&mut self, namespace: &Namespace) -> bool {
        let before = self.scopes.len();
        self.scope_id(&Scope::Namespace(namespace.clone()));
        self.scopes.len() > before
    }

    fn add_row(&mut self, scope: &Scope) -> Result<(), MapError> {
        self.change_rows(scope, |rows| rows + 1)
    }

    fn drop_row(&mut self, scope: &Scope) -> Result<(), MapError> {
        self.change_rows(scope, |rows| rows.saturating_sub(1))
    }

    /// Keeps count of the rows of a namespace's own view; its workloads look there only while there are some.
    fn change_rows(&mut self, scope: &Scope, change: impl Fn(u32) -> u32) -> Result<(), MapError> {
        let Scope::Namespace(namespace) = scope else { return Ok(()) };
        let Some(entry) = self.scopes.get_mut(namespace) else { return Ok(()) };
        let before = entry.rows;
        entry.rows = change(before);
        if (before == 0) == (entry.rows == 0) {
            return Ok(());
        }
        let members: Vec<u64> = self
            .workloads()
            .filter(|(_, e)| e.namespace.as_ref() == Some(namespace))
            .map(|(c, _)| c)
            .collect();
        members.into_iter().try_for_each(|cgroup| self.write_workload(cgroup))
    }

    /// Enrols a cgroup, or changes its enrolment.
    ///
    /// # Errors
    /// The map is full, or cgroups are enrolled at too many depths; then the cgroup is not enrolled.
    pub fn enrol(&mut self, cgroup: u64, enrolment: Enrolment) -> Result<(), MapError> {
        let mut levels = self.levels();
        levels.insert(enrolment.level);
        if levels.len() > MAX_LEVELS {
            return Err(MapError::Levels);
        }
        let id = self.workloads.get(&cgroup).map_or(self.next_workload, |(id, _)| *id);
        let previous = self.workloads.insert(cgroup, (id, enrolment));
        if let Err(error) = self.settle_hash_elements().and_then(|()| self.write_workload(cgroup)) {
            match previous {
                Some(previous) => drop(self.workloads.insert(cgroup, previous)),
                None => drop(self.workloads.remove(&cgroup)),
            }
            return Err(error);
        }
        self.next_workload = self.next_workload.max(id + 1);
        self.write_levels()
    }

    /// Removes a cgroup. Its id may be used for another cgroup once this returns.
    ///
    /// # Errors
    /// The kernel refused; the cgroup may still be enrolled.
    pub fn unenrol(&mut self, cgroup: u64) -> Result<(), MapError> {
        if self.workloads.remove(&cgroup).is_none() {
            return Ok(());
        }
        self.maps.remove_workload(cgroup)?;
        self.limbo.hash_elements = true;
        self.write_levels()
    }

    fn write_workload(&mut self, cgroup: u64) -> Result<(), MapError> {
        let Some((id, enrolment)) = self.workloads.get(&cgroup).cloned() else { return Ok(()) };
        let mut workload =
            Workload { scope: SCOPE_MESH, id, flags: 0, dns_port: enrolment.dns_port, _pad: 0 };
        match &enrolment.namespace {
            None => workload.flags = WORKLOAD_EXEMPT,
            Some(namespace) => {
                workload.scope = self.scope_id(&Scope::Namespace(namespace.clone()));
                if self.scopes.get(namespace).is_some_and(|s| s.rows > 0) {
                    workload.flags = WORKLOAD_PRIVATE_VIEW;
                }
            }
        }
        self.maps.insert_workload(cgroup, workload)?;
        // The element of an earlier value may be used for the next one.
        self.limbo.hash_elements = true;
        Ok(())
    }

    fn levels(&self) -> BTreeSet<u8> {
        self.workloads.values().map(|(_, e)| e.level).collect()
    }

    fn write_levels(&mut self) -> Result<(), MapError> {
        let mut list = [LEVEL_END; MAX_LEVELS];
        for (place, level) in list.iter_mut().zip(self.levels().into_iter().rev()) {
            *place = level;
        }
        self.maps.set_levels(list)
    }
}

#[derive(Clone, Copy)]
enum Pool {
    Services,
    Slots,
    Backends,
}

impl Pool {
    fn full(self, capacities: &Capacities) -> MapError {
        use kmesh_se_common::limits as l;
        let (map, capacity, flag) = match self {
            Self::Services => (l::MAP_SERVICE, capacities.services, "services"),
            Self::Slots => (l::MAP_SLOT, capacities.slots, "slots"),
            Self::Backends => (l::MAP_BACKEND, capacities.backends, "backends"),
        };
        MapError::Full { map, capacity, flag }
    }
}

fn place(backend: &Backend) -> (IpAddr, u16) {
    (backend.address, backend.port)
}
