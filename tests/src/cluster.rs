//! A Kubernetes cluster of one node: the real programs, in namespaces of its own.
//!
//! In: programs and images that `cargo xtask cluster` has made. Out: an API server and, for [`Cluster`], a node that runs
//! pods. Never: traffic that leaves its namespaces, or a change to the machine that outlives it.
//!
//! [`ApiServer`] is etcd and the API server only, for what watches objects; it takes a few seconds. [`Cluster`] has all of
//! it: controllers, scheduler, containerd, kubelet, kube-proxy, CoreDNS, and a network outside with a DNS server and a
//! place for others. [`chart`] brings kmesh-se there as its users do.

mod access;
pub mod audit;
pub mod bulk;
pub mod chart;
mod control;
pub mod images;
mod kubectl;
mod node;
pub mod programs;
mod relay;

use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use self::audit::Writes;
use self::control::ControlPlane;
pub use self::kubectl::Kubectl;
use self::node::Node;
use crate::cgroup;
use crate::clean::Run;
use crate::netns::Netns;
use crate::servers::{Dns, Httpbin};

/// The node's name.
pub const NODE: &str = "node-1";
/// The node's address.
pub const NODE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 240, 0, 2));
/// The node's gateway and resolver, outside of the cluster.
pub const OUTSIDE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 240, 0, 1));
/// Where pods have their addresses.
pub const PODS: &str = "10.244.0.0/24";
/// Where Services have theirs.
pub const SERVICES: &str = "10.96.0.0/16";
/// The Service of the cluster's DNS.
pub const DNS_SERVICE: &str = "10.96.0.10";

/// The cluster's DNS server, as objects.
const DNS_OBJECTS: &str = include_str!("../cluster/objects/dns.yaml");
/// The Deployments `sleep` and `httpbin` and the Service `httpbin`, as the tutorial has them.
pub const WORKLOADS: &str = include_str!("../cluster/objects/workloads.yaml");

/// How long pods may take on a machine that is busy.
const PODS_READY: Duration = Duration::from_secs(120);

/// etcd and the API server.
#[derive(Debug)]
pub struct ApiServer {
    control: ControlPlane,
    netns: Netns,
    run: Run,
}

impl ApiServer {
    /// Starts both and waits until objects can be made; also Pods, for which no service account is asked.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start() -> anyhow::Result<ApiServer> {
        let run = Run::begin()?;
        let netns = Netns::add(&run, "node")?;
        netns.ip("link set lo up\n")?;
        let control = ControlPlane::start(&run, &netns, &["ServiceAccount"])?;
        Ok(ApiServer { control, netns, run })
    }

    /// kubectl with all rights. Its kubeconfig serves clients in the namespace and on this machine.
    pub fn kubectl(&self) -> &Kubectl {
        &self.control.kubectl
    }

    /// The network namespace of the node, where both run.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The owner of everything, for more of it.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The writes to statuses of entries that it has answered.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn writes(&self) -> anyhow::Result<Writes> {
        Writes::of(&self.run.folder()?)
    }

    /// Ends the API server as a crash does; etcd stays, and so does all else that runs.
    pub fn stop_apiserver(&mut self) {
        self.control.kill_apiserver();
    }

    /// Starts it again and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_apiserver(&mut self) -> anyhow::Result<()> {
        self.control.start_apiserver()
    }

    /// A kubeconfig for a service account, which is there already.
    ///
    /// # Errors
    /// When it is not.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str) -> anyhow::Result<PathBuf> {
        self.control.kubeconfig_of(namespace, account)
    }

    /// Removes everything and answers what is left, which is nothing if all is well.
    pub fn end(self) -> Vec<String> {
        let ApiServer { control, run, .. } = self;
        drop(control);
        run.end()
    }
}

/// A cluster: its API server, to which it lends itself, and a node. Fields are dropped in order: what runs, then what the run
/// owns.
#[derive(Debug)]
pub struct Cluster {
    node: Node,
    /// httpbin outside of the cluster, if it was started.
    httpbin: Option<Httpbin>,
    /// What the world's DNS knows.
    pub dns: Dns,
    outside: Netns,
    cgroup: PathBuf,
    api: ApiServer,
}

impl Deref for Cluster {
    type Target = ApiServer;

    fn deref(&self) -> &ApiServer {
        &self.api
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut ApiServer {
        &mut self.api
    }
}

impl Cluster {
    /// Starts all of it and waits until the node and the cluster's DNS are ready. `records` is what the world's DNS knows.
    ///
    /// # Errors
    /// When a part does not come up; with what it wrote.
    pub fn start(records: &[(&str, IpAddr)]) -> anyhow::Result<Cluster> {
        let run = Run::begin()?;
        let (netns, outside) = networks(&run)?;
        let cgroup = cgroup::make_everywhere(&run)?;
        // The API server takes longest, so that the images are there before it is.
        let (control, node) = std::thread::scope(|scope| {
            let node = scope.spawn(|| {
                let node = Node::start(&run, &netns)?;
                node.import_all().map(|()| node)
            });
            let control = ControlPlane::start(&run, &netns, &[]);
            // A panic in the thread goes on here.
            (control, node.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let (mut control, mut node) = (control?, node?);
        control.start_actors()?;
        node.start_agents(&control.access)?;
        let dns = Dns::start(&outside, &run.folder()?, &[OUTSIDE_ADDRESS], 1, records)?;
        let api = ApiServer { control, netns, run };
        let mut cluster = Cluster { node, httpbin: None, dns, outside, cgroup, api };
        let settled = cluster.settle();
        settled.with_context(|| format!("the node is not ready\n{}", cluster.node.dead().join("\n")))?;
        Ok(cluster)
    }

    fn settle(&self) -> anyhow::Result<()> {
        let kubectl = self.kubectl();
        kubectl.apply(DNS_OBJECTS)?;
        let is_there = |nodes: &str| nodes.contains(NODE);
        kubectl.until(&["get", "nodes", "-o", "name"], PODS_READY, is_there)?;
        kubectl.wait_ready("default", &format!("node/{NODE}"), PODS_READY)?;
        kubectl.wait_ready("kube-system", "deployment/coredns", PODS_READY)
    }

    /// A network outside of the cluster, which pods reach by the node.
    pub fn outside(&self) -> &Netns {
        &self.outside
    }

    /// The cgroup that holds all pods, in the hierarchy of cgroup2.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A command that sees what the node sees: its processes, mounts and network.
    pub fn on_node(&self, program: &str, words: &[&str]) -> std::process::Command {
        let mut command = self.node.command(program);
        command.args(words);
        command
    }

    /// Gives the node an image.
    ///
    /// # Errors
    /// When containerd refuses it.
    pub fn import(&self, archive: &Path) -> anyhow::Result<()> {
        self.node.import(archive)
    }

    /// Starts the Deployments `sleep` and `httpbin` with its Service in a namespace, and waits until they are ready.
    ///
    /// # Errors
    /// When they are not.
    pub fn start_workloads(&self, namespace: &str) -> anyhow::Result<()> {
        let kubectl = self.kubectl();
        kubectl.apply_in(namespace, WORKLOADS)?;
        kubectl.wait_ready(namespace, "deployment/sleep", PODS_READY)?;
        kubectl.wait_ready(namespace, "deployment/httpbin", PODS_READY)
    }

    /// Starts httpbin outside of the cluster, on these ports.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_outside_httpbin(&mut self, ports: &[u16]) -> anyhow::Result<()> {
        let addresses: Vec<_> = ports.iter().map(|port| (OUTSIDE_ADDRESS, *port).into()).collect();
        let folder = self.run().folder()?;
        self.httpbin = Some(Httpbin::start(&self.outside, &folder, &addresses)?);
        Ok(())
    }

    /// Removes everything and answers what is left, which is nothing if all is well.
    pub fn end(self) -> Vec<String> {
        let Cluster { node, httpbin, dns, api, .. } = self;
        drop((node, httpbin, dns));
        api.end()
    }
}

/// The node's network, and one outside of it that is the node's way to the world.
fn networks(run: &Run) -> anyhow::Result<(Netns, Netns)> {
    let (node, outside) = (Netns::add(run, "node")?, Netns::add(run, "outside")?);
    let wire = format!("link add eth0 type veth peer name eth0 netns {}\n", outside.name());
    let up = |address: IpAddr| format!("link set lo up\nlink set eth0 up\naddr add {address}/24 dev eth0\n");
    node.ip(&format!("{wire}{}route add default via {OUTSIDE_ADDRESS}\n", up(NODE_ADDRESS)))?;
    outside.ip(&format!("{}route add {PODS} via {NODE_ADDRESS}\n", up(OUTSIDE_ADDRESS)))?;
    node.set("net/ipv4/ip_forward", "1")?;
    Ok((node, outside))
}
