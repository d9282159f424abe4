//! Waypoints of the cluster: who is served where, told to Envoys over xDS and to agents in ConfigMaps.
//!
//! In: the objects of the cluster, which Gateways are waypoints, the Envoys' connections. Out: from the leader xDS by mutual TLS, a
//! ConfigMap for each waypoint, and the status of HTTPRoutes; from all controllers what each bound entry is to be told. Never: an Envoy
//! that a certificate is not for.
//!
//! `served` decides for one waypoint, `door` lets its Envoys in, `keys` has the certificates, `book` writes the ConfigMaps, `routes` what
//! HTTPRoutes are told; `told` has what entries were.

mod book;
mod door;
mod keys;
mod routes;
mod served;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::stream;
use jiff::Timestamp;
use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{
    book::Book,
    door::{Connection, Keys},
    routes::Routes,
    served::{Replica, Served},
    told::Told,
};
use super::{bind, election::Term, gateways::Known as Gateways, keyring::KeptKeyring};
use crate::{
    certificates::Policy,
    config::{ControllerArgs, WaypointServerArgs},
    desired::{self, Bound, Condition, Known, PortRange, ServiceKey, VipPool, VipRanges},
    model::{
        GATEWAY_CLASS_LABEL, GATEWAY_NAME_LABEL, HostName, Kind, Object, ObjectRef, Pod, Resolved, Snapshot,
        WAYPOINT_CLASS, WaypointName, validate,
    },
    source::Event,
    waypoint::Xds,
};

/// How often it is looked at what has changed, and what Envoys have taken.
const LOOK: Duration = Duration::from_millis(100);
/// How long a failure to listen is waited out.
const WAIT: Duration = Duration::from_secs(2);
/// Room for connections that nobody has taken yet.
const QUEUE: usize = 16;
/// How many events are taken in at one time.
const EVENTS: usize = 1024;

/// What is said of an entry that is bound to a waypoint, or has HTTPRoutes; nothing of others.
pub(super) type News = (ObjectRef, Vec<Condition>);

/// How waypoints are served.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Where Envoys come in.
    pub(super) listen: SocketAddr,
    /// The ports of listeners.
    pub(super) ports: PortRange,
    /// Where ConfigMaps are.
    pub(super) namespace: String,
}

/// Who leads, which Gateways are waypoints, what the cluster has; and who hears what entries are to be told.
pub(super) type Links =
    (watch::Receiver<Term>, watch::Receiver<Gateways>, mpsc::Receiver<Event>, mpsc::Sender<News>);

impl Settings {
    /// Those of the flags, with ConfigMaps in `namespace`.
    pub(super) fn of(args: &WaypointServerArgs, namespace: &str) -> Self {
        let (listen, ports) = (args.waypoint_xds_listen, args.waypoint_ports);
        Self { listen, ports, namespace: namespace.to_owned() }
    }
}

/// The certificates of the flags, kept in `namespace`.
pub(super) fn keyring(
    client: Client,
    args: &ControllerArgs,
    namespace: &str,
    terms: watch::Receiver<Term>,
) -> KeptKeyring {
    let server = &args.waypoint_server;
    let hosts = vec![args.gateways.xds_host(namespace)];
    let policy = Policy { hosts, lifetime: Duration::from_secs(server.waypoint_lifetime.into()) };
    KeptKeyring::new(client, namespace, server.waypoint_secret.clone(), policy, terms)
}

/// Serves waypoints for as long as it is asked: from Gateways that are `gateways`, and the events of a source.
pub(super) async fn run(
    client: Client,
    settings: Settings,
    keyring: KeptKeyring,
    (mut terms, mut gateways, mut events, news): Links,
) {
    let keys = Arc::new(Keys::default());
    let _keeper = AbortOnDropHandle::new(tokio::spawn(keys::keep(
        client.clone(),
        keyring,
        keys.clone(),
        gateways.clone(),
    )));
    let mut room = Room::new(client, settings, news);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut door: Option<Door> = None;
    let mut heard = Vec::new();
    loop {
        tokio::select! {
            // The look at waypoints takes longer than an event, so many share one.
            count = events.recv_many(&mut heard, EVENTS) => match count {
                0 => return,
                _ => {
                    heard.drain(..).for_each(|event| room.event(event));
                    continue;
                }
            },
            Some((waypoint, connection)) = next(&mut door) => {
                room.connect(&waypoint, connection).await;
                continue;
            }
            changed = gateways.changed() => if changed.is_err() { return },
            changed = terms.changed() => if changed.is_err() { return },
            _ = looks.tick() => {}
        }
        let leads = terms.borrow_and_update().is_some_and(|until| until > Instant::now());
        let known = gateways.borrow_and_update().clone();
        room.tell(Instant::now()).await;
        match known.filter(|_| leads && room.is_synced) {
            Some(known) => {
                door.get_or_insert_with(|| Door::open(room.settings.listen, keys.clone()));
                room.lead(&known.keys().cloned().collect());
            }
            None => {
                door = None;
                room.follow();
            }
        }
    }
}

/// Where Envoys come in, while this controller leads.
struct Door {
    connections: mpsc::Receiver<(WaypointName, Connection)>,
    _keeper: AbortOnDropHandle<()>,
}

impl Door {
    fn open(listen: SocketAddr, keys: Arc<Keys>) -> Self {
        let (out, connections) = mpsc::channel(QUEUE);
        let keeper = tokio::spawn(async move {
            loop {
                match bind(listen).await {
                    Ok(listener) => return door::keep(&listener, &keys, out).await,
                    Err(error) => {
                        tracing::error!(address = %listen, %error, "waypoints cannot be served: choose another --waypoint-xds-listen");
                        sleep(WAIT).await;
                    }
                }
            }
        });
        Self { connections, _keeper: AbortOnDropHandle::new(keeper) }
    }
}

async fn next(door: &mut Option<Door>) -> Option<(WaypointName, Connection)> {
    match door {
        Some(door) => door.connections.recv().await,
        None => None,
    }
}

/// A waypoint that is served, and the way for its Envoys.
struct Open {
    served: Served,
    way: Option<Way>,
}

struct Way {
    connections: mpsc::Sender<Connection>,
    /// Ends the server, and every connection.
    _stop: tokio_util::sync::DropGuard,
}

impl Way {
    fn to(xds: Xds) -> Self {
        let (connections, receiver) = mpsc::channel(QUEUE);
        let incoming = stream::unfold(receiver, |mut receiver: mpsc::Receiver<Connection>| async {
            receiver.recv().await.map(|connection| (Ok(connection), receiver))
        });
        let stop = CancellationToken::new();
        let end = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            if let Err(error) = xds.serve(Box::pin(incoming), end).await {
                tracing::error!(%error, "a waypoint is told nothing");
            }
        });
        Self { connections, _stop: stop.drop_guard() }
    }
}

/// All that is known, and the waypoints while this controller leads.
struct Room {
    settings: Settings,
    snapshot: Snapshot,
    is_synced: bool,
    waypoints: desired::Waypoints,
    /// Empty: names are for Envoys to resolve.
    resolved: Resolved,
    /// Empty: addresses are what statuses say.
    vips: VipPool,
    pods: BTreeMap<WaypointName, BTreeMap<Arc<str>, Replica>>,
    /// The hosts that have changed since they were last looked at by the leader.
    dirty: BTreeSet<HostName>,
    /// The entries that have changed since it was last said what they are to be told.
    touched: BTreeSet<ObjectRef>,
    open: BTreeMap<WaypointName, Open>,
    book: Book,
    routes: Routes,
    told: Told,
    news: mpsc::Sender<News>,
}

impl Room {
    fn new(client: Client, settings: Settings, news: mpsc::Sender<News>) -> Self {
        Self {
            book: Book::new(client.clone(), settings.namespace.clone()),
            routes: Routes::new(client),
            settings,
            snapshot: Snapshot::default(),
            is_synced: false,
            waypoints: desired::Waypoints::in_cluster(desired::Unavailable::Refuse),
            resolved: Resolved::new(),
            vips: VipPool::new(VipRanges::default()),
            pods: BTreeMap::new(),
            dirty: BTreeSet::new(),
            touched: BTreeSet::new(),
            open: BTreeMap::new(),
            told: Told::default(),
            news,
        }
    }

    fn event(&mut self, event: Event) {
        let touched = match event {
            Event::Apply(object) => {
                match &object {
                    Object::Pod(pod) => self.pod(pod),
                    Object::HttpRoute(route) => self.routes.apply(route),
                    _ => {}
                }
                let reference = object.object_ref();
                self.touch_entry(&reference);
                match validate(&object).accepted {
                    Some(accepted) => self.snapshot.apply(accepted),
                    None => self.snapshot.remove(&reference),
                }
            }
            Event::Delete(object) => {
                self.touch_entry(&object);
                if object.kind == Kind::HttpRoute {
                    self.routes.delete(&object);
                }
                if object.kind == Kind::Pod {
                    self.pods.retain(|waypoint, pods| {
                        if waypoint.namespace == object.namespace {
                            pods.remove(&object.name);
                        }
                        !pods.is_empty()
                    });
                }
                self.snapshot.remove(&object)
            }
            Event::Synced => {
                self.is_synced = true;
                return;
            }
            // What cannot be followed has been told where entries are followed, too.
            Event::Problems { .. } => return,
        };
        for host in &touched {
            self.touched.extend(self.snapshot.entries_of(host).map(|entry| entry.object.clone()));
        }
        self.dirty.extend(touched);
    }

    fn touch_entry(&mut self, object: &ObjectRef) {
        if object.kind == Kind::ServiceEntry {
            self.touched.insert(object.clone());
        }
    }

    /// Takes in a Pod, if it is one of a waypoint.
    fn pod(&mut self, pod: &Pod) {
        let label = |key| pod.metadata.labels.get(key).map(String::as_str);
        let Some(gateway) =
            label(GATEWAY_NAME_LABEL).filter(|_| label(GATEWAY_CLASS_LABEL) == Some(WAYPOINT_CLASS))
        else {
            return;
        };
        let status = &pod.status;
        let addresses: Vec<IpAddr> = status.addresses().filter_map(|text| text.parse().ok()).collect();
        let is_ready = status.is_ready();
        let is_leaving = status.has_ended() || pod.metadata.deletion_timestamp.is_some();
        let waypoint = WaypointName { namespace: pod.metadata.namespace(), name: gateway.into() };
        let pods = self.pods.entry(waypoint).or_default();
        pods.insert(pod.metadata.name.as_str().into(), Replica { addresses, is_ready, is_leaving });
    }

    fn known(&self) -> Known<'_> {
        let Self { snapshot, resolved, vips, waypoints, .. } = self;
        Known { snapshot, resolved, vips, waypoints }
    }

    /// Says what entries are to be told.
    async fn tell(&mut self, now: Instant) {
        if !self.is_synced {
            return;
        }
        self.touched.extend(self.told.late(now).cloned());
        for object in std::mem::take(&mut self.touched) {
            self.routes.touch(self.snapshot.routes_of(&object).into_iter().map(|route| route.object.clone()));
            let entry = self.snapshot.entry(&object);
            let conditions = entry
                .map(|entry| desired::entry_waypoint_conditions(self.known(), entry))
                .unwrap_or_default();
            if self.told.is_news(&object, &conditions, now) {
                // The controller is about to end if nobody listens.
                drop(self.news.send((object, conditions)).await);
            }
        }
        self.told.begin();
    }

    /// An Envoy has come. One of a waypoint that has nothing to tell it yet is sent away, and comes again.
    async fn connect(&mut self, waypoint: &WaypointName, connection: Connection) {
        let way = self.open.get(waypoint).and_then(|open| open.way.as_ref());
        if let Some(way) = way {
            drop(way.connections.send(connection).await);
        }
    }

    /// Serves these waypoints.
    fn lead(&mut self, names: &BTreeSet<WaypointName>) {
        let (now, time) = (Instant::now(), Timestamp::now());
        let gone: Vec<_> = self.open.keys().filter(|name| !names.contains(name)).cloned().collect();
        for name in gone {
            self.open.remove(&name);
        }
        let stale = self.snapshot.waypoints().filter(|proxies| !names.contains(&proxies.waypoint));
        let stale: Vec<_> = stale.map(|proxies| proxies.object.clone()).collect();
        self.book.keep_to(&stale);
        stale.into_iter().for_each(|object| self.book.remove(object));
        for name in names.iter().filter(|name| !self.open.contains_key(name)).cloned().collect::<Vec<_>>() {
            let before = self.snapshot.waypoint(&name);
            let object = before.map_or_else(|| self.book.object(&name), |before| before.object.clone());
            let before = before.map(Arc::as_ref);
            let served = Served::new(name.clone(), object, self.settings.ports, before, now);
            self.dirty.extend(self.snapshot.hosts().cloned());
            if let Some(before) = before {
                self.dirty.extend(before.listeners.keys().cloned());
            }
            self.open.insert(name, Open { served, way: None });
        }
        for host in std::mem::take(&mut self.dirty) {
            let mut bound = self.bound(&host);
            for (name, open) in &mut self.open {
                open.served.set(&host, bound.remove(name).unwrap_or_default(), time);
            }
        }
        let nobody = BTreeMap::new();
        for (name, open) in &mut self.open {
            let pods = self.pods.get(name).unwrap_or(&nobody);
            if open.served.look(pods, now, time) {
                self.book.write(open.served.proxies(pods));
            }
            if open.way.is_none() {
                open.way = open.served.xds().cloned().map(Way::to);
            }
            let actual = self.snapshot.waypoint(name).map(Arc::as_ref);
            self.book.compare(open.served.object(), actual, now);
        }
        self.book.turn(now);
        let Self { snapshot, resolved, vips, waypoints, routes, .. } = self;
        routes.turn(Known { snapshot, resolved, vips, waypoints }, now);
    }

    /// What each waypoint is to know of `host`.
    fn bound(&self, host: &HostName) -> BTreeMap<WaypointName, BTreeMap<ServiceKey, Bound>> {
        let mut all: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        let is_bound = self.snapshot.entries_of(host).any(|entry| self.snapshot.waypoint_of(entry).is_some());
        if is_bound {
            for (service, bound) in desired::host(self.known(), host).bound.iter() {
                let of = all.entry(bound.waypoint.clone()).or_default();
                of.insert(service.clone(), bound.clone());
            }
        }
        all
    }

    /// Serves none: another controller does.
    fn follow(&mut self) {
        self.open.clear();
        self.book.forget();
        self.routes.forget();
        self.dirty.clear();
    }
}
