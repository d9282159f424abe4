//! What entries are told of the nodes.

use super::*;
use crate::{
    controller::nodes::News,
    node_report::{Exception, Lack, NodeReport, lease},
};

/// A node, what it has applied, and the entries that it lacks.
type Said<'a> = (&'a str, u64, &'a [(&'a str, Lack)]);

impl World {
    /// These nodes are there, and no others.
    fn nodes(&mut self, nodes: &[Said<'_>]) {
        self.version += 1;
        let version = self.version.to_string();
        let made = nodes.iter().map(|(name, applied, lacks)| {
            let exceptions = lacks.iter().map(|(entry, reason)| {
                let exception = Exception { reason: *reason, message: "it lacks something".to_owned() };
                (format!("default/{entry}"), exception)
            });
            let report = NodeReport::new(*applied, exceptions.collect());
            let mut lease = lease(name, &report, Timestamp::UNIX_EPOCH).expect("a Lease");
            lease.metadata.resource_version = Some(version.clone());
            lease
        });
        self.allocation.hear(News::All(made.collect()));
        self.tick(0);
    }

    fn tick(&mut self, secs: i64) {
        self.now += secs;
        let now = self.now();
        self.allocation.tick(now);
    }

    fn programmed(&self, name: &str) -> String {
        let found = self.conditions(name).into_iter().find(|condition| condition.starts_with("Programmed"));
        found.unwrap_or_default()
    }
}

#[test]
fn an_entry_is_programmed_when_all_nodes_have_its_spec_and_addresses() {
    let mut world = usual();
    world.hosts("a", &["a.test"]);
    assert_eq!((world.run_all(), world.programmed("a").as_str()), ((1, 0), ""));
    let written = world.version;
    world.nodes(&[("n1", written, &[]), ("n2", written - 1, &[])]);
    // Nobody is accused at once.
    assert_eq!(world.run_all(), (0, 0));
    world.tick(5);
    assert_eq!(world.run_all(), (0, 0));
    world.tick(10);
    assert_eq!((world.run_all(), world.programmed("a").as_str()), ((0, 1), "Programmed False Pending"));
    assert_eq!(world.message("a", "Programmed"), "waiting for node n2");
    // Its own writes change the version, and nothing else.
    world.nodes(&[("n1", written, &[]), ("n2", written, &[])]);
    assert_eq!((world.run_all(), world.programmed("a").as_str()), ((0, 1), "Programmed True Programmed"));
    world.nodes(&[("n1", written, &[]), ("n2", written, &[]), ("n3", written, &[])]);
    assert_eq!(world.run_all(), (0, 0));
    // Who starts, or takes over, writes nothing, whatever it knows of the nodes.
    world.restart();
    assert_eq!(world.run_all(), (0, 0));
    world.nodes(&[("n1", written, &[])]);
    world.allocation.look_again();
    assert_eq!(world.run_all(), (0, 0));
}

#[test]
fn a_change_of_the_spec_keeps_what_was_said_until_the_nodes_have_it() {
    let mut world = usual();
    world.hosts("a", &["a.test"]);
    world.run();
    world.nodes(&[("n1", world.version, &[])]);
    world.run();
    assert_eq!(world.programmed("a"), "Programmed True Programmed");
    let observed = |world: &World| {
        let list = world.objects["a"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let programmed = list.iter().find(|condition| condition["type"] == "Programmed");
        programmed.map(|condition| condition["observedGeneration"].clone())
    };
    let before = observed(&world);
    world.hosts("a", &["a.test", "b.test"]);
    assert_eq!(world.run_all(), (1, 0));
    assert_eq!(observed(&world), before);
    world.nodes(&[("n1", world.version, &[])]);
    assert_eq!(world.run_all(), (0, 1));
    assert_ne!(observed(&world), before);
    // A rejected entry is on no node.
    let mut bad = spec(&["a.test"]);
    bad["ports"][0]["number"] = json!(70_000);
    world.apply("a", bad);
    assert_eq!((world.run_all(), world.programmed("a").as_str()), ((0, 1), ""));
}

#[test]
fn what_a_node_lacks_is_told_and_cleared_and_no_other_entry_is_looked_at() {
    let mut world = usual();
    world.hosts("a", &["a.test"]);
    world.hosts("b", &["b.test"]);
    world.run();
    let written = world.version;
    world.nodes(&[("n1", written, &[]), ("n2", written, &[("a", Lack::MapFull)])]);
    assert_eq!(world.run_all(), (0, 2));
    assert_eq!(world.programmed("a"), "Programmed False MapFull");
    assert_eq!(
        world.message("a", "Programmed"),
        "it lacks something, on node n2; kmesh-se status there says more"
    );
    assert_eq!(world.programmed("b"), "Programmed True Programmed");
    world.nodes(&[("n1", written, &[]), ("n2", written, &[])]);
    assert_eq!((world.run_all(), world.programmed("a").as_str()), ((0, 1), "Programmed True Programmed"));
    // A node that goes takes its complaints with it.
    world.nodes(&[("n1", written, &[("b", Lack::StaleNames)])]);
    assert_eq!((world.run_all(), world.programmed("b").as_str()), ((0, 1), "Programmed False StaleNames"));
    world.nodes(&[("n3", written, &[])]);
    assert_eq!((world.run_all(), world.programmed("b").as_str()), ((0, 1), "Programmed True Programmed"));
}
