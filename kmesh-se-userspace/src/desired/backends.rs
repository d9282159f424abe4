//! From an entry's endpoints to backends.
//!
//! In: an entry, one of its ports, the workloads it selects and resolved names. Out: backends, each address and port
//! once. Never: a health or locality decision.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::Backend;
use crate::model::{Addresses, Endpoint, EndpointAddress, Entry, HostName, Port, Resolution, Resolved};

/// The backends of `port`, sorted by address; an address that occurs twice has the sum of the weights.
pub(super) fn backends<'a>(
    entry: &'a Entry,
    host: &'a HostName,
    port: &Port,
    listed: impl Iterator<Item = &'a Endpoint>,
    resolved: &Resolved,
) -> Vec<Backend> {
    let own_host;
    let endpoints: Vec<&Endpoint> = match entry.resolution {
        Resolution::None | Resolution::DynamicDns => Vec::new(),
        _ if resolves_host(entry) => {
            own_host = Endpoint::of_name(host.clone());
            vec![&own_host]
        }
        _ => listed.collect(),
    };
    let mut found: BTreeMap<(IpAddr, u16), (u32, Arc<str>)> = BTreeMap::new();
    for endpoint in endpoints {
        let number = endpoint.ports.get(&port.name).copied().unwrap_or(port.target_port);
        for (address, source) in addresses(entry.resolution, endpoint, resolved) {
            let weight = &mut found.entry((address.to_canonical(), number)).or_insert((0, source)).0;
            *weight = weight.saturating_add(endpoint.weight);
        }
    }
    found
        .into_iter()
        .map(|((address, port), (weight, source))| Backend { address, port, weight, source })
        .collect()
}

/// Whether `entry` has no endpoints, so that its host itself is resolved.
pub(super) fn resolves_host(entry: &Entry) -> bool {
    matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin)
        && entry.endpoints.is_empty()
        && entry.workload_selector.is_none()
}

/// The names that `endpoints` need resolved.
pub(super) fn names<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> impl Iterator<Item = &'a HostName> {
    endpoints.filter_map(|e| match &e.address {
        EndpointAddress::Name(name) => Some(name),
        _ => None,
    })
}

/// The addresses of `endpoint` with what each came from. Round robin uses the first address of an answer.
fn addresses(resolution: Resolution, endpoint: &Endpoint, resolved: &Resolved) -> Vec<(IpAddr, Arc<str>)> {
    match &endpoint.address {
        EndpointAddress::Ip(address) => vec![(*address, address.to_string().into())],
        EndpointAddress::Name(name) => {
            let limit = if resolution == Resolution::DnsRoundRobin { 1 } else { usize::MAX };
            let found = resolved.get(name).into_iter().flat_map(Addresses::iter).take(limit);
            found.map(|address| (address, name.as_str().into())).collect()
        }
        EndpointAddress::Unix(_) | EndpointAddress::None => Vec::new(),
    }
}
