//! What one run of connect4 costs, by the kernel's own count.
//!
//! In: an empty program, and agents with more and more frontends. Out: nanoseconds for each run. Never:
//! another client at the same program meanwhile.

use tests::bench::{Client, Empty, Node, Way, Yard, entries_of};
use tests::bpf::{bpftool, count_run_time};
use tests::load::Kind;

use super::report::{Arm, Hook};
use super::series::Series;
use super::{Plan, Programs, say};

const PROGRAM: &str = "kmse_connect4";

/// What is measured in turn.
struct Turn<'a> {
    arm: Arm,
    way: Way<'a>,
    /// Of connect4.
    program: u64,
    frontends: Option<u64>,
    ns: Vec<f64>,
}

/// Measures CRR loops on each way while the kernel counts.
///
/// # Errors
/// When an agent or a client fails.
pub(super) fn measure(
    yard: &Yard,
    programs: &Programs,
    empty: &Empty,
    first: &Node,
    waypoint: Option<&Node>,
    plan: &Plan,
) -> anyhow::Result<Vec<Hook>> {
    let mut more = Vec::new();
    for frontends in plan.frontends.iter().skip(1) {
        more.push(super::start(yard, programs, &format!("agent-{frontends}"), entries_of(*frontends))?);
    }
    let mut turns = vec![Turn {
        arm: Arm::Empty,
        way: Way::Empty(empty),
        program: empty.connect4,
        frontends: None,
        ns: Vec::new(),
    }];
    for (number, node) in std::iter::once(first).chain(&more).enumerate() {
        let (program, frontends) = (node.program_id(PROGRAM)?, node.frontends()?);
        let mut turn = |arm, client| {
            let way = Way::Node(node, client);
            turns.push(Turn { arm, way, program, frontends: Some(frontends), ns: Vec::new() });
        };
        if number == 0 {
            turn(Arm::NotEnrolled, Client::NotEnrolled);
            turn(Arm::Miss, Client::Miss);
        }
        turn(Arm::Hit, Client::Hit);
    }

    if let Some(node) = waypoint {
        let (program, frontends) = (node.program_id(PROGRAM)?, Some(node.frontends()?));
        turns.push(Turn { arm: Arm::Waypoint, way: Way::Waypoint(node), program, frontends, ns: Vec::new() });
    }

    say(&format!("connect4: {} rounds of {:?} for each arm …", plan.rounds, plan.slot));
    let counting = count_run_time()?;
    for round in 0..plan.rounds {
        let mut order: Vec<_> = turns.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for turn in order {
            let (time, runs) = count(turn.program)?;
            yard.measure(Kind::Crr, &turn.way, plan.slot)?;
            let (later, more) = count(turn.program)?;
            anyhow::ensure!(more > runs, "{PROGRAM} did not run for {:?}", turn.way);
            turn.ns.push((later - time) as f64 / (more - runs) as f64);
        }
    }
    drop(counting);

    let empty = Series::of(turns[0].ns.clone());
    let rows = turns.into_iter().map(|turn| {
        let ns = Series::of(turn.ns);
        Hook { arm: turn.arm, frontends: turn.frontends, ratio: ns.over(&empty), ns }
    });
    let rows = rows.collect();
    more.into_iter().try_for_each(Node::stop)?;
    Ok(rows)
}

/// Nanoseconds and runs of a program since it was loaded.
fn count(program: u64) -> anyhow::Result<(u64, u64)> {
    let shown = bpftool(&["prog", "show", "id", &program.to_string()])?;
    // Both are left out as long as they are zero.
    Ok((shown["run_time_ns"].as_u64().unwrap_or(0), shown["run_cnt"].as_u64().unwrap_or(0)))
}
