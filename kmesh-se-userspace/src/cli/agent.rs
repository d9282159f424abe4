//! `kmesh-se agent`: the node agent in the foreground.
//!
//! In: its flags. Out: nothing on stdout; logs on stderr. Never: a fork.

use super::{Answer, Output};
use crate::{agent, config::AgentArgs};

/// Run the node agent.
///
/// Watches ServiceEntries, resolves their endpoints, attaches the BPF programs to a cgroup and serves DNS for the
/// processes that are enrolled. It ends with SIGINT or SIGTERM and then leaves nothing in the kernel.
///
/// Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or root), a cgroup2 mount and Linux 5.10 or newer.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  \
    kmesh-se agent --source file:examples --resolver 10.96.0.10\n  \
    kmesh-se agent --source kube --node \"$NODE_NAME\"\n  \
    kmesh-se exec -- curl -s http://kmesh-fake.com/headers")]
pub struct Args {
    #[command(flatten)]
    // It has more flags than all other commands together.
    agent: Box<AgentArgs>,
}

/// Runs the command.
///
/// # Errors
/// When something that the agent needs is missing.
pub(super) fn run(args: Args, _output: &mut Output) -> anyhow::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(agent::run(*args.agent))?;
    Ok(Answer::Yes)
}
