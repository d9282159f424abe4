//! Ports and protocols.
//!
//! In: `spec.ports`. Out: parsed ports and issues. Never: ports of endpoints.

use std::collections::BTreeMap;

use super::{MAX_PORTS, Report, host};
use crate::model::{Port, Protocol, Reason, ServicePort};

/// All protocols, by the name that Istio has for each.
pub(super) const PROTOCOLS: [(&str, Protocol); 12] = [
    ("HTTP", Protocol::Http),
    ("HTTPS", Protocol::Https),
    ("HTTP2", Protocol::Http2),
    ("GRPC", Protocol::Grpc),
    ("GRPC-WEB", Protocol::GrpcWeb),
    ("HTTP_PROXY", Protocol::HttpProxy),
    ("MONGO", Protocol::Mongo),
    ("TCP", Protocol::Tcp),
    ("TLS", Protocol::Tls),
    ("UDP", Protocol::Udp),
    ("REDIS", Protocol::Redis),
    ("MYSQL", Protocol::Mysql),
];

pub(super) fn ports(raw: &[ServicePort], report: &mut Report) -> Vec<Port> {
    const FIELD: &str = "spec.ports";
    let mut ports = Vec::new();
    let mut numbers = BTreeMap::new();
    let mut names = BTreeMap::new();
    for (i, port) in report.limit(raw, MAX_PORTS, FIELD, Reason::TooManyPorts).iter().enumerate() {
        let field = format!("{FIELD}[{i}]");
        let number = number(port, &field, report);
        if let Some(number) = number
            && let Some(first) = numbers.insert(number, i)
        {
            let message =
                format!("port {number} is already listed as {FIELD}[{first}]; each port is listed once");
            report.error(format!("{field}.number"), Reason::PortDuplicate, message);
        }
        if !host::is_dns_label(&port.name) {
            let message = format!(
                "port name {:?} is not a DNS label: 1 to 63 letters, digits and '-', as in http-web",
                port.name
            );
            report.error(format!("{field}.name"), Reason::PortNameInvalid, message);
        } else if let Some(first) = names.insert(port.name.as_str(), i) {
            let message =
                format!("port name {:?} is already that of {FIELD}[{first}]; give each its own", port.name);
            report.error(format!("{field}.name"), Reason::PortNameDuplicate, message);
        }
        let protocol = protocol(&port.protocol, &field, report);
        let target_port = match port.target_port {
            None => number,
            Some(target) => port_number(target).or_else(|| {
                let message = format!("targetPort {target} is not in 1..65535");
                report.error(format!("{field}.targetPort"), Reason::TargetPortOutOfRange, message);
                None
            }),
        };
        if let (Some(number), Some(protocol), Some(target_port)) = (number, protocol, target_port) {
            ports.push(Port { number, name: port.name.clone(), protocol, target_port });
        }
    }
    ports
}

fn number(port: &ServicePort, field: &str, report: &mut Report) -> Option<u16> {
    let field = format!("{field}.number");
    let Some(number) = port.number else {
        let message = "the port has no number; write one in 1..65535";
        report.error(field, Reason::PortMissing, message);
        return None;
    };
    let valid = port_number(number);
    if valid.is_none() {
        report.error(field, Reason::PortOutOfRange, format!("port {number} is not in 1..65535"));
    }
    valid
}

/// `number` as a port, if it is one.
pub(super) fn port_number(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|n| *n != 0)
}

/// The protocol called `text`. None means that Istio looks at the bytes; at this layer those are just TCP.
pub(super) fn protocol_named(text: &str) -> Option<Protocol> {
    if text.is_empty() {
        return Some(Protocol::Tcp);
    }
    PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, p)| *p)
}

fn protocol(text: &str, field: &str, report: &mut Report) -> Option<Protocol> {
    let found = protocol_named(text);
    if found.is_none() {
        let known: Vec<_> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        let message = format!("protocol {text:?} does not exist; write one of {}", known.join(", "));
        report.error(format!("{field}.protocol"), Reason::ProtocolUnknown, message);
    }
    found
}

impl Protocol {
    /// Whether requests name their host in a header.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb | Self::HttpProxy)
    }

    /// Whether connections name their host in the TLS handshake.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}
