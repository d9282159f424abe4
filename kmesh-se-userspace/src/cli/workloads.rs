//! `kmesh-se workloads`: whose connections are handled.
//!
//! In: the admin socket's answer. Out: a row for each enrolled cgroup. Never: an enrolment.

use std::io::{self, Write};

use super::{AdminArgs, Answer, Cell, Mood, Output, Table, Text, block_on};
use crate::status::Workloads;

/// Show the enrolled cgroups.
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
    let workloads: Workloads = block_on(args.admin.client().get("/workloads"))?;
    output.print(&workloads, text)?;
    Ok(Answer::Yes)
}

fn text(workloads: &Workloads, out: &mut Text<'_>) -> io::Result<()> {
    if workloads.workloads.is_empty() {
        return writeln!(
            out,
            "Nothing is enrolled: run a command with kmesh-se exec, or give the agent --enrol."
        );
    }
    let mut table = Table::new(["NAMESPACE", "ID", "LEVEL", "DNS PORT", "PROCESSES", "CGROUP"]);
    for workload in &workloads.workloads {
        let namespace = match &workload.namespace {
            Some(namespace) => Cell::from(namespace.as_str()),
            None => Cell::with_mood("exempt", Mood::Warning),
        };
        let path = match &workload.cgroup {
            Some(path) => Cell::from(path.as_str()),
            None => Cell::with_mood("gone", Mood::Warning),
        };
        table.row([
            namespace,
            Cell::from(workload.id.to_string()),
            Cell::from(workload.level.to_string()),
            Cell::from(workload.dns_port.map(|port| port.to_string()).unwrap_or_default()),
            Cell::from(workload.processes.map(|count| count.to_string()).unwrap_or_default()),
            path,
        ]);
    }
    table.write(out)
}
