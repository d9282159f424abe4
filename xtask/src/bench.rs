//! `cargo xtask bench`: what kmesh-se costs, against no program at all, nftables and a proxy.
//!
//! In: this machine. Out: a table, `target/bench/bench.json`, two plots, and with `--write-docs` the page
//! `docs/performance.md`. Never: a failure because a number is bad; only because something does not run.

mod docs;
mod hooks;
mod machine;
mod plot;
mod report;
mod scale;
mod series;
mod table;
mod traffic;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use tests::bench::{Empty, Envoy, Node, Yard, entries_of};
use tests::{agent, clean};

use crate::{setup, workspace};
use report::{Report, Settings};

/// What is measured, and what is written.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Less than a minute: two short rounds of everything, only to see that it runs
    #[arg(long)]
    quick: bool,
    /// Only this part; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<Part>,
    /// Rounds in which the arms alternate [default: 50; with --quick 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// How full the frontend map is for the cost of a hit [default: 10,1000,100000; with --quick 10,1000]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    frontends: Vec<u32>,
    /// How many entries an agent is given to see how it scales [default: 100,10000; with --quick 100,1000]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    entries: Vec<u32>,
    /// The niceness of clients, server and proxy: -15 to be disturbed less on a machine that has other work
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i8).range(-20..=19))]
    nice: i8,
    /// Write docs/performance.md, its data and its plots as well
    #[arg(long)]
    write_docs: bool,
    /// Measure nothing: print, plot and write what this JSON of an earlier run holds
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "only", "rounds", "frontends", "entries"])]
    from: Option<PathBuf>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Connect, request, reply, close
    Crr,
    /// Request and reply on an open connection
    Rr,
    /// Bulk throughput
    Stream,
    /// Request and reply on an unconnected datagram socket
    Udp,
    /// What one run of connect4 costs
    Hooks,
    /// The agent with many entries
    Scale,
}

/// How much is done.
struct Plan {
    quick: bool,
    parts: Vec<Part>,
    rounds: u32,
    /// How long one arm is measured in one round.
    slot: Duration,
    frontends: Vec<u32>,
    entries: Vec<u32>,
    /// Changes of one entry.
    changes: u32,
    nice: i8,
}

impl Plan {
    fn of(options: &Options) -> Plan {
        let quick = options.quick;
        let or = |given: &[u32], quickly: &[u32], fully: &[u32]| {
            let chosen = if !given.is_empty() {
                given
            } else if quick {
                quickly
            } else {
                fully
            };
            let mut chosen = chosen.to_vec();
            chosen.sort_unstable();
            chosen.dedup();
            chosen
        };
        let parts =
            if options.only.is_empty() { Part::value_variants().to_vec() } else { options.only.clone() };
        Plan {
            quick,
            parts,
            rounds: options.rounds.unwrap_or(if quick { 2 } else { 50 }),
            slot: Duration::from_millis(if quick { 50 } else { 150 }),
            frontends: or(&options.frontends, &[10, 1000], &[10, 1000, 100_000]),
            entries: or(&options.entries, &[100, 1000], &[100, 10_000]),
            changes: if quick { 3 } else { 50 },
            nice: options.nice,
        }
    }

    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

/// The programs that are measured.
struct Programs {
    agent: PathBuf,
    load: PathBuf,
}

/// Measures and writes; the answer is whether all that was asked for ran.
///
/// # Errors
/// When something does not run.
pub(crate) fn bench(options: &Options) -> anyhow::Result<bool> {
    let report = match &options.from {
        Some(file) => Report::read(file)?,
        None => measure(&Plan::of(options))?,
    };
    println!("{}", table::text(&report));
    let folder = tests::stage::target_folder().join("bench");
    for path in write(&report, &folder)? {
        println!("bench: {}", path.display());
    }
    if options.write_docs {
        for path in docs::write(&report, &workspace::root().join("docs"))? {
            println!("bench: {}", path.display());
        }
    }
    Ok(true)
}

/// The data and the plots.
fn write(report: &Report, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(folder)?;
    let json = folder.join("bench.json");
    report.write(&json)?;
    Ok([vec![json], plot::write(report, folder)?].concat())
}

fn measure(plan: &Plan) -> anyhow::Result<Report> {
    clean::need_root()?;
    let programs = build(plan.quick)?;
    let mut skipped = Vec::new();
    if let Err(error) = setup::compared() {
        say(&format!("some rows will be missing: {error:#}"));
    }
    let session = machine::Session::with_nice(plan.nice);
    let began = Instant::now();
    let mut yard = Yard::start(&programs.load, plan.nice)?;
    let empty = Empty::attach(yard.cgroup("empty")?)?;
    let smallest = plan.frontends.first().copied().unwrap_or(10);
    let node = start(&yard, &programs, "agent", entries_of(smallest))?;
    let nftables = yard.add_nftables();
    if let Err(error) = &nftables {
        skipped.push(format!("nftables: {error:#}"));
    }
    let envoy = Envoy::start(&yard);
    if let Err(error) = &envoy {
        skipped.push(format!("Envoy: {error:#}"));
    }
    let waypoint = start_waypoint(&yard, &programs, &mut skipped);
    let (client_cpu, server_cpu) = yard.cpus();
    let settings = Settings {
        quick: plan.quick,
        rounds: plan.rounds,
        slot_millis: u64::try_from(plan.slot.as_millis())?,
        nice: plan.nice,
        client_cpu,
        server_cpu,
        envoy: envoy.as_ref().map(|envoy| envoy.version.clone()).ok(),
        nftables: nftables.is_ok().then(machine::nftables).flatten(),
    };
    let mut report = Report::begin(settings, skipped);
    let ways = traffic::Ways {
        empty: &empty,
        node: &node,
        nftables: nftables.is_ok(),
        envoy: envoy.is_ok(),
        waypoint: waypoint.as_ref(),
    };
    for (part, kind) in traffic::KINDS {
        if plan.has(part) {
            say(&format!("{kind:?}: {} rounds of {:?} for each arm …", plan.rounds, plan.slot));
            report.traffic.extend(traffic::measure(&yard, &ways, kind, plan.rounds, plan.slot)?);
        }
    }
    drop(envoy);
    if plan.has(Part::Hooks) {
        report.hooks = hooks::measure(&yard, &programs, &empty, &node, waypoint.as_ref(), plan)?;
    }
    waypoint.map(Node::stop).transpose()?;
    if plan.has(Part::Scale) {
        report.scale = scale::measure(&yard, &programs, plan)?;
    }
    let report = report.end(began.elapsed())?;
    node.stop()?;
    drop((empty, session));
    let left = yard.end();
    anyhow::ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(report)
}

/// An agent with a waypoint, if there is an Envoy for it.
fn start_waypoint(yard: &Yard, programs: &Programs, skipped: &mut Vec<String>) -> Option<Node> {
    let envoy = Envoy::program()?;
    let node = Node::start_waypoint(yard, &programs.agent, "waypoint", &envoy);
    node.map_err(|error| skipped.push(format!("the waypoint: {error:#}"))).ok()
}

fn say(what: &str) {
    println!("bench: {what}");
}

/// An agent with so many entries, and a line that says so.
fn start(yard: &Yard, programs: &Programs, name: &str, entries: u32) -> anyhow::Result<Node> {
    let node = Node::start(yard, &programs.agent, name, entries)?;
    let secs = node.programmed_after.as_secs_f64();
    say(&format!("an agent with {entries} entries more: programmed after {secs:.2} s"));
    Ok(node)
}

/// Builds both programs: with optimizations, unless it shall be quick.
///
/// `KMESH_SE_BIN` names another agent, as it does for the tests; then the machine is taken as it is.
fn build(quick: bool) -> anyhow::Result<Programs> {
    let agent = match std::env::var_os("KMESH_SE_BIN") {
        Some(_) => agent::program()?,
        None => workspace::build_agent(!quick)?,
    };
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package", "tests", "--bin", "kmse-load"]);
    if !quick {
        cargo.arg("--release");
    }
    let status = cargo.status().context("cannot run cargo")?;
    anyhow::ensure!(status.success(), "kmse-load does not build");
    let profile = if quick { "debug" } else { "release" };
    Ok(Programs { agent, load: tests::stage::target_folder().join(profile).join("kmse-load") })
}
