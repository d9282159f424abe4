//! `kmesh-se status`: is the agent healthy?
//!
//! In: the admin socket's answer. Out: the same for people. Never: a judgement of its own.

use std::io::{self, Write};

use super::{AdminArgs, Answer, Mood, Output, Text, block_on, visible};
use crate::status::{ConditionStatus, Status};

/// How many hosts that wait for an address are shown; JSON has all.
const SHOWN_PENDING: usize = 10;

/// Show whether the agent is healthy, and what it holds.
///
/// Exit status: 0 healthy, 1 not healthy (the reasons are printed), 2 no agent answers.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,
}

/// Runs the command.
///
/// # Errors
/// When no agent answers.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    let status: Status = block_on(args.admin.client().get("/status"))?;
    output.print(&status, text)?;
    Ok(if status.healthy { Answer::Yes } else { Answer::No })
}

/// A line for each condition that is not as it should be, behind `indent`.
pub(super) fn pending(hosts: &[ConditionStatus], indent: &str, out: &mut Text<'_>) -> io::Result<()> {
    let word = out.paint.mood(Mood::Warning, "pending");
    for waiting in hosts.iter().take(SHOWN_PENDING) {
        let entry = format!("ServiceEntry {}/{}", waiting.namespace, waiting.name);
        writeln!(out, "{indent}{word} {entry}: {}: {} ({})", waiting.host, waiting.message, waiting.reason)?;
    }
    match hosts.len().checked_sub(SHOWN_PENDING) {
        Some(more @ 1..) => writeln!(out, "{indent}{word} {more} more hosts"),
        _ => Ok(()),
    }
}

fn text(status: &Status, out: &mut Text<'_>) -> io::Result<()> {
    let paint = out.paint;
    let health =
        if status.healthy { paint.mood(Mood::Good, "healthy") } else { paint.mood(Mood::Bad, "not healthy") };
    writeln!(
        out,
        "agent {} (pid {}) is {health}, up {} s, revision {}",
        status.version, status.pid, status.uptime_secs, status.revision
    )?;
    for reason in &status.unhealthy_because {
        writeln!(out, "  {}", paint.mood(Mood::Bad, reason))?;
    }
    let source = &status.source;
    let synced = if source.synced { "synced" } else { "not synced" };
    writeln!(out, "source    {} {synced}, {} entries accepted", source.location, source.entries)?;
    for object in &source.objects {
        let (mood, word, issues) = if object.accepted {
            (Mood::Warning, "warning", &object.warnings)
        } else {
            (Mood::Bad, "rejected", &object.errors)
        };
        for issue in issues {
            let word = paint.mood(mood, word);
            let object = format!("{} {}/{}", object.kind, object.namespace, object.name);
            writeln!(out, "  {word} {object}: {}: {} ({})", issue.field, issue.message, issue.reason)?;
        }
    }
    for problem in &source.problems {
        let word = paint.mood(Mood::Bad, "problem");
        writeln!(out, "  {word} {}: {} ({})", problem.origin, problem.message, problem.reason)?;
    }
    pending(&status.pending, "  ", out)?;
    let programs = &status.programs;
    writeln!(out, "programs  {} attached to {}", programs.programs.len(), programs.cgroup)?;
    for route in &status.routes {
        match &route.problem {
            None => writeln!(out, "route     unreachable {}", route.range)?,
            Some(problem) => {
                let missing = paint.mood(Mood::Warning, "missing");
                writeln!(out, "route     {missing} unreachable {}: {problem}", route.range)?;
            }
        }
    }
    for rival in &programs.rivals {
        writeln!(out, "  {} {rival}", paint.mood(Mood::Warning, "warning"))?;
    }
    if !programs.others.is_empty() {
        let others: Vec<_> =
            programs.others.iter().map(|other| format!("{} ({})", visible(&other.name), other.id)).collect();
        writeln!(out, "others    {}", others.join(", "))?;
    }
    writeln!(out, "enrolled  {} cgroups", status.workloads)?;
    if let Some(pods) = &status.pods {
        let left: Vec<_> =
            pods.left_alone.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let left = if left.is_empty() { String::new() } else { format!("; left alone: {}", left.join(", ")) };
        writeln!(out, "pods      {} enrolled{left}", pods.enrolled)?;
    }
    if let Some(waypoint) = &status.waypoint {
        let listen: Vec<_> = waypoint.listen.iter().map(ToString::to_string).collect();
        let state = match waypoint.pid.filter(|_| waypoint.running) {
            Some(pid) => paint.mood(Mood::Good, format!("runs (pid {pid})")),
            None => paint.mood(Mood::Bad, "does not run"),
        };
        let (through, services) = (waypoint.through, waypoint.services);
        let listen = listen.join(", ");
        writeln!(out, "waypoint  {state} at {listen}, {through} of {services} services go through it")?;
        pending(&waypoint.conditions, "  ", out)?;
    }
    let dns = &status.dns;
    let count = |name: &str| dns.queries.get(name).copied().unwrap_or_default();
    writeln!(
        out,
        "dns       {} for {}: {} queries, {} answered, {} forwarded, {} failed, {} refused",
        dns.listen,
        dns.resolvers.join(", "),
        count("queries"),
        count("answered"),
        count("forwarded"),
        count("failedUpstream"),
        count("refused")
    )?;
    let resolve = &status.resolve;
    writeln!(
        out,
        "resolve   {} names, {} failing, {} idle; {} hosts not asked for yet",
        resolve.names,
        resolve.failing.len(),
        resolve.idle,
        resolve.not_asked_for
    )?;
    for name in &status.resolve.failing {
        let age =
            name.age_secs.map_or_else(|| "never answered".to_owned(), |s| format!("last answer {s} s ago"));
        let stale = if name.stale { ", old addresses are used" } else { "" };
        writeln!(
            out,
            "  {} {}: {} ({age}{stale})",
            paint.mood(Mood::Warning, "failing"),
            name.name,
            name.error
        )?;
    }
    let maps: Vec<_> = status.maps.iter().map(|m| format!("{} {}/{}", m.name, m.used, m.capacity)).collect();
    writeln!(out, "maps      {}", maps.join(", "))?;
    let counters: Vec<_> =
        status.counters.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {n}")).collect();
    writeln!(
        out,
        "counters  {}",
        if counters.is_empty() { "none yet".to_owned() } else { counters.join(", ") }
    )?;
    for refusal in status.refusals.iter().rev().take(5) {
        let address = std::net::SocketAddr::new(refusal.address, refusal.port);
        writeln!(
            out,
            "  refused {} {address} of pid {} in {}: {}",
            refusal.protocol, refusal.pid, refusal.namespace, refusal.reason
        )?;
    }
    Ok(())
}
