//! What one change does, and what it leaves alone.

use super::*;

fn hosts<const N: usize>(names: [&str; N]) -> BTreeSet<HostName> {
    names.into_iter().map(HostName::new).collect()
}

#[test]
fn an_update_with_the_same_content_is_nothing() {
    let mut node = Node::new();
    node.apply(&fixed("a", "a.com", "10.0.0.1"));
    node.step();
    node.apply(&fixed("a", "a.com", "10.0.0.1"));
    assert!(!node.reconciler.is_dirty());
    assert_eq!(node.reconciler.report().revision, 1);
}

#[test]
fn one_entry_of_a_thousand_writes_its_own_rows_only() {
    let mut node = Node::new();
    for n in 0..1000 {
        node.apply(&fixed(&format!("e{n}"), &format!("h{n}.com"), "10.0.0.1"));
    }
    node.step();
    assert_eq!(node.reconciler.sink().actual().frontends.len(), 2000);
    let before = node.reconciler.sink().actual().clone();
    let waits = node.reconciler.sink().maps().waits;

    node.apply(&fixed("e500", "h500.com", "10.0.0.2"));
    let effects = node.effects();
    assert_eq!(effects, Effects { hosts: hosts(["h500.com"]), ..Effects::default() });
    let ops = diff(&before, node.reconciler.sink().actual());
    assert!(
        matches!(&ops[..], [MapOp::SetService(key, _)] if key.host == HostName::new("h500.com")),
        "{ops:?}"
    );
    assert_eq!(node.reconciler.sink().maps().waits, waits + 1);
}

#[test]
fn an_entry_that_becomes_invalid_is_withdrawn_and_told_while_others_stay() {
    let mut node = Node::new();
    node.apply(&fixed("a", "a.com", "10.0.0.1"));
    node.apply(&fixed("b", "b.com", "10.0.0.2"));
    node.step();
    node.apply(&fixed("a", "a.com", "not-an-address"));
    node.step();
    assert_eq!(
        node.frontends(),
        ["* 240.240.0.2:80 TCP -> 10.0.0.2:80", "* [2001:2::2]:80 TCP -> 10.0.0.2:80"]
    );
    assert!(node.query("default", "a.com").is_empty());
    let told: Vec<_> = node.reconciler.report().objects().collect();
    assert!(matches!(told[..], [(object, said)] if &*object.name == "a" && !said.errors.is_empty()));
    node.delete("a");
    node.delete("b");
    node.step();
    node.assert_empty();
}

#[test]
fn a_name_is_published_with_its_first_answers_and_stays_ours() {
    let mut node = Node::new();
    node.apply(&named("a", "a.com", "x.net, y.net"));
    assert_eq!(node.effects().want, hosts(["x.net", "y.net"]));
    assert!(node.query("default", "a.com").is_empty(), "nothing is known yet");
    node.answer("y.net", &["10.0.0.1"]);
    node.step();
    assert!(matches!(node.look_up("default", "a.com"), Found::OnDemand { so_far: Some(_), .. }));
    node.answer("x.net", &[]);
    node.step();
    assert_eq!(node.query("default", "a.com"), ["240.240.0.1"]);

    // The endpoint changes: a client waits while the new one is asked, and is not sent past the entry.
    node.apply(&named("a", "a.com", "z.net"));
    let effects = node.effects();
    assert_eq!((effects.want, effects.unwant), (hosts(["z.net"]), hosts(["x.net", "y.net"])));
    assert!(matches!(node.look_up("default", "a.com"), Found::OnDemand { so_far: None, .. }));
    node.answer("z.net", &["fd00::1"]);
    node.step();
    assert_eq!(node.query("default", "a.com"), ["2001:2::1"]);
}

#[test]
fn a_view_that_needs_no_answer_does_not_wait_for_another() {
    let mut node = Node::new();
    node.apply(&named("a", "a.com", "x.net"));
    node.apply(&fixed("b", "a.com", "10.0.0.1").replace("{name: b}", "{name: b, namespace: two}"));
    node.step();
    assert_eq!(node.query("two", "a.com"), ["240.240.0.1"]);
    assert!(node.query("default", "a.com").is_empty());
    node.answer("x.net", &["10.0.0.2"]);
    node.step();
    assert_eq!(node.query("default", "a.com"), ["240.240.0.1"]);
}

#[test]
fn a_name_that_does_not_exist_is_published_without_backends() {
    let mut node = Node::new();
    node.apply(&named("a", "a.com", "x.net"));
    node.step();
    node.answer("x.net", &[]);
    node.step();
    assert_eq!(node.query("default", "a.com"), ["240.240.0.1"]);
    assert_eq!(node.frontends(), ["* 240.240.0.1:80 TCP ->", "* [2001:2::1]:80 TCP ->"]);
}

#[test]
fn an_answer_that_nobody_waits_for_is_dropped() {
    let mut node = Node::new();
    node.apply(&named("a", "a.com", "x.net"));
    node.step();
    node.delete("a");
    node.step();
    node.answer("x.net", &["10.0.0.1"]);
    assert!(!node.reconciler.is_dirty());
    node.assert_empty();
}

#[test]
fn the_same_answer_again_is_nothing() {
    let mut node = Node::new();
    node.apply(&named("a", "a.com", "x.net"));
    node.step();
    node.answer("x.net", &["10.0.0.1"]);
    node.step();
    node.answer("x.net", &["10.0.0.1"]);
    assert!(!node.reconciler.is_dirty());
}

#[test]
fn a_shared_name_is_wanted_once_until_the_last_host_goes() {
    let mut node = Node::new();
    node.apply(&named("a", "a.com", "x.net"));
    assert_eq!(node.effects().want, hosts(["x.net"]));
    node.apply(&named("b", "b.com", "x.net"));
    let effects = node.effects();
    assert!(effects.want.is_empty() && effects.unwant.is_empty());
    node.delete("a");
    let effects = node.effects();
    assert!(effects.want.is_empty() && effects.unwant.is_empty());
    node.delete("b");
    assert_eq!(node.effects().unwant, hosts(["x.net"]));
}

#[test]
fn a_name_that_passes_from_host_to_host_keeps_its_answer() {
    for (from, to) in [("a.com", "b.com"), ("b.com", "a.com")] {
        let mut node = Node::new();
        node.apply(&named("e", from, "x.net"));
        node.step();
        node.answer("x.net", &["10.0.0.1"]);
        node.step();
        node.apply(&named("e", to, "x.net"));
        let effects = node.effects();
        assert!(effects.want.is_empty() && effects.unwant.is_empty(), "{effects:?}");
        assert!(
            node.frontends().iter().all(|line| line.ends_with("-> 10.0.0.1:80")),
            "{:?}",
            node.frontends()
        );
        assert_eq!((node.query("default", from).len(), node.query("default", to).len()), (0, 1));
    }
}

#[test]
fn addresses_of_hosts_that_are_gone_are_released_once_the_source_has_told_all() {
    let mut vips = VipPool::new(VipRanges::default());
    for host in ["a.com", "gone.com"] {
        vips.ensure(&HostName::new(host), Timestamp::UNIX_EPOCH, |_| false).expect("there is room");
    }
    let mut node = Node::new();
    node.reconciler.vips = vips;
    node.apply(&fixed("a", "a.com", "10.0.0.1"));
    assert!(!node.effects().must_save, "it has its address of old");
    assert!(node.reconciler.release_unused_vips(node.now));
    assert_eq!(node.reconciler.vips().iter().count(), 1);
    assert!(!node.reconciler.release_unused_vips(node.now));
}
