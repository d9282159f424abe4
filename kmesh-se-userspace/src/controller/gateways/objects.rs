//! The objects that a waypoint consists of.
//!
//! In: a Gateway, settings, what its author wants otherwise. Out: objects as they should be. Never: an object of another namespace.

use std::{collections::BTreeMap, path::Path};

use kube::{
    ResourceExt as _,
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use super::{Settings, overlay::Overlays};
use crate::{
    gateway::{CLASS, CLASS_LABEL, GROUP, Gateway, NAME_LABEL, xds_secret},
    waypoint::{Bootstrap, FLAGS, Server},
};

/// Where the files of its Secret are in a container.
pub(in crate::controller) const XDS_FOLDER: &str = "/etc/kmesh-se/xds";
/// The port where an Envoy says whether it is ready.
const STATUS_PORT: u16 = 15021;
/// Where its admin page is: an abstract socket, which is seen in its Pod only.
const ADMIN: &str = "@kmesh-se-admin";
/// As whom Envoy runs: nobody in particular, in whichever image.
const USER: u32 = 65532;
/// How long a Pod that ends goes on serving: those who lead connections there are told meanwhile.
const DRAIN_SECS: u32 = 15;
/// How long after that Envoy may take to end.
const GRACE_SECS: u32 = DRAIN_SECS + 15;

/// One of the objects, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    ServiceAccount,
    Service,
    Deployment,
    PodDisruptionBudget,
}

impl Part {
    pub(super) const ALL: [Self; 4] =
        [Self::ServiceAccount, Self::Service, Self::Deployment, Self::PodDisruptionBudget];

    /// How it is called in a ConfigMap of parameters.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceAccount",
            Self::Service => "service",
            Self::Deployment => "deployment",
            Self::PodDisruptionBudget => "podDisruptionBudget",
        }
    }

    /// All such keys, the most used first.
    pub(super) fn keys() -> [&'static str; 4] {
        [Self::Deployment, Self::Service, Self::ServiceAccount, Self::PodDisruptionBudget].map(Self::key)
    }

    /// How the API server is asked for it.
    pub(super) fn resource(self) -> ApiResource {
        let (group, version, kind) = match self {
            Self::ServiceAccount => ("", "v1", "ServiceAccount"),
            Self::Service => ("", "v1", "Service"),
            Self::Deployment => ("apps", "v1", "Deployment"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget"),
        };
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
    }
}

/// All of them as they should be; a budget of disruptions is none of them for one replica, which it would hold on its node for ever.
pub(super) fn of(gateway: &Gateway, settings: &Settings, overlays: &Overlays) -> BTreeMap<Part, Value> {
    let made = Part::ALL.into_iter().map(|part| (part, one(part, gateway, settings, overlays)));
    let mut made: BTreeMap<_, _> = made.collect();
    let replicas = made[&Part::Deployment]["spec"]["replicas"].as_u64();
    if replicas.is_some_and(|replicas| replicas <= 1) {
        made.remove(&Part::PodDisruptionBudget);
    }
    made
}

fn one(part: Part, gateway: &Gateway, settings: &Settings, overlays: &Overlays) -> Value {
    let selector = json!({NAME_LABEL: gateway.name_any()});
    let mut object = match part {
        Part::ServiceAccount => json!({"automountServiceAccountToken": false}),
        Part::Service => json!({"spec": {
            "type": "ClusterIP",
            "selector": selector,
            "ports": [{"name": "status-port", "port": STATUS_PORT, "targetPort": STATUS_PORT, "protocol": "TCP"}],
        }}),
        Part::Deployment => deployment(gateway, settings),
        Part::PodDisruptionBudget => {
            json!({"spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}}})
        }
    };
    let infrastructure = gateway.spec.infrastructure.clone().unwrap_or_default();
    let metadata = json!({"labels": infrastructure.labels, "annotations": infrastructure.annotations});
    object["metadata"] = metadata;
    overlays.apply(part, &mut object);
    // What it is, whatever was said.
    let resource = part.resource();
    set(&mut object, &["apiVersion"], resource.api_version);
    set(&mut object, &["kind"], resource.kind);
    set(&mut object, &["metadata", "name"], gateway.name_any());
    set(&mut object, &["metadata", "namespace"], gateway.namespace());
    let owner = json!([{"apiVersion": format!("{GROUP}/v1"), "kind": "Gateway", "name": gateway.name_any(),
                        "uid": gateway.uid(), "controller": true}]);
    set(&mut object, &["metadata", "ownerReferences"], owner);
    mark(&mut object, &["metadata"], gateway);
    match part {
        Part::ServiceAccount => {}
        Part::Service => set(&mut object, &["spec", "selector"], selector),
        Part::Deployment => {
            set(&mut object, &["spec", "selector"], json!({"matchLabels": selector}));
            let metadata = ["spec", "template", "metadata"];
            mark(&mut object, &metadata, gateway);
            set(&mut object, &[&metadata[..], &["labels", "istio.io/dataplane-mode"]].concat(), "none");
        }
        Part::PodDisruptionBudget => {
            set(&mut object, &["spec", "selector"], json!({"matchLabels": selector}));
        }
    }
    object
}

/// Has the field at `path` say `value`, whatever is there.
fn set(object: &mut Value, path: &[&str], value: impl Into<Value>) {
    let mut place = object;
    for name in path {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[name];
    }
    *place = value.into();
}

/// Says at `metadata` whose it is.
fn mark(object: &mut Value, metadata: &[&str], gateway: &Gateway) {
    set(object, &[metadata, &["labels", NAME_LABEL]].concat(), gateway.name_any());
    set(object, &[metadata, &["labels", CLASS_LABEL]].concat(), CLASS);
}

fn deployment(gateway: &Gateway, settings: &Settings) -> Value {
    let infrastructure = gateway.spec.infrastructure.clone().unwrap_or_default();
    let (name, namespace) = (gateway.name_any(), gateway.namespace().unwrap_or_default());
    let mut labels = json!(infrastructure.labels);
    // No proxy in front of a proxy.
    labels["sidecar.istio.io/inject"] = "false".into();
    let mut annotations = json!({
        "prometheus.io/scrape": "true",
        "prometheus.io/port": STATUS_PORT.to_string(),
        "prometheus.io/path": "/stats/prometheus",
    });
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.extend(infrastructure.annotations.into_iter().map(|(key, value)| (key, value.into())));
    }
    let spread = |key: &str| {
        json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
               "labelSelector": {"matchLabels": {NAME_LABEL: name}}})
    };
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let container = json!({
        "name": "envoy",
        "image": settings.image,
        "command": ["/usr/local/bin/envoy"],
        "args": arguments(&namespace, &name, settings),
        "env": [field("POD_NAME", "metadata.name"), field("POD_IP", "status.podIP"), field("POD_IPS", "status.podIPs")],
        "ports": [{"name": "status-port", "containerPort": STATUS_PORT, "protocol": "TCP"}],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": STATUS_PORT, "scheme": "HTTP"},
            "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECS}}},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "xds", "mountPath": XDS_FOLDER, "readOnly": true}],
    });
    json!({"spec": {
        "replicas": 2,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {
                "serviceAccountName": name,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": GRACE_SECS,
                "topologySpreadConstraints": [spread("kubernetes.io/hostname"), spread("topology.kubernetes.io/zone")],
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [container],
                "volumes": [{"name": "xds", "secret": {"secretName": xds_secret(&name), "defaultMode": 0o440}}],
            },
        },
    }})
}

/// The flags of Envoy. The kubelet puts what it knows of the Pod in place of `$(…)`.
fn arguments(namespace: &str, name: &str, settings: &Settings) -> Vec<String> {
    let bootstrap = Bootstrap {
        node: "$(POD_NAME)~$(POD_IPS)".to_owned(),
        cluster: format!("{namespace}/{name}"),
        server: Server::Tls {
            host: settings.xds_host.clone(),
            port: settings.xds_port,
            folder: Path::new(XDS_FOLDER).to_owned(),
        },
        admin: Some(ADMIN.into()),
        status: Some(("$(POD_IP)".to_owned(), STATUS_PORT)),
    };
    let flags = FLAGS.into_iter().chain(["--concurrency", "2", "--config-yaml"]).map(str::to_owned);
    flags.chain([bootstrap.config().to_string()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(infrastructure: Value) -> Gateway {
        serde_json::from_value(json!({
            "metadata": {"name": "waypoint", "namespace": "shop", "uid": "u-1"},
            "spec": {"gatewayClassName": CLASS, "listeners": [], "infrastructure": infrastructure},
        }))
        .expect("a Gateway")
    }

    fn made(infrastructure: Value, overlays: &[(&str, &str)]) -> BTreeMap<Part, Value> {
        let settings =
            Settings { image: "envoy".into(), xds_host: "xds.kmesh-se.svc".into(), xds_port: 15010 };
        let data = overlays.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        of(&gateway(infrastructure), &settings, &Overlays::of(&data).expect("overlays"))
    }

    #[test]
    fn every_object_is_the_gateways_own_whatever_is_laid_over_it() {
        let other = "metadata: {name: other, namespace: kube-system, ownerReferences: null, labels: \
                     {gateway.networking.k8s.io/gateway-name: other, a: b}}\nspec: {selector: {a: b}, template: \
                     {metadata: {labels: {istio.io/dataplane-mode: Kmesh, gateway.networking.k8s.io/gateway-name: x}}}}";
        let overlays = Part::keys()
            .map(|key| (key, if key == "serviceAccount" { "metadata: {name: a}" } else { other }));
        for (part, object) in made(json!(null), &overlays) {
            let metadata = &object["metadata"];
            assert_eq!(
                (&metadata["name"], &metadata["namespace"]),
                (&json!("waypoint"), &json!("shop")),
                "{part:?}"
            );
            assert_eq!(metadata["ownerReferences"][0]["uid"], "u-1", "{part:?}");
            assert_eq!(metadata["labels"][NAME_LABEL], "waypoint", "{part:?}");
            let selector = &object["spec"]["selector"];
            let selects = selector.get("matchLabels").unwrap_or(selector);
            assert!(
                part == Part::ServiceAccount || *selects == json!({NAME_LABEL: "waypoint"}),
                "{selector}"
            );
        }
        let labels =
            &made(json!(null), &overlays)[&Part::Deployment]["spec"]["template"]["metadata"]["labels"];
        assert_eq!(
            (&labels[NAME_LABEL], &labels["istio.io/dataplane-mode"]),
            (&json!("waypoint"), &json!("none"))
        );
    }

    #[test]
    fn nonsense_is_for_the_api_server_to_refuse() {
        for text in ["metadata: x", "metadata: {labels: x}", "spec: [1]", "spec: {template: 3}"] {
            let overlays = Part::keys().map(|key| (key, text));
            assert!(!made(json!(null), &overlays).is_empty(), "{text}");
        }
    }

    #[test]
    fn labels_of_the_infrastructure_are_on_all_objects_and_on_pods() {
        let made = made(json!({"labels": {"team": "a"}, "annotations": {"cost": "b"}}), &[]);
        assert_eq!(made.len(), 4);
        for object in made.values() {
            assert_eq!(
                (&object["metadata"]["labels"]["team"], &object["metadata"]["annotations"]["cost"]),
                (&json!("a"), &json!("b"))
            );
        }
        let pods = &made[&Part::Deployment]["spec"]["template"]["metadata"];
        assert_eq!((&pods["labels"]["team"], &pods["annotations"]["cost"]), (&json!("a"), &json!("b")));
    }

    #[test]
    fn one_replica_has_no_budget_of_disruptions_and_a_number_that_others_set_has() {
        let has_budget =
            |text: &str| made(json!(null), &[("deployment", text)]).contains_key(&Part::PodDisruptionBudget);
        assert!(!has_budget("spec: {replicas: 1}"));
        assert!(has_budget("spec: {replicas: 3}"));
        assert!(has_budget("spec: {replicas: null}"));
    }
}
