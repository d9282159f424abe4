//! The services of a waypoint, without an Envoy.

use super::{Discovery, Endpoint, EndpointHost, Service, Settings, Xds};
use crate::desired::ServiceKey;
use crate::model::{HostName, Kind, Namespace, ObjectRef, Protocol};

fn key(host: &str, port: u16) -> ServiceKey {
    let entry = ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::default(), name: "entry".into() };
    ServiceKey { host: HostName::new(host), entry, port }
}

fn service(listener_port: u16) -> Service {
    let host = EndpointHost::Name(HostName::new("httpbin.default.svc.cluster.local"));
    let endpoints = vec![Endpoint { host, port: 8000, weight: 1 }];
    Service { listener_port, protocol: Protocol::Http, discovery: Discovery::StrictDns, endpoints }
}

fn xds() -> Xds {
    Xds::new(Settings { listen: vec![[127, 0, 0, 1].into()], resolvers: Vec::new(), access_log: false })
}

#[test]
fn tells_of_a_service_that_changed_and_not_of_one_that_did_not() {
    let xds = xds();
    let mut changes = xds.changes();
    xds.set(&key("a.test", 80), Some(service(20_001)));
    xds.set(&key("a.test", 80), Some(service(20_001)));
    assert_eq!(changes.now().into_iter().collect::<Vec<_>>(), [key("a.test", 80)]);
    xds.set(&key("a.test", 80), Some(service(20_001)));
    assert!(changes.now().is_empty());
    xds.set(&key("a.test", 80), None);
    assert_eq!(changes.now().len(), 1);
    assert!(xds.services().is_empty());
}
