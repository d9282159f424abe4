//! Work on many items at once.
//!
//! In: items that do not depend on each other, and how much each is. Out: their results, in order. Never: a thread for so
//! little that starting it would cost more.

use std::{num::NonZero, thread};

/// A thread is worth starting for this much: some milliseconds of parsing.
const WORTHWHILE: usize = 64 << 10;
/// A node has other work to do.
const MAX_THREADS: usize = 4;

/// Applies `work` to each item. `size` is what an item is to all, in bytes.
pub(super) fn map<T: Sync, R: Send>(
    items: &[T],
    size: impl Fn(&T) -> usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let total: usize = items.iter().map(&size).sum();
    let threads = (total / WORTHWHILE).min(thread::available_parallelism().map_or(1, NonZero::get));
    if threads.min(MAX_THREADS) <= 1 {
        return items.iter().map(work).collect();
    }
    let parts = cut(items, total.div_ceil(threads.min(MAX_THREADS)), size);
    thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> = parts
            .into_iter()
            .map(|part| scope.spawn(move || part.iter().map(work).collect::<Vec<R>>()))
            .collect();
        let join = |part: thread::ScopedJoinHandle<'_, Vec<R>>| {
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        started.into_iter().flat_map(join).collect()
    })
}

/// Cuts `items` into neighbouring parts of about `each`.
fn cut<T>(items: &[T], each: usize, size: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut parts = Vec::new();
    let (mut start, mut sum) = (0, 0);
    for (i, item) in items.iter().enumerate() {
        sum += size(item);
        if sum >= each {
            parts.push(&items[start..=i]);
            (start, sum) = (i + 1, 0);
        }
    }
    if start < items.len() {
        parts.push(&items[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items_whatever_their_sizes() {
        for sizes in [vec![], vec![1; 10], vec![WORTHWHILE; 9], vec![0, 10 * WORTHWHILE, 1, 0, 0, 7]] {
            let items: Vec<(usize, usize)> = sizes.into_iter().enumerate().collect();
            let found = map(&items, |(_, size)| *size, |(number, _)| *number);
            assert_eq!(found, (0..items.len()).collect::<Vec<_>>());
        }
    }
}
