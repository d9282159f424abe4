//! The tutorial on a real cluster, from its first command to its last: the agent comes by the chart and as an image, and goes
//! by the chart again.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::agent::program;
use tests::cluster::{Cluster, OUTSIDE_ADDRESS, programs};
use tests::stage::examples_folder;
use tests::{oci, poll};

const LIMIT: Duration = Duration::from_secs(180);
/// How long a change of an entry may take to reach a pod's names.
const EFFECT: Duration = Duration::from_secs(20);
/// How curl ends when a name does not resolve.
const NO_SUCH_NAME: i32 = 6;
/// Where the chart mounts what is below `/sys/fs/cgroup` on the node.
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup", "/host/cgroup"];

/// Runs `helm` with the cluster's own settings.
fn helm(cluster: &Cluster, words: &[&str]) -> anyhow::Result<String> {
    let program = programs::find("helm").context("no helm: `cargo xtask cluster` builds it")?;
    let folder = cluster.run().folder()?;
    let mut command = std::process::Command::new(program);
    command.args(words).env("KUBECONFIG", cluster.kubectl().kubeconfig());
    for place in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(place, folder.join("helm"));
    }
    let output = command.output()?;
    ensure!(output.status.success(), "helm {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// What the agents' pods say, for the message of a failure.
fn agents(cluster: &Cluster) -> String {
    let about = |words: &[&str]| cluster.kubectl().run(words).unwrap_or_else(|error| format!("{error:#}"));
    let pods = about(&["-n", "kmesh-se", "describe", "pods"]);
    let logs = about(&["-n", "kmesh-se", "logs", "daemonset/kmesh-se", "--all-containers", "--tail=40"]);
    format!("{pods}\n{logs}")
}

/// The standard output of a command in the sleep pod, and its exit code; both are shown.
fn sleep(cluster: &Cluster, words: &[&str]) -> anyhow::Result<(String, Option<i32>)> {
    println!("$ kubectl exec deploy/sleep -- {}", words.join(" "));
    let output = cluster.kubectl().exec("deploy/sleep", words)?;
    let text = String::from_utf8(output.stdout)?;
    println!("{text}");
    Ok((text, output.status.code()))
}

/// The answer once the name is known: an entry needs a moment to reach the node.
fn answered(cluster: &Cluster, url: &str) -> anyhow::Result<Value> {
    let known = || {
        let (text, _) = sleep(cluster, &["curl", "-s", url]).ok()?;
        serde_json::from_str(&text).ok()
    };
    poll::until(&format!("{url} to answer"), EFFECT, known).with_context(|| agents(cluster))
}

/// What the agent left on the node, as the node sees it.
fn left_on_node(cluster: &Cluster) -> anyhow::Result<String> {
    let look = "ls -d /sys/fs/bpf/kmesh-se /run/kmesh-se /var/lib/kmesh-se 2>/dev/null; ip route show proto 107; \
                ip -6 route show proto 107; true";
    let output = cluster.on_node("sh", &["-c", look]).output()?;
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
#[ignore = "needs programs that `cargo xtask cluster` builds"]
fn the_tutorial_by_the_chart_from_the_first_command_to_the_last() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&[("httpbin.org", OUTSIDE_ADDRESS)])?;
    cluster.start_outside_httpbin(&[80])?;
    cluster.start_workloads("default")?;
    let archive = cluster.run().folder()?.join("kmesh-se.tar");
    let image = concat!("localhost/kmesh-se:", env!("CARGO_PKG_VERSION"));
    oci::agent_image(image, oci::own_architecture()?, &program()?)?.write(&archive)?;
    cluster.import(&archive)?;
    let kubectl = cluster.kubectl();

    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/charts/kmesh-se");
    let chart = chart.display().to_string();
    let pods = cluster.cgroup().display().to_string().replace(CGROUPS[0], CGROUPS[1]);
    let attach = format!("extraArgs={{--attach={pods}}}");
    let began = Instant::now();
    helm(
        &cluster,
        &["install", "kmesh-se", &chart, "-n", "kmesh-se", "--create-namespace", "--wait", "--set", &attach],
    )
    .with_context(|| agents(&cluster))?;
    println!("installed after {:.1?}", began.elapsed());

    kubectl.run(&["label", "namespace", "default", "istio.io/dataplane-mode=Kmesh"])?;
    let example = |name: &str| examples_folder().join(name).display().to_string();
    println!("{}", kubectl.run(&["apply", "-f", &example("external-fake-svc.yaml")])?);

    let agent = |answer: &Value| answer["headers"]["User-Agent"].clone();
    let headers =
        |host: &str, answer: &Value| json!({"Accept": "*/*", "Host": host, "User-Agent": agent(answer)});
    let answer = answered(&cluster, "http://kmesh-fake.com/headers")?;
    assert!(agent(&answer).as_str().is_some_and(|agent| agent.starts_with("curl/")), "{answer}");
    assert_eq!(answer, json!({"headers": headers("kmesh-fake.com", &answer)}));

    let answer = answered(&cluster, "http://kmesh-fake.com/get")?;
    let pod = kubectl.json(&["get", "pods", "-l", "app=sleep"])?;
    let get = json!({
        "args": {}, "headers": headers("kmesh-fake.com", &answer), "origin": pod["items"][0]["status"]["podIP"],
        "url": "http://kmesh-fake.com/get",
    });
    assert_eq!(answer, get);

    let status = |code: u16| format!("http://kmesh-fake.com/status/{code}");
    assert_eq!(sleep(&cluster, &["curl", "-s", &status(200)])?, (String::new(), Some(0)));
    let teapot = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}\n", &status(418)];
    assert_eq!(sleep(&cluster, &teapot)?.0, "418\n");

    println!("{}", kubectl.run(&["apply", "-f", &example("external-httpbin-org.yaml")])?);
    // The name is real, and answers before as well as after: what tells is the address.
    let address = || {
        sleep(
            &cluster,
            &["curl", "-s", "-o", "/dev/null", "-w", "%{remote_ip}", "http://httpbin.org/headers"],
        )
    };
    let is_virtual = || address().ok().filter(|(ip, _)| ip.starts_with("240.240.")).map(|_| ());
    poll::until("httpbin.org to be an entry's", EFFECT, is_virtual).with_context(|| agents(&cluster))?;
    let answer = answered(&cluster, "http://httpbin.org/headers")?;
    assert_eq!(answer, json!({"headers": headers("httpbin.org", &answer)}));

    for name in ["external-fake-svc", "external-httpbin-org"] {
        println!("{}", kubectl.run(&["delete", "serviceentry", name, "-n", "default"])?);
    }
    let unknown = || {
        let (_, code) = sleep(&cluster, &["curl", "-s", "http://kmesh-fake.com/headers"]).ok()?;
        (code == Some(NO_SUCH_NAME)).then_some(())
    };
    poll::until("kmesh-fake.com to be unknown", EFFECT, unknown).with_context(|| agents(&cluster))?;
    let real = || address().ok().filter(|(ip, _)| *ip == OUTSIDE_ADDRESS.to_string()).map(|_| ());
    poll::until("httpbin.org to be what it was", EFFECT, real).with_context(|| agents(&cluster))?;
    let rows = kubectl.run(&[
        "-n",
        "kmesh-se",
        "exec",
        "daemonset/kmesh-se",
        "--",
        "/usr/bin/kmesh-se",
        "dump",
        "actual",
        "-o",
        "json",
    ])?;
    for name in ["kmesh-fake.com", "httpbin.org"] {
        assert!(!rows.contains(name), "{rows}");
    }

    assert_ne!(left_on_node(&cluster)?, "", "the agent is at work");
    let cleanup = [
        "upgrade",
        "kmesh-se",
        &chart,
        "-n",
        "kmesh-se",
        "--reuse-values",
        "--set",
        "mode=cleanup",
        "--wait",
    ];
    helm(&cluster, &cleanup).with_context(|| agents(&cluster))?;
    assert_eq!(left_on_node(&cluster)?, "");
    helm(&cluster, &["uninstall", "kmesh-se", "-n", "kmesh-se", "--wait"])?;
    poll::until("the agents' pods to be gone", LIMIT, || {
        let pods = kubectl.json(&["-n", "kmesh-se", "get", "pods"]).ok()?;
        pods["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    })?;
    assert_eq!(cluster.end(), Vec::<String>::new());
    Ok(())
}
