//! The difference between what the maps hold and what they should hold.
//!
//! In: two [`Tables`]. Out: [`MapOp`]s that turn the first into the second. Never: an effect.

use std::{collections::BTreeSet, net::IpAddr};

use serde::Serialize;

use crate::{
    desired::{Address, AddressRule, Few, Frontend, LedTo, ServiceKey, Tables},
    model::WaypointName,
};

/// One change to the maps, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum MapOp {
    /// Gives a waypoint these replicas, all at once.
    SetWaypoint(WaypointName, BTreeSet<IpAddr>),
    /// Removes a waypoint that no service is led to any more.
    RemoveWaypoint(WaypointName),
    /// Gives a service these backends or this waypoint, all at once.
    SetService(ServiceKey, LedTo),
    /// Removes a service that no frontend leads to any more.
    RemoveService(ServiceKey),
    /// Leads a frontend to a service.
    SetFrontend(Frontend, ServiceKey),
    /// Removes a frontend.
    RemoveFrontend(Frontend),
    /// Makes an address known.
    SetAddress(Address, AddressRule),
    /// Forgets an address.
    RemoveAddress(Address),
}

/// What to change so that `actual` becomes `desired`. The new is made before the old is broken: a waypoint comes before the
/// services that need it and goes after those that used it, and so does a service before and after its frontends; an address is
/// known only while its frontends are there, so that a port is never refused because its row is still to come.
#[must_use]
pub fn diff(actual: &Tables, desired: &Tables) -> Vec<MapOp> {
    let mut ops = Vec::new();
    let waypoints = changed(&actual.waypoints, &desired.waypoints);
    ops.extend(waypoints.map(|(name, replicas)| MapOp::SetWaypoint(name.clone(), replicas.clone())));
    let services = changed(&actual.services, &desired.services);
    ops.extend(services.map(|(key, led_to)| MapOp::SetService(key.clone(), led_to.clone())));
    let frontends = changed(&actual.frontends, &desired.frontends);
    ops.extend(frontends.map(|(frontend, key)| MapOp::SetFrontend(frontend.clone(), key.clone())));
    let addresses = changed(&actual.addresses, &desired.addresses);
    ops.extend(addresses.map(|(address, rule)| MapOp::SetAddress(address.clone(), rule.clone())));
    ops.extend(gone(&actual.addresses, &desired.addresses).cloned().map(MapOp::RemoveAddress));
    ops.extend(gone(&actual.frontends, &desired.frontends).cloned().map(MapOp::RemoveFrontend));
    ops.extend(gone(&actual.services, &desired.services).cloned().map(MapOp::RemoveService));
    ops.extend(gone(&actual.waypoints, &desired.waypoints).cloned().map(MapOp::RemoveWaypoint));
    ops
}

/// The rows of `new` that `old` does not have as they are.
fn changed<'a, K: Ord, V: PartialEq>(
    old: &'a Few<K, V>,
    new: &'a Few<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    new.iter().filter(|(key, value)| old.get(key) != Some(value))
}

/// The rows of `old` that `new` does not have.
fn gone<'a, K: Ord, V>(old: &'a Few<K, V>, new: &'a Few<K, V>) -> impl Iterator<Item = &'a K> {
    old.keys().filter(|key| !new.contains_key(key))
}

impl Tables {
    /// Applies one change.
    pub fn apply(&mut self, op: &MapOp) {
        match op.clone() {
            MapOp::SetWaypoint(name, replicas) => drop(self.waypoints.insert(name, replicas)),
            MapOp::RemoveWaypoint(name) => drop(self.waypoints.remove(&name)),
            MapOp::SetService(key, led_to) => drop(self.services.insert(key, led_to)),
            MapOp::RemoveService(key) => drop(self.services.remove(&key)),
            MapOp::SetFrontend(frontend, key) => drop(self.frontends.insert(frontend, key)),
            MapOp::RemoveFrontend(frontend) => drop(self.frontends.remove(&frontend)),
            MapOp::SetAddress(address, rule) => drop(self.addresses.insert(address, rule)),
            MapOp::RemoveAddress(address) => drop(self.addresses.remove(&address)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
