//! Full maps.

use super::*;
use crate::{
    desired::LedTo,
    model::{HostName, Kind, ObjectRef, WaypointName},
};

/// Service `n` with `backends` of its own, one frontend and one address.
fn rows(n: u8, backends: u8) -> Tables {
    rows_at(IpAddr::from([240, 240, 0, n]).into(), n, backends)
}

/// The same at an address or range.
fn rows_at(address: AddressRange, n: u8, backends: u8) -> Tables {
    let entry = ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::default(), name: "e".into() };
    let key = ServiceKey { host: HostName::new(&format!("{n}.com")), entry, port: 80 };
    let frontend = Frontend { scope: Scope::Mesh, address, port: 80, transport: Transport::Tcp };
    let backends = (0..backends).map(|b| Backend {
        address: IpAddr::from([10, 0, n, b]),
        port: 80,
        weight: 1,
        source: "".into(),
    });
    let rule = |key: &ServiceKey| AddressRule { unlisted: Unlisted::Refuse, sorts_by: Some(key.clone()) };
    Tables {
        services: [(key.clone(), LedTo::Backends(backends.collect()))].into(),
        waypoints: [].into(),
        addresses: [(Address { scope: Scope::Mesh, address }, rule(&key))].into(),
        frontends: [(frontend, key)].into(),
    }
}

fn all(tables: impl IntoIterator<Item = Tables>) -> Tables {
    let mut sum = Tables::default();
    for one in tables {
        sum.services.extend(one.services);
        sum.waypoints.extend(one.waypoints);
        sum.frontends.extend(one.frontends);
        sum.addresses.extend(one.addresses);
    }
    sum
}

#[test]
fn what_does_not_fit_is_told_and_fits_when_others_go() {
    let full = |map, capacity, flag| MapError::Full { map, capacity, flag };
    for (capacities, errors) in [
        (Capacities { frontends: 2, ..roomy() }, vec![full("kmse_frontend", 2, "frontends")]),
        (Capacities { addresses: 2, ..roomy() }, vec![full("kmse_address", 2, "addresses")]),
        (
            Capacities { services: 2, ..roomy() },
            vec![full("kmse_service", 2, "services"), MapError::NoService, MapError::NoService],
        ),
        (
            Capacities { slots: 5, ..roomy() },
            vec![full("kmse_slot", 5, "slots"), MapError::NoService, MapError::NoService],
        ),
        (
            Capacities { backends: 5, ..roomy() },
            vec![full("kmse_backend", 5, "backends"), MapError::NoService, MapError::NoService],
        ),
    ] {
        let mut sink = Sink::new(MemoryMaps::new(capacities), capacities);
        sink.enrol(1, in_namespace("one")).expect("there is room");
        let met = |sink: &Sink<MemoryMaps>, n| sink.maps.connect(1, IpAddr::from([240, 240, 0, n]), 80, TCP);
        let tables = all([rows(1, 2), rows(2, 2), rows(3, 2)]);
        let failures = sink.apply(diff(&sink.actual, &tables));
        assert_eq!(failures.into_iter().map(|f| f.error).collect::<Vec<_>>(), errors);
        assert!(
            matches!(met(&sink, 1), Outcome::Backends(_)) && matches!(met(&sink, 2), Outcome::Backends(_))
        );

        // The one that goes makes room in the same step.
        let tables = all([rows(2, 2), rows(3, 2)]);
        assert_eq!(sink.apply(diff(&sink.actual, &tables)), [], "{errors:?}");
        assert!(
            matches!(met(&sink, 2), Outcome::Backends(_)) && matches!(met(&sink, 3), Outcome::Backends(_))
        );
        assert_eq!(met(&sink, 1), Outcome::Passes);
    }
}

#[test]
fn a_range_that_does_not_fit_is_told_and_the_others_stay() {
    let capacities = Capacities { cidrs: 2, ..roomy() };
    let mut sink = Sink::new(MemoryMaps::new(capacities), capacities);
    sink.enrol(1, in_namespace("one")).expect("there is room");
    let range = |n: u8| rows_at(format!("10.{n}.0.0/16").parse().expect("a range"), n, 1);
    let failures = sink.apply(diff(&sink.actual, &all([range(1), range(2), range(3), rows(4, 1)])));
    let [Failure { error, .. }] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!(
        error.to_string(),
        "map kmse_cidr is full (2 elements): start the agent with a larger --max-cidrs"
    );
    let used = |sink: &Sink<MemoryMaps>, map| {
        sink.usage().iter().find(|u| u.name == map).map(|u| (u.used, u.capacity))
    };
    assert_eq!((used(&sink, "kmse_cidr"), used(&sink, "kmse_address")), (Some((2, 2)), Some((1, 64))));
    let met = |sink: &Sink<MemoryMaps>, n| sink.maps.connect(1, IpAddr::from([10, n, 7, 7]), 80, TCP);
    assert!(matches!((met(&sink, 2), met(&sink, 3)), (Outcome::Backends(_), Outcome::Passes)));
    assert_eq!(sink.apply(diff(&sink.actual, &all([range(2), range(3)]))), []);
    assert!(matches!((met(&sink, 1), met(&sink, 3)), (Outcome::Passes, Outcome::Backends(_))));
}

#[test]
fn a_change_that_does_not_fit_leaves_the_service_as_it_was() {
    let capacities = Capacities { slots: 4, ..roomy() };
    let mut sink = Sink::new(MemoryMaps::new(capacities), capacities);
    sink.enrol(1, in_namespace("one")).expect("there is room");
    assert_eq!(sink.apply(diff(&sink.actual, &rows(1, 3))), []);
    let before = sink.usage();
    let failures = sink.apply(diff(&sink.actual, &rows(1, 2)));
    assert_eq!(failures.len(), 1, "a change needs room for the old and the new run");
    assert_eq!(sink.actual, rows(1, 3));
    assert_eq!(sink.usage(), before);
    let Outcome::Backends(found) = sink.maps.connect(1, IpAddr::from([240, 240, 0, 1]), 80, TCP) else {
        panic!("it still works");
    };
    assert_eq!(found.len(), 3);
}

#[test]
fn services_share_their_backends() {
    let mut sink = Sink::new(MemoryMaps::new(roomy()), roomy());
    let (one, mut two) = (rows(1, 3), rows(2, 0));
    let shared = one.services.values().next().cloned().expect("a service");
    two.services.values_mut().for_each(|led_to| led_to.clone_from(&shared));
    assert_eq!(sink.apply(diff(&sink.actual, &all([one.clone(), two]))), []);
    let used = |sink: &Sink<MemoryMaps>, map| sink.usage().iter().find(|u| u.name == map).map(|u| u.used);
    assert_eq!((used(&sink, "kmse_backend"), used(&sink, "kmse_slot")), (Some(3), Some(6)));
    assert_eq!(sink.apply(diff(&sink.actual, &one)), []);
    assert_eq!((used(&sink, "kmse_backend"), used(&sink, "kmse_slot")), (Some(3), Some(3)));
}

#[test]
fn a_step_waits_for_readers_a_few_times_and_not_for_every_row() {
    let mut sink = Sink::new(MemoryMaps::new(Capacities::default()), Capacities::default());
    let many = |backends| all((0..200).map(|n| rows(n, backends)));
    assert_eq!(sink.apply(diff(&sink.actual, &many(2))), []);
    assert_eq!(sink.maps.waits, 0, "nothing is freed");
    assert_eq!(sink.apply(diff(&sink.actual, &many(3))), []);
    assert_eq!(sink.maps.waits, 1);
    assert_eq!(sink.apply(diff(&sink.actual, &Tables::default())), []);
    assert_eq!(sink.maps.waits, 2);
}

/// `count` services that are led to ports of one waypoint, and the waypoint with these replicas.
fn bound(count: u8, replicas: &[u8]) -> Tables {
    let name = WaypointName { namespace: Namespace::default(), name: "way".into() };
    let mut tables = all((0..count).map(|n| rows(n, 0)));
    for (key, port) in tables.services.keys().cloned().collect::<Vec<_>>().into_iter().zip(20_000..) {
        tables.services.insert(key, LedTo::Waypoint(name.clone(), port));
    }
    tables.waypoints.insert(name, replicas.iter().map(|n| IpAddr::from([10, 9, 9, *n])).collect());
    tables
}

#[test]
fn services_share_the_slots_of_their_waypoint() {
    let mut sink = Sink::new(MemoryMaps::new(roomy()), roomy());
    sink.enrol(1, in_namespace("one")).expect("there is room");
    let used = |sink: &Sink<MemoryMaps>, map| sink.usage().iter().find(|u| u.name == map).map(|u| u.used);
    let met = |sink: &Sink<MemoryMaps>, n| sink.maps.connect(1, IpAddr::from([240, 240, 0, n]), 80, TCP);
    let at = |replicas: &[u8], port| {
        Outcome::Backends(replicas.iter().map(|n| (IpAddr::from([10, 9, 9, *n]), port)).collect())
    };
    assert_eq!(sink.apply(diff(&sink.actual, &bound(9, &[1, 2]))), []);
    assert_eq!((used(&sink, "kmse_slot"), used(&sink, "kmse_backend")), (Some(2), Some(2)));
    assert_eq!(used(&sink, "kmse_service"), Some(10), "the waypoint counts as one");
    assert_eq!((met(&sink, 0), met(&sink, 8)), (at(&[1, 2], 20_000), at(&[1, 2], 20_008)));

    let words = |sink: &Sink<MemoryMaps>| sink.maps.contents().expect("memory does not fail").services;
    let before = words(&sink);
    assert_eq!(sink.apply(diff(&sink.actual, &bound(9, &[2, 3, 4]))), []);
    assert_eq!(met(&sink, 8), at(&[2, 3, 4], 20_008));
    let after = words(&sink);
    assert_eq!(before.iter().filter(|(id, word)| after.get(id) != Some(word)).count(), 1);

    assert_eq!(sink.apply(diff(&sink.actual, &bound(9, &[]))), []);
    assert_eq!(met(&sink, 8), Outcome::NoBackend);
    assert_eq!(sink.apply(diff(&sink.actual, &Tables::default())), []);
    assert_eq!((used(&sink, "kmse_slot"), used(&sink, "kmse_service")), (Some(0), Some(0)));
}

#[test]
fn services_wait_for_a_waypoint_that_does_not_fit() {
    let capacities = Capacities { slots: 2, ..roomy() };
    let mut sink = Sink::new(MemoryMaps::new(capacities), capacities);
    let failures = sink.apply(diff(&sink.actual, &bound(1, &[1, 2, 3])));
    let reasons: Vec<_> = failures.iter().map(|failure| failure.error.reason()).collect();
    assert_eq!(reasons, ["MapFull", "WaypointNotWritten", "ServiceNotWritten", "ServiceNotWritten"]);
    assert_eq!(sink.apply(diff(&sink.actual, &bound(1, &[1, 2]))), []);
}
