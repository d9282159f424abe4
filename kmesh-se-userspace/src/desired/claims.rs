//! All hosts together: who has an address that several hosts claim.
//!
//! In: [`HostDesired`] values, host by host. Out: the rows that a change touches. Never: a look at hosts that the
//! change does not touch.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Address, Frontend, HostDesired, Keys, Scope, ServiceKey, Tables};
use crate::model::{HostName, ObjectRef};

/// Entries of the client's own namespace first, then older ones, then by name.
type Claim = (bool, Option<jiff::Timestamp>, Option<ObjectRef>, HostName);

/// What every host wants, and who wins what several want.
#[derive(Debug, Default)]
pub struct Desired {
    hosts: BTreeMap<HostName, HostDesired>,
    frontends: BTreeMap<Frontend, BTreeSet<Claim>>,
    addresses: BTreeMap<Address, BTreeSet<Claim>>,
    /// Address -> the hosts that have an endpoint there.
    dialled: BTreeMap<IpAddr, BTreeSet<HostName>>,
}

impl Desired {
    /// Replaces what `host` wants; `None` removes it. Returns the rows that may have changed: all that the host has
    /// wanted and wants. [`Desired::rows`] says what has become of them.
    pub fn set(&mut self, host: &HostName, desired: Option<HostDesired>) -> Keys {
        let mut touched = Keys::default();
        if let Some(previous) = self.hosts.remove(host) {
            for frontend in previous.tables.frontends.keys() {
                release(&mut self.frontends, frontend, &claim(host, &previous, &frontend.scope));
            }
            for address in previous.tables.addresses.keys() {
                release(&mut self.addresses, address, &claim(host, &previous, &address.scope));
            }
            for address in &previous.dialled {
                release(&mut self.dialled, address, host);
            }
            touched.extend(previous.tables.into_keys());
        }
        if let Some(desired) = desired {
            for frontend in desired.tables.frontends.keys() {
                let claim = claim(host, &desired, &frontend.scope);
                self.frontends.entry(frontend.clone()).or_default().insert(claim);
            }
            for address in desired.tables.addresses.keys() {
                let claim = claim(host, &desired, &address.scope);
                self.addresses.entry(address.clone()).or_default().insert(claim);
            }
            for address in &desired.dialled {
                self.dialled.entry(*address).or_default().insert(host.clone());
            }
            touched.extend(desired.tables.clone().into_keys());
            self.hosts.insert(host.clone(), desired);
        }
        touched
    }

    /// What `host` wants.
    #[must_use]
    pub fn get(&self, host: &HostName) -> Option<&HostDesired> {
        self.hosts.get(host)
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = (&HostName, &HostDesired)> {
        self.hosts.iter()
    }

    /// What the maps should hold in the rows `keys`; a row that is absent should not be there. Of several claims to a
    /// row the oldest wins.
    #[must_use]
    pub fn rows(&self, keys: &Keys) -> Tables {
        let tables = |host: &HostName| self.hosts.get(host).map(|desired| &desired.tables);
        let mut rows = Tables::default();
        for key in &keys.services {
            if let Some(backends) = tables(&key.host).and_then(|t| t.services.get(key)) {
                rows.services.insert(key.clone(), backends.clone());
            }
        }
        for frontend in &keys.frontends {
            let winner = winner(&self.frontends, frontend).and_then(tables);
            if let Some(key) = winner.and_then(|t| t.frontends.get(frontend)) {
                rows.frontends.insert(frontend.clone(), key.clone());
            }
        }
        for address in &keys.addresses {
            let winner = winner(&self.addresses, address).and_then(tables);
            if let Some(rule) = winner.and_then(|t| t.addresses.get(address)) {
                rows.addresses.insert(address.clone(), rule.clone());
            }
        }
        rows
    }

    /// The hosts that have an endpoint at one of the addresses in `keys`, whose backends may follow from theirs.
    pub fn followers<'a>(&'a self, keys: &'a Keys) -> impl Iterator<Item = &'a HostName> {
        keys.addresses.iter().filter_map(|address| self.dialled.get(&address.address)).flatten()
    }

    /// The service that `frontend` is to lead to: that of the oldest claim.
    #[must_use]
    pub fn winner_of(&self, frontend: &Frontend) -> Option<&ServiceKey> {
        let (.., host) = self.frontends.get(frontend)?.first()?;
        self.hosts.get(host)?.tables.frontends.get(frontend)
    }

    /// The host that decides about `address`.
    #[must_use]
    pub fn user_of(&self, address: &Address) -> Option<&HostName> {
        winner(&self.addresses, address)
    }
}

fn claim(host: &HostName, desired: &HostDesired, scope: &Scope) -> Claim {
    let (created, object) = desired.ages.get(scope).cloned().unzip();
    let is_foreign = match (scope, &object) {
        (Scope::Namespace(namespace), Some(object)) => object.namespace != *namespace,
        _ => false,
    };
    (is_foreign, created.flatten(), object, host.clone())
}

fn winner<'a, K: Ord>(claims: &'a BTreeMap<K, BTreeSet<Claim>>, key: &K) -> Option<&'a HostName> {
    claims.get(key)?.first().map(|(.., host)| host)
}

fn release<K: Ord, V: Ord>(claims: &mut BTreeMap<K, BTreeSet<V>>, key: &K, claim: &V) {
    if let Some(set) = claims.get_mut(key) {
        set.remove(claim);
        if set.is_empty() {
            claims.remove(key);
        }
    }
}
