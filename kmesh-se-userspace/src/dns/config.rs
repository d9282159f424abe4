//! The limits of the server, and why it does not listen.
//!
//! In: flags. Out: [`DnsConfig`] and [`DnsError`]. Never: a socket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use thiserror::Error;

use super::DnsListen;
use crate::model::Namespace;

/// How many resolvers can be captured, which is how many ports a namespace takes.
pub const MAX_RESOLVERS: usize = 8;

/// Limits of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// How long a resolver has for its answer; then the client gets SERVFAIL.
    pub forward_timeout: Duration,
    /// Queries under way at resolvers at one time, each with a socket; those beyond get SERVFAIL at once.
    pub max_forwards: usize,
    /// Open TCP connections of clients; those beyond are closed at once.
    pub max_connections: usize,
    /// How long a client is made to wait for the first addresses of a name on demand; then it gets what is there, or
    /// SERVFAIL. Clients that were not answered ask again after 2.5 s (musl) or 5 s (glibc).
    pub demand_timeout: Duration,
    /// How long a TCP connection may be without a query or take for one.
    pub tcp_idle: Duration,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            forward_timeout: Duration::from_secs(5),
            max_forwards: 512,
            max_connections: 128,
            demand_timeout: Duration::from_secs(2),
            tcp_idle: Duration::from_secs(10),
        }
    }
}

/// Why the server does not listen.
#[derive(Debug, Error)]
pub enum DnsError {
    /// No address to listen at.
    #[error("no address to listen for DNS: give --dns-listen ADDR:PORT")]
    NoAddress,
    /// A wildcard or a group.
    #[error(
        "cannot listen for DNS at {address}: replies come from the address that was asked, so --dns-listen takes \
         one address of this host"
    )]
    NotOneAddress {
        /// What was given.
        address: SocketAddr,
    },
    /// Two addresses of one family.
    #[error(
        "two addresses of one family to listen for DNS, {first} and {second}: give --dns-listen once for each family"
    )]
    TwoOfAFamily {
        /// The first.
        first: SocketAddr,
        /// The second.
        second: SocketAddr,
    },
    /// Two addresses with different ports.
    #[error("different ports to listen for DNS, {first} and {second}: give both --dns-listen the same port")]
    PortsDiffer {
        /// The first.
        first: SocketAddr,
        /// The second.
        second: SocketAddr,
    },
    /// No resolver is of the family of a listener.
    #[error(
        "none of the resolvers {} can be captured by listeners at {listen}: give --dns-listen an address of their family",
        resolvers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    NoCommonFamily {
        /// Where the server was to listen.
        listen: DnsListen,
        /// The resolvers.
        resolvers: Vec<SocketAddr>,
    },
    /// More resolvers than ports of a namespace, or none.
    #[error("{count} resolvers to capture; from 1 to {max} are possible", max = MAX_RESOLVERS)]
    ResolverCount {
        /// How many there were.
        count: usize,
    },
    /// The block of ports of a namespace is not within the range of ports.
    #[error("{count} ports from {base_port} are not all within 1..65535; choose another --dns-listen port")]
    PortRange {
        /// Where the block would begin.
        base_port: u16,
        /// How many ports it needs.
        count: u16,
    },
    /// Someone else has a port of the first block.
    #[error(
        "DNS port {port} of {addr} is in use: {source}; is another agent running? If not, choose another \
         --dns-listen port"
    )]
    PortInUse {
        /// The address.
        addr: IpAddr,
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// A port cannot be bound for another reason.
    #[error("cannot listen for DNS on port {port} of {addr}: {source}; choose another --dns-listen address")]
    Bind {
        /// The address.
        addr: IpAddr,
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// Every block above the base port has a port that is in use.
    #[error("no {count} consecutive DNS ports are free after {listen} for namespace {namespace}")]
    NoFreeBlock {
        /// Where the search began.
        listen: DnsListen,
        /// How many ports a namespace needs.
        count: u16,
        /// The namespace that has no listener now.
        namespace: Namespace,
    },
}

impl DnsError {
    /// A word for labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoAddress => "NoAddress",
            Self::NotOneAddress { .. } => "NotOneAddress",
            Self::TwoOfAFamily { .. } => "TwoOfAFamily",
            Self::PortsDiffer { .. } => "PortsDiffer",
            Self::NoCommonFamily { .. } => "NoCommonFamily",
            Self::ResolverCount { .. } => "ResolverCount",
            Self::PortRange { .. } => "PortRange",
            Self::PortInUse { .. } => "PortInUse",
            Self::Bind { .. } => "Bind",
            Self::NoFreeBlock { .. } => "NoFreeBlock",
        }
    }
}
