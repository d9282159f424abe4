//! Rules that look at several fields of a ServiceEntry.
//!
//! In: the fields as written and as parsed. Out: issues. Never: what one field alone says.

use std::collections::BTreeSet;

use super::{Report, host, port};
use crate::model::{Entry, HostName, Location, Protocol, Reason, Resolution, ServiceEntrySpec, Transport};

/// Checks `spec`; `entry` is what came of its valid parts.
pub(super) fn check(entry: &Entry, spec: &ServiceEntrySpec, report: &mut Report) {
    let resolution = entry.resolution;
    if !matches!(resolution, Resolution::None | Resolution::Static) {
        cidrs(spec, report);
    }
    match resolution {
        Resolution::None => none(spec, report),
        Resolution::Static => {}
        Resolution::Dns | Resolution::DnsRoundRobin => dns(spec, resolution, report),
        Resolution::DynamicDns => dynamic_dns(entry, spec, report),
    }
    let hosts: BTreeSet<_> = spec.hosts.iter().map(|h| HostName::new(h)).collect();
    if hosts.len() > 1 && resolution != Resolution::None {
        several_hosts(spec, hosts.len(), resolution, report);
    }
    if !has_address(entry) {
        unreachable_tcp(spec, report);
    }
}

fn cidrs(spec: &ServiceEntrySpec, report: &mut Report) {
    for (i, text) in spec.addresses.iter().enumerate().take(super::MAX_ADDRESSES) {
        if host::network(text).is_some_and(|a| a.prefix_len() != a.max_prefix_len()) {
            let message = format!("CIDR {text} needs resolution NONE or STATIC; list single addresses");
            report.error(format!("spec.addresses[{i}]"), Reason::CidrNotAllowed, message);
        }
    }
}

fn none(spec: &ServiceEntrySpec, report: &mut Report) {
    if !spec.endpoints.is_empty() {
        let message = "resolution NONE connects to the address dialled and cannot have endpoints; use STATIC \
                       or DNS, or remove them";
        report.error("spec.endpoints", Reason::EndpointsNotAllowed, message);
    }
    for (i, listed) in spec.ports.iter().enumerate().take(super::MAX_PORTS) {
        let target = listed.target_port.and_then(port::port_number);
        if target.is_some() && listed.target_port != listed.number {
            let message = "with resolution NONE connections go to the port that is dialled; use STATIC or DNS for another";
            report.warn(format!("spec.ports[{i}].targetPort"), Reason::TargetPortNotUsed, message);
        }
    }
}

fn dns(spec: &ServiceEntrySpec, resolution: Resolution, report: &mut Report) {
    if spec.endpoints.is_empty() {
        for (field, host) in hosts(spec).filter(|(_, h)| h.starts_with('*') && h.len() > 1) {
            let message = format!(
                "host {host} is a wildcard, which has no address; list endpoints, or use DYNAMIC_DNS"
            );
            report.error(field, Reason::WildcardHostNeedsEndpoints, message);
        }
    }
    if resolution == Resolution::DnsRoundRobin && spec.endpoints.len() > 1 {
        let count = spec.endpoints.len();
        let message = format!("DNS_ROUND_ROBIN has at most one endpoint, but {count} are listed; use DNS");
        report.error("spec.endpoints", Reason::RoundRobinNeedsOneEndpoint, message);
    }
}

fn dynamic_dns(entry: &Entry, spec: &ServiceEntrySpec, report: &mut Report) {
    if entry.location == Location::MeshInternal && entry.waypoint.bound().is_some() {
        let message = "DYNAMIC_DNS with MESH_INTERNAL cannot go through a waypoint; write MESH_EXTERNAL, or \
                       remove the label istio.io/use-waypoint";
        report.error("spec.location", Reason::DynamicDnsInternalWithWaypoint, message);
    }
    for (field, host) in hosts(spec).filter(|(_, h)| !h.starts_with('*')) {
        let message = format!("DYNAMIC_DNS is for wildcards, but host {host:?} is none; use DNS");
        report.error(field, Reason::DynamicDnsNeedsWildcard, message);
    }
    if !spec.addresses.is_empty() {
        let message = "with DYNAMIC_DNS each name gets an address of its own; remove the addresses";
        report.error("spec.addresses", Reason::DynamicDnsWithAddresses, message);
    }
    if !spec.endpoints.is_empty() {
        let message = "with DYNAMIC_DNS each name is its own endpoint; remove the endpoints";
        report.error("spec.endpoints", Reason::DynamicDnsWithEndpoints, message);
    }
    for (field, text, protocol) in protocols(spec) {
        if !matches!(protocol, Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tls) {
            let message = format!(
                "protocol {text:?} does not carry the name that DYNAMIC_DNS needs; write HTTP, HTTP2, GRPC or TLS"
            );
            report.error(field, Reason::DynamicDnsProtocol, message);
        }
    }
}

fn several_hosts(spec: &ServiceEntrySpec, count: usize, resolution: Resolution, report: &mut Report) {
    for (field, text, _) in protocols(spec).filter(|(.., p)| !p.is_http() && !p.is_tls()) {
        let message = format!(
            "protocol {text:?} carries no host name, so the {count} hosts cannot be told apart; write one entry \
             for each host"
        );
        report.error(field, Reason::MultipleHostsNeedHttpOrTls, message);
    }
    let is_dns = matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    let over_tcp = |p: Protocol| !p.is_http() && p.transport() == Transport::Tcp;
    if is_dns && !spec.addresses.is_empty() && protocols(spec).any(|(.., p)| over_tcp(p)) {
        let message = "the hosts share these addresses, so the address dialled does not say which host is \
                       meant; write one entry for each host";
        report.warn("spec.addresses", Reason::MultipleHostsShareAddress, message);
    }
}

/// Whether some address leads to the entry: one that is written, or one that may be allocated.
fn has_address(entry: &Entry) -> bool {
    let is_dynamic = entry.resolution == Resolution::DynamicDns;
    let may_be_allocated = entry.may_allocate
        && entry.resolution != Resolution::None
        && (is_dynamic || !entry.status_addresses.is_empty() || entry.hosts.iter().any(|h| !h.is_wildcard()));
    may_be_allocated || !entry.addresses.is_empty()
}

fn unreachable_tcp(spec: &ServiceEntrySpec, report: &mut Report) {
    if !spec.addresses.is_empty() {
        return; // All of them are invalid, which is said already.
    }
    for (field, ..) in protocols(spec).filter(|(.., p)| *p == Protocol::Tcp) {
        let message = "no address leads to this TCP port, and none is allocated; list spec.addresses";
        report.warn(field, Reason::TcpPortWithoutAddress, message);
    }
}

fn hosts(spec: &ServiceEntrySpec) -> impl Iterator<Item = (String, &String)> {
    let listed = spec.hosts.iter().enumerate().take(super::MAX_HOSTS);
    listed.map(|(i, host)| (format!("spec.hosts[{i}]"), host))
}

/// The field, text and meaning of each protocol that exists.
fn protocols(spec: &ServiceEntrySpec) -> impl Iterator<Item = (String, &str, Protocol)> {
    let listed = spec.ports.iter().enumerate().take(super::MAX_PORTS);
    listed.filter_map(|(i, port)| {
        let protocol = port::protocol_named(&port.protocol)?;
        let text = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        Some((format!("spec.ports[{i}].protocol"), text, protocol))
    })
}
