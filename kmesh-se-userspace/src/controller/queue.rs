//! The entries that wait to be written.
//!
//! In: entries that are not as they should be, and the time. Out: the next one: addresses first, then the oldest. Never: an entry
//! that is being written, or was written a moment ago.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::known::Rank;
use crate::{desired::Age, model::ObjectRef};

/// How long an entry rests after a write, so that one that others write to as well is not written without a pause.
const REST: Duration = Duration::from_secs(2);
/// How long conditions wait before they are written, so that what changes soon again is written once.
const SETTLES: Duration = Duration::from_secs(1);
/// The longest rest of conditions, which is doubled with each write that another one soon follows, after the first [`PATIENCE`]:
/// somebody else writes them too, or what they tell comes and goes.
const RESTLESS_MAX: Duration = Duration::from_secs(60);
/// So many writes soon after another are what a person's edits come to.
const PATIENCE: u32 = 3;
/// The first and the longest rest after a failure, which is doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// An entry that is to be written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) rank: Rank,
    pub(super) age: Age,
}

impl Item {
    fn object(&self) -> &ObjectRef {
        &self.age.1
    }
}

/// How a write ended, for what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The entry is as it should be, or gone; this was written.
    Done(Rank),
    /// It is to be tried again.
    Failed,
    /// There was nothing to write after all.
    Nothing,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: BTreeSet<Item>,
    /// Those whose time has not come.
    resting: BTreeMap<(Instant, ObjectRef), Item>,
    /// Where each of these two has an entry.
    places: BTreeMap<ObjectRef, Place>,
    busy: BTreeSet<ObjectRef>,
    /// Those of the busy that are to be looked at again.
    again: BTreeMap<ObjectRef, Item>,
    rests: BTreeMap<ObjectRef, Rest>,
}

#[derive(Debug)]
enum Place {
    Ready(Item),
    Resting(Instant, Rank),
}

/// Until when an entry rests.
#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Instant,
    failures: u32,
    /// The same for conditions alone, and how often in a row they were written soon after the last time.
    conditions_until: Instant,
    restless: u32,
}

impl Rest {
    fn none(now: Instant) -> Self {
        Self { until: now, failures: 0, conditions_until: now, restless: 0 }
    }

    fn of_conditions(restless: u32) -> Duration {
        REST.saturating_mul(1 << restless.saturating_sub(PATIENCE).min(10)).min(RESTLESS_MAX)
    }
}

impl Queue {
    /// `item` waits from now on.
    pub(super) fn add(&mut self, item: Item, now: Instant) {
        let object = item.object().clone();
        if self.busy.contains(&object) {
            self.again.insert(object, item);
            return;
        }
        let rest = self.rests.get(&object);
        let until = match (item.rank, self.places.get(&object)) {
            // It has settled for a while already.
            (Rank::Conditions, Some(Place::Ready(before))) if before.rank == Rank::Conditions => now,
            (Rank::Conditions, Some(Place::Resting(until, Rank::Conditions))) => *until,
            (Rank::Conditions, _) => {
                let settled = now + SETTLES;
                rest.map_or(settled, |rest| rest.until.max(rest.conditions_until).max(settled))
            }
            (Rank::Addresses, _) => rest.map_or(now, |rest| rest.until),
        };
        self.remove(&object);
        if until > now {
            self.places.insert(object.clone(), Place::Resting(until, item.rank));
            self.resting.insert((until, object), item);
        } else {
            self.places.insert(object, Place::Ready(item.clone()));
            self.ready.insert(item);
        }
    }

    /// `object` is as it should be.
    pub(super) fn remove(&mut self, object: &ObjectRef) {
        match self.places.remove(object) {
            Some(Place::Ready(item)) => drop(self.ready.remove(&item)),
            Some(Place::Resting(until, _)) => drop(self.resting.remove(&(until, object.clone()))),
            None => {}
        }
        self.again.remove(object);
    }

    /// The next one, which is busy until [`Queue::end`] is told, and whether its last write failed.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(ObjectRef, bool)> {
        while let Some(first) = self.resting.first_entry().filter(|first| first.key().0 <= now) {
            let item = first.remove();
            self.places.insert(item.object().clone(), Place::Ready(item.clone()));
            self.ready.insert(item);
        }
        let Item { age: (_, object), .. } = self.ready.pop_first()?;
        self.places.remove(&object);
        self.busy.insert(object.clone());
        let has_failed = self.rests.get(&object).is_some_and(|rest| rest.failures > 0);
        Some((object, has_failed))
    }

    /// A write has ended.
    pub(super) fn end(&mut self, object: &ObjectRef, outcome: Outcome, now: Instant) {
        self.busy.remove(object);
        let rest = self.rests.get(object).copied().unwrap_or(Rest::none(now));
        let rest = match outcome {
            Outcome::Done(rank) => {
                let is_soon = rank == Rank::Conditions
                    && self.rests.contains_key(object)
                    && now < rest.conditions_until + Rest::of_conditions(rest.restless);
                let restless = if is_soon { rest.restless + 1 } else { 0 };
                let conditions_until = now + Rest::of_conditions(restless);
                Some(Rest { until: now + REST, failures: 0, conditions_until, restless })
            }
            Outcome::Failed => {
                let wait = RETRY_MIN.saturating_mul(1 << rest.failures.min(10)).min(RETRY_MAX);
                let wait = wait.mul_f64(rand::random_range(0.5..=1.0));
                Some(Rest { until: now + wait, failures: rest.failures + 1, ..rest })
            }
            Outcome::Nothing => None,
        };
        if let Some(rest) = rest {
            self.rests.insert(object.clone(), rest);
        }
        if let Some(item) = self.again.remove(object) {
            self.add(item, now);
        }
    }

    /// Forgets rests that are over, and whoever failed before that long ago.
    pub(super) fn forget(&mut self, now: Instant) {
        self.rests.retain(|_, rest| {
            let conditions = rest.conditions_until + Rest::of_conditions(rest.restless);
            rest.until + RETRY_MAX > now || conditions > now
        });
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
        self.resting.clear();
        self.places.clear();
        self.again.clear();
    }

    /// When the next one is ready.
    pub(super) fn next(&self) -> Option<Instant> {
        if !self.ready.is_empty() {
            return Some(Instant::now());
        }
        self.resting.first_key_value().map(|((until, _), _)| *until)
    }

    /// How many wait or are being written.
    pub(super) fn len(&self) -> usize {
        self.places.len() + self.busy.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, Namespace};

    fn item(second: i64, name: &str, rank: Rank) -> Item {
        let object =
            ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::default(), name: name.into() };
        Item { rank, age: (jiff::Timestamp::from_second(second).ok(), object) }
    }

    fn address(second: i64, name: &str) -> Item {
        item(second, name, Rank::Addresses)
    }

    fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|(object, _)| object.name.to_string())
    }

    #[test]
    fn the_oldest_comes_first_and_none_twice() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (second, name) in [(2, "b"), (1, "c"), (3, "a"), (2, "b")] {
            queue.add(address(second, name), now);
        }
        queue.remove(address(3, "a").object());
        assert_eq!(queue.len(), 2);
        assert_eq!(pop(&mut queue, now).as_deref(), Some("c"));
        assert_eq!(pop(&mut queue, now).as_deref(), Some("b"));
        assert_eq!((pop(&mut queue, now), queue.len()), (None, 2));
    }

    #[test]
    fn addresses_come_before_conditions_however_long_those_wait() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(item(1, "old", Rank::Conditions), now);
        let later = now + SETTLES;
        queue.add(address(9, "young"), later);
        assert_eq!(pop(&mut queue, later).as_deref(), Some("young"));
        assert_eq!(pop(&mut queue, later).as_deref(), Some("old"));
        // What was to have conditions and needs an address does not settle first.
        queue.add(item(1, "b", Rank::Conditions), later);
        assert_eq!(pop(&mut queue, later), None);
        queue.add(address(1, "b"), later);
        assert_eq!(pop(&mut queue, later).as_deref(), Some("b"));
    }

    #[test]
    fn what_was_written_rests_and_what_failed_rests_longer_each_time() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.add(address(1, "a"), now);
        assert!(queue.pop(now).is_some());
        // Changed while it is written.
        queue.add(address(1, "a"), now);
        assert_eq!(queue.pop(now), None);
        queue.end(address(1, "a").object(), Outcome::Done(Rank::Addresses), now);
        assert_eq!(queue.pop(now + REST / 2), None);
        assert_eq!(queue.next(), Some(now + REST));
        now += REST;
        let mut waits = Vec::new();
        for turn in 0..3 {
            assert_eq!(queue.pop(now).map(|(_, has_failed)| has_failed), Some(turn > 0));
            queue.end(address(1, "a").object(), Outcome::Failed, now);
            queue.add(address(1, "a"), now);
            let next = queue.next().expect("it waits");
            waits.push(next - now);
            now = next;
        }
        assert!(waits[0] <= RETRY_MIN && waits[2] >= RETRY_MIN && waits[2] <= RETRY_MIN * 4, "{waits:?}");
    }

    #[test]
    fn conditions_that_somebody_takes_away_each_time_are_written_ever_more_rarely() {
        let (mut queue, begun) = (Queue::default(), Instant::now());
        let (mut now, mut writes) = (begun, 0);
        let conditions = || item(1, "a", Rank::Conditions);
        while now < begun + Duration::from_secs(3600) {
            queue.add(conditions(), now);
            now = queue.next().expect("it waits").max(now);
            assert!(queue.pop(now).is_some());
            queue.end(conditions().object(), Outcome::Done(Rank::Conditions), now);
            queue.forget(now);
            writes += 1;
        }
        assert!((60..80).contains(&writes), "{writes}");
        // An address does not wait for that long, and after a time of peace conditions do not either.
        queue.add(address(1, "a"), now);
        assert_eq!(queue.next(), Some(now + REST));
        queue.remove(conditions().object());
        now += RESTLESS_MAX * 2;
        queue.add(conditions(), now);
        assert_eq!(queue.next(), Some(now + SETTLES));
        now += SETTLES;
        assert!(queue.pop(now).is_some());
        queue.end(conditions().object(), Outcome::Done(Rank::Conditions), now);
        queue.add(conditions(), now);
        assert_eq!(queue.next(), Some(now + REST));
    }
}
