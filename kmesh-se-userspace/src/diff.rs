//! The difference between what the maps hold and what they should hold.
//!
//! In: two [`Tables`]. Out: [`MapOp`]s that turn the first into the second. Never: an effect.

use serde::Serialize;

use crate::desired::{Address, Backend, Frontend, ServiceKey, Tables, Unlisted};

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
    SetAddress(Address, Unlisted),
    /// Forgets an address.
    RemoveAddress(Address),
}

/// What to change so that `actual` becomes `desired`. Services come before the frontends that need them, and are
/// removed after the frontends that used them.
#[must_use]
pub fn diff(actual: &Tables, desired: &Tables) -> Vec<MapOp> {
    let mut ops = Vec::new();
    for (key, backends) in &desired.services {
        if actual.services.get(key) != Some(backends) {
            ops.push(MapOp::SetService(key.clone(), backends.clone()));
        }
    }
    for frontend in actual.frontends.keys().filter(|f| !desired.frontends.contains_key(f)) {
        ops.push(MapOp::RemoveFrontend(frontend.clone()));
    }
    for address in actual.addresses.keys().filter(|a| !desired.addresses.contains_key(a)) {
        ops.push(MapOp::RemoveAddress(address.clone()));
    }
    for (address, unlisted) in &desired.addresses {
        if actual.addresses.get(address) != Some(unlisted) {
            ops.push(MapOp::SetAddress(address.clone(), *unlisted));
        }
    }
    for (frontend, service) in &desired.frontends {
        if actual.frontends.get(frontend) != Some(service) {
            ops.push(MapOp::SetFrontend(frontend.clone(), service.clone()));
        }
    }
    for key in actual.services.keys().filter(|k| !desired.services.contains_key(k)) {
        ops.push(MapOp::RemoveService(key.clone()));
    }
    ops
}

impl Tables {
    /// Applies one change.
    pub fn apply(&mut self, op: &MapOp) {
        match op.clone() {
            MapOp::SetService(key, backends) => drop(self.services.insert(key, backends)),
            MapOp::RemoveService(key) => drop(self.services.remove(&key)),
            MapOp::SetFrontend(frontend, key) => drop(self.frontends.insert(frontend, key)),
            MapOp::RemoveFrontend(frontend) => drop(self.frontends.remove(&frontend)),
            MapOp::SetAddress(address, unlisted) => drop(self.addresses.insert(address, unlisted)),
            MapOp::RemoveAddress(address) => drop(self.addresses.remove(&address)),
        }
    }
}
