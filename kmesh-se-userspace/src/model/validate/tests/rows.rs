//! The rules as rows: a spec, and the errors and warnings that it gives.

use serde_json::{Value, json};

use crate::model::validate::port::PROTOCOLS;

/// What a row expects: errors, then warnings, each `field Reason`.
pub(super) type Row = (Value, &'static [&'static str], &'static [&'static str]);

fn http() -> Value {
    json!([{"number": 80, "name": "http", "protocol": "HTTP"}])
}

fn tcp() -> Value {
    json!([{"number": 5432, "name": "db", "protocol": "TCP"}])
}

/// `spec` with the fields of `more` added or replaced.
pub(super) fn with(more: Value) -> Value {
    let mut spec = json!({"hosts": ["a.com"], "ports": http()});
    for (key, value) in more.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    spec
}

fn many(count: usize, make: impl Fn(usize) -> Value) -> Value {
    (0..count).map(make).collect()
}

/// An object with `count` keys, each with `value`.
pub(super) fn keyed(count: usize, value: impl Into<Value>) -> Value {
    let value = value.into();
    (0..count).map(|i| (format!("k{i}"), value.clone())).collect::<serde_json::Map<_, _>>().into()
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        // hosts
        (json!({}), &["spec.hosts HostsMissing"], &[]),
        (with(json!({"hosts": []})), &["spec.hosts HostsMissing"], &[]),
        (with(json!({"hosts": ["a.com", "B.example.", "localhost", "a-1.b2"]})), &[], &[]),
        (with(json!({"hosts": ["*.a.com"]})), &[], &[]),
        (with(json!({"hosts": ["*"]})), &["spec.hosts[0] HostIsBareWildcard"], &[]),
        (with(json!({"hosts": ["a.com", "a_b.com"]})), &["spec.hosts[1] HostInvalid"], &[]),
        (with(json!({"hosts": ["b\u{fc}cher.example"]})), &["spec.hosts[0] HostInvalid"], &[]),
        (
            with(json!({"hosts": ["", "a..b", "-a.com", "a-.com"]})),
            &[
                "spec.hosts[0] HostInvalid",
                "spec.hosts[1] HostInvalid",
                "spec.hosts[2] HostInvalid",
                "spec.hosts[3] HostInvalid",
            ],
            &[],
        ),
        (
            with(json!({"hosts": ["a.*.com", "foo*", "*.", "**.a.com", "10.0.0.1", "a.b.7"]})),
            &[
                "spec.hosts[0] HostInvalid",
                "spec.hosts[1] HostInvalid",
                "spec.hosts[2] HostInvalid",
                "spec.hosts[3] HostInvalid",
                "spec.hosts[4] HostInvalid",
                "spec.hosts[5] HostInvalid",
            ],
            &[],
        ),
        (with(json!({"hosts": ["a".repeat(64) + ".com"]})), &["spec.hosts[0] HostInvalid"], &[]),
        (with(json!({"hosts": ["a".repeat(63) + ".com"]})), &[], &[]),
        (with(json!({"hosts": ["a.".repeat(126) + "com"]})), &[], &[]),
        (with(json!({"hosts": ["a.".repeat(127) + "com"]})), &["spec.hosts[0] HostTooLong"], &[]),
        (with(json!({"hosts": ["a.com", "A.com."]})), &[], &["spec.hosts[1] HostDuplicate"]),
        (with(json!({"hosts": ["*foo.com"]})), &[], &["spec.hosts[0] HostPartialWildcard"]),
        (with(json!({"hosts": many(256, |i| json!(format!("h{i}.com")))})), &[], &[]),
        (
            with(json!({"hosts": many(257, |i| json!(format!("h{i}.com")))})),
            &["spec.hosts TooManyHosts"],
            &[],
        ),
        // addresses
        (
            with(
                json!({"addresses": ["10.0.0.1", "10.0.0.2/32", "2001:db8::1", "001:db8::/128"], "resolution": "DNS"}),
            ),
            &[],
            &[],
        ),
        (with(json!({"addresses": ["10.0.0.0/8", "2001:db8::/32"]})), &[], &[]),
        (with(json!({"addresses": ["10.0.0.7/24"], "resolution": "STATIC"})), &[], &[]),
        (
            with(json!({"addresses": ["10.0.0.1", "10.0.0.256", "10.0.0.0/33", "a.com", ""]})),
            &[
                "spec.addresses[1] AddressInvalid",
                "spec.addresses[2] AddressInvalid",
                "spec.addresses[3] AddressInvalid",
                "spec.addresses[4] AddressInvalid",
            ],
            &[],
        ),
        (
            with(json!({"addresses": ["10.0.0.1", "10.0.0.0/24"], "resolution": "DNS"})),
            &["spec.addresses[1] CidrNotAllowed"],
            &[],
        ),
        (
            with(json!({"addresses": ["10.0.0.0/24"], "resolution": "DNS_ROUND_ROBIN"})),
            &["spec.addresses[0] CidrNotAllowed"],
            &[],
        ),
        (with(json!({"addresses": many(256, |i| json!(format!("10.0.{i}.1")))})), &[], &[]),
        (
            with(json!({"addresses": many(257, |i| json!(format!("10.1.{}.{}", i / 200, i % 200)))})),
            &["spec.addresses TooManyAddresses"],
            &[],
        ),
        // ports
        (
            with(
                json!({"ports": [{"number": 1, "name": "a"}, {"number": 65535, "name": "b", "targetPort": 65535}],
                     "addresses": ["10.0.0.1"]}),
            ),
            &[],
            &[],
        ),
        (
            with(json!({"ports": [{"name": "a", "protocol": "HTTP"}]})),
            &["spec.ports[0].number PortMissing"],
            &[],
        ),
        (
            with(json!({"ports": [{"number": 0, "name": "a", "protocol": "HTTP"},
                               {"number": 65536, "name": "b", "protocol": "HTTP"},
                               {"number": -1, "name": "c", "protocol": "HTTP"}]})),
            &[
                "spec.ports[0].number PortOutOfRange",
                "spec.ports[1].number PortOutOfRange",
                "spec.ports[2].number PortOutOfRange",
            ],
            &[],
        ),
        (
            with(json!({"ports": [{"number": 80, "name": "a", "protocol": "HTTP"},
                               {"number": 80, "name": "b", "protocol": "UDP"}]})),
            &["spec.ports[1].number PortDuplicate"],
            &[],
        ),
        (
            with(json!({"ports": [{"number": 80, "name": "a", "protocol": "HTTP"},
                               {"number": 81, "name": "a", "protocol": "HTTP"}]})),
            &["spec.ports[1].name PortNameDuplicate"],
            &[],
        ),
        (
            with(json!({"ports": [{"number": 80, "protocol": "HTTP"},
                               {"number": 81, "name": "a_b", "protocol": "HTTP"}]})),
            &["spec.ports[0].name PortNameInvalid", "spec.ports[1].name PortNameInvalid"],
            &[],
        ),
        (
            with(json!({"ports": [{"number": 80, "name": "a", "protocol": "SCTP"}]})),
            &["spec.ports[0].protocol ProtocolUnknown"],
            &[],
        ),
        (
            with(json!({"ports": many(11, |i| json!({"number": i + 1, "name": format!("p{i}"),
            "protocol": PROTOCOLS[i].0.to_lowercase()})), "addresses": ["10.0.0.1"]})),
            &[],
            &[],
        ),
        (
            with(json!({"ports": [{"number": 80, "name": "a", "protocol": "HTTP", "targetPort": 81},
                               {"number": 82, "name": "b", "protocol": "HTTP", "targetPort": 82}]})),
            &[],
            &["spec.ports[0].targetPort TargetPortNotUsed"],
        ),
        (
            with(json!({"ports": [{"number": 80, "name": "a", "protocol": "HTTP", "targetPort": 0},
                               {"number": 81, "name": "b", "protocol": "HTTP", "targetPort": 70000}]})),
            &[
                "spec.ports[0].targetPort TargetPortOutOfRange",
                "spec.ports[1].targetPort TargetPortOutOfRange",
            ],
            &[],
        ),
        (
            with(
                json!({"ports": many(256, |i| json!({"number": i + 1, "name": format!("p{i}"), "protocol": "HTTP"}))}),
            ),
            &[],
            &[],
        ),
        (
            with(
                json!({"ports": many(257, |i| json!({"number": i + 1, "name": format!("p{i}"), "protocol": "HTTP"}))}),
            ),
            &["spec.ports TooManyPorts"],
            &[],
        ),
        (with(json!({"ports": tcp()})), &[], &["spec.ports[0].protocol TcpPortWithoutAddress"]),
        (with(json!({"ports": tcp(), "addresses": ["10.0.0.1"]})), &[], &[]),
        (with(json!({"ports": tcp(), "resolution": "DNS"})), &[], &[]),
        // location and resolution
        (with(json!({"location": "MESH_EXTERNAL"})), &[], &[]),
        (with(json!({"location": "OUTSIDE"})), &["spec.location LocationUnknown"], &[]),
        (with(json!({"resolution": "dns"})), &["spec.resolution ResolutionUnknown"], &[]),
        (
            with(json!({"hosts": ["a.com", "b.com"], "ports": tcp(), "resolution": "STATIC"})),
            &["spec.ports[0].protocol MultipleHostsNeedHttpOrTls"],
            &[],
        ),
        (with(json!({"hosts": ["a.com", "b.com"], "ports": tcp(), "addresses": ["10.0.0.1"]})), &[], &[]),
        (
            with(json!({"hosts": ["a.com", "b.com"], "resolution": "DNS", "addresses": ["10.0.0.1"],
                     "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}]})),
            &[],
            &["spec.addresses MultipleHostsShareAddress"],
        ),
        (
            with(json!({"hosts": ["*.a.com"], "resolution": "DNS"})),
            &["spec.hosts[0] WildcardHostNeedsEndpoints"],
            &[],
        ),
        (
            with(json!({"hosts": ["a.com", "*.a.com"], "resolution": "DNS_ROUND_ROBIN"})),
            &["spec.hosts[1] WildcardHostNeedsEndpoints"],
            &[],
        ),
        (
            with(json!({"hosts": ["*.a.com"], "resolution": "DNS", "endpoints": [{"address": "b.com"}]})),
            &[],
            &[],
        ),
        (with(json!({"hosts": ["*.a.com"], "resolution": "DYNAMIC_DNS"})), &[], &[]),
        (
            with(json!({"hosts": ["*.a.com", "a.com"], "resolution": "DYNAMIC_DNS"})),
            &["spec.hosts[1] DynamicDnsNeedsWildcard"],
            &[],
        ),
        (
            with(json!({"hosts": ["*.a.com"], "resolution": "DYNAMIC_DNS", "addresses": ["10.0.0.1"]})),
            &["spec.addresses DynamicDnsWithAddresses"],
            &[],
        ),
        (
            with(
                json!({"hosts": ["*.a.com"], "resolution": "DYNAMIC_DNS", "endpoints": [{"address": "b.com"}]}),
            ),
            &["spec.endpoints DynamicDnsWithEndpoints"],
            &[],
        ),
        (
            with(json!({"hosts": ["*.a.com"], "resolution": "DYNAMIC_DNS",
                     "ports": [{"number": 443, "name": "https", "protocol": "HTTPS"}]})),
            &["spec.ports[0].protocol DynamicDnsProtocol"],
            &[],
        ),
        // endpoints
        (with(json!({"endpoints": [{"address": "10.0.0.1"}]})), &["spec.endpoints EndpointsNotAllowed"], &[]),
        (
            with(
                json!({"resolution": "STATIC", "endpoints": [{"address": "10.0.0.1", "ports": {"http": 8080}},
                     {"address": "2001:db8::1", "weight": 0, "labels": {"a": "b", "x.io/c": ""}}]}),
            ),
            &[],
            &[],
        ),
        (
            with(json!({"resolution": "STATIC", "endpoints": [{"address": "b.com"}]})),
            &["spec.endpoints[0].address EndpointNotAnIp"],
            &[],
        ),
        (
            with(json!({"resolution": "STATIC", "endpoints": [{}]})),
            &["spec.endpoints[0].address EndpointAddressMissing"],
            &[],
        ),
        (
            with(json!({"resolution": "STATIC", "endpoints": [{"network": "n2"}]})),
            &[],
            &["spec.endpoints[0].address EndpointNetworkOnly"],
        ),
        (
            with(json!({"resolution": "DNS", "endpoints": [{"address": "10.0.0.1"}, {"address": "b.com"}]})),
            &[],
            &[],
        ),
        (
            with(
                json!({"resolution": "DNS", "endpoints": [{"address": "b_c.com"}, {"address": "10.0.0.256"}]}),
            ),
            &[
                "spec.endpoints[0].address EndpointAddressInvalid",
                "spec.endpoints[1].address EndpointAddressInvalid",
            ],
            &[],
        ),
        (
            with(json!({"resolution": "DNS", "endpoints": [{"address": "unix:///run/a.sock"}]})),
            &["spec.endpoints[0].address EndpointAddressInvalid"],
            &[],
        ),
        (with(json!({"resolution": "DNS_ROUND_ROBIN", "endpoints": [{"address": "b.com"}]})), &[], &[]),
        (
            with(
                json!({"resolution": "DNS_ROUND_ROBIN", "endpoints": [{"address": "b.com"}, {"address": "c.com"}]}),
            ),
            &["spec.endpoints RoundRobinNeedsOneEndpoint"],
            &[],
        ),
        (
            with(
                json!({"resolution": "STATIC", "endpoints": [{"address": "10.0.0.1", "ports": {"web": 80}}]}),
            ),
            &["spec.endpoints[0].ports.web EndpointPortUnknown"],
            &[],
        ),
        (
            with(
                json!({"resolution": "STATIC", "endpoints": [{"address": "10.0.0.1", "ports": {"http": 0}}]}),
            ),
            &["spec.endpoints[0].ports.http EndpointPortOutOfRange"],
            &[],
        ),
        (
            with(json!({"resolution": "STATIC", "endpoints": [{"address": "10.0.0.1", "weight": -1},
                     {"address": "10.0.0.2", "weight": 4294967296_i64},
                     {"address": "10.0.0.2", "weight": 4294967295_i64}]})),
            &["spec.endpoints[0].weight WeightOutOfRange", "spec.endpoints[1].weight WeightOutOfRange"],
            &[],
        ),
        (
            with(
                json!({"resolution": "STATIC", "endpoints": [{"address": "10.0.0.1", "labels": {"a": "-b", "": "c"}}]}),
            ),
            &["spec.endpoints[0].labels. LabelInvalid", "spec.endpoints[0].labels.a LabelInvalid"],
            &[],
        ),
        (
            with(
                json!({"resolution": "STATIC", "endpoints": many(4096, |_| json!({"address": "10.0.0.1"}))}),
            ),
            &[],
            &[],
        ),
        (
            with(
                json!({"resolution": "STATIC", "endpoints": many(4097, |_| json!({"address": "10.0.0.1"}))}),
            ),
            &["spec.endpoints TooManyEndpoints"],
            &[],
        ),
        (
            with(json!({"resolution": "DNS", "endpoints": [{"network": "n2"}, {}]})),
            &[
                "spec.endpoints[0].address EndpointAddressMissing",
                "spec.endpoints[1].address EndpointAddressMissing",
            ],
            &[],
        ),
        (
            with(
                json!({"resolution": "STATIC", "endpoints": [{"address": "10.0.0.1", "labels": {"a": "b".repeat(64)},
                     "network": "n".repeat(2048), "locality": "l".repeat(2048), "serviceAccount": "s".repeat(253)}]}),
            ),
            &[],
            &[],
        ),
        (
            with(
                json!({"resolution": "STATIC", "endpoints": [{"address": "10.0.0.1", "network": "n".repeat(2049),
                     "locality": "l".repeat(2049), "serviceAccount": "s".repeat(254)}]}),
            ),
            &[
                "spec.endpoints[0].network FieldTooLong",
                "spec.endpoints[0].locality FieldTooLong",
                "spec.endpoints[0].serviceAccount FieldTooLong",
            ],
            &[],
        ),
        (
            with(
                json!({"resolution": "STATIC", "endpoints": [{"address": "10.0.0.1", "labels": keyed(256, "b")}]}),
            ),
            &[],
            &[],
        ),
        (
            with(
                json!({"resolution": "STATIC", "endpoints": [{"address": "10.0.0.1", "labels": keyed(257, "b")}]}),
            ),
            &["spec.endpoints[0].labels TooManyLabels"],
            &[],
        ),
        // Unix endpoints
        (
            with(
                json!({"resolution": "STATIC", "endpoints": [{"address": "unix:///run/a"}, {"address": "unix://@a"}]}),
            ),
            &[],
            &[
                "spec.endpoints[0].address UnixEndpointUnreachable",
                "spec.endpoints[1].address UnixEndpointUnreachable",
            ],
        ),
        (
            with(
                json!({"resolution": "STATIC", "endpoints": [{"address": "unix://run/a"}, {"address": "unix:///run/"},
                     {"address": "unix://"}, {"address": "unix://@"}]}),
            ),
            &[
                "spec.endpoints[0].address UnixPathInvalid",
                "spec.endpoints[1].address UnixPathInvalid",
                "spec.endpoints[2].address UnixPathInvalid",
                "spec.endpoints[3].address UnixPathInvalid",
            ],
            &[],
        ),
        (
            with(
                json!({"resolution": "STATIC", "endpoints": [{"address": "unix:///run/a", "ports": {"http": 80}}]}),
            ),
            &["spec.endpoints[0].ports UnixEndpointWithPorts"],
            &["spec.endpoints[0].address UnixEndpointUnreachable"],
        ),
        (
            with(json!({"resolution": "STATIC", "endpoints": [{"address": "unix:///run/a"}],
                     "ports": [{"number": 80, "name": "a", "protocol": "HTTP"},
                               {"number": 81, "name": "b", "protocol": "HTTP"}]})),
            &["spec.endpoints[0].address UnixEndpointNeedsOnePort"],
            &["spec.endpoints[0].address UnixEndpointUnreachable"],
        ),
        // selector
        (with(json!({"resolution": "STATIC", "workloadSelector": {"labels": {"app": "x"}}})), &[], &[]),
        (
            with(json!({"resolution": "STATIC", "workloadSelector": {"labels": {"app": "x"}},
                     "endpoints": [{"address": "10.0.0.1"}]})),
            &["spec.workloadSelector SelectorWithEndpoints"],
            &[],
        ),
        (
            with(
                json!({"resolution": "STATIC", "workloadSelector": {"labels": {"": "x", "*": "y", "a": "*"}}}),
            ),
            &[
                "spec.workloadSelector.labels. SelectorInvalid",
                "spec.workloadSelector.labels.* SelectorInvalid",
                "spec.workloadSelector.labels.a SelectorInvalid",
            ],
            &[],
        ),
        (
            with(json!({"resolution": "STATIC", "workloadSelector": {}})),
            &[],
            &["spec.workloadSelector SelectorEmpty"],
        ),
        (
            with(json!({"workloadSelector": {"labels": {"app": "x"}}})),
            &[],
            &["spec.workloadSelector SelectorWithoutResolution"],
        ),
        (
            with(json!({"resolution": "STATIC", "workloadSelector": {"labels": {"a": "b".repeat(63)}}})),
            &[],
            &[],
        ),
        (
            with(json!({"resolution": "STATIC", "workloadSelector": {"labels": {"a": "b".repeat(64)}}})),
            &["spec.workloadSelector.labels.a SelectorInvalid"],
            &[],
        ),
        (
            with(json!({"resolution": "STATIC", "workloadSelector": {"labels": keyed(257, "b")}})),
            &["spec.workloadSelector.labels SelectorInvalid"],
            &[],
        ),
        // exportTo
        (with(json!({"exportTo": ["."]})), &[], &[]),
        (with(json!({"exportTo": ["*"]})), &[], &[]),
        (with(json!({"exportTo": ["~"]})), &[], &[]),
        (with(json!({"exportTo": ["a", "b", "."]})), &[], &[]),
        (with(json!({"exportTo": ["a", "a"]})), &["spec.exportTo[1] ExportToDuplicate"], &[]),
        (with(json!({"exportTo": [".", "default"]})), &["spec.exportTo[1] ExportToDuplicate"], &[]),
        (with(json!({"exportTo": ["a", "*"]})), &["spec.exportTo[1] ExportToConflict"], &[]),
        (with(json!({"exportTo": ["~", "a"]})), &["spec.exportTo[0] ExportToConflict"], &[]),
        (
            with(json!({"exportTo": ["A", ""]})),
            &["spec.exportTo[0] ExportToInvalid", "spec.exportTo[1] ExportToInvalid"],
            &[],
        ),
        // subjectAltNames
        (
            with(json!({"subjectAltNames": ["spiffe://x"]})),
            &[],
            &["spec.subjectAltNames SubjectAltNamesNotEnforced"],
        ),
    ]
}
