//! Pods: enrolled by their labels and found by their cgroups, with real processes in a tree like the kubelet's.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::agent::{Agent, Flags, mentions};
use tests::clean::Run;
use tests::entries::{dns_entry, static_entry};
use tests::netns::Netns;
use tests::pods::{Class, Driver, Group, Kubelet, Pod, namespace};
use tests::servers::Echo;
use tests::stage::Stage;
use tests::topology::{BACKEND, BACKEND_2, DNS, NODE, Options, SLEEP, Topology};
use tests::{cgroup, poll};

const QUIET: Options =
    Options { httpbin: false, ttl_secs: 1, records: &[("backend.test", BACKEND), ("plain.test", BACKEND_2)] };
const LIMIT: Duration = Duration::from_secs(10);
/// How long after its directory a pod's first process is there at the earliest.
const FIRST_PROCESS: Duration = Duration::from_millis(50);

/// A node with an echo server behind `fake.test`, an agent that enrols pods, and a kubelet's directories.
struct Node {
    kubelet: Kubelet,
    _echo: Echo,
    stage: Stage,
}

impl Node {
    fn start(driver: Driver, words: &[&str], files: &[(&str, &str)]) -> anyhow::Result<Node> {
        let entry = dns_entry("fake", "fake.test", Some(("backend.test", 9000)));
        let files = [&[("fake.yaml", entry.as_str())], files].concat();
        let mut kubelet = None;
        let stage = Stage::start_with(QUIET, &files, |flags| {
            flags.more.push("--enrol-pods".to_owned());
            flags.more.extend(words.iter().map(|word| (*word).to_owned()));
            kubelet = Some(Kubelet::new(&flags.attach, driver));
        })?;
        let kubelet = kubelet.context("no flags")?;
        kubelet.start()?;
        let echo = Echo::start(&stage.topology.backend, (BACKEND, 9000).into())?;
        let node = Node { kubelet, _echo: echo, stage };
        node.until("the name to be answered", || {
            mentions(&node.stage.agent.get("/names").ok()?, "fake.test").then_some(())
        })?;
        Ok(node)
    }

    fn until<T>(&self, what: &str, probe: impl Fn() -> Option<T>) -> anyhow::Result<T> {
        poll::until(what, LIMIT, probe).with_context(|| self.stage.agent.log_tail())
    }

    fn write(&self, pod: &Pod) -> anyhow::Result<()> {
        self.stage.write(&format!("pod-{}-{}.yaml", pod.namespace, pod.name), &pod.yaml())
    }

    fn label(&self, name: &str, mode: Option<&str>) -> anyhow::Result<()> {
        self.stage.write(&format!("namespace-{name}.yaml"), &namespace(name, mode))
    }

    /// Starts a command in a pod's cgroup and in the client's network namespace.
    fn spawn(&self, group: &Group, command: &[&str]) -> anyhow::Result<Child> {
        let words = self.stage.topology.in_sleep(command);
        let mut client = Command::new(&words[0]);
        group.begin(self.stage.run.own(client.args(&words[1..])))?;
        client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        client.spawn().with_context(|| format!("cannot run {command:?}"))
    }

    fn says(&self, group: &Group, command: &[&str]) -> anyhow::Result<String> {
        let output = self.spawn(group, command)?.wait_with_output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether a new process of the pod reaches the virtual host.
    fn reaches(&self, group: &Group) -> anyhow::Result<bool> {
        Ok(self.says(group, &CURL)?.starts_with("10.244.1.7:9000 "))
    }

    fn workloads(&self) -> anyhow::Result<Value> {
        self.stage.agent.get("/workloads")
    }

    fn is_enrolled(&self, pod: &Pod) -> bool {
        let name = format!("{}/{}", pod.namespace, pod.name);
        let rows = self.workloads().ok();
        let rows = rows.as_ref().and_then(|rows| rows["workloads"].as_array());
        rows.is_some_and(|rows| rows.iter().any(|row| row["pod"] == name))
    }

    fn until_enrolled(&self, pod: &Pod, enrolled: bool) -> anyhow::Result<()> {
        let what = format!("{} to be enrolled: {enrolled}", pod.name);
        self.until(&what, || (self.is_enrolled(pod) == enrolled).then_some(()))
    }

    /// Why a pod is not enrolled.
    fn reason(&self, pod: &Pod) -> anyhow::Result<String> {
        let name = format!("{}/{}", pod.namespace, pod.name);
        self.until(&format!("{name} to be known"), || {
            let rows = self.workloads().ok()?;
            let row = rows["podsLeftAlone"].as_array()?.iter().find(|row| row["pod"] == name)?;
            Some(row["reason"].as_str()?.to_owned())
        })
    }
}

const CURL: [&str; 5] = ["curl", "-s", "--max-time", "5", "http://fake.test/"];

/// A pod that the agent was told of, in a labelled namespace, with its cgroup.
fn one_pod(node: &Node, name: &str, number: u32) -> anyhow::Result<(Pod, Group)> {
    let mut pod = Pod::new("shop", name, number);
    pod.addresses = vec![SLEEP];
    node.write(&pod)?;
    let group = node.kubelet.make(Class::Burstable, &pod)?;
    Ok((pod, group))
}

fn shop() -> String {
    namespace("shop", Some("Kmesh"))
}

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

/// `dig` of a name at a listener that is dialled straight.
fn dig(netns: &Netns, port: u64, name: &str, from: IpAddr) -> anyhow::Result<String> {
    let mut dig = netns.command("dig");
    dig.args([&format!("@{NODE}"), "-p", &port.to_string(), "-b", &from.to_string()]);
    dig.args([name, "A", "+tries=1", "+time=3", "+noall", "+comments", "+answer"]);
    Ok(String::from_utf8_lossy(&dig.output()?.stdout).into_owned())
}

#[test]
fn the_dns_server_serves_the_pods_of_its_namespaces_and_nobody_else() -> anyhow::Result<()> {
    let node = Node::start(Driver::Cgroupfs, &[], &[("shop.yaml", &shop())])?;
    let topology = &node.stage.topology;
    let second: IpAddr = "10.244.1.61".parse()?;
    topology.sleep.ip(&format!("addr add {second}/24 dev eth0\n"))?;
    let (mut pod, group) = one_pod(&node, "web", 1)?;
    let mut other = Pod::new("other", "plain", 2);
    other.addresses = vec![second];
    node.write(&other)?;
    node.reason(&other)?;
    node.until_enrolled(&pod, true)?;
    // A process of the pod is led there; what dials the listener from outside of any enrolled cgroup is judged by its address.
    assert!(node.reaches(&group)?);
    let rows = node.workloads()?;
    let port = rows["workloads"][0]["dnsPort"].as_u64().context("no port")?;
    let vip = |text: &str| text.contains("\t240.240.");
    let refused = |text: &str| text.contains("status: REFUSED");
    let served = dig(&topology.sleep, port, "fake.test", SLEEP)?;
    assert!(vip(&served), "{served}");
    for (netns, from) in [(&topology.sleep, second), (&topology.backend, BACKEND), (&topology.node, NODE)] {
        let answer = dig(netns, port, "fake.test", from)?;
        assert!(refused(&answer), "{from}: {answer}");
    }
    // The port of another namespace, at which the pod has no business.
    let answer = dig(&topology.sleep, 15053, "fake.test", SLEEP)?;
    assert!(refused(&answer), "{answer}");

    // While a pod has no address yet, one that nobody has is its.
    let mut early = Pod::new("shop", "early", 3);
    node.write(&early)?;
    node.until("an early query to be answered", || {
        vip(&dig(&topology.backend, port, "fake.test", BACKEND).ok()?).then_some(())
    })?;
    assert!(refused(&dig(&topology.sleep, port, "fake.test", second)?), "another pod's");
    early.addresses = vec!["10.244.1.62".parse()?];
    node.write(&early)?;
    node.until("a stranger to be refused again", || {
        refused(&dig(&topology.backend, port, "fake.test", BACKEND).ok()?).then_some(())
    })?;

    // Each pod's own search list.
    let searched = dig(&topology.sleep, port, "fake.test.shop.svc.cluster.local", SLEEP)?;
    assert!(vip(&searched), "{searched}");
    pod.spec += "  dnsPolicy: None\n  dnsConfig:\n    searches: [own.test]\n";
    node.write(&pod)?;
    node.until("its own domain to be searched", || {
        vip(&dig(&topology.sleep, port, "fake.test.own.test", SLEEP).ok()?).then_some(())
    })?;
    let searched = dig(&topology.sleep, port, "fake.test.shop.svc.cluster.local", SLEEP)?;
    assert!(searched.contains("status: NXDOMAIN"), "{searched}");

    // A command on the node is served from the node's address as long as it runs.
    let words = node.stage.agent.exec();
    let mut command = topology.node.command(&words[0]);
    command.args(&words[1..]).args(["dig", &format!("@{DNS}"), "fake.test", "+tries=1", "+time=3"]);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(vip(&said), "{said} {}", String::from_utf8_lossy(&output.stderr));

    // One that is not handled any more, and still asks, hears what the resolver says.
    pod.labels = vec!["istio.io/dataplane-mode: none".to_owned()];
    node.write(&pod)?;
    node.until_enrolled(&pod, false)?;
    let left = dig(&topology.sleep, port, "plain.test", SLEEP)?;
    assert!(left.contains("\t10.244.1.8"), "{left}");
    let left = dig(&topology.sleep, port, "fake.test", SLEEP)?;
    assert!(left.contains("status: NXDOMAIN"), "{left}");
    assert!(node.stage.agent.get("/status")?["dns"]["queries"]["refused"].as_u64() >= Some(5));
    Ok(())
}

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
    assert!(node.reaches(&group)?);
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
    let output = run.own(&mut shell).output()?;
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
