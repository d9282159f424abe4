//! Objects appear, change and go, and so does what they say.

use serde_json::Value;
use tests::cluster::Kubectl;

use super::{CRDS, Scene, admin, entry};

/// Serves the entries in these versions only; they are stored as before.
fn serve_only(kubectl: &Kubectl, versions: &[&str]) -> anyhow::Result<()> {
    let all = ["v1", "v1beta1", "v1alpha3"].iter().enumerate();
    let patches = all.map(|(i, version)| {
        let is_served = versions.contains(version);
        format!(r#"{{"op":"replace","path":"/spec/versions/{i}/served","value":{is_served}}}"#)
    });
    let patch = format!("[{}]", patches.collect::<Vec<_>>().join(","));
    let crd = "crd/serviceentries.networking.istio.io";
    kubectl.run(&["patch", crd, "--type=json", "-p", &patch]).map(drop)
}

/// A Pod of the node `node`, with the label `app`, that is ready at `address`.
fn make_pod(kubectl: &Kubectl, name: &str, app: &str, node: &str, address: &str) -> anyhow::Result<()> {
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: c, image: none}}]}}\n"
    ))?;
    let status = format!(
        r#"{{"status":{{"phase":"Running","podIP":"{address}","podIPs":[{{"ip":"{address}"}}],
        "conditions":[{{"type":"Ready","status":"True"}}]}}}}"#
    );
    kubectl.run(&["patch", "pod", name, "--subresource=status", "--type=merge", "-p", &status]).map(drop)
}

fn remove_pod(kubectl: &Kubectl, name: &str) -> anyhow::Result<()> {
    kubectl.run(&["delete", "pod", name, "--force", "--grace-period=0"]).map(drop)
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn kinds_and_entries_are_followed_from_their_appearance_to_their_end() -> anyhow::Result<()> {
    let scene = Scene::start(|api| Ok(admin(api)))?;
    let kubectl = scene.kubectl();
    let message = scene.until_problem("kube:serviceentries", Some("CrdMissing"))?;
    assert!(message.contains("serviceentries.networking.istio.io"), "{message}");
    scene.until_problem("kube:workloadentries", Some("CrdMissing"))?;
    scene.until_problem("kube:nodes", Some("NodeUnknown"))?;
    kubectl.apply("{apiVersion: v1, kind: Node, metadata: {name: n1}}")?;
    scene.until_problem("kube:nodes", None)?;

    kubectl.install_crds(CRDS)?;
    kubectl.apply(&entry("v1", "one", "192.0.2.1"))?;
    scene.until_serves(&["one.test", "192.0.2.1"])?;
    scene.until_problem("kube:serviceentries", None)?;

    kubectl.apply(&entry("v1", "one", "192.0.2.9"))?;
    scene.until_serves(&["one.test", "192.0.2.9"])?;
    // What cannot be read, or is not valid, harms nothing else, and is named.
    kubectl.apply(&entry("v1", "bad", "192.0.2.3").replace("number: 80", "number: 70000"))?;
    let is_named = |status: &Value| {
        let objects = status["source"]["objects"].as_array();
        objects.is_some_and(|objects| objects.iter().any(|o| o["name"] == "bad" && o["accepted"] == false))
    };
    scene.until("/status", "the bad entry to be rejected", is_named)?;
    kubectl.apply(&entry("v1", "odd", "192.0.2.4").replace("hosts: [odd.test]", "hosts: odd.test"))?;
    scene.until_problem("kube:serviceentries/default/odd", Some("WrongType"))?;
    kubectl.run(&["delete", "serviceentry", "odd", "bad"])?;
    scene.until_problem("kube:serviceentries/default/odd", None)?;

    // The same in an older version, when only that is served.
    serve_only(kubectl, &["v1alpha3"])?;
    let wait_for_version = |_: &str| kubectl.apply(&entry("v1alpha3", "old", "192.0.2.2")).is_ok();
    kubectl.until(&["version"], super::LIMIT, wait_for_version)?;
    scene.until_serves(&["old.test", "192.0.2.2"])?;
    scene.until_serves(&["one.test", "192.0.2.9"])?;
    let snapshot = scene.agent.get("/dump/snapshot")?;
    let entries = snapshot["serviceEntries"].as_array().cloned().unwrap_or_default();
    let without_names = |entry: &Value| {
        let mut entry = entry.clone();
        for field in ["object", "created", "hosts", "addresses"] {
            entry[field] = Value::Null;
        }
        entry
    };
    assert_eq!(entries.len(), 2, "{snapshot:#}");
    assert_eq!(without_names(&entries[0]), without_names(&entries[1]));

    kubectl.run(&["delete", "serviceentries.v1alpha3.networking.istio.io", "old"])?;
    scene.agent.until_serves("old.test", false)?;
    scene.until_serves(&["one.test"])?;
    kubectl.run(&["delete", "crd", "serviceentries.networking.istio.io"])?;
    scene.agent.until_serves("one.test", false)?;
    scene.until_problem("kube:serviceentries", Some("CrdMissing"))?;
    kubectl.install_crds(CRDS)?;
    kubectl.apply(&entry("v1", "one", "192.0.2.1"))?;
    scene.until_serves(&["one.test"])?;
    scene.end()
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn a_selector_picks_pods_and_workload_entries_wherever_they_are() -> anyhow::Result<()> {
    let scene = Scene::start(|api| {
        api.kubectl().install_crds(CRDS)?;
        make_pod(api.kubectl(), "before", "shop", "n2", "10.0.0.1")?;
        Ok(admin(api))
    })?;
    let kubectl = scene.kubectl();
    let selecting = |labels: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: shop}}\nspec:\n  \
             hosts: [shop.test]\n  addresses: [192.0.2.1]\n  resolution: STATIC\n  \
             ports: [{{number: 80, name: http, protocol: HTTP}}]\n  workloadSelector: {{labels: {labels}}}\n"
        )
    };
    let until_backends = |wanted: &[&str]| {
        scene.until("/services", &format!("the backends {wanted:?}"), |json| {
            let backends = json["services"][0]["backends"].as_array();
            let mut found: Vec<_> =
                backends.into_iter().flatten().filter_map(|b| b["address"].as_str()).collect();
            found.sort_unstable();
            found == wanted
        })
    };
    kubectl.apply(&selecting("{app: shop}"))?;
    until_backends(&["10.0.0.1"])?;
    make_pod(kubectl, "here", "shop", super::NAME, "10.0.0.2")?;
    make_pod(kubectl, "other", "stock", super::NAME, "10.0.0.3")?;
    kubectl.apply(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm, labels: {app: shop}}\n\
         spec: {address: 10.0.0.4}\n",
    )?;
    until_backends(&["10.0.0.1", "10.0.0.2", "10.0.0.4"])?;
    // A Pod of this node is known for two reasons, and loses one.
    kubectl.run(&["label", "pod", "here", "app=stock", "--overwrite"])?;
    until_backends(&["10.0.0.1", "10.0.0.4"])?;
    kubectl.apply(&selecting("{app: stock}"))?;
    until_backends(&["10.0.0.2", "10.0.0.3"])?;
    remove_pod(kubectl, "other")?;
    until_backends(&["10.0.0.2"])?;
    scene.end()
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn an_entry_waits_for_the_address_that_others_allocate() -> anyhow::Result<()> {
    let scene = Scene::start(|api| {
        api.kubectl().install_crds(CRDS)?;
        Ok(admin(api))
    })?;
    let kubectl = scene.kubectl();
    let without = entry("v1", "late", "192.0.2.1").replace("  addresses: [192.0.2.1]\n", "");
    kubectl.apply(&without)?;
    let pending = |status: &Value| status["pending"][0]["reason"] == "AddressPending";
    let status = scene.until("/status", "late.test to be pending", pending)?;
    assert_eq!(status["pending"][0]["host"], "late.test");
    assert_eq!(status["healthy"], true, "{status:#}");
    let text = String::from_utf8(scene.agent.ask(&["status"])?.stdout)?;
    assert!(text.contains("pending ServiceEntry default/late: late.test"), "{text}");
    // No frontend without an address.
    let services = scene.agent.get("/services")?;
    assert!(
        services["services"]
            .as_array()
            .is_some_and(|rows| { rows.iter().all(|row| row["vips"].as_array().is_none_or(Vec::is_empty)) })
    );
    let allocated = r#"{"status":{"addresses":[{"value":"240.240.0.7","host":"late.test"}]}}"#;
    kubectl.run(&[
        "patch",
        "serviceentry",
        "late",
        "--subresource=status",
        "--type=merge",
        "-p",
        allocated,
    ])?;
    scene.until_serves(&["late.test", "240.240.0.7"])?;
    scene
        .until("/status", "nothing to be pending", |s| s["pending"].as_array().is_some_and(Vec::is_empty))?;
    scene.end()
}
