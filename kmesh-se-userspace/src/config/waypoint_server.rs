//! The flags of the server that waypoints of the cluster ask.
//!
//! In: the command line and `KMESH_SE_…` variables. Out: [`WaypointServerArgs`]. Never: a default that is not in the help text.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use clap::Args;

use crate::desired::PortRange;

/// Flags of what `kmesh-se controller --waypoints` serves.
#[derive(Clone, Debug, Args)]
pub struct WaypointServerArgs {
    /// With --waypoints: serve the waypoints' Envoys at this address, over xDS with mutual TLS, while this controller leads. Where
    /// the machine has no IPv6, all addresses of IPv4 are meant.
    #[arg(
        long,
        env = "KMESH_SE_WAYPOINT_XDS_LISTEN",
        value_name = "ADDR:PORT",
        default_value_t = SocketAddr::from((IpAddr::from(Ipv6Addr::UNSPECIFIED), 15010))
    )]
    pub waypoint_xds_listen: SocketAddr,

    /// With --waypoints: the ports of a waypoint's listeners, one for each port of each service that is bound to it.
    #[arg(long, env = "KMESH_SE_WAYPOINT_PORTS", value_name = "FIRST-LAST", default_value_t = PortRange::default())]
    pub waypoint_ports: PortRange,

    /// With --waypoints: the Secret, in the namespace of the Lease, in which the controllers keep the certificates by which they and
    /// the waypoints know each other. They make these themselves, and new ones in time.
    #[arg(long, env = "KMESH_SE_WAYPOINT_SECRET", value_name = "NAME", default_value = "kmesh-se-waypoints")]
    pub waypoint_secret: String,

    /// With --waypoints: for how long a certificate of a waypoint or a controller counts; it is replaced when a third is left. Their
    /// authority counts for four times as long.
    #[arg(
        long,
        env = "KMESH_SE_WAYPOINT_LIFETIME",
        value_name = "SECONDS",
        default_value_t = 7_776_000,
        value_parser = clap::value_parser!(u32).range(10..=315_360_000)
    )]
    pub waypoint_lifetime: u32,
}
