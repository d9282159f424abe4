//! Endpoints, listed in a ServiceEntry or alone as a WorkloadEntry.
//!
//! In: raw endpoints and what they are for. Out: parsed endpoints and issues. Never: resolution of a name.

use std::{collections::BTreeMap, net::IpAddr};

use super::{MAX_ENDPOINTS, Report, cluster, host, metadata, port::port_number};
use crate::model::{Endpoint, EndpointAddress, HostName, Reason, Resolution, ServicePort, WorkloadEntrySpec};

/// What an endpoint is for, which decides what it may be.
#[derive(Clone, Copy)]
pub(super) enum Role<'a> {
    /// Listed in an entry with this resolution (none: an unknown one) and these ports.
    Listed { resolution: Option<Resolution>, ports: &'a [ServicePort] },
    /// A WorkloadEntry: which entries select it is not known here.
    Workload,
}

pub(super) fn listed(raw: &[WorkloadEntrySpec], role: Role<'_>, report: &mut Report) -> Vec<Endpoint> {
    const FIELD: &str = "spec.endpoints";
    let checked = report.limit(raw, MAX_ENDPOINTS, FIELD, Reason::TooManyEndpoints);
    checked.iter().enumerate().map(|(i, e)| single(e, &format!("{FIELD}[{i}]"), role, report)).collect()
}

/// Checks one endpoint. What is returned for a bad one has no meaning; there is an error then.
pub(super) fn single(raw: &WorkloadEntrySpec, field: &str, role: Role<'_>, report: &mut Report) -> Endpoint {
    let address = address(raw, field, role, report);
    let ports = ports(raw, field, role, &address, report);
    metadata::labels(&raw.labels, &format!("{field}.labels"), report);
    limits(raw, field, report);
    let weight = raw.weight.unwrap_or(0);
    let weight = u32::try_from(weight).unwrap_or_else(|_| {
        let message = format!("weight {weight} is not in 0..4294967295");
        report.error(format!("{field}.weight"), Reason::WeightOutOfRange, message);
        1
    });
    Endpoint {
        address,
        ports,
        weight: weight.max(1),
        locality: match raw.locality.as_str() {
            "" => cluster::locality_label(&raw.labels).unwrap_or_default(),
            locality => locality.to_owned(),
        },
        network: raw.network.clone(),
        labels: raw.labels.clone(),
        service_account: raw.service_account.clone(),
        node: String::new(),
    }
}

/// The sizes that the API server allows.
fn limits(raw: &WorkloadEntrySpec, field: &str, report: &mut Report) {
    for (name, text, max) in [
        ("network", &raw.network, 2048),
        ("locality", &raw.locality, 2048),
        ("serviceAccount", &raw.service_account, 253),
    ] {
        if text.len() > max {
            let message = format!("{} characters are too long; at most {max} are allowed", text.len());
            report.error(format!("{field}.{name}"), Reason::FieldTooLong, message);
        }
    }
    for (name, count, max, reason) in [
        ("ports", raw.ports.len(), 128, Reason::TooManyEndpointPorts),
        ("labels", raw.labels.len(), 256, Reason::TooManyLabels),
    ] {
        if count > max {
            let message = format!("{count} are listed, at most {max} are allowed");
            report.error(format!("{field}.{name}"), reason, message);
        }
    }
}

fn address(raw: &WorkloadEntrySpec, field: &str, role: Role<'_>, report: &mut Report) -> EndpointAddress {
    let text = raw.address.as_str();
    let field = format!("{field}.address");
    if text.is_empty() {
        if let Role::Listed { resolution: Some(Resolution::Dns | Resolution::DnsRoundRobin), .. } = role {
            let message = "with resolution DNS an endpoint needs an address: an IP address or a DNS name";
            report.error(field, Reason::EndpointAddressMissing, message);
        } else if raw.network.is_empty() {
            let message = "the endpoint has neither an address nor a network; write its address";
            report.error(field, Reason::EndpointAddressMissing, message);
        } else {
            let message = format!(
                "only network {:?} is given, which needs a gateway of that network; such an endpoint gets no \
                 connections here",
                raw.network
            );
            report.warn(field, Reason::EndpointNetworkOnly, message);
        }
        return EndpointAddress::None;
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return EndpointAddress::Ip(ip.to_canonical());
    }
    let resolution = match role {
        Role::Listed { resolution, .. } => resolution,
        Role::Workload => None,
    };
    let names_allowed = !matches!(resolution, Some(Resolution::Static));
    let unix_allowed = !matches!(resolution, Some(Resolution::Dns | Resolution::DnsRoundRobin));
    if let Some(path) = text.strip_prefix("unix://").filter(|_| unix_allowed) {
        unix(path, &field, report);
        return EndpointAddress::Unix(path.to_owned());
    }
    if !host::is_dns_name(text) {
        let expected =
            if names_allowed { "an IP address nor a DNS name" } else { "an IP address nor unix://" };
        let message = format!("endpoint address {text:?} is neither {expected}");
        report.error(field, Reason::EndpointAddressInvalid, message);
    } else if !names_allowed {
        let message =
            format!("{text:?} is a name, but STATIC takes addresses as they are; use resolution DNS");
        report.error(field, Reason::EndpointNotAnIp, message);
    }
    EndpointAddress::Name(HostName::new(text))
}

fn unix(path: &str, field: &str, report: &mut Report) {
    // `@name` is a socket without a file.
    let is_abstract = path.len() > 1 && path.starts_with('@');
    if is_abstract || (path.starts_with('/') && !path.ends_with('/')) {
        let message = "a Unix socket cannot be reached from an inet socket, so it gets no connections here";
        report.warn(field, Reason::UnixEndpointUnreachable, message);
    } else {
        let message = format!(
            "Unix path {path:?} is not the absolute path of a file nor @name; write unix:///run/app.sock, say"
        );
        report.error(field, Reason::UnixPathInvalid, message);
    }
}

fn ports(
    raw: &WorkloadEntrySpec,
    field: &str,
    role: Role<'_>,
    address: &EndpointAddress,
    report: &mut Report,
) -> BTreeMap<String, u16> {
    if matches!(address, EndpointAddress::Unix(_)) {
        if !raw.ports.is_empty() {
            let message = "a Unix socket has no ports; remove them";
            report.error(format!("{field}.ports"), Reason::UnixEndpointWithPorts, message);
        }
        if let Role::Listed { ports, .. } = role
            && ports.len() != 1
        {
            let message =
                format!("a Unix socket serves exactly one service port, but the entry has {}", ports.len());
            report.error(format!("{field}.address"), Reason::UnixEndpointNeedsOnePort, message);
        }
        return BTreeMap::new();
    }
    let mut ports = BTreeMap::new();
    for (name, number) in &raw.ports {
        let field = format!("{field}.ports.{name}");
        match role {
            Role::Listed { ports, .. } if !ports.iter().any(|p| p.name == *name) => {
                let message = format!("the entry has no port named {name:?}; use a name of spec.ports");
                report.error(field.clone(), Reason::EndpointPortUnknown, message);
            }
            Role::Workload if !host::is_dns_label(name) => {
                let message =
                    format!("port name {name:?} is not a DNS label: 1 to 63 letters, digits and '-'");
                report.error(field.clone(), Reason::EndpointPortNameInvalid, message);
            }
            _ => {}
        }
        match port_number(*number) {
            Some(number) => {
                ports.insert(name.clone(), number);
            }
            None => {
                let message = format!("port {number} is not in 1..65535");
                report.error(field, Reason::EndpointPortOutOfRange, message);
            }
        }
    }
    ports
}
