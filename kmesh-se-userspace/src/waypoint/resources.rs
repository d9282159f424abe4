//! One service as Envoy's resources: a cluster, its endpoints, a listener and its route, all of one name; and clusters of names that
//! begin with it for those who answer beside it.
//!
//! In: a service and the settings. Out: messages, the same bytes for the same service. Never: a look at another service.

mod cluster;
mod http;
mod listener;
mod log;
mod requests;
mod words;

use std::hash::{DefaultHasher, Hasher as _};

use envoy_types::pb::{
    envoy::config::{
        cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
        route::v3::RouteConfiguration,
    },
    google::protobuf::Any,
};
use prost::Name;

use super::{Discovery, Service, Settings};
use crate::{desired::ServiceKey, model::Protocol};

/// In no name of an object, host or port.
const PART: &str = "|>";

/// The kinds of resources, in the order in which Envoy needs them: one that leads to another comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Who answers.
    Cluster,
    /// The addresses of a cluster that has them apart.
    Endpoints,
    /// Where clients are taken in.
    Listener,
    /// Where requests go.
    Route,
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// The type's URL.
    pub(super) fn url(self) -> String {
        match self {
            Self::Cluster => Cluster::type_url(),
            Self::Endpoints => ClusterLoadAssignment::type_url(),
            Self::Listener => Listener::type_url(),
            Self::Route => RouteConfiguration::type_url(),
        }
    }

    /// The kind with this URL.
    pub(super) fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// Whether Envoy asks for all of this kind, rather than for those that others name.
    pub(super) fn is_wanted_whole(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

/// The name of all resources of a service: `default/external-fake-svc|kmesh-fake.com|80`.
#[must_use]
pub fn name(key: &ServiceKey) -> String {
    format!("{}/{}|{}|{}", key.entry.namespace, key.entry.name, key.host, key.port)
}

/// The name of the cluster of one who answers beside the service of this name.
pub(super) fn part_name(name: &str, other: &str) -> String {
    format!("{name}{PART}{other}")
}

/// The name of the service that a name of [`part_name`] is of.
pub(super) fn whole_of(name: &str) -> Option<&str> {
    Some(name.split_once(PART)?.0)
}

/// Whether a service of this kind has such a resource.
pub(super) fn has(kind: Kind, service: &Service) -> bool {
    match kind {
        Kind::Cluster | Kind::Listener => true,
        Kind::Endpoints => service.discovery == Discovery::Eds,
        Kind::Route => is_http(service.protocol),
    }
}

/// The resource of this kind with this name; none if the service needs none.
pub(super) fn resource(
    kind: Kind,
    name: &str,
    key: &ServiceKey,
    service: &Service,
    settings: &Settings,
) -> Option<Any> {
    if !has(kind, service) {
        return None;
    }
    let name = name.to_owned();
    Some(match kind {
        Kind::Cluster => words::any(&cluster::cluster(name, service, settings)),
        Kind::Endpoints => words::any(&cluster::endpoints(name, service)),
        Kind::Listener => words::any(&listener::listener(name, key, service, settings)),
        Kind::Route => words::any(&http::route(name, key, service)),
    })
}

/// What tells one version of a resource from another: a hash of its bytes.
pub(super) fn version(resource: &Any) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&resource.value);
    hasher.finish()
}

/// Whether requests are read, rather than bytes carried.
fn is_http(protocol: Protocol) -> bool {
    protocol.carries_requests()
}

/// Whether backends are spoken to in HTTP/2.
fn is_http2(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb)
}

#[cfg(test)]
mod tests;
