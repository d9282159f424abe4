//! When statuses of entries were written, by the API server's own account.
//!
//! In: the API server's audit log. Out: when it received each write. Never: a program between a client and the API server.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The flags that have the API server note these writes, and nothing else, in a file of `folder`.
///
/// # Errors
/// When what is to be noted cannot be written down.
pub(super) fn flags(folder: &Path) -> anyhow::Result<[String; 2]> {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "Metadata", "verbs": ["patch"],
             "resources": [{"group": "networking.istio.io", "resources": ["serviceentries/status"]}]},
            {"level": "None"},
        ],
    });
    let path = folder.join("audit-policy.json");
    std::fs::write(&path, policy.to_string())?;
    let log = log(folder);
    Ok([format!("--audit-policy-file={}", path.display()), format!("--audit-log-path={}", log.display())])
}

fn log(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

/// The writes that the API server has answered.
#[derive(Debug)]
pub struct Writes {
    log: BufReader<File>,
    /// The beginning of a line whose end is not there yet.
    rest: String,
    /// When each was received that was not taken yet.
    received: Vec<Timestamp>,
}

impl Writes {
    /// From the first one that the API server has answered.
    pub(super) fn of(folder: &Path) -> anyhow::Result<Writes> {
        let log = log(folder);
        let file = File::open(&log).with_context(|| format!("cannot read {}", log.display()))?;
        Ok(Writes { log: BufReader::new(file), rest: String::new(), received: Vec::new() })
    }

    /// How many have been answered since they were taken.
    ///
    /// # Errors
    /// When the log cannot be read, or says something else.
    pub fn count(&mut self) -> anyhow::Result<usize> {
        while self.log.read_line(&mut self.rest)? > 0 && self.rest.ends_with('\n') {
            let event: Value = serde_json::from_str(&self.rest)?;
            let received = event["requestReceivedTimestamp"].as_str();
            let received = received.with_context(|| format!("no time in {event}"))?.parse()?;
            self.received.push(received);
            self.rest.clear();
        }
        Ok(self.received.len())
    }

    /// When each of them was received, the first one first.
    pub fn take(&mut self) -> Vec<Timestamp> {
        let mut received = std::mem::take(&mut self.received);
        received.sort();
        received
    }
}
