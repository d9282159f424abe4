//! Hosts and addresses.
//!
//! In: `spec.hosts`, `spec.addresses`, `status.addresses`. Out: parsed values and issues. Never: resolution
//! of a name.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::{MAX_ADDRESSES, MAX_HOSTS, Report};
use crate::model::{HostName, Reason, StatusAddress};

pub(super) fn hosts(raw: &[String], report: &mut Report) -> Vec<HostName> {
    const FIELD: &str = "spec.hosts";
    if raw.is_empty() {
        report.error(FIELD, Reason::HostsMissing, "the entry has no hosts; list at least one DNS name");
    }
    let mut hosts = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, text) in report.limit(raw, MAX_HOSTS, FIELD, Reason::TooManyHosts).iter().enumerate() {
        let field = format!("{FIELD}[{i}]");
        if text == "*" {
            let message = "host * stands for every name, which is not allowed; write *.example.com, say";
            report.error(field, Reason::HostIsBareWildcard, message);
            continue;
        }
        if text.len() > 255 {
            let message = format!("a host of {} characters is too long; at most 255 are allowed", text.len());
            report.error(field, Reason::HostTooLong, message);
            continue;
        }
        if !text.is_ascii() {
            let message =
                format!("host {text:?} is not ASCII; write it as DNS has it, as in xn--bcher-kva.example");
            report.error(field, Reason::HostInvalid, message);
            continue;
        }
        if !is_host(text) {
            let message = format!(
                "host {text:?} is not a DNS name: labels of 1 to 63 letters, digits and '-', with dots between \
                 them, and at most a first label that is *"
            );
            report.error(field, Reason::HostInvalid, message);
            continue;
        }
        let host = HostName::new(text);
        if host.is_wildcard() && host.wildcard_suffix().is_none() {
            let message =
                format!("host {text:?} is a partial wildcard, which matches no name; write *.example.com");
            report.warn(field.clone(), Reason::HostPartialWildcard, message);
        }
        if seen.insert(host.clone()) {
            hosts.push(host);
        } else {
            report.warn(field, Reason::HostDuplicate, format!("host {host} is listed more than once"));
        }
    }
    hosts
}

/// Whether `text` is a DNS name, or one whose first label starts with `*`.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('*') {
        None => is_dns_name(text),
        // `*.foo.com`, and the partial `*foo.com` and `*-foo.com`.
        Some(rest) => rest.strip_prefix(['.', '-']).is_some_and(is_dns_name) || is_dns_name(rest),
    }
}

/// Whether `text` is a DNS name, with or without a dot at its end. An address is none.
pub(super) fn is_dns_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_number = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit());
    name.len() <= 255 && name.split('.').all(is_dns_label) && !name.rsplit('.').next().is_some_and(is_number)
}

/// Whether `text` is one label of a DNS name.
pub(super) fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(super) fn addresses(raw: &[String], report: &mut Report) -> Vec<IpNet> {
    const FIELD: &str = "spec.addresses";
    let mut addresses = Vec::new();
    for (i, text) in report.limit(raw, MAX_ADDRESSES, FIELD, Reason::TooManyAddresses).iter().enumerate() {
        match network(text) {
            Some(address) if !addresses.contains(&address) => addresses.push(address),
            Some(_) => {}
            None => {
                let message = format!(
                    "address {text:?} is neither an IP address nor a CIDR; write 10.0.0.1, 10.0.0.0/24 or \
                     2001:db8::/64, say"
                );
                report.error(format!("{FIELD}[{i}]"), Reason::AddressInvalid, message);
            }
        }
    }
    addresses
}

/// An address or a masked CIDR; IPv4 in its own family, also when written as `::ffff:10.0.0.1`.
pub(super) fn network(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(IpNet::from(address.to_canonical()));
    }
    let network = text.parse::<IpNet>().ok()?;
    match (network.addr().to_canonical(), network.addr()) {
        (IpAddr::V4(v4), IpAddr::V6(_)) if network.prefix_len() >= 96 => {
            Some(IpNet::new(IpAddr::V4(v4), network.prefix_len() - 96).ok()?.trunc())
        }
        _ => Some(network.trunc()),
    }
}

/// Somebody else wrote these, so a bad one is only left out.
pub(super) fn status_addresses(
    raw: &[StatusAddress],
    report: &mut Report,
) -> Vec<(IpAddr, Option<HostName>)> {
    let mut addresses = Vec::new();
    for (i, address) in raw.iter().enumerate() {
        match address.value.parse::<IpAddr>() {
            Ok(ip) => {
                let host = (!address.host.is_empty()).then(|| HostName::new(&address.host));
                let address = (ip.to_canonical(), host);
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            Err(_) => {
                let message = format!("{:?} is not an IP address, so it is ignored", address.value);
                report.warn(format!("status.addresses[{i}].value"), Reason::StatusAddressInvalid, message);
            }
        }
    }
    addresses
}
