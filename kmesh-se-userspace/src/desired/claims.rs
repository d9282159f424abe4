//! All hosts together: who has an address that several hosts claim.
//!
//! In: [`HostDesired`] values, host by host. Out: the rows that a change touches. Never: a look at hosts that the
//! change does not touch.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Address, AddressRange, Few, Frontend, HostDesired, Keys, LedTo, Scope, ServiceKey, Tables};
use crate::model::{HostName, ObjectRef, Transport, WaypointName};

/// Entries of the client's own namespace first, then older ones, then by name.
type Claim = (bool, Option<jiff::Timestamp>, Option<ObjectRef>, HostName);

/// What every host wants, and who wins what several want.
#[derive(Debug, Default)]
pub struct Desired {
    hosts: BTreeMap<HostName, HostDesired>,
    frontends: BTreeMap<Frontend, Few<Claim, ()>>,
    addresses: BTreeMap<Address, Few<Claim, ()>>,
    /// Those of `addresses` by who has them dialled straight.
    straight: BTreeMap<Address, Few<Claim, ()>>,
    /// Address -> the hosts that have an endpoint there.
    dialled: BTreeMap<IpAddr, Few<HostName, ()>>,
    /// Waypoint -> the hosts with a service that is led to it.
    through: BTreeMap<WaypointName, Few<HostName, ()>>,
}

impl Desired {
    /// Replaces what `host` wants; `None` removes it. Returns the rows that may have changed: all that the host has
    /// wanted and wants, and those that others want at an address that it has dialled straight. [`Desired::rows`] says what
    /// has become of them.
    pub fn set(&mut self, host: &HostName, desired: Option<HostDesired>) -> Keys {
        let mut touched = Keys::default();
        if let Some(previous) = self.hosts.remove(host) {
            for frontend in previous.tables.frontends.keys() {
                release(&mut self.frontends, frontend, &claim(host, &previous, &frontend.scope));
            }
            for address in previous.tables.addresses.keys() {
                let claim = claim(host, &previous, &address.scope);
                release(&mut self.addresses, address, &claim);
                release(&mut self.straight, address, &claim);
            }
            for address in previous.dialled.keys() {
                release(&mut self.dialled, address, host);
            }
            for waypoint in previous.tables.services.values().filter_map(LedTo::waypoint) {
                release(&mut self.through, waypoint, host);
            }
            touched.frontends.extend(self.frontends_beside(&previous));
            touched.extend(previous.tables.into_keys());
        }
        if let Some(desired) = desired {
            for frontend in desired.tables.frontends.keys() {
                let claim = claim(host, &desired, &frontend.scope);
                self.frontends.entry(frontend.clone()).or_default().insert(claim, ());
            }
            for address in desired.tables.addresses.keys() {
                let claim = claim(host, &desired, &address.scope);
                if desired.straight.contains(&address.scope) {
                    self.straight.entry(address.clone()).or_default().insert(claim.clone(), ());
                }
                self.addresses.entry(address.clone()).or_default().insert(claim, ());
            }
            for address in desired.dialled.keys() {
                self.dialled.entry(*address).or_default().insert(host.clone(), ());
            }
            for waypoint in desired.tables.services.values().filter_map(LedTo::waypoint) {
                self.through.entry(waypoint.clone()).or_default().insert(host.clone(), ());
            }
            touched.frontends.extend(self.frontends_beside(&desired));
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
    /// row the oldest wins; who has an address dialled straight claims all of its ports. A waypoint is there while a service is led
    /// to it, with these replicas.
    #[must_use]
    pub fn rows<'a>(&self, keys: &Keys, replicas: impl Fn(&WaypointName) -> &'a [IpAddr]) -> Tables {
        let tables = |host: &HostName| self.hosts.get(host).map(|desired| &desired.tables);
        let mut rows = Tables::default();
        for key in &keys.services {
            if let Some(led_to) = tables(&key.host).and_then(|t| t.services.get(key)) {
                rows.services.insert(key.clone(), led_to.clone());
            }
        }
        for waypoint in keys.waypoints.iter().filter(|waypoint| self.is_used(waypoint)) {
            rows.waypoints.insert(waypoint.clone(), replicas(waypoint).iter().copied().collect());
        }
        for frontend in &keys.frontends {
            if let Some(key) = self.winner_of(frontend) {
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

    /// The waypoints that services are led to.
    pub fn waypoints(&self) -> impl Iterator<Item = &WaypointName> {
        self.through.keys()
    }

    /// The hosts with a service that is led to `waypoint`.
    pub fn hosts_through(&self, waypoint: &WaypointName) -> impl Iterator<Item = &HostName> {
        self.through.get(waypoint).into_iter().flat_map(Few::keys)
    }

    /// Whether a service is led to `waypoint`.
    #[must_use]
    pub fn is_used(&self, waypoint: &WaypointName) -> bool {
        self.through.contains_key(waypoint)
    }

    /// Whether some host has an endpoint at `address`.
    #[must_use]
    pub fn is_dialled(&self, address: IpAddr) -> bool {
        self.dialled.contains_key(&address)
    }

    /// The hosts that have an endpoint at one of the addresses in `keys`, whose backends may follow from theirs.
    pub fn followers<'a>(&'a self, keys: &'a Keys) -> impl Iterator<Item = &'a HostName> {
        keys.addresses
            .iter()
            .filter_map(|address| self.dialled.get(&address.address.single()?))
            .flat_map(Few::keys)
    }

    /// The service that `frontend` is to lead to: that of the oldest claim, unless an older host has the address dialled
    /// straight.
    #[must_use]
    pub fn winner_of(&self, frontend: &Frontend) -> Option<&ServiceKey> {
        let claim = self.frontends.get(frontend)?.keys().next()?;
        if self.older_straight(claim, frontend).is_some() {
            return None;
        }
        let (.., host) = claim;
        self.hosts.get(host)?.tables.frontends.get(frontend)
    }

    /// The host that has `frontend`'s address dialled straight, with an older claim than that of any service.
    #[must_use]
    pub fn straight_at(&self, frontend: &Frontend) -> Option<&HostName> {
        self.older_straight(self.frontends.get(frontend)?.keys().next()?, frontend)
    }

    fn older_straight(&self, claim: &Claim, frontend: &Frontend) -> Option<&HostName> {
        let address = Address { scope: frontend.scope.clone(), address: frontend.address };
        let oldest = self.straight.get(&address)?.keys().next()?;
        (oldest < claim).then_some(&oldest.3)
    }

    /// The frontends that anybody wants at the addresses that a host has dialled straight.
    fn frontends_beside(&self, host: &HostDesired) -> impl Iterator<Item = Frontend> {
        let addresses = host.tables.addresses.keys().filter(|address| host.straight.contains(&address.scope));
        addresses.flat_map(|Address { scope, address }| {
            let end = |port, transport| Frontend { scope: scope.clone(), address: *address, port, transport };
            let of_address = end(0, Transport::Tcp)..=end(u16::MAX, Transport::Udp);
            self.frontends.range(of_address).map(|(frontend, _)| frontend.clone())
        })
    }

    /// The host that decides about `address`, and nothing narrower.
    #[must_use]
    pub fn user_of(&self, address: &Address) -> Option<&HostName> {
        winner(&self.addresses, address)
    }

    /// The host that decides about connections to `address` of a client that looks in `scopes`, in this order, and the
    /// address or range by which it does: the narrowest that somebody wants.
    pub fn user_at<'a>(
        &self,
        scopes: impl Iterator<Item = &'a Scope> + Clone,
        address: IpAddr,
    ) -> Option<(&HostName, AddressRange)> {
        AddressRange::around(address).find_map(|address| {
            let user = |scope: &Scope| self.user_of(&Address { scope: scope.clone(), address });
            Some((scopes.clone().find_map(user)?, address))
        })
    }

    /// The addresses and ranges of `scope` that lie in `range` but are not all of it, each with the host that decides about it.
    pub fn within(
        &self,
        scope: &Scope,
        range: AddressRange,
    ) -> impl Iterator<Item = (AddressRange, &HostName)> {
        let from = Address { scope: scope.clone(), address: range };
        let rows = self.addresses.range(from..);
        let rows = rows.take_while(move |(at, _)| at.scope == *scope && range.contains(&at.address));
        rows.filter(move |(at, _)| at.address != range)
            .filter_map(|(at, claims)| Some((at.address, claims.keys().next().map(|(.., host)| host)?)))
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

fn winner<'a, K: Ord>(claims: &'a BTreeMap<K, Few<Claim, ()>>, key: &K) -> Option<&'a HostName> {
    claims.get(key)?.keys().next().map(|(.., host)| host)
}

fn release<K: Ord, V: Ord>(claims: &mut BTreeMap<K, Few<V, ()>>, key: &K, claim: &V) {
    if let Some(set) = claims.get_mut(key) {
        set.remove(claim);
        if set.is_empty() {
            claims.remove(key);
        }
    }
}
