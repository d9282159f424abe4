//! What holds for any objects that somebody may write, from the text to the rows.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    model::{Object, validate},
    testing::objects::{NAMESPACES, any_object, entry_spec, metadata, read},
};

/// All that is accepted of `objects`, in the VIPs and rows that follow.
fn build<'a>(objects: impl Iterator<Item = &'a Object>) -> (Snapshot, VipPool, Waypoints, Desired) {
    let mut snapshot = Snapshot::default();
    for object in objects {
        if let Some(accepted) = validate(object).accepted {
            snapshot.apply(accepted);
        }
    }
    let pool = properties::allocate(&snapshot);
    let mut waypoints = properties::waypoints();
    properties::listen(&mut waypoints, &snapshot);
    let (desired, _) = properties::build_all(&snapshot, &pool, &waypoints);
    (snapshot, pool, waypoints, desired)
}

fn rows(snapshot: &Snapshot, vips: &VipPool, waypoints: &Waypoints, desired: &Desired) -> Tables {
    let known = Known { snapshot, resolved: &Resolved::new(), vips, waypoints };
    desired.rows(&properties::keys(desired), |waypoint| replicas(known, waypoint))
}

#[test]
fn most_generated_entries_are_accepted() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut accepted = 0;
    for _ in 0..200 {
        let entry = (metadata(), entry_spec()).new_tree(&mut runner).expect("a tree").current();
        let text = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": entry.0, "spec": entry.1});
        accepted += usize::from(read(&[text]).iter().any(|object| validate(object).accepted.is_some()));
    }
    assert!((60..190).contains(&accepted), "{accepted} of 200");
}

proptest! {
    #[test]
    fn validation_accepts_or_says_why(written in prop::collection::vec(any_object(), 1..4)) {
        for object in read(&written) {
            let judgement = validate(&object);
            prop_assert_eq!(judgement.accepted.is_some(), judgement.errors.is_empty());
            for issue in judgement.errors.iter().chain(&judgement.warnings) {
                prop_assert!(!issue.field.is_empty() && !issue.message.is_empty(), "{:?}", issue);
            }
        }
    }

    #[test]
    fn every_frontend_has_an_outcome_and_every_port_a_mode(written in prop::collection::vec(any_object(), 1..8)) {
        let (snapshot, pool, waypoints, desired) = build(read(&written).iter());
        let rows = rows(&snapshot, &pool, &waypoints, &desired);
        for (frontend, key) in &rows.frontends {
            prop_assert!(rows.services.contains_key(key), "{} leads nowhere", frontend);
            let address = Address { scope: frontend.scope.clone(), address: frontend.address };
            prop_assert!(rows.addresses.contains_key(&address), "the address of {} is not known", frontend);
        }
        for (key, led_to) in &rows.services {
            prop_assert!(led_to.waypoint().is_none_or(|name| rows.waypoints.contains_key(name)));
            let backends = rows.backends_of(key);
            let places: BTreeSet<_> = backends.iter().map(|b| (b.address, b.port)).collect();
            prop_assert_eq!(places.len(), backends.len(), "a backend occurs twice");
            prop_assert!(backends.iter().all(|b| b.weight > 0 && b.port > 0));
        }
        let (answers, leases) = (properties::answers(), Leases::new(DYNAMIC_RANGES, LeaseLimits::default()));
        for namespace in NAMESPACES {
            let known =
                Known { snapshot: &snapshot, resolved: &answers, vips: &pool, waypoints: &waypoints };
            for service in plan(known, &leases, &Namespace::new(namespace)).services {
                let programmed = !service.vips.is_empty();
                let is_said = service.conditions.iter().any(|c| c.reason != "Accepted");
                for port in &service.ports {
                    match port.mode {
                        "balance" | "waypoint" => prop_assert!(programmed || is_said, "{:?}", service),
                        "unsupported" => prop_assert!(is_said, "{:?}", service),
                        "passthrough" => prop_assert!(port.backends.is_empty(), "{:?}", service),
                        other => prop_assert!(false, "{} is no mode", other),
                    }
                }
            }
        }
    }

    #[test]
    fn no_two_visible_hosts_share_an_automatic_address(written in prop::collection::vec(any_object(), 1..8)) {
        let (_, pool, _, desired) = build(read(&written).iter());
        let automatic: BTreeSet<IpAddr> = pool.iter().flat_map(|(_, vips)| vips.iter()).collect();
        for namespace in NAMESPACES {
            let mut users: BTreeMap<IpAddr, &HostName> = BTreeMap::new();
            for (host, wanted) in desired.hosts() {
                let Some(view) = wanted.names.view(&Namespace::new(namespace)) else { continue };
                for vip in view.vips.iter().filter(|vip| automatic.contains(vip)) {
                    let other = users.insert(*vip, host);
                    prop_assert!(other.is_none(), "{} is that of {} and {:?}", vip, host, other);
                }
            }
        }
    }

    #[test]
    fn objects_of_all_kinds_may_come_in_any_order(written in prop::collection::vec(any_object(), 1..8)) {
        let objects = read(&written);
        let (snapshot, pool, waypoints, desired) = build(objects.iter());
        let (other_snapshot, other_pool, other_waypoints, other_desired) = build(objects.iter().rev());
        prop_assert_eq!(pool.iter().collect::<Vec<_>>(), other_pool.iter().collect::<Vec<_>>());
        prop_assert_eq!(
            rows(&snapshot, &pool, &waypoints, &desired),
            rows(&other_snapshot, &other_pool, &other_waypoints, &other_desired)
        );
        prop_assert_eq!(desired.hosts().collect::<Vec<_>>(), other_desired.hosts().collect::<Vec<_>>());
    }
}
