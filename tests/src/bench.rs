//! Where `cargo xtask bench` measures: namespaces, cgroups, the server, and the ways there.
//!
//! In: what is installed. Out: a [`Yard`], in which a client can be run on any [`Way`]. Never: a number of
//! its own; it only starts what measures.

mod empty;
mod envoy;
mod fillers;
mod node;
mod way;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::clean::Run;
use crate::load::{Kind, Summary};
use crate::netns::Netns;
use crate::servers::Process;
use crate::topology::{BACKEND, Options, Topology};
use crate::{cgroup, load};

pub use empty::Empty;
pub use envoy::Envoy;
pub use fillers::entries_of;
pub use node::{Client, Node};
pub use way::{ECHO, MOVED, VIP, Way, destination};

/// The client with nftables, on the same bridge as the other.
const NFT_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 16));
const READY: Duration = Duration::from_secs(20);

/// Namespaces with a server; dropping it removes all of it.
#[derive(Debug)]
pub struct Yard {
    server: Process,
    /// The namespaces; the client's has neither nftables nor conntrack.
    pub topology: Topology,
    nft: Option<Netns>,
    load: PathBuf,
    client_cpu: usize,
    server_cpu: usize,
    nice: i8,
    group: PathBuf,
    plain: PathBuf,
    /// The owner of everything above, and of what is started in it.
    pub run: Run,
}

impl Yard {
    /// Makes it; `load` is the `kmse-load` program, `nice` the niceness of clients, server and proxy.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start(load: &Path, nice: i8) -> anyhow::Result<Yard> {
        let run = Run::begin()?;
        let group = cgroup::make(&run)?;
        let plain = group.join("plain");
        std::fs::create_dir(&plain)?;
        let topology = Topology::start(&run, Options { httpbin: false, ttl_secs: 60, records: &[] })?;
        recycle_ports(&topology.sleep)?;
        let cpus = load::cpus()?;
        let client_cpu = *cpus.first().context("no CPU")?;
        let server_cpu = *cpus.get(1).unwrap_or(&client_cpu);

        let mut command = with_nice(&topology.backend, nice, load);
        command.arg("serve").args(["--cpu", &server_cpu.to_string()]);
        let mut tcp = Vec::new();
        for (flag, address) in way::listeners() {
            command.args([flag, &address.to_string()]);
            tcp.extend((flag != "--udp").then_some(address));
        }
        let mut server = Process::start(&mut command, &run.folder()?.join("server.log"))?;
        let listens = || tcp.iter().all(|address| accepts(&topology.backend, *address));
        server.ready("the server", READY, listens)?;
        let load = load.to_owned();
        Ok(Yard { server, topology, nft: None, load, client_cpu, server_cpu, nice, group, plain, run })
    }

    /// The CPU of the clients, and that of the server; the same if there is only one.
    pub fn cpus(&self) -> (usize, usize) {
        (self.client_cpu, self.server_cpu)
    }

    /// A cgroup of this yard.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn cgroup(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.group.join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(path)
    }

    /// Makes the client with nftables: a namespace of its own, for one rule brings conntrack to all of it.
    ///
    /// # Errors
    /// When `nft` is not there, or the kernel refuses the rule.
    pub fn add_nftables(&mut self) -> anyhow::Result<()> {
        let netns = Netns::add(&self.run, "nft")?;
        self.topology.node.ip(&format!(
            "link add nft type veth peer name eth0 netns {}\nlink set nft master br0 up\n",
            netns.name()
        ))?;
        netns.ip(&format!(
            "link set lo up\naddr add {NFT_CLIENT}/24 dev eth0\nlink set eth0 up\nroute add default via {}\n",
            crate::topology::NODE
        ))?;
        recycle_ports(&netns)?;
        let output = netns.command("nft").arg(way::nft_rules()).output().context("cannot run nft")?;
        if !output.status.success() {
            bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        self.nft = Some(netns);
        Ok(())
    }

    /// Runs a client to its end on one way.
    ///
    /// # Errors
    /// When it fails, which includes any request that failed; or takes far longer than it was told.
    pub fn measure(&self, kind: Kind, way: &Way<'_>, time: Duration) -> anyhow::Result<Summary> {
        let (netns, cgroup) = match way {
            Way::Nftables => (self.nft.as_ref().context("there is no client with nftables")?, &self.plain),
            Way::Direct | Way::Envoy => (&self.topology.sleep, &self.plain),
            Way::Empty(empty) => (&self.topology.sleep, &empty.cgroup),
            Way::Node(node, Client::NotEnrolled) => (&self.topology.sleep, &node.other),
            Way::Node(node, _) | Way::Waypoint(node) => (&self.topology.sleep, &node.enrolled),
        };
        let to = destination(kind, way).with_context(|| format!("no {kind:?} by {way:?}"))?;
        let word = format!("{kind:?}").to_lowercase();
        let mut command = with_nice(netns, self.nice, &self.load);
        command.args(["run", &word, &to.to_string(), "--millis", &time.as_millis().to_string()]);
        command.args(["--cpu", &self.client_cpu.to_string()]).arg("--cgroup").arg(cgroup);
        let folder = self.run.folder()?;
        let mut client = Process::start(&mut command, &folder.join("client.log"))?;
        let status = client.wait(time * 2 + READY)?;
        let output = client.output();
        let summary = output.lines().find_map(|line| serde_json::from_str(line).ok());
        match summary {
            Some(summary) if status.success() => Ok(summary),
            _ => bail!("{word} to {to} ended with {status}: {}", output.trim()),
        }
    }

    /// Starts an enrolled client that sees when another server answers at [`MOVED`]; its output is a line of
    /// JSON for each [`load::Change`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn watch(&self, node: &Node) -> anyhow::Result<std::process::Child> {
        let mut command = with_nice(&self.topology.sleep, self.nice, &self.load);
        command.args(["watch", &MOVED.to_string(), "--cpu", &self.client_cpu.to_string()]);
        command.arg("--cgroup").arg(&node.enrolled);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        child.context("cannot start the client that watches")
    }

    /// Takes all of it down, and answers what is left, which is nothing if all is well.
    pub fn end(self) -> Vec<String> {
        let Yard { server, topology, run, .. } = self;
        drop((server, topology));
        run.end()
    }
}

/// A command in a namespace, at this niceness.
fn with_nice(netns: &Netns, nice: i8, program: &Path) -> Command {
    if nice == 0 {
        return netns.command(program);
    }
    let mut command = netns.command("nice");
    command.args(["-n", &nice.to_string()]).arg(program);
    command
}

/// Lets a client connect more often than ports leave TIME_WAIT.
fn recycle_ports(netns: &Netns) -> anyhow::Result<()> {
    netns.set("net/ipv4/tcp_tw_reuse", "1")?;
    netns.set("net/ipv4/ip_local_port_range", "1024 65535")
}

fn accepts(netns: &Netns, address: SocketAddr) -> bool {
    let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok();
    netns.inside(connect).unwrap_or(false)
}

/// The backend's address with a port.
fn backend(port: u16) -> SocketAddr {
    (BACKEND, port).into()
}
