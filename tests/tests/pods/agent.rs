//! What happens to pods when the agent, or something around it, fails, is full or is away.

use std::path::Path;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use tests::agent::{Agent, Flags, mentions};
use tests::cgroup;
use tests::clean::Run;
use tests::entries::static_entry;
use tests::netns::Netns;
use tests::pods::{Class, Driver, Kubelet, Pod};
use tests::poll;
use tests::servers::Echo;
use tests::stage::Stage;
use tests::topology::{BACKEND, NODE, Topology};

use crate::{LIMIT, Node, QUIET, one_pod, shop};

#[test]
fn a_restart_keeps_pods_enrolled_and_forgets_those_that_went_meanwhile() -> anyhow::Result<()> {
    let mut node = Node::start(Driver::Cgroupfs, &[], &[("shop.yaml", &shop())])?;
    let (stays, group) = one_pod(&node, "stays", 1)?;
    let (deleted, deleted_group) = one_pod(&node, "deleted", 2)?;
    let (gone, gone_group) = one_pod(&node, "gone", 3)?;
    for pod in [&stays, &deleted, &gone] {
        node.until_enrolled(pod, true)?;
    }
    // A client that connects all the time, by the address, so that DNS has no part in it.
    let vip = node.says(&group, &["getent", "ahostsv4", "fake.test"])?;
    let vip = vip.split_whitespace().next().context("no address")?.to_owned();
    let every = "while :; do curl -s -o /dev/null --max-time 2 http://$0/ && echo good || echo bad; done";
    let mut client = node.spawn(&group, &["sh", "-c", every, &vip])?;
    node.stage.agent.process().signal(Signal::SIGKILL)?;
    node.stage.agent.process().wait(LIMIT)?;
    node.stage.remove("pod-shop-deleted.yaml")?;
    gone_group.remove();
    assert!(!node.reaches(&deleted_group)? || node.reaches(&group)?, "programs work without an agent");
    node.stage.resume()?;
    node.until_enrolled(&stays, true)?;
    node.until("the others to be forgotten", || {
        (node.stage.agent.get("/status").ok()?["workloads"] == 1).then_some(())
    })?;
    // And once more, with a handover.
    node.stage.take_over()?;
    assert!(node.is_enrolled(&stays) && !node.is_enrolled(&deleted));
    assert!(node.reaches(&group)?);
    client.kill()?;
    let said = String::from_utf8_lossy(&client.wait_with_output()?.stdout).into_owned();
    assert!(said.contains("good") && !said.contains("bad"), "{said}");
    Ok(())
}

#[test]
fn a_full_map_is_told_of_and_room_made_later_is_used() -> anyhow::Result<()> {
    let node = Node::start(Driver::Cgroupfs, &["--max-workloads", "2"], &[("shop.yaml", &shop())])?;
    let (first, first_group) = one_pod(&node, "first", 1)?;
    let (second, second_group) = one_pod(&node, "second", 2)?;
    node.until_enrolled(&first, true)?;
    node.until_enrolled(&second, true)?;
    let (third, third_group) = one_pod(&node, "third", 3)?;
    node.until("the third to be told of", || (node.reason(&third).ok()? == "MapFull").then_some(()))?;
    let status = node.stage.agent.get("/status")?;
    assert!(
        status["healthy"] == false && mentions(&status["unhealthyBecause"], "--max-workloads"),
        "{status}"
    );
    assert!(node.reaches(&first_group)? && node.reaches(&second_group)? && !node.reaches(&third_group)?);
    first_group.remove();
    node.until_enrolled(&third, true)?;
    assert!(node.reaches(&third_group)?);
    assert_eq!(node.stage.agent.get("/status")?["healthy"], true);
    Ok(())
}

#[test]
fn a_pod_is_found_although_more_happened_than_the_kernel_could_tell() -> anyhow::Result<()> {
    let mut node = Node::start(Driver::Cgroupfs, &[], &[("shop.yaml", &shop())])?;
    let (before, before_group) = one_pod(&node, "before", 1)?;
    node.until_enrolled(&before, true)?;
    let queue: u32 = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")?.trim().parse()?;
    let pod = Pod::new("shop", "after", 2);
    node.write(&pod)?;
    node.reason(&pod)?;
    node.stage.agent.process().signal(Signal::SIGSTOP)?;
    let passing = node.kubelet.path(Class::Burstable, &Pod::new("shop", "passing", 3));
    for _ in 0..queue {
        std::fs::create_dir(&passing)?;
        std::fs::remove_dir(&passing)?;
    }
    before_group.remove();
    let group = node.kubelet.make(Class::Burstable, &pod)?;
    node.stage.agent.process().signal(Signal::SIGCONT)?;
    node.until_enrolled(&pod, true)?;
    node.until_enrolled(&before, false)?;
    // An agent that stood still for two seconds captures no DNS until its next heartbeat.
    node.until("its names to be answered", || node.reaches(&group).ok()?.then_some(()))?;
    assert!(node.stage.agent.log_tail().contains("looking through the whole tree"));
    Ok(())
}

#[test]
fn the_kubelets_directory_may_come_later_and_lie_deeper() -> anyhow::Result<()> {
    let entry = static_entry("fake", "fake.test", &BACKEND.to_string(), 9000);
    let mut root = None;
    let stage = Stage::start_with(QUIET, &[("fake.yaml", &entry), ("shop.yaml", &shop())], |flags| {
        flags.more.push("--enrol-pods".to_owned());
        root = Some(flags.attach.join("machine/node-0"));
    })?;
    let kubelet = Kubelet::new(&root.context("no flags")?, Driver::Systemd);
    let echo = Echo::start(&stage.topology.backend, (BACKEND, 9000).into())?;
    let node = Node { kubelet, _echo: echo, stage };
    let (pod, group) = one_pod(&node, "web", 1)?;
    node.until_enrolled(&pod, true)?;
    node.until("the name", || node.reaches(&group).ok()?.then_some(()))?;
    Ok(())
}

#[test]
fn a_private_cgroup_namespace_is_refused_with_what_to_do() -> anyhow::Result<()> {
    let run = Run::begin()?;
    let group = cgroup::make(&run)?;
    let mount = cgroup::mount_point()?;
    let flags = Flags::new(&run, &group)?;
    let topology = Topology::start(&run, QUIET)?;
    // The shell enters the group, which becomes the root of all that it sees, as a container runtime does.
    let script = format!(
        "echo 0 > {group}/cgroup.procs && exec unshare -C -m sh -c 'umount -l {mount} && mount -t cgroup2 none {mount} && \
         exec \"$0\" \"$@\"' \"$@\"",
        group = group.display(),
        mount = mount.display()
    );
    let mut shell = topology.node.command("sh");
    shell.args(["-c", &script, "sh"]).arg(&flags.program).args(flags.arguments());
    let output = poll::output(run.own(&mut shell))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("private cgroup namespace"), "{said}");
    assert!(said.contains("hostPath"), "{said}");
    Ok(())
}

#[test]
fn another_agent_and_kmesh_are_told_of() -> anyhow::Result<()> {
    let node = Node::start(Driver::Cgroupfs, &[], &[])?;
    assert_eq!(node.stage.agent.get("/status")?["programs"]["rivals"].as_array().map(Vec::len), Some(0));
    let own = node.stage.agent.flags();
    let folder = node.stage.run.folder()?;
    let flags = Flags {
        admin: folder.join("second.sock"),
        state: folder.join("second"),
        pin: own.pin.join("second"),
        more: Vec::new(),
        ..own.clone()
    };
    // The same addresses, in a network namespace of its own.
    let elsewhere = Netns::add(&node.stage.run, "second")?;
    elsewhere.ip(&format!("link set lo up\naddr add {NODE}/32 dev lo\n"))?;
    let mut second = Agent::start_with(&node.stage.run, &elsewhere, flags, &[])?;
    let rivals = second.get("/status")?["programs"]["rivals"].clone();
    assert!(mentions(&rivals, "another kmesh-se agent"), "{rivals}");
    assert!(second.log_tail().contains("does the same"), "{}", second.log_tail());
    assert!(mentions(&node.stage.agent.get("/status")?["programs"], "another kmesh-se agent"));
    second.stop()?;
    // Kmesh's pins.
    let pins = Path::new("/sys/fs/bpf").join(format!("bpf_kmesh-{}", node.stage.run.id()));
    std::fs::create_dir(&pins)?;
    let rivals = node.stage.agent.get("/status");
    std::fs::remove_dir(&pins)?;
    assert!(mentions(&rivals?["programs"]["rivals"], &pins.display().to_string()));
    Ok(())
}
