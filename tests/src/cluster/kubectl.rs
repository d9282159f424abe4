//! kubectl, as a person types it.
//!
//! In: words. Out: what it says. Never: another way to the API server.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::programs;
use crate::netns::Netns;
use crate::poll;

/// How soon definitions that are established are served.
const SERVED: Duration = Duration::from_secs(60);

/// kubectl with the rights of one user.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// Where it remembers what the API server offers.
    cache: PathBuf,
    netns: Netns,
}

impl Kubectl {
    pub(super) fn new(netns: &Netns, folder: &Path, kubeconfig: PathBuf) -> anyhow::Result<Kubectl> {
        let cache = folder.join("kubectl");
        Ok(Kubectl { program: programs::program("kubectl")?, kubeconfig, cache, netns: netns.clone() })
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Its configuration, which serves any other client as well, in the namespace and outside.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A command that is not started yet.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.netns.command(&self.program);
        // Whoever runs the test may have settings.
        command.env("KUBECONFIG", &self.kubeconfig).env("KUBERC", "off");
        command.arg("--cache-dir").arg(&self.cache).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end, which may be bad.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, words: &[&str]) -> anyhow::Result<Output> {
        poll::output(&mut self.command(words))
    }

    /// What it prints, if it ends well.
    ///
    /// # Errors
    /// When it does not; with what it wrote.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        said(words, &self.output(words)?)
    }

    /// `kubectl … -o json`.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let text = self.run(&[words, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {}", words.join(" ")))
    }

    /// Makes the definitions of ServiceEntry and WorkloadEntry, and waits until the API server serves them: that is a moment after
    /// they are established.
    ///
    /// # Errors
    /// When it does not.
    pub fn install_crds(&self, definitions: &str) -> anyhow::Result<()> {
        self.apply(definitions)?;
        let names =
            ["serviceentries", "workloadentries"].map(|name| format!("crd/{name}.networking.istio.io"));
        self.run(&["wait", "--for=condition=Established", &names[0], &names[1], "--timeout=60s"])?;
        let served = || self.run(&["get", "serviceentries,workloadentries"]).ok().map(drop);
        poll::until("entries to be served", SERVED, served)
    }

    /// Makes the Gateway API's definitions, as far as we read them, and waits until the API server serves them.
    ///
    /// # Errors
    /// When it does not.
    pub fn install_gateway_api(&self) -> anyhow::Result<()> {
        for file in programs::gateway_definitions() {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("no {}: `cargo xtask cluster` fetches it", file.display()))?;
            self.feed(&["apply", "--server-side", "-f", "-"], &text)?;
        }
        let served = || self.run(&["get", "gatewayclasses,gateways,httproutes"]).ok().map(drop);
        poll::until("the Gateway API to be served", SERVED, served)
    }

    /// `kubectl apply -f -`.
    ///
    /// # Errors
    /// When an object is refused.
    pub fn apply(&self, objects: &str) -> anyhow::Result<String> {
        self.feed(&["apply", "-f", "-"], objects)
    }

    /// The same for objects that name no namespace.
    ///
    /// # Errors
    /// When an object is refused.
    pub fn apply_in(&self, namespace: &str, objects: &str) -> anyhow::Result<String> {
        self.feed(&["-n", namespace, "apply", "-f", "-"], objects)
    }

    /// What it prints when it is given a text, if it ends well.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub fn feed(&self, words: &[&str], text: &str) -> anyhow::Result<String> {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.program.display()))?;
        // If it ends early, it says why.
        let _ = child.stdin.take().context("no stdin")?.write_all(text.as_bytes());
        said(words, &child.wait_with_output()?)
    }

    /// `kubectl exec TARGET -- WORDS`; how the command ended is in the answer.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn exec(&self, target: &str, words: &[&str]) -> anyhow::Result<Output> {
        self.output(&[&["exec", target, "--"], words].concat())
    }

    /// Waits until a Deployment, DaemonSet or StatefulSet is rolled out, or a Pod or Node is ready: `deployment/sleep`.
    ///
    /// # Errors
    /// When it is not in time; with what the cluster says about it.
    pub fn wait_ready(&self, namespace: &str, target: &str, limit: Duration) -> anyhow::Result<()> {
        let limit_secs = format!("--timeout={}s", limit.as_secs());
        let is_set =
            ["deploy", "daemonset", "ds/", "statefulset"].iter().any(|kind| target.starts_with(kind));
        let words = if is_set {
            vec!["-n", namespace, "rollout", "status", target, &limit_secs]
        } else {
            vec!["-n", namespace, "wait", "--for=condition=Ready", target, &limit_secs]
        };
        let Err(error) = self.run(&words) else { return Ok(()) };
        let about = |words: &[&str]| self.run(words).unwrap_or_else(|error| format!("{error:#}"));
        let objects = about(&["-n", namespace, "get", "pods", "-o", "wide"]);
        let events = about(&["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"]);
        let events: Vec<_> = events.lines().rev().take(20).collect();
        bail!("{error:#}\n{objects}\n{}", events.join("\n"));
    }

    /// Waits until what kubectl prints is as wanted.
    ///
    /// # Errors
    /// When that does not happen in time; with the last that it printed.
    pub fn until(
        &self,
        words: &[&str],
        limit: Duration,
        is_so: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        let mut last = String::new();
        let waited = poll::until(&format!("kubectl {}", words.join(" ")), limit, || {
            last = self.run(words).unwrap_or_else(|error| format!("{error:#}"));
            is_so(&last).then(|| last.clone())
        });
        waited.with_context(|| format!("last: {last}"))
    }
}

fn said(words: &[&str], output: &Output) -> anyhow::Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("kubectl {} ended with {}\n{text}{}", words.join(" "), output.status, error.trim());
    }
    Ok(text)
}
