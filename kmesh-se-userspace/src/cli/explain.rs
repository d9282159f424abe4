//! `kmesh-se explain`: why does a connection go where it goes?
//!
//! In: the admin socket's answer. Out: the steps, and the cause where they end. Never: a cause of its own.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use super::{AdminArgs, Answer, Cell, Mood, Output, Table, Text, block_on, visible};
use crate::{
    enrol::Cgroup,
    explain::{Asked, ExplainRequest, Explanation},
};

/// Show each step from a name or address to the backends, and why it stops where it stops.
///
/// The steps are read from the maps in the kernel as they are now.
///
/// Exit status: 0 it leads to a backend, 1 it does not (the cause is printed), 2 wrong use, or no agent answers.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Examples:\n  kmesh-se explain httpbin.org\n  kmesh-se explain 240.240.0.1:80\n  \
    kmesh-se explain --pid 4711 db.example.com:5432\n  kmesh-se explain --pod shop/web-0 db.example.com"
)]
pub struct Args {
    /// What a client would dial: HOST, HOST:PORT, an address, IPV4:PORT or [IPV6]:PORT. Without a port, all that there are.
    #[arg(value_name = "HOST|IP[:PORT]", value_parser = target)]
    target: String,

    /// Whose view; --pid, --cgroup and --pod bring their own.
    #[arg(short, long, env = "KMESH_SE_NAMESPACE", default_value = "default", value_name = "NS")]
    namespace: String,

    /// Ask for UDP instead of TCP; without a port, for UDP ports only.
    #[arg(long, env = "KMESH_SE_UDP")]
    udp: bool,

    /// Ask for this process: is it enrolled, and what does it see?
    #[arg(long, env = "KMESH_SE_PID", value_name = "PID", conflicts_with = "cgroup")]
    pid: Option<u32>,

    /// The same for the processes of this cgroup.
    #[arg(long, env = "KMESH_SE_CGROUP", value_name = "PATH")]
    cgroup: Option<PathBuf>,

    /// The same for a pod of this node: is it enrolled, what does it see, and if not, why?
    #[arg(long, env = "KMESH_SE_POD", value_name = "NS/POD", conflicts_with_all = ["pid", "cgroup"], value_parser = pod)]
    pod: Option<String>,

    #[command(flatten)]
    admin: AdminArgs,
}

fn pod(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(text.to_owned()),
        _ => Err("a pod is written as NAMESPACE/NAME".to_owned()),
    }
}

fn target(text: &str) -> Result<String, String> {
    Asked::parse(text, false).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// Runs the command.
///
/// # Errors
/// When no agent answers, or there is no such process or cgroup.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    let cgroup = match (args.pid, args.cgroup) {
        (Some(pid), _) => Some(Cgroup::of_process(pid)?.path),
        (None, Some(path)) => Some(Cgroup::open(&path)?.path),
        (None, None) => None,
    };
    let request = ExplainRequest {
        target: args.target,
        namespace: args.namespace,
        cgroup: cgroup.map(|path| path.display().to_string()),
        pod: args.pod,
        udp: args.udp,
    };
    let explanation: Explanation = block_on(args.admin.client().post("/explain", &request))?;
    output.print(&explanation, text)?;
    Ok(if explanation.reachable { Answer::Yes } else { Answer::No })
}

fn text(explanation: &Explanation, out: &mut Text<'_>) -> io::Result<()> {
    let mut table = Table::new(["WELL", "STEP", "FOUND"]);
    for step in &explanation.steps {
        let mark =
            if step.ok { Cell::with_mood("yes", Mood::Good) } else { Cell::with_mood("no", Mood::Bad) };
        table.row([mark, Cell::from(step.step.as_str()), Cell::from(step.detail.as_str())]);
    }
    table.write(out)?;
    let paint = out.paint;
    for warning in &explanation.warnings {
        let word = paint.mood(Mood::Warning, "warning");
        writeln!(out, "{word}: {} ({})", visible(&warning.message), warning.reason)?;
    }
    let (target, namespace) = (visible(&explanation.target), visible(&explanation.namespace));
    match &explanation.cause {
        None => {
            let yes = paint.mood(Mood::Good, "reachable");
            writeln!(out, "{target} is {yes} for clients of {namespace}")
        }
        Some(cause) => {
            let no = paint.mood(Mood::Bad, "not reachable");
            writeln!(
                out,
                "{target} is {no} for clients of {namespace}: {} ({})",
                visible(&cause.message),
                cause.reason
            )
        }
    }
}
