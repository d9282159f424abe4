//! Runs of ids in an array map.
//!
//! In: requests for so many neighbouring ids. Out: the first id of a run. Never: an id that is in use.

use std::collections::{BTreeMap, BTreeSet};

/// Free runs, joined with their neighbours when freed; the smallest that fits is used.
#[derive(Debug)]
pub(super) struct Runs {
    by_base: BTreeMap<u32, u32>,
    by_length: BTreeSet<(u32, u32)>,
    capacity: u32,
    free: u32,
}

impl Runs {
    /// All ids below `capacity` are free.
    pub(super) fn new(capacity: u32) -> Self {
        let mut runs = Self { by_base: BTreeMap::new(), by_length: BTreeSet::new(), capacity, free: 0 };
        runs.free(0, capacity);
        runs
    }

    /// Takes `count` neighbouring ids, at least one; returns the first.
    pub(super) fn allocate(&mut self, count: u32) -> Option<u32> {
        let (length, base) = *self.by_length.range((count.max(1), 0)..).next()?;
        self.forget(base, length);
        if length > count {
            self.remember(base + count, length - count);
        }
        self.free -= count;
        Some(base)
    }

    /// Gives `count` ids from `base` back.
    pub(super) fn free(&mut self, base: u32, count: u32) {
        if count == 0 {
            return;
        }
        self.free += count;
        let (mut base, mut count) = (base, count);
        if let Some((&before, &length)) = self.by_base.range(..base).next_back()
            && before + length == base
        {
            self.forget(before, length);
            (base, count) = (before, count + length);
        }
        if let Some(&length) = self.by_base.get(&(base + count)) {
            self.forget(base + count, length);
            count += length;
        }
        self.remember(base, count);
    }

    /// Takes these ids, as far as they are free.
    pub(super) fn reserve(&mut self, base: u32, count: u32) {
        let end = base.saturating_add(count).min(self.capacity);
        let overlapping: Vec<(u32, u32)> = self
            .by_base
            .range(..end)
            .map(|(start, length)| (*start, *length))
            .filter(|(start, length)| start + length > base)
            .collect();
        for (start, length) in overlapping {
            self.forget(start, length);
            self.free -= length;
            self.free(start, base.saturating_sub(start));
            self.free(end.max(start), (start + length).saturating_sub(end.max(start)));
        }
    }

    /// How many ids are in use.
    pub(super) fn used(&self) -> u32 {
        self.capacity - self.free
    }

    fn remember(&mut self, base: u32, length: u32) {
        self.by_base.insert(base, length);
        self.by_length.insert((length, base));
    }

    fn forget(&mut self, base: u32, length: u32) {
        self.by_base.remove(&base);
        self.by_length.remove(&(length, base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_never_overlap_and_all_come_back(steps in prop::collection::vec((any::<bool>(), 1u32..9), 1..200)) {
            let mut runs = Runs::new(64);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (take, count) in steps {
                if take {
                    if let Some(base) = runs.allocate(count) {
                        prop_assert!(base + count <= 64);
                        prop_assert!(held.iter().all(|(b, c)| base + count <= *b || b + c <= base));
                        held.push((base, count));
                    }
                } else if !held.is_empty() {
                    let (base, count) = held.swap_remove(count as usize % held.len());
                    runs.free(base, count);
                }
                prop_assert_eq!(runs.used(), held.iter().map(|(_, c)| c).sum::<u32>());
            }
            for (base, count) in held {
                runs.free(base, count);
            }
            prop_assert_eq!(runs.allocate(64), Some(0));
        }
    }

    #[test]
    fn reserved_ids_are_not_given_out() {
        let mut runs = Runs::new(10);
        runs.reserve(3, 2);
        runs.reserve(9, 5);
        runs.reserve(4, 1);
        assert_eq!(runs.used(), 3);
        assert_eq!((runs.allocate(4), runs.allocate(3), runs.allocate(1)), (Some(5), Some(0), None));
        runs.free(3, 2);
        assert_eq!(runs.allocate(2), Some(3));
    }
}
