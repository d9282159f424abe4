//! Addresses of a host and what DNS says of them.

use super::*;

fn written(addresses: &[&str]) -> Entry {
    with(entry("one/e", 1, "a.com"), |e| {
        e.endpoints = vec![endpoint("10.0.0.1")];
        e.addresses = addresses.iter().map(|a| a.parse().expect("a network")).collect();
    })
}

fn mesh_view(desired: &HostDesired) -> &NameView {
    &desired.names.views[&Scope::Mesh]
}

#[test]
fn addresses_are_the_users_else_the_status_else_allocated() {
    let status = |e: &mut Entry, host: Option<&str>| {
        e.status_addresses = vec![(ip("240.240.7.7"), host.map(HostName::new))];
    };
    let first = ["240.240.0.1", "2001:2::1"];
    let refuse = Unlisted::Refuse;
    let cases: [(&str, Entry, &[&str], Unlisted); 8] = [
        ("allocated", written(&[]), &first, refuse),
        ("not wanted", with(written(&[]), |e| e.may_allocate = false), &[], refuse),
        ("the user's", written(&["1.2.3.4/32", "fd00::1/128"]), &["1.2.3.4", "fd00::1"], Unlisted::Pass),
        ("the user's", with(written(&["1.2.3.4/32"]), |e| status(e, None)), &["1.2.3.4"], Unlisted::Pass),
        ("the status", with(written(&[]), |e| status(e, None)), &["240.240.7.7"], refuse),
        (
            "the status of the host",
            with(written(&[]), |e| status(e, Some("a.com"))),
            &["240.240.7.7"],
            refuse,
        ),
        ("another host's status", with(written(&[]), |e| status(e, Some("b.com"))), &first, refuse),
        ("NONE", with(written(&[]), |e| e.resolution = Resolution::None), &[], refuse),
    ];
    for (what, entry, expected, unlisted) in cases {
        let snapshot = snapshot([entry]);
        let desired = built(&snapshot, &Resolved::new());
        let expected: Vec<_> = expected.iter().map(|a| ip(a)).collect();
        assert_eq!(mesh_view(&desired).vips, expected, "{what}");
        let rows: BTreeMap<_, _> = expected.iter().map(|a| ((*a).into(), unlisted)).collect();
        let found: BTreeMap<_, _> =
            desired.tables.addresses.iter().map(|(a, rule)| (a.address, rule.unlisted)).collect();
        assert_eq!(found, rows, "{what}");
        let is_allocated = expected.contains(&ip("240.240.0.1"));
        assert_eq!(needs_vip(&snapshot, &HostName::new("a.com")), is_allocated, "{what}");
    }
}

#[test]
fn a_dynamic_wildcard_gives_each_name_an_address_and_has_none() {
    let (wildcard, name) = (HostName::new("*.a.com"), HostName::new("x.a.com"));
    let dynamic = Entry { resolution: Resolution::DynamicDns, ..entry("one/e", 1, "*.a.com") };
    let snapshot = snapshot([dynamic]);
    let desired = built_with(&snapshot, &Resolved::new(), first_vips(), wildcard.as_str());
    assert!(mesh_view(&desired).on_demand && mesh_view(&desired).vips.is_empty());
    assert_eq!(desired.tables, Tables::default());
    assert!(wanted_names(&snapshot, &wildcard).is_empty() && is_dynamic(&snapshot, &name));
    assert!(!is_dynamic(&snapshot, &HostName::new("a.com")));
    let resolved = resolved(&[("x.a.com", &["10.0.0.1"])]);
    let pool = VipPool::new(VipRanges::default());
    let known = Known { snapshot: &snapshot, resolved: &resolved, vips: &pool, waypoints: &NO_WAYPOINTS };
    let desired = concrete(known, Some(&first_vips()), &name);
    let view = &desired.concrete.views[&Scope::Mesh];
    assert_eq!((view.vips.len(), view.answers_v4, view.on_demand), (2, true, false));
    assert!(desired.tables.addresses.values().all(|rule| rule.unlisted == Unlisted::Refuse));
    assert_eq!(desired.tables.services.len(), 1);
}

#[test]
fn wildcards_of_either_kind_get_no_allocated_address() {
    for name in ["*.a.com", "*a.com"] {
        let snapshot = snapshot([entry("one/e", 1, name)]);
        assert!(!needs_vip(&snapshot, &HostName::new(name)), "{name}");
        let desired = built_with(&snapshot, &Resolved::new(), first_vips(), name);
        assert_eq!(desired.tables, Tables::default(), "{name}");
    }
}

#[test]
fn what_passes_straight_through_keeps_its_address_to_itself() {
    let straight = with(written(&["1.2.3.4/32"]), |e| {
        e.resolution = Resolution::None;
        e.endpoints.clear();
    });
    let desired = built(&snapshot([straight]), &Resolved::new());
    assert!(desired.tables.frontends.is_empty() && desired.tables.services.is_empty());
    let address = Address { scope: Scope::Mesh, address: ip("1.2.3.4").into() };
    assert_eq!(
        desired.tables.addresses,
        [(address, AddressRule { unlisted: Unlisted::Pass, sorts_by: None })].into()
    );
    assert_eq!(mesh_view(&desired).vips, [ip("1.2.3.4")]);
}

#[test]
fn a_family_is_answered_when_a_backend_can_be_reached_through_it() {
    for (vips, backends, expected) in [
        ("both", &["10.0.0.1"][..], (true, false)),
        ("both", &["fd00::1"], (false, true)),
        ("both", &["10.0.0.1", "fd00::1"], (true, true)),
        ("both", &[], (true, false)),
        // TCP reaches IPv4 backends through an IPv6 address; an IPv4 socket reaches no IPv6 backend.
        ("v6", &["10.0.0.1"], (true, true)),
        ("v6", &[], (true, true)),
        ("v4", &["fd00::1"], (false, true)),
    ] {
        let with_backends = with(entry("one/e", 1, "a.com"), |e| {
            e.endpoints = backends.iter().map(|b| endpoint(b)).collect();
        });
        let mut allocated = first_vips();
        match vips {
            "v4" => allocated.v6 = None,
            "v6" => allocated.v4 = None,
            _ => {}
        }
        let snapshot = snapshot([with_backends]);
        let desired = built_with(&snapshot, &Resolved::new(), allocated, "a.com");
        let view = mesh_view(&desired);
        assert_eq!((view.answers_v4, view.answers_v6), expected, "{vips} {backends:?}");
    }
}

#[test]
fn a_view_is_unresolved_until_one_of_its_names_has_an_answer() {
    let dns = |endpoints: &[&str]| {
        with(entry("one/e", 1, "a.com"), |e| {
            e.resolution = Resolution::Dns;
            e.endpoints = endpoints.iter().map(|n| endpoint(n)).collect();
        })
    };
    let none = resolved(&[("z.net", &["10.0.0.1"])]);
    let empty = resolved(&[("x.net", &[])]);
    for (entry, answers, is_unresolved) in [
        (dns(&["x.net", "y.net"]), &none, true),
        (dns(&["x.net", "y.net"]), &empty, false),
        (dns(&["x.net", "192.0.2.1"]), &none, false),
        (dns(&[]), &none, true),
        (written(&[]), &none, false),
    ] {
        let desired = built(&snapshot([entry.clone()]), answers);
        assert_eq!(desired.unresolved.contains(&Scope::Mesh), is_unresolved, "{:?}", entry.endpoints);
    }
}

#[test]
fn an_automatic_address_is_sorted_by_a_service_with_a_backend_of_its_family() {
    let with_port = |name: &str, number: u16, addresses: &[&str]| {
        with(entry(name, 1, "a.com"), |e| {
            e.ports = vec![port(number, "p")];
            e.endpoints = addresses.iter().map(|a| endpoint(a)).collect();
        })
    };
    let sorted = |entries: [Entry; 2]| -> Vec<_> {
        let desired = built(&snapshot(entries), &Resolved::new());
        let rules = desired.tables.addresses.iter();
        rules
            .filter_map(|(a, rule)| Some((a.address.single()?, rule.sorts_by.as_ref().map(|key| key.port))))
            .collect()
    };
    let [v4, v6] = [ip("240.240.0.1"), ip("2001:2::1")];
    let (first, second) = (with_port("one/e", 81, &["fd00::1"]), with_port("one/f", 80, &["10.0.0.1"]));
    assert_eq!(sorted([first.clone(), second.clone()]), [(v4, Some(80)), (v6, Some(81))]);
    let empty = with_port("one/f", 80, &[]);
    assert_eq!(sorted([with_port("one/e", 81, &[]), empty.clone()]), [(v4, Some(80)), (v6, Some(80))]);
    assert_eq!(sorted([first, empty]), [(v4, Some(80)), (v6, Some(81))], "IPv4 has none: the first");
    let written = |e: Entry| with(e, |e| e.addresses = vec!["1.2.3.4/32".parse().expect("a network")]);
    let entries = [written(with_port("one/e", 81, &["10.0.0.1"])), written(second)];
    assert_eq!(sorted(entries), [(ip("1.2.3.4"), None)], "the address may be real");
}
