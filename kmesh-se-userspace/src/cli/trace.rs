//! `kmesh-se trace`: connections as they happen.
//!
//! In: events from the admin socket. Out: a line for each. Never: an event from before it was started.

use std::io::{self, Write};

use anyhow::Context;

use super::{AdminArgs, Answer, Mood, Output, Text, block_on, visible};
use crate::{model::HostName, status::TraceEvent};

/// Show connections as they happen, until it is interrupted or the agent stops.
///
/// Connects of TCP and UDP sockets to a service are shown with their backend, refusals of connects and datagrams with
/// the reason. Datagrams of unconnected sockets that are delivered are not shown. JSON is a line for each.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  kmesh-se trace --host httpbin.org\n  kmesh-se trace --failures -o json"
)]
pub struct Args {
    /// Only connections to this host.
    #[arg(long, env = "KMESH_SE_HOST", value_name = "HOST")]
    host: Option<String>,

    /// Only connections of this pod; without a namespace, of every pod of this name.
    #[arg(long, env = "KMESH_SE_POD", value_name = "[NS/]POD")]
    pod: Option<String>,

    /// Only refusals.
    #[arg(long, env = "KMESH_SE_FAILURES")]
    failures: bool,

    /// End after so many lines.
    #[arg(long, env = "KMESH_SE_COUNT", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    #[command(flatten)]
    admin: AdminArgs,
}

/// Runs the command.
///
/// # Errors
/// When no agent answers, or stdout cannot be written.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    let host = args.host.map(|host| HostName::new(&host).to_string());
    let pod = args.pod;
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut result = Ok(true);
    let take = |event: TraceEvent| {
        let is_host = host.is_none() || event.host == host;
        let is_pod =
            pod.as_deref().is_none_or(|pod| event.pod.as_deref().is_some_and(|of| is_called(of, pod)));
        if is_host && is_pod && (event.is_failure() || !args.failures) {
            result = output.line(&event, text);
            left -= 1;
        }
        left > 0 && matches!(result, Ok(true))
    };
    block_on(args.admin.client().lines("/trace", take)).context("the trace ended")?;
    result?;
    Ok(Answer::Yes)
}

/// Whether the pod `namespace/name` is meant by `name`, or by both.
fn is_called(pod: &str, wanted: &str) -> bool {
    pod == wanted || pod.split_once('/').is_some_and(|(_, name)| name == wanted)
}

fn text(event: &TraceEvent, out: &mut Text<'_>) -> io::Result<()> {
    let dialled = std::net::SocketAddr::new(event.address, event.port);
    let (mood, way) = match (event.backend_address, event.backend_port) {
        (Some(address), Some(port)) => {
            (Mood::Good, format!(" -> {}", std::net::SocketAddr::new(address, port)))
        }
        _ => (Mood::Bad, String::new()),
    };
    let comm = event.comm.as_deref().map(|comm| format!(" ({})", visible(comm))).unwrap_or_default();
    let host = event.host.as_deref().unwrap_or("an address that no entry has");
    let client = visible(event.pod.as_ref().unwrap_or(&event.namespace));
    let outcome = out.paint.mood(mood, &event.outcome);
    writeln!(
        out,
        "{:.3} {outcome} {} {dialled}{way} {} by pid {}{comm} in {client}",
        event.time,
        event.protocol,
        visible(host),
        event.pid,
    )
}
