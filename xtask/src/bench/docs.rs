//! The page `docs/performance.md`.
//!
//! In: a report. Out: the page, and beside it the data and the plots it was made of. Never: a sentence about
//! a number that is not in the report.

use std::path::{Path, PathBuf};

use super::report::Report;
use super::verdict::{self, Verdict};
use super::{plot, table};

/// Writes the page and its parts below `docs`.
pub(super) fn write(report: &Report, docs: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = docs.join("performance");
    std::fs::create_dir_all(&folder)?;
    let json = folder.join("bench.json");
    report.write(&json)?;
    let plots = plot::write(report, &folder)?;
    let path = docs.join("performance.md");
    std::fs::write(&path, page(report, &plots))?;
    Ok([vec![path, json], plots].concat())
}

fn page(report: &Report, plots: &[PathBuf]) -> String {
    let mut text = String::from("# Performance\n\n");
    text += "Written by `cargo xtask bench --write-docs`; do not edit. The data is in\n";
    text += "[performance/bench.json](performance/bench.json), and `cargo xtask bench --from` that file `--write-docs`\n";
    text += "makes this page from it again.\n\n";
    text += &remarks(report);
    text += &machine(report);
    text += &method(report);
    for table in table::tables(report) {
        text += &format!("\n## {}\n\n{}", table.title, table.markdown());
    }
    text += &lost(report);
    for plot in plots.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy()) {
        text += &format!("\n![{plot}](performance/{plot})\n");
    }
    text
}

/// How far to trust it.
fn remarks(report: &Report) -> String {
    let mut text = String::new();
    let [before, after] = report.load_average;
    if report.settings.quick {
        text += "**This was a `--quick` run: two short rounds. Nothing follows from its numbers.**\n\n";
    }
    // The benchmark itself keeps about one CPU busy.
    if before > 0.5 {
        text += &format!(
            "**The machine was not quiet**: the load average was {before} before and {after} after, on {} CPUs. \
             Arms alternate, so ratios suffer less than times do, but intervals are wide and high percentiles are \
             those of the scheduler.\n\n",
            report.machine.cpus
        );
    }
    for what in &report.skipped {
        text += &format!("**Not measured:** {what}\n\n");
    }
    text
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let below = if machine.virtual_machine { ", a virtual machine" } else { "" };
    let jit = if machine.bpf_jit { "compiled" } else { "interpreted" };
    let settings = &report.settings;
    let version = |name: &str, version: &Option<String>| {
        version.as_ref().map_or_else(|| format!("no {name}"), |version| format!("{name} {version}"))
    };
    format!(
        "| | |\n|---|---|\n| date, commit | {}, `{}` |\n| CPU | {}, {} CPUs{below} |\n| memory | {} MiB |\n\
         | kernel | Linux {}, BPF {jit} |\n| compared with | {}, {} |\n| load average | {} before, {} after |\n\
         | rounds | {} of {} ms for each arm, {:.0} s in all; niceness {} |\n\n",
        report.date,
        report.commit,
        machine.cpu,
        machine.cpus,
        machine.memory_mib,
        machine.kernel,
        version("nftables", &settings.nftables),
        version("Envoy", &settings.envoy),
        report.load_average[0],
        report.load_average[1],
        settings.rounds,
        settings.slot_millis,
        report.took_secs,
        settings.nice,
    )
}

fn method(report: &Report) -> String {
    let settings = &report.settings;
    format!(
        "## How it is measured\n\n\
Client and server are two network namespaces on one bridge, each behind a veth pair. One client with one connection (or \
datagram) at a time, on CPU {}; the server on CPU {}. In each round every arm has its turn, each in a fresh process, every \
other round backwards. A time is the median over rounds of the round's percentile. A ratio is taken within each round; its \
interval is the 95 % confidence interval of the median (least and most with fewer than six rounds). No request may fail: \
one that does ends the run.\n\n\
| arm | is |\n|---|---|\n\
| direct | no program at the client's cgroup, the backend's address. What programs at other cgroups cost everybody (a static key) is in it |\n\
| direct, again | the same once more: its distance from 1 is noise |\n\
| empty program | `r0 = 1; exit` at connect4, sendmsg4 and recvmsg4, the backend's address |\n\
| not enrolled | kmesh-se's programs at the cgroup, but the client is not enrolled; the backend's address |\n\
| miss | enrolled; the backend's address, which is no VIP |\n\
| hit | enrolled; the VIP of a STATIC ServiceEntry with this backend |\n\
| nftables DNAT | one rule in the output hook, and so conntrack; in a client namespace of its own on the same bridge, for conntrack would be on every arm's path |\n\
| Envoy tcp_proxy | stock, one worker, no access log, on the loopback of the client's namespace as a sidecar is. The client dials it straight: the redirection that a sidecar needs comes on top. Not pinned: with two CPUs it has none of its own |\n\
| VIP through waypoint | enrolled; the VIP of the same entry, bound to a waypoint: the agent runs the same Envoy on the same loopback, as it does for users, with two workers and the statistics of its listeners, and the kernel leads the connection there |\n\n\
The cost of connect4 is the kernel's own `run_time_ns / run_cnt` over a CRR loop, counted only in that part of the run. It \
holds the time of reading the clock, as the empty program's does. What a hit costs when its socket goes is not in it. One depth \
of the cgroup tree holds enrolled cgroups; each further one adds a look-up to all but the empty program.\n\n\
Programmed: from the start of the process until the maps hold all and the agent is healthy, to within 60 ms; files are \
parsed in that time. A change: from renaming the file into place until a client, which connects without a pause, begins a \
connection that reaches the new backend. Every entry has one endpoint.\n",
        settings.client_cpu, settings.server_cpu,
    )
}

/// What did not reach its target.
fn lost(report: &Report) -> String {
    let lines = verdict::lines(report);
    let of = |wanted: Verdict| lines.iter().filter(move |line| line.verdict == wanted);
    let mut text = String::from("\n## What lost\n\n");
    if of(Verdict::Missed).next().is_none() {
        text += "No target was missed.\n";
    }
    for line in of(Verdict::Missed) {
        let told = format!("- {}: {}, target {}. {}", line.what, line.measured, line.target, line.why);
        text += &format!("{}\n", told.trim_end());
    }
    if of(Verdict::TooFew).next().is_some() {
        text += "\nWell so far, but the target speaks of 100,000 entries with ten endpoints each, or of a million \
                 frontends: ";
        let lines: Vec<_> =
            of(Verdict::TooFew).map(|line| format!("{} ({})", line.what, line.measured)).collect();
        text += &format!("{}.\n", lines.join("; "));
    }
    if of(Verdict::CannotTell).next().is_some() {
        text += "\nToo noisy to tell: ";
        let lines: Vec<_> =
            of(Verdict::CannotTell).map(|line| format!("{} ({})", line.what, line.measured)).collect();
        text += &format!("{}.\n", lines.join("; "));
    }
    text
}
