//! The command line.
//!
//! In: arguments and environment. Out: text, JSON or YAML on stdout, and the answer as an exit code. Never: a
//! decision; commands ask the other rooms and print.

mod agent;
mod backends;
mod cleanup;
mod completions;
mod controller;
mod crds;
mod dump;
mod exec;
mod explain;
mod input;
mod man;
mod names;
mod offline;
mod output;
mod plan;
mod probe;
mod query;
mod services;
mod status;
mod table;
mod trace;
mod validate;
mod waypoint;
mod workloads;

use std::{
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{
    admin::{self, AdminClient},
    model::{Namespace, is_namespace},
};

pub use self::{
    output::{Format, Mood, Output, Paint, Text, visible},
    table::{Cell, Table},
};

/// Says so when the figures of performance are not its: checks are in it, and nothing is optimised.
const VERSION: &str = if cfg!(debug_assertions) {
    concat!(env!("CARGO_PKG_VERSION"), " (debug build)")
} else {
    env!("CARGO_PKG_VERSION")
};

/// Istio ServiceEntries done in the kernel.
///
/// kmesh-se makes connections to the hosts of ServiceEntries go straight to their endpoints: a node agent turns
/// the entries into BPF maps, and programs at connect(2) pick a backend. No proxy, no NAT.
///
/// Exit status: 0 done, 1 the answer is "no" (rejected, unreachable), 2 wrong use or an error. Every flag can
/// also be given as an environment variable, named with each.
#[derive(Debug, Parser)]
#[command(name = "kmesh-se", version = VERSION, max_term_width = 110, subcommand_required = true)]
pub struct Cli {
    /// How to print.
    #[arg(
        short,
        long,
        global = true,
        env = "KMESH_SE_OUTPUT",
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub output: Format,

    /// Which log messages to write to stderr: a level, or per module as in `info,kmesh_se::dns=debug`. The default leaves out what
    /// the client of the API server says of each failed request, of which kmesh-se tells once.
    #[arg(
        long,
        global = true,
        env = "KMESH_SE_LOG",
        default_value = "info,kube_client=off,kube_runtime=off",
        value_name = "FILTER"
    )]
    pub log: String,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What a command found. Errors are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, or yes. Exit code 0.
    Yes,
    /// No: rejected, unreachable. Exit code 1.
    No,
}

/// Wrong use, or an error. Exit code 2.
pub const EXIT_ERROR: u8 = 2;

impl From<Answer> for ExitCode {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Yes => Self::SUCCESS,
            Answer::No => Self::from(1),
        }
    }
}

/// Makes [`Command`]. Each module has `Args`, whose documentation is the command's help, and
/// `run(Args, &mut Output) -> anyhow::Result<Answer>`.
macro_rules! commands {
    ($($name:ident => $module:ident,)+) => {
        /// The commands. A new one is a file, its `mod` line, and a line here.
        #[derive(Debug, Subcommand)]
        #[expect(missing_docs, reason = "each has its documentation at its arguments")]
        pub enum Command {
            $($name(Box<$module::Args>),)+
        }

        impl Command {
            /// Runs the command.
            ///
            /// # Errors
            /// When it could not find its answer; print the whole chain and exit with [`EXIT_ERROR`].
            pub fn run(self, output: &mut Output) -> anyhow::Result<Answer> {
                match self {
                    $(Self::$name(args) => $module::run(*args, output),)+
                }
            }
        }
    };
}

commands! {
    Agent => agent,
    Controller => controller,
    Waypoint => waypoint,
    Exec => exec,
    Status => status,
    Probe => probe,
    Services => services,
    Backends => backends,
    Names => names,
    Workloads => workloads,
    Explain => explain,
    Dump => dump,
    Trace => trace,
    Cleanup => cleanup,
    Validate => validate,
    Plan => plan,
    Query => query,
    Crds => crds,
    Completions => completions,
    Man => man,
}

/// The flag of the commands that ask a running agent.
#[derive(Debug, clap::Args)]
struct AdminArgs {
    /// The agent's admin socket.
    #[arg(long, env = "KMESH_SE_ADMIN", value_name = "SOCKET", default_value = admin::DEFAULT_SOCKET)]
    admin: PathBuf,
}

impl AdminArgs {
    fn client(&self) -> AdminClient {
        AdminClient::new(&self.admin)
    }

    fn path(&self) -> &Path {
        &self.admin
    }
}

/// The namespace of a client, as a flag gives it.
fn client_namespace(text: &str) -> Result<Namespace, String> {
    if is_namespace(text) {
        return Ok(Namespace::new(text));
    }
    Err(format!("`{text}` is not a name of a namespace: at most 63 of a-z, 0-9 and '-'"))
}

/// `3 s`, or nothing.
fn seconds(age_secs: Option<u64>) -> String {
    age_secs.map(|secs| format!("{secs} s")).unwrap_or_default()
}

/// Waits for an answer, of the agent or the kernel.
fn block_on<T, E>(answer: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    anyhow::Error: From<E>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(answer)?)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[test]
    fn the_definition_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        let mut command = Cli::command();
        command.build();
        let mut waiting = vec![&command];
        while let Some(command) = waiting.pop() {
            waiting.extend(command.get_subcommands().filter(|c| c.get_name() != "help"));
            for flag in command.get_arguments().filter(|a| !a.is_positional()) {
                let name = flag.get_id().as_str();
                if ["help", "version"].contains(&name) {
                    continue;
                }
                let variable = flag.get_env().and_then(|v| v.to_str()).unwrap_or_default();
                assert!(variable.starts_with("KMESH_SE_"), "{} --{name}: {variable:?}", command.get_name());
            }
        }
    }

    #[test]
    fn every_command_and_flag_is_explained() {
        let mut command = Cli::command();
        command.build();
        for command in command.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn no_command_and_a_wrong_flag_are_wrong_use() {
        for arguments in
            [&["kmesh-se"][..], &["kmesh-se", "validate", "--nonsense"], &["kmesh-se", "validate"]]
        {
            let error = Cli::try_parse_from(arguments).expect_err("wrong use");
            assert_eq!(error.exit_code(), i32::from(EXIT_ERROR), "{arguments:?}");
            assert!(error.to_string().contains("Usage:"), "{error}");
        }
    }
}
