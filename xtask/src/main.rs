//! `cargo xtask …`: everything that a person or CI types.
//!
//! In: a command line. Out: that command's exit code, 0 only if all of it went well. Never: knowledge
//! that a command's own file could hold.

mod bench;
mod cluster;
mod demo;
mod fuzz;
mod image;
mod kernels;
mod lint;
mod run;
mod setup;
mod test;
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
    /// Build, start a node of its own with the examples, ask the tutorial's first question, show what happens
    Run(Played),
    /// Play the whole tutorial; succeeds only if every answer is right and nothing is left behind
    Demo(Played),
    /// Run all tests; the last line is their number: `N passed, N failed, N skipped`
    Test {
        /// Passed on to `cargo test`: a part of a test's name, or `--test NAME`, or `-- --nocapture`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure what kmesh-se costs, against no program, nftables and Envoy; a table, JSON and plots
    Bench(bench::Options),
    /// Run the data-path tests on Debian's kernels 5.10, 6.1, 6.12 and 7.2, each in an emulated machine
    Kernels(kernels::Options),
    /// Bring up a real Kubernetes cluster of one node and run the tests on it; the first time builds Kubernetes
    Cluster(cluster::Options),
    /// Mutate YAML and DNS messages, guided by what the code does with them; a crash is kept in a file
    Fuzz(fuzz::Options),
    /// Build the agent and pack it as an OCI image archive, without a container runtime
    Image(image::Options),
    /// Formatting, clippy, and the rules of who may import whom
    Lint,
}

/// What is built, and how connections go.
#[derive(clap::Args)]
struct Played {
    /// With optimizations
    #[arg(long)]
    release: bool,
    /// Lead everything through a waypoint, a real Envoy, which is installed if need be
    #[arg(long)]
    waypoint: bool,
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Setup => setup::setup(setup::Verbosity::EveryStep)
            .and_then(|()| setup::languages(setup::Verbosity::EveryStep))
            .and_then(|()| setup::waypoints(setup::Verbosity::EveryStep))
            .map(|()| true),
        Command::Run(played) => run::run(played.release, played.waypoint),
        Command::Demo(played) => demo::demo(played.release, played.waypoint),
        Command::Test { arguments } => test::test(&arguments),
        Command::Bench(options) => bench::bench(&options),
        Command::Kernels(options) => kernels::kernels(&options),
        Command::Cluster(options) => cluster::cluster(&options),
        Command::Fuzz(options) => fuzz::fuzz(&options),
        Command::Image(options) => image::image(&options).map(|_| true),
        Command::Lint => lint::lint(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        // The command has said what is wrong.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
