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
    resource(kind, &name(&key("a.test", 80)), &key("a.test", 80), service, &settings()).expect("it has one")
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

/// A service whose requests to `/a` and below become this by the words of an HTTPRoute's rule.
fn routed(rule: serde_json::Value) -> envoy_types::pb::envoy::config::route::v3::Route {
    use crate::model::{Accepted, Others, Parsed, RoutedRule, RoutedTo, parse, validate};
    let mut rule = rule;
    rule["matches"] = serde_json::json!([{"path": {"value": "/a"}}]);
    let parent = serde_json::json!({"group": "networking.istio.io", "kind": "ServiceEntry", "name": "entry"});
    let object = serde_json::json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r"},
        "spec": {"parentRefs": [parent], "rules": [rule]},
    });
    let Parsed::Object { object, .. } = parse(object.to_string().as_bytes()).remove(0) else {
        panic!("no object")
    };
    let judgement = validate(&object);
    let Some(Accepted::Route(route)) = judgement.accepted else { panic!("{:?}", judgement.errors) };
    let rule = route.rules[0].clone();
    let other = |_: usize| RoutedTo::Other("b".into());
    let routed = RoutedRule {
        name: "default/r/0/0".to_owned(),
        when: rule.matches[0].clone(),
        to: (0..rule.backends.len()).map(other).collect(),
        copies: (0..rule.mirrors.len()).map(other).collect(),
        rule,
    };
    let b = crate::waypoint::Other {
        host: crate::model::HostName::new("b.test"),
        port: 8080,
        protocol: Protocol::Http,
        discovery: Discovery::Static,
        endpoints: vec![address("10.0.0.2", 80)],
    };
    let others: Others<_> = [("b".into(), b)].into();
    let service = Service { rules: vec![routed], others, ..service(20_001) };
    let routes = RouteConfiguration::decode(&*made(Kind::Route, &service).value).expect("routes");
    let mut routes = routes.virtual_hosts[0].routes.clone();
    assert_eq!(routes.len(), 1, "no other is left");
    routes.remove(0)
}

#[test]
fn a_mirror_gets_its_part_and_a_redirect_its_port() {
    use envoy_types::pb::envoy::config::route::v3::route::Action;
    let backend = serde_json::json!({"name": "b", "port": 8080});
    let mirror = |fraction: serde_json::Value| {
        let mut mirror = serde_json::json!({"backendRef": backend});
        mirror["fraction"] = fraction;
        let filter = serde_json::json!({"type": "RequestMirror", "requestMirror": mirror});
        let route = routed(serde_json::json!({"filters": [filter], "backendRefs": [backend]}));
        let Some(Action::Route(action)) = route.action else { panic!("no action") };
        let policy = &action.request_mirror_policies[0];
        let part = policy.runtime_fraction.as_ref().and_then(|part| part.default_value);
        (policy.cluster.clone(), part.map(|part| part.numerator))
    };
    let cluster = part_name("default/entry|a.test|80", "b");
    assert_eq!(mirror(serde_json::Value::Null), (cluster.clone(), Some(1_000_000)));
    assert_eq!(mirror(serde_json::json!({"numerator": 1, "denominator": 8})), (cluster, Some(125_000)));

    let port = |redirect: serde_json::Value| {
        let filter = serde_json::json!({"type": "RequestRedirect", "requestRedirect": redirect});
        let Some(Action::Redirect(action)) = routed(serde_json::json!({"filters": [filter]})).action else {
            panic!("no redirect")
        };
        action.port_redirect
    };
    assert_eq!(port(serde_json::json!({"port": 8443})), 8443);
    assert_eq!(
        port(serde_json::json!({"hostname": "b.test"})),
        0,
        "that of the service, which is the usual one"
    );
    assert_eq!(port(serde_json::json!({"scheme": "https", "port": 443})), 0);
    assert_eq!(port(serde_json::json!({"scheme": "https", "port": 80})), 80);
}

#[test]
fn who_answers_beside_a_service_is_named_as_a_part_of_it() {
    let route = routed(serde_json::json!({"backendRefs": [{"name": "b", "port": 8080}]}));
    assert_eq!(route.decorator.map(|of| of.operation).as_deref(), Some("b.test:8080/*"));
    let name = part_name("default/entry|a.test|80", "default/b|b.test|8080");
    assert_eq!(whole_of(&name), Some("default/entry|a.test|80"));
    assert_eq!(whole_of("default/entry|a.test|80"), None);
}

#[test]
fn names_tell_services_apart_and_read_well() {
    assert_eq!(name(&key("a.test", 80)), "default/entry|a.test|80");
}
