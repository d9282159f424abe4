//! What one run of a program costs, as ratios to an empty program: `cargo test --test sockets -- --ignored --nocapture`.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use tests::bpf::{Objects, bpftool, count_run_time};
use tests::sockets::Arena;
use tests::sockets::call::Call;
use tests::sockets::client::Client;
use tests::sockets::translator::Empty;
use tests::topology::BACKEND;

use super::ranges;
use crate::{TCP, arena, server, service, tcp};

const ROUNDS: usize = 7;
const CONNECTS: usize = 1500;
const MORE_RANGES: usize = 1000;

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

/// A name, who dials what, and the program at a cgroup that is measured.
type Arm<'a> = (&'a str, &'a Client, SocketAddr, &'a Path, &'a str);

#[test]
#[ignore = "a measurement, not a test"]
fn what_a_connect_costs() -> anyhow::Result<()> {
    let arena = arena()?;
    let (pods, bare) = (arena.parent.join("pods"), arena.parent.join("bare"));
    let (enrolled, plain, alone) = (arena.client(true)?, arena.client(false)?, arena.client(false)?);
    enter(&plain, &pods.join("plain"))?;
    enter(&alone, &bare)?;
    let _empty = Empty::attach(&bare)?;
    let _counted = count_run_time()?;
    let (direct, [vip, _]) = (server(BACKEND), tcp(&arena, "both")?);
    let empty: Arm<'_> = ("empty", &alone, direct, &bare, "empty");
    measure(&[
        empty,
        ("not enrolled", &plain, direct, &pods, "kmse_connect4"),
        ("miss", &enrolled, direct, &pods, "kmse_connect4"),
        ("hit", &enrolled, vip, &pods, "kmse_connect4"),
        ("release of a miss", &enrolled, direct, &pods, "kmse_release"),
        ("release of a hit", &enrolled, vip, &pods, "kmse_release"),
    ])?;
    ranges::ranges()?;
    more_ranges(&arena)?;
    println!("with {} ranges:", 5 + MORE_RANGES);
    measure(&[
        empty,
        ("miss", &enrolled, direct, &pods, "kmse_connect4"),
        ("hit", &enrolled, vip, &pods, "kmse_connect4"),
        ("hit of a range", &enrolled, (IpAddr::from([10, 246, 1, 1]), TCP).into(), &pods, "kmse_connect4"),
        ("passed by a range", &enrolled, server(ranges::REAL), &pods, "kmse_connect4"),
    ])?;
    Ok(())
}

/// As many /24 ranges that nobody dials, all over 172.16.0.0/12.
fn more_ranges(arena: &Arena) -> anyhow::Result<()> {
    let of = |chunk: usize| {
        let numbers = (0..MORE_RANGES / 4).map(|n| (chunk * MORE_RANGES / 4 + n) * 4);
        let ranges: Vec<_> = numbers.map(|n| format!("172.{}.{}.0/24", 16 + n / 256, n % 256)).collect();
        service(&format!("more-{chunk}"), &[(BACKEND, 1)], json!({ "addresses": ranges }))
    };
    arena.write("more.yaml", &(0..4).map(of).collect::<String>(), &["more-3.test"])
}

fn measure(arms: &[Arm<'_>]) -> anyhow::Result<()> {
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
