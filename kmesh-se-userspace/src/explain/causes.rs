//! Why a way ends: each cause in words that say what to do.
//!
//! In: facts about the step at which it ends. Out: a [`Cause`]. Never: a cause that is only likely.

use super::{
    Cause, Dial, Facts,
    facts::{EntryFacts, LiveService, NameFacts, RejectedFacts, SourceFacts, Trouble},
};
use crate::{
    desired::{ServiceKey, Unlisted, remedy_without_address},
    model::{HostName, Resolution, Transport},
};

/// `1 cgroup`, `2 cgroups`.
pub(super) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn word(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
    }
}

pub(super) fn rejected_text(rejected: &RejectedFacts) -> String {
    format!("{} was rejected: {}", rejected.object, rejected.errors.join("; "))
}

/// No accepted entry and no rejected object names the host.
pub(super) fn unknown_name(facts: &Facts) -> Cause {
    let host = facts.asked.host.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut message = format!("no ServiceEntry names {host}: the client's own resolver answers it");
    if facts.agent.problems > 0 {
        let inputs = count(facts.agent.problems, "input");
        message.push_str(&format!("; {inputs} could not be read, see kmesh-se status"));
    }
    Cause::new("NameUnknown", message)
}

/// Why the DNS server does not answer a host that some object names.
pub(super) fn unanswered(facts: &Facts, name: &NameFacts) -> Cause {
    let visible: Vec<_> = name.entries.iter().filter(|entry| entry.is_visible).collect();
    let Some(primary) = visible.iter().find(|entry| !entry.serves.is_empty()).or(visible.first()) else {
        return unseen(facts, name);
    };
    if let Some(service) = &name.service {
        let message = format!(
            "clients of {} get {} from {service}, whose name it is: the client's own resolver answers it",
            facts.namespace, name.host
        );
        return Cause::new("KubernetesServiceWins", message);
    }
    if let Some(failure) = name.failures.first() {
        return Cause::new(&failure.reason, format!("{}: {}", name.host, failure.message));
    }
    let object = &primary.object;
    match primary.resolution {
        Resolution::None => {
            return Cause::new(
                "Passthrough",
                format!(
                    "{object} has resolution NONE: the client's own resolver answers {}, and connections go straight \
                     there",
                    name.host
                ),
            );
        }
        Resolution::DynamicDns => {
            return Cause::new(
                "NamesOnDemand",
                format!(
                    "{object} has resolution DYNAMIC_DNS: {} is not in use, or has no address; a name below the wildcard \
                     gets addresses when a client asks for it",
                    facts.asked.host.as_ref().map_or_else(|| name.host.clone(), ToString::to_string),
                ),
            );
        }
        Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => {}
    }
    if name.vips.is_empty() {
        if !primary.ranges.is_empty() {
            let ranges: Vec<_> = primary.ranges.iter().map(ToString::to_string).collect();
            let message = format!(
                "{object} has only ranges of addresses ({}), of which no name can be one: the client's own resolver \
                 answers {}; explain an address of a range, or list a single address",
                ranges.join(", "),
                name.host
            );
            return Cause::new("OnlyRanges", message);
        }
        if let Some(pending) = &name.pending {
            return Cause::new("AddressPending", format!("pending: {pending}"));
        }
        return Cause::new(
            "NoAddress",
            format!(
                "{object} has no address to dial: {}",
                remedy_without_address(&HostName::new(&name.host))
            ),
        );
    }
    // It has addresses, but is not answered: it waits for the first answer of a name.
    no_backend_of(facts, primary)
}

/// No accepted entry that names the host is visible.
fn unseen(facts: &Facts, name: &NameFacts) -> Cause {
    let namespace = &facts.namespace;
    if name.entries.is_empty() {
        let texts: Vec<_> = name.rejected.iter().map(rejected_text).collect();
        return match texts.is_empty() {
            true => unknown_name(facts),
            false => Cause::new("Rejected", texts.join("; ")),
        };
    }
    let hidden: Vec<_> = name
        .entries
        .iter()
        .map(|entry| format!("{} is visible to {}", entry.object, entry.visible_to))
        .collect();
    let message = format!(
        "clients of {namespace} do not see {}: {}; add {namespace} to its exportTo",
        name.host,
        hidden.join(", ")
    );
    Cause::new("HiddenByExportTo", message)
}

/// The host has no port of the asked transport at all.
pub(super) fn no_port_of_transport(facts: &Facts) -> Cause {
    let asked = word(facts.asked.transport());
    let name = facts.name.as_ref();
    let host = name.map(|name| name.host.clone()).unwrap_or_default();
    Cause::new("PortNotListed", format!("{host} has no {asked} port: it has {}", listed(name)))
}

/// The ports that clients of the namespace can dial.
fn listed(name: Option<&NameFacts>) -> String {
    let mut ports: Vec<_> =
        name.into_iter().flat_map(|n| &n.entries).flat_map(|e| e.serves.clone()).collect();
    ports.sort_unstable();
    let ports: Vec<_> =
        ports.iter().map(|(port, transport)| format!("{port}/{}", word(*transport))).collect();
    if ports.is_empty() { "none".to_owned() } else { ports.join(", ") }
}

/// The kernel has no frontend for the dial; `unlisted` is what it knows of the address.
pub(super) fn no_frontend(facts: &Facts, dial: &Dial, unlisted: Option<Unlisted>) -> Cause {
    let shown = dial.shown();
    let name = facts.name.as_ref();
    if let (Some((_, own)), Some(straight)) = (&dial.own, &dial.straight) {
        return Cause::new(
            "Shadowed",
            format!(
                "{shown} of {} ({}) goes straight to the address dialled, as the older {straight} has it by resolution \
                 NONE: give one of them another address",
                own.host, own.entry
            ),
        );
    }
    if dial.own.is_some() || dial.winner.is_some() {
        if let Some(failure) = name.and_then(|name| name.failures.first()) {
            return Cause::new(
                &failure.reason,
                format!("{shown} could not be programmed: {}", failure.message),
            );
        }
        return Cause::new(
            "MapsDiffer",
            format!(
                "{shown} should be a frontend, but the kernel's map does not hold it: somebody else removed it; \
                     restart the agent, and see kmesh-se dump actual --kernel"
            ),
        );
    }
    let Some(name) = name else {
        return match unlisted {
            None => Cause::new(
                "NotOurs",
                format!(
                    "{} is no address of a ServiceEntry that clients of {} see: connections pass unchanged",
                    dial.address, facts.namespace
                ),
            ),
            Some(_) => Cause::new(
                "MapsDiffer",
                format!("the kernel knows {}, but no ServiceEntry wants it: restart the agent", dial.address),
            ),
        };
    };
    let serving = name.entries.iter().find(|entry| !entry.serves.is_empty());
    if let Some(entry) = serving.filter(|entry| entry.resolution == Resolution::None) {
        let message =
            format!("{} has resolution NONE: connections to {shown} go straight there", entry.object);
        return Cause::new("Passthrough", message);
    }
    let wanted = (dial.port, dial.transport);
    let lists = |entry: &&EntryFacts| entry.is_visible && entry.ports.contains(&wanted);
    if let Some(loser) = name.entries.iter().find(lists) {
        let winner = name.entries.iter().find(|entry| !entry.serves.is_empty());
        let winner = winner.map_or("another entry", |entry| entry.object.as_str());
        return Cause::new(
            "Shadowed",
            format!(
                "{} lists port {}/{} of {}, but the older {winner} decides for clients of {}: it has {}",
                loser.object,
                dial.port,
                word(dial.transport),
                name.host,
                facts.namespace,
                listed(Some(name))
            ),
        );
    }
    let fate = match (unlisted, dial.transport) {
        (Some(Unlisted::Refuse), Transport::Tcp) => "connections are refused",
        // A connect of a datagram socket passes: resolver libraries do so only to sort addresses.
        (Some(Unlisted::Refuse), Transport::Udp) => "datagrams are refused",
        (Some(Unlisted::Pass) | None, _) => "connections are passed through",
    };
    Cause::new(
        "PortNotListed",
        format!(
            "{} has no port {}/{}, so {fate}: it has {}",
            name.host,
            dial.port,
            word(dial.transport),
            listed(Some(name))
        ),
    )
}

/// An older host has the address and port.
pub(super) fn address_taken(dial: &Dial, own: &ServiceKey, live: &ServiceKey) -> Cause {
    Cause::new(
        "Shadowed",
        format!(
            "{} of {} ({}) leads to {} of the older {}: give one of them another address",
            dial.shown(),
            own.host,
            own.entry,
            live.host,
            live.entry
        ),
    )
}

/// A service has no slots.
pub(super) fn no_backend(facts: &Facts, service: &LiveService) -> Cause {
    let entry = service.key.as_ref().and_then(|key| {
        let object = key.entry.to_string();
        facts.name.as_ref()?.entries.iter().find(|entry| entry.object == object)
    });
    if !service.wanted.is_empty() {
        if let Some(failure) = facts.name.as_ref().and_then(|name| name.failures.first()) {
            return Cause::new(&failure.reason, failure.message.clone());
        }
        return Cause::new(
            "MapsDiffer",
            "the service should have backends, but the kernel's map has none: restart the agent".to_owned(),
        );
    }
    if let Some(waypoint) =
        service.waypoint.as_ref().filter(|waypoint| waypoint.reason != "WaypointUnsupported")
    {
        return Cause::new(&waypoint.reason, waypoint.message.clone());
    }
    match entry {
        Some(entry) => no_backend_of(facts, entry),
        None => Cause::new("NoBackend", "the service has no backend, and no accepted entry explains it"),
    }
}

/// Why an entry gives no backend.
fn no_backend_of(facts: &Facts, entry: &EntryFacts) -> Cause {
    let object = &entry.object;
    if entry.names.is_empty() {
        if entry.only_unix {
            let message = format!(
                "{object} has only Unix sockets as endpoints, which an inet socket cannot be sent to"
            );
            return Cause::new("UnixEndpoint", message);
        }
        let message = if entry.has_selector {
            format!("{object} selects workloads, and none matches its workloadSelector")
        } else if entry.endpoints == 0 {
            format!("{object} has no endpoints: list some, or set resolution DNS to use the host itself")
        } else {
            format!("the {} of {object} have no address", count(entry.endpoints, "endpoint"))
        };
        return Cause::new("NoEndpoints", message);
    }
    let mut worst: Option<Cause> = None;
    let mut texts = Vec::new();
    for name in &entry.names {
        let trouble = facts.sources.get(name).and_then(|about| about.trouble.clone());
        let (reason, text) = match trouble {
            Some(Trouble::Failed(error)) => {
                ("ResolverFailed", format!("{name} could not be resolved: {error}"))
            }
            Some(Trouble::NotFound) => ("NameNotFound", format!("the name {name} does not exist (NXDOMAIN)")),
            Some(Trouble::NoAddress) => {
                ("NameHasNoAddress", format!("the name {name} has no A or AAAA record"))
            }
            None => ("NotResolvedYet", format!("{name} has not been answered yet")),
        };
        texts.push(text);
        worst.get_or_insert(Cause::new(reason, ""));
    }
    let reason = worst.map_or_else(|| "NoBackend".to_owned(), |cause| cause.reason);
    Cause { reason, message: format!("{object} has no backend: {}", texts.join("; ")) }
}

pub(super) fn stale_text(source: &str, about: &SourceFacts) -> String {
    let why = match &about.trouble {
        Some(Trouble::Failed(error)) => error.clone(),
        Some(Trouble::NotFound) => "the name does not exist any more".to_owned(),
        Some(Trouble::NoAddress) => "the name has no such address any more".to_owned(),
        None => "unknown".to_owned(),
    };
    let age = about.age_secs.map_or_else(|| "of unknown age".to_owned(), |age| format!("{age} s old"));
    format!("the addresses of {source} are {age} and could not be refreshed: {why}")
}

/// Backends of a family that the dialled address cannot be rewritten to.
pub(super) fn other_family(dial: &Dial) -> Cause {
    Cause::new(
        "FamilyMismatch",
        format!(
            "all backends of {} are IPv6, which an IPv4 socket cannot reach: dial its IPv6 address",
            dial.socket()
        ),
    )
}
