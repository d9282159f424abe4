//! What a service becomes.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::{
    config::{cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener},
    extensions::filters::network::{
        http_connection_manager::v3::HttpConnectionManager, tcp_proxy::v3::TcpProxy,
    },
};
use prost::{Message as _, Name as _};

use super::*;
use crate::waypoint::Endpoint;
use crate::waypoint::tests::{address, key, service, settings};

const PROTOCOLS: [Protocol; 11] = [
    Protocol::Http,
    Protocol::Https,
    Protocol::Http2,
    Protocol::Grpc,
    Protocol::GrpcWeb,
    Protocol::HttpProxy,
    Protocol::Mongo,
    Protocol::Tcp,
    Protocol::Tls,
    Protocol::Redis,
    Protocol::Mysql,
];

fn made(kind: Kind, service: &Service) -> Any {
    resource(kind, &key("a.test", 80), service, &settings()).expect("it has one")
}

#[test]
fn http_and_its_kin_are_read_and_everything_else_is_carried() {
    let read: BTreeSet<_> = PROTOCOLS
        .into_iter()
        .filter(|protocol| {
            let service = Service { protocol: *protocol, ..service(20_001) };
            let listener = made(Kind::Listener, &service);
            let listener = Listener::decode(&*listener.value).expect("a listener");
            let Some(envoy_types::pb::envoy::config::listener::v3::filter::ConfigType::TypedConfig(filter)) =
                listener.filter_chains[0].filters[0].config_type.clone()
            else {
                panic!("no filter");
            };
            let is_http = filter.type_url == HttpConnectionManager::type_url();
            assert!(is_http || filter.type_url == TcpProxy::type_url());
            assert_eq!(has(Kind::Route, &service), is_http);
            is_http
        })
        .collect();
    let http = [Protocol::Http, Protocol::Http2, Protocol::Grpc, Protocol::GrpcWeb];
    assert_eq!(read, BTreeSet::from(http));
}

#[test]
fn a_version_is_of_the_content_alone() {
    for kind in [Kind::Cluster, Kind::Listener, Kind::Route] {
        let of = |service: &Service| version(&made(kind, service));
        assert_eq!(of(&service(20_001)), of(&service(20_001)), "{kind:?}");
    }
    let mut moved = service(20_001);
    moved.endpoints = vec![address("10.0.0.2", 8000)];
    let differs = |kind| version(&made(kind, &service(20_001))) != version(&made(kind, &moved));
    assert!(differs(Kind::Cluster), "other endpoints are another cluster");
    assert!(differs(Kind::Route), "the operation names the endpoint");
    assert!(!differs(Kind::Listener), "clients stay where they are");
}

#[test]
fn with_eds_only_the_endpoints_change() {
    let one = Service { discovery: Discovery::Eds, protocol: Protocol::Tcp, ..service(20_001) };
    let two = Service { endpoints: vec![address("10.0.0.2", 8000)], ..one.clone() };
    let changed: Vec<_> = Kind::ALL
        .into_iter()
        .filter(|kind| has(*kind, &one))
        .filter(|kind| version(&made(*kind, &one)) != version(&made(*kind, &two)))
        .collect();
    assert_eq!(changed, [Kind::Endpoints]);
}

#[test]
fn weights_that_do_not_fit_together_keep_their_proportion() {
    let endpoint = |host: &str, weight| Endpoint { weight, ..address(host, 80) };
    let endpoints =
        vec![endpoint("10.0.0.1", u32::MAX), endpoint("10.0.0.2", u32::MAX), endpoint("10.0.0.3", 0)];
    let service = Service { discovery: Discovery::Static, endpoints, ..service(20_001) };
    let cluster = Cluster::decode(&*made(Kind::Cluster, &service).value).expect("a cluster");
    let weights = |assignment: &ClusterLoadAssignment| {
        let all = &assignment.endpoints[0].lb_endpoints;
        all.iter().map(|one| one.load_balancing_weight.expect("a weight").value).collect::<Vec<_>>()
    };
    let weights = weights(&cluster.load_assignment.expect("endpoints"));
    assert_eq!(weights[0], weights[1]);
    assert_eq!(weights[2], 1);
    assert!(weights.iter().map(|weight| u64::from(*weight)).sum::<u64>() <= u32::MAX.into());
}

#[test]
fn names_tell_services_apart_and_read_well() {
    assert_eq!(name(&key("a.test", 80)), "default/entry|a.test|80");
}
