//! From an entry's endpoints to backends.
//!
//! In: an entry, one of its hosts and ports, all that is known besides. Out: the nearest backends, each address and port
//! once, and what cannot be one. Never: a health decision.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Backend, ServiceKey, VipPool, Waypoints,
    follow::{Lead, lead_of_address, lead_of_name},
};
use crate::model::{
    Addresses, Endpoint, EndpointAddress, Entry, HostName, Port, Resolution, Resolved, Snapshot,
};

/// All that backends are made from.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The accepted objects.
    pub snapshot: &'a Snapshot,
    /// The names that were answered.
    pub resolved: &'a Resolved,
    /// The addresses that were allocated.
    pub vips: &'a VipPool,
    /// The waypoints.
    pub waypoints: &'a Waypoints,
}

/// One port of one host of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of<'a> {
    pub(super) entry: &'a Entry,
    pub(super) host: &'a HostName,
    pub(super) port: &'a Port,
}

impl Of<'_> {
    pub(super) fn key(&self) -> ServiceKey {
        ServiceKey { host: self.host.clone(), entry: self.entry.object.clone(), port: self.port.number }
    }
}

/// What the endpoints of a port come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Sorted by address; an address that occurs twice has the sum of the weights.
    pub(super) backends: Vec<Backend>,
    /// The addresses that the endpoints have, before any was followed.
    pub(super) dialled: BTreeSet<IpAddr>,
    /// The endpoints that lead nowhere: reason and message.
    pub(super) problems: BTreeSet<(&'static str, String)>,
    /// Whether one leads to another service of ours, or is refused there.
    pub(super) is_followed: bool,
}

/// The backends of a port. An endpoint that is a virtual address or a host of ours is followed to its backends, once.
pub(super) fn backends(known: Known<'_>, of: Of<'_>) -> Found {
    let mut found = Found::default();
    let mut nearest = Nearest::default();
    for target in targets(known, of) {
        found.dialled.extend(target.address);
        let leads_to = lead(known, of, &target);
        found.is_followed |= !matches!(leads_to, Lead::Straight(_));
        match leads_to {
            Lead::Straight(addresses) => {
                addresses.into_iter().for_each(|address| nearest.add(&target, address, target.port, 1));
            }
            Lead::Refused(why) => drop(found.problems.insert(("EndpointPortNotListed", why))),
            Lead::Service(next) => {
                for inner in targets(known, next) {
                    match (lead(known, next, &inner), inner.address) {
                        (Lead::Straight(addresses), _) => {
                            for address in addresses {
                                let source = Target { source: inner.source.clone(), ..target.clone() };
                                nearest.add_inner(&source, inner.distance, address, inner.port, inner.weight);
                            }
                        }
                        (Lead::Service(third), _) if third.host == of.host => {
                            let message = format!(
                                "endpoint {} leads to {} of {}, which leads back here; it gets no connections",
                                target.source, next.host, next.entry.object
                            );
                            found.problems.insert(("EndpointLoop", message));
                        }
                        _ => {
                            let message = format!(
                                "endpoint {} leads to {} of {}, whose endpoint {} is one of another entry; one such step \
                                 is followed, so it gets no connections",
                                target.source, next.host, next.entry.object, inner.source
                            );
                            found.problems.insert(("EndpointChain", message));
                        }
                    }
                }
            }
        }
    }
    found.backends = nearest.into_backends();
    found
}

/// An address or a name to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// None for a name that is a host of ours, or was not answered.
    address: Option<IpAddr>,
    /// The name, if it is one.
    pub(super) name: Option<HostName>,
    pub(super) port: u16,
    pub(super) weight: u32,
    pub(super) distance: u8,
    /// The name, or the address as it was written.
    pub(super) source: Arc<str>,
}

/// The endpoints of a port as they are written.
pub(super) fn endpoints(known: Known<'_>, of: Of<'_>) -> Vec<Target> {
    let Of { entry, host, port } = of;
    let own_host;
    let endpoints: Vec<&Endpoint> = match entry.resolution {
        Resolution::None => Vec::new(),
        _ if resolves_host(entry, host) => {
            own_host = Endpoint::of_name(host.clone());
            vec![&own_host]
        }
        _ => known.snapshot.endpoints_of(entry).collect(),
    };
    let targets = endpoints.into_iter().filter_map(|endpoint| {
        let (address, name, source) = match &endpoint.address {
            EndpointAddress::Ip(address) => (Some(address.to_canonical()), None, address.to_string().into()),
            EndpointAddress::Name(name) => (None, Some(name.clone()), Arc::from(name.as_str())),
            EndpointAddress::Unix(_) | EndpointAddress::None => return None,
        };
        Some(Target {
            address,
            name,
            port: endpoint.ports.get(&port.name).copied().unwrap_or(port.target_port),
            weight: endpoint.weight,
            distance: known.snapshot.distance(entry, endpoint),
            source,
        })
    });
    targets.collect()
}

/// The same, with those of other services of ours in place of what leads there, once, as [`backends`] follows them.
pub(super) fn followed(known: Known<'_>, of: Of<'_>) -> Vec<Target> {
    let mut found = Vec::new();
    for target in endpoints(known, of) {
        match lead(known, of, &target) {
            Lead::Straight(_) => found.push(target),
            Lead::Refused(_) => {}
            Lead::Service(next) => {
                let inner = endpoints(known, next).into_iter();
                let inner = inner.filter(|inner| matches!(lead(known, next, inner), Lead::Straight(_)));
                found.extend(inner.map(|inner| {
                    let weight = target.weight.saturating_mul(inner.weight);
                    Target { weight, ..inner }
                }));
            }
        }
    }
    found
}

/// The same with the addresses of names, but for names that lead to a service of ours.
fn targets(known: Known<'_>, of: Of<'_>) -> Vec<Target> {
    let limit = if of.entry.resolution == Resolution::DnsRoundRobin { 1 } else { usize::MAX };
    let mut targets = Vec::new();
    for target in endpoints(known, of) {
        match &target.name {
            Some(name) if !matches!(lead_of_name(known, of, name, target.port), Lead::Service(_)) => {
                let answered = known.resolved.get(name).into_iter().flat_map(Addresses::iter).take(limit);
                targets
                    .extend(answered.map(|a| Target { address: Some(a.to_canonical()), ..target.clone() }));
            }
            _ => targets.push(target),
        }
    }
    targets
}

fn lead<'a>(known: Known<'a>, of: Of<'a>, target: &Target) -> Lead<'a> {
    match (target.address, &target.name) {
        (Some(address), _) => lead_of_address(known, of, address, target.port),
        (None, Some(name)) => lead_of_name(known, of, name, target.port),
        (None, None) => Lead::Straight(Vec::new()),
    }
}

/// Backends by address and port; in the end only the nearest count.
#[derive(Default)]
struct Nearest {
    found: BTreeMap<(IpAddr, u16), At>,
}

/// How far away a backend is, its weight, and its source.
type At = ((u8, u8), u32, Arc<str>);

impl Nearest {
    fn add(&mut self, target: &Target, address: IpAddr, port: u16, weight: u32) {
        self.add_inner(target, 0, address, port, weight);
    }

    /// Adds what is `inner` away from a target and has this share of its weight.
    fn add_inner(&mut self, target: &Target, inner: u8, address: IpAddr, port: u16, weight: u32) {
        let weight = target.weight.saturating_mul(weight);
        let distance = (target.distance, inner);
        let key = (address.to_canonical(), port);
        let known = self.found.entry(key).or_insert_with(|| (distance, 0, target.source.clone()));
        known.0 = known.0.min(distance);
        known.1 = known.1.saturating_add(weight);
    }

    fn into_backends(self) -> Vec<Backend> {
        let nearest = self.found.values().map(|(distance, ..)| *distance).min();
        let near = self.found.into_iter().filter(|(_, (distance, ..))| Some(*distance) == nearest);
        near.map(|((address, port), (_, weight, source))| Backend { address, port, weight, source }).collect()
    }
}

/// Whether `entry` has no endpoints, so that its host itself is resolved, which a wildcard cannot be.
pub(super) fn resolves_host(entry: &Entry, host: &HostName) -> bool {
    matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns)
        && !host.is_wildcard()
        && entry.endpoints.is_empty()
        && entry.workload_selector.is_none()
}

/// The names that `endpoints` need resolved.
pub(super) fn names<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> impl Iterator<Item = &'a HostName> {
    endpoints.filter_map(|e| match &e.address {
        EndpointAddress::Name(name) => Some(name),
        _ => None,
    })
}
