//! All pods of this node, with their namespaces and cgroups.
//!
//! In: objects and cgroups, in any order. Out: the cgroups to enrol, and who asks for names. Never: a pod of another node.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{Decision, LeftAlone, NodeDns, PodSettings, decide, search_list};
use crate::{
    enrol::Cgroup,
    model::{HostName, Kind, Namespace, Object, ObjectRef, Pod},
};

/// On the API server's image of a pod that the kubelet has from a file: the id that its cgroup is named by.
const STATIC_POD_ID: &str = "kubernetes.io/config.mirror";

/// What is known of the pods of a node.
#[derive(Debug)]
pub struct Pods {
    settings: PodSettings,
    dns: NodeDns,
    /// This node's name; empty when it is not known, and then every pod may be here.
    node: String,
    labels: BTreeMap<Arc<str>, BTreeMap<String, String>>,
    pods: BTreeMap<ObjectRef, Known>,
    /// By the pods' ids.
    cgroups: HashMap<String, Cgroup>,
    is_changed: bool,
}

#[derive(Debug)]
struct Known {
    pod: Pod,
    decision: Decision,
    /// Whether it has been handled at some time.
    was_enrolled: bool,
}

/// A cgroup to enrol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The pod that lives there.
    pub pod: ObjectRef,
    /// Where.
    pub cgroup: Cgroup,
}

/// A pod as the DNS server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Its namespace.
    pub namespace: Namespace,
    /// Whether it is handled, so that it is led to the DNS server.
    pub is_enrolled: bool,
    /// Whether it was at some time: sockets of then lead there still.
    pub was_enrolled: bool,
    /// Whether it has the node's addresses.
    pub host_network: bool,
    /// Its own addresses; empty while they are not known.
    pub addresses: Vec<IpAddr>,
    /// The domains that it searches.
    pub search: Vec<HostName>,
}

impl Pods {
    /// None yet.
    #[must_use]
    pub fn new(settings: PodSettings, dns: NodeDns, node: &str) -> Self {
        Self {
            settings,
            dns,
            node: node.to_owned(),
            labels: BTreeMap::new(),
            pods: BTreeMap::new(),
            cgroups: HashMap::new(),
            is_changed: false,
        }
    }

    /// Takes in an object that appeared or changed.
    pub fn apply(&mut self, object: &Object) {
        match object {
            Object::Pod(pod) => self.apply_pod(pod),
            Object::Namespace(namespace) => {
                let name: Arc<str> = namespace.metadata.name.as_str().into();
                let old = self.labels.insert(name.clone(), namespace.metadata.labels.clone());
                if old.as_ref() != Some(&namespace.metadata.labels) {
                    self.decide_namespace(&name);
                }
            }
            _ => {}
        }
    }

    /// An object is gone.
    pub fn delete(&mut self, object: &ObjectRef) {
        match object.kind {
            Kind::Pod => self.is_changed |= self.pods.remove(object).is_some(),
            Kind::Namespace if self.labels.remove(&object.name).is_some() => {
                self.decide_namespace(&object.name);
            }
            _ => {}
        }
    }

    /// A pod's cgroup appeared.
    pub fn found(&mut self, pod_id: String, cgroup: Cgroup) {
        self.cgroups.insert(pod_id, cgroup);
        self.is_changed = true;
    }

    /// A pod's cgroup is gone.
    pub fn gone(&mut self, pod_id: &str, cgroup: &Cgroup) {
        if self.cgroups.get(pod_id).is_some_and(|known| known.id == cgroup.id) {
            self.cgroups.remove(pod_id);
            self.is_changed = true;
        }
    }

    /// Whether this is a pod's cgroup.
    #[must_use]
    pub fn has_cgroup(&self, id: u64) -> bool {
        self.cgroups.values().any(|cgroup| cgroup.id == id)
    }

    /// Whether something changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// The cgroups to enrol.
    pub fn wanted(&self) -> impl Iterator<Item = Wanted> {
        let enrolled = self.pods.iter().filter(|(_, known)| known.decision == Decision::Enrol);
        enrolled.filter_map(|(object, known)| {
            let cgroup = self.cgroups.get(pod_id(&known.pod))?.clone();
            Some(Wanted { pod: object.clone(), cgroup })
        })
    }

    /// Every pod of this node: what becomes of it, and its cgroup if that is there.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectRef, &Decision, Option<&Cgroup>)> {
        self.pods
            .iter()
            .map(|(object, known)| (object, &known.decision, self.cgroups.get(pod_id(&known.pod))))
    }

    /// What becomes of a pod, and its cgroup if that is there.
    #[must_use]
    pub fn get(&self, pod: &ObjectRef) -> Option<(&Decision, Option<&Cgroup>)> {
        let known = self.pods.get(pod)?;
        Some((&known.decision, self.cgroups.get(pod_id(&known.pod))))
    }

    /// The pods that may send queries. One that has ended sends none, and its address may be another's.
    pub fn askers(&self) -> impl Iterator<Item = Asker> {
        self.pods.values().filter(|known| !known.has_ended()).map(|known| {
            let (pod, status) = (&known.pod, &known.pod.status);
            let listed = status.pod_ips.iter().map(|address| &address.ip).chain([&status.pod_ip]);
            Asker {
                namespace: pod.metadata.namespace(),
                is_enrolled: known.decision == Decision::Enrol,
                was_enrolled: known.was_enrolled,
                host_network: pod.spec.host_network,
                addresses: listed
                    .filter_map(|text| text.parse().ok())
                    .map(|ip: IpAddr| ip.to_canonical())
                    .collect(),
                search: search_list(pod, &self.dns),
            }
        })
    }

    fn apply_pod(&mut self, pod: &Pod) {
        let object = pod.metadata.object_ref(Kind::Pod);
        let is_elsewhere = !self.node.is_empty() && pod.spec.node_name != self.node;
        if is_elsewhere {
            return self.delete(&object);
        }
        let decision = self.decide(pod);
        let old = self.pods.get(&object).filter(|old| pod_id(&old.pod) == pod_id(pod));
        if old.is_some_and(|old| old.pod == *pod) {
            return;
        }
        if old.is_none_or(|old| old.decision != decision) {
            report(&object, &decision);
        }
        let was_enrolled = old.is_some_and(|old| old.was_enrolled) || decision == Decision::Enrol;
        self.pods.insert(object, Known { pod: pod.clone(), decision, was_enrolled });
        self.is_changed = true;
    }

    fn decide(&self, pod: &Pod) -> Decision {
        let none = BTreeMap::new();
        let labels = self.labels.get(pod.metadata.namespace().as_str()).unwrap_or(&none);
        decide(pod, labels, &self.settings)
    }

    /// The labels of a namespace changed.
    fn decide_namespace(&mut self, name: &str) {
        let none = BTreeMap::new();
        let labels = self.labels.get(name).unwrap_or(&none);
        let members = self.pods.iter_mut().filter(|(object, _)| object.namespace.as_str() == name);
        for (object, known) in members {
            let decision = decide(&known.pod, labels, &self.settings);
            if decision != known.decision {
                report(object, &decision);
                known.was_enrolled |= decision == Decision::Enrol;
                known.decision = decision;
                self.is_changed = true;
            }
        }
    }
}

impl Known {
    fn has_ended(&self) -> bool {
        matches!(self.pod.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

impl Asker {
    /// Whether its address is to be waited for: a pod runs for a moment before the API server is told its addresses.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        self.is_enrolled && !self.host_network && self.addresses.is_empty()
    }
}

/// What its cgroup is named by.
fn pod_id(pod: &Pod) -> &str {
    pod.metadata.annotations.get(STATIC_POD_ID).unwrap_or(&pod.metadata.uid)
}

fn report(pod: &ObjectRef, decision: &Decision) {
    match decision {
        Decision::Enrol => tracing::info!(pod = %pod, "to be enrolled"),
        Decision::LeaveAlone(why) if why.surprises() => {
            tracing::warn!(pod = %pod, reason = why.reason(), message = %why, "left alone");
        }
        Decision::LeaveAlone(LeftAlone::NotLabelled { .. }) => {}
        Decision::LeaveAlone(why) => {
            tracing::info!(pod = %pod, reason = why.reason(), message = %why, "left alone");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;
    use crate::model::{Parsed, parse};

    fn pods() -> Pods {
        let settings = PodSettings { mode: "Kmesh".to_owned(), host_network: true, vm_runtimes: Vec::new() };
        let dns = NodeDns { cluster_domain: "cluster.local".to_owned(), searches: Vec::new() };
        Pods::new(settings, dns, "here")
    }

    fn object(value: &Value) -> Object {
        match parse(value.to_string().as_bytes()).remove(0) {
            Parsed::Object { object, .. } => object,
            other => panic!("not an object: {other:?}"),
        }
    }

    fn namespace(mode: &str) -> Object {
        let labels = json!({"istio.io/dataplane-mode": mode});
        object(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}}),
        )
    }

    fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Object {
        let mut value = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "uid": format!("id-of-{name}")},
            "spec": {"nodeName": "here", "containers": [{"name": "app"}]},
            "status": {"phase": "Pending"},
        });
        change(&mut value);
        object(&value)
    }

    fn cgroup(id: u64) -> Cgroup {
        Cgroup { path: PathBuf::from(format!("/kubepods/{id}")), id, level: 2 }
    }

    fn wanted(pods: &Pods) -> Vec<u64> {
        pods.wanted().map(|wanted| wanted.cgroup.id).collect()
    }

    #[test]
    fn pod_namespace_and_cgroup_may_come_in_any_order() {
        let steps: [&dyn Fn(&mut Pods); 3] =
            [&|pods| pods.apply(&namespace("Kmesh")), &|pods| pods.apply(&pod("a", |_| {})), &|pods| {
                pods.found("id-of-a".to_owned(), cgroup(7))
            }];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut pods = pods();
            for (count, step) in order.into_iter().enumerate() {
                assert!(wanted(&pods).is_empty(), "{order:?} after {count}");
                steps[step](&mut pods);
            }
            assert_eq!(wanted(&pods), [7], "{order:?}");
            assert!(pods.take_changed() && !pods.take_changed());
        }
    }

    #[test]
    fn a_pod_is_wanted_until_label_object_or_cgroup_goes() {
        let make = || {
            let mut pods = pods();
            pods.apply(&namespace("Kmesh"));
            pods.apply(&pod("a", |_| {}));
            pods.found("id-of-a".to_owned(), cgroup(7));
            pods.take_changed();
            pods
        };
        let reference = |kind, name: &str, namespace: &str| ObjectRef {
            kind,
            namespace: Namespace::new(namespace),
            name: name.into(),
        };
        let ends: [&dyn Fn(&mut Pods); 6] = [
            &|pods| pods.apply(&namespace("none")),
            &|pods| pods.delete(&reference(Kind::Namespace, "shop", "")),
            &|pods| pods.delete(&reference(Kind::Pod, "a", "shop")),
            &|pods| pods.apply(&pod("a", |p| p["status"]["phase"] = json!("Succeeded"))),
            &|pods| pods.apply(&pod("a", |p| p["spec"]["nodeName"] = json!("elsewhere"))),
            &|pods| pods.gone("id-of-a", &cgroup(7)),
        ];
        for (index, end) in ends.into_iter().enumerate() {
            let mut pods = make();
            end(&mut pods);
            assert!(wanted(&pods).is_empty(), "{index}");
            assert!(pods.take_changed(), "{index}");
        }
        let mut pods = make();
        pods.gone("id-of-a", &cgroup(6));
        pods.apply(&namespace("Kmesh"));
        pods.apply(&pod("a", |_| {}));
        assert!(!pods.take_changed(), "an older cgroup's end, and what was known");
        // A pod of the same name that takes its place has a cgroup of its own.
        pods.apply(&pod("a", |p| p["metadata"]["uid"] = json!("another")));
        assert!(wanted(&pods).is_empty());
    }

    #[test]
    fn a_pod_from_a_file_of_the_kubelet_is_found_by_the_id_that_it_has_there() {
        let mut pods = pods();
        pods.apply(&namespace("kmesh"));
        pods.found("0123".to_owned(), cgroup(9));
        let mirror = json!({"kubernetes.io/config.mirror": "0123"});
        pods.apply(&pod("a", |p| p["metadata"]["annotations"] = mirror));
        assert_eq!(wanted(&pods), [9]);
    }

    #[test]
    fn askers_are_the_living_pods_with_what_they_were() {
        let mut pods = pods();
        pods.apply(&namespace("Kmesh"));
        let with_ip = |ip: &'static str| {
            move |p: &mut Value| p["status"] = json!({"phase": "Running", "podIPs": [{"ip": ip}]})
        };
        pods.apply(&pod("a", |_| {}));
        pods.apply(&pod("b", with_ip("::ffff:10.0.0.2")));
        pods.apply(&pod("c", |p| p["status"] = json!({"phase": "Failed", "podIP": "10.0.0.3"})));
        let told = |pods: &Pods| {
            let askers = pods.askers().map(|asker| {
                let expected = if asker.is_expected() { "expected" } else { "" };
                format!("{} {} {:?}{expected}", asker.is_enrolled, asker.was_enrolled, asker.addresses)
            });
            askers.collect::<Vec<_>>()
        };
        assert_eq!(told(&pods), ["true true []expected", "true true [10.0.0.2]"]);
        pods.apply(&namespace("none"));
        pods.apply(&pod("d", with_ip("fd00::4")));
        assert_eq!(told(&pods), ["false true []", "false true [10.0.0.2]", "false false [fd00::4]"]);
    }
}
