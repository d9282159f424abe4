//! What a client of one namespace would get, for people and for `plan`.
//!
//! In: the same values as `build`. Out: the JSON that the command line promises. Never: the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::Serialize;

use super::{
    AddressRange, Condition, Desired, Known, Leases, Scope, View, Vips,
    backends::{self, Of},
    build, conditions, dynamic_view, http_routes,
    shadows::shadows,
    view_for, waypoint,
    winner::{Ruling, ruling},
};
use crate::model::{
    EndpointAddress, Entry, HostName, Namespace, ObjectRef, Port, Protocol, Resolution, Snapshot,
};

/// Everything that clients of one namespace see.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Each host of each entry.
    pub services: Vec<ServicePlan>,
    /// The names that are answered here.
    pub names: Vec<NamePlan>,
}

/// One host of one entry.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the JSON keys of the command line's contract")]
pub struct ServicePlan {
    pub namespace: Namespace,
    pub name: String,
    pub host: HostName,
    pub resolution: Resolution,
    pub vips: Vec<AddressRange>,
    pub ports: Vec<PortPlan>,
    pub conditions: Vec<Condition>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the JSON keys of the command line's contract")]
pub struct PortPlan {
    pub name: String,
    pub number: u16,
    pub protocol: Protocol,
    /// `balance`, `passthrough`, `waypoint` or `unsupported`.
    pub mode: &'static str,
    /// With `waypoint`, those that the waypoint dials.
    pub backends: Vec<BackendPlan>,
}

/// One backend of a port.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the JSON keys of the command line's contract")]
pub struct BackendPlan {
    pub address: IpAddr,
    pub port: u16,
    pub weight: u32,
    pub source: String,
}

/// One name that is answered here.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names are the JSON keys of the command line's contract")]
pub struct NamePlan {
    pub name: HostName,
    pub addresses: Vec<IpAddr>,
    pub entry: String,
}

/// What clients of `namespace` get. Entries that they do not see are left out. Names below DYNAMIC_DNS wildcards are those
/// in `leases`.
#[must_use]
pub fn plan(known: Known<'_>, leases: &Leases, namespace: &Namespace) -> Plan {
    let Known { snapshot, vips, .. } = known;
    let scope = Scope::Namespace(namespace.clone());
    let mut plan = Plan { services: Vec::new(), names: Vec::new() };
    let mut desired = Desired::default();
    for host in snapshot.hosts() {
        desired.set(host, Some(build::host(known, host)));
    }
    let mut seen: BTreeMap<&HostName, Seen<'_>> = BTreeMap::new();
    for entry in snapshot.entries().filter(|e| e.is_visible_to(namespace)) {
        for host in &entry.hosts {
            let seen = seen.entry(host).or_insert_with(|| Seen::new(snapshot, host, &scope));
            let conditions = conditions::conditions(snapshot, &seen.ruling, host, &scope, entry);
            let serves = seen.serves.get(&entry.object).map(Vec::as_slice);
            let addresses = seen.addresses(host, vips.get(host));
            let mut service = service(known, entry, host, (addresses, serves), conditions);
            if let Some(ports) = serves {
                service.conditions.extend(shadows(&desired, host, namespace, &service.vips, ports));
            }
            plan.services.push(service);
        }
    }
    for host in snapshot.hosts() {
        let Some(view) = view_for(snapshot, host, &scope) else { continue };
        let (addresses, _) = view.vips(host, vips.get(host));
        plan.names.extend(name(host, &addresses, &view));
    }
    for (host, vips, _) in leases.iter() {
        let Some((wildcard, view)) = dynamic_view(snapshot, host, &scope) else { continue };
        let (addresses, _) = view.vips(host, vips);
        let ruling = ruling(snapshot, &wildcard, &scope);
        for (entry, ports) in &view.entries {
            let conditions = conditions::conditions(snapshot, &ruling, &wildcard, &scope, entry);
            let gets = (addresses.clone(), Some(ports.as_slice()));
            plan.services.push(service(known, entry, host, gets, conditions));
        }
        plan.names.extend(name(host, &addresses, &view));
    }
    plan
}

fn name(host: &HostName, addresses: &[AddressRange], view: &View<'_>) -> Option<NamePlan> {
    let addresses: Vec<_> = addresses.iter().filter_map(AddressRange::single).collect();
    let object = &view.primary().object;
    let entry = format!("{}/{}", object.namespace, object.name);
    (!addresses.is_empty()).then(|| NamePlan { name: host.clone(), addresses, entry })
}

/// What clients of one scope see of a host: many entries may name it.
struct Seen<'a> {
    ruling: Ruling<'a>,
    view: Option<View<'a>>,
    /// Entry -> the ports that it contributes.
    serves: BTreeMap<&'a ObjectRef, Vec<&'a Port>>,
}

impl<'a> Seen<'a> {
    fn new(snapshot: &'a Snapshot, host: &HostName, scope: &Scope) -> Self {
        let view = view_for(snapshot, host, scope);
        let serving = view.iter().flat_map(|view| &view.entries);
        let serves = serving.map(|(entry, ports)| (&entry.object, ports.clone())).collect();
        Self { ruling: ruling(snapshot, host, scope), serves, view }
    }

    fn addresses(&self, host: &HostName, allocated: Option<&Vips>) -> Vec<AddressRange> {
        self.view.as_ref().map(|view| view.vips(host, allocated).0).unwrap_or_default()
    }
}

/// What `entry` makes of `host`, with the addresses that the host has and the ports that the entry contributes, if it does.
fn service(
    known: Known<'_>,
    entry: &Entry,
    host: &HostName,
    (addresses, serves): (Vec<AddressRange>, Option<&[&Port]>),
    mut conditions: Vec<Condition>,
) -> ServicePlan {
    let mut ports = Vec::new();
    let mut ways = Vec::new();
    let mut problems = BTreeSet::new();
    for port in serves.into_iter().flatten() {
        let of = Of { entry, host, port };
        let found = backends::backends(known, of);
        problems.extend(found.problems);
        let way = waypoint::way(known, of);
        let backends = found.backends.into_iter().map(|b| BackendPlan {
            address: b.address,
            port: b.port,
            weight: b.weight,
            source: b.source.to_string(),
        });
        ports.push(PortPlan {
            name: port.name.clone(),
            number: port.number,
            protocol: port.protocol,
            mode: if way.is_through() { "waypoint" } else { mode(entry) },
            backends: backends.collect(),
        });
        ways.push((port.number, way));
    }
    for (reason, message) in problems {
        conditions::add(&mut conditions, reason, message);
    }
    conditions.extend(waypoint::condition(&ways));
    let services = serves.into_iter().flatten().map(|port| Of { entry, host, port });
    conditions.extend(http_routes::condition(known, services));
    if serves.is_some() {
        conditions.extend(limits(entry, host, &addresses));
    }
    ServicePlan {
        namespace: entry.object.namespace.clone(),
        name: entry.object.name.to_string(),
        host: host.clone(),
        resolution: entry.resolution,
        vips: addresses,
        ports,
        conditions,
    }
}

/// What people are told of the ways of all that an entry has, and of what becomes of requests there.
#[must_use]
pub fn entry_waypoint_conditions(known: Known<'_>, entry: &Entry) -> Vec<Condition> {
    let services =
        || entry.hosts.iter().flat_map(|host| entry.ports.iter().map(move |port| Of { entry, host, port }));
    let ways: Vec<_> = services().map(|of| (of.port.number, waypoint::way(known, of))).collect();
    waypoint::condition(&ways).into_iter().chain(http_routes::condition(known, services())).collect()
}

fn mode(entry: &Entry) -> &'static str {
    let only_unix = !entry.endpoints.is_empty()
        && entry.endpoints.iter().all(|e| matches!(e.address, EndpointAddress::Unix(_)));
    match entry.resolution {
        Resolution::None => "passthrough",
        _ if only_unix => "unsupported",
        _ => "balance",
    }
}

/// What gives a host that has no address one.
pub(crate) fn remedy_without_address(host: &HostName) -> &'static str {
    if host.is_wildcard() {
        "a wildcard host is allocated none; set spec.addresses, or resolution DYNAMIC_DNS"
    } else {
        "set spec.addresses, or allow allocation"
    }
}

/// What an accepted entry asks for that is not done here, or not at once.
fn limits(entry: &Entry, host: &HostName, vips: &[AddressRange]) -> Option<Condition> {
    let not_programmed = |reason, message: &str| {
        Some(Condition { kind: "Programmed", status: "False", reason, message: message.to_owned() })
    };
    match entry.resolution {
        Resolution::DynamicDns if host.is_wildcard() => Some(Condition {
            kind: "Programmed",
            status: "True",
            reason: "NamesOnDemand",
            message: format!("each name below {host} gets addresses of its own when a client asks for it"),
        }),
        Resolution::None => None,
        _ if vips.is_empty() => not_programmed(
            "NoAddress",
            &format!("there is no address to dial: {}", remedy_without_address(host)),
        ),
        _ if mode(entry) == "unsupported" => {
            not_programmed("UnixEndpoint", "an inet socket cannot be sent to a Unix socket")
        }
        _ => None,
    }
}
