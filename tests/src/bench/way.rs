//! The ways from the client to the server that are compared.
//!
//! In: a kind of traffic and a way. Out: the address to dial. Never: a way that leads to another server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Client, Empty, Node, backend};
use crate::load::Kind;

/// The address that is not the backend's: of the ServiceEntry, and of the nftables rule.
pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 80));
/// The service whose backend is changed.
pub const MOVED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 81)), 80);
/// The ports of the server that echoes, and of the one that a changed entry leads to.
pub const ECHO: [u16; 2] = [8000, 8010];
/// The port of the server that swallows.
const SINK: u16 = 8001;

/// Ports of the VIP, and the server's that they lead to: TCP echo, TCP sink, UDP.
pub(super) const PORTS: [(Kind, u16, u16); 3] =
    [(Kind::Rr, 80, ECHO[0]), (Kind::Stream, 81, SINK), (Kind::Udp, 82, ECHO[0])];
/// Added to the server's port for Envoy's listener on the client's loopback.
pub(super) const ENVOY_OFFSET: u16 = 7000;

/// A way to the server.
#[derive(Clone, Copy, Debug)]
pub enum Way<'a> {
    /// No program, the backend's own address.
    Direct,
    /// A program that only returns, the backend's own address.
    Empty(&'a Empty),
    /// Programs of an agent.
    Node(&'a Node, Client),
    /// One rule that rewrites the VIP.
    Nftables,
    /// A proxy on the client's loopback.
    Envoy,
    /// The same by an agent that leads the VIP to it.
    Waypoint(&'a Node),
}

/// What the client dials; none if the way does not carry this kind.
pub fn destination(kind: Kind, way: &Way<'_>) -> Option<SocketAddr> {
    let same = |row: &&(Kind, u16, u16)| row.0 == kind || (row.0 == Kind::Rr && kind == Kind::Crr);
    let (_, port, target) = *PORTS.iter().find(same)?;
    match way {
        Way::Direct | Way::Empty(_) | Way::Node(_, Client::NotEnrolled | Client::Miss) => {
            Some(backend(target))
        }
        Way::Nftables | Way::Node(_, Client::Hit) => Some((VIP, port).into()),
        Way::Envoy | Way::Waypoint(_) if kind == Kind::Udp => None,
        Way::Waypoint(_) => Some((VIP, port).into()),
        Way::Envoy => Some((Ipv4Addr::LOCALHOST, target + ENVOY_OFFSET).into()),
    }
}

/// Flags and addresses of the server.
pub(super) fn listeners() -> [(&'static str, SocketAddr); 4] {
    [
        ("--echo", backend(ECHO[0])),
        ("--echo", backend(ECHO[1])),
        ("--sink", backend(SINK)),
        ("--udp", backend(ECHO[0])),
    ]
}

/// A rule for each port of the VIP.
pub(super) fn nft_rules() -> String {
    let rules = PORTS.map(|(kind, port, target)| {
        let protocol = if kind == Kind::Udp { "udp" } else { "tcp" };
        format!("; add rule ip bench out ip daddr {VIP} {protocol} dport {port} dnat to {}", backend(target))
    });
    let chain = "add table ip bench; add chain ip bench out { type nat hook output priority -100 ; }";
    format!("{chain}{}", rules.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_way_and_envoy_has_no_datagrams() {
        for kind in [Kind::Crr, Kind::Rr, Kind::Stream, Kind::Udp] {
            assert!(destination(kind, &Way::Direct).is_some(), "{kind:?}");
            assert_eq!(destination(kind, &Way::Nftables).map(|to| to.ip()), Some(VIP), "{kind:?}");
            assert_eq!(destination(kind, &Way::Envoy).is_none(), kind == Kind::Udp, "{kind:?}");
        }
    }
}
