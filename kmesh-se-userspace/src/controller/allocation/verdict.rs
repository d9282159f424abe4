//! What the status of each entry should say.
//!
//! In: entries, and the addresses of their hosts. Out: patches. Never: a change that says what is there already.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::{Allocation, Known};
use crate::{
    controller::{
        conditions::{self, Facts, PROGRAMMED},
        events::Tell,
        known::{Rank, Write},
        patch::{self, New, Old, Test},
        queue::Item,
    },
    desired::{Condition, Losers, WAYPOINT_BOUND, in_status, wants_vip},
    model::{Entry, ExportTo, HostName, ObjectRef, Resolution, ServiceEntryStatus, StatusAddress},
};

impl Allocation {
    /// The entries that have changed since this was last asked, each with what it is to be written for, if it is.
    pub(in crate::controller) fn take_changed(&mut self) -> Vec<(ObjectRef, Option<Item>)> {
        let changed = std::mem::take(&mut self.changed);
        let mut losers = Losers::new(&self.snapshot);
        let mut held = Vec::new();
        let mut item = |object: &ObjectRef| {
            let known = self.known.get(object)?;
            let wanted = self.wanted_conditions(object, &mut losers);
            held.push((object.clone(), wanted.is_settled, wanted.look_at));
            let rank = if self.wanted(object).is_some() {
                Rank::Addresses
            } else if lacks_conditions(known, &wanted) {
                Rank::Conditions
            } else {
                return None;
            };
            Some(Item { rank, age: known.age(object) })
        };
        let items = changed.into_iter().map(|object| (object.clone(), item(&object))).collect();
        for (object, is_settled, look_at) in held {
            self.note_held(object, is_settled, look_at);
        }
        items
    }

    /// The write that `object` needs, if it does. `is_refused` says that the last one was: addresses do not wait for conditions
    /// that others write without a pause.
    pub(in crate::controller) fn write(
        &self,
        object: &ObjectRef,
        is_refused: bool,
        now: Timestamp,
    ) -> Option<Write> {
        let known = self.known.get(object)?;
        let addresses = self.wanted(object);
        let wanted = self.wanted_conditions(object, &mut Losers::new(&self.snapshot));
        let has_both = addresses.is_some() && is_refused;
        let lacks_conditions = !has_both && lacks_conditions(known, &wanted);
        if addresses.is_none() && !lacks_conditions {
            return None;
        }
        let had = &known.status.conditions;
        let written: Option<Vec<Value>> = lacks_conditions.then(|| {
            wanted.conditions.iter().map(|c| conditions::written(had, c, known.generation, now)).collect()
        });
        let old = Old {
            uid: &known.uid,
            version: &known.version,
            lacks_status: known.status == ServiceEntryStatus::default(),
            addresses: &known.status.addresses,
            conditions: had,
        };
        // What has no status in our eyes may have one that only others can read.
        let test = if known.refused % 2 == 0 { Test::Values } else { Test::Version };
        let new = New { addresses: addresses.as_deref(), conditions: written.as_deref(), kept: &wanted.kept };
        let tells = if lacks_conditions { tells(known, &wanted.conditions) } else { Vec::new() };
        Some(Write {
            object: object.clone(),
            api_version: known.api_version.clone(),
            version: known.version.clone(),
            patch: patch::set(old, new, test),
            rank: if addresses.is_some() { Rank::Addresses } else { Rank::Conditions },
            tells,
        })
    }

    /// The API server refused a write of this version of `object`: it is another by now, or not quite what it looks like. Says how
    /// often this version was.
    pub(in crate::controller) fn refused(&mut self, object: &ObjectRef, version: &str) -> u32 {
        self.changed.insert(object.clone());
        let known = self.known.get_mut(object).filter(|known| known.version == version);
        known.map_or(0, |known| {
            known.refused += 1;
            known.refused
        })
    }

    /// The addresses that the status of `object` should have; nothing if it has them.
    fn wanted(&self, object: &ObjectRef) -> Option<Vec<StatusAddress>> {
        if self.left.is_some() {
            return None;
        }
        let (known, entry) = (self.known.get(object)?, self.snapshot.entry(object)?);
        let hosts: Vec<_> = entry.hosts.iter().filter(|host| wants_vip(entry, host)).collect();
        let had = &known.status.addresses;
        if hosts.is_empty() {
            // Not used; what others wrote is theirs to remove.
            return (known.is_ours && !had.is_empty()).then(Vec::new);
        }
        let is_as_wanted = |host: &&HostName| {
            let has: BTreeSet<_> = in_status(entry, host).collect();
            has == self.addresses_of(host).into_iter().collect()
        };
        let is_left_over = |address: &&StatusAddress| {
            let is_of_host = address.host.is_empty() || entry.hosts.contains(&HostName::new(&address.host));
            let of_range = || address.value.parse().is_ok_and(|address| self.is_ours(address));
            !is_of_host && (known.is_ours || of_range())
        };
        if hosts.iter().all(is_as_wanted) && !had.iter().any(|address| is_left_over(&address)) {
            return None;
        }
        let item = |host: &HostName, address: std::net::IpAddr| StatusAddress {
            value: address.to_string(),
            host: host.to_string(),
        };
        let all = hosts
            .iter()
            .flat_map(|host| self.addresses_of(host).into_iter().map(move |address| item(host, address)));
        Some(all.collect())
    }

    /// The conditions of our types that `object` should have.
    fn wanted_conditions(&self, object: &ObjectRef, losers: &mut Losers<'_>) -> WantedConditions {
        // Where this program serves no waypoints, it is Istio's.
        let is_others = (!self.serves_waypoints).then_some(WAYPOINT_BOUND);
        let settled = |conditions| {
            let kept = is_others.into_iter().collect();
            WantedConditions { conditions, kept, is_settled: true, look_at: None }
        };
        let Some(known) = self.known.get(object) else { return settled(Vec::new()) };
        let mut facts = Facts { errors: &known.errors, warnings: &known.warnings, ..Facts::default() };
        let Some(entry) = self.snapshot.entry(object) else { return settled(conditions::wanted(&facts)) };
        facts.losers = losers.of(entry);
        facts.conflicts = self.conflicts(entry);
        facts.left = self.left;
        facts.ranges = [self.ranges.v4.to_string(), self.ranges.v6.to_string()];
        for host in entry.hosts.iter().filter(|host| wants_vip(entry, host)) {
            if self.left.is_some() {
                if in_status(entry, host).next().is_none() {
                    facts.pending.push(host);
                }
                continue;
            }
            let vips = self.pool.get(host).copied().unwrap_or_default();
            if self.exhausted.contains(host) {
                facts.exhausted[0].push(host);
            } else if self.short.contains(host) {
                let missing = if vips.v4.is_none() { 1 } else { 2 };
                facts.exhausted[missing].push(host);
            } else if self.addresses_of(host).is_empty() {
                facts.pending.push(host);
            }
        }
        let programmed = self.programmed(object, known, &facts);
        facts.programmed = programmed.say;
        facts.waypoint = self.waypoints.get(object).cloned().unwrap_or_default();
        WantedConditions {
            conditions: conditions::wanted(&facts),
            kept: programmed.is_kept.then_some(PROGRAMMED).into_iter().chain(is_others).collect(),
            is_settled: programmed.is_settled,
            look_at: programmed.look_at,
        }
    }

    /// The addresses that `entry` writes and that an older one has for another host, each with that one.
    fn conflicts(&self, entry: &Entry) -> Vec<String> {
        let mut found = Vec::new();
        for address in &entry.addresses {
            let uses = |other: &Entry| match other.addresses.is_empty() {
                true => other.may_allocate,
                false => other.addresses.contains(address),
            };
            let ports = |other: &Entry| -> Vec<u16> {
                let listed = entry.ports.iter().map(|port| port.number);
                let is_straight = other.resolution == Resolution::None;
                listed.filter(|n| is_straight || other.ports.iter().any(|port| port.number == *n)).collect()
            };
            let older = self.snapshot.writers_of(*address).filter(|other| {
                other.age_order() < entry.age_order()
                    && !other.hosts.iter().any(|host| entry.hosts.contains(host))
                    && uses(other)
                    && !ports(other).is_empty()
            });
            let Some((other, whom)) = older
                .filter_map(|other| Some((other, whose(entry, other)?)))
                .min_by_key(|(other, _)| other.age_order())
            else {
                continue;
            };
            let numbers: Vec<_> = ports(other).iter().map(u16::to_string).collect();
            let (host, net) = (&other.hosts[0], *address);
            let shown = super::single(net).map_or_else(|| net.to_string(), |single| single.to_string());
            found.push(format!(
                "{whom} get port {} of {shown} from {host} of {}, which is older",
                numbers.join(", "),
                other.object
            ));
        }
        found
    }
}

/// The conditions of our types that an entry should have.
struct WantedConditions {
    conditions: Vec<Condition>,
    /// The type of one that is to stay as it is.
    kept: Vec<&'static str>,
    /// Whether all nodes hold it, as far as is to be known.
    is_settled: bool,
    /// When to look again, if nothing is heard before.
    look_at: Option<Timestamp>,
}

fn lacks_conditions(known: &Known, wanted: &WantedConditions) -> bool {
    let had = &known.status.conditions;
    !conditions::are_as_wanted(had, &wanted.conditions, &wanted.kept, known.generation)
}

/// The clients for whom `other`, which is older, comes before `entry` at an address of both.
fn whose(entry: &Entry, other: &Entry) -> Option<String> {
    let own = &entry.object.namespace;
    if *own == other.object.namespace {
        let is_visible = match &other.export_to {
            ExportTo::All => true,
            ExportTo::Nobody => false,
            ExportTo::Namespaces(list) => list.iter().any(|namespace| entry.is_visible_to(namespace)),
        };
        return is_visible.then(|| "clients".to_owned());
    }
    // Its own namespace's entry comes first for each client.
    match (&other.export_to, &entry.export_to) {
        (ExportTo::Nobody, _) | (_, ExportTo::Nobody) => None,
        (ExportTo::All, ExportTo::All) => Some("clients of other namespaces".to_owned()),
        (ExportTo::Namespaces(list), _) | (ExportTo::All, ExportTo::Namespaces(list)) => {
            let is_lost = |namespace: &&crate::model::Namespace| {
                *namespace != own && entry.is_visible_to(namespace) && other.is_visible_to(namespace)
            };
            list.iter().find(is_lost).map(|namespace| format!("clients of namespace {namespace}"))
        }
    }
}

/// What of `wanted` the status does not say yet for this generation, as far as people are to be told.
fn tells(known: &Known, wanted: &[Condition]) -> Vec<Tell> {
    let is_known = |wanted: &&Condition| {
        known.status.conditions.iter().any(|had| {
            let observed = conditions::number(&had.observed_generation);
            conditions::is_told(had, wanted) && observed.is_none_or(|observed| observed == known.generation)
        })
    };
    let new = wanted.iter().filter(|wanted| !is_known(wanted));
    new.filter_map(|condition| Tell::of(condition, &known.uid, known.generation)).collect()
}
