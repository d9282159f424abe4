//! What a waypoint is told of the services that are bound to it.

use super::{replicas as replicas_of, *};

/// The host `a.com` of `entry`, bound, beside others, where a waypoint is served.
fn bound(entries: Vec<Entry>) -> HostDesired {
    let waypoint = WaypointLabel::Bound(crate::model::WaypointName {
        namespace: Namespace::default(),
        name: "way".into(),
    });
    let bind = |mut entry: Entry| {
        if entry.hosts == [HostName::new("a.com")] {
            entry.waypoint = waypoint.clone();
        }
        entry
    };
    let snapshot = snapshot(entries.into_iter().map(bind));
    let mut pool = VipPool::new(VipRanges::default());
    pool.restore(&HostName::new("a.com"), first_vips());
    let other = Vips { v4: "240.240.0.2".parse().ok(), v6: None };
    pool.restore(&HostName::new("b.com"), other);
    let resolved =
        resolved(&[("x.net", &["10.0.0.1"]), ("y.net", &["240.240.0.2"]), ("z.net", &["10.0.0.3"])]);
    let waypoints =
        Waypoints::at(vec![ip("10.9.9.9")], PortPool::new(PortRange::default()), Unavailable::Refuse);
    let known = Known { snapshot: &snapshot, resolved: &resolved, vips: &pool, waypoints: &waypoints };
    host(known, &HostName::new("a.com"))
}

fn dns(endpoints: &[&str]) -> Entry {
    with(entry("default/a", 1, "a.com"), |e| {
        e.resolution = Resolution::Dns;
        e.endpoints = endpoints.iter().map(|address| endpoint(address)).collect();
    })
}

/// `b.com` at 10.0.0.2.
fn other() -> Entry {
    with(entry("default/b", 2, "b.com"), |e| e.endpoints = vec![endpoint("10.0.0.2")])
}

fn upstream(built: &HostDesired) -> Upstream {
    let bound: Vec<_> = built.bound.values().collect();
    assert_eq!(bound.len(), 1, "{bound:?}");
    assert_eq!(
        (bound[0].waypoint.to_string(), bound[0].protocol),
        ("default/way".to_owned(), Protocol::Http)
    );
    bound[0].upstream.clone()
}

#[test]
fn names_are_for_the_waypoint_to_resolve() {
    let both = upstream(&bound(vec![dns(&["x.net", "w.net", "10.0.0.9"])]));
    assert_eq!(both.to_strings(), ["10.0.0.9:80", "w.net:80", "x.net:80"]);
    assert!(matches!(both, Upstream::Names { only_first: false, .. }));

    let first = with(dns(&["x.net"]), |e| e.resolution = Resolution::DnsRoundRobin);
    assert!(matches!(upstream(&bound(vec![first])), Upstream::Names { only_first: true, .. }));

    let itself = upstream(&bound(vec![dns(&[])]));
    assert_eq!(itself.to_strings(), ["a.com:80"]);
    assert!(matches!(itself, Upstream::Names { .. }));
}

#[test]
fn addresses_are_told_as_they_are() {
    let fixed = with(entry("default/a", 1, "a.com"), |e| {
        e.endpoints = vec![endpoint("10.0.0.1"), endpoint("10.0.0.2")];
    });
    let told = upstream(&bound(vec![fixed]));
    assert_eq!(told.to_strings(), ["10.0.0.1:80", "10.0.0.2:80"]);
    assert!(matches!(told, Upstream::Backends(_)));
}

#[test]
fn a_host_of_ours_is_resolved_for_the_waypoint_which_does_not_know_it() {
    // By its name, or by a name whose address is its virtual one.
    for endpoints in [&["b.com", "z.net"][..], &["y.net", "z.net"]] {
        let told = upstream(&bound(vec![dns(endpoints), other()]));
        assert_eq!(told.to_strings(), ["10.0.0.2:80", "10.0.0.3:80"], "{endpoints:?}");
        assert!(matches!(told, Upstream::Backends(_)));
    }
}

#[test]
fn nothing_is_told_of_what_is_not_bound_or_cannot_go_through() {
    assert!(bound(vec![with(dns(&["x.net"]), |e| e.ports[0].protocol = Protocol::Udp)]).bound.is_empty());
    let without_address = with(dns(&["x.net"]), |e| e.may_allocate = false);
    assert!(bound(vec![without_address]).bound.is_empty());
    assert!(built(&snapshot([dns(&["x.net"])]), &resolved(&[])).bound.is_empty());
}

/// What becomes of the host `a.com`, bound, and what its author is told, where waypoints are of the cluster and this is told of one.
fn in_cluster(
    waypoints: &Waypoints,
    listener: Option<(u16, bool, Option<&str>)>,
    replicas: &[&str],
) -> (HostDesired, Condition) {
    let way = crate::model::WaypointName { namespace: Namespace::default(), name: "way".into() };
    let entry = with(dns(&["b.com", "x.net"]), |e| e.waypoint = WaypointLabel::Bound(way.clone()));
    let mut snapshot = snapshot([entry.clone(), other()]);
    let listed = listener.map(|(listener, ready, rejected)| crate::model::Listener {
        host: "a.com".to_owned(),
        namespace: "default".to_owned(),
        entry: "a".to_owned(),
        port: 80,
        listener,
        ready,
        rejected: rejected.map(str::to_owned),
    });
    if !replicas.is_empty() || listed.is_some() {
        let object = ObjectRef { kind: Kind::ConfigMap, namespace: Namespace::default(), name: "way".into() };
        let proxies = crate::model::WaypointProxies {
            object,
            waypoint: way,
            replicas: replicas.iter().map(|text| ip(text)).collect(),
            listeners: listed.into_iter().map(|l| (HostName::new("a.com"), vec![l])).collect(),
            resting: std::collections::BTreeMap::new(),
        };
        snapshot.apply(crate::model::Accepted::Waypoint(Arc::new(proxies)));
    }
    let mut pool = VipPool::new(VipRanges::default());
    pool.restore(&HostName::new("a.com"), first_vips());
    pool.restore(&HostName::new("b.com"), Vips { v4: "240.240.0.2".parse().ok(), v6: None });
    let resolved = resolved(&[("x.net", &["10.0.0.1"])]);
    let known = Known { snapshot: &snapshot, resolved: &resolved, vips: &pool, waypoints };
    let condition = entry_waypoint_conditions(known, &entry).pop().expect("it is bound");
    let mut built = host(known, &HostName::new("a.com"));
    // As the rows of all hosts have them.
    for name in built.tables.services.values().filter_map(LedTo::waypoint) {
        built.tables.waypoints.insert(name.clone(), replicas_of(known, name).iter().copied().collect());
    }
    (built, condition)
}

fn backends(built: &HostDesired) -> Vec<String> {
    let all = built.tables.services.keys().flat_map(|key| built.tables.backends_of(key).into_owned());
    all.map(|b| std::net::SocketAddr::new(b.address, b.port).to_string()).collect()
}

#[test]
fn a_waypoint_of_the_cluster_takes_what_all_its_replicas_listen_for() {
    let direct = ["10.0.0.1:80", "10.0.0.2:80"];
    let mut waypoints = Waypoints::in_cluster(Unavailable::Refuse);
    let (built, told) = in_cluster(&waypoints, None, &[]);
    assert_eq!((backends(&built), told.reason), (direct.map(str::to_owned).to_vec(), "WaypointMissing"));
    let service = built.bound.keys().next().cloned().expect("it is bound");

    // One that was led straight goes on so until the waypoint has it; one that is new waits.
    waypoints.commit(&service.host, [(service.clone(), false)].into());
    let (built, told) = in_cluster(&waypoints, Some((20_000, false, None)), &["10.9.0.1"]);
    assert_eq!((backends(&built), told.reason), (direct.map(str::to_owned).to_vec(), "WaypointNotReady"));
    waypoints.commit(&service.host, [(service.clone(), true)].into());
    let (built, _) = in_cluster(&waypoints, Some((20_000, false, None)), &["10.9.0.1"]);
    assert_eq!(backends(&built), Vec::<String>::new());
    let (built, told) = in_cluster(&waypoints, Some((20_000, true, None)), &["10.9.0.1", "10.9.0.2"]);
    assert_eq!(backends(&built), ["10.9.0.1:20000", "10.9.0.2:20000"]);
    assert_eq!((told.status, told.reason), ("True", "WaypointAccepted"));
    // A change that it does not take is told; what it took before goes on.
    let (built, told) = in_cluster(&waypoints, Some((20_000, true, Some("no"))), &["10.9.0.1"]);
    assert_eq!(backends(&built), ["10.9.0.1:20000"]);
    assert_eq!((told.status, told.reason), ("False", "WaypointRejected"));
    let (built, told) = in_cluster(&waypoints, Some((20_000, true, None)), &[]);
    assert_eq!((backends(&built), told.reason), (Vec::new(), "WaypointNotReady"));
}

#[test]
fn a_waypoint_of_the_cluster_is_told_the_endpoints_of_a_host_of_ours() {
    let (built, _) = in_cluster(&Waypoints::in_cluster(Unavailable::Refuse), None, &[]);
    assert_eq!(upstream(&built).to_strings(), ["10.0.0.2:80", "x.net:80"]);
}
