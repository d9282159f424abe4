//! Which names are resolved: those behind hosts that are in use.
//!
//! In: hosts that changed, what clients ask for and dial, the time. Out: names to resolve, to let rest, to forget. Never: a
//! name that rests although a client may dial its host without asking.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Reconciler, Step};
use crate::{
    desired::{self, Scope, ServiceKey},
    model::{Addresses, ExportTo, HostName},
    sink::Maps,
};

/// Who needs which name, and which hosts are in use.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Host -> the names that it needs.
    of: BTreeMap<HostName, BTreeSet<HostName>>,
    /// Name -> the hosts whose backends come from it.
    dependents: BTreeMap<HostName, BTreeSet<HostName>>,
    /// The names that were ever asked for, and whether they are kept fresh; the others rest.
    is_fresh: BTreeMap<HostName, bool>,
    /// The names of which both families were answered, or failed, since they are kept fresh.
    complete: BTreeSet<HostName>,
    /// Hosts that are always in use.
    always: BTreeSet<HostName>,
    /// When clients asked for a host last, or connected to it.
    used: BTreeMap<HostName, Timestamp>,
    /// Connections to a host when they were last looked at.
    connects: BTreeMap<HostName, u64>,
    /// The hosts without a use up to here were looked at.
    looked_at: Option<HostName>,
    /// Names that an earlier agent had addresses of: their hosts were in use.
    pub(super) known_before: BTreeSet<HostName>,
    /// There was an earlier agent, but nobody knows which names it had addresses of: all hosts may be in use.
    pub(super) assumes_use: bool,
}

/// How the names behind a host are resolved. Clients of the admin socket read these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HostUse {
    /// Always: a client can dial it without asking for its name.
    Always,
    /// While clients ask for it or connect to it, as they do.
    #[serde(rename = "whileUsed")]
    Used,
    /// Nobody has used it for a while: the last addresses stay, and nobody is asked for newer ones.
    Idle,
    /// Nobody has asked for it yet, and its names were never resolved.
    NotAskedFor,
}

impl HostUse {
    /// Whether the next client that asks has the names resolved, and waits for them.
    #[must_use]
    pub fn is_asleep(self) -> bool {
        matches!(self, Self::Idle | Self::NotAskedFor)
    }
}

impl Needs {
    /// The hosts whose backends come from `name`.
    pub(super) fn dependents(&self, name: &HostName) -> impl Iterator<Item = &HostName> {
        self.dependents.get(name).into_iter().flatten()
    }

    /// Whether some host needs `name`.
    pub(super) fn needs(&self, name: &HostName) -> bool {
        self.dependents.contains_key(name)
    }

    /// The names that are kept fresh.
    pub(super) fn fresh(&self) -> impl Iterator<Item = &HostName> {
        self.is_fresh.iter().filter(|(_, is_fresh)| **is_fresh).map(|(name, _)| name)
    }

    /// Whether both families of `name` were answered, or failed, since it is kept fresh.
    pub(super) fn is_complete(&self, name: &HostName) -> bool {
        self.complete.contains(name)
    }

    /// The same of every name that `host` needs.
    pub(super) fn are_complete(&self, host: &HostName) -> bool {
        self.of.get(host).is_none_or(|names| names.is_subset(&self.complete))
    }

    /// How `host` is resolved; none if its backends come from no name.
    pub(super) fn host_use(&self, host: &HostName) -> Option<HostUse> {
        let names = self.of.get(host)?;
        Some(if self.always.contains(host) {
            HostUse::Always
        } else if self.used.contains_key(host) {
            HostUse::Used
        } else if names.iter().any(|name| self.is_fresh.contains_key(name)) {
            HostUse::Idle
        } else {
            HostUse::NotAskedFor
        })
    }

    fn is_used(&self, host: &HostName) -> bool {
        self.always.contains(host) || self.used.contains_key(host)
    }

    /// Takes in which names `host` needs now, and returns those that came or went.
    fn set(&mut self, host: &HostName, names: BTreeSet<HostName>) -> BTreeSet<HostName> {
        let old = self.of.remove(host).unwrap_or_default();
        for name in old.difference(&names) {
            if let Some(hosts) = self.dependents.get_mut(name) {
                hosts.remove(host);
            }
        }
        for name in names.difference(&old) {
            self.dependents.entry(name.clone()).or_default().insert(host.clone());
        }
        let changed = old.symmetric_difference(&names).cloned().collect();
        if names.is_empty() {
            self.used.remove(host);
            self.connects.remove(host);
        } else {
            self.of.insert(host.clone(), names);
        }
        changed
    }
}

impl<M: Maps> Reconciler<M> {
    /// Brings the names that hosts need up to date. What one host of a step drops and another takes up stays as it is.
    pub(super) fn update_needs(&mut self, hosts: &BTreeSet<HostName>, now: Timestamp, step: &mut Step) {
        let mut names = BTreeSet::new();
        for host in hosts {
            let mut new = desired::wanted_names(&self.snapshot, host);
            new.extend(self.leases.contains(host).then(|| host.clone()));
            let is_new = !self.needs.of.contains_key(host);
            if is_new && (self.needs.assumes_use || !new.is_disjoint(&self.needs.known_before)) {
                self.needs.used.insert(host.clone(), now);
            }
            names.extend(self.needs.set(host, new));
        }
        for name in &names {
            if self.needs.dependents.get(name).is_some_and(BTreeSet::is_empty) {
                self.needs.dependents.remove(name);
            } else if let Some(addresses) = self.remembered.remove(name) {
                self.needs.complete.insert(name.clone());
                self.resolved.insert(name.clone(), addresses);
            }
        }
        // A name that comes or goes as an endpoint may be a host of ours, which is in use then.
        let led_to = names.iter().filter(|name| self.needs.of.contains_key(*name)).cloned().collect();
        self.update_uses(&(hosts | &led_to), names, step);
    }

    /// Has those names resolved, of `names` and of those that `hosts` need, whose hosts are in use.
    fn update_uses(&mut self, hosts: &BTreeSet<HostName>, mut names: BTreeSet<HostName>, step: &mut Step) {
        for host in hosts {
            if self.needs.of.contains_key(host) && self.is_dialled_unasked(host) {
                self.needs.always.insert(host.clone());
            } else {
                self.needs.always.remove(host);
            }
            names.extend(self.needs.of.get(host).into_iter().flatten().cloned());
        }
        for name in names {
            let Some(hosts) = self.needs.dependents.get(&name) else {
                self.resolved.remove(&name);
                self.needs.complete.remove(&name);
                if self.needs.is_fresh.remove(&name).is_some() {
                    step.unwant.insert(name);
                }
                continue;
            };
            let is_used = hosts.iter().any(|host| self.needs.is_used(host));
            match self.needs.is_fresh.get(&name) {
                Some(true) if !is_used => {
                    // Who asks next waits for a newer answer.
                    self.needs.complete.remove(&name);
                    self.needs.is_fresh.insert(name.clone(), false);
                    step.rest.insert(name);
                }
                None | Some(false) if is_used => {
                    self.needs.is_fresh.insert(name.clone(), true);
                    step.want.insert(name);
                }
                _ => {}
            }
        }
    }

    /// Has what the endpoints of these hosts lead to resolved, and these if an endpoint leads to them: their addresses are
    /// known now.
    pub(super) fn follow_uses(&mut self, built: &BTreeSet<HostName>, step: &mut Step) {
        let mut led_to = BTreeSet::new();
        for host in built {
            led_to.extend((self.needs.of.contains_key(host)).then(|| host.clone()));
            for address in self.desired.get(host).into_iter().flat_map(|built| built.dialled.keys()) {
                let writers = self.snapshot.writers_of((*address).into()).flat_map(|entry| &entry.hosts);
                led_to.extend(writers.chain(self.vips.host_of(*address)).cloned());
            }
        }
        led_to.retain(|host| self.needs.of.contains_key(host) && !self.needs.always.contains(host));
        self.update_uses(&led_to, BTreeSet::new(), step);
    }

    /// Whether connections may come to `host` although no client asked for its name: it has addresses that a user wrote, it
    /// stands for many names, or endpoints of other hosts lead to it. Of a concrete name, its own use decides.
    fn is_dialled_unasked(&self, host: &HostName) -> bool {
        let entries = self.snapshot.entries_of(host);
        let is_endpoint = || self.needs.dependents(host).any(|of| of != host);
        let is_dialled = || {
            let in_status = entries.clone().flat_map(|entry| &entry.status_addresses).map(|(at, _)| *at);
            let allocated = self.vips.get(host).into_iter().flat_map(desired::Vips::iter);
            in_status.chain(allocated).any(|address| self.desired.is_dialled(address))
        };
        host.is_wildcard()
            || self.leases.contains(host)
            || entries.clone().any(|e| e.export_to != ExportTo::Nobody && !e.addresses.is_empty())
            || is_endpoint()
            || is_dialled()
    }

    /// A client asks for `host`, or connects to it. Says whether its backends come from names.
    pub(super) fn use_host(&mut self, host: &HostName, now: Timestamp) -> bool {
        // A host that is new may be asked for before its needs are known.
        if !self.needs.of.contains_key(host) && desired::wanted_names(&self.snapshot, host).is_empty() {
            return false;
        }
        if !self.needs.always.contains(host) && self.needs.used.insert(host.clone(), now).is_none() {
            tracing::debug!(host = %host, "a host is in use");
            self.dirty.insert(host.clone());
        }
        true
    }

    /// A connection to `address` of a client that sees `scopes` found a service without a backend. If nobody has asked for
    /// its host, that is a question, too.
    pub fn dialled_in_vain<'a>(
        &mut self,
        scopes: impl Iterator<Item = &'a Scope> + Clone,
        address: std::net::IpAddr,
        now: Timestamp,
    ) {
        let host = self.desired.user_at(scopes, address).map(|(host, _)| host.clone());
        if let Some(host) = host {
            self.use_host(&host, now);
        }
    }

    /// The hosts that nobody has asked for in time, with their services.
    pub(super) fn quiet_hosts(&self, now: Timestamp) -> Vec<(HostName, Vec<ServiceKey>)> {
        let idle = self.leases.limits().idle;
        let quiet = self.needs.used.iter().filter(|(_, at)| now.duration_since(**at) >= idle);
        // Those that are always in use have no time of their own.
        let quiet = quiet.filter(|(host, _)| !self.needs.always.contains(*host));
        quiet.map(|(host, _)| (host.clone(), self.services_of(host))).collect()
    }

    /// Some of the hosts that are not in use, each in its turn, with their services. A client may have kept their addresses:
    /// [`Reconciler::end_unless_connected`] is to be told of its connections.
    pub fn unused_hosts(&mut self, at_most: usize) -> Vec<(HostName, Vec<ServiceKey>)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = self.needs.looked_at.as_ref().map_or(Unbounded, Excluded);
        let hosts = self.needs.of.range::<HostName, _>((from, Unbounded)).map(|(host, _)| host);
        let unused: Vec<_> = hosts.filter(|host| !self.needs.is_used(host)).take(at_most).cloned().collect();
        // From the start again after the last.
        self.needs.looked_at = (unused.len() == at_most).then(|| unused.last().cloned()).flatten();
        let with_services = |host: HostName| {
            let services = self.services_of(&host);
            (host, services)
        };
        unused.into_iter().map(with_services).collect()
    }

    fn services_of(&self, host: &HostName) -> Vec<ServiceKey> {
        let built = self.desired.get(host).into_iter();
        built.flat_map(|built| built.tables.services.keys()).cloned().collect()
    }

    /// A host that nobody asks for has seen so many connections: with new ones it is in use, without it is not.
    pub(super) fn end_use_unless_connected(&mut self, host: &HostName, connects: u64, now: Timestamp) {
        let seen = self.needs.connects.insert(host.clone(), connects);
        let was_used = self.needs.used.contains_key(host);
        // Before the first look, connections are of those who asked. Services that are made anew count from zero again.
        let are_new = match seen {
            Some(seen) if connects >= seen => connects > seen,
            Some(_) => connects > 0,
            None => was_used && connects > 0,
        };
        if are_new {
            self.use_host(host, now);
            self.needs.used.insert(host.clone(), now);
        } else if was_used {
            tracing::debug!(host = %host, "a host is no longer in use");
            self.needs.used.remove(host);
            self.dirty.insert(host.clone());
        }
    }

    /// Both families of a name have been answered, or have failed. While it rests, that says nothing: who asks next waits for a
    /// newer answer.
    pub fn completed(&mut self, name: &HostName) {
        if self.needs.is_fresh.get(name) == Some(&true) && self.needs.complete.insert(name.clone()) {
            let used = self.needs.dependents(name).filter(|host| self.needs.is_used(host));
            self.dirty.extend(used.cloned().collect::<Vec<_>>());
        }
    }

    /// Nothing could be learned of a name that no address is known of. Its hosts wait.
    pub fn failed(&mut self, name: &HostName) {
        if self.leases.contains(name) {
            // Forwarding says best what is wrong.
            self.resolved(name.clone(), Addresses::default());
        } else if self.resolved.remove(name).is_some() {
            self.dirty.extend(self.needs.dependents(name).cloned());
        }
    }

    /// Whether the backends of `host` are still to be resolved, all of them or some.
    pub(super) fn waits_for_backends(&self, host: &HostName) -> bool {
        let waits = || self.desired.get(host).is_some_and(|built| !built.unresolved.is_empty());
        self.needs.of.contains_key(host) && (!self.needs.are_complete(host) || waits())
    }

    /// The hosts whose backends come from `name`.
    pub fn dependents(&self, name: &HostName) -> impl Iterator<Item = &HostName> {
        self.needs.dependents(name)
    }

    /// How `host` is resolved; none if its backends come from no name.
    #[must_use]
    pub fn host_use(&self, host: &HostName) -> Option<HostUse> {
        self.needs.host_use(host)
    }
}
