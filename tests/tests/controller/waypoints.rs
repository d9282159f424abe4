//! A waypoint of the cluster without a kubelet: a Pod that is only written down, whose Envoy is started here.

#[path = "waypoints/many.rs"]
mod many;
#[path = "waypoints/renewal.rs"]
mod renewal;
#[path = "waypoints/routes.rs"]
mod routes;

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, bail, ensure};
use kmesh_se::waypoint::{Bootstrap, Server};
use serde_json::{Value, json};
use tests::agent::Agent;
use tests::cluster::{ApiServer, Kubectl};
use tests::servers::Process;
use tests::topology::NODE;
use tests::waypoint::Waypoint;
use tests::{cgroup, poll};

use super::agents::node_with;
use super::conditions::until_condition;
use super::{Controller, LIMIT, api, entry};

/// The address of the Pod.
const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 9, 1));
/// The address that its one host has: this test is not about names.
const VIP: &str = "one.test:80:240.240.0.1";
/// What a controller that serves waypoints is given.
const SERVES: [&str; 4] = [
    "--waypoints",
    "--waypoint-image=example.test/envoy:1",
    "--waypoint-xds-host=localhost",
    "--waypoint-xds-listen=127.0.0.1:15010",
];
/// What binds all entries of the namespace.
const BOUND: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio.io/use-waypoint: waypoint}}\n";
const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: waypoint, namespace: default}\n\
    spec: {gatewayClassName: kmesh-se-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n";

/// A Pod of the waypoint, as the ReplicaSet and the kubelet would have it, and its Envoy.
fn pod(api: &ApiServer, name: &str, address: IpAddr) -> anyhow::Result<()> {
    let kubectl = api.kubectl();
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {
            "gateway.networking.k8s.io/gateway-name": "waypoint",
            "gateway.networking.k8s.io/gateway-class-name": "kmesh-se-waypoint"}},
        "spec": {"nodeName": "n9", "containers": [{"name": "envoy", "image": "example.test/envoy:1"}]},
    });
    kubectl.apply(&object.to_string())?;
    let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    kubectl.run(&[
        "patch",
        "pod",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ])?;
    Ok(())
}

/// Puts the files of the waypoint's Secret where a Pod has them, as a kubelet does: all at once, and in place of older ones.
fn mount(kubectl: &Kubectl, folder: &Path) -> anyhow::Result<()> {
    const FILES: &str = "-o=go-template={{range $name, $text := .data}}{{$name}}{{\"\\x00\"}}{{$text | base64decode}}{{\"\\x00\"}}{{end}}";
    let get = || kubectl.run(&["get", "secret", "waypoint-kmesh-se-xds", FILES]).ok();
    let files = poll::until("the waypoint's Secret", LIMIT, get)?;
    // They name each other by where a Pod has them.
    let files = files.replace("/etc/kmesh-se/xds", &folder.display().to_string());
    let files: Vec<_> = files.split_terminator('\0').collect();
    let version = (0..).map(|number| format!("..{number}")).find(|name| !folder.join(name).exists());
    let version = version.context("no name for a version is left")?;
    std::fs::create_dir_all(folder.join(&version))?;
    for file in files.chunks(2) {
        let [name, text] = file else { bail!("{file:?}") };
        std::fs::write(folder.join(&version).join(name), text)?;
        if !folder.join(name).is_symlink() {
            symlink(format!("..data/{name}"), folder.join(name))?;
        }
    }
    symlink(&version, folder.join("..new"))?;
    std::fs::rename(folder.join("..new"), folder.join("..data"))?;
    Ok(())
}

/// The Envoy of a Pod, with the files of `keys`.
fn envoy(api: &ApiServer, name: &str, keys: &Path) -> anyhow::Result<Waypoint> {
    let folder = api.run().folder()?.join(name);
    std::fs::create_dir_all(&folder)?;
    let bootstrap = Bootstrap {
        node: format!("{name}~{POD}"),
        cluster: "default/waypoint".to_owned(),
        server: Server::Tls { host: "localhost".to_owned(), port: 15010, folder: keys.to_owned() },
        admin: Some(folder.join("envoy.sock")),
        status: None,
    };
    Waypoint::start(api.netns(), &folder, &bootstrap.config(), Bootstrap::arguments)
}

/// What the controller says of the waypoint to agents, apart from times.
fn told(kubectl: &Kubectl) -> anyhow::Result<Value> {
    let map = kubectl.json(&["get", "configmap", "waypoint.default.waypoint"])?;
    let part =
        |key: &str| anyhow::Ok(serde_json::from_str::<Value>(map["data"][key].as_str().unwrap_or("null"))?);
    Ok(json!({"replicas": part("replicas")?, "listeners": part("listeners")?}))
}

/// curl by a client of the node.
fn ask(agent: &Agent, api: &ApiServer, words: &[&str]) -> anyhow::Result<Output> {
    let exec = agent.exec();
    let mut command = api.netns().command(&exec[0]);
    poll::output(
        command.args(&exec[1..]).args(["curl", "-sS", "--max-time", "5", "--resolve", VIP]).args(words),
    )
}

/// The headers of an answer, if it came.
fn head(agent: &Agent, api: &ApiServer) -> Option<String> {
    let output = ask(agent, api, &["-i", "http://one.test/"]).ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn goes_through(agent: &Agent, api: &ApiServer) -> anyhow::Result<()> {
    let through = || head(agent, api).filter(|head| head.contains("server: envoy")).map(drop);
    poll::until("one.test to be reached through the waypoint", LIMIT, through)
        .with_context(|| format!("{:?}\n{}", head(agent, api), agent.log_tail()))
}

/// A server on the node that answers every path.
fn backend(api: &ApiServer) -> anyhow::Result<Process> {
    let folder = api.run().folder()?.join("www");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("index.html"), "hello\n")?;
    let mut command = api.netns().command("python3");
    command.args(["-m", "http.server", "8000", "--bind", &NODE.to_string(), "--directory"]).arg(&folder);
    Process::start(&mut command, &api.run().folder()?.join("backend.log"))
}

/// A node whose agent asks the controllers of waypoints, and a backend on it.
struct Scene<'a> {
    api: &'a ApiServer,
    controller: Controller<'a>,
    agent: Agent,
    /// Where the waypoint's Pods have its Secret.
    keys: PathBuf,
    _backend: Process,
}

impl<'a> Scene<'a> {
    /// With a controller at `port`, and entries, which `make` makes.
    fn start(
        api: &'a ApiServer,
        port: u16,
        more: &[&str],
        make: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Scene<'a>> {
        api.kubectl().install_gateway_api()?;
        api.netns().ip(&format!("addr add {NODE}/32 dev lo\naddr add {POD}/32 dev lo\n"))?;
        let cgroup = cgroup::make(api.run())?;
        let backend = backend(api)?;
        make()?;
        let controller = Controller::start(api, port, &[&SERVES, more].concat())?;
        controller.until_it_leads()?;
        let agent = node_with(api, &cgroup, "n1", NODE, &["--waypoint-namespace=default"])?;
        let keys = api.run().folder()?.join("keys");
        Ok(Scene { api, controller, agent, keys, _backend: backend })
    }

    /// The Gateway is there, and its Pod, whose Envoy this is.
    fn waypoint(&self) -> anyhow::Result<Waypoint> {
        self.api.kubectl().apply(GATEWAY)?;
        mount(self.api.kubectl(), &self.keys).with_context(|| self.tail())?;
        pod(self.api, "w1", POD)?;
        envoy(self.api, "w1", &self.keys)
    }

    /// What its programs wrote last.
    fn tail(&self) -> String {
        format!("{}\n{}", self.controller.process.tail(), self.agent.log_tail())
    }

    fn end(self) -> anyhow::Result<()> {
        let Scene { controller, agent, .. } = self;
        controller.stop()?;
        drop(agent);
        Ok(())
    }
}

/// An entry for `name.test`, whose backend is on the node.
fn on_node(name: &str) -> String {
    let address = format!("address: {NODE}, ports: {{http: 8000}}");
    entry(name, &[&format!("{name}.test")], "").replace("address: 10.0.0.1", &address)
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn agents_lead_bound_services_through_a_waypoint_that_the_controllers_tell_of() -> anyhow::Result<()> {
    if !Waypoint::is_possible() {
        return Ok(());
    }
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    let make = || kubectl.apply(&on_node("one")).map(drop);
    let Scene { controller, agent, keys, _backend, .. } = Scene::start(&api, 9461, &[], make)?;
    let direct = || head(&agent, &api).filter(|head| !head.contains("envoy")).map(drop);
    poll::until("one.test to be reached", LIMIT, direct)
        .with_context(|| format!("{:?}\n{}", ask(&agent, &api, &["http://one.test/"]), agent.log_tail()))?;

    // Bound to what is not there, it goes straight; then to what is not ready, it does so on.
    kubectl.apply(BOUND)?;
    until_condition(kubectl, "one", "istio.io/WaypointBound", Some(("False", "WaypointMissing")))
        .with_context(|| controller.process.tail())?;
    ensure!(direct().is_some(), "one.test is not reached any more");
    kubectl.apply(GATEWAY)?;
    mount(kubectl, &keys).with_context(|| controller.process.tail())?;
    until_condition(kubectl, "one", "istio.io/WaypointBound", Some(("False", "WaypointNotReady")))
        .with_context(|| controller.process.tail())?;
    ensure!(direct().is_some(), "one.test is not reached any more");
    pod(&api, "w1", POD)?;
    let mut waypoint = envoy(&api, "w1", &keys)?;
    goes_through(&agent, &api).with_context(|| {
        format!("{}\n{}\n{:#?}", controller.process.tail(), waypoint.tail(), told(kubectl))
    })?;
    until_condition(kubectl, "one", "istio.io/WaypointBound", Some(("True", "WaypointAccepted")))?;
    let before = told(kubectl)?;
    ensure!(before["replicas"] == json!([POD]), "{before:#}");

    // Who has no certificate of the waypoint's gets nothing.
    let stranger = ["curl", "-sS", "-k", "--http2", "--max-time", "5", "https://127.0.0.1:15010/"];
    let mut command = api.netns().command(stranger[0]);
    let refused = poll::output(command.args(&stranger[1..]))?;
    ensure!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");

    // Without a controller everything goes on; the next one finds all as it was.
    controller.kill()?;
    for _ in 0..20 {
        ensure!(
            head(&agent, &api).is_some_and(|head| head.contains("server: envoy")),
            "not without a controller"
        );
    }
    let controller = Controller::start(&api, 9461, &SERVES)?;
    controller.until_it_leads()?;
    kubectl.apply(&entry("two", &["two.test"], ""))?;
    until_condition(kubectl, "two", "istio.io/WaypointBound", Some(("True", "WaypointAccepted")))
        .with_context(|| format!("{}\n{}", controller.process.tail(), waypoint.tail()))?;
    let after = told(kubectl)?;
    ensure!(
        after["replicas"] == before["replicas"] && after["listeners"][0] == before["listeners"][0],
        "{after:#}"
    );
    ensure!(
        head(&agent, &api).is_some_and(|head| head.contains("server: envoy")),
        "not with the next controller"
    );
    waypoint.lives()?;

    // Its Pod is about to end, and nobody takes its place: refused at once. Without the Gateway it goes straight.
    kubectl.run(&["delete", "pod", "w1", "--wait=false", "--grace-period=30"])?;
    let refused = || {
        let output = ask(&agent, &api, &["http://one.test/"]).ok()?;
        (output.status.code() == Some(7)).then_some(())
    };
    poll::until("one.test to be refused", LIMIT, refused).with_context(|| controller.process.tail())?;
    kubectl.run(&["delete", "gateway", "waypoint"])?;
    poll::until("one.test to be reached straight", LIMIT, direct)
        .with_context(|| controller.process.tail())?;
    kubectl.until(
        &["get", "configmaps", "-l", "kmesh-se.io/waypoint-listeners", "-o", "name"],
        LIMIT,
        str::is_empty,
    )?;
    drop(waypoint);
    controller.stop()?;
    drop(agent);
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
