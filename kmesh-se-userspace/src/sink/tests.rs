//! What clients meet while and after the maps change.

mod capacity;
mod enrolment;
mod recorder;
mod restore;

use std::{collections::BTreeSet, net::IpAddr};

use proptest::prelude::*;

use self::recorder::Recorder;
use super::{
    memory::{MemoryMaps, Outcome},
    *,
};
use crate::{
    desired::{Address, AddressRange, AddressRule, Backend, Frontend, Scope, Unlisted},
    diff::{diff, tests::any_tables},
    model::Transport,
};

const TCP: u8 = 6;
const UDP: u8 = 17;

fn roomy() -> Capacities {
    Capacities {
        workloads: 16,
        frontends: 64,
        addresses: 64,
        cidrs: 64,
        services: 16,
        slots: 64,
        backends: 64,
        connections: 1,
    }
}

fn in_namespace(name: &str) -> Enrolment {
    Enrolment { level: 2, namespace: Some(Namespace::new(name)), dns_port: 1053 }
}

/// Where a client of `namespace` looks for an address, in this order.
fn places(namespace: &str, address: IpAddr) -> impl Iterator<Item = Address> {
    let scopes = [Scope::Namespace(Namespace::new(namespace)), Scope::Mesh];
    AddressRange::around(address)
        .flat_map(move |address| scopes.clone().map(move |scope| Address { scope, address }))
}

/// What `tables` say that a client of `namespace` meets.
fn expected(tables: &Tables, namespace: &str, address: IpAddr, port: u16) -> Outcome {
    let is_v4 = address.is_ipv4();
    for place in places(namespace, address) {
        let unlisted = tables.addresses.get(&place).map(|rule| rule.unlisted);
        // A range is found by its own row alone.
        let is_found = place.address.single().is_some() || unlisted.is_some();
        let Address { scope, address } = place;
        let frontend = Frontend { scope, address, port, transport: Transport::Tcp };
        if let Some(key) = tables.frontends.get(&frontend).filter(|_| is_found) {
            let listed = tables.backends_of(key);
            // Those of the family that is dialled, else those of the other.
            let is_same = |b: &&Backend| b.address.is_ipv4() == is_v4;
            let has_same = listed.iter().any(|b| is_same(&b));
            let backends = listed.iter().filter(|b| !has_same || is_same(b));
            let backends: BTreeSet<_> = backends.map(|b| (b.address, b.port)).collect();
            return if backends.is_empty() { Outcome::NoBackend } else { Outcome::Backends(backends) };
        }
        match unlisted {
            Some(Unlisted::Refuse) => return Outcome::Refused,
            Some(Unlisted::Pass) => return Outcome::Passes,
            None => {}
        }
    }
    Outcome::Passes
}

/// What `tables` say that a client of `namespace` meets who connects a datagram socket.
fn expected_to_sort(tables: &Tables, namespace: &str, address: IpAddr) -> Outcome {
    let mut rules = places(namespace, address).filter_map(|place| tables.addresses.get(&place));
    match rules.next() {
        Some(AddressRule { unlisted: Unlisted::Refuse, sorts_by }) => {
            let backends = sorts_by.iter().flat_map(|key| tables.backends_of(key).into_owned());
            let same = |backend: &IpAddr| backend.is_ipv4() == address.is_ipv4();
            let family: BTreeSet<_> = backends.map(|b| b.address).filter(same).collect();
            if family.is_empty() { Outcome::NoBackend } else { Outcome::Sorts(family) }
        }
        _ => Outcome::Passes,
    }
}

/// Every client and every address and port of [`any_tables`].
fn assert_clients_meet(maps: &MemoryMaps, tables: &Tables) -> Result<(), TestCaseError> {
    for (cgroup, namespace) in [(1, "one"), (2, "two")] {
        let fours = (0u8..6).map(|host| IpAddr::from([240, 240, 0, host]));
        let addresses: Vec<IpAddr> =
            fours.chain(["9.9.9.9", "fd00::1", "fd01::1"].map(|a| a.parse().expect("an address"))).collect();
        for (address, port) in addresses.into_iter().flat_map(|a| (80u16..84).map(move |port| (a, port))) {
            let met = maps.connect(cgroup, address, port, TCP);
            prop_assert_eq!(
                met,
                expected(tables, namespace, address, port),
                "{} {}:{}",
                namespace,
                address,
                port
            );
            let met = maps.connect(cgroup, address, port, UDP);
            prop_assert_eq!(met, expected_to_sort(tables, namespace, address), "{} {}", namespace, address);
        }
    }
    Ok(())
}

fn assert_all_free<M: Maps>(sink: &Sink<M>) -> Result<(), TestCaseError> {
    for usage in sink.usage().iter().filter(|u| u.name != kmesh_se_common::limits::MAP_ENROL) {
        prop_assert_eq!(usage.used, 0, "{} still holds something", usage.name);
    }
    Ok(())
}

proptest! {
    #[test]
    fn clients_meet_what_the_tables_say(states in prop::collection::vec(any_tables(), 1..8)) {
        let mut sink = Sink::new(Recorder::new(roomy()), roomy());
        sink.enrol(1, in_namespace("one")).expect("there is room");
        sink.enrol(2, in_namespace("two")).expect("there is room");
        for tables in states.iter().chain([&Tables::default()]) {
            sink.maps.allow(&[sink.actual.clone(), tables.clone()]);
            let failures = sink.apply(diff(&sink.actual, tables));
            prop_assert_eq!(failures, []);
            prop_assert_eq!(&sink.actual, tables);
            assert_clients_meet(&sink.maps.memory, tables)?;
            prop_assert_eq!(&sink.maps.wrong, &Vec::<String>::new());
        }
        assert_all_free(&sink)?;
    }

    #[test]
    fn a_write_that_fails_harms_nobody_and_can_be_made_good(
        states in prop::collection::vec((any_tables(), prop::collection::btree_set(0u32..60, 0..6)), 1..6),
    ) {
        let mut sink = Sink::new(Recorder::new(roomy()), roomy());
        sink.enrol(1, in_namespace("one")).expect("there is room");
        sink.enrol(2, in_namespace("two")).expect("there is room");
        let nothing = (Tables::default(), [3].into());
        for (tables, fail_at) in states.iter().chain([&nothing]) {
            sink.maps.allow(&[sink.actual.clone(), tables.clone()]);
            sink.maps.fail_at(fail_at);
            let ops = diff(&sink.actual, tables);
            let mut done = sink.actual.clone();
            let failures = sink.apply(ops.clone());
            ops.iter().filter(|op| failures.iter().all(|f| f.op != **op)).for_each(|op| done.apply(op));
            prop_assert_eq!(&sink.actual, &done, "a failed operation leaves its row as it was");
            assert_clients_meet(&sink.maps.memory, &done)?;

            sink.maps.fail_at(&[].into());
            prop_assert_eq!(sink.apply(diff(&sink.actual, tables)), []);
            prop_assert_eq!(&sink.actual, tables);
            assert_clients_meet(&sink.maps.memory, tables)?;
            prop_assert_eq!(&sink.maps.wrong, &Vec::<String>::new());
        }
        sink.settle().expect("nothing fails any more");
        assert_all_free(&sink)?;
    }

    #[test]
    fn little_room_is_used_well(states in prop::collection::vec(any_tables(), 1..8)) {
        let tight = Capacities { workloads: 2, frontends: 4, addresses: 3, cidrs: 2, services: 3, slots: 5, backends: 4, connections: 1 };
        let mut sink = Sink::new(Recorder::new(tight), tight);
        sink.enrol(1, in_namespace("one")).expect("there is room");
        sink.enrol(2, in_namespace("two")).expect("there is room");
        for tables in states.iter().chain([&Tables::default()]) {
            sink.maps.allow(&[sink.actual.clone(), tables.clone()]);
            for failure in sink.apply(diff(&sink.actual, tables)) {
                let reason = failure.error.reason();
                let expected = ["MapFull", "WaypointNotWritten", "ServiceNotWritten", "ServiceStillUsed"];
                prop_assert!(expected.contains(&reason), "{}", reason);
            }
            assert_clients_meet(&sink.maps.memory, &sink.actual)?;
            prop_assert_eq!(&sink.maps.wrong, &Vec::<String>::new());
        }
        prop_assert_eq!(&sink.actual, &Tables::default());
        assert_all_free(&sink)?;
    }
}
