//! Waypoints of a real cluster: the chart's rules are enough for the controllers, Pods of Envoy are made, and all of it goes with the
//! Gateway.

#[path = "cluster_waypoints/through.rs"]
mod through;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tests::agent::program;
use tests::cluster::chart::Release;
use tests::cluster::{Cluster, Kubectl, images};
use tests::poll;

const LIMIT: Duration = Duration::from_secs(120);

/// What `kmesh-se waypoint …` prints, as its user has it.
fn command(kubectl: &Kubectl, words: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(program()?);
    command.arg("waypoint").args(words).env("KUBECONFIG", kubectl.kubeconfig());
    let output = poll::output(&mut command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{words:?}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

#[test]
#[ignore = "needs programs that `cargo xtask cluster` builds"]
fn a_waypoint_is_made_of_pods_and_goes_with_its_gateway() -> anyhow::Result<()> {
    let Some(envoy) = images::envoy_archive()? else {
        println!("skipped: there is no Envoy (`cargo xtask test` installs it)");
        return Ok(());
    };
    let cluster = Cluster::start(&[])?;
    let kubectl = cluster.kubectl();
    cluster.import(&envoy)?;
    kubectl.install_gateway_api()?;
    let image = format!("controller.waypoints.image={}", images::name("envoy"));
    let release = Release::install_with(&cluster, &["controller.waypoints.enabled=true", &image])?;
    let about = || release.agents();
    // The class is the chart's here.
    let manager = kubectl.json(&["get", "gatewayclass", "kmesh-se-waypoint"])?;
    assert_eq!(manager["metadata"]["labels"]["app.kubernetes.io/managed-by"], "Helm");
    kubectl.run(&["create", "namespace", "shop"])?;
    kubectl.run(&["label", "namespace", "shop", "pod-security.kubernetes.io/enforce=restricted"])?;
    kubectl.run(&["label", "namespace", "shop", "istio.io/dataplane-mode=Kmesh"])?;
    let waypoint = |words: &[&str]| command(kubectl, &[words, &["-n", "shop"]].concat());
    waypoint(&["apply", "--enroll-namespace"])?;
    // They are on the node, and not enrolled; what they wait for is not this test's.
    let pods =
        ["-n", "shop", "get", "pods", "-o", "jsonpath={range .items[*]}{.spec.nodeName}{\"\\n\"}{end}"];
    let on_node = |text: &str| text.lines().filter(|line| !line.is_empty()).count() == 2;
    kubectl.until(&pods, LIMIT, on_node).with_context(about)?;
    poll::until("the agent to know them as waypoints", LIMIT, || {
        let workloads = release.ask(&cluster, "workloads").ok()?;
        let rows = workloads["podsLeftAlone"].as_array()?;
        let of_waypoint = |row: &&serde_json::Value| row.to_string().contains("shop/waypoint-");
        (rows.iter().filter(of_waypoint).filter(|row| row.to_string().contains("OptedOut")).count() == 2)
            .then_some(())
    })
    .with_context(|| format!("{:#}", release.ask(&cluster, "workloads").unwrap_or_default()))?;
    let listed = waypoint(&["list", "-o", "json"])?;
    assert!(listed.contains("\"wanted\": 2"), "{listed}");

    waypoint(&["delete", "waypoint"])?;
    let all = "deployments,replicasets,services,serviceaccounts,poddisruptionbudgets,pods,gateways";
    kubectl
        .until(&["-n", "shop", "get", all, "-o", "name"], LIMIT, |names| {
            names.trim() == "serviceaccount/default"
        })
        .with_context(about)?;
    release.remove(&cluster)?;
    assert!(
        kubectl.run(&["get", "gatewayclass", "kmesh-se-waypoint"]).is_err(),
        "the class goes with the release"
    );
    assert_eq!(cluster.end(), Vec::<String>::new());
    Ok(())
}
