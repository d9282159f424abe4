//! A real Envoy as a waypoint: no configuration of its own but where it hears the rest.
//!
//! In: what `cargo xtask test` put into a virtual environment, a namespace, a bootstrap. Out: a running Envoy. Never: a
//! resource that the server under test has not sent.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::bench::Envoy;
use crate::netns::Netns;
use crate::servers::Process;

/// A running Envoy; dropping it ends it.
#[derive(Debug)]
pub struct Waypoint {
    process: Process,
}

impl Waypoint {
    /// Whether there is an Envoy; if not, says that a test is skipped for the lack of it.
    pub fn is_possible() -> bool {
        let found = Envoy::program().is_some();
        if !found {
            crate::skipped("Envoy is not installed, nor could `cargo xtask test` install it");
        }
        found
    }

    /// Starts one in a namespace, with flags for a configuration file that is written to `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        netns: &Netns,
        folder: &Path,
        config: &Value,
        flags: impl FnOnce(&Path) -> Vec<String>,
    ) -> anyhow::Result<Waypoint> {
        let program = Envoy::program().context("Envoy is not installed")?;
        let path = folder.join("waypoint.json");
        std::fs::write(&path, config.to_string())?;
        let mut command = netns.command(program);
        command.args(flags(&path)).args(["--concurrency", "1"]);
        let process = Process::start(&mut command, &folder.join("waypoint.log"))?;
        Ok(Waypoint { process })
    }

    /// The lines that it has written that hold `text`: its access log, and its warnings.
    pub fn lines_with(&self, text: &str) -> Vec<String> {
        self.process.output().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// Fails, with what it wrote, when it has ended.
    ///
    /// # Errors
    /// When it has.
    pub fn lives(&mut self) -> anyhow::Result<()> {
        match self.process.ended() {
            Some(status) => bail!("Envoy ended with {status}\n{}", self.process.tail()),
            None => Ok(()),
        }
    }

    /// The end of what it wrote, for messages.
    pub fn tail(&self) -> String {
        self.process.tail()
    }
}
