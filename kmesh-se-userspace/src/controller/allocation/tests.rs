//! The allocation, with a stand-in for the API server that applies its patches.

use json_patch::Patch;
use serde_json::{Value, json};

use super::*;
use crate::{
    controller::{
        events::Tell,
        known::{MANAGER, Rank},
    },
    model::read_object,
};

mod conditions;
mod programmed;

/// Entries as the API server has them, and the controller that follows them.
struct World {
    allocation: Allocation,
    objects: BTreeMap<String, Value>,
    version: u64,
    now: i64,
    /// What people were told.
    told: Vec<Tell>,
}

impl World {
    fn new(v4: &str, v6: &str) -> Self {
        let mut world = Self {
            allocation: Allocation::new(VipRanges {
                v4: v4.parse().expect("a range"),
                v6: v6.parse().expect("a range"),
            }),
            objects: BTreeMap::new(),
            version: 0,
            now: 1_000,
            told: Vec::new(),
        };
        world.restart();
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.now).expect("a time")
    }

    /// Another controller begins with what the entries say.
    fn restart(&mut self) {
        let left = self.allocation.left;
        self.allocation = Allocation::new(self.allocation.ranges);
        self.allocation.leave(left);
        self.objects.keys().cloned().collect::<Vec<_>>().iter().for_each(|name| self.tell(name));
    }

    fn tell(&mut self, name: &str) {
        let read = read_object(Kind::ServiceEntry, "networking.istio.io/v1", self.objects[name].clone());
        let Ok((Object::ServiceEntry(raw), _)) = read else { panic!("{name} is an entry: {read:?}") };
        self.allocation.apply(*raw, self.now());
    }

    /// Somebody writes the spec of `name`; a new object is one second younger than the last one.
    fn apply(&mut self, name: &str, spec: Value) {
        self.version += 1;
        let version = self.version.to_string();
        let created = Timestamp::from_second(i64::try_from(self.version).expect("small")).expect("a time");
        let new = json!({"metadata": {"name": name, "namespace": "default", "uid": version, "creationTimestamp": created.to_string()}});
        let object = self.objects.entry(name.to_owned()).or_insert(new);
        object["spec"] = spec;
        object["metadata"]["resourceVersion"] = json!(version);
        object["metadata"]["generation"] = json!(self.version);
        self.tell(name);
    }

    fn hosts(&mut self, name: &str, hosts: &[&str]) {
        self.apply(name, spec(hosts));
    }

    /// Somebody else writes the status.
    fn status(&mut self, name: &str, status: Value, manager: &str) {
        self.version += 1;
        let object = self.objects.get_mut(name).expect("it is there");
        object["status"] = status;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if !manager.is_empty() {
            object["metadata"]["managedFields"] =
                json!([{"manager": manager, "fieldsV1": {"f:status": {"f:addresses": {}}}}]);
        }
        self.tell(name);
    }

    fn delete(&mut self, name: &str) {
        self.objects.remove(name);
        let object =
            ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::default(), name: name.into() };
        self.allocation.delete(&object, self.now());
    }

    /// Makes all writes; returns how many of them were of addresses.
    fn run(&mut self) -> usize {
        self.run_all().0
    }

    /// The same, and how many were of conditions alone.
    fn run_all(&mut self) -> (usize, usize) {
        self.allocation.retry();
        if self.allocation.left.is_none() {
            self.allocation.allocate(self.now());
        }
        let (mut addresses, mut conditions, now) = (0, 0, self.now());
        for (object, item) in self.allocation.take_changed() {
            let name = object.name.to_string();
            let Some(target) = self.objects.get_mut(&name) else { continue };
            let mut write = || {
                let write = self.allocation.write(&object, false, now)?;
                let done = json_patch::patch(target, &without_tests_for_nothing(&write.patch, target));
                // As an API server does.
                done.is_err().then(|| self.allocation.refused(&object, &write.version));
                self.told.extend(done.is_ok().then_some(write.tells).into_iter().flatten());
                Some((done.is_ok(), write.rank))
            };
            let first = write();
            assert_eq!(first.map(|(_, rank)| rank), item.map(|item| item.rank), "{name}");
            let Some((is_done, rank)) = first else { continue };
            // What looks like no status is one that has nothing of ours.
            assert!(is_done || write() == Some((true, rank)), "{name}");
            let status = target["status"].clone();
            match rank {
                Rank::Addresses => addresses += 1,
                Rank::Conditions => conditions += 1,
            }
            self.status(&name, status, if rank == Rank::Addresses { MANAGER } else { "" });
        }
        assert!(
            addresses + conditions == 0 || self.run_all() == (0, 0),
            "what was written is as it should be"
        );
        (addresses, conditions)
    }

    /// The conditions of `name`, as `type status reason`.
    fn conditions(&self, name: &str) -> Vec<String> {
        let list = self.objects[name]["status"]["conditions"].as_array();
        let text = |item: &Value| {
            let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
            format!("{} {} {}", text("type"), text("status"), text("reason"))
        };
        list.into_iter().flatten().map(text).collect()
    }

    /// The message of one of them.
    fn message(&self, name: &str, kind: &str) -> String {
        let mut list = self.objects[name]["status"]["conditions"].as_array().into_iter().flatten();
        let found = list.find(|item| item["type"] == kind).map(|item| item["message"].clone());
        found.and_then(|message| message.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// The status of `name` without its conditions.
    fn rest(&self, name: &str) -> Value {
        let mut status = self.objects[name]["status"].clone();
        status.as_object_mut().map(|status| status.remove("conditions"));
        status
    }

    /// The addresses of `name`, by host.
    fn addresses(&self, name: &str) -> String {
        let list = self.objects[name]["status"]["addresses"].as_array();
        let text = |item: &Value| {
            let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
            format!("{}={}", text("host"), text("value"))
        };
        list.into_iter().flatten().map(text).collect::<Vec<_>>().join(" ")
    }
}

fn spec(hosts: &[&str]) -> Value {
    json!({"hosts": hosts, "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
           "resolution": "STATIC", "endpoints": [{"address": "10.0.0.1"}]})
}

/// The API server takes a test for null at a path that is not there for true; the library does not.
fn without_tests_for_nothing(patch: &Patch, target: &Value) -> Patch {
    let mut operations = serde_json::to_value(patch).expect("JSON");
    operations.as_array_mut().expect("a list").retain(|operation| {
        let path = operation["path"].as_str().unwrap_or_default();
        !(operation["op"] == "test" && operation["value"].is_null() && target.pointer(path).is_none())
    });
    serde_json::from_value(operations).expect("a patch")
}

fn usual() -> World {
    World::new("240.240.0.0/16", "2001:2::/48")
}

#[test]
fn hosts_get_addresses_by_age_once_and_keep_them() {
    let mut world = usual();
    world.hosts("b", &["b.test", "bb.test"]);
    world.hosts("a", &["a.test"]);
    assert_eq!(world.run(), 2);
    assert_eq!(
        world.addresses("b"),
        "b.test=240.240.0.1 b.test=2001:2::1 bb.test=240.240.0.2 bb.test=2001:2::2"
    );
    assert_eq!(world.addresses("a"), "a.test=240.240.0.3 a.test=2001:2::3");
    // Hosts are edited: who stays keeps its own.
    world.hosts("b", &["new.test", "bb.test"]);
    assert_eq!(world.run(), 1);
    assert_eq!(
        world.addresses("b"),
        "new.test=240.240.0.4 new.test=2001:2::4 bb.test=240.240.0.2 bb.test=2001:2::2"
    );
    world.restart();
    assert_eq!(world.run(), 0);
}

#[test]
fn one_host_of_two_entries_has_one_address() {
    let mut world = usual();
    world.hosts("a", &["one.test"]);
    world.run();
    world.hosts("b", &["one.test", "two.test"]);
    world.run();
    assert!(world.addresses("b").contains("one.test=240.240.0.1 one.test=2001:2::1"));
    world.delete("a");
    assert_eq!(world.run(), 0);
    world.restart();
    assert_eq!(world.run(), 0);
}

#[test]
fn addresses_of_the_user_and_an_opt_out_end_what_was_allocated() {
    let mut world = usual();
    world.hosts("a", &["a.test"]);
    world.run();
    let mut own = spec(&["a.test"]);
    own["addresses"] = json!(["192.0.2.1"]);
    world.apply("a", own);
    assert_eq!(world.run(), 1);
    assert_eq!(world.rest("a"), json!({}));
    // Back again: the address rests, so it is another.
    world.hosts("a", &["a.test"]);
    world.run();
    assert_eq!(world.addresses("a"), "a.test=240.240.0.2 a.test=2001:2::2");
    world.objects.get_mut("a").expect("it is there")["metadata"]["labels"] =
        json!({"networking.istio.io/enable-autoallocate-ip": "false"});
    world.hosts("a", &["a.test"]);
    world.run();
    assert_eq!(world.addresses("a"), "");
    for (name, change) in [
        ("none", json!({"resolution": "NONE", "endpoints": null})),
        ("wild", json!({"hosts": ["*.wild.test"]})),
        ("hidden", json!({"exportTo": ["~"]})),
    ] {
        let mut spec = spec(&[&format!("{name}.test")]);
        for (field, value) in change.as_object().expect("an object") {
            spec[field] = value.clone();
        }
        world.apply(name, spec);
    }
    assert_eq!(world.run(), 0);
}

#[test]
fn what_others_wrote_stays_and_what_is_not_ours_is_theirs_to_remove() {
    let mut world = usual();
    world.hosts("a", &["a.test"]);
    let theirs = json!({"addresses": [{"value": "198.51.100.7", "host": "a.test"}], "others": 1});
    world.status("a", theirs.clone(), "somebody");
    assert_eq!(world.run(), 0);
    let mut own = spec(&["a.test"]);
    own["addresses"] = json!(["192.0.2.1"]);
    world.apply("a", own);
    assert_eq!((world.run(), world.rest("a")), (0, theirs));
    // Of the range: followed, and the missing family added; the rest of the status stays.
    world.hosts("b", &["b.test"]);
    let status = json!({"addresses": [{"value": "240.240.0.9", "host": ""}], "others": 1});
    world.status("b", status, "somebody");
    assert_eq!(world.run(), 1);
    assert_eq!(world.addresses("b"), "b.test=240.240.0.9 b.test=2001:2::1");
    assert_eq!(world.objects["b"]["status"]["others"], 1);
    world.hosts("c", &["c.test"]);
    world.run();
    assert_eq!(world.addresses("c"), "c.test=240.240.0.10 c.test=2001:2::2");
}

#[test]
fn the_older_entry_keeps_an_address_that_two_have() {
    let mut world = usual();
    world.hosts("old", &["old.test"]);
    world.hosts("young", &["young.test"]);
    world.run();
    // Somebody gives the younger the address of the older, and the other way round.
    world.status("young", json!({"addresses": [{"value": "240.240.0.1", "host": "young.test"}]}), "x");
    world.run();
    assert_eq!(world.addresses("old"), "old.test=240.240.0.1 old.test=2001:2::1");
    assert_eq!(world.addresses("young"), "young.test=240.240.0.2 young.test=2001:2::2");
    world.status("old", json!({"addresses": [{"value": "240.240.0.2", "host": "old.test"}]}), "x");
    world.run();
    assert_eq!(world.addresses("old"), "old.test=240.240.0.2 old.test=2001:2::1");
    assert_eq!(world.addresses("young"), "young.test=240.240.0.3 young.test=2001:2::2");
    // A user writes it into a spec: a younger entry changes nothing, an older one moves it.
    let mut own = spec(&["late.test"]);
    own["addresses"] = json!(["240.240.0.3"]);
    world.apply("late", own.clone());
    assert_eq!(world.run(), 0);
    own["hosts"] = json!(["old.test"]);
    world.apply("old", own);
    world.run();
    assert_eq!(world.addresses("old"), "");
    assert_eq!(world.addresses("young"), "young.test=240.240.0.4 young.test=2001:2::2");
    // Whichever is told first.
    let before = world.objects.clone();
    world.restart();
    assert_eq!((world.run(), &world.objects), (0, &before));
}

#[test]
fn two_hosts_of_one_entry_with_one_address_part() {
    let mut world = usual();
    world.hosts("a", &["a.test", "b.test"]);
    let both =
        json!([{"value": "240.240.0.5", "host": "a.test"}, {"value": "240.240.0.5", "host": "b.test"}]);
    world.status("a", json!({ "addresses": both }), "x");
    world.run();
    assert_eq!(
        world.addresses("a"),
        "a.test=240.240.0.5 a.test=2001:2::1 b.test=240.240.0.6 b.test=2001:2::2"
    );
}

#[test]
fn what_was_wiped_is_written_again_as_it_was() {
    let mut world = usual();
    world.hosts("a", &["a.test"]);
    world.hosts("b", &["b.test"]);
    world.run();
    let before = (world.addresses("a"), world.addresses("b"));
    world.status("a", json!({"conditions": []}), "x");
    world.status("b", json!({"addresses": [{"value": "240.240.0.2", "host": "b.test"}]}), "x");
    assert_eq!(world.run(), 2);
    assert_eq!((world.addresses("a"), world.addresses("b")), before);
}

#[test]
fn an_entry_that_was_made_anew_gets_addresses_that_have_rested() {
    let mut world = World::new("10.0.0.0/30", "fd00::/126");
    world.hosts("a", &["a.test"]);
    world.hosts("b", &["b.test"]);
    world.run();
    assert_eq!(world.addresses("b"), "b.test=10.0.0.2 b.test=fd00::2");
    world.delete("a");
    world.hosts("a", &["a.test"]);
    world.run();
    // IPv4 is used up while the old address rests; one family is enough.
    assert_eq!(world.addresses("a"), "a.test=fd00::3");
    world.hosts("c", &["c.test"]);
    world.run();
    assert_eq!((world.addresses("c").as_str(), world.allocation.counts().exhausted), ("", 1));
    world.now += 61;
    world.run();
    assert_eq!(world.addresses("a"), "a.test=10.0.0.1 a.test=fd00::3");
    assert_eq!(world.addresses("c"), "c.test=fd00::1");
    assert_eq!(world.allocation.counts(), Counts { entries: 3, v4: 2, v6: 3, exhausted: 0 });
}

#[test]
fn a_rejected_entry_gets_nothing_and_its_status_is_left_alone() {
    let mut world = usual();
    let mut bad = spec(&["a.test"]);
    bad["ports"][0]["number"] = json!(70_000);
    world.apply("a", bad.clone());
    assert_eq!(world.run(), 0);
    world.hosts("a", &["a.test"]);
    world.run();
    let address = world.addresses("a");
    world.apply("a", bad);
    assert_eq!((world.run(), world.addresses("a")), (0, address.clone()));
    // Put right, it has its address again.
    world.hosts("a", &["a.test"]);
    assert_eq!((world.run(), world.addresses("a")), (0, address));
}

#[test]
fn istios_allocator_is_known_by_its_name() {
    let mut world = usual();
    world.hosts("a", &["a.test"]);
    assert_eq!(world.allocation.istios(), None);
    world.status("a", json!({"addresses": [{"value": "240.240.0.1", "host": "a.test"}]}), ISTIO);
    assert!(world.allocation.istios().is_some());
    world.delete("a");
    assert_eq!(world.allocation.istios(), None);
}

#[test]
fn what_is_older_than_the_answer_to_a_write_is_no_news() {
    let mut world = usual();
    world.hosts("a", &["a.test"]);
    let old = world.objects["a"].clone();
    world.run();
    let new = std::mem::replace(world.objects.get_mut("a").expect("it is there"), old);
    // Without a write of our own the watch is right, whatever the versions say.
    world.tell("a");
    assert_eq!(world.run(), 1);
    let old = std::mem::replace(world.objects.get_mut("a").expect("it is there"), new.clone());
    let read = read_object(Kind::ServiceEntry, "networking.istio.io/v1", with_version(new.clone(), "99"));
    let Ok((Object::ServiceEntry(raw), _)) = read else { panic!("{read:?}") };
    world.allocation.wrote(*raw, world.now());
    world.objects.insert("a".to_owned(), old);
    world.tell("a");
    world.objects.insert("a".to_owned(), with_version(new, "100"));
    assert_eq!(world.allocation.known.values().filter(|known| known.version == "99").count(), 1);
    world.tell("a");
    assert_eq!(world.run(), 0);
}

fn with_version(mut object: Value, version: &str) -> Value {
    object["metadata"]["resourceVersion"] = json!(version);
    object
}
