//! Services that labels bind to a waypoint: which go through it, which go past it, which wait.
//!
//! In: the snapshot, and [`Waypoints`] as they are now. Out: the way of each port, and what a waypoint is to know of it. Never:
//! whether a waypoint runs, which is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::Serialize;

use super::{
    Backend, Condition, Known, PortPool, ServiceKey,
    backends::{self, Found, Of, Target},
};
use crate::model::{HostName, Protocol, Resolution, Transport, WaypointName};

/// What connections get while their waypoint cannot take them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unavailable {
    /// They go past it to the backends.
    Direct,
    /// They fail at once. Who binds a service to a waypoint may rely on what it does.
    #[default]
    Refuse,
}

/// The waypoints of this node as they are now.
#[derive(Clone, Debug)]
pub struct Waypoints {
    served: Served,
    unavailable: Unavailable,
    ports: PortPool,
    /// The services whose listeners take connections; none while the proxy is away.
    ready: BTreeSet<ServiceKey>,
    /// Why the listeners of others are not there.
    rejected: BTreeMap<ServiceKey, String>,
}

/// No waypoint is served.
pub static NO_WAYPOINTS: Waypoints = Waypoints::of(Served::Nowhere);
/// Every waypoint takes all that can be led through one, as where one is served and all is well.
pub static ASSUMED_WAYPOINTS: Waypoints = Waypoints::of(Served::Assumed);

impl Waypoints {
    const fn of(served: Served) -> Self {
        Self {
            served,
            unavailable: Unavailable::Refuse,
            ports: PortPool::EMPTY,
            ready: BTreeSet::new(),
            rejected: BTreeMap::new(),
        }
    }

    /// Those whose listeners are at `addresses`, of which none is there yet.
    #[must_use]
    pub fn at(addresses: Vec<IpAddr>, ports: PortPool, unavailable: Unavailable) -> Self {
        Self { ports, unavailable, ..Self::of(Served::At(addresses)) }
    }

    /// Whether waypoints are served on this node.
    #[must_use]
    pub fn are_served(&self) -> bool {
        matches!(self.served, Served::At(_))
    }

    /// The ports of services.
    #[must_use]
    pub fn ports(&self) -> &PortPool {
        &self.ports
    }

    /// The ports of services, to change.
    pub fn ports_mut(&mut self) -> &mut PortPool {
        &mut self.ports
    }

    /// Whether the listener of `service` takes connections.
    #[must_use]
    pub fn is_ready(&self, service: &ServiceKey) -> bool {
        self.ready.contains(service)
    }

    /// Takes in which listeners take connections, and why others do not come. Returns the hosts for which that is new.
    pub fn set_listeners(
        &mut self,
        ready: BTreeSet<ServiceKey>,
        rejected: BTreeMap<ServiceKey, String>,
    ) -> BTreeSet<HostName> {
        let mut touched: BTreeSet<_> =
            self.ready.symmetric_difference(&ready).map(|s| s.host.clone()).collect();
        touched.extend(self.rejected.keys().chain(rejected.keys()).map(|service| service.host.clone()));
        self.ready = ready;
        self.rejected = rejected;
        touched
    }
}

/// Whether there are waypoints.
#[derive(Clone, Debug)]
enum Served {
    Nowhere,
    /// Somewhere, where all is well.
    Assumed,
    /// With listeners at these addresses.
    At(Vec<IpAddr>),
}

impl Default for Waypoints {
    fn default() -> Self {
        Self::of(Served::Nowhere)
    }
}

/// What a waypoint is to know of a service that is bound to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bound {
    /// The waypoint.
    pub waypoint: WaypointName,
    /// What the connections carry.
    pub protocol: Protocol,
    /// Where they are to go.
    pub upstream: Upstream,
}

/// Where a waypoint is to send connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Upstream {
    /// To these, as they are now.
    Backends(Vec<Backend>),
    /// To what these names are, which the waypoint resolves by itself.
    Names {
        /// Name or address, port and weight.
        endpoints: Vec<(Arc<str>, u16, u32)>,
        /// Only to the first address of the newest answer.
        only_first: bool,
    },
}

impl Upstream {
    /// Each host with its port.
    #[must_use]
    pub fn to_strings(&self) -> Vec<String> {
        match self {
            Self::Backends(all) => {
                all.iter().map(|b| SocketAddr::new(b.address, b.port).to_string()).collect()
            }
            Self::Names { endpoints, .. } => {
                endpoints.iter().map(|(host, port, _)| format!("{host}:{port}")).collect()
            }
        }
    }
}

/// The way that connections of one port go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way<'a> {
    /// To the backends: no waypoint is asked for.
    Unbound,
    /// To the backends, although a waypoint is asked for.
    Past(&'a WaypointName, Why),
    /// Nowhere, until the waypoint takes them.
    Waits(&'a WaypointName, Why),
    /// To the listener at this port.
    Through(&'a WaypointName, u16),
}

/// Why connections do not go through the waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// What the service is cannot be led through one: reason and message.
    Unfit(&'static str),
    /// No waypoint is served on this node.
    NotServed,
    /// All ports for listeners are taken.
    NoPort,
    /// The listener is not there yet, or not any more.
    NotReady,
    /// The waypoint does not take the listener; its own words.
    Rejected(String),
}

/// The waypoint that a port is bound to, and why it cannot go through any.
pub(super) fn binding<'a>(known: Known<'a>, of: Of<'a>) -> Option<(&'a WaypointName, Option<&'static str>)> {
    let waypoint = known.snapshot.waypoint_of(of.entry)?;
    let unfit = match of.entry.resolution {
        _ if of.port.protocol.transport() == Transport::Udp => Some("UDP is not led through a waypoint"),
        Resolution::None => {
            Some("resolution NONE leads to the address that was dialled, which a waypoint does not learn")
        }
        Resolution::DynamicDns => Some("names below a wildcard are not led through a waypoint"),
        _ if of.host.is_wildcard() => Some("a wildcard host is not led through a waypoint"),
        _ => None,
    };
    Some((waypoint, unfit))
}

/// The way of a port of a service.
pub(super) fn way<'a>(known: Known<'a>, of: Of<'a>) -> Way<'a> {
    let (waypoint, unfit) = match binding(known, of) {
        None => return Way::Unbound,
        Some(binding) => binding,
    };
    let waypoints = known.waypoints;
    if let Some(why) = unfit {
        return Way::Past(waypoint, Why::Unfit(why));
    }
    match waypoints.served {
        Served::Nowhere => return Way::Past(waypoint, Why::NotServed),
        Served::Assumed => return Way::Through(waypoint, 0),
        Served::At(_) => {}
    }
    let service = of.key();
    let assignment = waypoints.ports.get(&service);
    if let Some(assignment) = assignment.filter(|_| waypoints.is_ready(&service)) {
        return Way::Through(waypoint, assignment.port);
    }
    let why = match (assignment, waypoints.rejected.get(&service)) {
        (None, _) => Why::NoPort,
        (Some(_), Some(message)) => Why::Rejected(message.clone()),
        (Some(_), None) => Why::NotReady,
    };
    let waits = waypoints.unavailable == Unavailable::Refuse
        && assignment.is_none_or(|assignment| assignment.is_committed);
    if waits { Way::Waits(waypoint, why) } else { Way::Past(waypoint, why) }
}

/// What the kernel is to lead connections to, of a port whose own backends are `direct`.
pub(super) fn dialled(known: Known<'_>, way: &Way<'_>, direct: Vec<Backend>) -> Vec<Backend> {
    match (way, &known.waypoints.served) {
        (Way::Waits(..), _) => Vec::new(),
        (Way::Through(waypoint, port), Served::At(addresses)) => {
            let source: Arc<str> = format!("waypoint {waypoint}").into();
            let listener = |address: &IpAddr| Backend {
                address: *address,
                port: *port,
                weight: 1,
                source: source.clone(),
            };
            addresses.iter().map(listener).collect()
        }
        _ => direct,
    }
}

/// What a waypoint is to know of a port that is bound to it, if one is served; `found` is what its endpoints come to. Names
/// are for the waypoint to resolve, unless one leads to a service of ours, which it would not know, or they differ in how far
/// they are.
pub(super) fn bound(known: Known<'_>, of: Of<'_>, found: &Found) -> Option<Bound> {
    let (waypoint, None) = binding(known, of)? else { return None };
    if !known.waypoints.are_served() {
        return None;
    }
    let written = backends::endpoints(known, of);
    let is_plain = !found.is_followed && written.windows(2).all(|pair| pair[0].distance == pair[1].distance);
    let upstream = if is_plain && written.iter().any(|target| target.name.is_some()) {
        let mut endpoints: BTreeMap<(Arc<str>, u16), u32> = BTreeMap::new();
        for Target { source, port, weight, .. } in written {
            let sum = endpoints.entry((source, port)).or_default();
            *sum = sum.saturating_add(weight);
        }
        let endpoints = endpoints.into_iter().map(|((name, port), weight)| (name, port, weight)).collect();
        Upstream::Names { endpoints, only_first: of.entry.resolution == Resolution::DnsRoundRobin }
    } else {
        Upstream::Backends(found.backends.clone())
    };
    Some(Bound { waypoint: waypoint.clone(), protocol: of.port.protocol, upstream })
}

impl Way<'_> {
    /// Whether connections go through the waypoint.
    pub(super) fn is_through(&self) -> bool {
        matches!(self, Self::Through(..))
    }

    /// Status, reason and message; the worst are the greatest. None without a binding.
    fn told(&self) -> Option<(u8, &'static str, String)> {
        let (waypoint, why, what) = match self {
            Way::Unbound => return None,
            Way::Through(waypoint, _) => {
                let message = format!("connections go through waypoint {waypoint}, which dials the backends");
                return Some((1, "WaypointAccepted", message));
            }
            Way::Past(waypoint, why) => (waypoint, why, "connections go straight to the backends"),
            Way::Waits(waypoint, why) => {
                (waypoint, why, "connections are refused until then (--waypoint-unavailable)")
            }
        };
        Some(match why {
            Why::Unfit(because) => (0, "WaypointUnsupported", format!("{because}, so {what}")),
            Why::NotServed => (
                2,
                "WaypointMissing",
                format!("waypoint {waypoint} is not served on this node (--waypoint-envoy), so {what}"),
            ),
            Why::NoPort => (
                3,
                "WaypointPortsExhausted",
                format!("no port is left for a listener at waypoint {waypoint} (--waypoint-ports); {what}"),
            ),
            Why::NotReady => (
                3,
                "WaypointNotReady",
                format!("waypoint {waypoint} does not take them yet, or any more; {what}"),
            ),
            Why::Rejected(message) => (
                4,
                "WaypointRejected",
                format!("waypoint {waypoint} did not take the listener: {message}; {what}"),
            ),
        })
    }
}

/// What people are told of the way of `service`, if it is bound to a waypoint.
#[must_use]
pub fn waypoint_condition(known: Known<'_>, service: &ServiceKey) -> Option<Condition> {
    let entry = known.snapshot.entry(&service.entry)?;
    let port = entry.ports.iter().find(|port| port.number == service.port)?;
    condition(&[(port.number, way(known, Of { entry, host: &service.host, port }))])
}

/// What people are told of the ways of an entry's ports, of the worst first.
pub(super) fn condition(ways: &[(u16, Way<'_>)]) -> Option<Condition> {
    let mut told: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for (port, way) in ways {
        if let Some(way) = way.told() {
            told.entry(way).or_default().push(port.to_string());
        }
    }
    let ((worst, reason, _), _) = told.last_key_value()?;
    let is_one = told.len() == 1;
    let messages = told.iter().rev().map(|((.., message), ports)| match is_one {
        true => message.clone(),
        false => format!("port {}: {message}", ports.join(", ")),
    });
    let message = messages.collect::<Vec<_>>().join("; ");
    let status = if *worst == 1 { "True" } else { "False" };
    Some(Condition { kind: "istio.io/WaypointBound", status, reason, message })
}
