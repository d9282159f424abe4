//! Maps and ranges that are full.

use super::*;

fn room_for(services: u32) -> Capacities {
    Capacities { services, ..Capacities::default() }
}

#[test]
fn rows_that_do_not_fit_are_told_and_written_when_there_is_room() {
    let mut node = Node::with(room_for(1), VipRanges::default());
    node.apply(&fixed("a", "a.com", "10.0.0.1"));
    node.apply(&fixed("b", "b.com", "10.0.0.2"));
    node.step();
    let told = [("b.com".to_owned(), "MapFull"), ("b.com".to_owned(), "ServiceNotWritten")];
    assert_eq!(node.failures(), told);
    assert_eq!(node.query("default", "a.com"), ["240.240.0.1"]);
    assert!(node.query("default", "b.com").is_empty(), "no client is sent to an address that leads nowhere");

    node.reconciler.retry_failed();
    node.step();
    assert_eq!(node.failures(), told, "there is still no room");

    node.delete("a");
    node.step();
    assert_eq!(node.failures(), []);
    assert_eq!(
        node.frontends(),
        ["* 240.240.0.2:80 TCP -> 10.0.0.2:80", "* [2001:2::2]:80 TCP -> 10.0.0.2:80"]
    );
    assert_eq!(node.query("default", "b.com"), ["240.240.0.2"]);
    node.reconciler.retry_failed();
    assert!(!node.reconciler.is_dirty(), "nothing is left to be tried again");
    node.delete("b");
    node.step();
    node.assert_empty();
}

#[test]
fn a_failure_is_forgotten_with_its_entry() {
    let mut node = Node::with(room_for(0), VipRanges::default());
    node.apply(&fixed("a", "a.com", "10.0.0.1"));
    node.step();
    assert_eq!(node.failures().len(), 2);
    node.delete("a");
    node.step();
    node.assert_empty();
}

#[test]
fn a_service_stays_for_as_long_as_a_frontend_cannot_leave_it() {
    let capacities = Capacities { slots: 2, ..Capacities::default() };
    let mut node = Node::with(capacities, VipRanges::default());
    node.apply(&fixed("a", "a.com", "10.0.0.1"));
    node.apply(&fixed("b", "b.com", "10.0.0.2"));
    node.step();
    // The entry changes its name: its frontends move to a new service, for which there are no slots.
    node.delete("a");
    node.apply(&fixed("renamed", "a.com", "10.0.0.1"));
    node.step();
    assert_eq!(node.frontends()[0], "* 240.240.0.1:80 TCP -> 10.0.0.1:80");
    let reasons: BTreeSet<_> = node.failures().into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(reasons, ["MapFull", "ServiceNotWritten", "ServiceStillUsed"].into());
    node.delete("b");
    node.step();
    assert_eq!(node.failures(), []);
    node.delete("renamed");
    node.step();
    node.assert_empty();
}

#[test]
fn a_host_without_an_address_gets_one_when_another_goes() {
    let ranges =
        VipRanges { v4: "10.9.0.0/30".parse().expect("a range"), v6: "fd00::/127".parse().expect("a range") };
    let mut node = Node::with(Capacities::default(), ranges);
    for name in ["a", "b", "c"] {
        node.apply(&fixed(name, &format!("{name}.com"), "10.0.0.1"));
    }
    node.step();
    assert_eq!(node.failures(), [("c.com".to_owned(), "NoAddressLeft")]);
    node.delete("b");
    node.step();
    node.reconciler.retry_failed();
    node.step();
    assert_eq!(node.failures().len(), 1, "the address still rests");
    node.now = Timestamp::from_second(61).expect("a time");
    node.reconciler.retry_failed();
    assert!(node.effects().must_save);
    assert_eq!(node.failures(), []);
    assert_eq!(node.query("default", "c.com"), ["10.9.0.2"]);
}

#[test]
fn a_host_that_needs_no_address_any_more_misses_none() {
    let ranges =
        VipRanges { v4: "10.9.0.0/32".parse().expect("a range"), v6: "fd00::/128".parse().expect("a range") };
    let mut node = Node::with(Capacities::default(), ranges);
    node.apply(&fixed("a", "a.com", "10.0.0.1"));
    node.step();
    assert_eq!(node.failures().len(), 1);
    node.delete("a");
    node.step();
    node.assert_empty();
}
