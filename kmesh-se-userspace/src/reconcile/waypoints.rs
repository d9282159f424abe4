//! Services that go through a waypoint: their ports there, and when connections follow.
//!
//! In: hosts as they are built, which listeners take connections, the time. Out: the pool of ports as it should be, and what
//! waypoints are to know. Never: a service led past its waypoint that was led to it, unless that is what the flag says.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;

use super::{Reconciler, Step};
use crate::{
    desired::{self, Backend, Bound, Condition, HostDesired, Keys, LedTo, ServiceKey, Tables, Waypoints},
    model::{HostName, WaypointName},
    sink::Maps,
};

impl<M: Maps> Reconciler<M> {
    /// Serves these waypoints, whose pool has the ports of an earlier run. To be called before the first event.
    #[must_use]
    pub fn through(mut self, waypoints: Waypoints) -> Self {
        self.waypoints = waypoints;
        self
    }

    /// The waypoints.
    #[must_use]
    pub fn waypoints(&self) -> &Waypoints {
        &self.waypoints
    }

    /// Takes in which listeners take connections now, and why others do not come.
    pub fn set_listeners(&mut self, ready: BTreeSet<ServiceKey>, rejected: BTreeMap<ServiceKey, String>) {
        self.dirty.extend(self.waypoints.set_listeners(ready, rejected));
    }

    /// What the maps should hold in the rows `keys`.
    pub fn rows(&self, keys: &Keys) -> Tables {
        self.desired.rows(keys, |waypoint| desired::replicas(self.known(), waypoint))
    }

    /// The backends that connections get which are led to this.
    pub fn backends_of<'a>(&self, led_to: &'a LedTo) -> Cow<'a, [Backend]> {
        desired::backends_of(self.known(), led_to)
    }

    /// Adds the waypoints that the services among `keys` are led to in the maps, which may be those of an earlier agent. One that
    /// other services are still led to there stays.
    pub(super) fn add_waypoints_left(&self, keys: &mut Keys) {
        let actual = self.sink.actual();
        let left = keys.services.iter().filter_map(|key| actual.services.get(key)?.waypoint());
        keys.waypoints.extend(left.cloned());
        let services = &keys.services;
        let is_led_to = |name: &WaypointName| {
            let mut others = actual.services.iter().filter(|(key, _)| !services.contains(key));
            others.any(|(_, led_to)| led_to.waypoint() == Some(name))
        };
        keys.waypoints.retain(|name| self.desired.is_used(name) || !is_led_to(name));
    }

    /// The host to name for the row of a waypoint: the first of those that are `touched` and have a service which is led to it, else
    /// of all.
    pub(super) fn host_through(
        &self,
        waypoint: &WaypointName,
        touched: &BTreeMap<HostName, Keys>,
    ) -> Option<&HostName> {
        let is_touched = |host: &&HostName| touched.contains_key(*host);
        let mut hosts = self.desired.hosts_through(waypoint);
        hosts.find(is_touched).or_else(|| self.desired.hosts_through(waypoint).next())
    }

    /// What waypoints are to know of `host`: each bound service that has a port, with it.
    pub fn listeners_of<'a>(
        &'a self,
        host: &HostName,
    ) -> impl Iterator<Item = (&'a ServiceKey, u16, &'a Bound)> + use<'a, M> {
        let bound = self.desired.get(host).into_iter().flat_map(|desired| desired.bound.iter());
        bound.filter_map(|(service, bound)| Some((service, self.waypoints.ports().get(service)?.port, bound)))
    }

    /// What people are told of the way of `service`, if it is bound to a waypoint.
    pub fn waypoint_condition(&self, service: &ServiceKey) -> Option<Condition> {
        desired::waypoint_condition(self.known(), service)
    }

    /// Whether connections to `service` go through a waypoint, be it as it was before a change that it did not take.
    pub fn is_through(&self, service: &ServiceKey) -> bool {
        desired::is_through(self.known(), service)
    }

    /// What people are told of the HTTPRoutes of `service`, if there are any.
    pub fn http_route_condition(&self, service: &ServiceKey) -> Option<Condition> {
        desired::http_route_condition(self.known(), service)
    }

    /// The services that are past their waypoint for long enough: their listeners are to go.
    pub fn take_left_listeners(&mut self, now: Timestamp) -> Vec<ServiceKey> {
        self.waypoints.ports_mut().map(|ports| ports.take_left(now)).unwrap_or_default()
    }

    /// Gives the bound services of `host`, as it was just built, a port at the proxy of this node and takes back those of others, or
    /// notes which of them wait for a waypoint of the cluster; says whether the host has to be built again.
    pub(super) fn update_assignments(
        &mut self,
        host: &HostName,
        built: Option<&HostDesired>,
        now: Timestamp,
        step: &mut Step,
    ) -> bool {
        let bound = || built.into_iter().flat_map(|built| built.bound.keys());
        if self.waypoints.are_in_cluster() {
            let bound = built.into_iter().flat_map(|built| built.bound.iter());
            let bound = bound.filter(|(_, bound)| self.snapshot.waypoint(&bound.waypoint).is_some());
            let commitments = bound.map(|(service, _)| {
                let is_new = || !self.waypoints.knows(service) && !self.was_led(service, built);
                (service.clone(), desired::is_through(self.known(), service) || is_new())
            });
            let commitments = commitments.collect();
            return self.waypoints.commit(host, commitments);
        }
        // Who was led past it goes on so until it is there; who is new waits for it.
        let new: BTreeSet<_> = bound().filter(|service| !self.is_served(service, built)).collect();
        let ready: BTreeSet<_> = bound().filter(|service| self.waypoints.is_ready(service)).collect();
        self.unassigned.remove(host);
        let Some(ports) = self.waypoints.ports_mut() else { return false };
        let mut has_changed =
            ports.release(host, |service| built.is_some_and(|built| built.bound.contains_key(service)), now);
        for service in bound() {
            match ports.ensure(service, new.contains(service), now) {
                Ok(is_given) => has_changed |= is_given,
                Err(error) => {
                    if self.unassigned.insert(host.clone()) {
                        tracing::error!(service = %service, %error, "a service cannot go through its waypoint");
                    }
                }
            }
            if ready.contains(service) {
                step.must_save_ports |= ports.commit(service);
            }
        }
        step.must_save_ports |= has_changed;
        has_changed
    }

    /// Whether connections are led to `service` by now, perhaps by the rows of an earlier agent.
    fn is_served(&self, service: &ServiceKey, built: Option<&HostDesired>) -> bool {
        let before = self.desired.get(&service.host);
        let is_ours = before.is_some_and(|before| before.tables.services.contains_key(service));
        let actual = &self.sink.actual().frontends;
        let is_there = || {
            let mut frontends = built.into_iter().flat_map(|built| built.tables.frontends.iter());
            frontends.any(|(frontend, of)| of == service && actual.contains_key(frontend))
        };
        is_ours || (self.takes_over && is_there())
    }

    /// The same, but with rows that lead somewhere, and once all waypoints are known: one that comes late is no news.
    fn was_led(&self, service: &ServiceKey, built: Option<&HostDesired>) -> bool {
        let leads = self.sink.actual().services.get(service).is_some_and(|led_to| !led_to.is_nowhere());
        (self.report.synced || leads) && self.is_served(service, built)
    }

    /// Once the source has told all, the hosts that kept a port from an earlier run but that no object names lose it.
    pub(super) fn release_unused_assignments(&mut self, now: Timestamp, step: &mut Step) {
        if !self.report.synced || std::mem::replace(&mut self.assignments_are_ours, true) {
            return;
        }
        let hosts = self.waypoints.ports().hosts().filter(|host| !self.snapshot.has_host(host));
        let hosts: Vec<_> = hosts.cloned().collect();
        if let Some(ports) = self.waypoints.ports_mut() {
            for host in hosts {
                step.must_save_ports |= ports.release(&host, |_| false, now);
            }
        }
    }
}
