//! From endpoints to backends.

use super::*;

/// The backends of port 80 in the mesh's view.
fn of_port_80(entry: Entry, resolved: &Resolved) -> String {
    let desired = built(&snapshot([entry]), resolved);
    let seen = seen_at(&desired, "else", "240.240.0.1");
    seen.iter().find_map(|line| line.strip_prefix("80: ")).expect("port 80").to_owned()
}

#[test]
fn the_port_is_the_endpoints_own_else_target_port_else_the_number() {
    let with_ports = |target: u16, of_endpoint: &[(&str, u16)]| {
        with(entry("one/e", 1, "a.com"), |e| {
            e.ports[0].target_port = target;
            e.endpoints = vec![endpoint("10.0.0.1")];
            e.endpoints[0].ports = of_endpoint.iter().map(|(n, p)| ((*n).to_owned(), *p)).collect();
        })
    };
    for (target, of_endpoint, expected) in [
        (80, &[][..], "10.0.0.1:80*1"),
        (8080, &[], "10.0.0.1:8080*1"),
        (8080, &[("http", 9090)], "10.0.0.1:9090*1"),
        (8080, &[("other", 9090)], "10.0.0.1:8080*1"),
    ] {
        assert_eq!(of_port_80(with_ports(target, of_endpoint), &Resolved::new()), expected);
    }
}

#[test]
fn an_address_that_occurs_twice_is_one_backend_with_both_weights() {
    let mut twice = entry("one/e", 1, "a.com");
    twice.endpoints = vec![endpoint("10.0.0.2"), endpoint("10.0.0.1"), endpoint("::ffff:10.0.0.1")];
    twice.endpoints[1].weight = 3;
    twice.endpoints[2].weight = u32::MAX;
    assert_eq!(of_port_80(twice, &Resolved::new()), format!("10.0.0.1:80*{} 10.0.0.2:80*1", u32::MAX));
}

#[test]
fn names_give_all_addresses_and_round_robin_the_first() {
    let answers = resolved(&[("x.net", &["10.0.0.2", "10.0.0.1", "fd00::1"]), ("y.net", &["10.0.0.3"])]);
    let dns = |resolution, names: &[&str]| {
        with(entry("one/e", 1, "a.com"), |e| {
            e.resolution = resolution;
            e.endpoints = names.iter().map(|n| endpoint(n)).collect();
        })
    };
    let all = dns(Resolution::Dns, &["x.net", "y.net"]);
    assert_eq!(of_port_80(all, &answers), "10.0.0.1:80*1 10.0.0.2:80*1 10.0.0.3:80*1 fd00::1:80*1");
    assert_eq!(of_port_80(dns(Resolution::DnsRoundRobin, &["x.net"]), &answers), "10.0.0.2:80*1");
    assert_eq!(of_port_80(dns(Resolution::Dns, &["unknown.net"]), &answers), "");
    assert_eq!(of_port_80(dns(Resolution::Dns, &["unknown.net", "192.0.2.1"]), &answers), "192.0.2.1:80*1");
}

#[test]
fn without_endpoints_the_host_itself_is_resolved() {
    let answers = resolved(&[("a.com", &["10.0.0.1"])]);
    let dns = with(entry("one/e", 1, "a.com"), |e| e.resolution = Resolution::Dns);
    assert_eq!(of_port_80(dns.clone(), &answers), "10.0.0.1:80*1");
    let found = snapshot([dns.clone()]);
    assert_eq!(wanted_names(&found, &HostName::new("a.com")), [HostName::new("a.com")].into());

    let selecting = with(dns.clone(), |e| e.workload_selector = Some([("app".into(), "a".into())].into()));
    assert_eq!(of_port_80(selecting, &answers), "", "a selector that selects nothing yet is no reason");
    let hidden = snapshot([with(dns, |e| e.export_to = ExportTo::Nobody)]);
    assert!(wanted_names(&hidden, &HostName::new("a.com")).is_empty(), "nobody can ask for it");
}

#[test]
fn what_no_inet_socket_reaches_is_no_backend() {
    let mut odd = entry("one/e", 1, "a.com");
    odd.endpoints = vec![endpoint("10.0.0.1"), endpoint("10.0.0.2"), endpoint("10.0.0.3")];
    odd.endpoints[0].address = EndpointAddress::Unix("/run/x.sock".to_owned());
    odd.endpoints[1].address = EndpointAddress::None;
    assert_eq!(of_port_80(odd, &Resolved::new()), "10.0.0.3:80*1");
}

#[test]
fn a_selector_picks_workloads_of_its_namespace_with_all_its_labels() {
    let selector = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        with(entry("one/e", 1, "a.com"), |e| e.workload_selector = Some(labels))
    };
    for (labels, expected) in [
        (&[("app", "a")][..], "10.0.0.1:80*1 10.0.0.2:80*1"),
        (&[("app", "a"), ("v", "2")], "10.0.0.2:80*1"),
        (&[("app", "b")], ""),
        (&[], ""),
    ] {
        let mut snapshot = snapshot([selector(labels)]);
        for (object, labels, address) in [
            ("one/x", &[("app", "a")][..], "10.0.0.1"),
            ("one/y", &[("app", "a"), ("v", "2")], "10.0.0.2"),
            ("one/z", &[], "10.0.0.3"),
            ("onf/x", &[("app", "a"), ("v", "2")], "10.0.0.4"),
            ("on/x", &[("app", "a"), ("v", "2")], "10.0.0.5"),
        ] {
            let touched = snapshot.apply_workload(Arc::new(workload(object, labels, address)));
            let is_backend = expected.contains(address);
            assert_eq!(touched.contains(&HostName::new("a.com")), is_backend, "{object} for {labels:?}");
        }
        let desired = built(&snapshot, &Resolved::new());
        assert_eq!(seen_at(&desired, "else", "240.240.0.1"), [format!("80: {expected}")]);

        let gone = snapshot.remove(&object_ref(Kind::WorkloadEntry, "one/y"));
        assert_eq!(!gone.is_empty(), expected.contains("10.0.0.2"));
    }
}

#[test]
fn a_workload_that_loses_its_label_touches_the_hosts_that_had_it() {
    let mut snapshot = snapshot([with(entry("one/e", 1, "a.com"), |e| {
        e.workload_selector = Some([("app".into(), "a".into())].into());
    })]);
    snapshot.apply_workload(Arc::new(workload("one/x", &[("app", "a")], "10.0.0.1")));
    let touched = snapshot.apply_workload(Arc::new(workload("one/x", &[], "10.0.0.1")));
    assert_eq!(touched, [HostName::new("a.com")].into());
    assert_eq!(seen_at(&built(&snapshot, &Resolved::new()), "else", "240.240.0.1"), ["80: "]);
}
