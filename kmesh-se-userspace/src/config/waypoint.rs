//! The flags about waypoints.
//!
//! In: the command line and `KMESH_SE_…` variables. Out: which proxy serves them, where, and what happens without it. Never: the
//! proxy itself.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, ValueEnum};

use super::AgentArgs;
use crate::desired::{PortRange, Unavailable};

/// Waypoints: proxies that bound services go through.
#[derive(Clone, Debug, Args)]
pub struct WaypointArgs {
    /// Serve waypoints on this node by this Envoy program. Services that the label `istio.io/use-waypoint` binds, on a
    /// ServiceEntry or its Namespace, then go through it, whatever name the label says. It runs beside the agent and outlives it.
    /// Default: none, and bound services are led straight to their backends.
    #[arg(long, env = "KMESH_SE_WAYPOINT_ENVOY", value_name = "PATH")]
    pub waypoint_envoy: Option<PathBuf>,

    /// Follow the waypoints of the cluster that the controller tells of in this namespace: that of `kmesh-se controller --waypoints`.
    /// Default: none, and bound services are led straight to their backends.
    #[arg(long, env = "KMESH_SE_WAYPOINT_NAMESPACE", value_name = "NS", conflicts_with = "waypoint_envoy")]
    pub waypoint_namespace: Option<String>,

    /// Where the waypoint listens: an address that every enrolled process can reach, one for each family at most. Default: the
    /// addresses of --dns-listen.
    #[arg(long, env = "KMESH_SE_WAYPOINT_LISTEN", value_name = "ADDR", value_delimiter = ',')]
    pub waypoint_listen: Vec<IpAddr>,

    /// The ports of its listeners, one for each port of each service. They must not be used by anybody else, so keep them apart from
    /// the ports that the system gives to clients (ip_local_port_range).
    #[arg(long, env = "KMESH_SE_WAYPOINT_PORTS", value_name = "FIRST-LAST", default_value_t = PortRange::default())]
    pub waypoint_ports: PortRange,

    /// What connections to a bound service get while its waypoint cannot take them. By default they fail at once, since who binds a
    /// service may rely on what the waypoint does. A service that is bound while it is in use goes on as before until the
    /// waypoint takes its connections, in either case.
    #[arg(long, env = "KMESH_SE_WAYPOINT_UNAVAILABLE", value_name = "WHAT", value_enum, default_value_t = UnavailableArg::Refuse)]
    pub waypoint_unavailable: UnavailableArg,
}

/// What `--waypoint-unavailable` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnavailableArg {
    /// They go straight to the backends.
    Direct,
    /// They fail at once.
    Refuse,
}

impl From<UnavailableArg> for Unavailable {
    fn from(arg: UnavailableArg) -> Self {
        match arg {
            UnavailableArg::Direct => Self::Direct,
            UnavailableArg::Refuse => Self::Refuse,
        }
    }
}

impl AgentArgs {
    /// Where the waypoint listens, given where the DNS server does.
    ///
    /// # Errors
    /// Two addresses are of one family, or one is no address of a host.
    pub fn waypoint_addresses(&self, dns: &[IpAddr]) -> Result<Vec<IpAddr>, WaypointListenError> {
        let given = &self.waypoint.waypoint_listen;
        let addresses = if given.is_empty() { dns } else { given };
        let of = |is_v4: bool| addresses.iter().filter(|address| address.is_ipv4() == is_v4).count();
        let is_vague = addresses.iter().any(|address| address.is_unspecified() || address.is_multicast());
        if of(true) > 1 || of(false) > 1 || is_vague {
            return Err(WaypointListenError { given: given.clone() });
        }
        Ok(addresses.to_vec())
    }
}

/// `--waypoint-listen` does not say where to listen.
#[derive(Debug, thiserror::Error)]
#[error(
    "--waypoint-listen {given:?}: give one address of each family at most, and one that clients can dial"
)]
pub struct WaypointListenError {
    given: Vec<IpAddr>,
}
