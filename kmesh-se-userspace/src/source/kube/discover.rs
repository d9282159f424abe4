//! What the agent has to know of the cluster before it starts.
//!
//! In: a client, the name of this node. Out: addresses. Never: an object that changes later.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Service};
use kube::{Api, Client, api::ListParams};

use super::{KubeError, Trouble};

/// The namespace and name that the cluster's DNS has in nearly every cluster, whatever serves it.
const DNS_NAMESPACE: &str = "kube-system";
const DNS_SERVICE: &str = "kube-dns";
/// What a DNS Service of another name is labelled with.
const DNS_LABEL: (&str, &str) = ("k8s-app", "kube-dns");

/// What the cluster says of itself and of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// The virtual addresses of the cluster's DNS, the preferred family first; empty when it has no Service.
    pub cluster_dns: Vec<IpAddr>,
    /// The addresses by which Pods reach this node, the preferred family first; empty when there is no Node of this name.
    pub node_addresses: Vec<IpAddr>,
}

/// Asks the API server once.
///
/// # Errors
/// It does not answer, or not us: ask again later.
pub async fn discover(client: &Client, node: &str) -> Result<Discovered, KubeError> {
    let services: Api<Service> = Api::namespaced(client.clone(), DNS_NAMESPACE);
    let services = services.list(&ListParams::default()).await.map_err(failed("services"))?;
    let nodes: Api<Node> = Api::all(client.clone());
    let this_node = ListParams::default().fields(&format!("metadata.name={node}"));
    let nodes = nodes.list(&this_node).await.map_err(failed("nodes"))?;
    Ok(Discovered {
        cluster_dns: cluster_dns(&services.items),
        node_addresses: nodes.items.first().map(internal_addresses).unwrap_or_default(),
    })
}

fn failed(resource: &'static str) -> impl Fn(kube::Error) -> KubeError {
    move |error| KubeError::List { resource, source: Trouble::of(&error) }
}

/// The addresses of the Service called kube-dns, else of all that are labelled so.
fn cluster_dns(services: &[Service]) -> Vec<IpAddr> {
    let named = |service: &&Service| service.metadata.name.as_deref() == Some(DNS_SERVICE);
    let labelled = |service: &&Service| {
        let labels = service.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(DNS_LABEL.0)).is_some_and(|value| value == DNS_LABEL.1)
    };
    let mut found: Vec<_> = services.iter().filter(named).collect();
    if found.is_empty() {
        found = services.iter().filter(labelled).collect();
    }
    found.into_iter().flat_map(cluster_ips).collect()
}

/// None of a headless Service, whose address is `None` in words.
fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let first = spec.cluster_ip.as_slice();
    let all = spec.cluster_ips.as_deref().filter(|all| !all.is_empty()).unwrap_or(first);
    all.iter().filter_map(|ip| ip.parse().ok()).collect()
}

fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = addresses.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(name: &str, app: &str, spec: Value) -> Service {
        let metadata = json!({ "name": name, "labels": { "k8s-app": app } });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).expect("a Service")
    }

    #[test]
    fn the_dns_service_is_found_by_its_name_or_its_label() {
        let both = json!({ "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::a"] });
        let upstream = service("kube-dns-upstream", "kube-dns", json!({ "clusterIP": "10.96.0.11" }));
        let other = service("metrics", "metrics", json!({ "clusterIP": "10.96.0.12" }));
        let headless = service("kube-dns", "", json!({ "clusterIP": "None", "clusterIPs": ["None"] }));
        for (services, wanted) in [
            (vec![upstream.clone(), service("kube-dns", "", both), other.clone()], "10.96.0.10 fd00::a"),
            (vec![upstream, other.clone()], "10.96.0.11"),
            (vec![service("kube-dns", "", json!({ "clusterIP": "10.96.0.10" }))], "10.96.0.10"),
            (vec![headless, other], ""),
        ] {
            let found: Vec<_> = cluster_dns(&services).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), wanted);
        }
    }

    #[test]
    fn of_the_addresses_of_a_node_its_internal_ones_count() {
        let addresses = json!([
            { "type": "InternalIP", "address": "fd00::1" },
            { "type": "Hostname", "address": "one" },
            { "type": "ExternalIP", "address": "192.0.2.1" },
            { "type": "InternalIP", "address": "10.0.0.1" },
        ]);
        let node = json!({ "metadata": { "name": "one" }, "status": { "addresses": addresses } });
        let node: Node = serde_json::from_value(node).expect("a Node");
        let found: Vec<_> = internal_addresses(&node).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["fd00::1", "10.0.0.1"]);
    }
}
