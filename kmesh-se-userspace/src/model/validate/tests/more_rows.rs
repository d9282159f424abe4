//! Rows about metadata and WorkloadEntries.

use serde_json::{Value, json};

use super::rows::{Row, keyed};

pub(super) fn metadata_rows() -> Vec<(Value, Value, &'static [&'static str], &'static [&'static str])> {
    let none = || json!({});
    vec![
        (
            json!({"name": "a.b-1", "namespace": "ns-1", "creationTimestamp": "2026-01-31T12:00:00Z"}),
            none(),
            &[],
            &[],
        ),
        (json!({}), none(), &["metadata.name NameMissing"], &[]),
        (
            json!({"name": "a", "annotations": {"networking.istio.io/traffic-distribution": "preferclose"}}),
            none(),
            &[],
            &[],
        ),
        (
            json!({"name": "a", "annotations": {"networking.istio.io/traffic-distribution": "Near"}}),
            none(),
            &[],
            &["metadata.annotations.networking.istio.io/traffic-distribution TrafficDistributionUnknown"],
        ),
        (
            json!({"name": "a", "labels": {"istio.io/use-waypoint": "way-1.x", "istio.io/use-waypoint-namespace": "infra"}}),
            none(),
            &[],
            &[],
        ),
        (
            json!({"name": "a", "labels": {"istio.io/use-waypoint": "My_Way"}}),
            none(),
            &[],
            &["metadata.labels.istio.io/use-waypoint WaypointInvalid"],
        ),
        (
            json!({"name": "a", "labels": {"istio.io/use-waypoint": "way", "istio.io/use-waypoint-namespace": "a.b"}}),
            none(),
            &[],
            &["metadata.labels.istio.io/use-waypoint-namespace WaypointInvalid"],
        ),
        (json!({"name": "A"}), none(), &["metadata.name NameInvalid"], &[]),
        (json!({"name": "a".repeat(254)}), none(), &["metadata.name NameInvalid"], &[]),
        (json!({"name": "a", "namespace": "a.b"}), none(), &["metadata.namespace NamespaceInvalid"], &[]),
        (
            json!({"name": "a", "creationTimestamp": "today"}),
            none(),
            &["metadata.creationTimestamp CreationTimestampInvalid"],
            &[],
        ),
        (
            json!({"name": "a"}),
            json!({"addresses": [{"value": "240.240.0.1", "host": "a.com"}, {"value": "x"}]}),
            &[],
            &["status.addresses[1].value StatusAddressInvalid"],
        ),
    ]
}

pub(super) fn workload_rows() -> Vec<Row> {
    vec![
        (json!({"address": "10.0.0.1", "ports": {"web": 8080}}), &[], &[]),
        (json!({"address": "b.com"}), &[], &[]),
        (json!({"address": "unix:///run/a"}), &[], &["spec.address UnixEndpointUnreachable"]),
        (json!({"network": "n2"}), &[], &["spec.address EndpointNetworkOnly"]),
        (json!({}), &["spec.address EndpointAddressMissing"], &[]),
        (json!({"address": "a b"}), &["spec.address EndpointAddressInvalid"], &[]),
        (json!({"address": "unix:///dir/"}), &["spec.address UnixPathInvalid"], &[]),
        (
            json!({"address": "unix://@a", "ports": {"web": 80}}),
            &["spec.ports UnixEndpointWithPorts"],
            &["spec.address UnixEndpointUnreachable"],
        ),
        (
            json!({"address": "10.0.0.1", "ports": {"web": 99999}}),
            &["spec.ports.web EndpointPortOutOfRange"],
            &[],
        ),
        (json!({"address": "10.0.0.1", "ports": {"@": 80}}), &["spec.ports.@ EndpointPortNameInvalid"], &[]),
        (json!({"address": "10.0.0.1", "labels": {"a b": "c"}}), &["spec.labels.a b LabelInvalid"], &[]),
        (json!({"address": "10.0.0.1", "ports": keyed(128, 80)}), &[], &[]),
        (json!({"address": "10.0.0.1", "ports": keyed(129, 80)}), &["spec.ports TooManyEndpointPorts"], &[]),
    ]
}
