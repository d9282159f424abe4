//! `cargo xtask …`: everything that a person or CI types.
//!
//! In: a command line. Out: that command's exit code, 0 only if all of it went well. Never: knowledge
//! that a command's own file could hold.

mod setup;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything that a person or CI types in this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install the BPF toolchain and the test tools; quick when all is there
    Setup,
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Setup => setup::setup(setup::Verbosity::EveryStep),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
