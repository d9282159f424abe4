//! What hosts get, in tables of behaviour; and what holds for all of them together.

mod backends;
mod claims;
mod generated;
mod growth;
mod http_routes;
mod names;
mod properties;
mod ranges;
mod views;
mod vips;
mod waypoint;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use jiff::Timestamp;

use super::*;
use crate::model::{
    Addresses, Endpoint, EndpointAddress, Entry, ExportTo, HostName, Kind, Location, Namespace, ObjectRef,
    Port, Protocol, Resolution, Resolved, Snapshot, WaypointLabel, Workload,
};

/// A STATIC entry without endpoints that everybody sees, with the port 80 named `http`; `age` is the second of its
/// creation.
fn entry(object: &str, age: i64, host: &str) -> Entry {
    Entry {
        object: object_ref(Kind::ServiceEntry, object),
        created: Some(Timestamp::from_second(age).expect("a time")),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        hosts: vec![HostName::new(host)],
        addresses: Vec::new(),
        status_addresses: Vec::new(),
        may_allocate: true,
        ports: vec![port(80, "http")],
        location: Location::default(),
        resolution: Resolution::Static,
        endpoints: Vec::new(),
        workload_selector: None,
        export_to: ExportTo::All,
        subject_alt_names: Vec::new(),
        traffic_distribution: None,
        waypoint: WaypointLabel::Unset,
        warnings: Vec::new(),
    }
}

fn with(mut entry: Entry, change: impl FnOnce(&mut Entry)) -> Entry {
    change(&mut entry);
    entry
}

fn object_ref(kind: Kind, text: &str) -> ObjectRef {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ObjectRef { kind, namespace: Namespace::new(namespace), name: name.into() }
}

fn port(number: u16, name: &str) -> Port {
    Port { number, name: name.to_owned(), protocol: Protocol::Http, target_port: number }
}

/// An endpoint at an address or a name.
fn endpoint(address: &str) -> Endpoint {
    let mut endpoint = Endpoint::of_name(HostName::new(address));
    if let Ok(ip) = address.parse() {
        endpoint.address = EndpointAddress::Ip(ip);
    }
    endpoint
}

fn workload(object: &str, labels: &[(&str, &str)], address: &str) -> Workload {
    Workload {
        object: object_ref(Kind::WorkloadEntry, object),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        endpoints: vec![endpoint(address)],
        is_ready: true,
    }
}

fn snapshot(entries: impl IntoIterator<Item = Entry>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for entry in entries {
        snapshot.apply_entry(Arc::new(entry));
    }
    snapshot
}

fn resolved(names: &[(&str, &[&str])]) -> Resolved {
    let mut resolved = Resolved::new();
    for (name, addresses) in names {
        let found: &mut Addresses = resolved.entry(HostName::new(name)).or_default();
        for address in *addresses {
            match address.parse().expect("an address") {
                IpAddr::V4(v4) => found.v4.push(v4),
                IpAddr::V6(v6) => found.v6.push(v6),
            }
        }
    }
    resolved
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The first addresses of both default ranges.
fn first_vips() -> Vips {
    Vips { v4: "240.240.0.1".parse().ok(), v6: "2001:2::1".parse().ok() }
}

/// The host `a.com` with the first VIPs.
fn built(snapshot: &Snapshot, resolved: &Resolved) -> HostDesired {
    built_with(snapshot, resolved, first_vips(), "a.com")
}

/// The host `name` with these VIPs.
fn built_with(snapshot: &Snapshot, resolved: &Resolved, vips: Vips, name: &str) -> HostDesired {
    let name = HostName::new(name);
    let mut pool = VipPool::new(VipRanges::default());
    pool.restore(&name, vips);
    host(Known { snapshot, resolved, vips: &pool, waypoints: &NO_WAYPOINTS }, &name)
}

/// The backends of each port that a client of `namespace` (`*`: one without entries) gets at `address`, as
/// `80: 10.0.0.1:80*1`.
fn seen_at(desired: &HostDesired, namespace: &str, address: &str) -> Vec<String> {
    let own = Scope::Namespace(Namespace::new(namespace));
    let known = |scope: &Scope| {
        desired.tables.addresses.contains_key(&Address { scope: scope.clone(), address: ip(address).into() })
    };
    let scope = if known(&own) { own } else { Scope::Mesh };
    let frontends = desired.tables.frontends.iter();
    let frontends = frontends.filter(|(f, _)| f.scope == scope && f.address == ip(address).into());
    frontends.map(|(f, key)| format!("{}: {}", f.port, text(&desired.tables.backends_of(key)))).collect()
}

fn text(backends: &[Backend]) -> String {
    let each = backends.iter().map(|b| format!("{}:{}*{}", b.address, b.port, b.weight));
    each.collect::<Vec<_>>().join(" ")
}
