//! Services that labels bind to a waypoint: which go through it, which go past it, which wait.
//!
//! In: the snapshot, and [`Waypoints`] as they are now. Out: the way of each port, and what a waypoint is to know of it. Never:
//! whether a waypoint runs, which is told.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::Serialize;

use super::{
    Backend, Condition, HttpRules, Known, LedTo, PortPool, ServiceKey,
    backends::{self, Found, Of, Target},
};
use crate::model::{HostName, Listener, Protocol, Resolution, Transport, WaypointName, WaypointProxies};

/// The condition that tells how connections go through a waypoint.
pub const WAYPOINT_BOUND: &str = "istio.io/WaypointBound";
/// Why an entry is not led through a waypoint which will take it as a rule: its Envoys are about to.
pub const WAYPOINT_NOT_READY: &str = "WaypointNotReady";

/// What connections get while their waypoint cannot take them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unavailable {
    /// They go past it to the backends.
    Direct,
    /// They fail at once. Who binds a service to a waypoint may rely on what it does.
    #[default]
    Refuse,
}

/// The waypoints as a node knows them.
#[derive(Clone, Debug, Default)]
pub struct Waypoints {
    served: Served,
    unavailable: Unavailable,
}

/// Whether there are waypoints.
#[derive(Clone, Debug, Default)]
enum Served {
    #[default]
    Nowhere,
    /// Somewhere, where all is well.
    Assumed,
    /// By one proxy on this node, whatever their names.
    Here(Proxy),
    /// By proxies of the cluster, of which the snapshot tells.
    InCluster(Commitments),
}

/// The proxy of this node.
#[derive(Clone, Debug)]
struct Proxy {
    addresses: Vec<IpAddr>,
    ports: PortPool,
    /// The services whose listeners take connections; none while the proxy is away.
    ready: BTreeSet<ServiceKey>,
    /// Why the listeners of others are not there.
    rejected: BTreeMap<ServiceKey, String>,
}

/// Whether the connections of each bound service are led to its waypoint, or wait for it. Until then they go on past it, as they did
/// before the service was bound.
type Commitments = BTreeMap<HostName, BTreeMap<ServiceKey, bool>>;

static NO_PORTS: PortPool = PortPool::EMPTY;

/// No waypoint is served.
pub static NO_WAYPOINTS: Waypoints = Waypoints::of(Served::Nowhere);
/// Every waypoint takes all that can be led through one, as where one is served and all is well.
pub static ASSUMED_WAYPOINTS: Waypoints = Waypoints::of(Served::Assumed);

impl Waypoints {
    const fn of(served: Served) -> Self {
        Self { served, unavailable: Unavailable::Refuse }
    }

    /// Those of this node, whose listeners are at `addresses`, of which none is there yet.
    #[must_use]
    pub fn at(addresses: Vec<IpAddr>, ports: PortPool, unavailable: Unavailable) -> Self {
        let (ready, rejected) = (BTreeSet::new(), BTreeMap::new());
        Self { served: Served::Here(Proxy { addresses, ports, ready, rejected }), unavailable }
    }

    /// Those of the cluster, as the snapshot has them.
    #[must_use]
    pub fn in_cluster(unavailable: Unavailable) -> Self {
        Self { served: Served::InCluster(Commitments::new()), unavailable }
    }

    /// Whether what waypoints are to know is of interest.
    #[must_use]
    pub fn are_served(&self) -> bool {
        matches!(self.served, Served::Here(_) | Served::InCluster(_))
    }

    /// The ports of services at the proxy of this node.
    #[must_use]
    pub fn ports(&self) -> &PortPool {
        match &self.served {
            Served::Here(proxy) => &proxy.ports,
            _ => &NO_PORTS,
        }
    }

    /// The ports of services at the proxy of this node, if there is one, to change.
    pub fn ports_mut(&mut self) -> Option<&mut PortPool> {
        match &mut self.served {
            Served::Here(proxy) => Some(&mut proxy.ports),
            _ => None,
        }
    }

    /// Whether the proxy of this node listens for `service`.
    #[must_use]
    pub fn is_ready(&self, service: &ServiceKey) -> bool {
        matches!(&self.served, Served::Here(proxy) if proxy.ready.contains(service))
    }

    /// Takes in which listeners of this node take connections, and why others do not come. Returns the hosts for which that is
    /// new.
    pub fn set_listeners(
        &mut self,
        ready: BTreeSet<ServiceKey>,
        rejected: BTreeMap<ServiceKey, String>,
    ) -> BTreeSet<HostName> {
        let Served::Here(proxy) = &mut self.served else { return BTreeSet::new() };
        let mut touched: BTreeSet<_> =
            proxy.ready.symmetric_difference(&ready).map(|s| s.host.clone()).collect();
        touched.extend(proxy.rejected.keys().chain(rejected.keys()).map(|service| service.host.clone()));
        proxy.ready = ready;
        proxy.rejected = rejected;
        touched
    }

    /// Notes the services of `host` that are bound to a waypoint of the cluster: whether connections are led to it from now on, or
    /// wait for it. What was committed stays so. Says whether something changed.
    pub fn commit(&mut self, host: &HostName, bound: BTreeMap<ServiceKey, bool>) -> bool {
        let Served::InCluster(commitments) = &mut self.served else { return false };
        let before = commitments.get(host);
        let is_committed = |service: &ServiceKey| before.and_then(|b| b.get(service)) == Some(&true);
        let now: BTreeMap<_, _> = bound
            .into_iter()
            .map(|(service, is_now)| {
                let is_committed = is_now || is_committed(&service);
                (service, is_committed)
            })
            .collect();
        let has_changed = before.map_or(!now.is_empty(), |before| *before != now);
        match now.is_empty() {
            true => drop(commitments.remove(host)),
            false => drop(commitments.insert(host.clone(), now)),
        }
        has_changed
    }

    /// Whether `service` was noted as bound to a waypoint of the cluster.
    #[must_use]
    pub fn knows(&self, service: &ServiceKey) -> bool {
        matches!(&self.served, Served::InCluster(all) if all.get(&service.host).is_some_and(|of| of.contains_key(service)))
    }

    /// Whether waypoints are proxies of the cluster.
    #[must_use]
    pub fn are_in_cluster(&self) -> bool {
        matches!(self.served, Served::InCluster(_))
    }
}

/// The addresses of the proxies that serve `waypoint` now; none where there is none, or where all are well by assumption.
#[must_use]
pub fn replicas<'a>(known: Known<'a>, waypoint: &WaypointName) -> &'a [IpAddr] {
    match &known.waypoints.served {
        Served::Nowhere | Served::Assumed => &[],
        Served::Here(proxy) => &proxy.addresses,
        Served::InCluster(_) => {
            known.snapshot.waypoint(waypoint).map_or(&[], |proxies| proxies.replicas.as_slice())
        }
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
    /// What HTTPRoutes make of the requests.
    pub http: HttpRules,
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
    /// To the listener at this port; and what the waypoint did not take of its last change, in its own words: what it had before
    /// goes on.
    Through(&'a WaypointName, u16, Option<&'a str>),
}

/// Why connections do not go through the waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// What the service is cannot be led through one: reason and message.
    Unfit(&'static str),
    /// No waypoint is served on this node.
    NotServed,
    /// The cluster has no waypoint of this name.
    NoSuch,
    /// The waypoint has no replica that takes connections.
    NoReplica,
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
    if let Some(why) = unfit {
        return Way::Past(waypoint, Why::Unfit(why));
    }
    let service = of.key();
    let is_refused = known.waypoints.unavailable == Unavailable::Refuse;
    let (found, is_committed) = match &known.waypoints.served {
        Served::Nowhere => return Way::Past(waypoint, Why::NotServed),
        Served::Assumed => return Way::Through(waypoint, 0, None),
        Served::Here(proxy) => {
            let assignment = proxy.ports.get(&service);
            (proxy.listener(&service), assignment.is_none_or(|assignment| assignment.is_committed))
        }
        Served::InCluster(commitments) => {
            let Some(proxies) = known.snapshot.waypoint(waypoint) else {
                return Way::Past(waypoint, Why::NoSuch);
            };
            let committed = commitments.get(&service.host).and_then(|of_host| of_host.get(&service));
            (in_cluster(proxies, &service), committed.is_none_or(|is_committed| *is_committed))
        }
    };
    match found {
        Ok((port, refusal)) => Way::Through(waypoint, port, refusal),
        Err(why) if is_refused && is_committed => Way::Waits(waypoint, why),
        Err(why) => Way::Past(waypoint, why),
    }
}

impl Proxy {
    /// The port of the listener for `service`, or why it cannot be used.
    fn listener(&self, service: &ServiceKey) -> Result<(u16, Option<&str>), Why> {
        match (self.ports.get(service), self.rejected.get(service)) {
            (None, _) => Err(Why::NoPort),
            (Some(assignment), refusal) if self.ready.contains(service) => {
                Ok((assignment.port, refusal.map(String::as_str)))
            }
            (Some(_), Some(message)) => Err(Why::Rejected(message.clone())),
            (Some(_), None) => Err(Why::NotReady),
        }
    }
}

/// The port of the listener for `service` at a waypoint of the cluster, or why it cannot be used.
fn in_cluster<'a>(proxies: &'a WaypointProxies, service: &ServiceKey) -> Result<(u16, Option<&'a str>), Why> {
    match proxies.listener(&service.host, &service.entry, service.port) {
        _ if proxies.replicas.is_empty() => Err(Why::NoReplica),
        None => Err(Why::NotReady),
        Some(listener) if listener.ready => Ok((listener.listener, listener.rejected.as_deref())),
        Some(Listener { rejected: Some(message), .. }) => Err(Why::Rejected(message.clone())),
        Some(_) => Err(Why::NotReady),
    }
}

/// What the kernel is to lead connections to, of a port whose own backends are `direct`.
pub(super) fn dialled(known: Known<'_>, way: &Way<'_>, direct: Vec<Backend>) -> LedTo {
    match way {
        Way::Waits(..) => LedTo::Backends(Vec::new()),
        Way::Through(waypoint, port, _) if known.waypoints.are_served() => {
            LedTo::Waypoint((*waypoint).clone(), *port)
        }
        _ => LedTo::Backends(direct),
    }
}

/// The backends that connections get which are led to this.
#[must_use]
pub fn backends_of<'a>(known: Known<'_>, led_to: &'a LedTo) -> Cow<'a, [Backend]> {
    led_to.backends(|waypoint| replicas(known, waypoint).iter().copied())
}

/// What a waypoint is to know of a port that is bound to it, if one is served; `found` is what its endpoints come to.
pub(super) fn bound(known: Known<'_>, of: Of<'_>, found: &Found) -> Option<Bound> {
    let (waypoint, None) = binding(known, of)? else { return None };
    if !known.waypoints.are_served() {
        return None;
    }
    let (upstream, http) = (upstream(known, of, found), HttpRules::default());
    Some(Bound { waypoint: waypoint.clone(), protocol: of.port.protocol, upstream, http })
}

/// Where a waypoint is to send connections for a port. Names are for the waypoint to resolve. A proxy of this node is told
/// addresses instead where names lead to a service of ours, which it would not know, or differ in how far they are; one of the
/// cluster is told the endpoints of that service.
pub(super) fn upstream(known: Known<'_>, of: Of<'_>, found: &Found) -> Upstream {
    let is_ours = known.waypoints.are_in_cluster();
    let written = if is_ours { backends::followed(known, of) } else { backends::endpoints(known, of) };
    let is_plain =
        is_ours || !found.is_followed && written.windows(2).all(|pair| pair[0].distance == pair[1].distance);
    if !is_plain || written.iter().all(|target| target.name.is_none()) {
        return Upstream::Backends(found.backends.clone());
    }
    let mut endpoints: BTreeMap<(Arc<str>, u16), u32> = BTreeMap::new();
    for Target { source, port, weight, .. } in written {
        let sum = endpoints.entry((source, port)).or_default();
        *sum = sum.saturating_add(weight);
    }
    let only_first = of.entry.resolution == Resolution::DnsRoundRobin && endpoints.len() == 1;
    let endpoints = endpoints.into_iter().map(|((name, port), weight)| (name, port, weight)).collect();
    Upstream::Names { endpoints, only_first }
}

impl Way<'_> {
    /// Whether a waypoint is asked for that can take the connections, wherever they go now.
    pub(super) fn is_bound(&self) -> bool {
        !matches!(self, Self::Unbound | Self::Past(_, Why::Unfit(_)))
    }

    /// Whether connections go through the waypoint.
    pub(super) fn is_through(&self) -> bool {
        matches!(self, Self::Through(..))
    }

    /// Why the waypoint did not take the last change of the service, or never took it.
    pub(super) fn refusal(&self) -> Option<&str> {
        match self {
            Self::Through(_, _, refusal) => *refusal,
            Self::Past(_, Why::Rejected(why)) | Self::Waits(_, Why::Rejected(why)) => Some(why),
            _ => None,
        }
    }

    /// Status, reason and message; the worst are the greatest. None without a binding.
    fn told(&self) -> Option<(u8, &'static str, String)> {
        let (waypoint, why, what) = match self {
            Way::Unbound => return None,
            Way::Through(waypoint, _, None) => {
                let message = format!("connections go through waypoint {waypoint}, which dials the backends");
                return Some((1, "WaypointAccepted", message));
            }
            Way::Through(waypoint, _, Some(refusal)) => {
                let message = format!(
                    "waypoint {waypoint} did not take the last change: {refusal}; connections go through it as before that"
                );
                return Some((4, "WaypointRejected", message));
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
            Why::NoSuch => (
                2,
                "WaypointMissing",
                format!("there is no waypoint {waypoint} (make it by `kmesh-se waypoint apply`), so {what}"),
            ),
            Why::NoReplica => (
                3,
                WAYPOINT_NOT_READY,
                format!("no replica of waypoint {waypoint} takes connections; {what}"),
            ),
            Why::NoPort => (
                3,
                "WaypointPortsExhausted",
                format!("no port is left for a listener at waypoint {waypoint} (--waypoint-ports); {what}"),
            ),
            Why::NotReady => (
                3,
                WAYPOINT_NOT_READY,
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
pub fn waypoint_condition<'a>(known: Known<'a>, service: &'a ServiceKey) -> Option<Condition> {
    condition(&[way_of(known, service)?])
}

/// Whether connections to `service` go through a waypoint.
#[must_use]
pub fn is_through(known: Known<'_>, service: &ServiceKey) -> bool {
    way_of(known, service).is_some_and(|(_, way)| way.is_through())
}

fn way_of<'a>(known: Known<'a>, service: &'a ServiceKey) -> Option<(u16, Way<'a>)> {
    let entry = known.snapshot.entry(&service.entry)?;
    let port = entry.ports.iter().find(|port| port.number == service.port)?;
    Some((port.number, way(known, Of { entry, host: &service.host, port })))
}

/// What people are told of the ways of an entry's ports, of the worst first.
pub(super) fn condition(ways: &[(u16, Way<'_>)]) -> Option<Condition> {
    let mut told: BTreeMap<_, BTreeSet<u16>> = BTreeMap::new();
    for (port, way) in ways {
        if let Some(way) = way.told() {
            told.entry(way).or_default().insert(*port);
        }
    }
    let ((worst, reason, _), _) = told.last_key_value()?;
    let is_one = told.len() == 1;
    let messages = told.iter().rev().map(|((.., message), ports)| match is_one {
        true => message.clone(),
        false => {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            format!("port {}: {message}", ports.join(", "))
        }
    });
    let message = messages.collect::<Vec<_>>().join("; ");
    let status = if *worst == 1 { "True" } else { "False" };
    Some(Condition { kind: WAYPOINT_BOUND, status, reason, message })
}
