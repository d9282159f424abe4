//! Connects without a pause while a test does something.
//!
//! In: an enrolled client and addresses. Out: what became of each connection. Never: a failure that is not told.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::JoinHandle;

use anyhow::{Context as _, bail};

use super::call::{Answer, Call, Hammered};
use super::client::Client;

/// A client at work; dropping it ends it.
#[derive(Debug)]
pub struct Hammer {
    thread: Option<JoinHandle<io::Result<Answer>>>,
    stop: PathBuf,
}

impl Hammer {
    /// Has a client connect to these addresses from this many threads; `stop` is a file that will be made to end it.
    ///
    /// # Errors
    /// When one of them does not answer before it begins.
    pub fn start(client: Client, to: Vec<SocketAddr>, threads: usize, stop: PathBuf) -> io::Result<Hammer> {
        // From then on it needs no agent.
        client.which(&to)?;
        let call = Call::Hammer { to, threads, stop: stop.clone() };
        Ok(Hammer { thread: Some(std::thread::spawn(move || client.call(&call))), stop })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the client was gone before.
    pub fn stop(mut self) -> anyhow::Result<Hammered> {
        std::fs::write(&self.stop, "")?;
        let thread = self.thread.take().context("it has ended")?;
        let answer = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        std::fs::remove_file(&self.stop)?;
        match answer? {
            Answer::Hammered(told) => Ok(told),
            other => bail!("the client answered {other:?}"),
        }
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = std::fs::write(&self.stop, "");
            let _ = thread.join();
        }
    }
}
