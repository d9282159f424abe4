//! What a waypoint, an unmodified Envoy, is told over xDS: services, each on a listener port of its own.
//!
//! In: [`Service`]s, one by one, by [`Xds::set`]. Out: Envoy's resources on each stream, and what every Envoy made of them,
//! by [`Xds::standing`]. Never: a look at entries, maps or processes, or a decision about who goes through a waypoint.
//!
//! How to use it: make one [`Xds`] for all Envoys that serve the same services; [`Xds::set`] what is known, then say
//! [`Xds::synced`], before which no Envoy is told anything, so that one which reconnects to an agent that has just started
//! keeps what it has. Lead a client to [`Service::listener_port`] only once [`Standing::serves`] says so. Ports are the
//! caller's to give: one port for each service, the same again after a restart.

mod bootstrap;
mod resources;
mod service;
mod xds;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;

pub use bootstrap::{Bootstrap, CERTIFICATE_FILES, FLAGS, Server, secret_files};
pub use resources::name as resource_name;
pub use xds::{Changes, NodeInfo, Sent, ServeError, Standing, Xds};

use crate::model::{HostName, Others, Protocol, RoutedRule};

/// One port of one host as a waypoint serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// The port of the waypoint that stands for this service, on each address of [`Settings::listen`]. No other service
    /// has it. A service that changes it is refused connections at the old one from the moment that Envoy has the new one.
    pub listener_port: u16,
    /// What clients speak. HTTP and its kin are read; everything else is carried byte by byte.
    pub protocol: Protocol,
    /// How the endpoints are found.
    pub discovery: Discovery,
    /// Who answers. None: Envoy refuses each request with 503, or closes the connection.
    pub endpoints: Vec<Endpoint>,
    /// What becomes of requests, in the order in which the rules are looked at; none: all go to the endpoints.
    pub rules: Vec<RoutedRule>,
    /// Those who answer beside the endpoints, as the rules name them.
    pub others: Others<Other>,
}

/// One who answers for a service beside its own endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Other {
    /// Its host, for people.
    pub host: HostName,
    /// Its port, for people.
    pub port: u16,
    /// What it speaks, which is HTTP or built on it.
    pub protocol: Protocol,
    /// How its endpoints are found.
    pub discovery: Discovery,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// How Envoy finds the addresses of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Discovery {
    /// Addresses, as listed (resolution STATIC).
    Static,
    /// Every address of every name (resolution DNS).
    StrictDns,
    /// The first address of the newest answer for the one name (resolution DNS_ROUND_ROBIN).
    LogicalDns,
    /// Addresses that change often, such as those of selected Pods: a change of them moves nothing else.
    Eds,
}

/// One who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Where it is.
    pub host: EndpointHost,
    /// Its port.
    pub port: u16,
    /// Its share, at least 1. The addresses of a name have the share of the name each.
    pub weight: u32,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            EndpointHost::Address(address) => SocketAddr::from((*address, self.port)).fmt(f),
            EndpointHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// The host of an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EndpointHost {
    /// An address to dial.
    Address(IpAddr),
    /// A name that Envoy resolves, with [`Settings::resolvers`].
    Name(HostName),
}

/// What all services have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The addresses that listeners are at; at least one.
    pub listen: Vec<IpAddr>,
    /// Who resolves names for Envoy. Empty: whoever Envoy's own `resolv.conf` names.
    pub resolvers: Vec<SocketAddr>,
    /// Whether each request and each connection is told of on Envoy's standard output, in Istio's format.
    pub access_log: bool,
}

#[cfg(test)]
mod tests;
