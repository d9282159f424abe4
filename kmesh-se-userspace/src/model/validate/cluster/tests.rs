//! What is read of objects of Kubernetes.

use serde_json::{Value, json};

use crate::model::{Accepted, ExportTo, Namespace, Parsed, TrafficDistribution, Workload, parse, validate};

fn accepted(object: &Value) -> Accepted {
    let Parsed::Object { object, warnings, .. } = parse(object.to_string().as_bytes()).remove(0) else {
        panic!("not an object: {object}")
    };
    assert_eq!(warnings, [], "fields that are not read are no mistakes");
    let judgement = validate(&object);
    assert_eq!(judgement.errors, []);
    judgement.accepted.expect("accepted")
}

fn pod(spec: &Value, status: &Value, metadata: &Value) -> Workload {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "a"}},
        "spec": spec, "status": status,
    });
    for (key, value) in metadata.as_object().expect("an object") {
        object["metadata"][key] = value.clone();
    }
    match accepted(&object) {
        Accepted::Workload(workload) => Workload::clone(&workload),
        other => panic!("not a workload: {other:?}"),
    }
}

fn ready() -> Value {
    json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
           "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null}]})
}

#[test]
fn a_pod_is_a_workload_with_an_endpoint_for_each_address() {
    let found =
        pod(&json!({"nodeName": "n1", "serviceAccountName": "sa", "tolerations": []}), &ready(), &json!({}));
    assert_eq!(found.object.to_string(), "Pod ns/p");
    assert!(found.is_ready);
    let addresses: Vec<_> = found.endpoints.iter().map(|e| format!("{:?}", e.address)).collect();
    assert_eq!(addresses, ["Ip(10.0.0.1)", "Ip(fd00::1)"]);
    assert!(found.endpoints.iter().all(|e| e.node == "n1" && e.service_account == "sa" && e.weight == 1));

    let single = pod(&json!({}), &json!({"podIP": "10.0.0.1"}), &json!({}));
    assert_eq!(single.endpoints.len(), 1, "podIP alone is an address too");
    assert!(pod(&json!({}), &json!({}), &json!({})).endpoints.is_empty(), "a Pod without an address yet");
}

#[test]
fn a_pod_takes_connections_while_it_is_ready_and_stays() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut status = ready();
        change(&mut status);
        pod(&json!({}), &status, &json!({})).is_ready
    };
    assert!(with(&|_| {}));
    assert!(!with(&|s| s["conditions"][0]["status"] = json!("False")));
    assert!(!with(&|s| s["conditions"] = json!([])));
    assert!(!with(&|s| s["phase"] = json!("Succeeded")));
    assert!(!with(&|s| s["phase"] = json!("Failed")));
    let leaving = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30});
    assert!(!pod(&json!({}), &ready(), &leaving).is_ready);
}

#[test]
fn ports_are_those_of_containers_that_run_all_the_time() {
    let spec = json!({
        "containers": [{"ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"containerPort": 1}]},
                       {"ports": [{"name": "http", "containerPort": 9}, {"name": "dns", "containerPort": 53}]}],
        "initContainers": [{"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 7}]},
                           {"ports": [{"name": "init", "containerPort": 6}]}],
    });
    let found = pod(&spec, &ready(), &json!({}));
    let ports: Vec<_> = found.endpoints[0].ports.iter().map(|(name, port)| (name.as_str(), *port)).collect();
    assert_eq!(ports, [("dns", 53), ("http", 8080), ("side", 7)]);
}

#[test]
fn the_locality_of_a_pod_can_be_a_label() {
    for (labels, locality) in [
        (json!({}), ""),
        (json!({"istio-locality": "eu.eu-1.a"}), "eu/eu-1/a"),
        (json!({"istio-locality": "x", "topology.istio.io/locality": "eu/eu.1"}), "eu/eu.1"),
    ] {
        let found = pod(&json!({}), &ready(), &json!({"labels": labels}));
        assert_eq!(found.endpoints[0].locality, locality);
    }
}

#[test]
fn a_service_has_its_name_in_the_cluster_and_says_who_sees_it() {
    let service = |annotations: Value, type_: &str| {
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "shop", "annotations": annotations},
            "spec": {"type": type_, "clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        });
        match accepted(&object) {
            Accepted::Service(service) => service,
            other => panic!("not a Service: {other:?}"),
        }
    };
    let found = service(json!({}), "ClusterIP");
    assert_eq!(found.host.as_str(), "web.shop.svc.cluster.local");
    assert_eq!((&found.export_to, found.is_alias), (&ExportTo::All, false));
    assert!(service(json!({}), "ExternalName").is_alias);
    for (text, expected) in [
        ("*", ExportTo::All),
        ("~", ExportTo::Nobody),
        (".,b", ExportTo::Namespaces(vec![Namespace::new("shop"), Namespace::new("b")])),
    ] {
        assert_eq!(service(json!({"networking.istio.io/exportTo": text}), "").export_to, expected);
    }
}

#[test]
fn nodes_have_a_locality_and_namespaces_a_traffic_distribution() {
    let labels = json!({"topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": "eu-1",
                        "topology.istio.io/subzone": "a"});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels}});
    let Accepted::Node(node) = accepted(&node) else { panic!("not a Node") };
    assert_eq!(
        (node.object.to_string(), node.locality.to_string()),
        ("Node n1".to_owned(), "eu/eu-1/a".to_owned())
    );

    let annotations = json!({"networking.istio.io/traffic-distribution": "PreferClose"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns", "annotations": annotations}});
    let Accepted::Namespace(namespace) = accepted(&namespace) else { panic!("not a Namespace") };
    assert_eq!(namespace.traffic_distribution, Some(TrafficDistribution::PreferSameZone));
}
