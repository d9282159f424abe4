//! What entries are told of their waypoints.
//!
//! In: what is true of an entry. Out: what it is to be told, if that is news. Never: of an entry that has just been bound, a wait that is
//! over soon.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    desired::{Condition, WAYPOINT_BOUND, WAYPOINT_NOT_READY},
    model::ObjectRef,
};

/// How long Envoys may take before an entry that is new to them is told that they are waited for: of many that are bound at once, each is
/// written once then, and what agents are told does not wait behind that.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was said.
#[derive(Debug, Default)]
pub(super) struct Told {
    conditions: BTreeMap<ObjectRef, Vec<Condition>>,
    /// Since when entries wait for an Envoy that were not told so.
    waiting: BTreeMap<ObjectRef, Instant>,
    /// Whether each entry that was there at first has been told what is true of it: its status says so already, as a rule.
    has_begun: bool,
}

impl Told {
    /// The entries whose wait is to be told by now.
    pub(super) fn late(&self, now: Instant) -> impl Iterator<Item = &ObjectRef> {
        let late = self.waiting.iter().filter(move |(_, since)| now >= **since + PATIENCE);
        late.map(|(object, _)| object)
    }

    /// Whether `object`, of which this is true, is to be told so now.
    pub(super) fn is_news(&mut self, object: &ObjectRef, conditions: &[Condition], now: Instant) -> bool {
        let before = self.conditions.get(object).map_or(&[][..], Vec::as_slice);
        let is_news = before != conditions;
        if is_news && self.has_begun && may_wait(before, conditions) {
            let since = *self.waiting.entry(object.clone()).or_insert(now);
            if now < since + PATIENCE {
                return false;
            }
        }
        self.waiting.remove(object);
        match conditions {
            [] => drop(self.conditions.remove(object)),
            _ if is_news => drop(self.conditions.insert(object.clone(), conditions.to_vec())),
            _ => {}
        }
        is_news
    }

    /// Each entry that was there at first has been asked about.
    pub(super) fn begin(&mut self) {
        self.has_begun = true;
    }
}

/// Whether the only news is that Envoys are waited for, of an entry that did not go through them before.
fn may_wait(before: &[Condition], now: &[Condition]) -> bool {
    fn bound(conditions: &[Condition]) -> Option<&Condition> {
        conditions.iter().find(|condition| condition.kind == WAYPOINT_BOUND)
    }
    let waits = |condition: &Condition| condition.reason == WAYPOINT_NOT_READY;
    bound(now).is_some_and(waits)
        && bound(before).is_none_or(|before| before.status != "True" && !waits(before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, Namespace};

    fn bound(status: &'static str, reason: &'static str) -> Vec<Condition> {
        vec![Condition { kind: WAYPOINT_BOUND, status, reason, message: String::new() }]
    }

    fn object() -> ObjectRef {
        ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::default(), name: "a".into() }
    }

    #[test]
    fn a_wait_that_is_over_soon_is_not_told_and_a_longer_one_is_once() {
        let (mut told, start, object) = (Told::default(), Instant::now(), object());
        told.begin();
        let waits = bound("False", WAYPOINT_NOT_READY);
        assert!(!told.is_news(&object, &waits, start));
        assert!(told.is_news(&object, &bound("True", "WaypointAccepted"), start + PATIENCE / 2));
        assert!(told.is_news(&object, &[], start + PATIENCE / 2), "it is bound no more");

        let again = start + PATIENCE;
        assert!(!told.is_news(&object, &waits, again));
        assert!(!told.is_news(&object, &waits, again + PATIENCE / 2));
        assert_eq!(told.late(again + PATIENCE / 2).count(), 0);
        assert_eq!(told.late(again + PATIENCE).collect::<Vec<_>>(), [&object]);
        assert!(told.is_news(&object, &waits, again + PATIENCE));
        assert!(!told.is_news(&object, &waits, again + PATIENCE), "it was told");
        assert_eq!(told.late(again + PATIENCE * 2).count(), 0);
    }

    #[test]
    fn what_goes_through_no_more_is_told_at_once_and_so_is_all_that_was_true_at_first() {
        let (mut told, now, object) = (Told::default(), Instant::now(), object());
        let waits = bound("False", WAYPOINT_NOT_READY);
        assert!(told.is_news(&object, &waits, now), "a controller that starts takes nothing back");
        told.begin();
        assert!(told.is_news(&object, &bound("True", "WaypointAccepted"), now));
        assert!(told.is_news(&object, &waits, now), "what is told as true may not stay");
        let mut more = waits.clone();
        more.push(Condition { kind: "other", status: "True", reason: "More", message: String::new() });
        assert!(told.is_news(&object, &more, now), "that it waits was told before");
    }
}
