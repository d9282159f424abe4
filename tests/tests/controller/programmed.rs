//! What the nodes made of an entry, as its condition `Programmed` says.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tests::cluster::Kubectl;
use tests::topology::NODE;
use tests::{cgroup, poll};

use super::agents::{OTHER, node_with};
use super::conditions::{until_condition, version};
use super::{Controller, LIMIT, api, entry};

/// Whose Leases they are, with what they have applied.
fn leases(kubectl: &Kubectl) -> anyhow::Result<Vec<Value>> {
    let list = kubectl.json(&["get", "leases", "-l", "app.kubernetes.io/component=node-report"])?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn an_entry_is_programmed_when_every_node_that_is_there_has_it() -> anyhow::Result<()> {
    const REPORT: [&str; 1] = ["--report-namespace=default"];
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    api.netns().ip(&format!("addr add {NODE}/32 dev lo\naddr add {OTHER}/32 dev lo\n"))?;
    let cgroup = cgroup::make(api.run())?;
    kubectl.apply(&entry("one", &["one.test"], ""))?;
    let controller = Controller::start(&api, 9401, &[])?;
    controller.until_it_leads()?;
    // Without a node nothing is said.
    until_condition(kubectl, "one", "Accepted", Some(("True", "Accepted")))?;
    until_condition(kubectl, "one", "Programmed", None)?;
    let mut one = node_with(&api, &cgroup, "n1", NODE, &REPORT)?;
    let mut two = node_with(&api, &cgroup, "n2", OTHER, &REPORT)?;
    let both = || (leases(kubectl).ok()?.len() == 2).then_some(());
    poll::until("both nodes to report", LIMIT, both).with_context(|| one.log_tail())?;
    until_condition(kubectl, "one", "Programmed", Some(("True", "Programmed")))
        .with_context(|| controller.process.tail())?;

    // A new one is, too, and one that was changed; then nothing is written any more.
    kubectl.apply(&entry("two", &["two.test"], ""))?;
    until_condition(kubectl, "two", "Programmed", Some(("True", "Programmed")))?;
    kubectl.apply(&entry("two", &["two.test", "three.test"], ""))?;
    let is_new = || {
        let object = kubectl.json(&["get", "serviceentry", "two"]).ok()?;
        let mut list = object["status"]["conditions"].as_array()?.iter();
        let programmed = list.find(|condition| condition["type"] == "Programmed")?;
        (programmed["observedGeneration"] == object["metadata"]["generation"]).then_some(())
    };
    poll::until("the change to be programmed", LIMIT, is_new)?;
    let versions = (version(kubectl, "one")?, version(kubectl, "two")?);
    let renewed =
        || Some(leases(kubectl).ok()?.iter().map(|l| l["spec"]["renewTime"].clone()).collect::<Vec<_>>());
    let before = renewed().context("no Leases")?;
    poll::until("both nodes to renew their Leases", Duration::from_secs(60), || {
        let now = renewed()?;
        (now.len() == 2 && now[0] != before[0] && now[1] != before[1]).then_some(())
    })?;
    assert_eq!((version(kubectl, "one")?, version(kubectl, "two")?), versions);

    // A name that nobody answers: no backend on any node, until the entry says otherwise.
    let dead = entry("dead", &["dead.test"], "  addresses: [192.0.2.7]\n")
        .replace("STATIC", "DNS")
        .replace("address: 10.0.0.1", "address: nobody.invalid");
    kubectl.apply(&dead)?;
    let lacks = until_condition(kubectl, "dead", "Programmed", Some(("False", "NoBackends")))?;
    let message = lacks["message"].as_str().unwrap_or_default();
    assert!(message.contains("dead.test") && message.contains("n1"), "{message}");
    kubectl.apply(&entry("dead", &["dead.test"], "  addresses: [192.0.2.7]\n"))?;
    until_condition(kubectl, "dead", "Programmed", Some(("True", "Programmed")))?;

    // A node that has died is waited for until its Lease runs out.
    two.stop()?;
    kubectl.apply(&entry("late", &["late.test"], ""))?;
    let pending = until_condition(kubectl, "late", "Programmed", Some(("False", "Pending")))?;
    assert_eq!(pending["message"], "waiting for node n2");
    let is_programmed = || {
        let object = kubectl.json(&["get", "serviceentry", "late"]).ok()?;
        let mut list = object["status"]["conditions"].as_array()?.iter();
        list.find(|c| c["type"] == "Programmed" && c["status"] == "True").map(drop)
    };
    poll::until("late to be programmed without n2", Duration::from_secs(150), is_programmed)?;
    controller.stop()?;
    one.stop()?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
