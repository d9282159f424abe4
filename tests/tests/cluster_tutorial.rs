//! The tutorial on a real cluster, from its first command to its last: the agent comes by the chart and as an image, and goes
//! by the chart again.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::cluster::chart::Release;
use tests::cluster::{Cluster, OUTSIDE_ADDRESS};
use tests::poll;
use tests::stage::examples_folder;

/// How long a change of an entry may take to reach a pod's names.
const EFFECT: Duration = Duration::from_secs(20);
/// How curl ends when a name does not resolve.
const NO_SUCH_NAME: i32 = 6;
/// The standard output of a command in the sleep pod, and its exit code; both are shown.
fn sleep(cluster: &Cluster, words: &[&str]) -> anyhow::Result<(String, Option<i32>)> {
    println!("$ kubectl exec deploy/sleep -- {}", words.join(" "));
    let output = cluster.kubectl().exec("deploy/sleep", words)?;
    let text = String::from_utf8(output.stdout)?;
    println!("{text}");
    Ok((text, output.status.code()))
}

/// The answer once the name is known: an entry needs a moment to reach the node.
fn answered(cluster: &Cluster, release: &Release, url: &str) -> anyhow::Result<Value> {
    let known = || {
        let (text, _) = sleep(cluster, &["curl", "-s", url]).ok()?;
        serde_json::from_str(&text).ok()
    };
    poll::until(&format!("{url} to answer"), EFFECT, known).with_context(|| release.agents())
}

#[test]
#[ignore = "needs programs that `cargo xtask cluster` builds"]
fn the_tutorial_by_the_chart_from_the_first_command_to_the_last() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&[("httpbin.org", OUTSIDE_ADDRESS)])?;
    cluster.start_outside_httpbin(&[80])?;
    cluster.start_workloads("default")?;
    let release = Release::install(&cluster)?;
    let kubectl = cluster.kubectl();
    kubectl.run(&["label", "namespace", "default", "istio.io/dataplane-mode=Kmesh"])?;
    let example = |name: &str| examples_folder().join(name).display().to_string();
    println!("{}", kubectl.run(&["apply", "-f", &example("external-fake-svc.yaml")])?);

    // The controller gives it its addresses.
    let addresses = ["get", "serviceentry", "external-fake-svc", "-o", "jsonpath={.status.addresses}"];
    let has_both = |text: &str| text.contains("240.240.0.1") && text.contains("2001:2::1");
    println!("{}", kubectl.until(&addresses, EFFECT, has_both).with_context(|| release.agents())?);

    // What would be rejected is refused, by a controller that the API server finds as a Service.
    let bad = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "bad", "namespace": "default"},
        "spec": {"hosts": ["bad.test"], "resolution": "NONE", "endpoints": [{"address": "10.0.0.1"}]}});
    let refused = || {
        let applied = kubectl.apply(&bad.to_string());
        let _ = kubectl.run(&["delete", "serviceentry", "bad", "--ignore-not-found"]);
        applied.err().map(|error| format!("{error:#}"))
    };
    let said = poll::until("a bad entry to be refused", EFFECT, refused).with_context(|| release.agents())?;
    println!("{said}");
    assert!(said.contains("validation.kmesh-se.io") && said.contains("(EndpointsNotAllowed)"), "{said}");

    let agent = |answer: &Value| answer["headers"]["User-Agent"].clone();
    let headers =
        |host: &str, answer: &Value| json!({"Accept": "*/*", "Host": host, "User-Agent": agent(answer)});
    let answer = answered(&cluster, &release, "http://kmesh-fake.com/headers")?;
    assert!(agent(&answer).as_str().is_some_and(|agent| agent.starts_with("curl/")), "{answer}");
    assert_eq!(answer, json!({"headers": headers("kmesh-fake.com", &answer)}));

    let answer = answered(&cluster, &release, "http://kmesh-fake.com/get")?;
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
    poll::until("httpbin.org to be an entry's", EFFECT, is_virtual).with_context(|| release.agents())?;
    let answer = answered(&cluster, &release, "http://httpbin.org/headers")?;
    assert_eq!(answer, json!({"headers": headers("httpbin.org", &answer)}));

    for name in ["external-fake-svc", "external-httpbin-org"] {
        println!("{}", kubectl.run(&["delete", "serviceentry", name, "-n", "default"])?);
    }
    let unknown = || {
        let (_, code) = sleep(&cluster, &["curl", "-s", "http://kmesh-fake.com/headers"]).ok()?;
        (code == Some(NO_SUCH_NAME)).then_some(())
    };
    poll::until("kmesh-fake.com to be unknown", EFFECT, unknown).with_context(|| release.agents())?;
    let real = || address().ok().filter(|(ip, _)| *ip == OUTSIDE_ADDRESS.to_string()).map(|_| ());
    poll::until("httpbin.org to be what it was", EFFECT, real).with_context(|| release.agents())?;
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

    release.remove(&cluster)?;
    assert_eq!(cluster.end(), Vec::<String>::new());
    Ok(())
}
