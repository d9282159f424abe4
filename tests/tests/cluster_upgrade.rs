//! Clients of a real cluster do not notice that the chart brings another agent, or that the API server is away.
//!
//! The API server is away for a minute when `KMSE_LONG=1` is in the environment, else for less.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tests::cluster::chart::{self, Release};
use tests::cluster::{Cluster, images};
use tests::stage::examples_folder;
use tests::{is_long, poll};

const LIMIT: Duration = Duration::from_secs(60);
/// How many connections are to be made before something counts as gone on.
const SOME: usize = 40;

/// A pod that connects again and again, by a name that only an entry has and by a Service's, each in a new process. A query
/// that is lost would be repeated after five seconds, which is later than the connection may be.
struct Load {
    log: PathBuf,
}

impl Load {
    fn start(cluster: &Cluster) -> anyhow::Result<Load> {
        // The node sees the run's folder where the machine does.
        let folder = cluster.run().folder()?.join("load");
        fs::create_dir_all(&folder)?;
        let curl = "curl -s -o /dev/null --max-time 4 -w '%{http_code} %{exitcode} %{errormsg}\\n'";
        let script = format!(
            "while :; do for host in kmesh-fake.com httpbin:8000; do {curl} http://$host/status/200 >> /load/log; done; done"
        );
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "load"},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "load", "image": images::name("sleep"), "imagePullPolicy": "Never",
                    "command": ["sh", "-c", script], "volumeMounts": [{"name": "load", "mountPath": "/load"}],
                }],
                "volumes": [{"name": "load", "hostPath": {"path": folder, "type": "Directory"}}],
            },
        });
        cluster.kubectl().apply(&pod.to_string())?;
        cluster.kubectl().wait_ready("default", "pod/load", LIMIT)?;
        Ok(Load { log: folder.join("log") })
    }

    /// The lines that are written to their end.
    fn lines(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// Waits until more connections were made, and answers how many there are.
    fn goes_on(&self) -> anyhow::Result<usize> {
        let before = self.lines().len();
        poll::until("more connections", LIMIT, || Some(self.lines().len()).filter(|now| *now > before + SOME))
    }

    /// Not one connection may have failed so far.
    fn is_good(&self) -> anyhow::Result<usize> {
        let lines = self.lines();
        let failed: Vec<_> = lines.iter().filter(|line| !line.starts_with("200 0")).collect();
        ensure!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), lines.len());
        Ok(lines.len())
    }
}

/// Whether the pod `sleep` reaches this host.
fn answers(cluster: &Cluster, host: &str) -> Option<()> {
    let url = format!("http://{host}/status/200");
    let output = cluster.kubectl().exec("deploy/sleep", &["curl", "-sf", &url]);
    output.is_ok_and(|output| output.status.success()).then_some(())
}

/// Waits until the agent has one pod, of the image with this tag.
fn is_alone(release: &Release, tag: &str) -> anyhow::Result<()> {
    let only = || {
        let pods = release.pods().ok()?;
        (pods.len() == 1 && pods[0].1.ends_with(&format!(":{tag}"))).then_some(())
    };
    poll::until(&format!("the pod of {tag} to be the only one"), LIMIT, only)
        .with_context(|| release.agents())
}

#[test]
#[ignore = "needs programs that `cargo xtask cluster` builds"]
fn no_connect_fails_in_an_upgrade_or_without_the_api_server() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&[])?;
    cluster.start_workloads("default")?;
    let release = Release::install(&cluster)?;
    let kubectl = cluster.kubectl();
    kubectl.run(&["label", "namespace", "default", "istio.io/dataplane-mode=Kmesh"])?;
    let entry = fs::read_to_string(examples_folder().join("external-fake-svc.yaml"))?;
    kubectl.apply(&entry)?;
    poll::until("the entry to be known", LIMIT, || answers(&cluster, "kmesh-fake.com"))
        .with_context(|| release.agents())?;
    let load = Load::start(&cluster)?;
    load.goes_on()?;

    // Another image; and something else of the pod's template, back and forth.
    chart::import_image(&cluster, "next")?;
    for (value, tag) in [("image.tag=next", "next"), ("log=debug", "next"), ("image.tag=", chart::TAG)] {
        let (began, before) = (Instant::now(), load.lines().len());
        let pods = release.pods()?;
        release.upgrade(value)?;
        is_alone(&release, tag)?;
        assert_ne!(release.pods()?, pods, "{value} has changed nothing");
        load.goes_on()?;
        let count = load.is_good().with_context(|| format!("{value}\n{}", release.agents()))?;
        println!("{value}: {:.1?}, {} connections, none failed", began.elapsed(), count - before);
    }

    let (began, before) = (Instant::now(), load.lines().len());
    let absence = Duration::from_secs(if is_long() { 60 } else { 5 });
    cluster.stop_apiserver();
    while began.elapsed() < absence {
        load.goes_on()?;
    }
    cluster.start_apiserver()?;
    let another = entry.replace("kmesh-fake.com", "later.test").replace("external-fake-svc", "later");
    cluster.kubectl().apply(&another)?;
    poll::until("what is new to be known", LIMIT, || answers(&cluster, "later.test"))
        .with_context(|| release.agents())?;
    load.goes_on()?;
    let count = load.is_good().with_context(|| release.agents())?;
    println!("no API server for {absence:?}: {} connections, none failed", count - before);

    cluster.kubectl().run(&["delete", "pod", "load", "--now"])?;
    release.remove(&cluster)?;
    assert_eq!(cluster.end(), Vec::<String>::new());
    Ok(())
}
