//! The controller, and agents beside it, on a real API server.

#[path = "controller/agents.rs"]
mod agents;
#[path = "controller/conditions.rs"]
mod conditions;
#[path = "controller/fights.rs"]
mod fights;
#[path = "controller/gateways.rs"]
mod gateways;
#[path = "controller/programmed.rs"]
mod programmed;
#[path = "controller/scale.rs"]
mod scale;
#[path = "controller/waypoints.rs"]
mod waypoints;
#[path = "controller/webhook.rs"]
mod webhook;

use std::process::Command;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::agent::{definitions, program};
use tests::cluster::{ApiServer, Kubectl};
use tests::poll;
use tests::servers::Process;

const LIMIT: Duration = Duration::from_secs(30);

/// Shared by tests, and held by one that measures.
static MACHINE: RwLock<()> = RwLock::new(());

/// An API server that knows our kinds, on a machine that other tests use, too.
fn api() -> anyhow::Result<(ApiServer, RwLockReadGuard<'static, ()>)> {
    let shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    Ok((start_api()?, shared))
}

/// The same while no other test of this program runs.
fn api_alone() -> anyhow::Result<(ApiServer, RwLockWriteGuard<'static, ()>)> {
    let alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    Ok((start_api()?, alone))
}

fn start_api() -> anyhow::Result<ApiServer> {
    let api = ApiServer::start()?;
    api.kubectl().install_crds(&definitions()?)?;
    Ok(api)
}

/// A running controller; dropping it ends it.
struct Controller<'a> {
    api: &'a ApiServer,
    process: Process,
    port: u16,
}

impl<'a> Controller<'a> {
    /// Starts one that serves its metrics at `port`, and waits until it knows all entries.
    fn start(api: &'a ApiServer, port: u16, more: &[&str]) -> anyhow::Result<Controller<'a>> {
        let folder = api.run().folder()?;
        let mut logs = (1..).map(|number| folder.join(format!("controller-{number}.log")));
        let log = logs.find(|log| !log.exists()).context("no name for a log is left")?;
        let health = folder.join(format!("controller-{port}.sock")).display().to_string();
        let mut command = api.netns().command(program()?);
        command.arg("controller").arg("--kubeconfig").arg(api.kubectl().kubeconfig());
        command.args(["--lease-namespace", "default", "--health", &format!("unix:{health}")]);
        command.args(["--metrics", &format!("127.0.0.1:{port}")]).args(more);
        let mut process = Process::start(&mut command, &log)?;
        let health = format!("unix:{health}");
        let mut probe = Command::new(program()?);
        probe.args(["probe", "readyz", "--health", &health]);
        let probe = Mutex::new(probe);
        let ready = || {
            let mut probe = probe.lock().unwrap_or_else(PoisonError::into_inner);
            probe.output().is_ok_and(|output| output.status.success())
        };
        process.ready("the controller to be ready", LIMIT, ready)?;
        Ok(Controller { api, process, port })
    }

    /// One of its metrics.
    fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        let get = || anyhow::Ok(ureq::get(&url).call()?.body_mut().read_to_string()?);
        let text = self.api.netns().inside(get)??;
        let row = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("{name}:\n{text}"))?;
        row.trim().parse().with_context(|| format!("{name} is {row}"))
    }

    fn leads(&self) -> bool {
        self.metric("kmesh_se_controller_leader").is_ok_and(|leads| leads == 1)
    }

    fn until_it_leads(&self) -> anyhow::Result<()> {
        let leads = poll::until("the controller to lead", LIMIT, || self.leads().then_some(()));
        leads.with_context(|| self.process.tail())
    }

    /// Ends it as Kubernetes does.
    fn stop(mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(LIMIT)?;
        ensure!(status.success(), "the controller ended with {status}\n{}", self.process.tail());
        Ok(())
    }

    /// Ends it as a crash does.
    fn kill(self) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGKILL)
    }
}

/// An entry without addresses, at port 80.
fn entry(name: &str, hosts: &[&str], more: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  hosts: [{}]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: STATIC\n  \
         endpoints: [{{address: 10.0.0.1}}]\n{more}",
        hosts.join(",")
    )
}

/// `host=value` of `status.addresses`, in their order.
fn addresses_of(object: &Value) -> Vec<String> {
    let list = object["status"]["addresses"].as_array();
    let text = |item: &Value, field: &str| item[field].as_str().unwrap_or_default().to_owned();
    list.into_iter().flatten().map(|item| format!("{}={}", text(item, "host"), text(item, "value"))).collect()
}

fn addresses(kubectl: &Kubectl, name: &str) -> anyhow::Result<Vec<String>> {
    Ok(addresses_of(&kubectl.json(&["get", "serviceentry", name])?))
}

/// Waits until `status.addresses` is this.
fn until_addresses(kubectl: &Kubectl, name: &str, wanted: &[&str]) -> anyhow::Result<()> {
    let mut last = Vec::new();
    let waited = poll::until(&format!("{name} to have {wanted:?}"), LIMIT, || {
        last = addresses(kubectl, name).ok()?;
        (last == wanted).then_some(())
    });
    waited.with_context(|| format!("last: {last:?}"))
}
