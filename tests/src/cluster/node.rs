//! A node: namespaces in which containerd, the kubelet and kube-proxy run.
//!
//! In: a network namespace. Out: a node that runs pods. Never: a mount, sysctl or rule that the machine sees, or a process
//! that outlives the node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::access::{self, Access};
use super::{DNS_SERVICE, NODE, NODE_ADDRESS, OUTSIDE_ADDRESS, PODS, images, programs};
use crate::clean::Run;
use crate::netns::Netns;
use crate::poll;
use crate::servers::Process;

const READY: Duration = Duration::from_secs(30);
/// Where Debian's containernetworking-plugins are.
const CNI_PLUGINS: &str = "/usr/lib/cni";

/// A node; dropping it ends all that runs on it.
#[derive(Debug)]
pub(super) struct Node {
    processes: Vec<Process>,
    /// The first process of its PID namespace.
    init: Pid,
    _unshare: Process,
    netns: Netns,
    folder: PathBuf,
    /// `/kmse-<id>`, in all hierarchies.
    cgroup: String,
}

impl Node {
    /// Makes the namespaces, and starts containerd with the images in it.
    ///
    /// # Errors
    /// When a part does not come up.
    pub(super) fn start(run: &Run, netns: &Netns) -> anyhow::Result<Node> {
        let folder = run.folder()?;
        let script = folder.join("node.sh");
        fs::write(&script, include_str!("node.sh"))?;
        let mut command = netns.command("unshare");
        command.args(["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "sh"]);
        let mut unshare = Process::start(command.arg(script).arg(&folder), &folder.join("node.log"))?;
        let is_ready = folder.join("node-ready");
        unshare.ready("the node's namespaces", READY, || is_ready.exists())?;
        let init = child_of(unshare.pid())?;
        let cgroup = format!("/{}", crate::cgroup::name(run));
        let netns = netns.clone();
        let mut node = Node { processes: Vec::new(), init, _unshare: unshare, netns, folder, cgroup };
        node.start_containerd()?;
        Ok(node)
    }

    /// A command that runs in all of the node's namespaces.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.netns.command("nsenter");
        command.args(["--target", &self.init.to_string(), "--all", "--wd=/", "--"]).arg(program);
        command
    }

    fn spawn(&mut self, command: &mut Command, name: &str) -> anyhow::Result<&mut Process> {
        let process = Process::start(command, &self.folder.join(format!("{name}.log")))?;
        self.processes.push(process);
        self.processes.last_mut().context("it was just put there")
    }

    fn write(&self, name: &str, config: &Value) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, serde_json::to_string_pretty(config)?)?;
        Ok(path)
    }

    fn start_containerd(&mut self) -> anyhow::Result<()> {
        let networks = self.folder.join("cni");
        fs::create_dir_all(&networks)?;
        // Routed rather than bridged: an answer to a Service's address has to pass the rules that translate it back,
        // which on a bridge needs a kernel module and a sysctl.
        let network = json!({
            "cniVersion": "0.4.0",
            "name": "kmse",
            "plugins": [{"type": "ptp", "ipMasq": false, "ipam": {
                "type": "host-local",
                "dataDir": self.folder.join("addresses"),
                "ranges": [[{"subnet": PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            }}],
        });
        self.write("cni/10-kmse.conflist", &network)?;
        let config = containerd_config(&self.folder);
        fs::write(self.folder.join("containerd.toml"), config)?;
        let mut command = self.command(programs::program("containerd")?);
        command.arg("--config").arg(self.folder.join("containerd.toml"));
        let socket = self.socket();
        let ctr = programs::program("ctr")?;
        let process = self.spawn(&mut command, "containerd")?;
        let answers = || {
            socket.exists()
                && asking(&ctr, &socket).arg("version").output().is_ok_and(|output| output.status.success())
        };
        process.ready("containerd", READY, answers)
    }

    /// Of containerd; it is in the run's folder, so the machine sees it too.
    fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    /// Gives the node an image.
    ///
    /// # Errors
    /// When containerd refuses it.
    pub(super) fn import(&self, archive: &Path) -> anyhow::Result<()> {
        let mut ctr = asking(&programs::program("ctr")?, &self.socket());
        let output = ctr.args(["images", "import"]).arg(archive).output().context("cannot run ctr")?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("containerd does not take {}: {}", archive.display(), error.trim());
        }
        Ok(())
    }

    /// Starts the kubelet and kube-proxy.
    ///
    /// # Errors
    /// When they cannot be started.
    pub(super) fn start_agents(&mut self, access: &Access) -> anyhow::Result<()> {
        let resolv_conf = self.folder.join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {OUTSIDE_ADDRESS}\n"))?;
        let config = self.write("kubelet.json", &self.kubelet_config(&resolv_conf))?;
        let mut kubelet = self.command(programs::program("kubelet")?);
        kubelet.arg("--config").arg(config);
        kubelet.arg("--kubeconfig").arg(access.file(access::KUBELET.file));
        kubelet.args([&format!("--hostname-override={NODE}"), &format!("--node-ip={NODE_ADDRESS}")]);
        self.spawn(&mut kubelet, "kubelet")?;

        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": access.file(access::PROXY.file)},
            "clusterCIDR": PODS,
            "hostnameOverride": NODE,
            // The size of the table of connections is the machine's.
            "conntrack": {"maxPerCore": 0, "min": 0},
            "nftables": {"minSyncPeriod": "100ms"},
        });
        let config = self.write("kube-proxy.json", &config)?;
        let mut proxy = self.command(programs::program("kube-proxy")?);
        self.spawn(proxy.arg("--config").arg(config), "kube-proxy")?;
        Ok(())
    }

    fn kubelet_config(&self, resolv_conf: &Path) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            // For exec and logs, which the API server asks for.
            "address": "0.0.0.0",
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup,
            // A hybrid host counts as one with cgroup v1.
            "failCgroupV1": false,
            "failSwapOn": false,
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": "cluster.local",
            "resolvConf": resolv_conf,
            "maxPods": 250,
            "volumePluginDir": self.folder.join("plugins"),
            // However full the machine's disk is, pods are not evicted.
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
        })
    }

    /// The end of the log of each process that has ended.
    pub(super) fn dead(&mut self) -> Vec<String> {
        let ended = self.processes.iter_mut().filter_map(|process| {
            let status = process.ended()?;
            Some(format!("{status}\n{}", process.tail()))
        });
        ended.collect()
    }

    /// Imports all images at once.
    ///
    /// # Errors
    /// When one is missing or refused.
    pub(super) fn import_all(&self) -> anyhow::Result<()> {
        std::thread::scope(|scope| {
            let imports: Vec<_> = images::NAMES
                .iter()
                .map(|name| scope.spawn(|| self.import(&images::archive(name)?)))
                .collect();
            // A panic in a thread goes on here.
            let results = imports
                .into_iter()
                .map(|import| import.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            results.collect()
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The kernel ends all processes of the namespace with its first, and with the last of them go all mounts.
        let _ = kill(self.init, Signal::SIGKILL);
    }
}

/// `ctr`, asking about what Kubernetes sees.
fn asking(ctr: &Path, socket: &Path) -> Command {
    let mut command = Command::new(ctr);
    command.arg("--address").arg(socket).args(["--namespace", "k8s.io"]);
    command
}

fn child_of(parent: Pid) -> anyhow::Result<Pid> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    poll::until("the node's first process", READY, || {
        let children = fs::read_to_string(&path).ok()?;
        children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
    })
}

fn containerd_config(folder: &Path) -> String {
    let folder = folder.display();
    let pause = images::name("pause");
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "/run/containerd"
# They look at other file systems, or at folders of the machine's own.
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]

[grpc]
address = "{folder}/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Without CAP_SYS_RESOURCE nobody may lower the score.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{folder}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}
