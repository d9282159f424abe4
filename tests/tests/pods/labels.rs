//! Which pods are handled, and when.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use tests::pods::{Class, Driver, Group, Pod, namespace};

use crate::{CURL, FIRST_PROCESS, Node, one_pod, shop};

#[test]
fn the_first_process_of_every_pod_reaches_a_virtual_host() -> anyhow::Result<()> {
    for driver in [Driver::Cgroupfs, Driver::Systemd] {
        let node = Node::start(driver, &[], &[("shop.yaml", &shop())])?;
        let classes = [Class::Guaranteed, Class::Burstable, Class::BestEffort].into_iter().cycle();
        let pods: Vec<_> =
            (0..32).map(|number| Pod::new("shop", &format!("p{number}"), number)).zip(classes).collect();
        let (first, second) = pods.split_at(16);
        for (pod, _) in first {
            node.write(pod)?;
        }
        node.reason(&first[15].0)?;
        // One after another: the object is known, the directory comes.
        for (pod, class) in first {
            let group = node.kubelet.make(*class, pod)?;
            sleep(FIRST_PROCESS);
            assert!(node.reaches(&group)?, "{driver:?} {pod:?}\n{}", node.stage.agent.log_tail());
        }
        // Many at once, and the directory is there before the object.
        let mut clients = Vec::new();
        for (pod, class) in second {
            clients.push((pod, node.kubelet.make(*class, pod)?));
        }
        for (pod, _) in &clients {
            node.write(pod)?;
        }
        for (pod, _) in &clients {
            node.until_enrolled(pod, true)?;
        }
        let started: Vec<_> = clients
            .iter()
            .map(|(pod, group)| Ok((pod, node.spawn(group, &CURL)?)))
            .collect::<anyhow::Result<_>>()?;
        for (pod, client) in started {
            let said = String::from_utf8_lossy(&client.wait_with_output()?.stdout).into_owned();
            assert!(said.starts_with("10.244.1.7:9000 "), "{pod:?}: {said}\n{}", node.stage.agent.log_tail());
        }
        assert_eq!(node.stage.agent.get("/status")?["pods"]["enrolled"], 32);
        // What is gone is forgotten.
        for (pod, class) in &pods {
            Group { path: node.kubelet.path(*class, pod) }.remove();
        }
        let gone = || (node.stage.agent.get("/status").ok()?["workloads"] == 0).then_some(());
        node.until("nothing to be enrolled", gone)?;
        assert_eq!(node.reason(&pods[0].0)?, "NoCgroup");
    }
    Ok(())
}

#[test]
fn twenty_pods_that_start_at_once_are_all_enrolled_before_their_first_process() -> anyhow::Result<()> {
    let node = Node::start(Driver::Cgroupfs, &[], &[("shop.yaml", &shop())])?;
    let pods: Vec<_> = (0..20).map(|number| Pod::new("shop", &format!("p{number}"), number)).collect();
    let text: Vec<_> = pods.iter().map(Pod::yaml).collect();
    node.stage.write("pods.yaml", &text.join("---\n"))?;
    node.reason(&pods[19])?;
    let groups: Vec<_> =
        pods.iter().map(|pod| node.kubelet.make(Class::BestEffort, pod)).collect::<anyhow::Result<_>>()?;
    sleep(FIRST_PROCESS);
    let clients: Vec<_> =
        groups.iter().map(|group| node.spawn(group, &CURL)).collect::<anyhow::Result<_>>()?;
    for client in clients {
        let said = String::from_utf8_lossy(&client.wait_with_output()?.stdout).into_owned();
        assert!(said.starts_with("10.244.1.7:9000 "), "{said}\n{}", node.stage.agent.log_tail());
    }
    Ok(())
}

#[test]
fn a_label_takes_effect_within_a_second_both_ways_without_a_restart() -> anyhow::Result<()> {
    let node = Node::start(Driver::Cgroupfs, &[], &[("namespace-shop.yaml", &namespace("shop", None))])?;
    let (mut pod, group) = one_pod(&node, "web", 1)?;
    let plain = node.kubelet.make(Class::Burstable, &Pod::new("other", "plain", 2))?;
    assert_eq!(node.reason(&pod)?, "NotLabelled");
    assert!(!node.reaches(&group)?);
    for round in 0..3 {
        for (mode, is_enrolled) in [(Some("kmesh"), true), (None, false)] {
            node.label("shop", mode)?;
            let labelled = Instant::now();
            node.until_enrolled(&pod, is_enrolled)?;
            let took = labelled.elapsed();
            assert!(took < Duration::from_secs(1), "round {round}, {mode:?}: {took:?}");
            assert_eq!(node.reaches(&group)?, is_enrolled);
            assert!(!node.reaches(&plain)?, "a pod of nobody's");
        }
    }
    // The pod's own label wins, and its end is heard of.
    for (labels, phase, wanted) in [
        (&["istio.io/dataplane-mode: KMESH"][..], "Running", None),
        (&["istio.io/dataplane-mode: KMESH"], "Succeeded", Some("Finished")),
        (&["istio.io/dataplane-mode: none"], "Running", Some("OptedOut")),
    ] {
        pod.labels = labels.iter().map(|label| (*label).to_owned()).collect();
        pod.phase = phase.to_owned();
        node.write(&pod)?;
        node.until_enrolled(&pod, wanted.is_none())?;
        if let Some(wanted) = wanted {
            node.until("the reason", || (node.reason(&pod).ok()? == wanted).then_some(()))?;
        }
    }
    Ok(())
}

#[test]
fn a_process_that_is_less_deep_in_the_tree_than_every_pod_is_not_taken_for_one() -> anyhow::Result<()> {
    let node = Node::start(Driver::Cgroupfs, &[], &[("shop.yaml", &shop())])?;
    let (pod, group) = one_pod(&node, "web", 1)?;
    node.until_enrolled(&pod, true)?;
    let vip = node.says(&group, &["getent", "ahostsv4", "fake.test"])?;
    let url = format!("http://{}/", vip.split_whitespace().next().context("no address")?);
    let dial = ["curl", "-s", "--max-time", "5", &url];
    assert!(node.says(&group, &dial)?.starts_with("10.244.1.7:9000 "));
    let plain = node.stage.cgroup.join("plain");
    std::fs::create_dir(&plain)?;
    assert_eq!(node.says(&Group { path: plain }, &dial)?, "");
    let (_, said) = node.stage.says(true, &dial)?;
    assert!(said.starts_with("10.244.1.7:9000 "), "{said}");
    Ok(())
}

#[test]
fn pods_that_must_not_be_handled_are_left_alone_and_told_of() -> anyhow::Result<()> {
    let node = Node::start(Driver::Systemd, &["--vm-runtime", "microvm"], &[("shop.yaml", &shop())])?;
    let cases: [(&str, &str, &str); 6] = [
        ("ClusterDns", "k8s-app: kube-dns", ""),
        ("Gateway", "gateway.networking.k8s.io/gateway-name: waypoint", ""),
        ("HostNetwork", "app: a", "  hostNetwork: true\n"),
        ("Sidecar", "app: a", "  initContainers:\n  - name: istio-proxy\n    restartPolicy: Always\n"),
        ("VmRuntime", "app: a", "  runtimeClassName: microvm\n"),
        ("OptedOut", "istio.io/dataplane-mode: none", ""),
    ];
    for (number, (wanted, label, spec)) in cases.into_iter().enumerate() {
        let mut pod = Pod::new("shop", &format!("p{number}"), number as u32);
        pod.labels.push(label.to_owned());
        pod.spec += spec;
        let group = node.kubelet.make(Class::Burstable, &pod)?;
        node.write(&pod)?;
        assert_eq!(node.reason(&pod)?, wanted);
        assert!(!node.reaches(&group)?, "{wanted}");
        let explained =
            node.stage.agent.ask(&["explain", "--pod", &format!("shop/p{number}"), "fake.test"])?;
        let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert!(explained.contains(&format!("({wanted})")), "{explained}");
    }
    let status = node.stage.agent.get("/status")?;
    assert_eq!(status["pods"]["enrolled"], 0);
    assert_eq!(status["pods"]["leftAlone"]["VmRuntime"], 1, "{status}");
    let shown = node.stage.agent.ask(&["workloads"])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("shop/p3") && shown.contains("it has a sidecar proxy"), "{shown}");
    Ok(())
}

#[test]
fn explain_and_trace_know_pods_by_name() -> anyhow::Result<()> {
    let node = Node::start(Driver::Cgroupfs, &[], &[("shop.yaml", &shop())])?;
    let (pod, group) = one_pod(&node, "web", 1)?;
    node.until_enrolled(&pod, true)?;
    assert!(node.reaches(&group)?);
    let explained = node.stage.agent.ask(&["explain", "--pod", "shop/web", "fake.test"])?;
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.status.success() && text.contains("enrolled for namespace shop"), "{text}");
    let unknown = node.stage.agent.ask(&["explain", "--pod", "shop/nobody", "fake.test"])?;
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no pod shop/nobody"), "{unknown:?}");

    let (other, other_group) = one_pod(&node, "other", 2)?;
    node.until_enrolled(&other, true)?;
    let flags = node.stage.agent.flags();
    let mut trace = Command::new(&flags.program);
    trace.args(["trace", "--pod", "shop/web", "--count", "1", "-o", "json", "--admin"]).arg(&flags.admin);
    let trace = node.stage.run.own(&mut trace).stdout(Stdio::piped()).spawn()?;
    // It begins to trace at some moment; until then nothing is seen.
    node.until("a traced connection", || {
        node.reaches(&other_group).ok()?;
        node.reaches(&group).ok()?;
        trace_ended(&trace)
    })?;
    let output = trace.wait_with_output();
    let event: Value = serde_json::from_slice(&output?.stdout)?;
    assert_eq!((&event["pod"], &event["host"]), (&Value::from("shop/web"), &Value::from("fake.test")));
    Ok(())
}

fn trace_ended(trace: &Child) -> Option<()> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", trace.id())).ok()?;
    stat.contains(") Z ").then_some(())
}
