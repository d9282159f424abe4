//! What entries are told of themselves.

use super::*;

fn bad(hosts: &[&str]) -> Value {
    let mut bad = spec(hosts);
    bad["ports"][0]["number"] = json!(70_000);
    bad["endpoints"] = json!([{"address": "no address"}]);
    bad
}

#[test]
fn a_first_write_has_addresses_and_conditions_and_there_is_no_second() {
    let mut world = usual();
    for number in 0..50 {
        world.hosts(&format!("e{number}"), &[&format!("h{number}.test")]);
    }
    world.apply("bad", bad(&["bad.test"]));
    assert_eq!(world.run_all(), (50, 1));
    assert_eq!(world.conditions("e7"), ["Accepted True Accepted"]);
    world.restart();
    world.allocation.look_again();
    assert_eq!(world.run_all(), (0, 0));
}

#[test]
fn a_rejected_entry_is_told_every_error_and_keeps_the_rest_of_its_status() {
    let mut world = usual();
    world.hosts("a", &["a.test"]);
    let others = json!({"type": "istio.io/WaypointBound", "status": "True", "others": 7});
    world.status("a", json!({"conditions": [others], "others": 1}), "somebody");
    world.run();
    assert_eq!(world.conditions("a"), ["istio.io/WaypointBound True ", "Accepted True Accepted"]);
    let addresses = world.addresses("a");
    world.now += 100;
    world.apply("a", bad(&["a.test"]));
    assert_eq!(world.run_all(), (0, 1));
    assert_eq!(world.conditions("a"), ["istio.io/WaypointBound True ", "Accepted False PortOutOfRange"]);
    let message = world.message("a", "Accepted");
    assert!(
        message.contains("spec.ports[0].number: ") && message.contains("spec.endpoints[0].address: "),
        "{message}"
    );
    let status = &world.objects["a"]["status"];
    assert_eq!((&status["conditions"][0], &status["others"]), (&others, &json!(1)));
    assert_eq!(world.addresses("a"), addresses);
    assert_eq!(status["conditions"][1]["observedGeneration"], world.objects["a"]["metadata"]["generation"]);
    assert_eq!(world.told.len(), 1);
    // The same is not told again, by nobody; of another spec it is.
    world.restart();
    assert_eq!((world.run_all(), world.told.len()), ((0, 0), 1));
    let since = world.objects["a"]["status"]["conditions"][1]["lastTransitionTime"].clone();
    world.now += 100;
    world.apply("a", bad(&["other.test"]));
    assert_eq!((world.run_all(), world.told.len()), ((0, 1), 2));
    assert_eq!(world.objects["a"]["status"]["conditions"][1]["lastTransitionTime"], since);
    // Put right.
    world.hosts("a", &["a.test"]);
    assert_eq!((world.run_all(), world.told.len()), ((0, 1), 2));
    assert_eq!(world.conditions("a"), ["istio.io/WaypointBound True ", "Accepted True Accepted"]);
    assert_ne!(world.objects["a"]["status"]["conditions"][1]["lastTransitionTime"], since);
}

#[test]
fn who_loses_a_host_is_told_to_whom_until_it_is_free() {
    let mut world = usual();
    world.hosts("old", &["a.test"]);
    world.hosts("young", &["a.test"]);
    world.run();
    assert_eq!(world.conditions("old"), ["Accepted True Accepted"]);
    assert_eq!(world.conditions("young"), ["Accepted True Accepted", "Shadowed True OlderEntryWins"]);
    assert_eq!(
        world.message("young", "Shadowed"),
        "clients of namespace default and other namespaces get a.test, port 80 from ServiceEntry default/old, which is older"
    );
    assert_eq!(world.told.len(), 1);
    world.delete("old");
    assert_eq!(world.run_all(), (0, 1));
    assert_eq!(world.conditions("young"), ["Accepted True Accepted"]);
}

#[test]
fn a_service_of_the_cluster_wins_when_it_comes() {
    let mut world = usual();
    world.hosts("a", &["web.default.svc.cluster.local"]);
    world.run();
    let service =
        json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.0.0.7"}});
    let Ok((service, _)) = read_object(Kind::Service, "v1", service) else { panic!("a Service") };
    world.allocation.apply_other(&service, world.now());
    assert_eq!(world.run_all(), (0, 1));
    assert!(world.message("a", "Shadowed").contains("Service default/web"), "{:?}", world.objects["a"]);
    world.allocation.delete(&service.object_ref(), world.now());
    assert_eq!(world.run_all(), (0, 1));
    assert_eq!(world.conditions("a"), ["Accepted True Accepted"]);
}

#[test]
fn ranges_that_are_used_up_are_told_of_one_family_too() {
    let mut world = World::new("10.0.0.0/30", "fd00::/126");
    for name in ["a", "b", "c", "d"] {
        world.hosts(name, &[&format!("{name}.test")]);
    }
    world.run();
    assert_eq!(world.conditions("b"), ["Accepted True Accepted"]);
    assert_eq!(world.conditions("c"), ["Accepted True Accepted", "AddressExhausted True Ipv4RangeExhausted"]);
    assert_eq!(world.conditions("d"), ["Accepted True Accepted", "AddressExhausted True RangesExhausted"]);
    assert!(world.message("d", "AddressExhausted").contains("10.0.0.0/30 and fd00::/126 are used up"));
    assert_eq!(world.told.len(), 2);
    world.delete("a");
    world.now += 61;
    // Both get what is free again, by their age.
    assert_eq!(world.run_all(), (2, 0));
    assert_eq!(world.conditions("c"), ["Accepted True Accepted"]);
    assert_eq!(world.conditions("d"), ["Accepted True Accepted", "AddressExhausted True Ipv4RangeExhausted"]);
}

#[test]
fn who_writes_an_address_that_an_older_entry_has_is_told() {
    let mut world = usual();
    let own = |hosts: &[&str], address: &str| {
        let mut own = spec(hosts);
        own["addresses"] = json!([address]);
        own
    };
    world.apply("old", own(&["old.test"], "192.0.2.1"));
    world.apply("young", own(&["young.test"], "192.0.2.1"));
    world.hosts("given", &["given.test"]);
    world.run();
    assert_eq!(world.conditions("old"), ["Accepted True Accepted"]);
    let conflict = ["Accepted True Accepted", "AddressConflict True OlderEntryHasAddress"];
    assert_eq!(world.conditions("young"), conflict);
    assert_eq!(
        world.message("young", "AddressConflict"),
        "clients get port 80 of 192.0.2.1 from old.test of ServiceEntry default/old, which is older"
    );
    // One that was allocated to an older entry.
    world.apply("late", own(&["late.test"], "240.240.0.1"));
    world.run();
    assert_eq!(world.conditions("late"), conflict);
    // Another port is no conflict.
    let mut other = own(&["young.test"], "192.0.2.1");
    other["ports"][0]["number"] = json!(81);
    world.apply("young", other);
    world.run();
    assert_eq!(world.conditions("young"), ["Accepted True Accepted"]);
}

#[test]
fn where_others_allocate_a_host_is_pending_until_they_have() {
    let mut world = usual();
    world.allocation.leave(Some(Left::ToIstio));
    world.hosts("a", &["a.test"]);
    assert_eq!(world.run_all(), (0, 1));
    assert_eq!(world.conditions("a"), ["Accepted True Accepted", "AddressPending True NotAllocated"]);
    let mut status = world.objects["a"]["status"].clone();
    status["addresses"] = json!([{"value": "240.240.0.1", "host": "a.test"}]);
    world.status("a", status, ISTIO);
    assert_eq!(world.run_all(), (0, 1));
    assert_eq!(world.conditions("a"), ["Accepted True Accepted"]);
    assert_eq!(world.addresses("a"), "a.test=240.240.0.1");
}

#[test]
fn a_write_of_addresses_that_was_refused_is_tried_without_conditions() {
    let mut world = usual();
    world.hosts("a", &["a.test"]);
    world.allocation.allocate(world.now());
    let object = world.allocation.known.keys().next().expect("one").clone();
    let paths = |is_refused| {
        let write = world.allocation.write(&object, is_refused, world.now()).expect("a write");
        let patch = serde_json::to_value(&write.patch).expect("JSON");
        patch.as_array().into_iter().flatten().last().map(|last| last["value"].clone()).unwrap_or_default()
    };
    assert!(paths(false)["conditions"].is_array() && paths(false)["addresses"].is_array());
    assert!(paths(true)["conditions"].is_null() && paths(true)["addresses"].is_array());
}

#[test]
fn conditions_that_others_take_away_come_back_and_theirs_stay() {
    let mut world = usual();
    world.hosts("old", &["a.test"]);
    world.hosts("a", &["a.test"]);
    world.run();
    let before = world.conditions("a");
    let mut status = world.objects["a"]["status"].clone();
    status["conditions"] = json!([{"type": "Others", "status": "False"}]);
    world.status("a", status, "");
    assert_eq!(world.run_all(), (0, 1));
    let mut wanted = vec!["Others False ".to_owned()];
    wanted.extend(before);
    assert_eq!(world.conditions("a"), wanted);
}
