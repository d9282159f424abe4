//! How fast writes go out.
//!
//! In: when writes start and end. Out: when the next one may start. Never: more of them in any second than the limit.
//!
//! A write reaches the API server at some time between its start and its end, late if this machine or the network is busy. So
//! each holds one of as many places as there may be writes in a second, and the place is free a second after the write has ended:
//! whenever they arrive, two writes of one place are a second apart.

use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

use tokio::time::Instant;

/// For how long a place is kept after a write.
const SECOND: Duration = Duration::from_secs(1);
/// How much of a pause is made up for.
const LAG: Duration = Duration::from_millis(100);

/// The places.
#[derive(Debug)]
pub(super) struct Pace {
    limit: usize,
    spacing: Duration,
    under_way: usize,
    /// The ends of the last writes, whose places are kept.
    ended: VecDeque<Instant>,
    /// When the next one would start if all were evenly spread.
    next: Instant,
}

impl Pace {
    /// No more than `limit` in a second.
    pub(super) fn new(limit: NonZeroU32) -> Self {
        let spacing = SECOND / limit.get();
        let limit = usize::try_from(limit.get()).unwrap_or(usize::MAX);
        Self { limit, spacing, under_way: 0, ended: VecDeque::new(), next: Instant::now() }
    }

    /// When the next write may start; none while it is not known, since a write has to end first.
    pub(super) fn ready_at(&self) -> Option<Instant> {
        if self.under_way + self.ended.len() < self.limit {
            return Some(self.next);
        }
        self.ended.front().map(|ended| self.next.max(*ended + SECOND))
    }

    /// A write starts `now`.
    pub(super) fn start(&mut self, now: Instant) {
        if self.under_way + self.ended.len() >= self.limit {
            self.ended.pop_front();
        }
        self.under_way += 1;
        self.next = (self.next + self.spacing).max(now.checked_sub(LAG).unwrap_or(now));
    }

    /// One has ended.
    pub(super) fn end(&mut self, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        self.ended.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When each of the writes arrives that fit into `seconds`; each takes up to `latency`, and arrives at any time meanwhile.
    fn run(limit: u32, seconds: u64, latency: Duration) -> Vec<Instant> {
        let mut pace = Pace::new(NonZeroU32::new(limit).expect("a limit"));
        let mut now = Instant::now();
        let end = now + Duration::from_secs(seconds);
        let (mut arrivals, mut ends) = (Vec::new(), std::collections::BinaryHeap::new());
        while now < end {
            let first_end = ends.peek().map(|std::cmp::Reverse(end)| *end);
            match (pace.ready_at(), first_end) {
                (Some(ready), first_end) if first_end.is_none_or(|end| ready.max(now) < end) => {
                    // As a timer that is a little late each time.
                    now = now.max(ready) + Duration::from_micros(700);
                    pace.start(now);
                    let took = latency.mul_f64(rand::random_range(0.1..=1.0));
                    arrivals.push(now + took.mul_f64(rand::random_range(0.0..=1.0)));
                    ends.push(std::cmp::Reverse(now + took));
                }
                (_, Some(ended)) => {
                    now = now.max(ended);
                    pace.end(now);
                    ends.pop();
                }
                (_, None) => panic!("neither a start nor an end"),
            }
        }
        arrivals.sort();
        arrivals
    }

    #[test]
    fn no_second_has_more_than_the_limit_and_little_of_it_is_left_unused() {
        for (limit, latency, used) in
            [(1, 20, 0.9), (3, 20, 0.9), (50, 20, 0.9), (50, 500, 0.6), (250, 50, 0.9)]
        {
            let arrivals = run(limit, 10, Duration::from_millis(latency));
            for (i, first) in arrivals.iter().enumerate() {
                let within = arrivals[i..].iter().take_while(|other| **other - *first < SECOND);
                assert!(within.count() <= limit as usize, "{limit} {latency}");
            }
            let wanted = f64::from(limit) * 10.0 * used;
            assert!(arrivals.len() as f64 > wanted, "{limit} {latency}: {}", arrivals.len());
        }
    }

    #[test]
    fn the_first_writes_are_spread_too() {
        let arrivals = run(50, 2, Duration::from_millis(1));
        let first = arrivals[20] - arrivals[0];
        assert!(first >= Duration::from_millis(300), "{first:?}");
    }
}
