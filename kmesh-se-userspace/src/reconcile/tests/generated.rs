//! What holds after any objects came and went, one by one.

use proptest::prelude::*;

use super::*;
use crate::{
    desired::{Desired, PortPool, PortRange, Unavailable},
    model::{ConfigMap, Listener, Metadata, WaypointName, WaypointProxies},
    testing::objects::{NAMESPACES, any_object, read},
};

/// The rows that follow from what the node knows, built from nothing.
fn from_scratch(node: &Node) -> Tables {
    let at = &node.reconciler;
    let known = Known {
        snapshot: at.snapshot(),
        resolved: at.resolution(),
        vips: at.vips(),
        waypoints: at.waypoints(),
    };
    let (mut desired, mut keys) = (Desired::default(), Keys::default());
    for host in at.snapshot().hosts() {
        keys.extend(desired.set(host, Some(desired::host(known, host))));
    }
    desired.rows(&keys, |waypoint| desired::replicas(known, waypoint))
}

/// Who serves waypoints.
#[derive(Clone, Copy, Debug)]
enum Served {
    Nobody,
    ThisNode,
    TheCluster,
}

/// A step further: a listener for each service, and now and then other replicas, of one family or of both, or none.
fn listen(node: &mut Node, served: Served, turn: usize) {
    let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let replicas = ["10.9.9.1", "10.9.9.2", "fd00::9"].map(ip);
    let replicas: Vec<_> = replicas.into_iter().skip(turn / 2 % 4).take(2).collect();
    match served {
        Served::Nobody => {}
        Served::ThisNode => {
            let ports = node.reconciler.waypoints().ports().iter();
            let listeners = ports.map(|(service, _)| service.clone()).collect();
            node.reconciler.set_listeners(listeners, BTreeMap::new());
        }
        Served::TheCluster => {
            for namespace in NAMESPACES {
                let proxies = proxies(node.reconciler.snapshot(), namespace, &replicas);
                node.reconciler.event(Event::Apply(proxies));
            }
        }
    }
}

/// The waypoint `way` of a namespace, with a listener for each service that there is.
pub(super) fn proxies(snapshot: &Snapshot, namespace: &str, replicas: &[IpAddr]) -> Object {
    let services = snapshot.hosts().flat_map(|host| {
        let ports =
            snapshot.entries_of(host).flat_map(|entry| entry.ports.iter().map(move |port| (entry, port)));
        ports.map(move |(entry, port)| (host, entry, port.number))
    });
    let mut listeners: BTreeMap<HostName, Vec<Listener>> = BTreeMap::new();
    for ((host, entry, port), listener) in services.zip(20_000..) {
        listeners.entry(host.clone()).or_default().push(Listener {
            host: host.to_string(),
            namespace: entry.object.namespace.to_string(),
            entry: entry.object.name.to_string(),
            port,
            listener,
            ready: true,
            rejected: None,
        });
    }
    let metadata =
        Metadata { name: "way".to_owned(), namespace: namespace.to_owned(), ..Metadata::default() };
    let proxies = WaypointProxies {
        object: metadata.object_ref(Kind::ConfigMap),
        waypoint: WaypointName { namespace: Namespace::new(namespace), name: "way".into() },
        replicas: replicas.to_vec(),
        listeners,
        resting: BTreeMap::new(),
    };
    Object::ConfigMap(Box::new(ConfigMap { metadata, data: proxies.data() }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_change_touches_is_all_that_it_changes(
        written in prop::collection::vec(any_object(), 1..12),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        served in prop::sample::select(vec![Served::Nobody, Served::ThisNode, Served::TheCluster]),
    ) {
        let mut node = Node::new();
        let waypoints = match served {
            Served::Nobody => Waypoints::default(),
            Served::ThisNode => {
                let replicas = addresses(&["10.9.9.1", "fd00::9"]).iter().collect();
                Waypoints::at(replicas, PortPool::new(PortRange::default()), Unavailable::Refuse)
            }
            Served::TheCluster => Waypoints::in_cluster(Unavailable::Refuse),
        };
        node.reconciler = node.reconciler.through(waypoints);
        let objects = read(&written);
        let removed: Vec<_> = gone.iter().filter(|_| !objects.is_empty()).map(|i| i.get(&objects).object_ref()).collect();
        let applied = objects.iter().map(|object| Event::Apply(object.clone()));
        let hosts = |node: &Node| -> BTreeMap<HostName, crate::desired::Vips> {
            node.reconciler.vips().iter().map(|(host, vips)| (host.clone(), *vips)).collect()
        };
        let mut turn = 0;
        for event in applied.chain(removed.into_iter().map(Event::Delete)) {
            let before = hosts(&node);
            node.reconciler.event(event);
            if node.reconciler.is_dirty() {
                node.step();
            }
            for name in node.wanted.clone() {
                if matches!(name.as_str(), "x.net" | "b.com") {
                    node.answer(name.as_str(), &["10.2.0.1", "1.2.3.4"]);
                }
            }
            if node.reconciler.is_dirty() {
                node.step();
            }
            turn += 1;
            listen(&mut node, served, turn);
            while node.reconciler.is_dirty() {
                node.step();
            }
            let expected = from_scratch(&node);
            prop_assert_eq!(node.reconciler.sink().actual(), &expected);
            for (host, vips) in hosts(&node) {
                prop_assert!(before.get(&host).is_none_or(|had| *had == vips), "the VIP of {} moved", host);
            }
        }
    }
}
