//! Addresses that are ranges: their rows, who has them, and what `plan` says.

use super::*;

/// An entry whose one backend tells which it is, with these addresses.
fn at(object: &str, age: i64, host: &str, addresses: &[&str], backend: &str) -> Entry {
    with(entry(object, age, host), |e| {
        e.addresses = addresses.iter().map(|a| a.parse().expect("a network")).collect();
        e.endpoints = vec![endpoint(backend)];
    })
}

/// The same, dialled straight.
fn straight(object: &str, age: i64, host: &str, addresses: &[&str]) -> Entry {
    with(at(object, age, host, addresses, "10.0.0.9"), |e| {
        e.resolution = Resolution::None;
        e.endpoints.clear();
    })
}

fn range(text: &str) -> AddressRange {
    text.parse().expect("a range")
}

fn all(entries: &[Entry]) -> (Desired, Tables) {
    let snapshot = snapshot(entries.iter().cloned());
    let (mut desired, mut keys) = (Desired::default(), Keys::default());
    for name in snapshot.hosts() {
        keys.extend(
            desired.set(name, Some(built_with(&snapshot, &Resolved::new(), Vips::default(), name.as_str()))),
        );
    }
    let rows = desired.rows(&keys, |_| &[]);
    (desired, rows)
}

/// `SCOPE RANGE:PORT HOST` of each frontend.
fn served(rows: &Tables) -> Vec<String> {
    let line = |(f, key): (&Frontend, &ServiceKey)| {
        format!("{} {} {}", f.scope, f.address.with_port(f.port), key.host)
    };
    rows.frontends.iter().map(line).collect()
}

fn planned(entries: &[Entry], namespace: &str) -> Plan {
    let (snapshot, vips) = (snapshot(entries.iter().cloned()), VipPool::new(VipRanges::default()));
    let known =
        Known { snapshot: &snapshot, resolved: &Resolved::new(), vips: &vips, waypoints: &NO_WAYPOINTS };
    plan(known, &Leases::new(DYNAMIC_RANGES, LeaseLimits::default()), &Namespace::new(namespace))
}

/// The conditions that clients of `namespace` get, as `HOST REASON: MESSAGE`.
fn conditions(entries: &[Entry], namespace: &str) -> Vec<String> {
    let plan = planned(entries, namespace);
    let lines = plan.services.iter().flat_map(|service| {
        let told = service.conditions.iter().filter(|condition| condition.kind != "Accepted");
        told.map(move |condition| format!("{} {}: {}", service.host, condition.reason, condition.message))
    });
    lines.collect()
}

#[test]
fn a_range_has_rows_like_an_address_and_no_answer() {
    let entry = at("one/e", 1, "a.com", &["10.9.0.0/16", "fd00::/64", "1.2.3.4/32"], "10.0.0.1");
    let desired = built(&snapshot([entry]), &Resolved::new());
    let ranges: Vec<_> = ["1.2.3.4", "10.9.0.0/16", "fd00::/64"].into_iter().map(range).collect();
    let frontends: Vec<_> = desired.tables.frontends.keys().map(|frontend| frontend.address).collect();
    assert_eq!(frontends, ranges);
    let addresses: Vec<_> =
        desired.tables.addresses.iter().map(|(a, rule)| (a.address, rule.clone())).collect();
    assert_eq!(
        addresses,
        ranges
            .iter()
            .map(|a| (*a, AddressRule { unlisted: Unlisted::Pass, sorts_by: None }))
            .collect::<Vec<_>>()
    );
    assert_eq!(desired.names.views[&Scope::Mesh].vips, [ip("1.2.3.4")]);
    assert_eq!(desired.tables.services.len(), 1);
}

#[test]
fn a_host_with_ranges_alone_is_not_answered_and_gets_no_allocated_address() {
    for entry in
        [at("one/e", 1, "a.com", &["10.9.0.0/16"], "10.0.0.1"), straight("one/e", 1, "a.com", &["::/0"])]
    {
        let snapshot = snapshot([entry]);
        assert!(!needs_vip(&snapshot, &HostName::new("a.com")));
        let desired = built(&snapshot, &Resolved::new());
        assert!(desired.names.views[&Scope::Mesh].vips.is_empty());
        assert_eq!(desired.tables.addresses.len(), 1);
    }
}

#[test]
fn the_oldest_has_the_port_of_a_range_that_two_hosts_list() {
    let old = at("one/old", 1, "old.com", &["10.9.0.0/16"], "10.0.0.1");
    let young = with(at("one/young", 2, "young.com", &["10.9.0.0/16"], "10.0.0.2"), |e| {
        e.ports.push(port(81, "more"));
    });
    let entries = [old, young];
    let (_, rows) = all(&entries);
    assert_eq!(served(&rows), ["* 10.9.0.0/16:80 old.com", "* 10.9.0.0/16:81 young.com"]);
    assert_eq!(
        conditions(&entries, "one"),
        [
            "young.com OlderEntryWins: clients of this namespace get 10.9.0.0/16:80 from old.com of ServiceEntry one/old, which is older"
        ]
    );
}

#[test]
fn who_goes_straight_has_every_port_of_its_address_before_the_younger() {
    for address in ["1.2.3.4/32", "10.9.0.0/16"] {
        let (shown, young) = (range(address), at("one/young", 2, "young.com", &[address], "10.0.0.2"));
        let entries = [straight("one/old", 1, "old.com", &[address]), young.clone()];
        assert!(served(&all(&entries).1).is_empty());
        let message = format!(
            "young.com OlderEntryWins: clients of this namespace go straight to {shown}:80, as old.com of ServiceEntry \
             one/old says, which is older"
        );
        assert_eq!(conditions(&entries, "one"), [message]);

        // The younger one comes and goes without a change to the older.
        let entries = [young, straight("one/e", 3, "late.com", &[address])];
        assert_eq!(served(&all(&entries).1), [format!("* {shown}:80 young.com")]);
        let message = format!(
            "late.com OlderEntryWins: clients of this namespace get {shown}:80 from young.com of ServiceEntry one/young, which is older"
        );
        assert_eq!(conditions(&entries, "one"), [message]);
    }
}

#[test]
fn a_port_comes_back_when_who_goes_straight_has_gone() {
    let (_, name) = (all(&[]), HostName::new("old.com"));
    let entries = [
        straight("one/old", 1, "old.com", &["10.9.0.0/16"]),
        at("one/young", 2, "young.com", &["10.9.0.0/16"], "10.0.0.2"),
    ];
    let (mut desired, _) = all(&entries);
    let touched = desired.set(&name, None);
    assert_eq!(served(&desired.rows(&touched, |_| &[])), ["* 10.9.0.0/16:80 young.com"]);
    let again = built_with(&snapshot(entries), &Resolved::new(), Vips::default(), "old.com");
    let touched = desired.set(&name, Some(again));
    assert_eq!((touched.frontends.len(), served(&desired.rows(&touched, |_| &[]))), (1, Vec::new()));
}

#[test]
fn the_narrowest_range_decides_and_the_wider_is_told() {
    let entries = [
        at("one/wide", 1, "wide.com", &["10.0.0.0/8"], "10.0.0.1"),
        straight("one/hole", 2, "hole.com", &["10.9.0.0/16"]),
        at("one/exact", 3, "exact.com", &["10.9.1.1/32"], "10.0.0.3"),
        at("one/other", 3, "other.com", &["11.0.0.0/8"], "10.0.0.4"),
    ];
    let (desired, _) = all(&entries);
    let user = |address| {
        let (host, range) = desired.user_at([Scope::Mesh].iter(), ip(address))?;
        Some(format!("{range} {host}"))
    };
    assert_eq!(user("10.1.1.1"), Some("10.0.0.0/8 wide.com".to_owned()));
    assert_eq!(user("10.9.9.9"), Some("10.9.0.0/16 hole.com".to_owned()));
    assert_eq!(user("10.9.1.1"), Some("10.9.1.1 exact.com".to_owned()));
    assert_eq!((user("9.9.9.9"), user("::1")), (None, None));
    assert_eq!(
        conditions(&entries, "one"),
        [
            "hole.com NarrowerAddressWins: within 10.9.0.0/16, 10.9.1.1 is that of exact.com of ServiceEntry one/exact",
            "wide.com NarrowerAddressWins: within 10.0.0.0/8, 10.9.0.0/16 is that of hole.com of ServiceEntry one/hole, \
             10.9.1.1 is that of exact.com of ServiceEntry one/exact",
        ]
    );
}

#[test]
fn a_message_names_few_of_many_narrower_addresses() {
    let mut entries = vec![straight("one/all", 1, "all.com", &["0.0.0.0/0"])];
    for n in 0..9 {
        entries.push(at(
            &format!("one/e{n}"),
            2,
            &format!("h{n}.com"),
            &[&format!("10.0.0.{n}/32")],
            "10.1.1.1",
        ));
    }
    let told = conditions(&entries, "one");
    assert_eq!(told.len(), 1);
    assert!(
        told[0]
            .ends_with("10.0.0.2 is that of h2.com of ServiceEntry one/e2, and 6 more are those of others"),
        "{told:?}"
    );
}

#[test]
fn of_one_range_a_namespace_has_its_own_and_of_two_everybody_has_the_narrower() {
    let entries = [
        at("one/own", 2, "own.com", &["10.0.0.0/8"], "10.0.0.1"),
        at("two/mesh", 1, "mesh.com", &["10.9.0.0/16", "10.0.0.0/8"], "10.0.0.2"),
    ];
    let both = ["10.0.0.0/8:80", "10.9.0.0/16:80"];
    let expected: Vec<_> = [("*", "mesh.com"), ("one", "own.com"), ("two", "mesh.com")]
        .iter()
        .flat_map(|(scope, host)| {
            [format!("{scope} {} {host}", both[0]), format!("{scope} {} mesh.com", both[1])]
        })
        .collect();
    assert_eq!(served(&all(&entries).1), expected);
    let hole = "within 10.0.0.0/8, 10.9.0.0/16 is that of mesh.com of ServiceEntry two/mesh";
    let took = "clients of this namespace get 10.0.0.0/8:80 from";
    assert_eq!(
        conditions(&entries, "one"),
        [
            format!("own.com NarrowerAddressWins: {hole}"),
            format!(
                "mesh.com OwnNamespaceWins: {took} own.com of ServiceEntry one/own, an entry of their own namespace"
            ),
        ]
    );
    let told = |reason, why| format!("own.com {reason}: {took} mesh.com of ServiceEntry two/mesh, {why}");
    assert_eq!(conditions(&entries, "two")[0], told("OwnNamespaceWins", "an entry of their own namespace"));
    assert_eq!(conditions(&entries, "three")[0], told("OlderEntryWins", "which is older"));
}

#[test]
fn plan_shows_ranges_as_addresses_that_no_name_is_answered_with() {
    let entries = [
        straight("one/straight", 1, "straight.com", &["10.0.0.0/8"]),
        at("one/both", 1, "both.com", &["1.2.3.4/32", "11.0.0.0/8"], "10.0.0.1"),
    ];
    let plan = planned(&entries, "one");
    let services: Vec<_> =
        plan.services.iter().map(|s| (s.host.as_str(), &s.vips[..], s.ports[0].mode)).collect();
    assert_eq!(
        services,
        [
            ("both.com", &[range("1.2.3.4"), range("11.0.0.0/8")][..], "balance"),
            ("straight.com", &[range("10.0.0.0/8")], "passthrough"),
        ]
    );
    assert_eq!(
        plan.names.iter().map(|n| (n.name.as_str(), &n.addresses[..])).collect::<Vec<_>>(),
        [("both.com", &[ip("1.2.3.4")][..])]
    );
}
