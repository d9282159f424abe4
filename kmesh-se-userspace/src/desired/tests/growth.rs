//! How the work grows with entries that have something in common.

use super::*;
use crate::{
    desired::{LeaseLimits, Leases},
    model::LOOKED_AT,
};

/// The entry of a number.
type Shape = fn(u16) -> Entry;

/// How many entries are looked at to build and plan `count` entries of this shape.
fn work(count: u16, shape: Shape) -> u64 {
    let before = LOOKED_AT.get();
    let snapshot = snapshot((0..count).map(shape));
    let (resolved, vips) = (Resolved::new(), VipPool::new(VipRanges::default()));
    let known = Known { snapshot: &snapshot, resolved: &resolved, vips: &vips, waypoints: &NO_WAYPOINTS };
    let mut desired = Desired::default();
    for host in snapshot.hosts() {
        desired.set(host, Some(super::super::host(known, host)));
    }
    let leases = Leases::new(VipRanges::default(), LeaseLimits::default());
    let plan = plan(known, &leases, &Namespace::new("n0"));
    assert_eq!(plan.services.len(), usize::from(count));
    LOOKED_AT.get() - before
}

#[test]
fn work_grows_with_the_number_of_entries_and_not_with_its_square() {
    let of_one_host = |n: u16| {
        with(entry(&format!("n0/e{n}"), n.into(), "one.com"), |e| {
            e.addresses = vec!["10.9.9.9/32".parse().expect("an address")];
            e.ports = vec![port(n + 1, "http")];
        })
    };
    let in_many_namespaces = |n: u16| entry(&format!("n{n}/e"), n.into(), "one.com");
    let at_one_address = |n: u16| {
        with(entry(&format!("n0/e{n}"), n.into(), &format!("h{n}.com")), |e| {
            e.addresses = vec!["10.9.9.9/32".parse().expect("an address")];
            e.ports = vec![port(n + 1, "http")];
        })
    };
    let shapes: [(&str, Shape); 3] =
        [("one host", of_one_host), ("many namespaces", in_many_namespaces), ("one address", at_one_address)];
    for (what, shape) in shapes {
        let (few, many) = (work(100, shape), work(400, shape));
        assert!(few >= 100 && many <= few * 5, "{what}: {few} looks for 100 entries, {many} for 400");
    }
}
