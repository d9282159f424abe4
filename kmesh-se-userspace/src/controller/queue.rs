//! The entries that wait to be written.
//!
//! In: entries that are not as they should be, and the time. Out: the next one, the oldest first. Never: an entry that is being
//! written, or was written a moment ago.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{desired::Age, model::ObjectRef};

/// How long an entry rests after a write, so that one that others write to as well is not written without a pause.
const REST: Duration = Duration::from_secs(2);
/// The first and the longest rest after a failure, which is doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How a write ended, for what comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The entry is as it should be, or gone.
    Done,
    /// It is to be tried again.
    Failed,
    /// There was nothing to write after all.
    Nothing,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: BTreeSet<Age>,
    /// Those whose time has not come.
    resting: BTreeMap<(Instant, ObjectRef), Age>,
    /// Where each of these two has an entry.
    places: BTreeMap<ObjectRef, Place>,
    busy: BTreeSet<ObjectRef>,
    /// Those of the busy that are to be looked at again.
    again: BTreeMap<ObjectRef, Age>,
    rest_until: BTreeMap<ObjectRef, (Instant, u32)>,
}

#[derive(Debug)]
enum Place {
    Ready(Age),
    Resting(Instant),
}

impl Queue {
    /// `age` waits from now on.
    pub(super) fn add(&mut self, age: Age, now: Instant) {
        let object = age.1.clone();
        if self.busy.contains(&object) {
            self.again.insert(object, age);
            return;
        }
        self.remove(&object);
        match self.rest_until.get(&object) {
            Some((until, _)) if *until > now => {
                self.places.insert(object.clone(), Place::Resting(*until));
                self.resting.insert((*until, object), age);
            }
            _ => {
                self.places.insert(object, Place::Ready(age.clone()));
                self.ready.insert(age);
            }
        }
    }

    /// `object` is as it should be.
    pub(super) fn remove(&mut self, object: &ObjectRef) {
        match self.places.remove(object) {
            Some(Place::Ready(age)) => drop(self.ready.remove(&age)),
            Some(Place::Resting(until)) => drop(self.resting.remove(&(until, object.clone()))),
            None => {}
        }
        self.again.remove(object);
    }

    /// The next one, which is busy until [`Queue::end`] is told.
    pub(super) fn pop(&mut self, now: Instant) -> Option<ObjectRef> {
        while let Some(first) = self.resting.first_entry().filter(|first| first.key().0 <= now) {
            let age = first.remove();
            self.places.insert(age.1.clone(), Place::Ready(age.clone()));
            self.ready.insert(age);
        }
        let (_, object) = self.ready.pop_first()?;
        self.places.remove(&object);
        self.busy.insert(object.clone());
        Some(object)
    }

    /// A write has ended.
    pub(super) fn end(&mut self, object: &ObjectRef, outcome: Outcome, now: Instant) {
        self.busy.remove(object);
        let failures = self.rest_until.get(object).map_or(0, |(_, failures)| *failures);
        match outcome {
            Outcome::Done => drop(self.rest_until.insert(object.clone(), (now + REST, 0))),
            Outcome::Failed => {
                let wait = RETRY_MIN.saturating_mul(1 << failures.min(10)).min(RETRY_MAX);
                let wait = wait.mul_f64(rand::random_range(0.5..=1.0));
                self.rest_until.insert(object.clone(), (now + wait, failures + 1));
            }
            Outcome::Nothing => {}
        }
        if let Some(age) = self.again.remove(object) {
            self.add(age, now);
        }
    }

    /// Forgets rests that are over, and whoever failed before that long ago.
    pub(super) fn forget(&mut self, now: Instant) {
        self.rest_until.retain(|_, (until, _)| *until + RETRY_MAX > now);
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

    fn age(second: i64, name: &str) -> Age {
        let object =
            ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::default(), name: name.into() };
        (jiff::Timestamp::from_second(second).ok(), object)
    }

    fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|object| object.name.to_string())
    }

    #[test]
    fn the_oldest_comes_first_and_none_twice() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (second, name) in [(2, "b"), (1, "c"), (3, "a"), (2, "b")] {
            queue.add(age(second, name), now);
        }
        queue.remove(&age(3, "a").1);
        assert_eq!(queue.len(), 2);
        assert_eq!(pop(&mut queue, now).as_deref(), Some("c"));
        assert_eq!(pop(&mut queue, now).as_deref(), Some("b"));
        assert_eq!((pop(&mut queue, now), queue.len()), (None, 2));
    }

    #[test]
    fn what_was_written_rests_and_what_failed_rests_longer_each_time() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.add(age(1, "a"), now);
        assert!(queue.pop(now).is_some());
        // Changed while it is written.
        queue.add(age(1, "a"), now);
        assert_eq!(queue.pop(now), None);
        queue.end(&age(1, "a").1, Outcome::Done, now);
        assert_eq!(queue.pop(now + REST / 2), None);
        assert_eq!(queue.next(), Some(now + REST));
        now += REST;
        let mut waits = Vec::new();
        for _ in 0..3 {
            assert!(queue.pop(now).is_some());
            queue.end(&age(1, "a").1, Outcome::Failed, now);
            queue.add(age(1, "a"), now);
            let next = queue.next().expect("it waits");
            waits.push(next - now);
            now = next;
        }
        assert!(waits[0] <= RETRY_MIN && waits[2] >= RETRY_MIN && waits[2] <= RETRY_MIN * 4, "{waits:?}");
    }
}
