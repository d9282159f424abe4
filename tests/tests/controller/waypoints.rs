//! A waypoint of the cluster without a kubelet: a Pod that is only written down, whose Envoy is started here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kmesh_se::waypoint::{Bootstrap, Server};
use serde_json::{Value, json};
use tests::agent::{Agent, is_release, program};
use tests::cluster::{ApiServer, Kubectl, bulk::Bulk};
use tests::servers::Process;
use tests::topology::NODE;
use tests::waypoint::Waypoint;
use tests::{cgroup, is_long, poll};

use super::agents::node_with;
use super::conditions::until_condition;
use super::gateways::install_gateway_api;
use super::scale::ENTRIES_PATH;
use super::{Controller, LIMIT, api, api_alone, entry};

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
/// How many entries are bound at a time, and how long that may take on a machine that does nothing else.
const MANY: u16 = 1_000;
const ALL: Duration = Duration::from_secs(10);
/// More than one change takes: a cluster and a route, in TLS.
const SMALL: u64 = 4_000;
/// A port in the midst of those of the waypoint.
const TAKEN: u16 = 20_400;
const LISTENERS: &str = "/api/v1/namespaces/default/configmaps/waypoint.default.waypoint";
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

/// The files of the waypoint's Secret, as a Pod has them.
fn secret(api: &ApiServer, folder: &Path) -> anyhow::Result<()> {
    let kubectl = api.kubectl();
    let get = || kubectl.json(&["get", "secret", "waypoint-kmesh-se-xds"]).ok();
    let secret = poll::until("the waypoint's Secret", LIMIT, get)?;
    std::fs::create_dir_all(folder)?;
    let data: BTreeMap<String, String> = serde_json::from_value(secret["data"].clone())?;
    for name in data.keys() {
        let path = format!("go-template={{{{index .data \"{name}\" | base64decode}}}}");
        let text = kubectl.run(&["get", "secret", "waypoint-kmesh-se-xds", "-o", &path])?;
        // They name each other by where a Pod has them.
        let text = text.replace("/etc/kmesh-se/xds", &folder.display().to_string());
        std::fs::write(folder.join(name), text)?;
    }
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

fn keys_of(api: &ApiServer) -> anyhow::Result<PathBuf> {
    let keys = api.run().folder()?.join("keys");
    secret(api, &keys)?;
    Ok(keys)
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn agents_lead_bound_services_through_a_waypoint_that_the_controllers_tell_of() -> anyhow::Result<()> {
    if !Waypoint::is_possible() {
        return Ok(());
    }
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    install_gateway_api(kubectl)?;
    api.netns().ip(&format!("addr add {NODE}/32 dev lo\naddr add {POD}/32 dev lo\n"))?;
    let cgroup = cgroup::make(api.run())?;
    let _backend = backend(&api)?;
    let one = entry("one", &["one.test"], "")
        .replace("address: 10.0.0.1", &format!("address: {NODE}, ports: {{http: 8000}}"));
    kubectl.apply(&one)?;
    let controller = Controller::start(&api, 9461, &SERVES)?;
    controller.until_it_leads()?;
    let agent = node_with(&api, &cgroup, "n1", NODE, &["--waypoint-namespace=default"])?;
    let direct = || head(&agent, &api).filter(|head| !head.contains("envoy")).map(drop);
    poll::until("one.test to be reached", LIMIT, direct)
        .with_context(|| format!("{:?}\n{}", ask(&agent, &api, &["http://one.test/"]), agent.log_tail()))?;

    // Bound to what is not there, it goes straight; then to what is not ready, it does so on.
    kubectl.apply(BOUND)?;
    until_condition(kubectl, "one", "istio.io/WaypointBound", Some(("False", "WaypointMissing")))
        .with_context(|| controller.process.tail())?;
    ensure!(direct().is_some(), "one.test is not reached any more");
    kubectl.apply(GATEWAY)?;
    let keys = keys_of(&api).with_context(|| controller.process.tail())?;
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

/// Entry `number` of many, whose backend listens at `port`.
fn one_of_many(number: u16, port: u16) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": format!("entry-{number}"), "namespace": "default"},
        "spec": {"hosts": [format!("h{number}.test")], "addresses": [vip(number)], "resolution": "STATIC",
                 "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                 "endpoints": [{"address": NODE, "ports": {"http": port}}]},
    })
}

fn vip(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 250, high, low)
}

/// What a client of the node gets from entry `number` of many: the status, and whether Envoy answered.
fn status_of(agent: &Agent, api: &ApiServer, number: u16) -> anyhow::Result<(u16, bool)> {
    let url = format!("http://{}/", vip(number));
    let output = ask(agent, api, &["-o", "/dev/null", "-w", "%{http_code} %header{server}", &url])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (status, server) = text.split_once(' ').with_context(|| format!("{output:?}"))?;
    Ok((status.parse()?, server == "envoy"))
}

/// How many bytes an Envoy has received from the controller.
fn received(api: &ApiServer, name: &str) -> anyhow::Result<u64> {
    let socket = api.run().folder()?.join(name).join("envoy.sock");
    let url = "http://envoy/stats?filter=^cluster.kmesh-se.upstream_cx_rx_bytes_total$";
    let output = poll::output(Command::new("curl").args(["-sS", "--unix-socket"]).arg(socket).arg(url))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = text.trim().rsplit(' ').next().and_then(|count| count.parse().ok());
    count.with_context(|| format!("no number of bytes: {text}"))
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn a_thousand_entries_go_through_a_waypoint_within_seconds_and_one_that_fails_holds_none_back()
-> anyhow::Result<()> {
    if !Waypoint::is_possible() {
        return Ok(());
    }
    let (api, _alone) = api_alone()?;
    let (kubectl, bulk) = (api.kubectl(), Bulk::start(&api)?);
    install_gateway_api(kubectl)?;
    api.netns().ip(&format!("addr add {NODE}/32 dev lo\naddr add {POD}/32 dev lo\n"))?;
    let cgroup = cgroup::make(api.run())?;
    let _backend = backend(&api)?;
    let entries: Vec<_> = (0..MANY).map(|number| one_of_many(number, 8000)).collect();
    bulk.make(ENTRIES_PATH, &entries)?;
    let controller = Controller::start(&api, 9462, &SERVES)?;
    controller.until_it_leads()?;
    let agent = node_with(&api, &cgroup, "n1", NODE, &["--waypoint-namespace=default"])?;
    kubectl.apply(GATEWAY)?;
    let keys = keys_of(&api).with_context(|| controller.process.tail())?;
    pod(&api, "w1", POD)?;
    let waypoint = envoy(&api, "w1", &keys)?;
    let tail = || format!("{}\n{}\n{}", controller.process.tail(), waypoint.tail(), agent.log_tail());
    let direct = || (status_of(&agent, &api, MANY - 1).ok()? == (200, false)).then_some(());
    poll::until("the last entry to be reached", LIMIT, direct).with_context(tail)?;
    let listeners = || -> Option<Vec<Value>> {
        let map = bulk.get(LISTENERS).ok()?;
        serde_json::from_str(map["data"]["listeners"].as_str()?).ok()
    };
    poll::until("the Envoy to be known", LIMIT, || (listeners()? == [0; 0]).then_some(()))
        .with_context(tail)?;

    // All are bound at once, and one of them finds its port taken.
    let taken = api.netns().inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, TAKEN)))??;
    let began = Instant::now();
    kubectl.apply(BOUND)?;
    let through = || {
        let ready = listeners()?.iter().filter(|listener| listener["ready"] == true).count();
        (ready == usize::from(MANY) - 1).then_some(())
    };
    poll::until("all but one to have listeners", LIMIT, through).with_context(tail)?;
    let led = || {
        let rows = agent.ask(&["dump", "actual", "-o", "json"]).ok()?;
        let rows: Value = serde_json::from_slice(&rows.stdout).ok()?;
        let led = rows["services"].as_array()?.iter().filter(|row| row["waypoint"].is_object()).count();
        (led == usize::from(MANY) - 1).then_some(())
    };
    poll::until("the agent to lead all but one there", LIMIT, led).with_context(tail)?;
    let took = began.elapsed();
    println!("{MANY} entries go through the waypoint after {:.1} s", took.as_secs_f64());
    // A build without optimisation is not what the claim is about.
    assert!(!is_long() || !is_release(&program()?)? || took < poll::stretched(ALL), "{took:?}");
    let refused: Vec<_> =
        listeners().into_iter().flatten().filter(|listener| listener["ready"] != true).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0]["listener"], TAKEN);
    let entry = refused[0]["entry"].as_str().context("an entry")?;
    until_condition(kubectl, entry, "istio.io/WaypointBound", Some(("False", "WaypointRejected")))
        .with_context(tail)?;
    let bad: u16 = entry.trim_start_matches("entry-").parse()?;
    for number in [0, MANY / 2, MANY - 1].into_iter().filter(|number| *number != bad) {
        ensure!(status_of(&agent, &api, number)? == (200, true), "entry {number} is not reached\n{}", tail());
    }
    ensure!(status_of(&agent, &api, bad)? == (200, false), "the refused one is not reached\n{}", tail());
    drop(taken);

    // One change is one small update.
    let before = received(&api, "w1")?;
    let number = if bad == 7 { 8 } else { 7 };
    kubectl.apply(&one_of_many(number, 8001).to_string())?;
    let changed = || (status_of(&agent, &api, number).ok()? == (503, true)).then_some(());
    poll::until("the change to be seen", LIMIT, changed).with_context(tail)?;
    let bytes = received(&api, "w1")? - before;
    println!("one change took {bytes} bytes");
    assert!(bytes < SMALL, "{bytes} bytes");
    drop(waypoint);
    controller.stop()?;
    drop(agent);
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
