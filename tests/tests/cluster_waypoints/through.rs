//! The tutorial through a waypoint whose Envoys and controllers come and go.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::cluster::chart::Release;
use tests::cluster::{Cluster, Kubectl, OUTSIDE_ADDRESS, images};
use tests::stage::examples_folder;
use tests::{poll, tutorial};

use super::{LIMIT, command};

const URL: &str = "http://kmesh-fake.com/headers";
/// Requests in a second, and all of them.
const RATE: usize = 20;
const REQUESTS: usize = 200;
const PODS: [&str; 4] = ["get", "pods", "-l", "gateway.networking.k8s.io/gateway-name=waypoint"];

/// A command in the sleep pod: whether it ended well, and what it wrote.
fn sleep(kubectl: &Kubectl, words: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = kubectl.exec("deploy/sleep", words)?;
    Ok((output.status.success(), String::from_utf8(output.stdout)?))
}

/// Whether a request on a new connection is answered by an Envoy, or by nobody.
fn is_served(kubectl: &Kubectl) -> anyhow::Result<bool> {
    let (well, head) = sleep(kubectl, &["curl", "-IsS", "--max-time", "5", URL])?;
    Ok(well
        && head.contains("HTTP/1.1 200 OK")
        && head.lines().any(|line| line.trim_end() == "server: envoy"))
}

/// How many requests fail, each on a connection of its own, of those of about ten seconds in which `event` happens.
fn failures(kubectl: &Kubectl, event: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<usize> {
    let (rate, urls) = (format!("{RATE}/s"), format!("http://kmesh-fake.com/status/200?[1-{REQUESTS}]"));
    let words = [
        "curl",
        "-s",
        "--max-time",
        "5",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}\n",
        "-H",
        "Connection: close",
        "--rate",
        &rate,
        &urls,
    ];
    std::thread::scope(|scope| {
        let client = scope.spawn(|| sleep(kubectl, &words));
        // Some come before.
        std::thread::sleep(Duration::from_secs(1));
        event()?;
        let (_, text) = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        let codes: Vec<_> = text.lines().collect();
        ensure!(codes.len() == REQUESTS, "{} answers, not {REQUESTS}: {codes:?}", codes.len());
        Ok(codes.iter().filter(|code| **code != "200").count())
    })
}

/// The process of the Envoy of a Pod, which has the Pod's name in its environment.
fn envoy_of(pod: &str) -> anyhow::Result<Pid> {
    let wanted = format!("POD_NAME={pod}");
    for folder in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = folder.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Processes end meanwhile.
        let environment = std::fs::read(folder.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            return Ok(Pid::from_raw(pid));
        }
    }
    bail!("no process of Pod {pod}")
}

/// An HTTPRoute is followed, and told that it is, with the rights that the chart gives to controllers.
fn a_route_is_told(kubectl: &Kubectl) -> anyhow::Result<()> {
    const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: marked, namespace: default}\n\
        spec:\n  parentRefs: [{group: networking.istio.io, kind: ServiceEntry, name: external-fake-svc}]\n  rules:\n  \
        - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-routed, value: \"yes\"}]}}]\n    \
        backendRefs: [{group: networking.istio.io, kind: ServiceEntry, name: external-fake-svc, port: 80}]\n";
    kubectl.apply(ROUTE)?;
    let accepted = "jsonpath={.status.parents[0].conditions[?(@.type==\"Accepted\")].status}";
    kubectl.until(&["get", "httproute", "marked", "-o", accepted], LIMIT, |status| status == "True")?;
    let is_routed = || sleep(kubectl, &["curl", "-IsS", URL]).ok()?.1.contains("x-routed: yes").then_some(());
    poll::until("answers to be marked as the route says", LIMIT, is_routed)?;
    kubectl.run(&["delete", "httproute", "marked"]).map(drop)
}

fn listeners(kubectl: &Kubectl) -> anyhow::Result<Value> {
    let map = kubectl.json(&["-n", "kmesh-se", "get", "configmap", "waypoint.default.waypoint"])?;
    Ok(serde_json::from_str(map["data"]["listeners"].as_str().context("no listeners")?)?)
}

#[test]
#[ignore = "needs programs that `cargo xtask cluster` builds"]
fn the_tutorial_through_a_waypoint_whose_envoys_and_controllers_come_and_go() -> anyhow::Result<()> {
    let Some(envoy) = images::envoy_archive()? else {
        println!("skipped: there is no Envoy (`cargo xtask test` installs it)");
        return Ok(());
    };
    let mut cluster = Cluster::start(&[("httpbin.org", OUTSIDE_ADDRESS)])?;
    cluster.start_outside_httpbin(&[80])?;
    cluster.start_workloads("default")?;
    cluster.import(&envoy)?;
    let kubectl = cluster.kubectl();
    kubectl.install_gateway_api()?;
    let image = format!("controller.waypoints.image={}", images::name("envoy"));
    let release = Release::install_with(&cluster, &["controller.waypoints.enabled=true", &image])?;
    let about = || release.agents();
    kubectl.run(&["label", "namespace", "default", "istio.io/dataplane-mode=Kmesh"])?;
    command(kubectl, &["apply", "-n", "default", "--enroll-namespace", "--wait"]).with_context(about)?;
    for name in tutorial::ENTRIES {
        kubectl.run(&["apply", "-f", &examples_folder().join(name).display().to_string()])?;
    }
    poll::until("the entry to be reached through the waypoint", LIMIT, || {
        is_served(kubectl).ok()?.then_some(())
    })
    .with_context(about)?;
    let (_, head) = sleep(kubectl, &["curl", "-IsS", URL])?;
    println!("{head}");
    ensure!(tutorial::missing_headers(&head).is_empty(), "{:?}:\n{head}", tutorial::missing_headers(&head));
    let pod = kubectl.json(&["get", "pods", "-l", "app=sleep"])?;
    let origin = pod["items"][0]["status"]["podIP"].as_str().context("the pod has no address")?;
    tutorial::ask(|words| sleep(kubectl, words), origin).with_context(about)?;
    let condition = "jsonpath={.status.conditions[?(@.type==\"istio.io/WaypointBound\")].status}";
    kubectl.until(&["get", "serviceentry", "external-fake-svc", "-o", condition], LIMIT, |status| {
        status == "True"
    })?;
    a_route_is_told(kubectl).with_context(about)?;
    let before = listeners(kubectl)?;

    // One of two Envoys is killed: for less than a second some new connections meet it.
    let two = |text: &str| text.split_whitespace().filter(|word| *word == "True").count() == 2;
    let ready = "jsonpath={.items[*].status.conditions[?(@.type==\"Ready\")].status}";
    kubectl.until(&[&PODS[..], &["-o", ready]].concat(), LIMIT, two).with_context(about)?;
    let victim = kubectl.run(&[&PODS[..], &["-o", "jsonpath={.items[0].metadata.name}"]].concat())?;
    let failed = failures(kubectl, || {
        kubectl.run(&["delete", "pod", &victim, "--force", "--grace-period=0", "--wait=false"]).map(drop)
    })?;
    println!("an Envoy was killed: {failed} of {REQUESTS} requests failed, {RATE} a second");
    ensure!(failed < RATE, "requests failed for a second after an Envoy was killed: {failed}\n{}", about());
    kubectl.until(&[&PODS[..], &["-o", ready]].concat(), LIMIT, two).with_context(about)?;

    // An Envoy that dies in its Pod is left out until it is there again.
    let victim = kubectl.run(&[&PODS[..], &["-o", "jsonpath={.items[0].metadata.name}"]].concat())?;
    let envoy = envoy_of(&victim)?;
    let failed = failures(kubectl, || Ok(kill(envoy, Signal::SIGKILL)?))?;
    println!("an Envoy died: {failed} of {REQUESTS} requests failed, {RATE} a second");
    ensure!(failed < RATE, "requests failed for a second after an Envoy died: {failed}\n{}", about());
    kubectl.until(&[&PODS[..], &["-o", ready]].concat(), LIMIT, two).with_context(about)?;

    // Without a controller everything goes on; the next one moves nothing.
    let controllers = ["-n", "kmesh-se", "delete", "pods", "-l", "app.kubernetes.io/component=controller"];
    let kill_controllers = || {
        let now = ["--force", "--grace-period=0", "--wait=false"];
        kubectl.run(&[&controllers[..], &now].concat()).map(drop)
    };
    let failed = failures(kubectl, kill_controllers)?;
    println!("the controllers were killed: {failed} of {REQUESTS} requests failed");
    ensure!(failed == 0, "{failed} requests failed without a controller\n{}", about());
    let is_bound = || is_served(kubectl).ok()?.then_some(());
    poll::until("the entry to be reached through the waypoint", LIMIT, is_bound).with_context(about)?;
    let now = listeners(kubectl)?;
    ensure!(now == before, "ports have changed: {before:#}\n{now:#}");

    // The waypoint goes, and no request with it.
    let failed = failures(kubectl, || command(kubectl, &["delete", "-n", "default", "waypoint"]).map(drop))?;
    println!("the waypoint was deleted: {failed} of {REQUESTS} requests failed");
    ensure!(failed == 0, "{failed} requests failed while the waypoint went\n{}", about());
    let maps = ["-n", "kmesh-se", "get", "configmaps", "-l", "kmesh-se.io/waypoint-listeners", "-o", "name"];
    kubectl.until(&maps, LIMIT, |text| text.trim().is_empty())?;
    let (well, head) = sleep(kubectl, &["curl", "-IsS", URL])?;
    ensure!(well && !head.contains("envoy"), "{head}");

    // And comes again, with no request the less.
    let failed = failures(kubectl, || command(kubectl, &["apply", "-n", "default", "--wait"]).map(drop))?;
    println!("the waypoint was made anew: {failed} of {REQUESTS} requests failed");
    ensure!(failed == 0, "{failed} requests failed while the waypoint came\n{}", about());
    poll::until("the entry to be reached through the waypoint", LIMIT, is_bound).with_context(about)?;
    release.remove(&cluster)?;
    assert_eq!(cluster.end(), Vec::<String>::new());
    Ok(())
}
