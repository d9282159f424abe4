//! `kmesh-se completions`: what a shell needs to complete the command line.
//!
//! In: which shell. Out: a script for it. Never: a file; where scripts belong is the packager's affair.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Answer, Cli, Output};

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  source <(kmesh-se completions bash)")]
pub struct Args {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Runs the command.
///
/// # Errors
/// When stdout cannot be written.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kmesh-se", &mut script);
    let script = String::from_utf8(script)?;
    output.print(&script, |script, out| out.write_all(script.as_bytes()))?;
    Ok(Answer::Yes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Format, output::Shared};

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
            let shared = Shared::default();
            run(Args { shell }, &mut Output::to(shared.clone(), Format::Text)).expect("a script");
            for command in ["explain", "services", "--admin"] {
                let bare = command.trim_start_matches('-');
                assert!(shared.text().contains(bare), "{shell}: no {command}");
            }
        }
    }
}
