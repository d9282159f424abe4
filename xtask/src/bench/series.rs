//! Numbers of many rounds, and what they tell.
//!
//! In: a number for each round. Out: the median and how sure it is. Never: a mean, which one disturbed
//! round would spoil.

use serde::{Deserialize, Serialize};

/// A number for each round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    /// The middle one.
    pub(crate) median: f64,
    /// The 95 % confidence interval of the median; with less than six rounds, least and most.
    pub(crate) low: f64,
    /// Its other end.
    pub(crate) high: f64,
    /// In the order in which they were measured.
    pub(crate) rounds: Vec<f64>,
}

impl Series {
    pub(crate) fn of(rounds: Vec<f64>) -> Series {
        let mut sorted = rounds.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return Series::default() };
        let (first, last) = (*first, *last);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        let (low, high) = match outer_ranks(sorted.len()) {
            0 => (first, last),
            rank => (sorted[rank - 1], sorted[sorted.len() - rank]),
        };
        Series { median, low, high, rounds }
    }

    /// This over that, round by round: what disturbs a round disturbs both.
    pub(crate) fn over(&self, other: &Series) -> Series {
        Series::of(self.rounds.iter().zip(&other.rounds).map(|(this, that)| this / that).collect())
    }
}

/// The largest rank k such that the median of the population lies outside the k-th smallest and k-th
/// largest of n values in at most 5 % of cases: 2 P(Bin(n, 1/2) < k) ≤ 0.05. None is 0.
fn outer_ranks(n: usize) -> usize {
    let mut probability = 0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut tail = probability;
    let mut rank = 0;
    while 2.0 * tail <= 0.05 && rank < n / 2 {
        rank += 1;
        probability *= (n + 1 - rank) as f64 / rank as f64;
        tail += probability;
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_tables() {
        // Any table of the sign test has these.
        for (n, rank) in
            [(2, 0), (5, 0), (6, 1), (8, 1), (9, 2), (10, 2), (15, 4), (20, 6), (25, 8), (50, 18)]
        {
            assert_eq!(outer_ranks(n), rank, "{n} rounds");
        }
    }

    #[test]
    fn one_disturbed_round_moves_neither_median_nor_interval() {
        let quiet = Series::of((0..9).map(f64::from).collect());
        let mut rounds = quiet.rounds.clone();
        rounds[8] = 1e9;
        let disturbed = Series::of(rounds);
        assert_eq!((quiet.median, quiet.low, quiet.high), (4.0, 1.0, 7.0));
        assert_eq!((disturbed.median, disturbed.low, disturbed.high), (4.0, 1.0, 7.0));
        assert_eq!(
            Series::of(vec![2.0, 4.0]),
            Series { median: 3.0, low: 2.0, high: 4.0, rounds: vec![2.0, 4.0] }
        );
        assert_eq!(Series::of(Vec::new()).median, 0.0);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let (slow, base) = (Series::of(vec![2.0, 20.0, 4.0]), Series::of(vec![1.0, 10.0, 2.0]));
        assert_eq!(slow.over(&base).rounds, vec![2.0, 2.0, 2.0]);
    }
}
