//! Pods: enrolled by their labels and found by their cgroups, with real processes in a tree like the kubelet's.

mod pods {
    mod agent;
    mod dns;
    mod labels;
}

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tests::agent::mentions;
use tests::entries::dns_entry;
use tests::pods::{Class, Driver, Group, Kubelet, Pod, namespace};
use tests::poll;
use tests::servers::Echo;
use tests::stage::Stage;
use tests::topology::{BACKEND, BACKEND_2, Options, SLEEP};

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
