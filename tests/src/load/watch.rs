//! A client that sees when another server answers.
//!
//! In: an address. Out: a line for each change, with the time. Never: a pause, which would add to what is
//! measured.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Another server answers than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When its first connection began, on the clock of [`now_ns`].
    pub at_ns: u64,
    /// The low byte of its port.
    pub mark: u8,
}

/// The monotonic clock, which is the same for all processes, nanoseconds.
///
/// # Errors
/// When the kernel has no such clock.
pub fn now_ns() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(now.tv_sec())? * 1_000_000_000 + u64::try_from(now.tv_nsec())?)
}

/// Connects without a pause, and prints a [`Change`] as a line of JSON for the first answer and whenever
/// another server answers; until the process is ended.
///
/// # Errors
/// When a connection fails.
pub fn watch(to: SocketAddr) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        let at_ns = now_ns()?;
        let mut stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
        stream.write_all(b"?")?;
        let mut mark = [0];
        stream.read_exact(&mut mark)?;
        if last.replace(mark[0]) != Some(mark[0]) {
            println!("{}", serde_json::to_string(&Change { at_ns, mark: mark[0] })?);
        }
    }
}
