//! `kmesh-se dump`: the agent's state between two steps of the flow.
//!
//! In: the admin socket's answer. Out: the same as YAML or JSON. Never: a shortening; `status` and others are for that.

use std::io::{self, Write};

use serde_json::Value;

use super::{AdminArgs, Answer, Output, Text, block_on};
use crate::admin::DumpState;

/// Show the state between any two steps: objects, addresses, and what the maps should hold and hold.
///
/// The flow is: snapshot (accepted objects) and resolved (names to addresses) make desired, which is written to the maps;
/// actual is what was written, and diff what is still to be written. Text is YAML.
///
/// Exit status: 0 shown, 1 with --kernel when the kernel's maps differ, 2 no agent answers.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which state.
    #[arg(value_enum, value_name = "STATE")]
    state: DumpState,

    /// With `actual`: read the kernel's maps, too, and say where they differ from what the agent believes.
    #[arg(long, env = "KMESH_SE_KERNEL")]
    kernel: bool,

    #[command(flatten)]
    admin: AdminArgs,
}

/// Runs the command.
///
/// # Errors
/// When no agent answers, or `--kernel` is given with another state.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    anyhow::ensure!(
        !args.kernel || args.state == DumpState::Actual,
        "--kernel goes with `dump actual`: the other states are not in the kernel"
    );
    let path = format!("/dump/{}?kernel={}", args.state.as_str(), args.kernel);
    let state: Value = block_on(args.admin.client().get(&path))?;
    output.print(&state, text)?;
    Ok(if state["kernel"]["differs"] == true { Answer::No } else { Answer::Yes })
}

fn text(state: &Value, out: &mut Text<'_>) -> io::Result<()> {
    let yaml = serde_saphyr::to_string(state).map_err(io::Error::other)?;
    out.write_all(yaml.as_bytes())
}
