//! Any tables become any others.

use std::{collections::BTreeSet, net::IpAddr};

use proptest::prelude::*;

use super::*;
use crate::{
    desired::{AddressRange, Backend, Scope, Unlisted},
    model::{HostName, Kind, Namespace, ObjectRef, Transport, WaypointName},
};

fn service_key(n: u8) -> ServiceKey {
    let entry = ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::default(), name: "e".into() };
    ServiceKey { host: HostName::new(&format!("{n}.com")), entry, port: 80 }
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![Just(Scope::Mesh), Just(Scope::Namespace(Namespace::new("one")))]
}

/// Single addresses, and ranges that hold some of them and one another.
pub(crate) fn any_address() -> impl Strategy<Value = AddressRange> {
    let ranges = ["240.240.0.2/31", "240.240.0.0/30", "240.240.0.0/24", "0.0.0.0/0", "::/0", "fd00::/64"];
    prop_oneof![
        2 => (1u8..4).prop_map(|n| IpAddr::from([240, 240, 0, n]).into()),
        1 => prop::sample::select(ranges.to_vec()).prop_map(|range| range.parse().expect("a range")),
    ]
}

fn waypoint_name(n: u8) -> WaypointName {
    WaypointName { namespace: Namespace::default(), name: n.to_string().into() }
}

/// Tables in which every frontend and address has its service, and every service its waypoint.
pub(crate) fn any_tables() -> impl Strategy<Value = Tables> {
    let backends = prop::collection::btree_map((1u8..6, 1u16..3), 1u32..3, 0..4);
    let replicas = prop::collection::btree_set(0u8..4, 0..4);
    let waypoints = prop::collection::btree_map(0u8..3, replicas, 0..3);
    let through = prop::option::weighted(0.4, (any::<prop::sample::Index>(), 20_000u16..20_003));
    let services = prop::collection::btree_map(0u8..5, (backends, through), 0..5);
    let frontends =
        prop::collection::vec((scope(), any_address(), 80u16..83, any::<prop::sample::Index>()), 0..8);
    let addresses = prop::collection::vec(
        (scope(), any_address(), any::<bool>(), any::<Option<prop::sample::Index>>()),
        0..6,
    );
    (waypoints, services, frontends, addresses).prop_map(|(waypoints, services, frontends, addresses)| {
        let mut tables = Tables::default();
        for (n, replicas) in waypoints {
            let address = |n: u8| match n {
                0 => "fd00::9".parse().expect("an address"),
                n => IpAddr::from([10, 9, 0, n]),
            };
            tables.waypoints.insert(waypoint_name(n), replicas.into_iter().map(address).collect());
        }
        let names: Vec<_> = tables.waypoints.keys().cloned().collect();
        for (n, (backends, through)) in services {
            if let Some((waypoint, port)) = through.filter(|_| !names.is_empty()) {
                let led_to = LedTo::Waypoint(waypoint.get(&names).clone(), port);
                tables.services.insert(service_key(n), led_to);
                continue;
            }
            let backends = backends.into_iter().map(|((host, port), weight)| {
                let address = IpAddr::from([10, 0, 0, host]);
                Backend { address, port, weight, source: address.to_string().into() }
            });
            tables.services.insert(service_key(n), LedTo::Backends(backends.collect()));
        }
        let keys: Vec<_> = tables.services.keys().cloned().collect();
        if !keys.is_empty() {
            for (scope, address, port, service) in frontends {
                let frontend = Frontend { scope, address, port, transport: Transport::Tcp };
                tables.frontends.insert(frontend, keys[service.index(keys.len())].clone());
            }
        }
        let used: Vec<_> = tables.frontends.values().cloned().collect();
        for (scope, address, refuse, service) in addresses {
            let unlisted = if refuse { Unlisted::Refuse } else { Unlisted::Pass };
            let sorts_by = service.filter(|_| refuse && !used.is_empty());
            let sorts_by = sorts_by.map(|service| used[service.index(used.len())].clone());
            tables.addresses.insert(Address { scope, address }, AddressRule { unlisted, sorts_by });
        }
        tables
    })
}

proptest! {
    #[test]
    fn applying_the_difference_gives_what_is_desired(actual in any_tables(), desired in any_tables()) {
        let ops = diff(&actual, &desired);
        let mut tables = actual.clone();
        for op in &ops {
            tables.apply(op);
            // At every step each service has its waypoint, each frontend its service, and each address that by which it is sorted.
            let mut waypoints = tables.services.values().filter_map(LedTo::waypoint);
            prop_assert!(waypoints.all(|name| tables.waypoints.contains_key(name)), "after {op:?}");
            let sorted = tables.addresses.values().filter_map(|rule| rule.sorts_by.as_ref());
            let used: BTreeSet<_> = tables.frontends.values().chain(sorted).collect();
            prop_assert!(used.iter().all(|key| tables.services.contains_key(key)), "after {op:?}");
        }
        prop_assert_eq!(&tables, &desired);
        prop_assert!(diff(&desired, &tables).is_empty());

        // No operation is for nothing.
        for op in &ops {
            let mut same = actual.clone();
            same.apply(op);
            prop_assert_ne!(&same, &actual, "{:?}", op);
        }
    }

    #[test]
    fn what_stays_is_never_missing(actual in any_tables(), desired in any_tables()) {
        let mut tables = actual.clone();
        for op in diff(&actual, &desired) {
            tables.apply(&op);
            for frontend in actual.frontends.keys().filter(|f| desired.frontends.contains_key(f)) {
                prop_assert!(tables.frontends.contains_key(frontend));
            }
            // A port is refused only when it was or will be: the address is known before its frontend only if it was.
            for frontend in desired.frontends.keys().filter(|f| !tables.frontends.contains_key(f)) {
                let address = Address { scope: frontend.scope.clone(), address: frontend.address };
                prop_assert_eq!(tables.addresses.get(&address), actual.addresses.get(&address));
            }
        }
    }
}
