//! Hosts whose names are resolved while clients use them.

use super::*;

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<HostName> {
    names.into_iter().map(HostName::new).collect()
}

impl Node {
    /// Nobody has asked for anything.
    fn unasked() -> Self {
        let mut node = Self::new();
        node.asks = false;
        node
    }

    fn ask(&mut self, host: &str) {
        self.reconciler.demand(&HostName::new(host), &user("default"), self.now);
    }

    /// Whether a client of `host` is made to wait.
    fn waits_for(&self, host: &str) -> bool {
        let waits = matches!(self.look_up("default", host), Found::OnDemand { .. });
        assert_eq!(waits, self.reconciler.waits_for(&HostName::new(host)), "{host}");
        waits
    }

    fn unasked_with(entry: &str) -> Self {
        let mut node = Self::unasked();
        node.apply(entry);
        node.step();
        node
    }

    fn ask_and_step(&mut self, host: &str) {
        self.ask(host);
        self.step();
    }

    fn answer_and_step(&mut self, name: &str, addresses: &[&str]) {
        self.answer(name, addresses);
        self.step();
    }

    fn host_use(&self, host: &str) -> Option<HostUse> {
        self.reconciler.host_use(&HostName::new(host))
    }

    /// What the agent does from time to time, with so many connections to every service so far.
    fn upkeep(&mut self, connects: u64) {
        let used = self.names.take_used();
        self.reconciler.used(used, self.now);
        let quiet = self.reconciler.quiet_names(self.now);
        for (host, _) in quiet.into_iter().chain(self.reconciler.unused_hosts(8)) {
            self.reconciler.end_unless_connected(&host, connects, self.now);
        }
        if self.reconciler.is_dirty() {
            self.step();
        }
    }

    fn idle(&mut self) {
        self.now += LIMITS.idle;
        self.upkeep(0);
    }
}

#[test]
fn names_are_resolved_when_a_client_asks_and_rest_when_nobody_does() {
    let mut node = Node::unasked_with(&named("a", "a.com", "x.net, y.net"));
    assert_eq!((&node.wanted, node.host_use("a.com")), (&names([]), Some(HostUse::NotAskedFor)));
    assert_eq!(node.frontends(), ["* 240.240.0.1:80 TCP ->", "* [2001:2::1]:80 TCP ->"]);
    assert!(node.waits_for("a.com") && node.reconciler.is_resolved());

    node.ask("a.com");
    assert_eq!(node.effects().want, names(["x.net", "y.net"]));
    assert!(node.waits_for("a.com") && !node.reconciler.is_resolved());
    node.answer_and_step("x.net", &["10.0.0.1"]);
    assert!(node.waits_for("a.com"), "the other endpoint is not known yet");
    node.answer_and_step("y.net", &[]);
    assert!(!node.waits_for("a.com"));
    assert_eq!(node.query("default", "a.com"), ["240.240.0.1"]);
    assert_eq!(node.host_use("a.com"), Some(HostUse::Used));

    // The question of just now was one, too.
    node.idle();
    assert_eq!(node.host_use("a.com"), Some(HostUse::Used));
    node.idle();
    assert_eq!((&node.wanted, &node.resting), (&names([]), &names(["x.net", "y.net"])));
    assert_eq!(node.host_use("a.com"), Some(HostUse::Idle));
    // Who kept its address still gets somewhere; who asks waits for newer ones.
    assert_eq!(node.frontends()[0], "* 240.240.0.1:80 TCP -> 10.0.0.1:80");
    assert!(node.waits_for("a.com"));
    assert!(matches!(node.look_up("default", "a.com"), Found::OnDemand { so_far: Some(_), .. }));
    // What keeps the addresses from getting too old is no news for who asks.
    node.answer_and_step("x.net", &["10.0.0.9"]);
    assert!(node.waits_for("a.com"));
    node.ask("a.com");
    assert_eq!(node.effects().want, names(["x.net", "y.net"]));
    node.answer("x.net", &["10.0.0.2"]);
    node.answer_and_step("y.net", &[]);
    assert!(!node.waits_for("a.com"));
    assert_eq!(node.frontends()[0], "* 240.240.0.1:80 TCP -> 10.0.0.2:80");
    node.delete("a");
    node.step();
    node.assert_empty();
}

#[test]
fn connections_are_a_use_also_of_a_host_that_nobody_asked_for() {
    let mut node = Node::unasked_with(&named("a", "a.com", "x.net"));
    node.ask_and_step("a.com");
    node.answer_and_step("x.net", &["10.0.0.1"]);
    for connects in 1..4 {
        node.now += LIMITS.idle;
        node.upkeep(connects);
        assert_eq!(node.host_use("a.com"), Some(HostUse::Used), "{connects}");
    }
    node.now += LIMITS.idle;
    node.upkeep(3);
    assert_eq!(node.host_use("a.com"), Some(HostUse::Idle));
    node.upkeep(3);
    assert_eq!(node.host_use("a.com"), Some(HostUse::Idle), "connections of before");
    node.upkeep(4);
    assert_eq!((node.host_use("a.com"), &node.wanted), (Some(HostUse::Used), &names(["x.net"])));
    node.idle();
    assert_eq!(node.host_use("a.com"), Some(HostUse::Idle));
    node.upkeep(0);
    assert_eq!(node.host_use("a.com"), Some(HostUse::Idle), "its services were made anew");
    node.upkeep(1);
    assert_eq!(node.host_use("a.com"), Some(HostUse::Used));
}

#[test]
fn every_host_without_a_use_is_looked_at_in_its_turn() {
    let mut node = Node::unasked();
    for host in ["a", "b", "c", "d", "e"] {
        node.apply(&named(host, &format!("{host}.com"), "x.net"));
    }
    node.apply(&fixed("s", "s.com", "10.0.0.1"));
    node.step();
    node.ask_and_step("b.com");
    let mut turn = || {
        let hosts = node.reconciler.unused_hosts(2).into_iter();
        hosts.map(|(host, services)| format!("{host} {}", services.len())).collect::<Vec<_>>()
    };
    assert_eq!(turn(), ["a.com 1", "c.com 1"]);
    assert_eq!(turn(), ["d.com 1", "e.com 1"]);
    assert_eq!(turn(), [""; 0]);
    assert_eq!(turn(), ["a.com 1", "c.com 1"]);
}

#[test]
fn a_connection_that_found_no_backend_has_the_host_resolved() {
    let mut node = Node::unasked_with(&named("a", "a.com", "x.net"));
    for address in ["240.240.0.2", "240.240.0.1"] {
        let address = address.parse().expect("an address");
        node.reconciler.dialled_in_vain([Scope::Mesh].iter(), address, node.now);
    }
    assert_eq!(node.effects().want, names(["x.net"]));
}

#[test]
fn what_a_client_may_dial_without_asking_is_always_resolved() {
    let written = named("a", "a.com", "x.net").replace("resolution", "addresses: [10.9.9.9]\n  resolution");
    let wildcard =
        named("a", "'*.a.com'", "x.net").replace("resolution", "addresses: [10.9.9.9]\n  resolution");
    let in_status = named("a", "a.com", "x.net") + "status: {addresses: [{value: 240.240.0.9}]}\n";
    // Endpoints of another host that lead here, by name and by address, whichever comes first.
    let by_name = fixed("b", "b.com", "1.2.3.4") + "---\n" + &named("c", "c.com", "a.com");
    let by_address = fixed("b", "b.com", "240.240.0.1");
    let by_status = fixed("b", "b.com", "240.240.0.9");
    for (entry, other, is_always) in [
        (&written, None, true),
        (&wildcard, None, true),
        (&in_status, None, false),
        (&named("a", "a.com", "x.net"), None, false),
        (&named("a", "a.com", "x.net"), Some(&by_name), true),
        (&named("a", "a.com", "x.net"), Some(&by_address), true),
        (&in_status, Some(&by_status), true),
    ] {
        for both in [[Some(entry), other], [other, Some(entry)]] {
            if both[0] == Some(&by_address) {
                // The first address would be that of this one's own host.
                continue;
            }
            let mut node = Node::unasked();
            for entry in both.into_iter().flatten() {
                node.apply(entry);
                node.step();
            }
            assert_eq!(node.wanted.contains(&HostName::new("x.net")), is_always, "{entry} {other:?}");
            ["a", "b", "c"].iter().for_each(|name| node.delete(name));
            node.step();
            node.assert_empty();
        }
    }
}

#[test]
fn a_name_of_two_hosts_is_fresh_while_one_is_in_use_and_both_are_told_when_it_rests() {
    let mut node = Node::unasked();
    node.apply(&named("a", "a.com", "x.net"));
    node.apply(&named("b", "b.com", "x.net"));
    node.step();
    node.ask_and_step("a.com");
    node.answer_and_step("x.net", &["10.0.0.1"]);
    node.idle();
    assert_eq!(node.host_use("a.com"), Some(HostUse::Idle));
    assert!(node.waits_for("a.com") && node.waits_for("b.com"));
    node.ask_and_step("b.com");
    node.answer_and_step("x.net", &["10.0.0.1"]);
    assert!(!node.waits_for("b.com"));
    node.ask("a.com");
    assert!(node.effects().want.is_empty());
    assert!(!node.waits_for("a.com"));
    node.delete("b");
    assert!(node.effects().unwant.is_empty());
}

#[test]
fn names_with_addresses_of_an_earlier_run_are_in_use() {
    let mut node = Node::restarted(Leases::new(DYNAMIC, LIMITS), &[("x.net", &["10.0.0.1"])]);
    node.asks = false;
    node.apply(&named("a", "a.com", "x.net"));
    node.apply(&named("b", "b.com", "y.net"));
    assert_eq!(node.effects().want, names(["x.net"]));
    assert!(!node.waits_for("a.com") && node.waits_for("b.com"));
    assert_eq!(node.query("default", "a.com"), ["240.240.0.1"]);
    node.idle();
    node.idle();
    assert_eq!(node.resting, names(["x.net"]));
}

#[test]
fn while_a_resolver_fails_a_client_waits_and_is_not_sent_to_nowhere() {
    let mut node = Node::unasked_with(&named("a", "a.com", "x.net, y.net"));
    node.ask_and_step("a.com");
    for name in ["x.net", "y.net"].map(HostName::new) {
        node.reconciler.failed(&name);
        node.reconciler.completed(&name);
    }
    node.step();
    assert!(node.waits_for("a.com"));
    assert!(node.reconciler.is_resolved(), "an upgrade does not wait for it");
    assert!(matches!(node.look_up("default", "a.com"), Found::OnDemand { so_far: None, .. }));
    // One is enough, whatever becomes of the other.
    node.answer_and_step("y.net", &["10.0.0.1"]);
    assert!(!node.waits_for("a.com"));
    assert_eq!(node.query("default", "a.com"), ["240.240.0.1"]);
    // Its addresses are too old to be used, and it cannot be asked for.
    node.reconciler.failed(&HostName::new("y.net"));
    node.step();
    assert!(node.waits_for("a.com"));
}

#[test]
fn when_nobody_knows_what_an_earlier_agent_served_all_hosts_are_in_use_for_a_while() {
    let mut node = Node::restarted(Leases::new(DYNAMIC, LIMITS), &[]);
    node.asks = false;
    node.apply(&named("a", "a.com", "x.net"));
    assert_eq!(node.effects().want, names(["x.net"]));
    node.apply(&named("b", "b.com", "y.net"));
    assert_eq!(node.effects().want, names([]), "it is new");
    node.idle();
    assert_eq!(node.resting, names(["x.net"]));
}
