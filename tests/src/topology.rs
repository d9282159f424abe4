//! One node with its neighbours, each in a network namespace, on one bridge.
//!
//! In: what DNS shall know. Out: `sleep` (the client), `backend`, `dns` and `node`. Never: a route out of
//! it, so two topologies have the same addresses and do not meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::Context as _;

use crate::clean::Run;
use crate::netns::Netns;
use crate::servers::{Dns, Httpbin};

/// The node's own address, where the agent listens.
pub const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 1));
/// The client.
pub const SLEEP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 6));
/// httpbin, as `httpbin.default.svc.cluster.local`.
pub const BACKEND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 7));
/// httpbin, as `httpbin.org`.
pub const BACKEND_2: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 8));
/// The authoritative DNS server, which the client asks.
pub const DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 10));

/// What the topology's DNS server knows at first.
pub const RECORDS: &[(&str, IpAddr)] =
    &[("httpbin.default.svc.cluster.local", BACKEND), ("httpbin.org", BACKEND_2)];

/// The same host's IPv6 address: `fd00:244:1::7` for `10.244.1.7`.
pub fn v6(address: IpAddr) -> IpAddr {
    let last = match address {
        IpAddr::V4(address) => u16::from(address.octets()[3]),
        IpAddr::V6(address) => address.segments()[7],
    };
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, last))
}

/// What is in a topology besides the namespaces.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Start httpbin on port 8000 of both backend addresses and on port 80 of the second.
    pub httpbin: bool,
    /// How long DNS answers live.
    pub ttl_secs: u32,
    /// What DNS knows at first.
    pub records: &'static [(&'static str, IpAddr)],
}

impl Default for Options {
    fn default() -> Self {
        Options { httpbin: true, ttl_secs: 1, records: RECORDS }
    }
}

/// The namespaces and their servers.
#[derive(Debug)]
pub struct Topology {
    /// httpbin, if the options asked for it.
    pub httpbin: Option<Httpbin>,
    /// The authoritative DNS server.
    pub dns: Dns,
    /// Where the bridge and the agent are.
    pub node: Netns,
    /// Where clients run.
    pub sleep: Netns,
    /// Where servers run.
    pub backend: Netns,
}

impl Topology {
    /// Makes it and waits until all of it answers.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start(run: &Run, options: Options) -> anyhow::Result<Topology> {
        let add = |role: &str| Netns::add(run, role);
        let (node, sleep, backend, dns) = (add("node")?, add("sleep")?, add("backend")?, add("dns")?);
        let mut lines =
            String::from("link set lo up\nlink add br0 type bridge stp_state 0 forward_delay 0\n");
        for (port, other) in [("sleep", &sleep), ("backend", &backend), ("dns", &dns)] {
            let other = other.name();
            lines += &format!("link add {port} type veth peer name eth0 netns {other}\n");
            lines += &format!("link set {port} master br0 up\n");
        }
        lines += &addresses("br0", &[NODE]);
        node.ip(&lines).context("cannot make the node's bridge")?;
        node.set("net/ipv4/ip_forward", "1")?;
        node.set("net/ipv6/conf/all/forwarding", "1")?;
        for (netns, own) in [(&sleep, &[SLEEP][..]), (&backend, &[BACKEND, BACKEND_2]), (&dns, &[DNS])] {
            let routes = format!("route add default via {NODE}\nroute add default via {}\n", v6(NODE));
            netns.ip(&format!("link set lo up\n{}{routes}", addresses("eth0", own)))?;
        }
        sleep.resolv_conf(&format!("nameserver {DNS}\noptions timeout:2 attempts:2\n"))?;

        let folder = run.folder()?;
        let listen = [DNS, v6(DNS)];
        let dns = Dns::start(&dns, &folder, &listen, options.ttl_secs, options.records)?;
        let httpbin = options.httpbin.then(|| {
            let binds = [(BACKEND, 8000), (BACKEND_2, 8000), (BACKEND_2, 80)];
            let both = binds.into_iter().flat_map(|(address, port)| [(address, port), (v6(address), port)]);
            Httpbin::start(&backend, &folder, &both.map(Into::into).collect::<Vec<_>>())
        });
        Ok(Topology { httpbin: httpbin.transpose()?, dns, node, sleep, backend })
    }

    /// A command line for the client's namespace, with its `resolv.conf`: `ip netns exec … COMMAND`.
    pub fn in_sleep(&self, command: &[&str]) -> Vec<String> {
        let exec = ["ip", "netns", "exec", self.sleep.name()];
        exec.iter().chain(command).map(|word| (*word).to_owned()).collect()
    }

    /// A client that is not enrolled.
    pub fn plain_client(&self, command: &[&str]) -> Command {
        let words = self.in_sleep(command);
        let mut client = Command::new(&words[0]);
        client.args(&words[1..]);
        client
    }
}

fn addresses(device: &str, addresses: &[IpAddr]) -> String {
    let lines = addresses.iter().map(|address| {
        format!("addr add {address}/24 dev {device}\naddr add {}/64 dev {device} nodad\n", v6(*address))
    });
    format!("{}link set {device} up\n", lines.collect::<String>())
}
