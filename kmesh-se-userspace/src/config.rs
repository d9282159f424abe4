//! The agent's flags and what they mean.
//!
//! In: the command line and `KMESH_SE_…` variables. Out: a [`Config`] that is known to make sense. Never: a default that
//! is not in the help text.

mod controller;
mod gateways;
mod pods;
mod values;
mod waypoint;
mod waypoint_server;
mod webhook;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::SignedDuration;
use kmesh_se_common::limits as l;

pub use self::{
    controller::{Allocates, ControllerArgs},
    gateways::GatewayArgs,
    pods::PodArgs,
    values::{EnrolArg, ResolverArg, Source},
    waypoint::{UnavailableArg, WaypointArgs, WaypointListenError},
    waypoint_server::WaypointServerArgs,
    webhook::WebhookArgs,
};
use crate::{
    admin,
    desired::{DYNAMIC_RANGES, LeaseLimits, VipRanges},
    dns::{DnsError, DnsListen, Search},
    health::HealthAddr,
    loader,
    model::{HostName, Locality, Place},
    pods::NodeDns,
    resolve::ResolveConfig,
    sink::Capacities,
};

/// Flags of `kmesh-se agent`.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Where ServiceEntries come from: `file:DIR` watches the YAML and JSON files of a folder, `kube` the API server of a
    /// Kubernetes cluster.
    #[arg(long, env = "KMESH_SE_SOURCE", value_name = "file:DIR|kube")]
    pub source: Source,

    /// With `--source kube`: how to reach the API server. Default: the file that KUBECONFIG names, ~/.kube/config, or the
    /// service account of the Pod that the agent runs in.
    #[arg(long, env = "KMESH_SE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// With `--source kube`: keep a Lease of this node in this namespace, that of the controller's own, which says what the node has
    /// programmed and what it cannot. Needs create and patch on leases there. Default: nowhere, and nothing is written.
    #[arg(long, env = "KMESH_SE_REPORT_NAMESPACE", value_name = "NS")]
    pub report_namespace: Option<String>,

    /// Whether hosts without an address of their own get one from --vip-v4 and --vip-v6 here. Not where several nodes must
    /// agree on it: there a host waits until somebody writes `status.addresses`. Default: true for files, false for `kube`.
    #[arg(long, env = "KMESH_SE_ALLOCATE_VIPS", value_name = "true|false", action = clap::ArgAction::Set)]
    pub allocate_vips: Option<bool>,

    /// The cgroup2 directory that the programs are attached to; made if it is not there. Processes of enrolled cgroups
    /// must be in it or below. Default: `kmesh-se` below the cgroup2 mount; when pods are enrolled, the cgroup of all
    /// pods (`kubepods`, `kubepods.slice`), which is waited for.
    #[arg(long, env = "KMESH_SE_ATTACH", value_name = "CGROUP")]
    pub attach: Option<PathBuf>,

    /// A cgroup whose processes are handled as clients of a namespace (default: `default`). May be repeated.
    /// `kmesh-se exec` enrols one for each command by itself.
    #[arg(long, env = "KMESH_SE_ENROL", value_name = "[NAMESPACE=]CGROUP", value_delimiter = ',')]
    pub enrol: Vec<EnrolArg>,

    /// The pods that are enrolled by label.
    #[command(flatten)]
    pub pods: PodArgs,

    /// Where the DNS server listens: an address that every enrolled process can reach, and the first of its ports. May be
    /// given once for each family, with the same port; a resolver is captured by the listener of its family. Default:
    /// 127.0.0.1:15053 and, on a host with IPv6, [::1]:15053; with --source kube, the node's own addresses at that port.
    #[arg(long, env = "KMESH_SE_DNS_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',')]
    pub dns_listen: Vec<SocketAddr>,

    /// A resolver that clients use: its port 53 is captured, and names that are not ours are forwarded to it. Backends are
    /// resolved there too. May be repeated. Default: those of /etc/resolv.conf; with --source kube, the
    /// cluster's DNS Service, the node-local cache if there is one, and then those, of which only the first is asked for
    /// backends.
    #[arg(long, env = "KMESH_SE_RESOLVER", value_name = "ADDR[:PORT]", value_delimiter = ',')]
    pub resolver: Vec<ResolverArg>,

    /// The search list of clients.
    #[command(flatten)]
    pub search: SearchArgs,

    /// The directory of a BPF file system where programs and maps outlive the agent. One is mounted at /sys/fs/bpf if there is
    /// none.
    #[arg(long, env = "KMESH_SE_PIN", value_name = "DIR", default_value = loader::DEFAULT_PIN)]
    pub pin: PathBuf,

    /// The directory that remembers virtual addresses, ids of namespaces and the last addresses of names.
    #[arg(long, env = "KMESH_SE_STATE", value_name = "DIR", default_value = "/var/lib/kmesh-se")]
    pub state: PathBuf,

    /// The admin socket.
    #[arg(long, env = "KMESH_SE_ADMIN", value_name = "SOCKET", default_value = admin::DEFAULT_SOCKET)]
    pub admin: PathBuf,

    /// Take the place of the agent that serves the admin socket, if there is one, without a gap: it hands its DNS sockets over
    /// and ends when this agent serves.
    #[arg(long, env = "KMESH_SE_TAKEOVER")]
    pub takeover: bool,

    /// When another agent has taken over, stay until a signal comes, or until no agent serves the admin socket any more, instead
    /// of ending: for a supervisor that would start this one again, as Kubernetes does until the Pod is deleted.
    #[arg(long, env = "KMESH_SE_LINGER")]
    pub linger: bool,

    /// Serve `/healthz` (the agent's loop runs) and `/readyz` (the source was read, programs are attached, DNS is served) over HTTP
    /// at this address, or at a Unix socket. Both answer 200, or 503 with the reason. Default: nowhere.
    #[arg(long, env = "KMESH_SE_HEALTH", value_name = "ADDR:PORT|unix:PATH")]
    pub health: Option<HealthAddr>,

    /// Where virtual addresses come from.
    #[command(flatten)]
    pub vips: VipArgs,

    /// Whether these ranges, and those of --dynamic-v4 and --dynamic-v6, get an `unreachable` route in this network namespace,
    /// so that what the programs do not handle (MPTCP, a client that is not enrolled and remembers a virtual address) fails at
    /// once instead of waiting.
    #[arg(long, env = "KMESH_SE_VIP_ROUTES", value_name = "true|false", default_value_t = true, action = clap::ArgAction::Set)]
    pub vip_routes: bool,

    /// The range of IPv4 addresses for names below DYNAMIC_DNS wildcards, which get one when a client asks. Of this node only,
    /// and apart from --vip-v4. Default: the /16 beside the default of that, in space that is routed nowhere.
    #[arg(long, env = "KMESH_SE_DYNAMIC_V4", value_name = "CIDR", default_value_t = DYNAMIC_RANGES.v4)]
    pub dynamic_v4: Ipv4Net,

    /// The same for IPv6, apart from --vip-v6. Default: the prefix whose packets every router may discard (RFC 6666).
    #[arg(long, env = "KMESH_SE_DYNAMIC_V6", value_name = "CIDR", default_value_t = DYNAMIC_RANGES.v6)]
    pub dynamic_v6: Ipv6Net,

    /// How many names below DYNAMIC_DNS wildcards the clients of one namespace at one address, as those of a Pod, may use at one
    /// time. Beyond that, names are the resolver's, and `status` says so.
    #[arg(long, env = "KMESH_SE_DYNAMIC_NAMES", value_name = "N", default_value_t = LeaseLimits::default().names)]
    pub dynamic_names: usize,

    /// After how many seconds without a question or a connection a name below a DYNAMIC_DNS wildcard is forgotten, and the names
    /// behind another host are no longer kept resolved, whose last addresses stay.
    #[arg(long, env = "KMESH_SE_DYNAMIC_IDLE", value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    pub dynamic_idle: u32,

    /// Waypoints.
    #[command(flatten)]
    pub waypoint: WaypointArgs,

    /// How names are kept resolved.
    #[command(flatten)]
    pub resolve: ResolveArgs,

    /// Where the node is: nearer backends are preferred.
    #[command(flatten)]
    pub place: PlaceArgs,

    /// Capacity of the enrolment map, in cgroups.
    #[arg(long, env = "KMESH_SE_MAX_WORKLOADS", value_name = "N", default_value_t = l::MAX_WORKLOADS, value_parser = capacity())]
    pub max_workloads: u32,

    /// Capacity of the frontend map: virtual addresses times ports.
    #[arg(long, env = "KMESH_SE_MAX_FRONTENDS", value_name = "N", default_value_t = l::MAX_FRONTENDS, value_parser = capacity())]
    pub max_frontends: u32,

    /// Capacity of the map of virtual addresses.
    #[arg(long, env = "KMESH_SE_MAX_ADDRESSES", value_name = "N", default_value_t = l::MAX_ADDRESSES, value_parser = capacity())]
    pub max_addresses: u32,

    /// Capacity of the map of address ranges (CIDR).
    #[arg(long, env = "KMESH_SE_MAX_CIDRS", value_name = "N", default_value_t = l::MAX_CIDRS, value_parser = capacity())]
    pub max_cidrs: u32,

    /// Number of services: hosts times ports.
    #[arg(long, env = "KMESH_SE_MAX_SERVICES", value_name = "N", default_value_t = l::MAX_SERVICES, value_parser = capacity())]
    pub max_services: u32,

    /// Number of slots: backends of all services, and as much again of the largest for a change.
    #[arg(long, env = "KMESH_SE_MAX_SLOTS", value_name = "N", default_value_t = l::MAX_SLOTS, value_parser = capacity())]
    pub max_slots: u32,

    /// Number of different backends.
    #[arg(long, env = "KMESH_SE_MAX_BACKENDS", value_name = "N", default_value_t = l::MAX_BACKENDS, value_parser = capacity())]
    pub max_backends: u32,

    /// Connected sockets that are remembered without an allocation, 64 bytes each; rounded up to a power of two.
    #[arg(long, env = "KMESH_SE_MAX_CONNECTIONS", value_name = "N", default_value_t = l::MAX_CONNECTIONS, value_parser = capacity())]
    pub max_connections: u32,
}

/// Where virtual addresses come from: the same on every node, and at the controller.
#[derive(Clone, Debug, Args)]
pub struct VipArgs {
    /// The range that IPv4 virtual addresses come from.
    #[arg(long, env = "KMESH_SE_VIP_V4", value_name = "CIDR", default_value = "240.240.0.0/16")]
    pub vip_v4: Ipv4Net,

    /// The range that IPv6 virtual addresses come from.
    #[arg(long, env = "KMESH_SE_VIP_V6", value_name = "CIDR", default_value = "2001:2::/48")]
    pub vip_v6: Ipv6Net,
}

impl VipArgs {
    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> VipRanges {
        VipRanges { v4: self.vip_v4, v6: self.vip_v6 }
    }
}

/// How the names of endpoints and hosts are kept resolved.
#[derive(Clone, Debug, Args)]
pub struct ResolveArgs {
    /// A name is asked for again after this many seconds at the earliest, however short its records live.
    #[arg(long, env = "KMESH_SE_DNS_MIN_TTL", value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub dns_min_ttl: u32,

    /// A name is asked for again after this many seconds at the latest, however long its records live.
    #[arg(long, env = "KMESH_SE_DNS_MAX_TTL", value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub dns_max_ttl: u32,

    /// For how many seconds the last addresses of a name are used while its resolvers fail.
    #[arg(long, env = "KMESH_SE_DNS_STALE", value_name = "SECONDS", default_value_t = 86_400)]
    pub dns_stale: u32,
}

impl ResolveArgs {
    /// The same for a resolver that asks `servers`.
    #[must_use]
    pub fn config(&self, servers: Vec<SocketAddr>) -> ResolveConfig {
        let secs = |secs: u32| Duration::from_secs(secs.into());
        ResolveConfig {
            min_ttl: secs(self.dns_min_ttl),
            max_ttl: secs(self.dns_max_ttl),
            stale_for: secs(self.dns_stale),
            ..ResolveConfig::new(servers)
        }
    }
}

/// Where this node is.
#[derive(Clone, Debug, Default, Args)]
pub struct PlaceArgs {
    /// Where the node is: of backends whose locality is known, only the nearest are used. Default: what the labels of the
    /// Node object called `--node` say, else unknown, and then all backends are equal.
    #[arg(long, env = "KMESH_SE_LOCALITY", value_name = "REGION[/ZONE[/SUBZONE]]")]
    pub locality: Option<Locality>,

    /// The name of this node, for entries that prefer backends on the same node and, with `--source kube`, for the Pods that are
    /// its own. Default with `--source kube`: the name of the host, as the kubelet has it.
    #[arg(long, env = "KMESH_SE_NODE", value_name = "NAME")]
    pub node: Option<String>,
}

impl PlaceArgs {
    /// The place that is meant.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            locality: self.locality.clone().unwrap_or_default(),
            node: self.node.clone().unwrap_or_default(),
        }
    }
}

/// The search list of clients.
#[derive(Clone, Debug, Args)]
pub struct SearchArgs {
    /// A domain of the clients' search list: a name is also found when a client asks for it with this domain behind it. May
    /// be repeated. Default: for the agent, what /etc/resolv.conf says; for `query`, none.
    #[arg(long, env = "KMESH_SE_SEARCH", value_name = "DOMAIN", value_delimiter = ',')]
    pub search: Vec<String>,

    /// The domain D of a cluster, whose clients of namespace NS search NS.svc.D, svc.D and D, too. Empty: none.
    #[arg(long, env = "KMESH_SE_CLUSTER_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
}

impl SearchArgs {
    /// What is searched on a node that has this search list of its own, which the flags replace.
    #[must_use]
    pub fn node_dns(&self, own: Vec<HostName>) -> NodeDns {
        let given: Vec<_> = self.search.iter().map(|domain| HostName::new(domain)).collect();
        let cluster_domain = HostName::new(&self.cluster_domain).to_string();
        // An agent that is a pod itself may have a pod's list, which begins with the domains of its namespace.
        let is_node = |domain: &HostName| {
            let rest = domain.as_str().strip_suffix(&cluster_domain);
            cluster_domain.is_empty() || rest.is_none_or(|rest| !rest.is_empty() && !rest.ends_with('.'))
        };
        let own = own.into_iter().filter(is_node);
        let searches = if given.is_empty() { own.collect() } else { given };
        NodeDns { cluster_domain, searches }
    }

    /// The search list; `or` stands for domains that the flags do not give.
    #[must_use]
    pub fn search(&self, or: Vec<HostName>) -> Search {
        let NodeDns { cluster_domain, searches } = self.node_dns(or);
        Search::new(Some(HostName::new(&cluster_domain)), searches)
    }
}

fn capacity() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=16_777_216)
}

/// Two ranges of virtual addresses have addresses in common.
#[derive(Debug, thiserror::Error)]
#[error("--vip-{flag} {one} and --dynamic-{flag} {other} overlap: an address must be of one of them only")]
pub struct RangesOverlap {
    flag: &'static str,
    one: IpNet,
    other: IpNet,
}

impl AgentArgs {
    /// Whether virtual addresses are allocated here.
    #[must_use]
    pub fn allocates_vips(&self) -> bool {
        self.allocate_vips.unwrap_or(self.source != Source::Kube)
    }

    /// Where this node is and, in a cluster, what it is called.
    #[must_use]
    pub fn place(&self) -> Place {
        let mut place = self.place.place();
        if place.node.is_empty() && self.source == Source::Kube {
            let host = nix::sys::utsname::uname();
            place.node =
                host.map(|host| host.nodename().to_string_lossy().to_lowercase()).unwrap_or_default();
        }
        place
    }

    /// Whether pods are enrolled by label.
    #[must_use]
    pub fn enrols_pods(&self) -> bool {
        self.pods.enrol_pods.unwrap_or(self.source == Source::Kube)
    }

    /// The capacities of the maps.
    #[must_use]
    pub fn capacities(&self) -> Capacities {
        Capacities {
            workloads: self.max_workloads,
            frontends: self.max_frontends,
            addresses: self.max_addresses,
            cidrs: self.max_cidrs,
            services: self.max_services,
            slots: self.max_slots,
            backends: self.max_backends,
            connections: self.max_connections.next_power_of_two(),
        }
    }

    /// Where the DNS server listens.
    ///
    /// # Errors
    /// The addresses do not go together.
    pub fn dns_listen(&self) -> Result<DnsListen, DnsError> {
        if self.dns_listen.is_empty() { Ok(DnsListen::loopback()) } else { DnsListen::new(&self.dns_listen) }
    }

    /// The ranges of virtual addresses.
    #[must_use]
    pub fn vip_ranges(&self) -> VipRanges {
        self.vips.ranges()
    }

    /// The ranges of the virtual addresses of names below DYNAMIC_DNS wildcards.
    ///
    /// # Errors
    /// They overlap with those of [`AgentArgs::vip_ranges`].
    pub fn dynamic_ranges(&self) -> Result<VipRanges, RangesOverlap> {
        let overlap = |flag, one: IpNet, other: IpNet| {
            let overlaps = one.contains(&other) || other.contains(&one);
            if overlaps { Err(RangesOverlap { flag, one, other }) } else { Ok(()) }
        };
        overlap("v4", self.vips.vip_v4.trunc().into(), self.dynamic_v4.trunc().into())?;
        overlap("v6", self.vips.vip_v6.trunc().into(), self.dynamic_v6.trunc().into())?;
        Ok(VipRanges { v4: self.dynamic_v4, v6: self.dynamic_v6 })
    }

    /// How many names below DYNAMIC_DNS wildcards, and for how long.
    #[must_use]
    pub fn lease_limits(&self) -> LeaseLimits {
        LeaseLimits { names: self.dynamic_names, idle: SignedDuration::from_secs(self.dynamic_idle.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        agent: AgentArgs,
    }

    #[test]
    fn the_times_of_resolving_are_flags_and_those_of_the_resolver_by_default() {
        let config = |flags: &[&str]| {
            let words = ["agent", "--source", "file:/x"].iter().chain(flags);
            <Line as clap::Parser>::try_parse_from(words).map(|line| line.agent.resolve.config(Vec::new()))
        };
        assert_eq!(config(&[]).expect("good flags"), ResolveConfig::new(Vec::new()));
        let flags = ["--dns-min-ttl", "5", "--dns-max-ttl", "60", "--dns-stale", "0"];
        let set = config(&flags).expect("good flags");
        let secs = [set.min_ttl, set.max_ttl, set.stale_for].map(|time| time.as_secs());
        assert_eq!(secs, [5, 60, 0]);
        assert!(config(&["--dns-min-ttl", "0"]).is_err());
    }

    #[test]
    fn addresses_are_allocated_by_one_host_alone() {
        for (flags, allocates) in [
            (&["--source", "file:/x"][..], true),
            (&["--source", "kube"], false),
            (&["--source", "file:/x", "--allocate-vips", "false"], false),
            (&["--source", "kube", "--allocate-vips", "true"], true),
        ] {
            let words = ["agent"].iter().chain(flags);
            let line = <Line as clap::Parser>::try_parse_from(words).expect("good flags");
            assert_eq!(line.agent.allocates_vips(), allocates, "{flags:?}");
        }
    }

    #[test]
    fn ranges_must_not_overlap() {
        for (flags, fits) in [
            (&[][..], true),
            (&["--dynamic-v4", "240.240.128.0/17"], false),
            (&["--vip-v4", "240.0.0.0/8"], false),
            (&["--vip-v4", "240.240.0.0/17", "--dynamic-v4", "240.240.128.0/17"], true),
            (&["--dynamic-v6", "2001:2:0:ffff::/64"], false),
        ] {
            let words = ["agent", "--source", "file:/x"].iter().chain(flags);
            let line = <Line as clap::Parser>::try_parse_from(words).expect("good flags");
            assert_eq!(line.agent.dynamic_ranges().is_ok(), fits, "{flags:?}");
        }
    }
}
