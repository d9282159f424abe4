//! The steps, in the order of a connection.
//!
//! In: facts. Out: steps, warnings, and the first cause that stops the way. Never: a guess where a fact is missing.

use std::collections::BTreeSet;

use serde_json::json;

use super::{
    Cause, Dial, Explanation, Facts, Target, causes,
    facts::{Answered, Client, EnrolledAs, LiveService, LiveWaypoint, NameFacts},
};
use crate::{
    desired::{AddressRange, Backend, Unlisted},
    model::Transport,
};

pub(super) fn walk(facts: &Facts, out: &mut Explanation) -> Result<(), Cause> {
    programs(facts, out)?;
    client(facts, out)?;
    match &facts.name {
        Some(name) if facts.asked.host.is_some() => name_step(facts, name, out)?,
        Some(name) => address_step(facts, name, out),
        None if facts.asked.host.is_some() => {
            let cause = causes::unknown_name(facts);
            out.step("name", false, &*cause.message, json!({}));
            return Err(cause);
        }
        None => {}
    }
    // Each port is looked at, so that one that does not work hides nothing about the others.
    let mut first = None;
    let ports: BTreeSet<_> = facts.dials.iter().map(|dial| (dial.port, dial.transport)).collect();
    for (port, transport) in ports {
        let dials = facts.dials.iter().filter(|dial| (dial.port, dial.transport) == (port, transport));
        if let Err(cause) = one_port(facts, &dials.collect::<Vec<_>>(), out) {
            first.get_or_insert(cause);
        }
    }
    if facts.dials.is_empty() {
        first = Some(causes::no_port_of_transport(facts));
    }
    first.map_or(Ok(()), Err)
}

fn programs(facts: &Facts, out: &mut Explanation) -> Result<(), Cause> {
    if !facts.agent.synced {
        out.warn("NotSynced", "the agent has not read all objects yet: what is missing here may still come");
    }
    if facts.agent.attached {
        return Ok(());
    }
    let message =
        "the programs are not attached: connections go where they were dialled; see kmesh-se status";
    out.step("programs", false, message, json!({}));
    Err(Cause::new("ProgramsNotAttached", message))
}

fn client(facts: &Facts, out: &mut Explanation) -> Result<(), Cause> {
    let namespace = &facts.namespace;
    let (path, enrolled) = match &facts.client {
        Client::Anybody { enrolled: 0 } => {
            let message = format!(
                "no cgroup is enrolled for namespace {namespace}: nobody uses this now; start a client with \
                 kmesh-se exec --namespace {namespace}, or the agent with --enrol"
            );
            out.step(
                "client",
                true,
                format!("no cgroup is enrolled for namespace {namespace}"),
                json!({"enrolled": 0}),
            );
            out.warn("NothingEnrolled", message);
            return Ok(());
        }
        Client::Anybody { enrolled } => {
            let detail = format!("{} enrolled for namespace {namespace}", causes::count(*enrolled, "cgroup"));
            out.step("client", true, detail, json!({"enrolled": enrolled}));
            return Ok(());
        }
        Client::Pod { pod, reason, message } => {
            let cause = Cause::new(
                reason,
                format!(
                    "the pod {pod} is not enrolled, so its connections go where they were dialled: {message}"
                ),
            );
            out.step("client", false, &*cause.message, json!({"pod": pod}));
            return Err(cause);
        }
        Client::Cgroup { path, enrolled } => (path, enrolled),
    };
    let cause = match enrolled {
        None => Cause::new(
            "NotEnrolled",
            format!(
                "{path} is not enrolled, and no cgroup above it is: its connections go where they were dialled; start \
                 it with kmesh-se exec, or the agent with --enrol"
            ),
        ),
        Some(EnrolledAs { namespace: None, path: exempt, .. }) => Cause::new(
            "Exempt",
            format!("{path} is exempt by {exempt}: the agent's own connections are never handled"),
        ),
        Some(EnrolledAs { is_looked_up: false, path: at, .. }) => Cause::new(
            "MapsDiffer",
            format!(
                "{at} is enrolled, but the kernel's list of depths does not hold its depth: restart the agent"
            ),
        ),
        Some(EnrolledAs { namespace: Some(namespace), path: at, .. }) => {
            let through = if at == path { String::new() } else { format!(" through {at}") };
            let detail = format!("{path} is enrolled for namespace {namespace}{through}");
            out.step("client", true, detail, json!({"cgroup": path, "enrolledAt": at}));
            return Ok(());
        }
    };
    out.step("client", false, &*cause.message, json!({"cgroup": path}));
    Err(cause)
}

fn name_step(facts: &Facts, name: &NameFacts, out: &mut Explanation) -> Result<(), Cause> {
    for rejected in &name.rejected {
        if name.answered.is_some() {
            out.warn("Rejected", causes::rejected_text(rejected));
        }
    }
    let Some(answered) = &name.answered else {
        let cause = causes::unanswered(facts, name);
        out.step("name", false, &*cause.message, json!({"host": name.host}));
        return Err(cause);
    };
    if !facts.agent.dns_served {
        out.warn(
            "DnsNotServed",
            "the agent's DNS server does not answer now: clients ask their own resolver; see kmesh-se status",
        );
    }
    let all: Vec<String> = answered.v4.iter().chain(&answered.v6).map(ToString::to_string).collect();
    let families = match (answered.v4.is_empty(), answered.v6.is_empty()) {
        (false, false) => "A and AAAA",
        (false, true) => "A",
        (true, false) => "AAAA",
        (true, true) => "neither A nor AAAA",
    };
    let withheld: Vec<String> = answered.withheld.iter().map(ToString::to_string).collect();
    let mut detail = format!("{} of {} is {} ({families})", name.host, answered.entry, all.join(", "));
    if !withheld.is_empty() {
        detail.push_str(&format!("; {} is not answered: no backend is of its family", withheld.join(", ")));
    }
    out.step("name", true, detail, name_facts(name, answered));
    shadowed(facts, name, out);
    Ok(())
}

fn name_facts(name: &NameFacts, answered: &Answered) -> serde_json::Value {
    json!({
        "host": name.host,
        "entry": answered.entry,
        "scope": answered.scope,
        "a": answered.v4,
        "aaaa": answered.v6,
        "withheld": answered.withheld,
    })
}

/// Tells of entries that name the host, too, and lose.
fn shadowed(facts: &Facts, name: &NameFacts, out: &mut Explanation) {
    let Some(primary) = name.entries.iter().find(|entry| !entry.serves.is_empty()) else { return };
    for entry in name.entries.iter().filter(|entry| entry.is_visible && entry.serves.is_empty()) {
        out.warn(
            "Shadowed",
            format!(
                "{} names {}, too, but clients of {} get the older {}",
                entry.object, name.host, facts.namespace, primary.object
            ),
        );
    }
}

fn address_step(facts: &Facts, name: &NameFacts, out: &mut Explanation) {
    let Some(address) = facts.asked.address else { return };
    let serving: Vec<_> =
        name.entries.iter().filter(|e| !e.serves.is_empty()).map(|e| e.object.as_str()).collect();
    let range = facts.found_by.filter(|range| range.single().is_none());
    let within = range.map_or_else(String::new, |range| format!("in {range}, "));
    let detail = format!("{address} is {within}{} of {}", name.host, serving.join(", "));
    out.step("address", true, detail, json!({"host": name.host, "entries": serving, "range": range}));
    shadowed(facts, name, out);
}

/// One port through each address that clients may dial: one that works is enough.
fn one_port(facts: &Facts, dials: &[&Dial], out: &mut Explanation) -> Result<(), Cause> {
    let mut explained = BTreeSet::new();
    let mut outcome = Ok(());
    let mut is_reached = false;
    for dial in dials {
        match frontend(facts, dial, out).and_then(|id| service(facts, dial, id, explained.insert(id), out)) {
            Ok(()) => is_reached = true,
            Err(cause) if outcome.is_ok() => outcome = Err(cause),
            Err(_) => {}
        }
    }
    match outcome {
        Err(cause) if is_reached => {
            out.warn(&cause.reason, cause.message);
            Ok(())
        }
        outcome => outcome,
    }
}

fn frontend(facts: &Facts, dial: &Dial, out: &mut Explanation) -> Result<u32, Cause> {
    let shown = dial.shown();
    let fields = |scope: &str, service: Option<u32>, range: Option<AddressRange>| {
        json!({
            "address": dial.address, "port": dial.port, "protocol": causes::word(dial.transport),
            "scope": scope, "serviceId": service, "range": range,
        })
    };
    for lookup in &dial.lookups {
        let scope = lookup.scope.to_string();
        let within = lookup.range.map_or_else(String::new, |range| format!(", by the range {range},"));
        let fields = |service| fields(&scope, service, lookup.range);
        if let Some(id) = lookup.service {
            let own = dial.own.as_ref().map(|(_, key)| key);
            let live = facts.services.get(&id).and_then(|service| service.key.as_ref());
            if let (Some(own), Some(live)) = (own, live)
                && own.host != live.host
            {
                let cause = causes::address_taken(dial, own, live);
                out.step("frontend", false, &*cause.message, fields(Some(id)));
                return Err(cause);
            }
            let detail = format!("{shown} in scope {scope}{within} leads to service {id}");
            out.step("frontend", true, detail, fields(Some(id)));
            return Ok(id);
        }
        if let Some(unlisted) = lookup.unlisted {
            let cause = causes::no_frontend(facts, dial, Some(unlisted));
            let fate = match (unlisted, dial.transport) {
                (Unlisted::Refuse, Transport::Tcp) => "refused (ECONNREFUSED)",
                (Unlisted::Refuse, Transport::Udp) => {
                    "refused for datagrams; a connect(2), which only sorts addresses, finds a backend's discard port"
                }
                (Unlisted::Pass, _) => "passed through unchanged",
            };
            let detail = format!("{shown} in scope {scope}{within} is no frontend: it is {fate}");
            out.step("frontend", false, detail, fields(None));
            return Err(cause);
        }
    }
    let cause = causes::no_frontend(facts, dial, None);
    let detail = format!("{shown} is not in the kernel's maps: it passes through unchanged");
    let scopes: Vec<_> = dial.lookups.iter().map(|lookup| lookup.scope.to_string()).collect();
    out.step("frontend", false, detail, fields(&scopes.join(", "), None, None));
    Err(cause)
}

fn service(facts: &Facts, dial: &Dial, id: u32, is_new: bool, out: &mut Explanation) -> Result<(), Cause> {
    let Some(service) = facts.services.get(&id) else {
        let message = format!("service {id} is not in the kernel's map: restart the agent");
        out.step("service", false, &*message, json!({"id": id}));
        return Err(Cause::new("MapsDiffer", message));
    };
    let result = backends(facts, dial, service);
    if !is_new {
        // Another address of the same port led here already.
        return result;
    }
    let whose = service.key.as_ref().map_or_else(|| "unknown to the agent".to_owned(), ToString::to_string);
    let through = service.through.as_ref().map(|LiveWaypoint { id, name, port }| {
        let name = name.as_ref().map_or_else(|| "unknown to the agent".to_owned(), ToString::to_string);
        format!(" goes to port {port} of waypoint {id} ({name}), which")
    });
    let through = through.unwrap_or_default();
    let detail = match service.slot_count {
        0 => format!("service {id} ({whose}){through} has no slots: refused (EHOSTUNREACH)"),
        count => {
            format!(
                "service {id} ({whose}){through} has {} from slot {}",
                causes::count(count as usize, "slot"),
                service.slot_base
            )
        }
    };
    let fields = json!({
        "id": id, "slotBase": service.slot_base, "slotCount": service.slot_count,
        "host": service.key.as_ref().map(|key| &key.host),
        "entry": service.key.as_ref().map(|key| key.entry.to_string()),
        "waypointId": service.through.as_ref().map(|through| through.id),
        "waypointPort": service.through.as_ref().map(|through| through.port),
    });
    out.step("service", service.slot_count > 0, detail, fields);
    for backend in service.of_family(dial.address.is_ipv4()) {
        let wanted = wanted(service, backend.address, backend.port);
        let source = wanted.map(|wanted| wanted.source.to_string()).unwrap_or_default();
        let about = facts.sources.get(&source);
        let target = Target {
            for_port: dial.port,
            address: backend.address,
            port: backend.port,
            share_percent: (backend.share * 10_000.0).round() / 100.0,
            age_secs: about.and_then(|about| about.age_secs),
            stale: about.is_some_and(|about| about.stale),
            source,
        };
        let fields = json!({
            "id": backend.id, "address": target.address, "port": target.port, "source": target.source,
            "sharePercent": target.share_percent, "ageSecs": target.age_secs, "stale": target.stale,
        });
        out.step("backend", true, backend_text(&target), fields);
        if let Some(about) = about.filter(|about| about.stale) {
            out.warn("StaleDns", causes::stale_text(&target.source, about));
        }
        out.backends.push(target);
    }
    match &service.waypoint {
        Some(waypoint) if waypoint.is_through => {
            let dials =
                if waypoint.dials.is_empty() { "nobody".to_owned() } else { waypoint.dials.join(", ") };
            let detail = format!("{}: {dials}", waypoint.message);
            out.step("waypoint", true, detail, json!({"reason": waypoint.reason, "dials": waypoint.dials}));
            if waypoint.reason != "WaypointAccepted" {
                out.warn(&waypoint.reason, waypoint.message.clone());
            }
            match &waypoint.routes {
                Some((reason, message)) if reason == "RouteAccepted" => {
                    out.step("routes", true, message.clone(), json!({"reason": reason}));
                }
                Some((reason, message)) => out.warn(reason, message.clone()),
                None => {}
            }
        }
        // Without a backend, this is why.
        Some(waypoint) if !service.backends.is_empty() => {
            out.warn(&waypoint.reason, waypoint.message.clone())
        }
        _ => {}
    }
    if let Some(difference) = difference(service) {
        out.warn("MapsDiffer", format!("service {id} ({whose}) {difference}; see kmesh-se dump diff"));
    }
    result
}

fn backend_text(target: &Target) -> String {
    let address = std::net::SocketAddr::new(target.address, target.port);
    let from = match (&*target.source, target.age_secs) {
        ("", _) => ", which no object wants".to_owned(),
        (source, _) if source == target.address.to_string() => String::new(),
        (source, None) => format!(", from {source}"),
        (source, Some(age)) => format!(", from {source}, resolved {age} s ago"),
    };
    let stale = if target.stale { " (stale)" } else { "" };
    format!("{address} gets {} %{from}{stale}", target.share_percent)
}

fn wanted(service: &LiveService, address: std::net::IpAddr, port: u16) -> Option<&Backend> {
    service.wanted.iter().find(|wanted| wanted.address == address && wanted.port == port)
}

/// Whether the dial leads to a backend that it can reach.
fn backends(facts: &Facts, dial: &Dial, service: &LiveService) -> Result<(), Cause> {
    if service.backends.is_empty() {
        return Err(causes::no_backend(facts, service));
    }
    // An IPv6 socket reaches IPv4; the other way there is none.
    let v4 = dial.address.is_ipv4();
    if v4 && service.of_family(v4).all(|backend| backend.address.is_ipv6()) {
        return Err(causes::other_family(dial));
    }
    Ok(())
}

/// How the live backends differ from those that are wanted.
fn difference(service: &LiveService) -> Option<String> {
    let missing: Vec<_> = service
        .wanted
        .iter()
        .filter(|w| !service.backends.iter().any(|b| (b.address, b.port) == (w.address, w.port)))
        .map(|w| std::net::SocketAddr::new(w.address, w.port).to_string())
        .collect();
    let surplus: Vec<_> = service
        .backends
        .iter()
        .filter(|b| wanted(service, b.address, b.port).is_none())
        .map(|b| std::net::SocketAddr::new(b.address, b.port).to_string())
        .collect();
    match (missing.is_empty(), surplus.is_empty()) {
        (true, true) => None,
        (false, true) => Some(format!("should also lead to {}", missing.join(", "))),
        (true, false) => Some(format!("should no longer lead to {}", surplus.join(", "))),
        (false, false) => {
            Some(format!("should lead to {} and not to {}", missing.join(", "), surplus.join(", ")))
        }
    }
}
