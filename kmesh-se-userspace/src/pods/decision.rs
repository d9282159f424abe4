//! One pod with its namespace, to one decision.
//!
//! In: a Pod, the labels of its Namespace, settings. Out: [`Decision`]. Never: a look at a cgroup.

use std::{collections::BTreeMap, convert::Infallible, str::FromStr};

use crate::model::Pod;

/// On a pod or a namespace: whose its connections are.
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// The value of [`DATAPLANE_MODE`] that takes a pod out.
const NONE: &str = "none";
/// What marks a pod of a gateway, waypoints among them: Istio writes both on every one that it deploys.
const GATEWAY_LABELS: [&str; 2] = ["gateway.networking.k8s.io/gateway-name", "gateway.istio.io/managed"];
/// What marks a pod that serves the cluster's DNS, a node-local cache included.
const DNS_LABELS: [(&str, &[&str]); 3] = [
    ("k8s-app", &["kube-dns", "coredns", "node-local-dns"]),
    ("app.kubernetes.io/name", &["coredns"]),
    ("dns.operator.openshift.io/daemonset-dns", &["default"]),
];
/// The pods of this project.
const OWN_LABEL: (&str, &str) = ("app.kubernetes.io/name", "kmesh-se");
/// What an injected sidecar proxy leaves on its pod, and how its container is called.
const SIDECAR_ANNOTATION: &str = "sidecar.istio.io/status";
const SIDECAR_CONTAINER: &str = "istio-proxy";

/// What decides besides the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSettings {
    /// The value of `istio.io/dataplane-mode` that is meant for this agent, compared without case.
    pub mode: String,
    /// Whether pods in the node's network namespace are handled.
    pub host_network: bool,
    /// Runtime classes whose processes are not this kernel's.
    pub vm_runtimes: Vec<RuntimeClass>,
}

/// A name of runtime classes, which may end in `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeClass(String);

impl FromStr for RuntimeClass {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl RuntimeClass {
    fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == self.0,
        }
    }
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is handled.
    Enrol,
    /// It is not.
    LeaveAlone(LeftAlone),
}

/// Why a pod is not handled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeftAlone {
    /// Neither it nor its namespace asks for it.
    #[error("neither the pod nor its namespace has the label {DATAPLANE_MODE}={mode}")]
    NotLabelled {
        /// The value that would ask for it.
        mode: String,
    },
    /// Its own label says none.
    #[error("its own label {DATAPLANE_MODE}={NONE} opts out")]
    OptedOut,
    /// Its own label names another data plane.
    #[error("its own label {DATAPLANE_MODE}={mode} is meant for another data plane")]
    OtherDataplane {
        /// Which.
        mode: String,
    },
    /// It has ended.
    #[error("it has ended")]
    Finished,
    /// It is of this project.
    #[error("it is a pod of kmesh-se itself")]
    Own,
    /// It serves the cluster's DNS.
    #[error("it serves the cluster's DNS, whose own queries must not come back to it")]
    ClusterDns,
    /// It is a gateway or a waypoint.
    #[error("it is a gateway or waypoint, which chooses endpoints itself")]
    Gateway,
    /// It is in the node's network namespace.
    #[error("it is in the node's network namespace; --enrol-host-network enrols such pods, too")]
    HostNetwork,
    /// A proxy is in it.
    #[error("it has a sidecar proxy, which handles its connections")]
    Sidecar,
    /// Its processes are another kernel's.
    #[error(
        "its runtime class {class} runs it in a kernel of its own, where its connections cannot be seen; see --vm-runtime"
    )]
    VmRuntime {
        /// The runtime class.
        class: String,
    },
}

impl LeftAlone {
    /// Code for labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotLabelled { .. } => "NotLabelled",
            Self::OptedOut => "OptedOut",
            Self::OtherDataplane { .. } => "OtherDataplane",
            Self::Finished => "Finished",
            Self::Own => "Own",
            Self::ClusterDns => "ClusterDns",
            Self::Gateway => "Gateway",
            Self::HostNetwork => "HostNetwork",
            Self::Sidecar => "Sidecar",
            Self::VmRuntime { .. } => "VmRuntime",
        }
    }

    /// Whether somebody asked for the pod to be handled, and may wonder why it is not.
    #[must_use]
    pub fn surprises(&self) -> bool {
        matches!(self, Self::Sidecar | Self::VmRuntime { .. } | Self::HostNetwork)
    }
}

/// Decides about a pod whose namespace has these labels.
#[must_use]
pub fn decide(pod: &Pod, namespace: &BTreeMap<String, String>, settings: &PodSettings) -> Decision {
    match refusal(pod, namespace, settings) {
        None => Decision::Enrol,
        Some(why) => Decision::LeaveAlone(why),
    }
}

fn refusal(pod: &Pod, namespace: &BTreeMap<String, String>, settings: &PodSettings) -> Option<LeftAlone> {
    let labels = &pod.metadata.labels;
    let is_ours = |mode: &str| mode.eq_ignore_ascii_case(&settings.mode);
    // An empty value says nothing.
    let mode = |labels: &BTreeMap<String, String>| {
        labels.get(DATAPLANE_MODE).filter(|mode| !mode.is_empty()).cloned()
    };
    match mode(labels) {
        Some(own) if is_ours(&own) => {}
        Some(own) if own.eq_ignore_ascii_case(NONE) => return Some(LeftAlone::OptedOut),
        Some(own) => return Some(LeftAlone::OtherDataplane { mode: own }),
        None if mode(namespace).is_some_and(|mode| is_ours(&mode)) => {}
        None => return Some(LeftAlone::NotLabelled { mode: settings.mode.clone() }),
    }
    let has = |(key, value): (&str, &str)| labels.get(key).is_some_and(|v| v == value);
    let serves_dns = |(key, values): &(&str, &[&str])| values.iter().any(|value| has((key, value)));
    let class = &pod.spec.runtime_class_name;
    let mut containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        Some(LeftAlone::Finished)
    } else if has(OWN_LABEL) {
        Some(LeftAlone::Own)
    } else if DNS_LABELS.iter().any(serves_dns) {
        Some(LeftAlone::ClusterDns)
    } else if GATEWAY_LABELS.iter().any(|key| labels.contains_key(*key)) {
        Some(LeftAlone::Gateway)
    } else if pod.spec.host_network && !settings.host_network {
        Some(LeftAlone::HostNetwork)
    } else if pod.metadata.annotations.contains_key(SIDECAR_ANNOTATION)
        || containers.any(|container| container.name == SIDECAR_CONTAINER)
    {
        Some(LeftAlone::Sidecar)
    } else if settings.vm_runtimes.iter().any(|runtime| runtime.matches(class)) {
        Some(LeftAlone::VmRuntime { class: class.clone() })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MODE: &str = "istio.io/dataplane-mode";

    type Change<'a> = &'a dyn Fn(&mut Value);

    fn settings() -> PodSettings {
        let vm_runtimes = ["kata*", "gvisor"].map(|name| RuntimeClass(name.to_owned())).to_vec();
        PodSettings { mode: "Kmesh".to_owned(), host_network: false, vm_runtimes }
    }

    /// What becomes of a pod with these labels in a namespace with those, after `change`.
    fn decided(own: &[(&str, &str)], namespace: &[(&str, &str)], change: impl FnOnce(&mut Value)) -> String {
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "shop", "uid": "u", "labels": labels(own)},
            "spec": {"containers": [{"name": "app"}]},
            "status": {"phase": "Running"},
        });
        change(&mut pod);
        let pod = serde_json::from_value(pod).expect("a Pod");
        match decide(&pod, &labels(namespace), &settings()) {
            Decision::Enrol => "Enrol".to_owned(),
            Decision::LeaveAlone(why) => why.reason().to_owned(),
        }
    }

    #[test]
    fn the_label_decides_in_any_case_and_the_pods_own_wins() {
        let kmesh = &[(MODE, "Kmesh")][..];
        for (own, namespace, wanted) in [
            (&[][..], &[][..], "NotLabelled"),
            (&[], kmesh, "Enrol"),
            (&[], &[(MODE, "kmesh")], "Enrol"),
            (kmesh, &[], "Enrol"),
            (&[(MODE, "KMESH")], &[(MODE, "none")], "Enrol"),
            (&[(MODE, "none")], kmesh, "OptedOut"),
            (&[(MODE, "None")], kmesh, "OptedOut"),
            (&[(MODE, "ambient")], kmesh, "OtherDataplane"),
            (&[(MODE, "")], kmesh, "Enrol"),
            (&[], &[(MODE, "none")], "NotLabelled"),
            (&[], &[(MODE, "ambient")], "NotLabelled"),
            (&[("app", "kmesh")], &[("istio-injection", "enabled")], "NotLabelled"),
        ] {
            assert_eq!(decided(own, namespace, |_| {}), wanted, "{own:?} {namespace:?}");
        }
    }

    #[test]
    fn some_pods_are_left_alone_although_their_namespace_asks_for_all() {
        let with = |own: &[(&str, &str)], change: Change| decided(own, &[(MODE, "Kmesh")], |pod| change(pod));
        let none: Change = &|_| {};
        for (label, wanted) in [
            (("k8s-app", "kube-dns"), "ClusterDns"),
            (("k8s-app", "node-local-dns"), "ClusterDns"),
            (("app.kubernetes.io/name", "coredns"), "ClusterDns"),
            (("k8s-app", "web"), "Enrol"),
            (("gateway.networking.k8s.io/gateway-name", "waypoint"), "Gateway"),
            (("gateway.istio.io/managed", "istio.io-mesh-controller"), "Gateway"),
            (("app.kubernetes.io/name", "kmesh-se"), "Own"),
        ] {
            assert_eq!(with(&[label], none), wanted, "{label:?}");
        }
        let changes: [(&str, Change); 9] = [
            ("Finished", &|p| p["status"]["phase"] = json!("Succeeded")),
            ("Finished", &|p| p["status"]["phase"] = json!("Failed")),
            ("Enrol", &|p| p["status"]["phase"] = json!("Pending")),
            ("HostNetwork", &|p| p["spec"]["hostNetwork"] = json!(true)),
            ("Sidecar", &|p| p["metadata"]["annotations"] = json!({"sidecar.istio.io/status": "{}"})),
            ("Sidecar", &|p| p["spec"]["initContainers"] = json!([{"name": "istio-proxy"}])),
            ("VmRuntime", &|p| p["spec"]["runtimeClassName"] = json!("kata-qemu")),
            ("VmRuntime", &|p| p["spec"]["runtimeClassName"] = json!("gvisor")),
            ("Enrol", &|p| p["spec"]["runtimeClassName"] = json!("gvisor-not")),
        ];
        for (wanted, change) in changes {
            assert_eq!(with(&[], change), wanted);
        }
    }

    #[test]
    fn a_pod_of_the_hosts_network_is_enrolled_by_choice() {
        let pod = json!({"metadata": {"labels": {MODE: "Kmesh"}}, "spec": {"hostNetwork": true}});
        let pod: Pod = serde_json::from_value(pod).expect("a Pod");
        let by_choice = PodSettings { host_network: true, ..settings() };
        assert_eq!(decide(&pod, &BTreeMap::new(), &by_choice), Decision::Enrol);
    }
}
