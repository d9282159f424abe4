//! One waypoint of the cluster: the ports of its services, its Envoys, and what agents are to know of it.
//!
//! In: the services that are bound to it, its Pods, what its Envoys have taken, the time. Out: what Envoys are told, and the ConfigMap as
//! it should be. Never: a service that is led to an Envoy which does not listen for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    desired::{Bound, PortAssignment, PortPool, PortRange, ServiceKey, Upstream},
    model::{HostName, Listener, ObjectRef, WaypointName, WaypointProxies},
    waypoint::{NodeInfo, Service, Settings, Standing, Xds},
};

/// How long an Envoy has to resolve the names of a service for the first time before connections are led there: it says that it has
/// taken the service before it has done that.
const SETTLE: Duration = Duration::from_secs(1);
/// An Envoy that has not taken a service for so long after another one has is left out.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a new leader waits for the Envoys of the one before.
const RETURN: Duration = Duration::from_secs(15);

/// A Pod of a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replica {
    /// Where it is.
    pub(super) addresses: Vec<IpAddr>,
    /// Whether the kubelet finds that its Envoy serves: it says that it has taken everything a moment before it listens.
    pub(super) is_ready: bool,
    /// Whether it has ended, or is about to.
    pub(super) is_leaving: bool,
}

/// One waypoint.
pub(super) struct Served {
    name: WaypointName,
    object: ObjectRef,
    began: Instant,
    pool: PortPool,
    services: BTreeMap<ServiceKey, Bound>,
    /// None until it has a Pod, whose addresses tell at which families Envoys can listen.
    xds: Option<Xds>,
    /// The Pods that take connections, or did until this leader came.
    run: BTreeSet<Arc<str>>,
    /// The addresses of those of them that are not known yet.
    inherited: Vec<IpAddr>,
    ready: BTreeSet<ServiceKey>,
    /// Since when a service is served by some, and by all.
    taken: BTreeMap<ServiceKey, Taken>,
    rejected: BTreeMap<ServiceKey, String>,
    /// Its Envoys and Pods when they were looked at last; none when its services have changed since.
    seen: Option<Seen>,
    /// Whether no port is left for some service.
    is_full: bool,
}

type Seen = (Vec<NodeInfo>, BTreeMap<Arc<str>, Replica>);

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    by_some: Option<Instant>,
    by_all: Option<Instant>,
}

impl Served {
    /// The waypoint of this name, told of in `object`; with what was said of it before.
    pub(super) fn new(
        name: WaypointName,
        object: ObjectRef,
        range: PortRange,
        before: Option<&WaypointProxies>,
        now: Instant,
    ) -> Self {
        let mut pool = PortPool::new(range);
        let mut ready = BTreeSet::new();
        for (host, listener) in before.into_iter().flat_map(|before| &before.listeners).flat_map(each) {
            let service = ServiceKey { host: host.clone(), entry: listener.object(), port: listener.port };
            pool.restore(&service, PortAssignment { port: listener.listener, is_committed: true });
            if listener.ready && pool.get(&service).is_some() {
                ready.insert(service);
            }
        }
        let mut resting: Vec<_> = before.iter().flat_map(|before| &before.resting).collect();
        resting.sort_by_key(|(_, until)| **until);
        resting.into_iter().for_each(|(port, until)| pool.restore_resting(*port, *until));
        Self {
            name,
            object,
            began: now,
            pool,
            services: BTreeMap::new(),
            xds: None,
            run: BTreeSet::new(),
            inherited: before.map(|before| before.replicas.clone()).unwrap_or_default(),
            ready,
            taken: BTreeMap::new(),
            rejected: BTreeMap::new(),
            seen: None,
            is_full: false,
        }
    }

    /// The ConfigMap that tells of it.
    pub(super) fn object(&self) -> &ObjectRef {
        &self.object
    }

    /// What its Envoys are told, once it has any.
    pub(super) fn xds(&self) -> Option<&Xds> {
        self.xds.as_ref()
    }

    /// Takes in which services of `host` are bound to it.
    pub(super) fn set(&mut self, host: &HostName, bound: BTreeMap<ServiceKey, Bound>, now: Timestamp) {
        let has_released = self.pool.release(host, |service| bound.contains_key(service), now);
        let own = || self.services.range(from(host)..).take_while(|(service, _)| service.host == *host);
        if !has_released && own().eq(&bound) {
            return;
        }
        self.seen = None;
        let gone = own().map(|(service, _)| service).filter(|service| !bound.contains_key(service));
        for service in gone.cloned().collect::<Vec<_>>() {
            self.services.remove(&service);
            self.ready.remove(&service);
            self.taken.remove(&service);
            self.rejected.remove(&service);
        }
        for (service, bound) in bound {
            if let Err(error) = self.pool.ensure(&service, true, now) {
                if !std::mem::replace(&mut self.is_full, true) {
                    tracing::error!(waypoint = %self.name, %service, %error, "a service cannot go through its waypoint");
                }
                continue;
            }
            self.tell(&service, &bound);
            self.services.insert(service, bound);
        }
    }

    fn tell(&self, service: &ServiceKey, bound: &Bound) {
        if let (Some(xds), Some(assignment)) = (&self.xds, self.pool.get(service)) {
            xds.set(service, Some(Service::of(assignment.port, bound)));
        }
    }

    /// Begins to tell Envoys, all of which can listen where the first Pods can. All services are known.
    fn begin(&mut self, pods: &BTreeMap<Arc<str>, Replica>) {
        let addresses = || pods.values().flat_map(|pod| &pod.addresses);
        let mut listen = Vec::new();
        if addresses().any(IpAddr::is_ipv4) {
            listen.push(Ipv4Addr::UNSPECIFIED.into());
        }
        if addresses().any(IpAddr::is_ipv6) {
            listen.push(Ipv6Addr::UNSPECIFIED.into());
        }
        if listen.is_empty() {
            return;
        }
        let xds = Xds::new(Settings { listen, resolvers: Vec::new(), access_log: true });
        self.xds = Some(xds.clone());
        self.services.iter().for_each(|(service, bound)| self.tell(service, bound));
        xds.synced();
    }

    /// Looks at what its Pods are and what its Envoys have taken; says whether something may have changed.
    pub(super) fn look(&mut self, pods: &BTreeMap<Arc<str>, Replica>, now: Instant, time: Timestamp) -> bool {
        if self.xds.is_none() {
            self.begin(pods);
        }
        let left = self.pool.take_left(time);
        let Some(xds) = self.xds.clone() else { return self.seen.replace(Default::default()).is_none() };
        left.iter().for_each(|service| xds.set(service, None));
        let nodes = xds.nodes();
        let seen = Some((nodes.clone(), pods.clone()));
        let waits = !self.taken.is_empty() || now < self.began + RETURN;
        if !waits && left.is_empty() && self.seen == seen {
            return false;
        }
        self.seen = seen;
        let alive = |pod: &str| pods.get(pod).is_some_and(|pod| !pod.is_leaving);
        let connected: BTreeMap<Arc<str>, Arc<str>> = nodes
            .into_iter()
            .filter(|node| node.connected)
            .map(|node| (pod_of(&node.id).into(), node.id))
            .filter(|(pod, _): &(Arc<str>, _)| alive(pod))
            .collect();
        self.rejected =
            xds.rejections().into_iter().map(|(service, _, message)| (service, message)).collect();
        self.inherit(pods);

        let standings: BTreeMap<_, _> =
            self.services.keys().map(|service| (service, xds.standing(service))).collect();
        let serves = |service: &ServiceKey, id: &Arc<str>| {
            let of = |(node, standing): &(Arc<str>, Standing)| node == id && standing.serves;
            standings.get(service).is_some_and(|all| all.iter().any(of))
        };
        let serves_all = |pod: &Arc<str>, id: &Arc<str>| {
            let may_join = self.run.contains(pod) || pods.get(pod).is_some_and(|pod| pod.is_ready);
            may_join && self.ready.iter().all(|service| serves(service, id))
        };
        let mut run: BTreeSet<_> =
            connected.iter().filter(|(pod, id)| serves_all(pod, id)).map(|(pod, _)| pod.clone()).collect();
        // An Envoy that is not connected goes on with what it has, which is better than nothing; and those of the leader before are
        // given the time to come back.
        let is_alone = run.is_empty() || now < self.began + RETURN;
        let stays =
            |pod: &&Arc<str>| alive(pod) && is_alone && (run.is_empty() || !connected.contains_key(*pod));
        let stay: Vec<_> = self.run.iter().filter(stays).cloned().collect();
        run.extend(stay);
        if run != self.run {
            tracing::info!(waypoint = %self.name, replicas = ?run, "the replicas that take connections change");
            self.run = run;
        }

        let ids: Vec<_> = self.run.iter().filter_map(|pod| connected.get(pod)).collect();
        for service in self.services.keys().filter(|service| !self.ready.contains(service)) {
            let by_some = ids.iter().any(|id| serves(service, id));
            let by_all = by_some && ids.iter().all(|id| serves(service, id));
            let taken = self.taken.entry(service.clone()).or_default();
            taken.by_some = taken.by_some.or(Some(now)).filter(|_| by_some);
            taken.by_all = taken.by_all.or(Some(now)).filter(|_| by_all);
        }
        let services = &self.services;
        let settles = |service: &ServiceKey| match services.get(service).map(|bound| &bound.upstream) {
            Some(Upstream::Names { .. }) => SETTLE,
            _ => Duration::ZERO,
        };
        self.taken.retain(|service, taken| {
            let for_all = taken.by_all.is_some_and(|since| now >= since + settles(service));
            let for_long = taken.by_some.is_some_and(|since| now >= since + PATIENCE);
            if for_all || for_long {
                self.ready.insert(service.clone());
            }
            !self.ready.contains(service)
        });
        true
    }

    /// The Pods at the addresses that the leader before has told of take connections, as far as they are known.
    fn inherit(&mut self, pods: &BTreeMap<Arc<str>, Replica>) {
        for address in std::mem::take(&mut self.inherited) {
            let pod = pods.iter().find(|(_, pod)| pod.addresses.contains(&address));
            self.run.extend(pod.map(|(pod, _)| pod.clone()));
        }
    }

    /// What agents are to know.
    pub(super) fn proxies(&self, pods: &BTreeMap<Arc<str>, Replica>) -> WaypointProxies {
        let replicas = self.run.iter().filter_map(|pod| pods.get(pod)).flat_map(|pod| &pod.addresses);
        let replicas: BTreeSet<_> = replicas.chain(&self.inherited).copied().collect();
        let mut listeners: BTreeMap<_, Vec<Listener>> = BTreeMap::new();
        for (service, assignment) in self.pool.iter() {
            listeners.entry(service.host.clone()).or_default().push(Listener {
                host: service.host.to_string(),
                namespace: service.entry.namespace.to_string(),
                entry: service.entry.name.to_string(),
                port: service.port,
                listener: assignment.port,
                ready: self.ready.contains(service),
                rejected: self.rejected.get(service).cloned(),
            });
        }
        WaypointProxies {
            object: self.object.clone(),
            waypoint: self.name.clone(),
            replicas: replicas.into_iter().collect(),
            listeners,
            resting: self.pool.resting().collect(),
        }
    }
}

fn each<'a>(
    (host, of): (&'a HostName, &'a Vec<Listener>),
) -> impl Iterator<Item = (&'a HostName, &'a Listener)> {
    of.iter().map(move |listener| (host, listener))
}

/// The least service of `host`.
fn from(host: &HostName) -> ServiceKey {
    let entry = ObjectRef {
        kind: crate::model::Kind::ServiceEntry,
        namespace: crate::model::Namespace::new(""),
        name: "".into(),
    };
    ServiceKey { host: host.clone(), entry, port: 0 }
}

/// The Pod that an Envoy's id names: what is before the tilde.
fn pod_of(id: &str) -> &str {
    id.split_once('~').map_or(id, |(pod, _)| pod)
}
