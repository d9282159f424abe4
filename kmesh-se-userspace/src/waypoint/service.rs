//! What a bound service is to a waypoint.
//!
//! In: what `desired` says of it, and its port there. Out: a [`Service`]. Never: a choice of either.

use super::{Discovery, Endpoint, EndpointHost, Other, Service};
use crate::{
    desired::{Backend, Bound, Upstream},
    model::HostName,
};

impl Service {
    /// The service at this port of a waypoint.
    #[must_use]
    pub fn of(listener_port: u16, bound: &Bound) -> Self {
        let (discovery, endpoints) = found(&bound.upstream);
        let others = bound.http.others.iter().map(|(name, other)| {
            let (discovery, endpoints) = found(&other.upstream);
            let (host, port, protocol) = (other.host.clone(), other.port, other.protocol);
            (name.clone(), Other { host, port, protocol, discovery, endpoints })
        });
        Self {
            listener_port,
            protocol: bound.protocol,
            discovery,
            endpoints,
            rules: bound.http.rules.clone(),
            others: others.collect(),
        }
    }
}

/// How the endpoints of `upstream` are found, and which they are.
fn found(upstream: &Upstream) -> (Discovery, Vec<Endpoint>) {
    match upstream {
        Upstream::Backends(backends) => (Discovery::Eds, backends.iter().map(address).collect()),
        Upstream::Names { endpoints, only_first } => {
            let endpoint = |(host, port, weight): &(_, _, _)| name(host, *port, *weight);
            let discovery = if *only_first { Discovery::LogicalDns } else { Discovery::StrictDns };
            (discovery, endpoints.iter().map(endpoint).collect())
        }
    }
}

fn address(backend: &Backend) -> Endpoint {
    let Backend { address, port, weight, .. } = backend;
    Endpoint { host: EndpointHost::Address(*address), port: *port, weight: *weight }
}

fn name(host: &std::sync::Arc<str>, port: u16, weight: u32) -> Endpoint {
    let host = host.parse().map_or_else(|_| EndpointHost::Name(HostName::new(host)), EndpointHost::Address);
    Endpoint { host, port, weight }
}
