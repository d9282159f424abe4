//! `kmesh-se`: arguments in, exit code out.
//!
//! In: arguments and environment. Out: the command's answer as an exit code, errors on stderr. Never: work of
//! its own.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use kmesh_se::cli::{Cli, EXIT_ERROR, Output, visible};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = log_to_stderr(&cli.log).and_then(|()| {
        let mut output = Output::stdout(cli.output);
        cli.command.run(&mut output)
    });
    match result {
        Ok(answer) => answer.into(),
        Err(error) => {
            let causes: Vec<_> = format!("{error:#}").lines().map(visible).collect();
            // When stderr is closed too, the exit code is all that is left to say.
            let _ = writeln!(io::stderr(), "error: {}", causes.join("\nerror: "));
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("--log {filter:?} is no filter; write info, or info,kmesh_se::dns=debug"))?;
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !no_colour)
        .init();
    Ok(())
}
