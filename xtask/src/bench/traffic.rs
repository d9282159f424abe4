//! CRR, RR, STREAM and UDP on every way.
//!
//! In: the ways. Out: a row for each. Never: one way to the end and then the next: they alternate, so that
//! what disturbs the machine disturbs all.

use std::time::Duration;

use tests::bench::{Client, Empty, Node, Way, Yard, destination};
use tests::load::{Kind, Summary};

use super::Part;
use super::report::{Arm, Traffic};
use super::series::Series;

/// Parts of the benchmark that are traffic.
pub(super) const KINDS: [(Part, Kind); 4] =
    [(Part::Crr, Kind::Crr), (Part::Rr, Kind::Rr), (Part::Stream, Kind::Stream), (Part::Udp, Kind::Udp)];

/// What there is.
pub(super) struct Ways<'a> {
    pub(super) empty: &'a Empty,
    pub(super) node: &'a Node,
    pub(super) nftables: bool,
    pub(super) envoy: bool,
    /// An agent with a waypoint.
    pub(super) waypoint: Option<&'a Node>,
}

impl<'a> Ways<'a> {
    /// Those that carry this kind of traffic.
    fn of(&self, kind: Kind) -> Vec<(Arm, Way<'a>)> {
        let node = |client| Way::Node(self.node, client);
        let mut ways = vec![
            (Arm::Direct, Way::Direct),
            (Arm::Empty, Way::Empty(self.empty)),
            (Arm::NotEnrolled, node(Client::NotEnrolled)),
            (Arm::Miss, node(Client::Miss)),
            (Arm::Hit, node(Client::Hit)),
        ];
        ways.extend(self.nftables.then_some((Arm::Nftables, Way::Nftables)));
        ways.extend(self.envoy.then_some((Arm::Envoy, Way::Envoy)));
        ways.extend(self.waypoint.map(|node| (Arm::Waypoint, Way::Waypoint(node))));
        ways.push((Arm::Again, Way::Direct));
        ways.retain(|(_, way)| destination(kind, way).is_some());
        ways
    }
}

/// Measures all arms in each round; every other round backwards.
///
/// # Errors
/// When a client fails.
pub(super) fn measure(
    yard: &Yard,
    ways: &Ways<'_>,
    kind: Kind,
    rounds: u32,
    slot: Duration,
) -> anyhow::Result<Vec<Traffic>> {
    let ways = ways.of(kind);
    let mut measured: Vec<Vec<Summary>> = vec![Vec::new(); ways.len()];
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..ways.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            measured[index].push(yard.measure(kind, &ways[index].1, slot)?);
        }
    }
    let arms = ways.iter().map(|(arm, _)| *arm);
    let mut rows: Vec<_> = arms.zip(&measured).map(|(arm, rounds)| row(kind, arm, rounds)).collect();
    let direct = rows[0].metric().clone();
    rows.iter_mut().for_each(|row| row.ratio = row.metric().over(&direct));
    Ok(rows)
}

fn row(kind: Kind, arm: Arm, rounds: &[Summary]) -> Traffic {
    let series = |of: &dyn Fn(&Summary) -> f64| Series::of(rounds.iter().map(of).collect());
    let micros = |of: &dyn Fn(&Summary) -> u64| {
        if kind == Kind::Stream { Series::default() } else { series(&|round| of(round) as f64 / 1e3) }
    };
    let done = |round: &Summary| if kind == Kind::Stream { round.bytes * 8 } else { round.requests };
    Traffic {
        kind,
        arm,
        p50_us: micros(&|round| round.p50_ns),
        p90_us: micros(&|round| round.p90_ns),
        p99_us: micros(&|round| round.p99_ns),
        per_second: series(&|round| done(round) as f64 / round.secs),
        ratio: Series::default(),
        lost: rounds.iter().map(|round| round.lost).sum(),
    }
}
