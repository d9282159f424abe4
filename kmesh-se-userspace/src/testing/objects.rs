//! Objects of all kinds as somebody may write them: mostly valid, and about the same few things.
//!
//! In: proptest's choices. Out: JSON, and the objects that can be read of it. Never: a judgement of them.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::model::{Object, Parsed, parse};

/// The namespaces that generated objects are in.
pub(crate) const NAMESPACES: [&str; 3] = ["one", "two", "three"];

/// One of `values`.
fn one_of<const N: usize>(values: [Value; N]) -> impl Strategy<Value = Value> {
    prop::sample::select(values.to_vec())
}

/// Mostly one of `good`, which are valid, and now and then one of `bad`.
fn mostly<const N: usize, const M: usize>(good: [Value; N], bad: [Value; M]) -> impl Strategy<Value = Value> {
    prop_oneof![20 => prop::sample::select(good.to_vec()), 1 => prop::sample::select(bad.to_vec())]
}

/// A list of up to `most` of them, which may repeat.
fn list(of: impl Strategy<Value = Value>, most: usize) -> impl Strategy<Value = Value> {
    prop::collection::vec(of, 0..=most).prop_map(Value::Array)
}

/// An object with all of `always` and some of `sometimes`.
fn object(
    always: Vec<(&'static str, BoxedStrategy<Value>)>,
    sometimes: Vec<(&'static str, BoxedStrategy<Value>)>,
) -> BoxedStrategy<Value> {
    let always = always.into_iter().map(|(name, value)| (name, value.prop_map(Some).boxed()));
    let sometimes = sometimes.into_iter().map(|(name, value)| (name, prop::option::of(value).boxed()));
    let (names, values): (Vec<_>, Vec<_>) = always.chain(sometimes).unzip();
    let join = move |values: Vec<Option<Value>>| {
        let pairs = names.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
        Value::Object(pairs.collect())
    };
    values.prop_map(join).boxed()
}

fn endpoint_spec() -> BoxedStrategy<Value> {
    let address = mostly(
        [json!("10.0.0.1"), json!("10.0.0.2"), json!("fd00::1"), json!("1.2.3.4"), json!("240.240.0.1")],
        [json!("a b"), json!(""), json!("unix://a")],
    );
    let other = one_of([json!("x.net"), json!("b.com"), json!("a.com"), json!("unix:///run/a")]);
    let address = prop_oneof![3 => address, 1 => other];
    let ports = mostly([json!({"p80": 8080}), json!({})], [json!({"p80": 0}), json!({"no": 1})]);
    let labels = mostly([json!({"app": "a"}), json!({"app": "b"})], [json!({"": "-"})]);
    let weight = mostly([json!(0), json!(1), json!(7), json!(4_294_967_295_u32)], [json!(-1)]);
    object(
        vec![("address", address.boxed())],
        vec![
            ("ports", ports.boxed()),
            ("weight", weight.boxed()),
            ("locality", one_of([json!("eu/eu-1/a"), json!("eu/eu-2"), json!("us"), json!("")]).boxed()),
            ("network", one_of([json!(""), json!("n2")]).boxed()),
            ("labels", labels.boxed()),
        ],
    )
}

fn port_spec(number: u16) -> BoxedStrategy<Value> {
    let protocol =
        mostly([json!("HTTP"), json!("HTTP"), json!("tls"), json!("TCP"), json!("UDP")], [json!("QUIC")]);
    object(
        vec![
            ("number", mostly([json!(number)], [json!(0), json!(70000)]).boxed()),
            ("name", mostly([json!(format!("p{number}"))], [json!("a_b"), json!("")]).boxed()),
        ],
        vec![
            ("protocol", protocol.boxed()),
            ("targetPort", mostly([json!(8080), json!(80)], [json!(0)]).boxed()),
        ],
    )
}

pub(crate) fn entry_spec() -> BoxedStrategy<Value> {
    let host = mostly(
        [
            json!("a.com"),
            json!("a.com"),
            json!("B.com"),
            json!("b.com."),
            json!("*.w.com"),
            json!("web.one.svc.cluster.local"),
        ],
        [json!("*w.com"), json!("*"), json!("a_b")],
    );
    let address = mostly(
        [json!("1.2.3.4"), json!("fd01::1/128"), json!("240.240.0.1")],
        [json!("10.0.0.0/8"), json!("x")],
    );
    let resolution = mostly(
        [json!("NONE"), json!("STATIC"), json!("STATIC"), json!("DNS"), json!("DNS_ROUND_ROBIN")],
        [json!("DYNAMIC_DNS"), json!("OTHER")],
    );
    let export_to = mostly([json!("*"), json!("."), json!("~"), json!("one"), json!("two")], [json!("A")]);
    let ports = (port_spec(80), port_spec(81), any::<bool>());
    let ports =
        ports.prop_map(|(first, second, both)| if both { json!([first, second]) } else { json!([first]) });
    object(
        vec![
            ("hosts", prop::collection::vec(host, 1..=2).prop_map(Value::Array).boxed()),
            ("ports", ports.boxed()),
        ],
        vec![
            ("addresses", prop_oneof![2 => Just(json!([])), 1 => list(address, 2)].boxed()),
            ("resolution", resolution.boxed()),
            ("location", mostly([json!("MESH_INTERNAL"), json!("MESH_EXTERNAL")], [json!("X")]).boxed()),
            ("endpoints", list(endpoint_spec(), 3).boxed()),
            ("exportTo", prop_oneof![2 => Just(json!([])), 1 => list(export_to, 1)].boxed()),
        ],
    )
}

pub(crate) fn metadata() -> BoxedStrategy<Value> {
    let opted_out = json!({"networking.istio.io/enable-autoallocate-ip": "false"});
    let near = json!({"networking.istio.io/traffic-distribution": "PreferClose"});
    let bound = json!({"app": "a", "istio.io/use-waypoint": "way"});
    let bound_elsewhere = json!({"istio.io/use-waypoint": "way", "istio.io/use-waypoint-namespace": "two"});
    let led_past = json!({"istio.io/use-waypoint": "none"});
    let labels = [json!({"app": "a"}), json!({"app": "a"}), json!({}), bound, bound_elsewhere, led_past];
    let wrong = [opted_out, json!({"istio.io/use-waypoint": "A B"})];
    let age = one_of([json!("2026-01-01T00:00:00Z"), json!("2026-01-02T00:00:00Z")]);
    object(
        vec![
            ("name", mostly([json!("a"), json!("b"), json!("c")], [json!("A")]).boxed()),
            ("namespace", prop::sample::select(NAMESPACES.to_vec()).prop_map(Value::from).boxed()),
            ("labels", mostly(labels, wrong).boxed()),
        ],
        vec![
            ("creationTimestamp", age.boxed()),
            (
                "annotations",
                mostly([near], [json!({"networking.istio.io/traffic-distribution": "x"})]).boxed(),
            ),
        ],
    )
}

/// An object of any kind that is read, as JSON.
pub(crate) fn any_object() -> BoxedStrategy<Value> {
    let istio = |kind, (metadata, spec): (Value, Value)| json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec});
    let selecting = (metadata(), entry_spec()).prop_map(move |(metadata, mut spec)| {
        spec["workloadSelector"] = json!({"labels": {"app": "a"}});
        spec["endpoints"] = json!([]);
        istio("ServiceEntry", (metadata, spec))
    });
    let pod = (metadata(), any::<bool>(), 1u8..4).prop_map(|(metadata, ready, n)| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n1"},
               "status": {"podIP": format!("10.1.0.{n}"),
                          "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})
    });
    let service = prop::sample::select(NAMESPACES.to_vec()).prop_map(
        |namespace| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": namespace}}),
    );
    let node = one_of([json!("eu"), json!("us")]).prop_map(|region| {
        let labels = json!({"topology.kubernetes.io/region": region});
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels}})
    });
    let namespace = metadata().prop_map(|metadata| {
        let (annotations, labels) = (metadata.get("annotations").cloned(), metadata["labels"].clone());
        json!({"apiVersion": "v1", "kind": "Namespace",
               "metadata": {"name": "one", "annotations": annotations, "labels": labels}})
    });
    prop_oneof![
        6 => (metadata(), entry_spec()).prop_map(move |parts| istio("ServiceEntry", parts)),
        2 => selecting,
        2 => (metadata(), endpoint_spec()).prop_map(move |parts| istio("WorkloadEntry", parts)),
        2 => pod,
        1 => service,
        1 => node,
        1 => namespace,
    ]
    .boxed()
}

/// Whatever can be read of `written`, each object once.
pub(crate) fn read(written: &[Value]) -> Vec<Object> {
    let mut seen = BTreeSet::new();
    let mut objects = Vec::new();
    for text in written {
        for item in parse(text.to_string().as_bytes()) {
            if let Parsed::Object { object, .. } = item
                && seen.insert(object.object_ref())
            {
                objects.push(object);
            }
        }
    }
    objects
}
