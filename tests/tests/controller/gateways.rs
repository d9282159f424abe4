//! Gateways become waypoints, as far as an API server alone shows it: objects, what Gateways are told, the command line.

use std::process::{Command, Output};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::agent::program;
use tests::cluster::{ApiServer, Kubectl};
use tests::poll;

use super::{Controller, LIMIT, api};

const NAMESPACE: &str = "shop";
/// What a waypoint consists of.
const OBJECTS: [&str; 4] = ["serviceaccount", "service", "deployment", "poddisruptionbudget"];

/// `kmesh-se waypoint …` as its user has it.
fn waypoint(api: &ApiServer, words: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(program()?);
    command.arg("waypoint").args(words).env("KUBECONFIG", api.kubectl().kubeconfig());
    poll::output(&mut command)
}

/// What it prints, if it ends so.
fn says(api: &ApiServer, code: i32, words: &[&str]) -> anyhow::Result<String> {
    let output = waypoint(api, words)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.code() == Some(code), "{words:?}: {}\n{out}\n{error}", output.status);
    Ok(out + &error)
}

fn get(kubectl: &Kubectl, kind: &str, name: &str) -> anyhow::Result<Value> {
    kubectl.json(&["-n", NAMESPACE, "get", kind, name])
}

/// The status, reason and message of a condition, of the object as it is.
fn condition(object: &Value, type_: &str) -> Option<(String, String, String)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == type_)?;
    let is_new = found["observedGeneration"] == object["metadata"]["generation"];
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    is_new.then(|| (text("status"), text("reason"), text("message")))
}

/// Waits until a Gateway's condition is so, and answers its message.
fn until(kubectl: &Kubectl, name: &str, type_: &str, wanted: (&str, &str)) -> anyhow::Result<String> {
    let mut last = Value::Null;
    let waited = poll::until(&format!("{name} to be {type_} {wanted:?}"), LIMIT, || {
        last = get(kubectl, "gateway", name).ok()?;
        let (status, reason, message) = condition(&last, type_)?;
        ((status.as_str(), reason.as_str()) == wanted).then_some(message)
    });
    waited.with_context(|| format!("last: {last:#}"))
}

/// A Gateway with these parameters.
fn gateway(name: &str, listeners: &Value, parameters: Option<&str>) -> String {
    let infrastructure = parameters
        .map(|map| json!({"parametersRef": {"group": "", "kind": "ConfigMap", "name": map}}))
        .unwrap_or_else(|| json!({}));
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"gatewayClassName": "kmesh-se-waypoint", "listeners": listeners, "infrastructure": infrastructure},
    })
    .to_string()
}

fn config_map(name: &str, data: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE}, "data": data}).to_string()
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn a_gateway_of_the_class_becomes_a_waypoint_whenever_the_gateway_api_comes() -> anyhow::Result<()> {
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    kubectl.run(&["create", "namespace", NAMESPACE])?;
    let controller =
        Controller::start(&api, 9451, &["--waypoints", "--waypoint-image=example.test/envoy:1"])?;
    controller.until_it_leads()?;
    let missing = says(&api, 2, &["list", "-A"])?;
    assert!(
        missing.contains("does not serve Gateways") && missing.contains("standard-install.yaml"),
        "{missing}"
    );
    poll::until("the controller to say so", LIMIT, || {
        controller.process.tail().contains("the Gateway API is not installed").then_some(())
    })?;

    kubectl.install_gateway_api()?;
    let class = ["get", "gatewayclass", "kmesh-se-waypoint", "-o", "jsonpath={.status.conditions[0].status}"];
    kubectl.until(&class, LIMIT, |status| status == "True").with_context(|| controller.process.tail())?;
    assert_eq!(says(&api, 0, &["list", "-n", NAMESPACE])?, "No waypoint in shop.\n");
    let applied = says(&api, 0, &["apply", "-n", NAMESPACE, "--enroll-namespace"])?;
    assert_eq!(
        applied,
        "waypoint shop/waypoint applied\nnamespace shop labeled with istio.io/use-waypoint=waypoint\n"
    );
    until(kubectl, "waypoint", "Accepted", ("True", "Accepted"))
        .with_context(|| controller.process.tail())?;
    let message = until(kubectl, "waypoint", "Programmed", ("False", "Pending"))?;
    assert!(message.contains("none of 2 replicas is available yet"), "{message}");
    for kind in OBJECTS {
        let object = get(kubectl, kind, "waypoint")?;
        let owner = &object["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["name"]), (&json!("Gateway"), &json!("waypoint")), "{object:#}");
        assert_eq!(object["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"], "waypoint");
    }
    let deployment = get(kubectl, "deployment", "waypoint")?;
    let pod = &deployment["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"]["istio.io/dataplane-mode"], "none");
    assert_eq!(pod["spec"]["containers"][0]["image"], "example.test/envoy:1");
    assert_eq!(pod["spec"]["volumes"][0]["secret"]["secretName"], "waypoint-kmesh-se-xds");
    // What a namespace of the restricted level demands.
    let pods = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": NAMESPACE,
        "labels": pod["metadata"]["labels"]}, "spec": pod["spec"]});
    kubectl.run(&["label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"])?;
    kubectl.feed(&["create", "--dry-run=server", "-f", "-"], &pods.to_string())?;

    // As soon as one Envoy serves.
    assert!(says(&api, 1, &["status", "-n", NAMESPACE])?.contains("Pending"));
    let serves = r#"{"status":{"replicas":2,"readyReplicas":1,"availableReplicas":1,"updatedReplicas":2}}"#;
    let patch = [
        "-n",
        NAMESPACE,
        "patch",
        "deployment",
        "waypoint",
        "--subresource=status",
        "--type=merge",
        "-p",
        serves,
    ];
    kubectl.run(&patch)?;
    until(kubectl, "waypoint", "Programmed", ("True", "Programmed"))?;
    let status = says(&api, 0, &["status", "-n", NAMESPACE, "-o", "json"])?;
    let status: Value = serde_json::from_str(&status)?;
    let row = &status["waypoints"][0];
    assert_eq!((&row["programmed"], &row["replicas"]["ready"]), (&json!(true), &json!(1)), "{status:#}");
    assert_eq!(row["bound"]["namespaces"], json!([NAMESPACE]), "{status:#}");
    let address = get(kubectl, "service", "waypoint")?["spec"]["clusterIP"].clone();
    assert_eq!(row["addresses"], json!([address]));
    let listed = says(&api, 0, &["list", "-A"])?;
    assert!(listed.contains("shop        waypoint   True         1/2"), "{listed}");
    says(&api, 0, &["apply", "-n", NAMESPACE, "--wait", "--wait-seconds=20"])?;

    // Nothing is written that is so already, also by one that starts.
    let versions = || -> anyhow::Result<Vec<String>> {
        let version =
            |kind: &str| Ok(get(kubectl, kind, "waypoint")?["metadata"]["resourceVersion"].to_string());
        ["gateway"].iter().chain(&OBJECTS).map(|kind| version(kind)).collect()
    };
    let before = versions()?;
    controller.stop()?;
    let controller =
        Controller::start(&api, 9452, &["--waypoints", "--waypoint-image=example.test/envoy:1"])?;
    controller.until_it_leads()?;
    kubectl.run(&["-n", NAMESPACE, "annotate", "serviceaccount", "waypoint", "touched=1"])?;
    kubectl.run(&["-n", NAMESPACE, "delete", "poddisruptionbudget", "waypoint"])?;
    kubectl.until(&["-n", NAMESPACE, "get", "poddisruptionbudget", "-o", "name"], LIMIT, |names| {
        !names.is_empty()
    })?;
    let after = versions()?;
    assert_eq!((&before[0], &before[2..4]), (&after[0], &after[2..4]));

    // What others change or delete is put right, but for fields that a waypoint does not set.
    kubectl.run(&["-n", NAMESPACE, "scale", "deployment", "waypoint", "--replicas=7"])?;
    kubectl.run(&[
        "-n",
        NAMESPACE,
        "label",
        "deployment",
        "waypoint",
        "gateway.networking.k8s.io/gateway-class-name-",
    ])?;
    let replicas = [
        "-n",
        NAMESPACE,
        "get",
        "deployment",
        "waypoint",
        "-o",
        "jsonpath={.spec.replicas} {.metadata.labels.gateway\\.networking\\.k8s\\.io/gateway-class-name}",
    ];
    kubectl
        .until(&replicas, LIMIT, |text| text == "2 kmesh-se-waypoint")
        .with_context(|| controller.process.tail())?;
    kubectl.run(&["-n", NAMESPACE, "delete", "service", "waypoint"])?;
    kubectl.until(&["-n", NAMESPACE, "get", "service", "-o", "name"], LIMIT, |names| {
        names.contains("waypoint")
    })?;
    assert_eq!(get(kubectl, "serviceaccount", "waypoint")?["metadata"]["annotations"]["touched"], "1");

    let deleted = says(&api, 0, &["delete", "-n", NAMESPACE, "waypoint"])?;
    assert!(deleted.starts_with("waypoint shop/waypoint deleted\nwarning: "), "{deleted}");
    assert!(
        says(&api, 1, &["delete", "-n", NAMESPACE, "waypoint"])?.contains("there is no waypoint waypoint")
    );
    drop(controller);
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn what_a_gateway_cannot_have_is_told_to_its_author_and_parameters_are_honoured() -> anyhow::Result<()> {
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    kubectl.run(&["create", "namespace", NAMESPACE])?;
    kubectl.install_gateway_api()?;
    let controller = Controller::start(&api, 9453, &["--waypoints"])?;
    let mesh = json!([{"name": "mesh", "port": 15008, "protocol": "HBONE"}]);
    let failed = || controller.process.tail();

    // Parameters: merged by name, also where they come later, and none of what cannot be.
    kubectl.apply(&gateway("inner", &mesh, Some("options")))?;
    let message = until(kubectl, "inner", "Accepted", ("False", "InvalidParameters")).with_context(failed)?;
    assert!(message.contains("ConfigMap options") && message.contains("not there"), "{message}");
    let overlay = "spec:\n  replicas: 1\n  template:\n    spec:\n      containers:\n      - name: envoy\n        env:\n        \
                   - {name: EXTRA, value: x}\n";
    kubectl.apply(&config_map(
        "options",
        &json!({"deployment": overlay, "service": "metadata: {labels: {a: b}}"}),
    ))?;
    until(kubectl, "inner", "Accepted", ("True", "Accepted")).with_context(failed)?;
    let deployment = get(kubectl, "deployment", "inner")?;
    assert_eq!(deployment["spec"]["replicas"], 1);
    let names = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().map(Vec::len);
    assert_eq!(names, Some(4), "{deployment:#}");
    assert_eq!(get(kubectl, "service", "inner")?["metadata"]["labels"]["a"], "b");
    assert!(get(kubectl, "poddisruptionbudget", "inner").is_err());
    for (data, says) in [
        (json!({"horizontalPodAutoscaler": "spec: {}"}), "horizontalPodAutoscaler is none of deployment"),
        (json!({"deployment": "spec: ["}), "cannot be read"),
        (json!({"deployment": "spec: {nonsense: 1}"}), "the Deployment cannot be made: "),
    ] {
        kubectl.run(&["-n", NAMESPACE, "delete", "configmap", "options"])?;
        kubectl.apply(&config_map("options", &data))?;
        let message = poll::until(&format!("the Gateway to be told {says:?}"), LIMIT, || {
            let (status, _, message) = condition(&get(kubectl, "gateway", "inner").ok()?, "Accepted")?;
            (status == "False" && message.contains(says)).then_some(message)
        });
        message.with_context(failed)?;
    }
    assert_eq!(get(kubectl, "deployment", "inner")?["spec"]["replicas"], 1, "what was made before stays");

    // Listeners of other kinds, and names that are taken.
    let web = json!([mesh[0], {"name": "web", "port": 80, "protocol": "HTTP"}]);
    kubectl.apply(&gateway("web", &web, None))?;
    let message = until(kubectl, "web", "Accepted", ("False", "ListenersNotValid")).with_context(failed)?;
    assert!(message.contains("\"web\" is HTTP at port 80"), "{message}");
    assert!(get(kubectl, "deployment", "web").is_err());
    kubectl.run(&["-n", NAMESPACE, "create", "service", "clusterip", "taken", "--tcp=80"])?;
    kubectl.apply(&gateway("taken", &mesh, None))?;
    let message = until(kubectl, "taken", "Programmed", ("False", "Pending")).with_context(failed)?;
    assert!(message.contains("there is a Service taken already"), "{message}");
    assert_eq!(get(kubectl, "service", "taken")?["metadata"]["ownerReferences"], Value::Null);

    // Another one's Gateway, and another one's label, are left alone unless that is asked for.
    let istios = gateway("istios", &mesh, None).replace("kmesh-se-waypoint", "istio-waypoint");
    kubectl.apply(&istios)?;
    assert!(says(&api, 1, &["apply", "-n", NAMESPACE, "istios"])?.contains("of the class istio-waypoint"));
    assert!(says(&api, 1, &["delete", "-n", NAMESPACE, "istios"])?.contains("not a waypoint of kmesh-se"));
    kubectl.run(&["label", "namespace", NAMESPACE, "istio.io/use-waypoint=other"])?;
    let enroll = ["apply", "-n", NAMESPACE, "--name", "outer", "--enroll-namespace"];
    assert!(says(&api, 1, &enroll)?.contains("istio.io/use-waypoint=other already"));
    assert!(get(kubectl, "gateway", "outer").is_err());
    says(&api, 0, &[&enroll[..], &["--overwrite"]].concat())?;
    let label = ["get", "namespace", NAMESPACE, "-o", "jsonpath={.metadata.labels.istio\\.io/use-waypoint}"];
    assert_eq!(kubectl.run(&label)?, "outer");
    says(&api, 1, &["apply", "-n", NAMESPACE, "--wait", "--wait-seconds=1"])?;
    let deleted = says(&api, 0, &["delete", "-n", NAMESPACE, "--all"])?;
    assert_eq!(deleted.matches(" deleted\n").count(), 5, "{deleted}");
    assert!(get(kubectl, "gateway", "istios").is_ok());
    drop(controller);
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
