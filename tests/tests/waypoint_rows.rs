//! Services that share the slots of a waypoint, in the kernel: what a change of its replicas writes, and what clients meet meanwhile.
//!
//! The part of an agent that goes from objects to maps, over the real programs and maps, in this process.

#[path = "waypoint_rows/counted.rs"]
mod counted;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use kmesh_se::desired::{LeaseLimits, Leases, Tables, Unavailable, VipPool, VipRanges, Waypoints};
use kmesh_se::dns::NameTable;
use kmesh_se::enrol::Cgroup;
use kmesh_se::loader::{self, Pins};
use kmesh_se::model::{
    ConfigMap, HostName, Kind, Listener, Metadata, Namespace, Object, ObjectRef, Parsed, WaypointName,
    WaypointProxies, parse,
};
use kmesh_se::reconcile::Reconciler;
use kmesh_se::sink::{Capacities, Enrolment, Sink, aya::AyaMaps};
use kmesh_se::source::Event;
use kmesh_se_common::limits::{LAYOUT_VERSION, LEVEL_END, MAX_LEVELS};
use kmesh_se_common::maps::Config;
use serde_json::json;
use tests::cgroup;
use tests::clean::Run;
use tests::netns::Netns;
use tests::sockets::client::Client;
use tests::sockets::hammer::Hammer;
use tests::sockets::servers;

use self::counted::Counted;

/// How many services are bound.
const SERVICES: u16 = 1_000;
/// The listener port of service `n` is this one and `n`.
const PORTS: u16 = 20_000;
/// How many of them have servers and are dialled.
const DIALLED: u16 = 8;

/// A node: programs at a cgroup, a client in it, servers at every port that is dialled.
struct Node {
    reconciler: Reconciler<Counted>,
    client: Option<Client>,
    pins: std::path::PathBuf,
    parent: std::path::PathBuf,
    netns: Netns,
    run: Run,
}

/// The IPv4 address of replica `n`.
fn replica(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 9, 0, n).into()
}

fn v6(n: u8) -> IpAddr {
    format!("fd00:9::{n}").parse().expect("an address")
}

fn vip(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    (Ipv4Addr::new(240, 242, high, low), 80).into()
}

fn vip_v6(n: u16) -> SocketAddr {
    (IpAddr::from([0xfd42, 0, 0, 0, 0, 0, 0, n]), 80).into()
}

impl Node {
    fn start() -> anyhow::Result<Node> {
        let run = Run::begin()?;
        let netns = Netns::add(&run, "node")?;
        let replicas: String = (1..=4)
            .map(|n| format!("addr add {}/32 dev lo\naddr add {}/128 dev lo nodad\n", replica(n), v6(n)))
            .collect();
        netns.ip(&format!("link set lo up\n{replicas}"))?;
        for n in 0..DIALLED {
            servers::stream(&netns, (IpAddr::from([0; 16]), PORTS + n).into())?;
        }
        let parent = cgroup::make(&run)?;
        let reconciler = reconciler(&run.pins(), &parent, false)?;
        let pins = run.pins();
        let mut node = Node { reconciler, client: None, pins, parent, netns, run };
        node.client = Some(node.client()?);
        Ok(node)
    }

    /// A client process in the cgroup that is enrolled.
    fn client(&self) -> anyhow::Result<Client> {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$0\"", self.parent.join("pod").display());
        let mut command = self.netns.command("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_socket-client")]);
        Ok(Client::start(self.run.own(&mut command))?)
    }

    fn dialled(&self) -> &Client {
        self.client.as_ref().expect("it is taken away at the end only")
    }

    /// Takes these in, and does what the loop of an agent does. Returns what was written to the maps.
    fn step(&mut self, events: impl IntoIterator<Item = Event>) -> BTreeMap<&'static str, usize> {
        events.into_iter().for_each(|event| self.reconciler.event(event));
        self.reconciler.sink_mut().maps_mut().writes.clear();
        while self.reconciler.is_dirty() {
            let step = self.reconciler.prepare(Timestamp::now());
            self.reconciler.commit(step);
        }
        let failures: Vec<_> = self.reconciler.report().failures().collect();
        assert!(failures.is_empty(), "{failures:?}");
        self.reconciler.sink().maps().writes.clone()
    }

    /// Ends everything; nothing may be left.
    fn end(mut self) -> anyhow::Result<()> {
        self.client = None;
        loader::remove_pins(&self.pins)?;
        let Node { reconciler, netns, run, .. } = self;
        drop((reconciler, netns));
        assert_eq!(run.end(), Vec::<String>::new());
        Ok(())
    }
}

/// The programs of this build at `parent`, over the maps that are pinned or new ones, with the cgroup `pod` enrolled.
fn reconciler(pins: &Path, parent: &Path, takes_over: bool) -> anyhow::Result<Reconciler<Counted>> {
    let capacities = Capacities::default();
    let (programs, maps) = loader::load(Pins::open(pins, &capacities)?, &capacities)?;
    let mut maps = AyaMaps::new(maps, capacities)?;
    maps.write_config(Config {
        layout: LAYOUT_VERSION,
        dns4: [0; 4],
        dns6: [0; 16],
        dns_port_first: 0,
        dns_port_last: 0,
        flags: 0,
        levels: [LEVEL_END; MAX_LEVELS],
        heartbeat_ns: 0,
        heartbeat_max_ns: 0,
        cidrs: 0,
    })?;
    let (attach, _) = Cgroup::open_or_create(parent)?;
    let (pod, _) = Cgroup::open_or_create(&parent.join("pod"))?;
    let levels = BTreeMap::from([(pod.id, pod.level)]);
    let mut sink = Sink::restore(Counted::new(maps), capacities, &BTreeMap::new(), &levels)?;
    let enrolment = Enrolment { level: pod.level, namespace: Some(Namespace::default()), dns_port: 0 };
    sink.enrol(pod.id, enrolment)?;
    programs.attach(&attach)?;
    let ranges = VipRanges::default();
    let leases = Leases::new(kmesh_se::desired::DYNAMIC_RANGES, LeaseLimits::default());
    let reconciler = Reconciler::new(sink, VipPool::new(ranges), leases, Arc::new(NameTable::default()))
        .through(Waypoints::in_cluster(Unavailable::Refuse));
    Ok(if takes_over { reconciler.taking_over(BTreeMap::new(), false) } else { reconciler })
}

/// A namespace whose services are bound, and these services, each with an address of each family.
fn objects(services: std::ops::Range<u16>) -> Vec<Event> {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "default", "labels": {"istio.io/use-waypoint": "way"}},
    });
    let entries = services.map(|n| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": format!("e{n}"), "namespace": "default"},
            "spec": {
                "hosts": [format!("h{n}.test")], "addresses": [vip(n).ip(), vip_v6(n).ip()], "resolution": "STATIC",
                "ports": [{"number": 80, "name": "tcp", "protocol": "TCP"}],
                "endpoints": [{"address": "192.0.2.1"}],
            },
        })
    });
    let texts: Vec<_> = std::iter::once(namespace).chain(entries).map(|object| object.to_string()).collect();
    let parsed = parse(texts.join("\n---\n").as_bytes()).into_iter().map(|item| match item {
        Parsed::Object { object, .. } => Event::Apply(object),
        other => panic!("not an object: {other:?}"),
    });
    parsed.collect()
}

/// The waypoint with these replicas and a listener for each of these services.
fn waypoint(services: std::ops::Range<u16>, replicas: &[IpAddr]) -> Event {
    let listener = |n: u16| Listener {
        host: format!("h{n}.test"),
        namespace: "default".to_owned(),
        entry: format!("e{n}"),
        port: 80,
        listener: PORTS + n,
        ready: true,
        rejected: None,
    };
    let metadata =
        Metadata { name: "way".to_owned(), namespace: "kmesh-se".to_owned(), ..Metadata::default() };
    let proxies = WaypointProxies {
        object: metadata.object_ref(Kind::ConfigMap),
        waypoint: WaypointName { namespace: Namespace::default(), name: "way".into() },
        replicas: replicas.to_vec(),
        listeners: services.map(|n| (HostName::new(&format!("h{n}.test")), vec![listener(n)])).collect(),
        resting: BTreeMap::new(),
    };
    Event::Apply(Object::ConfigMap(Box::new(ConfigMap { metadata, data: proxies.data() })))
}

#[test]
fn a_replica_that_comes_or_goes_is_one_run_for_a_thousand_services_and_fails_no_connect() -> anyhow::Result<()>
{
    let mut node = Node::start()?;
    let first = [replica(1), replica(2)];
    let mut events = objects(0..SERVICES);
    events.extend([waypoint(0..SERVICES, &first), Event::Synced]);
    node.step(events);
    let usage = node.reconciler.sink().usage();
    let used = |name| usage.iter().find(|usage| usage.name == name).map(|usage| usage.used);
    assert_eq!(used("kmse_service"), Some(u32::from(SERVICES) + 1), "each service, and the waypoint");
    assert_eq!((used("kmse_slot"), used("kmse_backend")), (Some(2), Some(2)), "a slot for each replica");

    let vips: Vec<_> = (0..DIALLED).map(vip).collect();
    let hammer = Hammer::start(node.client()?, vips.clone(), 2, node.run.folder()?.join("stop"))?;
    let sets = [&[1, 2, 3][..], &[2, 3], &[3], &[3, 4], &[1, 2, 3, 4]];
    for turn in 0..50 {
        let replicas: Vec<_> = sets[turn % sets.len()].iter().map(|n| replica(*n)).collect();
        let writes = node.step([waypoint(0..SERVICES, &replicas)]);
        let new = writes.get("backend").copied().unwrap_or_default();
        assert!(new < replicas.len().max(2), "{writes:?}");
        let mut expected = BTreeMap::from([("service", 1), ("slot", replicas.len())]);
        if new > 0 {
            expected.insert("backend", new);
        }
        assert_eq!(writes, expected, "one run of slots, and the waypoint's word");
        let found = node.dialled().which(&vips)?;
        for (n, backend) in (0..).zip(&found) {
            assert!(replicas.contains(&backend.ip().to_canonical()), "{backend} after {replicas:?}");
            assert_eq!(backend.port(), PORTS + n);
        }
    }
    let told = hammer.stop()?;
    println!(
        "50 changes for {SERVICES} services; {} connects, {} failures",
        told.connects,
        told.failures.len()
    );
    assert_eq!(told.failures, Vec::<String>::new());
    assert!(told.connects > 500, "{}", told.connects);
    for reached in &told.reached {
        assert_eq!(usize::from(reached.backend.port() - PORTS), reached.to, "another service: {reached:?}");
    }

    // The next agent finds all of it in the maps, and writes nothing.
    node.reconciler = reconciler(&node.pins, &node.parent, true)?;
    let last: Vec<_> = sets[4].iter().map(|n| replica(*n)).collect();
    let mut events = objects(0..SERVICES);
    events.extend([waypoint(0..SERVICES, &last), Event::Synced]);
    assert_eq!(node.step(events), BTreeMap::new());
    let tables = node.reconciler.sink().actual().clone();
    assert_eq!((tables.services.len(), tables.waypoints.len()), (usize::from(SERVICES), 1));

    // Nobody is bound any more: the waypoint goes with the last service.
    let kind = Kind::Namespace;
    let namespace = ObjectRef { kind, namespace: Namespace::new(""), name: "default".into() };
    node.step([Event::Delete(namespace)]);
    let direct = node.reconciler.sink().actual();
    assert!(
        direct.waypoints.is_empty() && direct.services.values().all(|led_to| led_to.waypoint().is_none())
    );
    node.end()
}

#[test]
fn each_family_has_its_replicas_and_without_any_a_connect_is_refused_at_once() -> anyhow::Result<()> {
    let mut node = Node::start()?;
    let services = 0..DIALLED;
    let mut events = objects(services.clone());
    events.extend([waypoint(services.clone(), &[replica(1), v6(2)]), Event::Synced]);
    node.step(events);
    let both = [vip(0), vip_v6(1)];
    let which = |node: &Node| -> std::io::Result<Vec<SocketAddr>> {
        let found = node.dialled().which(&both)?;
        Ok(found.into_iter().map(|at| (at.ip().to_canonical(), at.port()).into()).collect())
    };
    assert_eq!(which(&node)?, [(replica(1), PORTS).into(), (v6(2), PORTS + 1).into()]);
    // Who dials shows what was dialled.
    let stream = node.dialled().stream(libc::AF_INET)?;
    stream.connect(vip(0))?;
    assert_eq!(stream.peer_name()?, vip(0));
    drop(stream);

    node.step([waypoint(services.clone(), &[replica(3)])]);
    assert_eq!(which(&node)?, [(replica(3), PORTS).into(), (replica(3), PORTS + 1).into()]);
    node.step([waypoint(services.clone(), &[v6(3)])]);
    assert_eq!(node.dialled().which(&both[1..])?, [(v6(3), PORTS + 1).into()]);
    let refused = |node: &Node, to: SocketAddr| -> anyhow::Result<ErrorKind> {
        let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let stream = node.dialled().stream(family)?;
        let error = stream.connect(to).err().with_context(|| format!("{to} is connected"))?;
        Ok(error.kind())
    };
    assert_eq!(refused(&node, vip(0))?, ErrorKind::HostUnreachable, "an IPv4 socket reaches no IPv6 replica");

    // A run without slots, as the sink writes it of a waypoint that has lost its last replica.
    let mut empty: Tables = node.reconciler.sink().actual().clone();
    let name = WaypointName { namespace: Namespace::default(), name: "way".into() };
    empty.waypoints.insert(name, BTreeSet::new());
    let ops = kmesh_se::diff::diff(node.reconciler.sink().actual(), &empty);
    assert_eq!((ops.len(), node.reconciler.sink_mut().apply(ops)), (1, Vec::new()));
    for to in both {
        assert_eq!(refused(&node, to)?, ErrorKind::HostUnreachable);
    }
    // And as the agent does, which says so.
    node.step([waypoint(services.clone(), &[])]);
    assert_eq!(refused(&node, vip(0))?, ErrorKind::HostUnreachable);
    node.step([waypoint(services, &[replica(4), v6(4)])]);
    assert_eq!(which(&node)?, [(replica(4), PORTS).into(), (v6(4), PORTS + 1).into()]);
    node.end()
}
