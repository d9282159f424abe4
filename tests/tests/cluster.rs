//! A real cluster: what it is for others to build on, and what kmesh-se does in it.
//!
//! All tests share one cluster and run one after another; the first brings it up, and `nothing_is_left_behind` takes it
//! down. They are skipped unless they are asked for, since they need programs that `cargo xtask cluster` builds.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;
use tests::clean::{leftovers, sweep};
use tests::cluster::{ApiServer, Cluster, DNS_SERVICE, NODE, OUTSIDE_ADDRESS, images};

/// How long something may take in a cluster that is up.
const LIMIT: Duration = Duration::from_secs(60);
/// What the world's DNS knows.
const RECORDS: &[(&str, IpAddr)] = &[("httpbin.org", OUTSIDE_ADDRESS)];

type Test = fn() -> anyhow::Result<()>;

/// Tests with their names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name)),*] };
}

/// In the order in which they run.
const TESTS: &[(&str, Test)] = tests![
    an_api_server_alone_takes_objects_and_comes_back,
    the_node_is_ready_and_runs_pods,
    pods_find_services_by_name_and_see_each_other_as_they_are,
    pods_reach_what_is_outside,
    logs_and_exec_work,
    pods_have_their_cgroup_below_the_runs,
    connections_go_on_while_the_api_server_is_away,
    the_machine_keeps_its_own_settings,
    a_second_cluster_does_not_meet_the_first_and_is_swept_when_it_is_killed,
    nothing_is_left_behind,
];

enum Shared {
    NotYet,
    Up(Box<Cluster>),
    Failed,
}

static SHARED: Mutex<Shared> = Mutex::new(Shared::NotYet);

fn main() -> ExitCode {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    if !(arguments.ignored || arguments.include_ignored || arguments.list) {
        println!("skipped: {} tests on a cluster: `cargo xtask cluster` runs them", TESTS.len());
    }
    let trial = |(name, test): &(&str, Test)| {
        let test = *test;
        Trial::test(*name, move || test().map_err(|error| format!("{error:#}").into()))
            .with_ignored_flag(true)
    };
    let conclusion = libtest_mimic::run(&arguments, TESTS.iter().map(trial).collect());
    // When the last test was not asked for.
    let left = end();
    left.iter().for_each(|what| println!("left behind: {what}"));
    if left.is_empty() { conclusion.exit_code() } else { ExitCode::FAILURE }
}

/// Runs a test on the cluster that all share.
fn on_cluster(test: impl FnOnce(&mut Cluster) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*shared, Shared::NotYet) {
        *shared = Shared::Failed;
        *shared = Shared::Up(Box::new(start()?));
    }
    match &mut *shared {
        Shared::Up(cluster) => test(cluster),
        _ => bail!("the cluster did not come up"),
    }
}

fn start() -> anyhow::Result<Cluster> {
    let began = Instant::now();
    let cluster = Cluster::start(RECORDS)?;
    println!("run {}: the cluster is up after {:.1} s", cluster.run().id(), began.elapsed().as_secs_f64());
    cluster.start_workloads("default")?;
    println!("pods run after {:.1} s", began.elapsed().as_secs_f64());
    Ok(cluster)
}

fn end() -> Vec<String> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    match std::mem::replace(&mut *shared, Shared::Failed) {
        Shared::Up(cluster) => cluster.end(),
        _ => Vec::new(),
    }
}

/// What a command in the pod `sleep` prints, if it ends well.
fn in_sleep(cluster: &Cluster, words: &[&str]) -> anyhow::Result<String> {
    let output = cluster.kubectl().exec("deploy/sleep", words)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{words:?}: {}\n{}", text(&output.stdout), text(&output.stderr));
    Ok(text(&output.stdout))
}

fn address_of(cluster: &Cluster, app: &str) -> anyhow::Result<String> {
    let pods = cluster.kubectl().json(&["get", "pods", "-l", &format!("app={app}")])?;
    let address = pods["items"][0]["status"]["podIP"].as_str();
    address.map(str::to_owned).with_context(|| format!("{app} has no address"))
}

fn an_api_server_alone_takes_objects_and_comes_back() -> anyhow::Result<()> {
    let began = Instant::now();
    let mut server = ApiServer::start()?;
    println!("an API server alone is up after {:.1} s", began.elapsed().as_secs_f64());
    let version = server.kubectl().json(&["version"])?;
    assert_eq!(version["serverVersion"]["minor"], "36");
    let pod = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: idle}}, spec: {{containers: [{{name: idle, image: {}}}]}}}}",
        images::name("pause")
    );
    server.kubectl().apply(&pod)?;
    // From this machine, not from the namespace.
    let outside = Command::new(server.kubectl().program())
        .args(["get", "pods", "-o", "name"])
        .env("KUBECONFIG", server.kubectl().kubeconfig())
        .output()?;
    assert_eq!(String::from_utf8_lossy(&outside.stdout), "pod/idle\n");

    server.stop_apiserver();
    assert!(server.kubectl().run(&["get", "pods"]).is_err());
    server.start_apiserver()?;
    assert_eq!(server.kubectl().run(&["get", "pods", "-o", "name"])?, "pod/idle\n");
    assert_eq!(server.end(), Vec::<String>::new());
    Ok(())
}

fn the_node_is_ready_and_runs_pods() -> anyhow::Result<()> {
    on_cluster(|cluster| {
        let node = cluster.kubectl().json(&["get", "node", NODE])?;
        assert_eq!(
            node["status"]["nodeInfo"]["kubeletVersion"].as_str().map(|text| &text[..5]),
            Some("v1.36")
        );
        let pods = cluster.kubectl().json(&["get", "pods", "-A"])?;
        let phases: Vec<_> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pod| pod["status"]["phase"].as_str())
            .collect();
        assert_eq!(phases, [Some("Running"); 3]);
        Ok(())
    })
}

fn pods_find_services_by_name_and_see_each_other_as_they_are() -> anyhow::Result<()> {
    on_cluster(|cluster| {
        let answer = in_sleep(cluster, &["nslookup", "httpbin.default.svc.cluster.local"])?;
        assert!(answer.contains(&format!("{DNS_SERVICE}:53")), "{answer}");
        let service = cluster.kubectl().json(&["get", "service", "httpbin"])?;
        let service = service["spec"]["clusterIP"].as_str().context("no address")?;
        for host in ["httpbin", service, &address_of(cluster, "httpbin")?] {
            let body = in_sleep(cluster, &["curl", "-sS", &format!("http://{host}:8000/get")])?;
            let body: Value = serde_json::from_str(&body)?;
            assert_eq!(body["origin"], address_of(cluster, "sleep")?, "by {host}");
        }
        Ok(())
    })
}

fn pods_reach_what_is_outside() -> anyhow::Result<()> {
    on_cluster(|cluster| {
        cluster.start_outside_httpbin(&[80])?;
        let body: Value =
            serde_json::from_str(&in_sleep(cluster, &["curl", "-sS", "http://httpbin.org/get"])?)?;
        assert_eq!(body["origin"], address_of(cluster, "sleep")?);
        Ok(())
    })
}

fn logs_and_exec_work() -> anyhow::Result<()> {
    on_cluster(|cluster| {
        assert_eq!(in_sleep(cluster, &["sh", "-c", "echo from inside"])?, "from inside\n");
        let ended = cluster.kubectl().exec("deploy/sleep", &["sh", "-c", "exit 7"])?;
        assert_eq!(ended.status.code(), Some(7));
        let is_gunicorn = |log: &str| log.contains("Listening at");
        cluster.kubectl().until(&["logs", "deploy/httpbin"], LIMIT, is_gunicorn)?;
        Ok(())
    })
}

fn pods_have_their_cgroup_below_the_runs() -> anyhow::Result<()> {
    on_cluster(|cluster| {
        let pods = cluster.kubectl().json(&["get", "pods", "-l", "app=sleep"])?;
        let uid = pods["items"][0]["metadata"]["uid"].as_str().context("no uid")?;
        let group = cluster.cgroup().join(format!("kubepods/besteffort/pod{uid}"));
        ensure!(group.is_dir(), "there is no {}", group.display());
        Ok(())
    })
}

fn connections_go_on_while_the_api_server_is_away() -> anyhow::Result<()> {
    on_cluster(|cluster| {
        let target = format!("http://{}:8000/status/200", address_of(cluster, "httpbin")?);
        let mut client = cluster.on_node("curl", &["-sS", "-o", "/dev/null", "-w", "%{http_code}", &target]);
        cluster.stop_apiserver();
        assert_eq!(client.output()?.stdout, b"200");
        assert!(cluster.kubectl().run(&["get", "pods"]).is_err());
        cluster.start_apiserver()?;
        cluster.kubectl().wait_ready("default", "deployment/httpbin", LIMIT)
    })
}

fn the_machine_keeps_its_own_settings() -> anyhow::Result<()> {
    on_cluster(|cluster| {
        // What the kubelet wants; the machine's own values are not its to see.
        for (name, wanted) in [("vm/overcommit_memory", "1"), ("kernel/panic", "10")] {
            let value = cluster.on_node("cat", &[&format!("/proc/sys/{name}")]).output()?;
            assert_eq!(String::from_utf8_lossy(&value.stdout).trim(), wanted, "{name}");
            let file = cluster.run().folder()?.join("sysctl").join(name.rsplit('/').next().unwrap_or(name));
            assert_eq!(std::fs::read_to_string(&file)?.trim(), wanted, "{}", file.display());
        }
        let rules = Command::new("nft").args(["list", "tables"]).output()?;
        assert!(!String::from_utf8_lossy(&rules.stdout).contains("kube-proxy"));
        let rules = cluster.on_node("nft", &["list", "tables"]).output()?;
        assert!(String::from_utf8_lossy(&rules.stdout).contains("kube-proxy"));
        Ok(())
    })
}

fn a_second_cluster_does_not_meet_the_first_and_is_swept_when_it_is_killed() -> anyhow::Result<()> {
    on_cluster(|cluster| {
        let mut second = Command::new(std::env::current_exe()?)
            .args([
                "--include-ignored",
                "--exact",
                "pods_find_services_by_name_and_see_each_other_as_they_are",
            ])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(second.stdout.take().context("no output")?).lines();
        let mut id = None;
        while let Some(line) = lines.next().transpose()? {
            id = id.or_else(|| Some(line.split_once("run ")?.1.split_once(':')?.0.to_owned()));
            if line.contains("pods run") {
                break;
            }
        }
        second.kill()?;
        second.wait()?;
        let id = id.context("the second cluster did not come up")?;
        ensure!(!leftovers(&id).is_empty(), "it had nothing to leave");
        sweep();
        assert_eq!(leftovers(&id), Vec::<String>::new());
        assert_eq!(in_sleep(cluster, &["curl", "-sS", "http://httpbin:8000/status/200"])?, "");
        Ok(())
    })
}

fn nothing_is_left_behind() -> anyhow::Result<()> {
    let left = end();
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(())
}
