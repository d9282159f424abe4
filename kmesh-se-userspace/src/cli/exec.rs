//! `kmesh-se exec`: runs a command enrolled.
//!
//! In: a namespace and a command line. Out: the command itself, in this process's place. Never: a return, unless
//! something failed before.

use std::{ffi::OsString, fs, os::unix::process::CommandExt, path::Path, process::Command};

use anyhow::Context;

use super::{AdminArgs, Answer, Output, block_on};
use crate::status::{ExecAnswer, ExecRequest};

/// Run a command as a client of a namespace.
///
/// The agent makes a cgroup for the command and enrols it; when the command and all that it started are gone, the cgroup
/// goes too. The command takes this process's place, so its exit status and signals are its own.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Example:\n  kmesh-se exec --namespace default -- curl -s http://kmesh-fake.com/headers"
)]
pub struct Args {
    /// The namespace whose view the command gets.
    #[arg(short, long, env = "KMESH_SE_NAMESPACE", default_value = "default", value_name = "NS")]
    pub namespace: String,

    #[command(flatten)]
    admin: AdminArgs,

    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Runs the command.
///
/// # Errors
/// When no agent answers, the cgroup cannot be entered, or the command cannot be started.
pub(super) fn run(args: Args, _output: &mut Output) -> anyhow::Result<Answer> {
    let request = ExecRequest { namespace: args.namespace };
    let answer: ExecAnswer = block_on(args.admin.client().post("/exec", &request))?;
    let processes = Path::new(&answer.cgroup).join("cgroup.procs");
    // 0 stands for the writing process; the agent may see other process ids than this one does.
    fs::write(&processes, "0").with_context(|| {
        format!(
            "cannot enter the cgroup {}: run as root, in the cgroup hierarchy of the agent",
            answer.cgroup
        )
    })?;
    let Some((program, arguments)) = args.command.split_first() else {
        anyhow::bail!("no command is given: write it after `--`");
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.to_string_lossy()))
}
