//! Addresses that a host shares with others, and who has them.
//!
//! In: all hosts together, and one of them as the clients of one namespace see it. Out: a condition for each way in which it
//! does not get what it lists. Never: a look at ports that it does not list.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{AddressRange, Condition, Desired, Frontend, Scope, ServiceKey};
use crate::model::{HostName, Namespace, ObjectRef, Port};

/// How many of the addresses within a range a message names.
const NAMED: usize = 3;

/// What clients of `namespace` get from others although `host` lists it in these `ports` of these `addresses`.
pub(super) fn shadows(
    desired: &Desired,
    host: &HostName,
    namespace: &Namespace,
    addresses: &[AddressRange],
    ports: &[&Port],
) -> Vec<Condition> {
    let own = Scope::Namespace(namespace.clone());
    let has_own_view = desired.get(host).is_some_and(|wanted| wanted.ages.contains_key(&own));
    let scope = if has_own_view { &own } else { &Scope::Mesh };
    let mut shadows = Vec::new();
    for address in addresses {
        shadows.extend(taken(desired, host, scope, *address, ports));
        // What both views know, the client's own has.
        let mut narrower = BTreeMap::new();
        for scope in [&Scope::Mesh, &own] {
            narrower.extend(desired.within(scope, *address).map(|(at, other)| (at, (other, scope))));
        }
        narrower.retain(|_, (other, _)| *other != host);
        if let Some(message) = holes(desired, *address, &narrower) {
            shadows.push(shadowed("NarrowerAddressWins", message));
        }
    }
    shadows
}

/// The ports of `address` that another host has.
fn taken(
    desired: &Desired,
    host: &HostName,
    scope: &Scope,
    address: AddressRange,
    ports: &[&Port],
) -> Vec<Condition> {
    let wanted = desired.get(host);
    let is_straight = wanted.is_some_and(|wanted| wanted.straight.contains(scope));
    let why = |winner: &ObjectRef| {
        let loser = wanted.and_then(|wanted| wanted.ages.get(scope));
        let is_own = |entry: &ObjectRef| *scope == Scope::Namespace(entry.namespace.clone());
        if is_own(winner) && !loser.is_some_and(|(_, loser)| is_own(loser)) {
            ("OwnNamespaceWins", "an entry of their own namespace")
        } else {
            ("OlderEntryWins", "which is older")
        }
    };
    let lost = ports.iter().filter_map(|port| {
        let frontend = Frontend {
            scope: scope.clone(),
            address,
            port: port.number,
            transport: port.protocol.transport(),
        };
        let at = address.with_port(port.number);
        let straight = desired.straight_at(&frontend).filter(|_| !is_straight);
        if let Some(straight) = straight {
            let (_, entry) = desired.get(straight)?.ages.get(scope)?;
            let (reason, why) = why(entry);
            let message = format!(
                "clients of this namespace go straight to {at}, as {straight} of {entry} says, {why}"
            );
            return Some(shadowed(reason, message));
        }
        let winner = desired.winner_of(&frontend).filter(|winner| winner.host != *host)?;
        let own = wanted.and_then(|wanted| wanted.tables.frontends.get(&frontend));
        if own.is_some_and(|own| own.entry == winner.entry) {
            return another_host(desired, winner, own).then(|| {
                let message = format!(
                    "clients of this namespace get {at} from {}, another host of this entry",
                    winner.host
                );
                shadowed("AnotherHostWins", message)
            });
        }
        let (reason, why) = why(&winner.entry);
        Some(shadowed(
            reason,
            format!("clients of this namespace get {at} from {} of {}, {why}", winner.host, winner.entry),
        ))
    });
    lost.collect()
}

/// Whether the backends of two services differ.
fn another_host(desired: &Desired, winner: &ServiceKey, own: Option<&ServiceKey>) -> bool {
    let backends = |key: &ServiceKey| desired.get(&key.host)?.tables.services.get(key);
    own.and_then(backends) != backends(winner)
}

fn holes(
    desired: &Desired,
    address: AddressRange,
    narrower: &BTreeMap<AddressRange, (&HostName, &Scope)>,
) -> Option<String> {
    if narrower.is_empty() {
        return None;
    }
    let mut message = format!("within {address}");
    for (at, (other, scope)) in narrower.iter().take(NAMED) {
        let _ = write!(message, ", {at} is that of {other}");
        if let Some((_, entry)) = desired.get(other).and_then(|wanted| wanted.ages.get(scope)) {
            let _ = write!(message, " of {entry}");
        }
    }
    if narrower.len() > NAMED {
        let _ = write!(message, ", and {} more are those of others", narrower.len() - NAMED);
    }
    Some(message)
}

fn shadowed(reason: &'static str, message: String) -> Condition {
    Condition { kind: "Shadowed", status: "True", reason, message }
}
