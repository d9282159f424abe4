//! What the nodes made of each entry.
//!
//! In: what they say. Out: the condition `Programmed`, and which entries to look at. Never: a condition that nobody knows: it stays as
//! it was then.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{Allocation, Known};
use crate::{
    controller::{
        conditions::{Facts, PROGRAMMED, condition},
        nodes::{Held, News},
    },
    desired::Condition,
    model::{Kind, Namespace, ObjectRef},
    node_report::key,
};

/// How long nodes may take before it is said that they are waited for; they report every five seconds at most.
const PATIENCE: SignedDuration = SignedDuration::from_secs(12);

/// What is to be said of an entry.
pub(super) struct Programmed {
    pub(super) say: Option<Condition>,
    /// Whether what was said stays.
    pub(super) is_kept: bool,
    /// Whether all nodes hold it.
    pub(super) is_settled: bool,
    pub(super) look_at: Option<Timestamp>,
}

impl Allocation {
    /// A node says something, or is there no more.
    pub(in crate::controller) fn hear(&mut self, news: News) {
        self.nodes.hear(news, Instant::now());
    }

    /// Time goes on: nodes fall silent, and others are waited for too long.
    pub(in crate::controller) fn tick(&mut self, now: Timestamp) {
        self.clock = now;
        self.nodes.forget(Instant::now());
        let (touched, has_moved) = self.nodes.take_changes();
        let objects = touched.iter().filter_map(|key| object(key));
        self.changed.extend(objects.filter(|object| self.known.contains_key(object)));
        if std::mem::replace(&mut self.knows_nodes, self.nodes.are_known()) != self.nodes.are_known() {
            self.changed.extend(self.unsettled.iter().cloned());
        } else if has_moved {
            let is_held = |object: &&ObjectRef| {
                self.known.get(*object).is_some_and(|known| self.nodes.have(known.since))
            };
            self.changed.extend(self.unsettled.iter().filter(is_held).cloned());
        }
        while let Some((at, object)) = self.patience.pop_first() {
            if at > now {
                self.patience.insert((at, object));
                break;
            }
            if self.unsettled.contains(&object) {
                self.changed.insert(object);
            }
        }
    }

    /// An entry was looked at.
    pub(super) fn note_held(&mut self, object: ObjectRef, is_settled: bool, look_at: Option<Timestamp>) {
        if is_settled {
            self.unsettled.remove(&object);
            return;
        }
        self.unsettled.insert(object.clone());
        if let Some(at) = look_at {
            self.patience.insert((at, object));
        }
    }

    /// What is to be said of `object`, of which this is `known` and these are the `facts`.
    pub(super) fn programmed(&self, object: &ObjectRef, known: &Known, facts: &Facts<'_>) -> Programmed {
        let say = |status, reason, message| condition(PROGRAMMED, status, reason, message);
        let settled = |say| Programmed { say: Some(say), is_kept: false, is_settled: true, look_at: None };
        let held = self.nodes.hold(&key(object), known.since);
        let lacks_address = !facts.pending.is_empty() || !facts.exhausted[0].is_empty();
        match held {
            Held::Unknown => Programmed { say: None, is_kept: true, is_settled: false, look_at: None },
            _ if lacks_address => {
                settled(say("False", "NoAddress", "a host has no address that clients could dial".to_owned()))
            }
            Held::ByAll => settled(say("True", "Programmed", "every node has it".to_owned())),
            Held::Lacks(exception, nodes) => {
                let message = format!("{}, on {nodes}; kmesh-se status there says more", exception.message);
                settled(say("False", exception.reason.as_str(), message))
            }
            Held::Waits(nodes) => {
                let late = known.since_at.saturating_add(PATIENCE).unwrap_or(self.clock);
                let is_late = self.clock >= late;
                let pending = || say("False", "Pending", format!("waiting for {nodes}"));
                let again = self.clock.saturating_add(PATIENCE).unwrap_or(late);
                Programmed {
                    say: is_late.then(pending),
                    is_kept: !is_late,
                    is_settled: false,
                    look_at: Some(if is_late { again } else { late }),
                }
            }
        }
    }
}

/// The entry that a report names so.
fn object(key: &str) -> Option<ObjectRef> {
    let (namespace, name) = key.split_once('/')?;
    Some(ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::new(namespace), name: name.into() })
}
