//! Pods of a real kubelet: enrolled before their first process, by labels, with DNS as the cluster has it.
//!
//! With `KMSE_LONG=1` in the environment 50 pods are started one after another, else 12.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tests::agent::mentions;
use tests::cluster::chart::Release;
use tests::cluster::{Cluster, DNS_SERVICE, Kubectl, NODE_ADDRESS, OUTSIDE_ADDRESS, images};
use tests::entries::static_entry;
use tests::{is_long, poll};

const LIMIT: Duration = Duration::from_secs(180);
/// How soon a label takes effect.
const EFFECT: Duration = Duration::from_secs(1);
/// How many pods are started at once.
const AT_ONCE: usize = 20;

/// A pod whose init container connects as soon as it runs.
fn pod(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  restartPolicy: Never\n  \
         terminationGracePeriodSeconds: 0\n  initContainers:\n  - name: first\n    image: {image}\n    imagePullPolicy: Never\n    \
         command: [curl, -sf, --max-time, '10', -o, /dev/null, -w, '%{{http_code}}', 'http://virtual.test/status/200']\n  \
         containers:\n  - name: app\n    image: {image}\n    imagePullPolicy: Never\n",
        image = images::name("sleep")
    )
}

/// Starts pods at once and checks what each first process has seen; then they go.
fn start(kubectl: &Kubectl, names: &[String]) -> anyhow::Result<()> {
    kubectl.apply(&names.iter().map(|name| pod(name)).collect::<String>())?;
    let pods: Vec<_> = names.iter().map(|name| format!("pod/{name}")).collect();
    let pods: Vec<_> = pods.iter().map(String::as_str).collect();
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    kubectl.run(&[&["-n", "shop", "wait", "--for=condition=Initialized", &limit], &pods[..]].concat())?;
    for pod in &pods {
        let code = kubectl.run(&["-n", "shop", "logs", pod, "-c", "first"])?;
        ensure!(code.trim() == "200", "{pod}: {code:?}");
    }
    kubectl.run(&[&["-n", "shop", "delete", "--wait=false"], &pods[..]].concat()).map(drop)
}

#[test]
#[ignore = "needs programs that `cargo xtask cluster` builds"]
fn pods_of_a_real_kubelet_are_enrolled_before_their_first_process() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&[])?;
    cluster.start_outside_httpbin(&[8000])?;
    let release = Release::install(&cluster)?;
    let kubectl = cluster.kubectl();
    kubectl.apply(&static_entry("virtual", "virtual.test", &OUTSIDE_ADDRESS.to_string(), 8000))?;
    let is_known = || release.ask(&cluster, "names").is_ok_and(|names| mentions(&names, "virtual.test"));
    poll::until("the agent to answer the name", LIMIT, || is_known().then_some(()))
        .with_context(|| release.agents())?;
    let status = release.ask(&cluster, "status")?;
    assert!(mentions(&status["dns"], &NODE_ADDRESS.to_string()), "{status:#}");
    assert!(mentions(&status["dns"]["resolvers"], DNS_SERVICE), "{status:#}");

    kubectl.run(&["create", "namespace", "shop"])?;
    kubectl.run(&["label", "namespace", "shop", "istio.io/dataplane-mode=Kmesh"])?;
    cluster.start_workloads("default")?;
    let began = Instant::now();
    let in_turn = if is_long() { 50 } else { 12 };
    for number in 0..in_turn {
        start(kubectl, &[format!("one-{number}")]).with_context(|| release.agents())?;
    }
    println!("{in_turn} pods one after another: {:.1?}", began.elapsed());
    let began = Instant::now();
    let names: Vec<_> = (0..AT_ONCE).map(|number| format!("many-{number}")).collect();
    start(kubectl, &names).with_context(|| release.agents())?;
    println!("{AT_ONCE} pods at once: {:.1?}", began.elapsed());

    // A pod that runs: labels take effect both ways without a restart; one that is not labelled is untouched.
    let reaches = || -> anyhow::Result<bool> {
        let curl = ["curl", "-s", "--max-time", "3", "-o", "/dev/null", "http://virtual.test/status/200"];
        Ok(kubectl.exec("deploy/sleep", &curl)?.status.success())
    };
    assert!(!reaches()?);
    for (label, wanted) in [("istio.io/dataplane-mode=Kmesh", true), ("istio.io/dataplane-mode-", false)] {
        kubectl.run(&["label", "namespace", "default", label])?;
        let labelled = Instant::now();
        poll::until("the label to take effect", LIMIT, || {
            let rows = release.ask(&cluster, "workloads").ok()?;
            let is_enrolled = mentions(&rows["workloads"], "default/sleep");
            (is_enrolled == wanted).then_some(())
        })?;
        let took = labelled.elapsed();
        println!("{label} took effect after {took:.1?}");
        assert!(took < EFFECT, "{label} took effect after {took:?}");
        assert_eq!(reaches()?, wanted);
    }
    println!("{:#}", release.ask(&cluster, "status")?["pods"]);
    release.remove(&cluster)?;
    assert_eq!(cluster.end(), Vec::<String>::new());
    Ok(())
}
