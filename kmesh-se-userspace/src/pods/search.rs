//! The search list of a pod, as the kubelet writes it into the pod's `resolv.conf`.
//!
//! In: a Pod, the cluster's domain, the node's own search list. Out: domains. Never: a list for who is no pod.

use crate::model::{HostName, Namespace, Pod};

/// The kubelet writes no more domains than this.
const DOMAINS_MAX: usize = 32;
/// Nor more characters than this, spaces included.
const CHARACTERS_MAX: usize = 2048;

/// What the kubelet knows of DNS on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDns {
    /// The cluster's domain; empty when there is none.
    pub cluster_domain: String,
    /// The search list of the node's own `resolv.conf`.
    pub searches: Vec<HostName>,
}

impl NodeDns {
    /// What a client of `namespace` searches that is no pod, or one with the usual policy.
    #[must_use]
    pub fn domains_of(&self, namespace: &Namespace) -> Vec<HostName> {
        let cluster = &self.cluster_domain;
        let mut domains = Vec::new();
        if !cluster.is_empty() {
            for domain in [format!("{namespace}.svc.{cluster}"), format!("svc.{cluster}"), cluster.clone()] {
                add(&mut domains, HostName::new(&domain));
            }
        }
        self.searches.iter().for_each(|domain| add(&mut domains, domain.clone()));
        domains
    }
}

/// The domains that a resolver library in `pod` tries, in their order.
#[must_use]
pub fn search_list(pod: &Pod, node: &NodeDns) -> Vec<HostName> {
    let spec = &pod.spec;
    let is_of_cluster = match spec.dns_policy.as_str() {
        "None" | "Default" => false,
        "ClusterFirstWithHostNet" => true,
        // ClusterFirst, which is also what the API server writes when nothing is said.
        _ => !spec.host_network,
    };
    let mut domains = match spec.dns_policy.as_str() {
        "None" => Vec::new(),
        _ if is_of_cluster => node.domains_of(&pod.metadata.namespace()),
        _ => node.searches.clone(),
    };
    spec.dns_config.searches.iter().for_each(|domain| add(&mut domains, HostName::new(domain)));
    within_limits(domains)
}

fn add(domains: &mut Vec<HostName>, domain: HostName) {
    if !domain.as_str().is_empty() && !domains.contains(&domain) {
        domains.push(domain);
    }
}

fn within_limits(mut domains: Vec<HostName>) -> Vec<HostName> {
    domains.truncate(DOMAINS_MAX);
    let mut length = 0;
    let fitting = domains.iter().take_while(|domain| {
        // A space before each but the first.
        length += domain.as_str().len() + usize::from(length > 0);
        length <= CHARACTERS_MAX
    });
    let count = fitting.count();
    domains.truncate(count);
    domains
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn list(spec: Value, cluster: &str) -> String {
        let pod = json!({"metadata": {"namespace": "shop"}, "spec": spec});
        let pod = serde_json::from_value(pod).expect("a Pod");
        let node = NodeDns { cluster_domain: cluster.to_owned(), searches: vec![HostName::new("corp.test")] };
        search_list(&pod, &node).iter().map(HostName::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_policy_says_which_domains_and_the_pods_own_come_last() {
        const CLUSTER: &str = "shop.svc.c.local svc.c.local c.local corp.test";
        for (spec, wanted) in [
            (json!({}), CLUSTER.to_owned()),
            (json!({"dnsPolicy": "ClusterFirst"}), CLUSTER.to_owned()),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), "corp.test".to_owned()),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), CLUSTER.to_owned()),
            (json!({"dnsPolicy": "Default"}), "corp.test".to_owned()),
            (json!({"dnsPolicy": "None"}), String::new()),
            (json!({"dnsPolicy": "None", "dnsConfig": {"searches": ["A.test."]}}), "a.test".to_owned()),
            (
                json!({"dnsConfig": {"searches": ["own.test", "svc.c.local", ""]}}),
                format!("{CLUSTER} own.test"),
            ),
        ] {
            assert_eq!(list(spec.clone(), "c.local"), wanted, "{spec}");
        }
        assert_eq!(list(json!({}), ""), "corp.test", "no cluster domain");
    }

    #[test]
    fn what_the_kubelet_leaves_out_is_left_out() {
        let many: Vec<_> = (0..40).map(|number| format!("d{number}.test")).collect();
        let kept = list(json!({"dnsPolicy": "None", "dnsConfig": {"searches": many}}), "c.local");
        assert_eq!(kept.split(' ').count(), 32);
        let long: Vec<_> = (0..20).map(|number| format!("{}{number}.test", "a".repeat(200))).collect();
        let kept = list(json!({"dnsPolicy": "None", "dnsConfig": {"searches": long}}), "c.local");
        assert!(kept.len() <= 2048 && kept.len() > 1800, "{}", kept.len());
    }
}
