//! Virtual addresses while entries change.

use super::*;
use crate::desired::Vips;

fn vip(node: &Node, host: &str) -> Option<String> {
    Some(node.reconciler.vips().get(&HostName::new(host))?.v4?.to_string())
}

/// A STATIC entry for `hosts` with `labels`.
fn entry_for(hosts: &str, labels: &str) -> String {
    fixed("a", hosts, "10.0.0.1").replace("{name: a}", &format!("{{name: a, labels: {{{labels}}}}}"))
}

#[test]
fn a_host_that_comes_or_goes_leaves_the_addresses_of_the_others() {
    let mut node = Node::new();
    let told = |node: &mut Node, hosts: &str| {
        node.apply(&entry_for(hosts, ""));
        node.step();
        hosts.split(", ").map(|host| vip(node, host).expect("an address")).collect::<Vec<_>>()
    };
    assert_eq!(told(&mut node, "a.com, b.com"), ["240.240.0.1", "240.240.0.2"]);
    assert_eq!(told(&mut node, "b.com"), ["240.240.0.2"]);
    assert_eq!(vip(&node, "a.com"), None);
    assert_eq!(told(&mut node, "b.com, c.com, a.com"), ["240.240.0.2", "240.240.0.4", "240.240.0.3"]);
}

#[test]
fn opting_out_gives_the_address_back_and_in_again_a_fresh_one() {
    let mut node = Node::new();
    let out = "networking.istio.io/enable-autoallocate-ip: \"false\"";
    node.apply(&entry_for("a.com", ""));
    node.step();
    assert_eq!(vip(&node, "a.com").as_deref(), Some("240.240.0.1"));
    node.apply(&entry_for("a.com", out));
    node.step();
    assert_eq!(vip(&node, "a.com"), None);
    assert!(node.frontends().is_empty());
    node.apply(&entry_for("a.com", ""));
    node.step();
    assert_eq!(vip(&node, "a.com").as_deref(), Some("240.240.0.2"), "the first one rests");
}

#[test]
fn of_two_that_have_one_address_in_their_status_the_older_keeps_it() {
    let with_status = |name: &str, host: &str, backend: &str, age: u8| {
        let created = format!("{{name: {name}, creationTimestamp: \"2026-01-0{age}T00:00:00Z\"}}");
        fixed(name, host, backend).replace(&format!("{{name: {name}}}"), &created)
            + "status: {addresses: [{value: 240.240.0.7}]}\n"
    };
    for reversed in [false, true] {
        let mut both =
            [with_status("old", "old.com", "10.0.0.1", 1), with_status("young", "young.com", "10.0.0.2", 2)];
        if reversed {
            both.reverse();
        }
        let mut node = Node::new();
        both.iter().for_each(|entry| node.apply(entry));
        node.step();
        assert_eq!(node.frontends(), ["* 240.240.0.7:80 TCP -> 10.0.0.1:80"]);
        node.delete("old");
        node.step();
        assert_eq!(node.frontends(), ["* 240.240.0.7:80 TCP -> 10.0.0.2:80"]);
    }
}

#[test]
fn when_one_family_is_used_up_the_other_serves_alone() {
    let ranges = VipRanges { v4: "240.240.0.0/30".parse().expect("a range"), ..VipRanges::default() };
    let mut node = Node::with(Capacities::default(), ranges);
    node.apply(&entry_for("a.com, b.com, c.com", ""));
    node.step();
    let all = |host: &str| node.reconciler.vips().get(&HostName::new(host)).copied().expect("an address");
    assert!(matches!((all("a.com"), all("b.com")), (Vips { v4: Some(_), .. }, Vips { v4: Some(_), .. })));
    assert_eq!(all("c.com"), Vips { v4: None, v6: "2001:2::3".parse().ok() });
    assert_eq!(node.query("default", "c.com"), ["2001:2::3"]);
    assert_eq!(node.failures(), []);
}

#[test]
fn where_others_allocate_a_host_waits_for_its_address() {
    let pending = |node: &Node| {
        let pending = node.reconciler.pending();
        pending
            .map(|(entry, host, condition)| format!("{} {host} {}", entry.object, condition.reason))
            .collect::<Vec<_>>()
    };
    let mut node = Node::new();
    node.reconciler = node.reconciler.allocating(false);
    node.apply(&entry_for("a.com, b.com", ""));
    node.step();
    assert_eq!((vip(&node, "a.com"), node.frontends()), (None, vec![]));
    let wanted = ["a.com", "b.com"].map(|host| format!("ServiceEntry default/a {host} AddressPending"));
    assert_eq!(pending(&node), wanted);
    node.apply(
        &(entry_for("a.com, b.com", "") + "status: {addresses: [{value: 240.240.0.7, host: b.com}]}\n"),
    );
    node.step();
    assert_eq!(node.frontends(), ["* 240.240.0.7:80 TCP -> 10.0.0.1:80"]);
    assert_eq!(pending(&node), wanted[..1]);
    // Who wants none waits for none.
    node.apply(&entry_for("a.com", "networking.istio.io/enable-autoallocate-ip: \"false\""));
    node.step();
    assert_eq!(pending(&node), [""; 0]);
}
