//! Writers that fight, and one controller after another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::cluster::Kubectl;
use tests::poll;

use super::{Controller, LIMIT, addresses, api, entry, until_addresses};

/// Another client writes the status.
pub(crate) fn patch_status(
    kubectl: &Kubectl,
    name: &str,
    status: &Value,
    manager: &str,
) -> anyhow::Result<()> {
    let patch = json!({ "status": status }).to_string();
    let manager = format!("--field-manager={manager}");
    kubectl
        .run(&["patch", "serviceentry", name, "--subresource=status", "--type=merge", &manager, "-p", &patch])
        .map(drop)
}

fn given(host: &str, value: &str) -> Value {
    json!({"addresses": [{"value": value, "host": host}]})
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn writers_that_fight_end_as_the_rules_say() -> anyhow::Result<()> {
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    let controller = Controller::start(&api, 9401, &[])?;
    controller.until_it_leads()?;

    // Another client writes conditions without a pause, while entries come and hosts are edited.
    kubectl.apply(&entry("busy", &["busy.test"], ""))?;
    let is_over = AtomicBool::new(false);
    let written = std::thread::scope(|scope| -> anyhow::Result<u64> {
        let writer = scope.spawn(|| {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                // Those of the controller, too, go with each.
                let condition = json!([{"type": "Others", "status": "True", "message": count.to_string()}]);
                patch_status(kubectl, "busy", &json!({"conditions": condition, "others": count}), "other")?;
                count += 1;
            }
            anyhow::Ok(count)
        });
        let edited = (|| {
            until_addresses(kubectl, "busy", &["busy.test=240.240.0.1", "busy.test=2001:2::1"])?;
            kubectl.apply(&entry("busy", &["new.test", "busy.test"], ""))?;
            until_addresses(
                kubectl,
                "busy",
                &[
                    "new.test=240.240.0.2",
                    "new.test=2001:2::2",
                    "busy.test=240.240.0.1",
                    "busy.test=2001:2::1",
                ],
            )
        })();
        is_over.store(true, Ordering::Relaxed);
        edited?;
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    // What it wrote last is there.
    let status = kubectl.json(&["get", "serviceentry", "busy"])?["status"].clone();
    assert_eq!(status["others"], written - 1, "{status:#}");
    assert_eq!(status["conditions"][0]["message"], (written - 1).to_string());
    let has_accepted = || {
        let status = kubectl.json(&["get", "serviceentry", "busy"]).ok()?["status"].clone();
        let list = status["conditions"].as_array()?;
        let theirs = list.iter().find(|c| c["type"] == "Others")?;
        list.iter().find(|c| c["type"] == "Accepted" && c["status"] == "True")?;
        Some(theirs["message"].clone())
    };
    let theirs = poll::until("busy to be accepted", LIMIT * 3, has_accepted)?;
    assert_eq!(theirs, (written - 1).to_string());

    // A status that only others can read, and one that is wiped: the address comes back.
    kubectl.apply(&entry("odd", &["odd.test"], ""))?;
    until_addresses(kubectl, "odd", &["odd.test=240.240.0.3", "odd.test=2001:2::3"])?;
    patch_status(kubectl, "odd", &json!({"addresses": null, "others": 1}), "other")?;
    until_addresses(kubectl, "odd", &["odd.test=240.240.0.3", "odd.test=2001:2::3"])?;
    assert_eq!(kubectl.json(&["get", "serviceentry", "odd"])?["status"]["others"], 1);

    // The address of an older entry is given to a younger one, and the other way round. Ages are whole seconds.
    let age = |name: &str| {
        let object = kubectl.json(&["get", "serviceentry", name])?;
        anyhow::Ok(object["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned())
    };
    poll::until("the entries to differ in age", LIMIT, || {
        kubectl.run(&["delete", "serviceentry", "young", "--ignore-not-found"]).ok()?;
        kubectl.apply(&entry("young", &["young.test"], "")).ok()?;
        (age("young").ok()? > age("odd").ok()?).then_some(())
    })?;
    let has_v4 = || addresses(kubectl, "young").ok()?.into_iter().find(|a| a.contains("=240."));
    let young = poll::until("young to have an address", LIMIT, has_v4)?;
    let young_v6 = || addresses(kubectl, "young").ok()?.into_iter().find(|a| a.contains("=2001:"));
    let young_v6 = poll::until("young to have an address", LIMIT, young_v6)?;
    patch_status(kubectl, "young", &given("young.test", "240.240.0.3"), "other")?;
    until_addresses(kubectl, "young", &[&young, &young_v6])?;
    until_addresses(kubectl, "odd", &["odd.test=240.240.0.3", "odd.test=2001:2::3"])?;
    let of_young = young.trim_start_matches("young.test=").to_owned();
    patch_status(kubectl, "odd", &given("odd.test", &of_young), "other")?;
    until_addresses(kubectl, "odd", &[&format!("odd.test={of_young}"), "odd.test=2001:2::3"])?;
    let has_moved = || {
        let now = addresses(kubectl, "young").ok()?;
        (now.len() == 2 && now[0] != young && now[1] == young_v6).then_some(())
    };
    poll::until("young to have another address", LIMIT, has_moved)?;

    // A user sets an address that was allocated: the older entry keeps it, here the one that it was allocated to.
    kubectl.apply(&entry("user", &["user.test"], &format!("  addresses: [{of_young}]\n")))?;
    kubectl.apply(&entry("after", &["after.test"], ""))?;
    let has_after = || (addresses(kubectl, "after").ok()?.len() == 2).then_some(());
    poll::until("after to have addresses", LIMIT, has_after)?;
    assert_eq!(addresses(kubectl, "user")?, Vec::<String>::new());
    until_addresses(kubectl, "odd", &[&format!("odd.test={of_young}"), "odd.test=2001:2::3"])?;
    // And its own addresses, when they come to an entry that had others, end those.
    kubectl.apply(&entry("odd", &["odd.test"], "  addresses: [192.0.2.7]\n"))?;
    until_addresses(kubectl, "odd", &[])?;

    // Two entries with one host have one address; delete and create again gives another, since the old one rests.
    kubectl.apply(&entry("twin", &["after.test", "twin.test"], ""))?;
    let after = addresses(kubectl, "after")?;
    let is_shared = || {
        let twin = addresses(kubectl, "twin").ok()?;
        (twin.len() == 4 && twin[..2] == after).then_some(())
    };
    poll::until("twin to share the address", LIMIT, is_shared)?;
    let busy = addresses(kubectl, "busy")?;
    kubectl.run(&["delete", "serviceentry", "busy"])?;
    kubectl.apply(&entry("busy", &["new.test", "busy.test"], ""))?;
    let is_new = || {
        let now = addresses(kubectl, "busy").ok()?;
        (now.len() == 4 && now.iter().all(|address| !busy.contains(address))).then_some(())
    };
    poll::until("busy to have other addresses", LIMIT, is_new)?;
    controller.stop()?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn istios_allocator_is_left_to_its_work_unless_told_otherwise() -> anyhow::Result<()> {
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    kubectl.apply(&entry("istios", &["istios.test"], ""))?;
    patch_status(kubectl, "istios", &given("istios.test", "240.240.0.1"), "pilot-discovery")?;
    let controller = Controller::start(&api, 9401, &[])?;
    controller.until_it_leads()?;
    kubectl.apply(&entry("new", &["new.test"], ""))?;
    let knows_both = || (controller.metric("kmesh_se_controller_entries").ok()? == 2).then_some(());
    poll::until("the controller to know both entries", LIMIT, knows_both)?;
    assert_eq!(controller.metric("kmesh_se_controller_allocation_left")?, 1);
    assert!(controller.process.output().contains("Istio's allocator is at work"));
    controller.stop()?;
    assert_eq!(addresses(kubectl, "new")?, Vec::<String>::new());
    let controller = Controller::start(&api, 9401, &["--allocate", "always"])?;
    until_addresses(kubectl, "new", &["new.test=240.240.0.2", "new.test=2001:2::2"])?;
    // What Istio wrote stays, and the family that it left out is added.
    until_addresses(kubectl, "istios", &["istios.test=240.240.0.1", "istios.test=2001:2::1"])?;
    controller.stop()?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn another_controller_takes_over_and_no_address_moves() -> anyhow::Result<()> {
    const TAKEOVER: Duration = Duration::from_secs(15);
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    let hosts: Vec<_> = (1..=20).map(|number| format!("host-{number}.test")).collect();
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    kubectl.apply(&entry("many", &hosts, ""))?;
    let first = Controller::start(&api, 9401, &[])?;
    first.until_it_leads()?;
    let has_all = || addresses(kubectl, "many").ok().filter(|addresses| addresses.len() == 40);
    let before = poll::until("all hosts to have addresses", LIMIT, has_all)?;
    let second = Controller::start(&api, 9402, &[])?;
    assert!(!second.leads());
    kubectl.apply(&entry("goes", &["goes.test"], ""))?;
    until_addresses(kubectl, "goes", &["goes.test=240.240.0.21", "goes.test=2001:2::15"])?;
    kubectl.run(&["delete", "serviceentry", "goes"])?;

    let killed = Instant::now();
    first.kill()?;
    kubectl.apply(&entry("after", &["after.test"], ""))?;
    // The next in turn: who takes over knows that the one before rests.
    until_addresses(kubectl, "after", &["after.test=240.240.0.22", "after.test=2001:2::16"])?;
    let took = killed.elapsed();
    println!("took over and wrote {:.1} s after the kill", took.as_secs_f64());
    assert!(took < poll::stretched(TAKEOVER), "took over after {took:?}");
    assert!(second.leads());
    assert_eq!(addresses(kubectl, "many")?, before);

    // One that hangs for longer than its Lease does not write when it goes on.
    let third = Controller::start(&api, 9403, &[])?;
    second.process.signal(Signal::SIGSTOP)?;
    third.until_it_leads()?;
    kubectl.apply(&entry("third", &["third.test"], ""))?;
    until_addresses(kubectl, "third", &["third.test=240.240.0.23", "third.test=2001:2::17"])?;
    second.process.signal(Signal::SIGCONT)?;
    let knows_better = || (!second.leads()).then_some(());
    poll::until("the second to see that it does not lead", LIMIT, knows_better)?;
    assert!(third.leads());
    // One that ends gives the Lease up at once.
    let stopped = Instant::now();
    third.stop()?;
    second.until_it_leads()?;
    println!("took over {:.1} s after the end", stopped.elapsed().as_secs_f64());
    assert_eq!(addresses(kubectl, "many")?, before);
    second.stop()?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
