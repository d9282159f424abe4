//! Who answers for a service: the cluster, and its endpoints when they are apart.
//!
//! In: a service. Out: a cluster with the defaults of Istio. Never: an address that was looked up here; names are Envoy's
//! to resolve.

use std::{collections::HashMap, time::Duration};

use envoy_types::pb::envoy::{
    config::{
        cluster::v3::{
            CircuitBreakers, Cluster,
            circuit_breakers::Thresholds,
            cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType, EdsClusterConfig, LbPolicy},
        },
        core::v3::{DnsResolverOptions, Http1ProtocolOptions, Http2ProtocolOptions, TypedExtensionConfig},
        endpoint::v3::{
            ClusterLoadAssignment, Endpoint as Target, LbEndpoint, LocalityLbEndpoints,
            lb_endpoint::HostIdentifier,
        },
    },
    extensions::{
        clusters::{common::dns::v3::DnsLookupFamily, dns::v3::DnsCluster},
        network::dns_resolver::cares::v3::CaresDnsResolverConfig,
        upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
            },
        },
    },
};
use prost::Name;

use super::{
    is_http, is_http2,
    words::{any, duration, extension, number, same_stream, socket},
};
use crate::waypoint::{Discovery, Endpoint, EndpointHost, Service, Settings};

/// As in Istio.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The cluster of a service.
pub(super) fn cluster(name: String, service: &Service, settings: &Settings) -> Cluster {
    let discovery = match service.discovery {
        Discovery::Static => ClusterDiscoveryType::Type(DiscoveryType::Static.into()),
        Discovery::Eds => ClusterDiscoveryType::Type(DiscoveryType::Eds.into()),
        Discovery::StrictDns => dns(false, settings),
        Discovery::LogicalDns => dns(true, settings),
    };
    let is_apart = service.discovery == Discovery::Eds;
    let from = EdsClusterConfig { eds_config: same_stream(), ..EdsClusterConfig::default() };
    Cluster {
        load_assignment: (!is_apart).then(|| endpoints(name.clone(), service)),
        eds_cluster_config: is_apart.then_some(from),
        name,
        cluster_discovery_type: Some(discovery),
        connect_timeout: duration(CONNECT_TIMEOUT),
        lb_policy: LbPolicy::LeastRequest.into(),
        circuit_breakers: Some(no_limits()),
        typed_extension_protocol_options: http(service),
        ..Cluster::default()
    }
}

/// The endpoints of a service.
pub(super) fn endpoints(name: String, service: &Service) -> ClusterLoadAssignment {
    // Envoy refuses a sum that does not fit.
    let sum: u64 = service.endpoints.iter().map(|endpoint| u64::from(endpoint.weight.max(1))).sum();
    let divisor = sum.div_ceil(u32::MAX.into()).max(1);
    let weight =
        |endpoint: &Endpoint| u32::try_from(u64::from(endpoint.weight) / divisor).unwrap_or(u32::MAX).max(1);
    let lb_endpoint = |endpoint: &Endpoint| {
        let address = match &endpoint.host {
            EndpointHost::Address(address) => socket(address, endpoint.port),
            EndpointHost::Name(name) => socket(name, endpoint.port),
        };
        LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(Target { address, ..Target::default() })),
            load_balancing_weight: number(weight(endpoint)),
            ..LbEndpoint::default()
        }
    };
    let all = LocalityLbEndpoints {
        lb_endpoints: service.endpoints.iter().map(lb_endpoint).collect(),
        ..LocalityLbEndpoints::default()
    };
    ClusterLoadAssignment {
        cluster_name: name,
        endpoints: if service.endpoints.is_empty() { Vec::new() } else { vec![all] },
        ..ClusterLoadAssignment::default()
    }
}

/// Names, resolved as often as their records live; `logical`: the newest answer is one endpoint.
fn dns(logical: bool, settings: &Settings) -> ClusterDiscoveryType {
    let config = DnsCluster {
        respect_dns_ttl: true,
        // Both families; a family that this machine has no address of is left out by the resolver.
        dns_lookup_family: DnsLookupFamily::All.into(),
        typed_dns_resolver_config: Some(resolver(settings)),
        all_addresses_in_single_endpoint: logical,
        ..DnsCluster::default()
    };
    let custom =
        CustomClusterType { name: "envoy.clusters.dns".to_owned(), typed_config: Some(any(&config)) };
    ClusterDiscoveryType::ClusterType(custom)
}

/// Who is asked: exactly these, and for exactly the name.
fn resolver(settings: &Settings) -> TypedExtensionConfig {
    let resolvers = settings.resolvers.iter().filter_map(|at| socket(at.ip(), at.port()));
    let config = CaresDnsResolverConfig {
        resolvers: resolvers.collect(),
        filter_unroutable_families: true,
        dns_resolver_options: Some(DnsResolverOptions {
            no_default_search_domain: true,
            ..DnsResolverOptions::default()
        }),
        ..CaresDnsResolverConfig::default()
    };
    extension("envoy.network.dns_resolver.cares", &config)
}

/// Envoy's own limits are 1,024 connections and requests at once, beyond which it answers 503; Istio has none either.
fn no_limits() -> CircuitBreakers {
    let all = Thresholds {
        max_connections: number(u32::MAX),
        max_pending_requests: number(u32::MAX),
        max_requests: number(u32::MAX),
        max_retries: number(u32::MAX),
        ..Thresholds::default()
    };
    CircuitBreakers { thresholds: vec![all], ..CircuitBreakers::default() }
}

/// Which HTTP the backends speak. One entry at most: the order of a map's bytes is not told.
fn http(service: &Service) -> HashMap<String, envoy_types::pb::google::protobuf::Any> {
    if !is_http(service.protocol) {
        return HashMap::new();
    }
    let protocol = if is_http2(service.protocol) {
        ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())
    } else {
        ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions {
            enable_trailers: true,
            ..Http1ProtocolOptions::default()
        })
    };
    let explicit = ExplicitHttpConfig { protocol_config: Some(protocol) };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([(HttpProtocolOptions::full_name(), any(&options))])
}
