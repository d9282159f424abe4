//! `kmesh-se probe`: is this agent, or controller, alive, is it ready?
//!
//! In: where it serves its health. Out: yes or no, and why not. Never: a judgement of its own.

use std::{
    fmt,
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::Serialize;

use super::{Answer, Output};
use crate::health::HealthAddr;

/// Longer than any supervisor waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ask an agent or a controller that was started with --health whether it is alive, or ready.
///
/// For a supervisor that probes by a command. Where the address is a Unix socket of the agent's own, as in the Helm chart, the
/// answer is this agent's also while two of them run, as in a rolling update.
///
/// Exit status: 0 yes, 1 no (the reason is printed), 2 nobody answers.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `healthz`: its loop runs. `readyz`: the source was read; of an agent also: programs are attached, DNS is served.
    #[arg(value_enum)]
    question: Question,

    /// Where it serves that.
    #[arg(long, env = "KMESH_SE_HEALTH", value_name = "ADDR:PORT|unix:PATH")]
    health: HealthAddr,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Question {
    Healthz,
    Readyz,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthz => "healthz",
            Self::Readyz => "readyz",
        })
    }
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    message: String,
}

/// Runs the command.
///
/// # Errors
/// When no agent answers.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    let report = ask(&args.health, args.question)
        .with_context(|| format!("no agent answers on {} (--health)", args.health))?;
    output.print(&report, |report, out| writeln!(out, "{}", report.message))?;
    Ok(if report.ok { Answer::Yes } else { Answer::No })
}

fn ask(address: &HealthAddr, question: Question) -> anyhow::Result<Report> {
    let answer = match address {
        HealthAddr::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            exchange(stream, question)
        }
        HealthAddr::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            exchange(stream, question)
        }
    }?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is cut off")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !matches!(status, "200" | "503") {
        bail!("something else answers there, with status {status:?}");
    }
    Ok(Report { ok: status == "200", message: body.trim_end().to_owned() })
}

/// In HTTP/1.0 the answer ends where the connection does.
fn exchange(mut stream: impl Read + Write, question: Question) -> io::Result<String> {
    write!(stream, "GET /{question} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
