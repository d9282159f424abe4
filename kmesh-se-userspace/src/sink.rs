//! The only writer of the maps: turns [`MapOp`]s in words into map elements with ids.
//!
//! In: changes and enrolments. Out: writes through [`Maps`], in an order in which no reader ever meets a freed element.
//! Never: a decision about what the maps should hold.

mod alias;
pub mod aya;
mod enrolments;
mod ids;
pub mod memory;
mod restore;
mod rows;
mod services;
mod words;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use kmesh_se_common::{
    limits::MAX_LEVELS,
    maps::{self, AddressKey, Cidr, CidrKey, FrontendKey, Service, Workload},
};

use self::{
    enrolments::ScopeId,
    ids::Runs,
    services::{BackendId, ServiceIds},
};
pub use self::{
    restore::Contents,
    rows::{range_at, unlisted_of},
};
use crate::{
    desired::{ServiceKey, Tables},
    diff::MapOp,
    model::{Namespace, WaypointName},
};

/// The maps as the sink needs them: one element at a time.
pub trait Maps {
    /// Writes an element of `kmse_backend`.
    fn set_backend(&mut self, id: u32, backend: maps::Backend) -> Result<(), MapError>;
    /// Writes an element of `kmse_slot`.
    fn set_slot(&mut self, id: u32, slot: maps::Slot) -> Result<(), MapError>;
    /// Writes the slots' word of a service or waypoint in one store.
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
    /// Adds or replaces a range: the key's address and the value's are its first.
    fn insert_cidr(&mut self, key: CidrKey, cidr: Cidr) -> Result<(), MapError>;
    /// Removes a range of so many leading bits; one that is not there is no error.
    fn remove_cidr(&mut self, key: CidrKey, prefix: u8) -> Result<(), MapError>;
    /// Tells the programs how many ranges there are: they look for one only if there are any.
    fn set_cidr_count(&mut self, count: u32) -> Result<(), MapError>;
    /// Enrols a cgroup.
    fn insert_workload(&mut self, cgroup: u64, workload: Workload) -> Result<(), MapError>;
    /// Removes a cgroup; one that is not there is no error.
    fn remove_workload(&mut self, cgroup: u64) -> Result<(), MapError>;
    /// Writes the depths at which cgroups are enrolled.
    fn set_levels(&mut self, levels: [u8; MAX_LEVELS]) -> Result<(), MapError>;
    /// Everything that the maps hold, for an agent that takes them over.
    ///
    /// # Errors
    /// The kernel refused to read.
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
    /// The service that a frontend or address needs is not there, because it could not be written.
    #[error("the service of this address could not be written; its own error says why")]
    NoService,
    /// The waypoint that a service is to be led to is not there, because it could not be written.
    #[error("the waypoint of this service could not be written; its own error says why")]
    NoWaypoint,
    /// A frontend or address that could not be changed still leads to the service, or a service to the waypoint.
    #[error("what could not be changed still leads to this service or waypoint; its own error says why")]
    StillUsed,
    /// A service has more backends than its run of slots can have.
    #[error("a service has more than {} backends of one family; list fewer", Service::MAX_COUNT)]
    Service,
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
            Self::NoService => "ServiceNotWritten",
            Self::NoWaypoint => "WaypointNotWritten",
            Self::StillUsed => "ServiceStillUsed",
            Self::Service => "TooManyBackends",
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
    pub cidrs: u32,
    pub services: u32,
    pub slots: u32,
    pub backends: u32,
    pub connections: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        use kmesh_se_common::limits as l;
        Self {
            workloads: l::MAX_WORKLOADS,
            frontends: l::MAX_FRONTENDS,
            addresses: l::MAX_ADDRESSES,
            cidrs: l::MAX_CIDRS,
            services: l::MAX_SERVICES,
            slots: l::MAX_SLOTS,
            backends: l::MAX_BACKENDS,
            connections: l::MAX_CONNECTIONS,
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
    /// How many of the addresses in `actual` are ranges.
    cidrs: u32,
    services: HashMap<ServiceKey, ServiceIds>,
    waypoints: HashMap<WaypointName, ServiceIds>,
    backends: HashMap<(IpAddr, u16), BackendId>,
    scopes: BTreeMap<Namespace, ScopeId>,
    workloads: BTreeMap<u64, (u32, Enrolment)>,
    next_workload: u32,
    service_ids: Runs,
    slot_ids: Runs,
    backend_ids: Runs,
    limbo: Limbo,
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
            cidrs: 0,
            services: HashMap::new(),
            waypoints: HashMap::new(),
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

    /// The maps themselves, for what is no row of theirs.
    pub fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
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

    /// As what a cgroup is enrolled.
    #[must_use]
    pub fn enrolment(&self, cgroup: u64) -> Option<&Enrolment> {
        self.workloads.get(&cgroup).map(|(_, enrolment)| enrolment)
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
            of(l::MAP_ADDRESS, self.actual.addresses.len() - self.cidrs as usize, self.capacities.addresses),
            of(l::MAP_CIDR, self.cidrs as usize, self.capacities.cidrs),
            of(l::MAP_SERVICE, self.service_ids.used() as usize, self.capacities.services),
            of(l::MAP_SLOT, self.slot_ids.used() as usize, self.capacities.slots),
            of(l::MAP_BACKEND, self.backend_ids.used() as usize, self.capacities.backends),
        ]
    }

    /// Applies `ops` in order. An operation that fails is reported and leaves its row as it was; the others go on. What
    /// failed before the removals is tried again after them: they may have made room.
    pub fn apply(&mut self, ops: Vec<MapOp>) -> Vec<Failure> {
        let (mut failures, has_removed) = self.pass(ops);
        if has_removed && !failures.is_empty() {
            let again = failures.into_iter().map(|failure| failure.op).collect();
            (failures, _) = self.pass(again);
        }
        if let Err(error) = self.settle() {
            tracing::warn!(%error, "could not wait for readers; freed ids stay unused");
        }
        failures
    }

    /// Applies each of `ops` once; says what failed and whether something was removed.
    fn pass(&mut self, ops: Vec<MapOp>) -> (Vec<Failure>, bool) {
        let mut failures = Vec::new();
        let mut has_removed = false;
        for op in ops {
            let done = match &op {
                MapOp::SetWaypoint(name, replicas) => self.set_waypoint(name, replicas),
                MapOp::RemoveWaypoint(name) => self.remove_waypoint(name),
                MapOp::SetService(key, led_to) => self.set_service(key, led_to),
                MapOp::RemoveService(key) => self.remove_service(key),
                MapOp::SetFrontend(frontend, key) => self.set_frontend(frontend, key),
                MapOp::RemoveFrontend(frontend) => self.remove_frontend(frontend),
                MapOp::SetAddress(address, rule) => self.set_address(address, rule),
                MapOp::RemoveAddress(address) => self.remove_address(address),
            };
            match done {
                Ok(()) => {
                    has_removed |= matches!(
                        op,
                        MapOp::RemoveWaypoint(_)
                            | MapOp::RemoveService(_)
                            | MapOp::RemoveFrontend(_)
                            | MapOp::RemoveAddress(_)
                    );
                    self.actual.apply(&op);
                }
                Err(error) => failures.push(Failure { op, error }),
            }
        }
        (failures, has_removed)
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
        self.limbo.hash_elements = false;
        for run in std::mem::take(&mut self.limbo.slots) {
            self.slot_ids.free(run.slot_base, run.slot_count());
        }
        for id in std::mem::take(&mut self.limbo.backends) {
            self.backend_ids.free(id, 1);
        }
        while let Some(id) = self.limbo.services.last().copied() {
            self.maps.set_service(id, Service::EMPTY)?;
            self.service_ids.free(id, 1);
            self.limbo.services.pop();
        }
        Ok(())
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
