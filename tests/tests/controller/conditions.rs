//! What the author of an entry is told of it: conditions, Events, and how kubectl shows them.

use std::time::Duration;

use serde_json::{Value, json};
use tests::cluster::Kubectl;
use tests::poll;

use super::fights::patch_status;
use super::{Controller, LIMIT, addresses, api, entry};

/// An entry that breaks two rules, each of which needs more than the schema to be found.
fn rejected(name: &str, host: &str) -> String {
    entry(name, &[host], "").replace("{address: 10.0.0.1}", "{address: one.name}, {address: two.name}")
}

/// The condition of this type.
pub(crate) fn condition(kubectl: &Kubectl, name: &str, kind: &str) -> anyhow::Result<Option<Value>> {
    let object = kubectl.json(&["get", "serviceentry", name])?;
    let mut list = object["status"]["conditions"].as_array().into_iter().flatten();
    Ok(list.find(|condition| condition["type"] == kind).cloned())
}

/// Waits until the condition of this type has this status and reason; none: until there is no such condition.
pub(crate) fn until_condition(
    kubectl: &Kubectl,
    name: &str,
    kind: &str,
    wanted: Option<(&str, &str)>,
) -> anyhow::Result<Value> {
    let is_so = || {
        let found = condition(kubectl, name, kind).ok()?;
        match (found, wanted) {
            (Some(found), Some((status, reason))) => {
                (found["status"] == status && found["reason"] == reason).then_some(found)
            }
            (None, None) => Some(Value::Null),
            _ => None,
        }
    };
    poll::until(&format!("{kind} of {name} to be {wanted:?}"), LIMIT, is_so)
}

/// The Events about an entry, each as `reason note`.
fn events(kubectl: &Kubectl, name: &str) -> anyhow::Result<Vec<String>> {
    let all = kubectl.json(&["get", "events.v1.events.k8s.io"])?;
    let own = all["items"].as_array().into_iter().flatten();
    let own = own.filter(|event| event["regarding"]["name"] == name);
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    Ok(own.map(|event| format!("{} {}", text(event, "reason"), text(event, "note"))).collect())
}

pub(crate) fn version(kubectl: &Kubectl, name: &str) -> anyhow::Result<Value> {
    Ok(kubectl.json(&["get", "serviceentry", name])?["metadata"]["resourceVersion"].clone())
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn the_author_of_an_entry_reads_what_became_of_it() -> anyhow::Result<()> {
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    let controller = Controller::start(&api, 9401, &[])?;
    controller.until_it_leads()?;

    // Rejected: every error, in the words of `validate`, where people look.
    kubectl.apply(&rejected("bad", "bad.test"))?;
    until_condition(kubectl, "bad", "Accepted", Some(("False", "EndpointNotAnIp")))?;
    let errors = ["spec.endpoints[0].address: ", "spec.endpoints[1].address: "];
    let is_told = || (events(kubectl, "bad").ok()?.len() == 1).then_some(());
    poll::until("the Event", LIMIT, is_told)?;
    let text = kubectl.run(&["describe", "serviceentry", "bad"])?;
    for error in errors {
        assert!(text.contains(error), "{error}: {text}");
    }
    assert!(text.lines().any(|line| line.contains("Warning") && line.contains("EndpointNotAnIp")), "{text}");
    let wide = kubectl.run(&["get", "serviceentry", "-o", "wide"])?;
    let row = wide.lines().find(|line| line.starts_with("bad ")).unwrap_or_default();
    assert!(row.contains("False") && row.contains("EndpointNotAnIp"), "{wide}");
    assert!(addresses(kubectl, "bad")?.is_empty());

    // Another writer's condition stays while ours comes, changes and is put right.
    let theirs = json!([{"type": "istio.io/WaypointBound", "status": "True", "reason": "WaypointAccepted",
        "message": "theirs", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    patch_status(kubectl, "bad", &json!({ "conditions": theirs }), "istio")?;
    until_condition(kubectl, "bad", "Accepted", Some(("False", "EndpointNotAnIp")))?;
    assert_eq!(condition(kubectl, "bad", "istio.io/WaypointBound")?.as_ref(), theirs.get(0));
    kubectl.apply(&entry("bad", &["bad.test"], ""))?;
    let accepted = until_condition(kubectl, "bad", "Accepted", Some(("True", "Accepted")))?;
    let object = kubectl.json(&["get", "serviceentry", "bad"])?;
    assert_eq!(accepted["observedGeneration"], object["metadata"]["generation"]);
    assert_eq!(object["status"]["conditions"][0], theirs[0], "{object:#}");
    assert_eq!(addresses(kubectl, "bad")?.len(), 2);

    // Who loses its host is told to whom; and no more when it is free.
    kubectl.apply(&entry("zz-young", &["bad.test"], ""))?;
    let shadowed = until_condition(kubectl, "zz-young", "Shadowed", Some(("True", "OlderEntryWins")))?;
    let message = shadowed["message"].as_str().unwrap_or_default();
    assert!(message.contains("ServiceEntry default/bad"), "{message}");
    kubectl.run(&["delete", "serviceentry", "bad"])?;
    until_condition(kubectl, "zz-young", "Shadowed", None)?;

    // A Service of the cluster has its name.
    kubectl.apply(&entry("svc", &["web.default.svc.cluster.local"], ""))?;
    until_condition(kubectl, "svc", "Accepted", Some(("True", "Accepted")))?;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: default}\nspec: {ports: [{port: 80}]}\n";
    kubectl.apply(service)?;
    let shadowed = until_condition(kubectl, "svc", "Shadowed", Some(("True", "KubernetesServiceWins")))?;
    assert!(shadowed["message"].as_str().unwrap_or_default().contains("Service default/web"), "{shadowed}");
    controller.stop()?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn each_is_told_once_whoever_restarts_or_takes_over() -> anyhow::Result<()> {
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    kubectl.apply(&rejected("bad", "bad.test"))?;
    kubectl.apply(&entry("good", &["good.test"], ""))?;
    let first = Controller::start(&api, 9401, &[])?;
    first.until_it_leads()?;
    until_condition(kubectl, "bad", "Accepted", Some(("False", "EndpointNotAnIp")))?;
    until_condition(kubectl, "good", "Accepted", Some(("True", "Accepted")))?;
    let told = || events(kubectl, "bad").ok().filter(|events| !events.is_empty());
    let before = poll::until("the Event", LIMIT, told)?;
    assert_eq!(before.len(), 1, "{before:?}");
    let versions = (version(kubectl, "bad")?, version(kubectl, "good")?);

    // One that restarts, and one that takes over, find all as it should be.
    first.stop()?;
    let second = Controller::start(&api, 9401, &[])?;
    second.until_it_leads()?;
    let third = Controller::start(&api, 9402, &[])?;
    second.kill()?;
    third.until_it_leads()?;
    kubectl.apply(&rejected("next", "next.test"))?;
    until_condition(kubectl, "next", "Accepted", Some(("False", "EndpointNotAnIp")))?;
    let is_told = || (events(kubectl, "next").ok()?.len() == 1).then_some(());
    poll::until("the next Event", LIMIT, is_told)?;
    assert_eq!((version(kubectl, "bad")?, version(kubectl, "good")?), versions);
    assert_eq!(events(kubectl, "bad")?, before);

    // Somebody who takes the conditions away has them back, and nobody is told twice.
    patch_status(kubectl, "bad", &json!({"conditions": null}), "other")?;
    until_condition(kubectl, "bad", "Accepted", Some(("False", "EndpointNotAnIp")))?;
    let written = third.metric("kmesh_se_controller_writes_total{result=\"written\"}")?;
    assert_eq!(written, 2, "one for each of `next` and `bad`");
    assert_eq!(events(kubectl, "bad")?, before);
    // Another spec is told anew.
    kubectl.apply(&rejected("bad", "other.test"))?;
    let is_told = || (events(kubectl, "bad").ok()?.len() == 2).then_some(());
    poll::until("the second Event", LIMIT, is_told)?;
    third.stop()?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn a_write_that_is_refused_for_good_is_told_once_and_harms_no_other() -> anyhow::Result<()> {
    const POLICY: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: refuses}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [networking.istio.io], apiVersions: ['*'], operations: [UPDATE], resources: [serviceentries/status]}
  validations:
  - {expression: \"object.metadata.name != 'refused'\", message: for a test}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: refuses}
spec: {policyName: refuses, validationActions: [Deny]}
";
    const TOLD: &str = "the API server refuses to have the status written";
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    kubectl.apply(&entry("refused", &["refused.test"], ""))?;
    kubectl.apply(POLICY)?;
    // A policy takes a moment before it is one.
    let refuses = || patch_status(kubectl, "refused", &json!({"others": 1}), "other").err();
    poll::until("the policy to refuse", LIMIT, refuses)?;
    let controller = Controller::start(&api, 9401, &[])?;
    controller.until_it_leads()?;
    kubectl.apply(&entry("other", &["other.test"], ""))?;
    until_condition(kubectl, "other", "Accepted", Some(("True", "Accepted")))?;
    let told = || {
        let log = controller.process.output();
        log.lines().find(|line| line.contains(TOLD)).map(str::to_owned)
    };
    let line = poll::until("the refusal to be told", Duration::from_secs(60), told)?;
    assert!(line.contains("default/refused") && line.contains("for a test"), "{line}");
    kubectl.run(&["delete", "validatingadmissionpolicybinding", "refuses"])?;
    let accepted = || condition(kubectl, "refused", "Accepted").ok().flatten();
    poll::until("the entry to be written", Duration::from_secs(90), accepted)?;
    assert_eq!(controller.process.output().matches(TOLD).count(), 1);
    controller.stop()?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
