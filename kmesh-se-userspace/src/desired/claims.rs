//! All hosts together: who has an address that several hosts claim.
//!
//! In: [`HostDesired`] values, host by host. Out: what a change to one host changes in the tables. Never: a look at
//! hosts that the change does not touch.

use std::collections::{BTreeMap, BTreeSet};

use super::{Address, Frontend, HostDesired, ServiceKey, Tables};
use crate::model::{HostName, ObjectRef};

/// Older entries first, then by name.
type Claim = (Option<jiff::Timestamp>, Option<ObjectRef>, HostName);

/// What every host wants, and who wins what several want.
#[derive(Debug, Default)]
pub struct Desired {
    hosts: BTreeMap<HostName, HostDesired>,
    frontends: BTreeMap<Frontend, BTreeSet<Claim>>,
    addresses: BTreeMap<Address, BTreeSet<Claim>>,
}

/// What a change touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The hosts whose rows may have changed: the host itself and those that claim what it claims.
    pub hosts: BTreeSet<HostName>,
    /// The rows of these hosts before.
    pub old: Tables,
}

impl Desired {
    /// Replaces what `host` wants; `None` removes it.
    pub fn set(&mut self, host: &HostName, desired: Option<HostDesired>) -> Change {
        let touched = self.rivals(host, desired.as_ref());
        let old = self.effective(&touched);
        if let Some(previous) = self.hosts.remove(host) {
            let claim = claim(host, &previous);
            for frontend in previous.tables.frontends.keys() {
                release(&mut self.frontends, frontend, &claim);
            }
            for address in previous.tables.addresses.keys() {
                release(&mut self.addresses, address, &claim);
            }
        }
        if let Some(desired) = desired {
            let claim = claim(host, &desired);
            for frontend in desired.tables.frontends.keys() {
                self.frontends.entry(frontend.clone()).or_default().insert(claim.clone());
            }
            for address in desired.tables.addresses.keys() {
                self.addresses.entry(address.clone()).or_default().insert(claim.clone());
            }
            self.hosts.insert(host.clone(), desired);
        }
        Change { hosts: touched, old }
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

    /// The rows that the maps should hold for `hosts`: what they want, without what an older claim wins.
    #[must_use]
    pub fn effective<'a>(&self, hosts: impl IntoIterator<Item = &'a HostName>) -> Tables {
        let mut tables = Tables::default();
        for host in hosts {
            let Some(desired) = self.hosts.get(host) else { continue };
            let mut own = desired.tables.clone();
            own.frontends.retain(|frontend, _| wins(&self.frontends, frontend, host));
            own.addresses.retain(|address, _| wins(&self.addresses, address, host));
            tables.extend(own);
        }
        tables
    }

    /// The service that `frontend` is to lead to: that of the oldest claim.
    #[must_use]
    pub fn winner_of(&self, frontend: &Frontend) -> Option<&ServiceKey> {
        let (_, _, host) = self.frontends.get(frontend)?.first()?;
        self.hosts.get(host)?.tables.frontends.get(frontend)
    }

    /// The host that decides about `address`.
    #[must_use]
    pub fn user_of(&self, address: &Address) -> Option<&HostName> {
        self.addresses.get(address)?.first().map(|(_, _, host)| host)
    }

    /// `host` and every host that claims something which `host` claims, before or after the change.
    fn rivals(&self, host: &HostName, desired: Option<&HostDesired>) -> BTreeSet<HostName> {
        let mut found = BTreeSet::from([host.clone()]);
        for tables in [self.hosts.get(host), desired].into_iter().flatten().map(|d| &d.tables) {
            let frontends = tables.frontends.keys().filter_map(|f| self.frontends.get(f));
            let addresses = tables.addresses.keys().filter_map(|a| self.addresses.get(a));
            found.extend(frontends.chain(addresses).flatten().map(|(_, _, host)| host.clone()));
        }
        found
    }
}

fn claim(host: &HostName, desired: &HostDesired) -> Claim {
    let (created, object) = desired.age.clone().unzip();
    (created.flatten(), object, host.clone())
}

fn wins<K: Ord>(claims: &BTreeMap<K, BTreeSet<Claim>>, key: &K, host: &HostName) -> bool {
    claims.get(key).and_then(BTreeSet::first).is_some_and(|(_, _, winner)| winner == host)
}

fn release<K: Ord>(claims: &mut BTreeMap<K, BTreeSet<Claim>>, key: &K, claim: &Claim) {
    if let Some(set) = claims.get_mut(key) {
        set.remove(claim);
        if set.is_empty() {
            claims.remove(key);
        }
    }
}
