//! The agent with many entries: how soon they are programmed, what they weigh, how soon one changes.
//!
//! In: numbers of entries. Out: a row for each. Never: a change of which a client did not see the effect.

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::Context as _;
use tests::bench::{ECHO, Node, Yard};
use tests::load::Change;

use super::report::Scale;
use super::{Plan, Programs, say};

/// How long a change may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Measures agents with these numbers of entries; their changes alternate.
///
/// # Errors
/// When an agent fails, or a change has no effect.
pub(super) fn measure(yard: &Yard, programs: &Programs, plan: &Plan) -> anyhow::Result<Vec<Scale>> {
    let mut nodes = Vec::new();
    for entries in &plan.entries {
        let node = super::start(yard, programs, &format!("scale-{entries}"), *entries)?;
        let row = Scale {
            entries: node.entries,
            frontends: node.frontends()?,
            programmed_secs: node.programmed_after.as_secs_f64(),
            rss_bytes: node.resident_bytes()?,
            change_ms: Vec::new(),
        };
        nodes.push((node, row));
    }
    say(&format!("one change: {} times for each agent …", plan.changes));
    let mut targets = ECHO.into_iter().rev().cycle();
    for port in targets.by_ref().take(plan.changes as usize) {
        for (node, row) in &mut nodes {
            row.change_ms.push(change(yard, node, port)?);
        }
    }
    let mut rows = Vec::new();
    for (node, row) in nodes {
        node.stop()?;
        rows.push(row);
    }
    Ok(rows)
}

/// Changes one entry; answers how many milliseconds later a connection began that reached the new backend.
fn change(yard: &Yard, node: &Node, port: u16) -> anyhow::Result<f64> {
    // A client for each change: two that connect without a pause would disturb each other.
    let mut watcher = Watcher(yard.watch(node)?);
    let seen = watcher.changes()?;
    let wait =
        |what| seen.recv_timeout(LIMIT).with_context(|| format!("the client that watches saw no {what}"));
    wait("server")?;
    let at_ns = node.lead_to(port)?;
    let change = wait("change")?;
    anyhow::ensure!(
        change.mark == port.to_be_bytes()[1],
        "the entry leads to another server than port {port}"
    );
    Ok((change.at_ns.saturating_sub(at_ns)) as f64 / 1e6)
}

/// A client that watches; dropping it ends it.
struct Watcher(Child);

impl Watcher {
    fn changes(&mut self) -> anyhow::Result<Receiver<Change>> {
        let output = self.0.stdout.take().context("no output")?;
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines
                .filter_map(|line| serde_json::from_str(&line).ok())
                .try_for_each(|change| sender.send(change))
        });
        Ok(receiver)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
