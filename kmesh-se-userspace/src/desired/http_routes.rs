//! HTTPRoutes of a service that is bound to a waypoint: their rules in order, with the backends as they are.
//!
//! In: the snapshot, one port of an entry. Out: what a waypoint is to do with its requests, and what it cannot. Never: a rule that
//! is left out because its backend is not there: its requests are refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use serde::Serialize;

use super::{
    Condition, Known, Scope, ServiceKey, Upstream, backends,
    backends::Of,
    build::{names_of, view_for},
    waypoint,
};
use crate::model::{
    BackendRef, BackendTarget, Entry, HostName, Namespace, NoBackend, Others, Port, Protocol, RequestRoute,
    Resolution, RouteParent, RoutedRule, RoutedTo, Snapshot, Transport,
};

/// The condition that tells what HTTPRoutes come to.
pub const REQUESTS_ROUTED: &str = "kmesh-se.io/RequestsRouted";

/// What becomes of the requests to a service; without rules, all go to the service itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRules {
    /// The routes that they are of, by namespace and name.
    pub routes: Vec<String>,
    /// The rules, in the order in which they are looked at; a request that none is for is answered with 404.
    pub rules: Vec<RoutedRule>,
    /// Those who answer beside the service itself.
    pub others: Others<Other>,
    /// Why some requests are refused: reason and message.
    pub problems: Missing,
}

/// Those who do not answer, and what people are told of each.
type Missing = BTreeSet<(NoBackend, String)>;

/// One who answers requests to another service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Other {
    /// Its host.
    pub host: HostName,
    /// Its port.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where its connections are to go.
    pub upstream: Upstream,
}

impl HttpRules {
    /// Each host with its port that requests may be sent to, where those to the service itself go to `own`.
    #[must_use]
    pub fn dials(&self, own: &Upstream) -> Vec<String> {
        let all = self.rules.iter().flat_map(|rule| rule.to.iter().chain(&rule.copies));
        let all: BTreeSet<_> = all.collect();
        let upstreams = all.into_iter().filter_map(|to| match to {
            RoutedTo::Itself => Some(own),
            RoutedTo::Other(name) => self.others.get(name).map(|other| &other.upstream),
            RoutedTo::Nobody => None,
        });
        upstreams.flat_map(Upstream::to_strings).collect()
    }
}

/// The routes that are about this port.
fn routes_of<'a>(known: Known<'a>, of: Of<'a>) -> impl Iterator<Item = &'a Arc<RequestRoute>> {
    let routes = known.snapshot.routes_of(&of.entry.object).into_iter();
    routes.filter(move |route| route.parents.iter().any(|parent| parent.means(&of.entry.object, of.port)))
}

/// What requests to a port that is bound to a waypoint become, and the addresses of those who answer beside it.
pub(super) fn rules(known: Known<'_>, of: Of<'_>) -> (HttpRules, BTreeSet<IpAddr>) {
    let mut found = Finding::of(known, of, routes_of(known, of).map(Arc::as_ref));
    // Those of one precedence stay as they are: the oldest route first, and its rules in their order.
    found.rules.rules.sort_by_cached_key(|rule| rule.when.precedence());
    (found.rules, found.dialled)
}

struct Finding<'a> {
    known: Known<'a>,
    of: Of<'a>,
    rules: HttpRules,
    dialled: BTreeSet<IpAddr>,
}

impl<'a> Finding<'a> {
    /// What these routes make of requests to `of`, one after the other; nothing where there are no requests.
    fn of<'r>(known: Known<'a>, of: Of<'a>, routes: impl IntoIterator<Item = &'r RequestRoute>) -> Self {
        let mut found = Finding { known, of, rules: HttpRules::default(), dialled: BTreeSet::new() };
        if of.port.protocol.carries_requests() {
            routes.into_iter().for_each(|route| found.add(route));
        }
        found
    }

    fn add(&mut self, route: &RequestRoute) {
        let namespace = &route.object.namespace;
        let name = format!("{namespace}/{}", route.object.name);
        for (i, rule) in route.rules.iter().enumerate() {
            let to: Vec<_> = rule.backends.iter().map(|b| self.find(&b.backend, namespace, &name)).collect();
            let copies: Vec<_> = rule.mirrors.iter().map(|(to, _)| self.find(to, namespace, &name)).collect();
            for (j, when) in rule.matches.iter().enumerate() {
                self.rules.rules.push(RoutedRule {
                    name: format!("{name}/{i}/{j}"),
                    when: when.clone(),
                    rule: rule.clone(),
                    to: to.clone(),
                    copies: copies.clone(),
                });
            }
        }
        self.rules.routes.push(name);
    }

    fn find(&mut self, backend: &BackendRef, namespace: &Namespace, route: &str) -> RoutedTo {
        let found = match &backend.target {
            Err(why) => Err((*why, "it may not be referred to".to_owned())),
            Ok(target) => {
                let found = self.target(target, backend.port, namespace);
                found.map_err(|why| (NoBackend::Missing, why))
            }
        };
        found.unwrap_or_else(|(reason, why)| {
            let message = format!(
                "{} of HTTPRoute {route} leads nowhere: {why}; its requests are answered with 500",
                backend.field
            );
            self.rules.problems.insert((reason, message));
            RoutedTo::Nobody
        })
    }

    fn target(
        &mut self,
        target: &BackendTarget,
        port: u16,
        namespace: &Namespace,
    ) -> Result<RoutedTo, String> {
        let snapshot = self.known.snapshot;
        match target {
            BackendTarget::Entry(object) => {
                let entry = snapshot.entry(object).ok_or_else(|| format!("there is no {object}"))?;
                let host = entry.hosts.iter().find(|host| !host.is_wildcard());
                let host = host.ok_or_else(|| format!("{object} has wildcard hosts only"))?;
                let listed = entry.ports.iter().find(|listed| listed.number == port);
                let port = listed.ok_or_else(|| format!("{object} does not list port {port}"))?;
                self.entry(Of { entry, host, port })
            }
            BackendTarget::Host(name) => {
                let scope = Scope::Namespace(namespace.clone());
                let Some(host) = snapshot.host(name) else {
                    return self.service(name, port, Some(namespace));
                };
                let Some(view) = view_for(snapshot, host, &scope) else {
                    return self.service(name, port, Some(namespace));
                };
                let mut listed =
                    view.entries.iter().flat_map(|(entry, ports)| ports.iter().map(move |p| (*entry, *p)));
                let (entry, port): (&Arc<Entry>, &Port) = listed
                    .find(|(_, listed)| listed.number == port)
                    .ok_or_else(|| format!("host {host} does not list port {port}"))?;
                self.entry(Of { entry, host, port })
            }
            BackendTarget::Service(name) => self.service(name, port, None),
        }
    }

    fn entry(&mut self, next: Of<'a>) -> Result<RoutedTo, String> {
        let key = next.key();
        if key == self.of.key() {
            return Ok(RoutedTo::Itself);
        }
        let Entry { object, resolution, .. } = next.entry;
        if next.port.protocol.transport() == Transport::Udp {
            return Err(format!("port {} of {object} is of UDP", key.port));
        }
        if matches!(resolution, Resolution::None | Resolution::DynamicDns) {
            return Err(format!("{object} has no endpoints of its own, by its resolution"));
        }
        let name = format!("{}/{}|{}|{}", object.namespace, object.name, key.host, key.port);
        let found = backends::backends(self.known, next);
        let upstream = waypoint::upstream(self.known, next, &found);
        self.dialled.extend(found.dialled);
        Ok(self.other(name, &key.host, key.port, next.port.protocol, upstream))
    }

    /// A Service of the cluster, which is asked for by its name. `seen_by`: only if clients of that namespace see it.
    fn service(
        &mut self,
        host: &HostName,
        port: u16,
        seen_by: Option<&Namespace>,
    ) -> Result<RoutedTo, String> {
        let snapshot = self.known.snapshot;
        let is_there = match (snapshot.service_of(host), seen_by) {
            (Some(service), None) => !service.is_alias,
            (Some(_), Some(_)) => snapshot.cluster_host(host, seen_by).is_some(),
            // A folder without a Service says nothing of the cluster's.
            (None, _) => seen_by.is_none() && !snapshot.knows_services(),
        };
        if !is_there {
            return Err(match seen_by {
                Some(namespace) => format!("no entry or Service has host {host} for clients of {namespace}"),
                None => format!("there is no Service of the name {host}, or it is of type ExternalName"),
            });
        }
        let endpoints = vec![(Arc::from(host.as_str()), port, 1)];
        let upstream = Upstream::Names { endpoints, only_first: false };
        Ok(self.other(format!("{host}|{port}"), host, port, self.of.port.protocol, upstream))
    }

    fn other(
        &mut self,
        name: String,
        host: &HostName,
        port: u16,
        protocol: Protocol,
        upstream: Upstream,
    ) -> RoutedTo {
        let name: Arc<str> = name.into();
        // Who speaks something else is spoken to in HTTP all the same.
        let protocol = if protocol.carries_requests() { protocol } else { Protocol::Http };
        self.rules.others.insert(name.clone(), Other { host: host.clone(), port, protocol, upstream });
        RoutedTo::Other(name)
    }
}

/// The names that `entry` needs resolved for the sake of its routes, beside its own.
pub(super) fn names(snapshot: &Snapshot, entry: &Entry) -> BTreeSet<HostName> {
    let routes = snapshot.routes_of(&entry.object);
    if routes.is_empty() || snapshot.waypoint_of(entry).is_none() {
        return BTreeSet::new();
    }
    let mut names = BTreeSet::new();
    for target in routes.into_iter().flat_map(|route| route.targets()) {
        match target {
            BackendTarget::Entry(object) => {
                if let Some(entry) = snapshot.entry(object) {
                    let host = entry.hosts.iter().find(|host| !host.is_wildcard());
                    names.extend(host.map(|host| names_of(snapshot, entry, host)).unwrap_or_default());
                }
            }
            BackendTarget::Host(host) => {
                names.extend(snapshot.entries_of(host).flat_map(|entry| names_of(snapshot, entry, host)));
            }
            BackendTarget::Service(_) => {}
        }
    }
    names
}

/// What people are told of the routes of `service`, if it has any.
#[must_use]
pub fn http_route_condition(known: Known<'_>, service: &ServiceKey) -> Option<Condition> {
    let entry = known.snapshot.entry(&service.entry)?;
    let port = entry.ports.iter().find(|port| port.number == service.port)?;
    condition(known, [Of { entry, host: &service.host, port }])
}

/// What is told of routes, by how bad it is and why.
type Told = BTreeMap<(Rank, &'static str), BTreeSet<String>>;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Followed,
    NoRequests,
    NoWaypoint,
    BackendMissing,
    Rejected,
}

/// What people are told of the routes of these: the worst first.
pub(super) fn condition<'a>(
    known: Known<'_>,
    services: impl IntoIterator<Item = Of<'a>>,
) -> Option<Condition> {
    let mut told = Told::new();
    for of in services {
        let routes: Vec<_> = routes_of(known, of).map(Arc::as_ref).collect();
        if !routes.is_empty() {
            tell(known, of, &routes, &mut told);
        }
    }
    let ((worst, reason), _) = told.last_key_value()?;
    let messages: Vec<_> = told.values().rev().flatten().cloned().collect();
    let status = if *worst == Rank::Followed { "True" } else { "False" };
    Some(Condition { kind: REQUESTS_ROUTED, status, reason, message: messages.join("; ") })
}

/// What becomes of `routes` at a port that they are about; answers who is not found of those that they lead to.
fn tell(known: Known<'_>, of: Of<'_>, routes: &[&RequestRoute], told: &mut Told) -> Missing {
    let names: Vec<_> = routes.iter().map(|route| route.object.to_string()).collect();
    let (names, number) = (names.join(", "), of.port.number);
    let mut say = |rank, reason, message| {
        told.entry((rank, reason)).or_default().insert(message);
    };
    if !of.port.protocol.carries_requests() {
        let message = format!("{names}: port {number} is not of HTTP, so nothing is read there");
        say(Rank::NoRequests, "RouteNeedsHttp", message);
        return Missing::new();
    }
    let missing = Finding::of(known, of, routes.iter().copied()).rules.problems;
    let way = waypoint::way(known, of);
    if !way.is_bound() {
        let message = format!(
            "{names}: requests to port {number} go through no waypoint, so the route does nothing (label istio.io/use-waypoint)"
        );
        say(Rank::NoWaypoint, "RouteNeedsWaypoint", message);
        return missing;
    }
    for (_, message) in &missing {
        say(Rank::BackendMissing, "RouteBackendMissing", message.clone());
    }
    match way.refusal() {
        Some(why) if way.is_through() => {
            let message = format!("the waypoint did not take all of {names}: {why}; what it took goes on");
            say(Rank::Rejected, "RouteRejected", message);
        }
        Some(why) => {
            let message = format!("the waypoint did not take {names}: {why}");
            say(Rank::Rejected, "RouteRejected", message);
            return missing;
        }
        None => {}
    }
    let then = if way.is_through() { "" } else { ", once they go through the waypoint" };
    say(Rank::Followed, "RouteAccepted", format!("requests to port {number} go as {names} says{then}"));
    missing
}

/// What the author of `route` is told of one of its parents, in the Gateway API's conditions: whether requests there go as it says,
/// and, where there are requests, whether all are there that it leads to.
#[must_use]
pub fn route_conditions(known: Known<'_>, route: &RequestRoute, parent: &RouteParent) -> Vec<Condition> {
    let say = |kind, holds, reason, message| {
        let status = if holds { "True" } else { "False" };
        Condition { kind, status, reason, message }
    };
    let Some(entry) = known.snapshot.entry(&parent.entry) else {
        let message = format!("{} is not there, or is rejected", parent.entry);
        return vec![say("Accepted", false, "NoMatchingParent", message)];
    };
    let ports = entry.ports.iter().filter(|port| parent.means(&parent.entry, port));
    let services = ports.flat_map(|port| entry.hosts.iter().map(move |host| Of { entry, host, port }));
    let (mut told, mut missing, mut has_requests) = (Told::new(), Missing::new(), false);
    for of in services {
        missing.extend(tell(known, of, &[route], &mut told));
        has_requests |= of.port.protocol.carries_requests();
    }
    told.retain(|(rank, _), _| *rank != Rank::BackendMissing);
    let Some(((worst, reason), _)) = told.last_key_value() else {
        let message = format!("{} has no such port", parent.entry);
        return vec![say("Accepted", false, "NoMatchingParent", message)];
    };
    // One that is for several ports may be followed at some of them.
    let is_followed = told.keys().any(|(rank, _)| *rank == Rank::Followed) && *worst != Rank::Rejected;
    let messages: Vec<_> = told.values().flatten().cloned().collect();
    let reason = if is_followed { "Accepted" } else { reason };
    let mut conditions = vec![say("Accepted", is_followed, reason, messages.join("; "))];
    if has_requests {
        let reason = match missing.first() {
            None => "ResolvedRefs",
            Some((NoBackend::Missing, _)) => "BackendNotFound",
            Some((NoBackend::NotPermitted, _)) => "RefNotPermitted",
            Some((NoBackend::InvalidKind, _)) => "InvalidKind",
        };
        let holds = missing.is_empty();
        let messages: Vec<_> = missing.into_iter().map(|(_, message)| message).collect();
        let message = if holds { "all are there that it leads to".to_owned() } else { messages.join("; ") };
        conditions.push(say("ResolvedRefs", holds, reason, message));
    }
    conditions
}
