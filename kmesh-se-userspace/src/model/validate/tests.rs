//! One row for each rule, and the nearest input that keeps it.

mod more_rows;
mod rows;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::{
    more_rows::{metadata_rows, workload_rows},
    rows::{rows, with},
};
use super::*;
use crate::model::{
    EndpointAddress, ExportTo, HostName, Location, Namespace, Object, Parsed, Protocol, Resolution, parse,
};

fn object(kind: &str, metadata: Value, spec: Value, status: Value) -> Object {
    let text = json!({
        "apiVersion": "networking.istio.io/v1", "kind": kind,
        "metadata": metadata, "spec": spec, "status": status,
    })
    .to_string();
    match parse(text.as_bytes()).remove(0) {
        Parsed::Object { object, .. } => object,
        other => panic!("not an object: {other:?}"),
    }
}

fn entry(spec: Value) -> Verdict<Entry> {
    entry_with(json!({"name": "e"}), spec, json!({}))
}

fn entry_with(metadata: Value, spec: Value, status: Value) -> Verdict<Entry> {
    match object("ServiceEntry", metadata, spec, status) {
        Object::ServiceEntry(raw) => validate_service_entry(&raw),
        other => panic!("not a ServiceEntry: {other:?}"),
    }
}

fn workload(spec: Value) -> Verdict<Workload> {
    match object("WorkloadEntry", json!({"name": "w", "labels": {"a": "m", "b": "m"}}), spec, json!({})) {
        Object::WorkloadEntry(raw) => validate_workload_entry(&raw),
        other => panic!("not a WorkloadEntry: {other:?}"),
    }
}

fn told(issues: &[Issue]) -> Vec<String> {
    issues.iter().map(|i| format!("{} {}", i.field, i.reason)).collect()
}

#[track_caller]
fn check<T>(input: &dyn std::fmt::Debug, verdict: &Verdict<T>, errors: &[&str], warnings: &[&str]) {
    let text: String = format!("{input:?}").chars().take(400).collect();
    assert_eq!(told(&verdict.errors), errors, "errors of {text}");
    assert_eq!(told(&verdict.warnings), warnings, "warnings of {text}");
    assert_eq!(verdict.accepted.is_some(), errors.is_empty(), "verdict on {text}");
}

#[test]
fn each_rule_rejects_what_breaks_it_and_accepts_what_keeps_it() {
    for (spec, errors, warnings) in rows() {
        check(&spec, &entry(spec.clone()), errors, warnings);
    }
    for (metadata, status, errors, warnings) in metadata_rows() {
        let verdict = entry_with(metadata.clone(), with(json!({})), status);
        check(&metadata, &verdict, errors, warnings);
    }
    for (spec, errors, warnings) in workload_rows() {
        check(&spec, &workload(spec.clone()), errors, warnings);
    }
}

#[test]
fn each_reason_has_a_row() {
    let from_rows = rows().into_iter().chain(workload_rows()).map(|(_, e, w)| (e, w));
    let from_metadata = metadata_rows().into_iter().map(|(_, _, e, w)| (e, w));
    let covered: BTreeSet<&str> = from_rows
        .chain(from_metadata)
        .chain(http_route::tests::rows().into_iter().map(|(_, e, w)| (e, w)))
        .flat_map(|(errors, warnings)| errors.iter().chain(warnings))
        .filter_map(|told| told.rsplit(' ').next())
        .collect();
    let covered: BTreeSet<&str> = covered.into_iter().chain(["DynamicDnsInternalWithWaypoint"]).collect();
    // Those before `NameMissing` are about text and have their tests with the parser.
    let of_values = Reason::ALL.iter().skip_while(|r| **r != Reason::NameMissing);
    let missing: Vec<_> = of_values.filter(|r| !covered.contains(r.as_str())).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}

#[test]
fn dynamic_dns_within_the_mesh_goes_through_no_waypoint() {
    let verdict = |location: &str, waypoint: &str| {
        let labels = json!({"istio.io/use-waypoint": waypoint});
        let spec = with(json!({"hosts": ["*.a.com"], "resolution": "DYNAMIC_DNS", "location": location}));
        entry_with(json!({"name": "e", "labels": labels}), spec, json!({}))
    };
    let rejected = &["spec.location DynamicDnsInternalWithWaypoint"];
    check(&"a waypoint", &verdict("MESH_INTERNAL", "egress"), rejected, &[]);
    check(&"no waypoint", &verdict("MESH_INTERNAL", "None"), &[], &[]);
    check(&"outside", &verdict("MESH_EXTERNAL", "egress"), &[], &[]);
}

#[test]
fn an_accepted_entry_knows_its_warnings() {
    let verdict = entry(with(json!({"subjectAltNames": ["x"], "workloadSelector": {}})));
    let entry = verdict.accepted.expect("accepted");
    assert_eq!(entry.warnings, verdict.warnings);
    assert_eq!(entry.warnings.len(), 2);
}

#[test]
fn port_out_of_range_is_told_in_the_words_of_the_contract() {
    let verdict = entry(with(json!({"ports": [{"number": 0, "name": "http", "protocol": "HTTP"}]})));
    assert_eq!(verdict.errors[0].message, "port 0 is not in 1..65535");
}

#[test]
fn lists_every_error_in_the_order_of_the_fields() {
    let verdict = entry(json!({
        "exportTo": ["*", "~"],
        "resolution": "DNS",
        "hosts": ["*", "*.a.com"],
        "ports": [{"number": 0, "name": "x", "protocol": "TCP"}, {"number": 1, "name": "x", "protocol": "HTTP"}],
        "addresses": ["10.0.0.0/8"],
    }));
    assert_eq!(
        told(&verdict.errors),
        [
            "spec.hosts[0] HostIsBareWildcard",
            "spec.hosts[1] WildcardHostNeedsEndpoints",
            "spec.addresses[0] CidrNotAllowed",
            "spec.ports[0].number PortOutOfRange",
            "spec.ports[0].protocol MultipleHostsNeedHttpOrTls",
            "spec.ports[1].name PortNameDuplicate",
            "spec.exportTo[0] ExportToConflict",
            "spec.exportTo[1] ExportToConflict",
        ]
    );
}

#[test]
fn values_are_parsed_and_defaults_applied() {
    let verdict = entry_with(
        json!({"name": "e", "namespace": "ns", "labels": {"networking.istio.io/enable-autoallocate-ip": "False"}}),
        json!({
            "hosts": ["WWW.Example.com."],
            "addresses": ["10.1.2.3/16", "::ffff:10.0.0.9", "10.0.0.9"],
            "ports": [{"number": 80, "name": "a"}, {"number": 81, "name": "b", "protocol": "grpc-web", "targetPort": 8}],
            "resolution": "STATIC", "location": "MESH_INTERNAL",
            "endpoints": [{"address": "::ffff:10.0.0.8", "weight": 0}, {"address": "10.0.0.7", "weight": 3}],
            "exportTo": [".", "b"],
        }),
        json!({"addresses": [{"value": "240.240.0.1", "host": "WWW.example.com"}, {"value": "2001:2::1"}]}),
    );
    let entry = verdict.accepted.expect("accepted");
    assert_eq!(entry.hosts, [HostName::new("www.example.com")]);
    assert_eq!(
        entry.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.1.0.0/16", "10.0.0.9/32"]
    );
    assert_eq!((entry.ports[0].protocol, entry.ports[0].target_port), (Protocol::Tcp, 80));
    assert_eq!((entry.ports[1].protocol, entry.ports[1].target_port), (Protocol::GrpcWeb, 8));
    assert_eq!((entry.resolution, entry.location), (Resolution::Static, Location::MeshInternal));
    assert_eq!(entry.endpoints[0].address, EndpointAddress::Ip("10.0.0.8".parse().expect("an IP")));
    assert_eq!(entry.endpoints.iter().map(|e| e.weight).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(entry.export_to, ExportTo::Namespaces(vec![Namespace::new("ns"), Namespace::new("b")]));
    assert!(!entry.may_allocate);
    assert_eq!(entry.status_addresses.len(), 2);
    assert_eq!(entry.status_addresses[0].1, Some(HostName::new("www.example.com")));
    assert_eq!(entry.status_addresses[1].1, None);
}

#[test]
fn labels_of_a_workload_are_those_of_spec_and_metadata_and_metadata_wins() {
    let verdict = workload(json!({"address": "10.0.0.1", "labels": {"b": "s", "c": "s"}}));
    let labels = &verdict.accepted.expect("accepted").labels;
    let pairs: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(pairs, [("a", "m"), ("b", "m"), ("c", "s")]);
}
