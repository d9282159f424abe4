//! `kmesh-se workloads`: whose connections are handled.
//!
//! In: the admin socket's answer. Out: a row for each enrolled cgroup. Never: an enrolment.

use std::io::{self, Write};

use super::{AdminArgs, Answer, Cell, Mood, Output, Table, Text, block_on};
use crate::status::Workloads;

/// Show the enrolled cgroups, and which pods of this node are not enrolled, and why.
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
        writeln!(
            out,
            "Nothing is enrolled: label a namespace istio.io/dataplane-mode=Kmesh, run a command with kmesh-se exec, or \
             give the agent --enrol."
        )?;
        return left_alone(workloads, out);
    }
    let mut table = Table::new(["NAMESPACE", "POD", "ID", "LEVEL", "DNS PORT", "PROCESSES", "CGROUP"]);
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
            Cell::from(pod_name(workload.pod.as_deref())),
            Cell::from(workload.id.to_string()),
            Cell::from(workload.level.to_string()),
            Cell::from(workload.dns_port.map(|port| port.to_string()).unwrap_or_default()),
            Cell::from(workload.processes.map(|count| count.to_string()).unwrap_or_default()),
            path,
        ]);
    }
    table.write(out)?;
    left_alone(workloads, out)
}

/// The pods that are not enrolled.
fn left_alone(workloads: &Workloads, out: &mut Text<'_>) -> io::Result<()> {
    if workloads.pods_left_alone.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Table::new(["POD NOT ENROLLED", "REASON", "WHY"]);
    for row in &workloads.pods_left_alone {
        table.row([
            Cell::from(row.pod.as_str()),
            Cell::with_mood(row.reason.as_str(), Mood::Warning),
            Cell::from(row.message.as_str()),
        ]);
    }
    table.write(out)
}

/// The second half of `namespace/name`.
fn pod_name(pod: Option<&str>) -> &str {
    pod.and_then(|pod| pod.split_once('/')).map(|(_, name)| name).unwrap_or_default()
}
