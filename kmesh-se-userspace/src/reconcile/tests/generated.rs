//! What holds after any objects came and went, one by one.

use proptest::prelude::*;

use super::*;
use crate::{
    desired::Desired,
    testing::objects::{any_object, read},
};

/// The rows that follow from what the node knows, built from nothing.
fn from_scratch(node: &Node) -> Tables {
    let at = &node.reconciler;
    let known = Known {
        snapshot: at.snapshot(),
        resolved: at.resolution(),
        vips: at.vips(),
        waypoints: at.waypoints(),
    };
    let (mut desired, mut keys) = (Desired::default(), Keys::default());
    for host in at.snapshot().hosts() {
        keys.extend(desired.set(host, Some(desired::host(known, host))));
    }
    desired.rows(&keys)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_change_touches_is_all_that_it_changes(
        written in prop::collection::vec(any_object(), 1..12),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut node = Node::new();
        let objects = read(&written);
        let removed: Vec<_> = gone.iter().filter(|_| !objects.is_empty()).map(|i| i.get(&objects).object_ref()).collect();
        let applied = objects.iter().map(|object| Event::Apply(object.clone()));
        let hosts = |node: &Node| -> BTreeMap<HostName, crate::desired::Vips> {
            node.reconciler.vips().iter().map(|(host, vips)| (host.clone(), *vips)).collect()
        };
        for event in applied.chain(removed.into_iter().map(Event::Delete)) {
            let before = hosts(&node);
            node.reconciler.event(event);
            if node.reconciler.is_dirty() {
                node.step();
            }
            for name in node.wanted.clone() {
                if matches!(name.as_str(), "x.net" | "b.com") {
                    node.answer(name.as_str(), &["10.2.0.1", "1.2.3.4"]);
                }
            }
            if node.reconciler.is_dirty() {
                node.step();
            }
            let expected = from_scratch(&node);
            prop_assert_eq!(node.reconciler.sink().actual(), &expected);
            for (host, vips) in hosts(&node) {
                prop_assert!(before.get(&host).is_none_or(|had| *had == vips), "the VIP of {} moved", host);
            }
        }
    }
}
