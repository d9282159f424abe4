//! Where clients of a service are taken in.
//!
//! In: a service and the settings. Out: a listener at one port of every address. Never: a look at what the client says to
//! find out what it wants: the port has told.

use std::net::IpAddr;

use envoy_types::pb::{
    envoy::{
        config::listener::v3::{AdditionalAddress, Filter, FilterChain, Listener, filter::ConfigType},
        extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
    },
    google::protobuf::Any,
};

use super::{
    http, is_http, log,
    words::{any, number, socket},
};
use crate::{
    desired::ServiceKey,
    waypoint::{Service, Settings},
};

/// How many endpoints are tried for one connection, as many as for one request.
const CONNECT_ATTEMPTS: u32 = 3;

/// The listener of a service.
pub(super) fn listener(name: String, key: &ServiceKey, service: &Service, settings: &Settings) -> Listener {
    let filter = if is_http(service.protocol) {
        filter(
            "envoy.filters.network.http_connection_manager",
            any(&http::manager(&name, key, service, settings)),
        )
    } else {
        filter("envoy.filters.network.tcp_proxy", any(&tcp(&name, settings)))
    };
    let at = |address: &IpAddr| socket(address, service.listener_port);
    let more = settings.listen.iter().skip(1);
    Listener {
        name,
        address: settings.listen.first().and_then(at),
        additional_addresses: more
            .map(|address| AdditionalAddress { address: at(address), ..AdditionalAddress::default() })
            .collect(),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    }
}

fn filter(name: &str, config: Any) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(config)) }
}

/// Bytes both ways, whatever they are and whoever begins.
fn tcp(name: &str, settings: &Settings) -> TcpProxy {
    TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(name.to_owned())),
        max_connect_attempts: number(CONNECT_ATTEMPTS),
        access_log: log::access_log(settings),
        ..TcpProxy::default()
    }
}
