//! The difference between what the maps hold and what they should hold.
//!
//! In: two [`Tables`]. Out: [`MapOp`]s that turn the first into the second. Never: an effect.

use serde::Serialize;

use crate::desired::{Address, AddressRule, Backend, Few, Frontend, ServiceKey, Tables};

/// One change to the maps, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum MapOp {
    /// Gives a service these backends, all at once.
    SetService(ServiceKey, Vec<Backend>),
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

/// What to change so that `actual` becomes `desired`. The new is made before the old is broken: a service comes before
/// the frontends that need it and goes after those that used it; an address is known only while its frontends are there,
/// so that a port is never refused because its row is still to come.
#[must_use]
pub fn diff(actual: &Tables, desired: &Tables) -> Vec<MapOp> {
    let mut ops = Vec::new();
    let services = changed(&actual.services, &desired.services);
    ops.extend(services.map(|(key, backends)| MapOp::SetService(key.clone(), backends.clone())));
    let frontends = changed(&actual.frontends, &desired.frontends);
    ops.extend(frontends.map(|(frontend, key)| MapOp::SetFrontend(frontend.clone(), key.clone())));
    let addresses = changed(&actual.addresses, &desired.addresses);
    ops.extend(addresses.map(|(address, rule)| MapOp::SetAddress(address.clone(), rule.clone())));
    ops.extend(gone(&actual.addresses, &desired.addresses).cloned().map(MapOp::RemoveAddress));
    ops.extend(gone(&actual.frontends, &desired.frontends).cloned().map(MapOp::RemoveFrontend));
    ops.extend(gone(&actual.services, &desired.services).cloned().map(MapOp::RemoveService));
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
            MapOp::SetService(key, backends) => drop(self.services.insert(key, backends)),
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
