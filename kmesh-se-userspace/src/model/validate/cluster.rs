//! Pods, Services, Nodes and Namespaces: what entries need to know of them.
//!
//! In: the raw objects, which the API server has checked. Out: workloads, hosts, localities. Never: a rejection of what
//! only other programs care about.

use std::collections::BTreeMap;

use super::{Report, metadata};
use crate::model::{
    CLUSTER_DOMAIN, ClusterHost, ClusterObject, ConfigMap, Endpoint, EndpointAddress, ExportTo, HostName,
    Kind, KubeNamespace, KubeService, Locality, Namespace, Node, Pod, Reason, Verdict, WaypointProxies,
    Workload,
};

/// On a Service: who sees it, as `spec.exportTo` says for an entry.
const EXPORT_TO: &str = "networking.istio.io/exportTo";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";

/// A Pod as a workload. One that has no address yet, or has ended, gets no connections.
pub(super) fn pod(raw: &Pod) -> Verdict<Workload> {
    let mut report = Report::default();
    metadata::check(&raw.metadata, &mut report);
    let status = &raw.status;
    let ports = container_ports(raw);
    let locality = locality_label(&raw.metadata.labels).unwrap_or_default();
    let mut endpoints = Vec::new();
    for text in status.addresses() {
        match text.parse::<std::net::IpAddr>() {
            Ok(address) => endpoints.push(Endpoint {
                address: EndpointAddress::Ip(address.to_canonical()),
                ports: ports.clone(),
                weight: 1,
                locality: locality.clone(),
                network: String::new(),
                labels: BTreeMap::new(),
                service_account: raw.spec.service_account_name.clone(),
                node: raw.spec.node_name.clone(),
            }),
            Err(_) => {
                let message = format!("{text:?} is not an IP address, so it is ignored");
                report.warn("status.podIPs", Reason::StatusAddressInvalid, message);
            }
        }
    }
    let workload = Workload {
        object: raw.metadata.object_ref(Kind::Pod),
        labels: raw.metadata.labels.clone(),
        endpoints,
        is_ready: status.is_ready() && !status.has_ended() && raw.metadata.deletion_timestamp.is_none(),
    };
    report.into_verdict(workload, |_, _| {})
}

/// The named ports of the containers that run all the time; of several with one name the first.
fn container_ports(pod: &Pod) -> BTreeMap<String, u16> {
    let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy == "Always");
    let mut ports = BTreeMap::new();
    for port in pod.spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports) {
        if let Some(number) = super::port::port_number(port.container_port).filter(|_| !port.name.is_empty())
        {
            ports.entry(port.name.clone()).or_insert(number);
        }
    }
    ports
}

/// The locality that a label says, where there is no other; `.` stands for `/`, which labels cannot have.
pub(super) fn locality_label(labels: &BTreeMap<String, String>) -> Option<String> {
    let text = labels.get("topology.istio.io/locality").or_else(|| labels.get("istio-locality"))?;
    Some(if text.contains('/') { text.clone() } else { text.replace('.', "/") })
}

/// The host that a Service has in the cluster's own DNS. Names of type ExternalName are aliases and have none.
pub(super) fn service(raw: &KubeService) -> Verdict<ClusterHost> {
    let mut report = Report::default();
    metadata::check(&raw.metadata, &mut report);
    let object = raw.metadata.object_ref(Kind::Service);
    let host = HostName::new(&format!("{}.{}.svc.{CLUSTER_DOMAIN}", object.name, object.namespace));
    let listed = raw.metadata.annotations.get(EXPORT_TO).map_or("", String::as_str);
    let listed: Vec<&str> = listed.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
    let export_to = if listed.is_empty() || listed.contains(&"*") {
        ExportTo::All
    } else if listed.contains(&"~") {
        ExportTo::Nobody
    } else {
        let own = object.namespace.as_str();
        ExportTo::Namespaces(listed.iter().map(|n| Namespace::new(if *n == "." { own } else { n })).collect())
    };
    let is_alias = raw.spec.type_ == "ExternalName";
    report.into_verdict(ClusterHost { object, host, export_to, is_alias }, |_, _| {})
}

pub(super) fn node(raw: &ClusterObject) -> Verdict<Node> {
    let mut report = Report::default();
    metadata::check(&raw.metadata, &mut report);
    let label = |key| raw.metadata.labels.get(key).cloned().unwrap_or_default();
    let locality = Locality { region: label(REGION), zone: label(ZONE), subzone: label(SUBZONE) };
    report.into_verdict(Node { object: raw.object_ref(Kind::Node), locality }, |_, _| {})
}

pub(super) fn namespace(raw: &ClusterObject) -> Verdict<KubeNamespace> {
    let mut report = Report::default();
    metadata::check(&raw.metadata, &mut report);
    let traffic_distribution = metadata::traffic_distribution(&raw.metadata.annotations, &mut report);
    let object = raw.object_ref(Kind::Namespace);
    let waypoint = metadata::waypoint(&raw.metadata.labels, &Namespace::new(&object.name), &mut report);
    report.into_verdict(KubeNamespace { object, traffic_distribution, waypoint }, |_, _| {})
}

/// What the controller tells of a waypoint.
pub(super) fn waypoint(raw: &ConfigMap) -> Verdict<WaypointProxies> {
    match WaypointProxies::read(raw.metadata.object_ref(Kind::ConfigMap), &raw.data) {
        Ok(proxies) => Report::default().into_verdict(proxies, |_, _| {}),
        Err(errors) => Verdict { accepted: None, errors, warnings: Vec::new() },
    }
}

#[cfg(test)]
mod tests;
