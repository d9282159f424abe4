//! What one run of a program costs, as ratios to an empty program: `cargo test --test sockets -- --ignored --nocapture`.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use tests::bpf::{Objects, bpftool};
use tests::sockets::call::Call;
use tests::sockets::client::Client;
use tests::sockets::translator::Empty;
use tests::topology::BACKEND;

use crate::{arena, server, tcp};

const ROUNDS: usize = 7;
const CONNECTS: usize = 1500;

/// (nanoseconds, runs) of a program of this name at a cgroup, so far.
fn spent(group: &Path, name: &str) -> anyhow::Result<(f64, f64)> {
    let objects = Objects::of(group)?;
    let found = objects.programs.iter().find(|(_, program)| program == name);
    let (id, _) = found.with_context(|| format!("no program {name}"))?;
    let shown = bpftool(&["prog", "show", "id", &id.to_string()])?;
    let number = |field: &str| shown[field].as_f64().unwrap_or(0.0);
    Ok((number("run_time_ns"), number("run_cnt")))
}

fn enter(client: &Client, group: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(group)?;
    fs::write(group.join("cgroup.procs"), client.id().to_string()).context("cannot enter the cgroup")
}

#[test]
#[ignore = "a measurement, not a test"]
fn what_a_connect_costs() -> anyhow::Result<()> {
    let arena = arena()?;
    let (pods, bare) = (arena.parent.join("pods"), arena.parent.join("bare"));
    let (enrolled, plain, alone) = (arena.client(true)?, arena.client(false)?, arena.client(false)?);
    enter(&plain, &pods.join("plain"))?;
    enter(&alone, &bare)?;
    let _empty = Empty::attach(&bare)?;
    let setting = "/proc/sys/kernel/bpf_stats_enabled";
    let before = fs::read_to_string(setting)?;
    fs::write(setting, "1")?;
    let (direct, [vip, _]) = (server(BACKEND), tcp(&arena, "both")?);
    let arms = [
        ("empty", &alone, direct, &bare, "empty"),
        ("not enrolled", &plain, direct, &pods, "kmse_connect4"),
        ("miss", &enrolled, direct, &pods, "kmse_connect4"),
        ("hit", &enrolled, vip, &pods, "kmse_connect4"),
        ("release of a miss", &enrolled, direct, &pods, "kmse_release"),
        ("release of a hit", &enrolled, vip, &pods, "kmse_release"),
    ];
    let mut all = vec![Vec::new(); arms.len()];
    for round in 0..=ROUNDS {
        for (number, (_, client, to, group, program)) in arms.iter().enumerate() {
            let (time, runs) = spent(group, program)?;
            client.call(&Call::Loop { to: *to, count: CONNECTS })?;
            let (later, more) = spent(group, program)?;
            // The first round warms up.
            if round > 0 {
                all[number].push((later - time) / (more - runs));
            }
        }
    }
    fs::write(setting, before)?;
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let base = median(&mut all[0]);
    for ((name, ..), values) in arms.iter().zip(&mut all) {
        let (low, high) =
            (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(0.0, f64::max));
        let middle = median(values);
        println!("{name:20} {middle:7.0} ns  {:5.2} x  ({low:.0} to {high:.0})", middle / base);
    }
    Ok(())
}
