//! The services of a waypoint, without an Envoy.

use super::{Discovery, Endpoint, EndpointHost, Service, Settings, Xds};
use crate::desired::ServiceKey;
use crate::model::{HostName, Kind, Namespace, ObjectRef, Others, Protocol};

/// A port of a host.
pub(super) fn key(host: &str, port: u16) -> ServiceKey {
    let entry = ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::default(), name: "entry".into() };
    ServiceKey { host: HostName::new(host), entry, port }
}

/// httpbin's, at a listener port.
pub(super) fn service(listener_port: u16) -> Service {
    let host = EndpointHost::Name(HostName::new("httpbin.default.svc.cluster.local"));
    let endpoints = vec![Endpoint { host, port: 8000, weight: 1 }];
    let (rules, others) = (Vec::new(), Others::new());
    Service {
        listener_port,
        protocol: Protocol::Http,
        discovery: Discovery::StrictDns,
        endpoints,
        rules,
        others,
    }
}

/// An endpoint by its address.
pub(super) fn address(address: &str, port: u16) -> Endpoint {
    let address = address.parse().expect("an address");
    Endpoint { host: EndpointHost::Address(address), port, weight: 1 }
}

/// Loopback only.
pub(super) fn settings() -> Settings {
    Settings { listen: vec![[127, 0, 0, 1].into()], resolvers: Vec::new(), access_log: false }
}

#[test]
fn tells_of_a_service_that_changed_and_not_of_one_that_did_not() {
    let xds = Xds::new(settings());
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
