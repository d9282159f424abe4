//! Services that are led to a waypoint of the cluster.

use super::{generated::proxies, *};
use crate::desired::{LedTo, Unavailable};

const BOUND: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio.io/use-waypoint: way}}\n";

/// A node where the services of the default namespace are bound to `way`.
fn node() -> Node {
    let mut node = Node::new();
    node.reconciler = node.reconciler.through(Waypoints::in_cluster(Unavailable::Refuse));
    node.apply(BOUND);
    node
}

/// The waypoint has these replicas, and a listener for each service. Returns which hosts are built and what is written.
fn serve(node: &mut Node, replicas: &[&str]) -> (BTreeSet<HostName>, Vec<MapOp>) {
    let replicas: Vec<IpAddr> = replicas.iter().map(|text| text.parse().expect("an address")).collect();
    let before = node.reconciler.sink().actual().clone();
    let proxies = proxies(node.reconciler.snapshot(), "default", &replicas);
    node.reconciler.event(Event::Apply(proxies));
    let effects = node.effects();
    (effects.hosts, diff(&before, node.reconciler.sink().actual()))
}

#[test]
fn a_replica_is_one_row_for_a_thousand_services() {
    let mut node = node();
    for n in 0..1000 {
        node.apply(&fixed(&format!("e{n}"), &format!("h{n}.com"), "10.0.0.1"));
    }
    node.step();
    serve(&mut node, &["10.9.9.1"]);
    assert!(node.reconciler.sink().actual().services.values().all(|led_to| led_to.waypoint().is_some()));
    let waits = node.reconciler.sink().maps().waits;

    let nobody = BTreeSet::from([HostName::new("")]);
    let (hosts, ops) = serve(&mut node, &["10.9.9.1", "10.9.9.2"]);
    assert_eq!(hosts, nobody, "no host is built anew");
    assert!(matches!(&ops[..], [MapOp::SetWaypoint(_, replicas)] if replicas.len() == 2), "{ops:?}");
    assert_eq!(node.reconciler.sink().maps().waits, waits + 1);
    assert!(matches!(&node.query("default", "h7.com")[..], [vip] if vip.starts_with("240.240.")));

    // Names follow the families of the replicas, the rows of services do not.
    let (hosts, ops) = serve(&mut node, &["fd00::9"]);
    assert_eq!(hosts.len(), 1001);
    assert!(matches!(&ops[..], [MapOp::SetWaypoint(..)]), "{ops:?}");
    assert!(matches!(&node.query("default", "h7.com")[..], [vip] if vip.starts_with("2001:2::")));

    // The same once more is nothing.
    let proxies = proxies(node.reconciler.snapshot(), "default", &["fd00::9".parse().expect("an address")]);
    node.reconciler.event(Event::Apply(proxies));
    assert!(!node.reconciler.is_dirty());

    serve(&mut node, &[]);
    assert!(node.frontends().iter().all(|line| line.ends_with("->")), "refused without a replica");
    assert!(node.reconciler.sink().actual().waypoints.is_empty());
}

#[test]
fn a_service_that_is_kept_keeps_the_waypoint_that_an_earlier_agent_led_it_to() {
    let mut old = node();
    old.apply(&named("a", "a.com", "x.net"));
    old.step();
    old.answer("x.net", &["10.0.0.1"]);
    old.step();
    serve(&mut old, &["10.9.9.1"]);
    let maps = old.reconciler.sink().maps().clone();
    let scopes = old.reconciler.sink().scope_ids();

    // While no agent ran, the label was taken away; and the name has not been answered yet.
    let mut new = Node::new();
    let sink =
        Sink::restore(maps, Capacities::default(), &scopes, &BTreeMap::new()).expect("memory does not fail");
    let vips = old.reconciler.vips().clone();
    let leases = Leases::new(DYNAMIC, LIMITS);
    new.reconciler =
        Reconciler::new(sink, vips, leases, new.names.clone()).taking_over(Resolved::new(), false);
    new.apply(&named("a", "a.com", "x.net"));
    new.reconciler.event(Event::Synced);
    new.step();
    let through = |node: &Node| -> Vec<bool> {
        let services = &node.reconciler.sink().actual().services;
        services.values().map(|led_to| matches!(led_to, LedTo::Waypoint(..))).collect()
    };
    assert_eq!((through(&new), new.failures()), (vec![true], Vec::new()));
    assert!(new.frontends().iter().all(|line| line.ends_with("-> 10.9.9.1:20000")), "{:?}", new.frontends());

    new.answer("x.net", &["10.0.0.1"]);
    new.step();
    assert_eq!((through(&new), new.failures()), (vec![false], Vec::new()));
    assert!(new.reconciler.sink().actual().waypoints.is_empty(), "nobody is led there any more");
    assert!(new.frontends().iter().all(|line| line.ends_with("-> 10.0.0.1:80")), "{:?}", new.frontends());
}
