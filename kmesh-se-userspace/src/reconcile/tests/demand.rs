//! Names below DYNAMIC_DNS wildcards.

use super::*;

/// A DYNAMIC_DNS entry for `*.w.com`.
fn wildcard(more: &str) -> String {
    entry("w", "'*.w.com'", &format!("resolution: DYNAMIC_DNS\n  {more}"))
}

fn names(names: &[&str]) -> BTreeSet<HostName> {
    names.iter().map(|name| HostName::new(name)).collect()
}

impl Node {
    fn demand(&mut self, namespace: &str, name: &str) {
        self.reconciler.demand(&HostName::new(name), &user(namespace), self.now);
    }

    /// Asks, resolves, steps.
    fn use_name(&mut self, namespace: &str, name: &str, addresses: &[&str]) {
        self.demand(namespace, name);
        self.step();
        self.answer(name, addresses);
        self.step();
    }

    fn waits(&self, name: &str) -> bool {
        self.reconciler.waits_for(&HostName::new(name))
    }

    fn later(&mut self, secs: i64) {
        self.now += SignedDuration::from_secs(secs);
    }

    /// What the agent does from time to time, with so many connections to everything.
    fn forget(&mut self, connects: u64) {
        let used = self.names.take_used();
        self.reconciler.used(used, self.now);
        for (host, services) in self.reconciler.quiet_names(self.now) {
            self.reconciler.end_unless_connected(&host, connects * services.len() as u64, self.now);
        }
    }
}

#[test]
fn a_name_is_resolved_when_it_is_asked_for_and_has_addresses_of_its_own() {
    let mut node = Node::new();
    node.apply(&wildcard(""));
    node.step();
    assert_eq!((node.frontends(), &node.wanted), (vec![], &names(&[])));
    node.demand("default", "a.w.com");
    assert_eq!(node.effects().want, names(&["a.w.com"]));
    assert!(node.waits("a.w.com") && node.query("default", "a.w.com").is_empty());

    // One family: it is in the maps, but the name waits for the other.
    node.one_family("a.w.com", &["10.0.0.1"]);
    let step = node.reconciler.prepare(node.now);
    assert!(step.must_save_leases && !step.must_save, "{step:?}");
    node.reconciler.commit(step);
    let frontends = ["* 240.241.0.1:80 TCP -> 10.0.0.1:80", "* [100::1]:80 TCP -> 10.0.0.1:80"];
    assert_eq!(node.frontends(), frontends);
    assert!(node.waits("a.w.com") && node.query("default", "a.w.com").is_empty());
    node.answer("a.w.com", &["10.0.0.1"]);
    node.step();
    assert!(!node.waits("a.w.com"));
    assert_eq!(node.query("default", "a.w.com"), ["240.241.0.1"]);

    // Another name with the same backend is another service.
    node.use_name("default", "b.w.com", &["10.0.0.1", "fd00::1"]);
    assert_eq!(node.query("default", "b.w.com"), ["240.241.0.2", "100::2"]);
    let services: Vec<_> =
        node.reconciler.sink().actual().services.keys().map(|key| key.host.to_string()).collect();
    assert_eq!(services, ["a.w.com", "b.w.com"]);
    // They follow their own records.
    node.answer("a.w.com", &["10.0.0.2"]);
    node.step();
    assert_eq!(node.frontends()[0], "* 240.241.0.1:80 TCP -> 10.0.0.2:80");

    node.delete("w");
    let effects = node.effects();
    assert_eq!((effects.unwant, node.query("default", "a.w.com")), (names(&["a.w.com", "b.w.com"]), vec![]));
    node.assert_empty();
}

#[test]
fn rows_are_written_before_the_name_is_published() {
    let mut node = Node::new();
    node.apply(&wildcard(""));
    node.demand("default", "a.w.com");
    node.step();
    node.answer("a.w.com", &["10.0.0.1"]);
    let step = node.reconciler.prepare(node.now);
    assert!(node.frontends().is_empty() && node.waits("a.w.com"));
    node.reconciler.commit(step);
    assert_eq!(node.query("default", "a.w.com"), ["240.241.0.1"]);
}

#[test]
fn a_name_without_addresses_takes_none_and_is_forgotten_at_once() {
    let mut node = Node::new();
    node.apply(&wildcard(""));
    node.demand("default", "a.w.com");
    node.step();
    node.answer("a.w.com", &[]);
    let step = node.reconciler.prepare(node.now);
    assert!(!step.must_save && !step.must_save_leases && step.unwant == names(&["a.w.com"]), "{step:?}");
    node.reconciler.commit(step);
    assert!(!node.waits("a.w.com"));
    assert_eq!(node.reconciler.leases().iter().count(), 0);
    // It can be asked for again.
    node.wanted.clear();
    node.use_name("default", "a.w.com", &["10.0.0.1"]);
    assert_eq!(node.query("default", "a.w.com"), ["240.241.0.1"]);
}

#[test]
fn a_name_that_loses_its_addresses_is_the_resolvers_and_its_address_refuses() {
    let mut node = Node::new();
    node.apply(&wildcard(""));
    node.use_name("default", "a.w.com", &["10.0.0.1"]);
    node.answer("a.w.com", &[]);
    node.step();
    assert_eq!(node.look_up("default", "a.w.com"), Found::NotOurs);
    assert_eq!(node.frontends(), ["* 240.241.0.1:80 TCP ->", "* [100::1]:80 TCP ->"]);
    node.answer("a.w.com", &["10.0.0.9"]);
    node.step();
    assert_eq!(node.query("default", "a.w.com"), ["240.241.0.1"]);
}

#[test]
fn a_name_is_in_use_while_somebody_asks_or_connects() {
    let mut node = Node::new();
    node.apply(&wildcard(""));
    node.use_name("default", "a.w.com", &["10.0.0.1"]);
    for _ in 0..3 {
        node.later(599);
        assert_eq!(node.query("default", "a.w.com"), ["240.241.0.1"]);
        node.forget(0);
        assert!(!node.reconciler.is_dirty());
    }
    // Connections are a use, too, but not those of before.
    node.later(600);
    node.forget(7);
    node.later(599);
    node.forget(7);
    assert!(!node.reconciler.is_dirty());
    node.later(1);
    node.forget(7);
    let effects = node.effects();
    assert_eq!(effects.unwant, names(&["a.w.com"]));
    assert_eq!(node.frontends(), Vec::<String>::new());

    // Its address rests before it is another name's.
    node.use_name("default", "b.w.com", &["10.0.0.1"]);
    assert_eq!(node.query("default", "b.w.com"), ["240.241.0.2"]);
    node.delete("w");
    node.step();
    node.assert_empty();
}

#[test]
fn a_client_uses_no_more_names_than_it_may_and_status_says_so() {
    let mut node = Node::new();
    node.apply(&wildcard(""));
    node.use_name("default", "a.w.com", &["10.0.0.1"]);
    node.use_name("default", "b.w.com", &["10.0.0.2"]);
    node.demand("default", "c.w.com");
    assert!(!node.waits("c.w.com") && !node.reconciler.is_dirty());
    assert_eq!(node.failures(), [("*.w.com".to_owned(), "TooManyNames")]);
    let message = node.reconciler.report().failures().next().map(|(.., message)| message.to_owned());
    assert!(message.is_some_and(|m| m.contains("client 0.0.0.0 of namespace default uses 2 names")));
    // Names that are in use go on; another client has names of its own, of the same namespace or another, while the range has
    // addresses.
    let neighbour = User::new(Namespace::default(), [10, 0, 0, 7].into());
    node.reconciler.demand(&HostName::new("e.w.com"), &neighbour, node.now);
    assert!(node.waits("e.w.com"));
    node.step();
    node.answer("e.w.com", &[]);
    node.step();
    assert_eq!(node.query("default", "a.w.com"), ["240.241.0.1"]);
    // IPv4 has two of them, IPv6 three.
    node.use_name("other", "c.w.com", &["10.0.0.3"]);
    assert_eq!(node.query("other", "c.w.com"), ["100::3"]);
    node.demand("other", "d.w.com");
    node.step();
    node.answer("d.w.com", &["10.0.0.4"]);
    let step = node.reconciler.prepare(node.now);
    node.reconciler.commit(step);
    assert!(!node.waits("d.w.com"), "the client is not made to wait");
    let message = node.reconciler.report().failures().next().map(|(.., message)| message.to_owned());
    assert!(message.is_some_and(|message| message.contains("--dynamic-v4")));
    assert_eq!(node.effects().unwant, names(&["d.w.com"]));

    // When a name is forgotten there is room again.
    node.later(300);
    assert_eq!(node.query("default", "a.w.com"), ["240.241.0.1"]);
    node.forget(0);
    assert_eq!(node.failures(), []);
    node.later(300);
    node.forget(0);
    node.step();
    assert_eq!(node.query("default", "b.w.com"), Vec::<String>::new());
    node.demand("default", "d.w.com");
    assert!(node.waits("d.w.com"));
}

#[test]
fn a_client_that_stops_asking_gets_its_share_back_while_another_goes_on() {
    let mut node = Node::new();
    node.apply(&wildcard(""));
    for name in ["a.w.com", "b.w.com"] {
        node.use_name("one", name, &["10.0.0.1"]);
        assert!(!node.query("two", name).is_empty());
        node.forget(0);
    }
    node.later(600);
    assert!(!node.query("two", "a.w.com").is_empty() && !node.query("two", "b.w.com").is_empty());
    node.forget(0);
    assert!(!node.reconciler.is_dirty(), "both are in use");
    node.demand("two", "c.w.com");
    assert!(!node.waits("c.w.com"));
    node.demand("one", "c.w.com");
    assert!(node.waits("c.w.com"));
}

#[test]
fn who_gets_a_name_by_which_wildcard_follows_what_they_see() {
    let mut node = Node::new();
    node.apply(&wildcard("exportTo: [shop, inside]"));
    node.apply(&format!(
        "{}\n---\n{}",
        entry("near", "'*.b.w.com'", "resolution: STATIC\n  exportTo: [inside]\n  addresses: [10.9.9.9]\n  endpoints: [{address: 10.0.0.9}]"),
        fixed("own", "x.w.com", "10.0.0.8")
    ));
    node.use_name("shop", "a.b.w.com", &["10.0.0.1"]);
    let shop = ["shop 240.241.0.1:80 TCP -> 10.0.0.1:80", "shop [100::1]:80 TCP -> 10.0.0.1:80"];
    assert!(shop.iter().all(|row| node.frontends().contains(&(*row).to_owned())), "{:?}", node.frontends());
    assert_eq!(node.query("shop", "a.b.w.com"), ["240.241.0.1"]);
    assert_eq!(node.query("inside", "a.b.w.com"), ["10.9.9.9"], "a longer wildcard");
    assert_eq!(node.query("outside", "a.b.w.com"), Vec::<String>::new());
    node.demand("outside", "c.w.com");
    node.demand("inside", "c.b.w.com");
    node.demand("shop", "x.w.com");
    assert!(!node.reconciler.is_dirty(), "no DYNAMIC_DNS wildcard gives them these names");
    assert_eq!(node.query("shop", "x.w.com"), ["240.240.0.1"], "an entry of its own");

    // When the entry of its own is hidden, the wildcard gives the name, at an address of its own.
    let hidden =
        fixed("own", "x.w.com", "10.0.0.8").replace("resolution", "exportTo: [inside]\n  resolution");
    node.apply(&hidden);
    node.step();
    node.use_name("shop", "x.w.com", &["10.0.0.2"]);
    assert_eq!(node.query("shop", "x.w.com"), ["240.241.0.2"]);
    assert_eq!(node.query("inside", "x.w.com"), ["240.240.0.1"]);
    // And back again: the name is no longer the wildcard's.
    node.apply(&fixed("own", "x.w.com", "10.0.0.8"));
    assert_eq!(node.effects().unwant, names(&["x.w.com"]));
    assert_eq!(node.query("shop", "x.w.com"), ["240.240.0.1"]);
}

#[test]
fn names_in_use_survive_a_restart_with_their_addresses_and_backends() {
    let mut first = Node::new();
    first.apply(&wildcard(""));
    first.use_name("default", "a.w.com", &["10.0.0.1"]);
    first.use_name("default", "b.w.com", &["10.0.0.2"]);

    let mut leases = Leases::new(DYNAMIC, LIMITS);
    for (host, vips, users) in first.reconciler.leases().iter() {
        assert!(leases.restore(host, *vips.expect("addresses"), users.cloned(), first.now));
    }
    let mut again = Node::restarted(leases, &[("b.w.com", &["10.0.0.2"])]);
    again.apply(&wildcard(""));
    assert_eq!(again.effects().want, names(&["a.w.com", "b.w.com"]));
    // What is remembered is served at once; the other waits for its first answer.
    assert_eq!(again.query("default", "b.w.com"), ["240.241.0.2"]);
    assert!(!again.waits("b.w.com") && again.waits("a.w.com"));
    again.answer("a.w.com", &["10.0.0.1"]);
    again.step();
    assert_eq!(again.query("default", "a.w.com"), ["240.241.0.1"]);
    assert_eq!(again.frontends(), first.frontends());
}
