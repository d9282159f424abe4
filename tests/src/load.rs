//! The load generator of `cargo xtask bench`: clients that measure one kind of traffic, and their server.
//!
//! In: an address and how long. Out: a [`Summary`] of what was measured. Never: a thread, a log line or a
//! growing buffer between two requests that are measured.

mod client;
mod server;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

pub use client::measure;
pub use server::{Listen, serve};
pub use watch::{Change, now_ns, watch};

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Connect, one byte there, one byte back, close.
    Crr,
    /// One byte there and back on one open connection.
    Rr,
    /// Bytes in bulk on one connection.
    Stream,
    /// One byte there and back on one unconnected datagram socket.
    Udp,
}

/// What one client measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Requests that were measured; none for [`Kind::Stream`].
    pub requests: u64,
    /// How long the measured part took, seconds.
    pub secs: f64,
    /// Median of a request's time, nanoseconds.
    pub p50_ns: u64,
    /// 90th percentile of it, nanoseconds.
    pub p90_ns: u64,
    /// 99th percentile of it, nanoseconds.
    pub p99_ns: u64,
    /// Datagrams without an answer.
    pub lost: u64,
    /// What the server received; only for [`Kind::Stream`].
    pub bytes: u64,
}

impl Summary {
    /// Sorts the samples (nanoseconds) and takes the percentiles: each is a value that was measured.
    fn of(samples: &mut [u64], spent: Duration, lost: u64) -> Summary {
        samples.sort_unstable();
        let at = |percent: usize| {
            let rank = (samples.len() * percent).div_ceil(100).max(1) - 1;
            samples.get(rank).copied().unwrap_or(0)
        };
        Summary {
            requests: samples.len() as u64,
            secs: spent.as_secs_f64(),
            p50_ns: at(50),
            p90_ns: at(90),
            p99_ns: at(99),
            lost,
            bytes: 0,
        }
    }
}

/// The command line of `kmse-load`.
#[derive(Debug, Parser)]
#[command(name = "kmse-load", about = "The load generator of `cargo xtask bench`")]
pub struct Args {
    /// The only CPU to run on.
    #[arg(long, global = true)]
    cpu: Option<usize>,
    /// The cgroup to enter first.
    #[arg(long, global = true)]
    cgroup: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer until killed
    Serve(Listen),
    /// Measure, and print a summary as JSON
    Run {
        /// What to send
        kind: Kind,
        /// Where to
        to: SocketAddr,
        /// How long, warming up apart
        #[arg(long, default_value_t = 1000)]
        millis: u64,
    },
    /// Connect again and again; a JSON line each time that another server answers
    Watch {
        /// Where to
        to: SocketAddr,
    },
}

impl Args {
    /// Does what the command line says.
    ///
    /// # Errors
    /// When the CPU or cgroup cannot be had, or a request fails: nothing here may fail, so a number that
    /// hides failures never comes out.
    pub fn run(self) -> anyhow::Result<()> {
        if let Some(cgroup) = &self.cgroup {
            enter(cgroup)?;
        }
        if let Some(cpu) = self.cpu {
            let mut set = CpuSet::new();
            set.set(cpu)?;
            sched_setaffinity(Pid::this(), &set).with_context(|| format!("cannot run on CPU {cpu}"))?;
        }
        match self.command {
            Command::Serve(listen) => serve(&listen),
            Command::Run { kind, to, millis } => {
                let summary = measure(kind, to, Duration::from_millis(millis));
                let summary = summary.with_context(|| format!("{kind:?} to {to}"))?;
                println!("{}", serde_json::to_string(&summary)?);
                Ok(())
            }
            Command::Watch { to } => watch(to),
        }
    }
}

/// Moves this process to a cgroup.
fn enter(cgroup: &Path) -> anyhow::Result<()> {
    // 0 stands for the writing process.
    let entered = std::fs::write(cgroup.join("cgroup.procs"), "0");
    entered.with_context(|| format!("cannot enter the cgroup {}", cgroup.display()))
}

/// The CPUs that this process may run on.
///
/// # Errors
/// When the kernel does not tell.
pub fn cpus() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::this())?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut samples: Vec<u64> = (1..=1000).rev().collect();
        let summary = Summary::of(&mut samples, Duration::from_secs(2), 3);
        assert_eq!((summary.p50_ns, summary.p90_ns, summary.p99_ns), (500, 900, 990));
        assert_eq!((summary.requests, summary.secs, summary.lost), (1000, 2.0, 3));
        assert_eq!(Summary::of(&mut [7], Duration::ZERO, 0).p99_ns, 7);
        assert_eq!(Summary::of(&mut [], Duration::ZERO, 0).p50_ns, 0);
    }

    #[test]
    fn every_kind_gets_answers_from_the_server() -> anyhow::Result<()> {
        let server = server::Server::bind(&Listen {
            echo: vec![(LOCAL, 0).into()],
            sink: vec![(LOCAL, 0).into()],
            udp: vec![(LOCAL, 0).into()],
        })?;
        let [echo, sink, udp] = server.addresses()?[..] else { anyhow::bail!("three addresses") };
        server.start();
        for (kind, to) in [(Kind::Crr, echo), (Kind::Rr, echo), (Kind::Stream, sink), (Kind::Udp, udp)] {
            let summary = measure(kind, to, Duration::from_millis(30))?;
            assert_eq!(summary.requests > 0, kind != Kind::Stream, "{kind:?} {summary:?}");
            assert_eq!(summary.bytes > 0, kind == Kind::Stream, "{kind:?} {summary:?}");
            assert!(summary.secs >= 0.03, "{kind:?} {summary:?}");
        }
        Ok(())
    }

    #[test]
    fn a_refused_connection_is_an_error_and_no_number() -> anyhow::Result<()> {
        let free = std::net::TcpListener::bind((LOCAL, 0))?.local_addr()?;
        for kind in [Kind::Crr, Kind::Rr, Kind::Stream] {
            let error = measure(kind, free, Duration::from_millis(10)).expect_err("nobody listens");
            assert!(error.to_string().contains("refused"), "{kind:?} {error}");
        }
        Ok(())
    }
}
