//! Names below DYNAMIC_DNS wildcards, from the first client that asks until nobody uses them.
//!
//! In: what clients ask for and use, and the time. Out: hosts to be rebuilt. Never: an address for a name that has none
//! itself.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::Reconciler;
use crate::{
    desired::{self, HostDesired, NameEntry, Scope, ServiceKey, User},
    dns::Used,
    model::{Addresses, HostName},
    sink::Maps,
};

/// How long a name that got no address is reported.
const REPORTED: SignedDuration = SignedDuration::from_mins(1);

impl<M: Maps> Reconciler<M> {
    /// `user` asks for a host, or for a concrete name, which is in use from now on. A wildcard that it sees must give the
    /// name, and it may use so many.
    pub fn demand(&mut self, name: &HostName, user: &User, now: Timestamp) {
        let scope = Scope::Namespace(user.namespace.clone());
        let Some((wildcard, _)) = desired::dynamic_view(&self.snapshot, name, &scope) else {
            self.use_host(name, now);
            return;
        };
        let is_new = !self.leases.contains(name);
        if let Err(error) = self.leases.ask(name, user, now) {
            if self.report.set_full(&wildcard, error.to_string(), now) {
                tracing::warn!(host = %name, namespace = %user.namespace, client = %user.address, %error, "no virtual address for a name");
            }
            return;
        }
        if is_new {
            self.dirty.insert(name.clone());
        }
    }

    /// Whether a name that was demanded may still get addresses, or others.
    #[must_use]
    pub fn waits_for(&self, name: &HostName) -> bool {
        let lacks_address = self.leases.contains(name)
            && !self.names.get_concrete(name).is_some_and(|entry| entry.is_complete);
        lacks_address || self.waits_for_backends(name)
    }

    /// Clients have been answered these.
    pub fn used(&mut self, Used { hosts, names }: Used, now: Timestamp) {
        for (name, user) in names {
            // Beyond its quota a client is no user, but another one is, or it would not have been answered.
            if self.leases.contains(&name) {
                drop(self.leases.ask(&name, &user, now));
            }
            self.use_host(&name, now);
        }
        for host in hosts {
            self.use_host(&host, now);
        }
    }

    /// The names and hosts that nobody has asked for in time, with their services. Connections to those are a use of them, too:
    /// [`Reconciler::end_unless_connected`] is to be told.
    pub fn quiet_names(&mut self, now: Timestamp) -> Vec<(HostName, Vec<ServiceKey>)> {
        self.report.forget_full(now - REPORTED);
        let quiet = self.leases.quiet(now).into_iter();
        let services = |host: &HostName| {
            let desired = self.desired.get(host).into_iter();
            let keys = desired.flat_map(|desired| desired.tables.services.keys());
            keys.filter(|key| self.is_concrete(key)).cloned().collect()
        };
        let concrete = quiet.map(|host| (host.clone(), services(&host)));
        concrete.collect::<Vec<_>>().into_iter().chain(self.quiet_hosts(now)).collect()
    }

    /// Whether a service is that of a concrete name, rather than of an entry that names the same host.
    fn is_concrete(&self, key: &ServiceKey) -> bool {
        !self.snapshot.entries_of(&key.host).any(|entry| entry.object == key.entry)
    }

    /// Ends the use of a quiet name, unless its services have new connections.
    pub fn end_unless_connected(&mut self, host: &HostName, connects: u64, now: Timestamp) {
        if !self.leases.contains(host) {
            self.end_use_unless_connected(host, connects, now);
        } else if !self.leases.is_connected_to(host, connects, now) {
            tracing::info!(host = %host, "a name is no longer in use");
            self.leases.end(host, now);
            self.dirty.insert(host.clone());
        }
    }

    /// Of these hosts, the names that no wildcard gives any more, and those that turned out to have no address.
    pub(super) fn end_unused_leases(&mut self, hosts: &BTreeSet<HostName>, now: Timestamp) {
        for host in hosts.iter().filter(|host| self.leases.contains(host)).cloned().collect::<Vec<_>>() {
            let has_none = self.resolved.get(&host).is_some_and(Addresses::is_empty);
            let never_had = has_none && self.leases.vips(&host).is_none();
            if never_had || !desired::is_dynamic(&self.snapshot, &host) {
                self.leases.end(&host, now);
            }
        }
    }

    /// Gives a concrete name its addresses, with the first that it resolves to.
    pub(super) fn update_lease(&mut self, host: &HostName, now: Timestamp) {
        if !self.leases.contains(host) || self.resolved.get(host).is_none_or(Addresses::is_empty) {
            return;
        }
        let snapshot = &self.snapshot;
        if let Err(error) = self.leases.ensure_vips(host, now, |address| snapshot.is_written(address)) {
            let mut above = desired::wildcards_above(host);
            let wildcard = above.find(|wildcard| snapshot.has_host(wildcard));
            let error = format!("{error}: --dynamic-v4, --dynamic-v6");
            if self.report.set_full(wildcard.as_ref().unwrap_or(host), error.clone(), now) {
                tracing::warn!(host = %host, error, "no virtual address for a name");
            }
            // The next step finds that nothing comes of it; a client that asks again has it tried again.
            self.leases.end(host, now);
            self.dirty.insert(host.clone());
        }
    }

    /// What a concrete name contributes; none if it is not in use.
    pub(super) fn build_concrete(&self, host: &HostName) -> Option<HostDesired> {
        self.leases.contains(host).then(|| desired::concrete(self.known(), self.leases.vips(host), host))
    }

    /// As [`Reconciler::publish`], for the clients that get the name by a wildcard.
    pub(super) fn publish_concrete(&self, host: &HostName, entry: &NameEntry) {
        let is_new = self.names.get_concrete(host).is_none();
        let is_known = self.resolved.contains_key(host);
        if entry.views.is_empty() || !is_known || (is_new && self.failed.contains_key(host)) {
            return;
        }
        let is_complete = self.needs.is_complete(host);
        self.names.set_concrete(host, Some(NameEntry { is_complete, ..entry.clone() }));
    }
}
