//! Services and waypoints with their slots and backends.
//!
//! In: what each service should lead to, and the replicas of each waypoint. Out: ids, and writes in the order that readers need. Never: a hash map.

use std::{collections::BTreeSet, net::IpAddr};

use kmesh_se_common::{
    addr,
    maps::{self, Service},
};

use super::{MapError, Maps, Pool, Sink, alias};
use crate::{
    desired::{Backend, LedTo, ServiceKey},
    model::WaypointName,
};

/// What the maps hold of a service or of a waypoint.
#[derive(Debug)]
pub(super) struct ServiceIds {
    pub(super) id: u32,
    pub(super) slots: Service,
    pub(super) backends: Vec<(IpAddr, u16)>,
    /// The waypoint that it is led to.
    pub(super) waypoint: Option<WaypointName>,
    /// How many frontends lead to it, and addresses; of a waypoint, how many services.
    pub(super) users: u32,
}

/// A backend, shared by all services that have it.
#[derive(Debug)]
pub(super) struct BackendId {
    pub(super) id: u32,
    pub(super) users: u32,
}

impl<M: Maps> Sink<M> {
    /// Writes the new backends and a new run of slots, or takes the waypoint; then leads the service there with one store.
    pub(super) fn set_service(&mut self, key: &ServiceKey, led_to: &LedTo) -> Result<(), MapError> {
        let (slots, backends) = match led_to {
            LedTo::Backends(backends) => (self.write_run(backends)?, backends.as_slice()),
            LedTo::Waypoint(waypoint, port) => {
                let id = self.waypoints.get(waypoint).ok_or(MapError::NoWaypoint)?.id;
                (Service::through(id, *port), &[][..])
            }
        };
        let old = self.services.get(key).map(|service| (service.id, service.users));
        let new = self.lead(old, slots, backends, led_to.waypoint().cloned())?;
        self.count_services(led_to.waypoint(), 1);
        if let Some(old) = self.services.insert(key.clone(), new) {
            self.count_services(old.waypoint.as_ref(), -1);
            self.retire(old.slots, old.backends.into_iter());
        }
        Ok(())
    }

    /// Writes the new replicas and a new run of slots, then leads all services of the waypoint to them with one store.
    pub(super) fn set_waypoint(
        &mut self,
        name: &WaypointName,
        replicas: &BTreeSet<IpAddr>,
    ) -> Result<(), MapError> {
        // The port is the service's.
        let replica = |address: &IpAddr| Backend { address: *address, port: 0, weight: 1, source: "".into() };
        let replicas: Vec<_> = replicas.iter().map(replica).collect();
        let slots = self.write_run(&replicas)?;
        let old = self.waypoints.get(name).map(|waypoint| (waypoint.id, waypoint.users));
        let new = self.lead(old, slots, &replicas, None)?;
        if let Some(old) = self.waypoints.insert(name.clone(), new) {
            self.retire(old.slots, old.backends.into_iter());
        }
        Ok(())
    }

    pub(super) fn remove_waypoint(&mut self, name: &WaypointName) -> Result<(), MapError> {
        if self.waypoints.get(name).is_some_and(|waypoint| waypoint.users > 0) {
            return Err(MapError::StillUsed);
        }
        if let Some(old) = self.waypoints.remove(name) {
            self.limbo.services.push(old.id);
            self.retire(old.slots, old.backends.into_iter());
        }
        Ok(())
    }

    /// Leads a service or waypoint, by its id and number of users if it is there already, to `slots`. If that fails, they are free
    /// again.
    fn lead(
        &mut self,
        old: Option<(u32, u32)>,
        slots: Service,
        backends: &[Backend],
        waypoint: Option<WaypointName>,
    ) -> Result<ServiceIds, MapError> {
        let written = match old {
            Some((id, _)) => self.maps.set_service(id, slots).map(|()| id),
            None => self.new_service(slots),
        };
        match written {
            Ok(id) => Ok(ServiceIds {
                id,
                slots,
                backends: backends.iter().map(place).collect(),
                waypoint,
                users: old.map_or(0, |(_, users)| users),
            }),
            Err(error) => {
                self.retire(slots, backends.iter().map(place));
                Err(error)
            }
        }
    }

    pub(super) fn remove_service(&mut self, key: &ServiceKey) -> Result<(), MapError> {
        if self.services.get(key).is_some_and(|s| s.users > 0) {
            return Err(MapError::StillUsed);
        }
        if let Some(old) = self.services.remove(key) {
            self.limbo.services.push(old.id);
            self.count_services(old.waypoint.as_ref(), -1);
            self.retire(old.slots, old.backends.into_iter());
        }
        Ok(())
    }

    /// Counts the services that are led to a waypoint.
    pub(super) fn count_services(&mut self, waypoint: Option<&WaypointName>, change: i32) {
        if let Some(waypoint) = waypoint.and_then(|name| self.waypoints.get_mut(name)) {
            waypoint.users = waypoint.users.saturating_add_signed(change);
        }
    }

    /// Counts what leads to a service.
    pub(super) fn count_use(&mut self, key: Option<&ServiceKey>, change: i32) {
        if let Some(service) = key.and_then(|key| self.services.get_mut(key)) {
            service.users = service.users.saturating_add_signed(change);
        }
    }

    /// A new service or waypoint that leads to `slots`; nothing leads to it yet.
    fn new_service(&mut self, slots: Service) -> Result<u32, MapError> {
        let id = self.allocate(Pool::Services, 1)?;
        let written = self.maps.reset_service_count(id).and_then(|()| self.maps.set_service(id, slots));
        if let Err(error) = written {
            self.service_ids.free(id, 1);
            return Err(error);
        }
        Ok(id)
    }

    /// A new run of slots for `backends`, which are counted as used.
    fn write_run(&mut self, backends: &[Backend]) -> Result<Service, MapError> {
        let mut ids = Vec::with_capacity(backends.len());
        let mut write = || {
            for backend in backends {
                ids.push(self.write_backend(backend)?);
            }
            self.write_slots(backends, &ids)
        };
        let written = write();
        written.inspect_err(|_| self.drop_backends(backends[..ids.len()].iter().map(place)))
    }

    /// The id of a backend, written unless another service has it already.
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

    /// Writes a run of slots for each family, IPv4 first.
    fn write_slots(&mut self, backends: &[Backend], ids: &[u32]) -> Result<Service, MapError> {
        let of = |v4: bool| -> Vec<(u32, u32)> {
            let family = backends.iter().zip(ids).filter(|(backend, _)| backend.address.is_ipv4() == v4);
            family.map(|(backend, id)| (*id, backend.weight)).collect()
        };
        let (v4, v6) = (of(true), of(false));
        let count = |run: &[(u32, u32)]| match u16::try_from(run.len()) {
            Ok(count) if count <= Service::MAX_COUNT => Ok(count),
            _ => Err(MapError::Service),
        };
        let (v4_count, v6_count) = (count(&v4)?, count(&v6)?);
        let mut service = Service { slot_base: 0, v4_count, v6_count };
        if service.slot_count() == 0 {
            return Ok(Service::EMPTY);
        }
        service.slot_base = self.allocate(Pool::Slots, service.slot_count())?;
        let columns = [v4, v6].into_iter().flat_map(|run| {
            let weights: Vec<u32> = run.iter().map(|(_, weight)| *weight).collect();
            alias::table(&weights).into_iter().map(move |column| maps::Slot {
                backend: run[column.own].0,
                alias: run[column.alias].0,
                threshold: column.threshold,
            })
        });
        for (slot, value) in (service.slot_base..).zip(columns) {
            if let Err(error) = self.maps.set_slot(slot, value) {
                self.slot_ids.free(service.slot_base, service.slot_count());
                return Err(error);
            }
        }
        Ok(service)
    }

    /// Puts a run that no service leads to any more, and the backends that only it used, in limbo.
    fn retire(&mut self, slots: Service, backends: impl Iterator<Item = (IpAddr, u16)>) {
        if slots.slot_count() > 0 {
            self.limbo.slots.push(slots);
        }
        self.drop_backends(backends);
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
}

fn place(backend: &Backend) -> (IpAddr, u16) {
    (backend.address, backend.port)
}
