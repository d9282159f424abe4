//! Which host has which address in the whole cluster.
//!
//! In: entries as the API server has them, the time. Out: addresses, and which entries they change. Never: a request, or an address
//! that moves without need.
//!
//! What a status says is true, whoever wrote it: the pool follows it, and gives only hosts without an address one. An address
//! that two hosts have stays with the older entry. So a controller that starts finds out from the entries alone what there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

mod programmed;
mod verdict;

use ipnet::IpNet;
use jiff::Timestamp;

use super::{
    conditions::Left,
    known::{ISTIO, Known, is_written_by},
    nodes::Nodes,
};
use crate::{
    desired::{Age, Condition, VipPool, VipRanges, Vips, in_status, wants_vip},
    model::{Entry, HostName, Kind, Namespace, Object, ObjectRef, ServiceEntry, Snapshot, validate},
};

/// All entries, and the addresses of their hosts.
#[derive(Debug)]
pub(super) struct Allocation {
    ranges: VipRanges,
    snapshot: Snapshot,
    pool: VipPool,
    known: BTreeMap<ObjectRef, Known>,
    /// Hosts whose addresses are not of our ranges; they stay as they are.
    foreign: BTreeMap<HostName, Vec<IpAddr>>,
    /// Hosts that want an address, and have none of some family; and those of them that were not tried yet.
    lacking: BTreeSet<HostName>,
    untried: BTreeSet<HostName>,
    /// Of these, the ones for which there is none at all, and those for which there is none of some family.
    exhausted: BTreeSet<HostName>,
    short: BTreeSet<HostName>,
    /// Entries of which it is not known whether they are as they should be.
    changed: BTreeSet<ObjectRef>,
    /// Entries whose addresses Istio's allocator wrote.
    istios: BTreeSet<ObjectRef>,
    /// Why no addresses are allocated here, if they are not.
    left: Option<Left>,
    /// Whether this program serves waypoints, and how entries go through those.
    serves_waypoints: bool,
    waypoints: BTreeMap<ObjectRef, Vec<Condition>>,
    nodes: Nodes,
    knows_nodes: bool,
    /// Entries that some node may not have programmed, and when to look again at those that are waited for.
    unsettled: BTreeSet<ObjectRef>,
    patience: BTreeSet<(Timestamp, ObjectRef)>,
    clock: Timestamp,
}

impl Allocation {
    /// Nothing yet; addresses come from `ranges`.
    pub(super) fn new(ranges: VipRanges) -> Self {
        Self {
            ranges,
            snapshot: Snapshot::default(),
            pool: VipPool::new(ranges),
            known: BTreeMap::new(),
            foreign: BTreeMap::new(),
            lacking: BTreeSet::new(),
            untried: BTreeSet::new(),
            exhausted: BTreeSet::new(),
            short: BTreeSet::new(),
            changed: BTreeSet::new(),
            istios: BTreeSet::new(),
            left: None,
            serves_waypoints: false,
            waypoints: BTreeMap::new(),
            nodes: Nodes::default(),
            knows_nodes: false,
            unsettled: BTreeSet::new(),
            patience: BTreeSet::new(),
            clock: Timestamp::UNIX_EPOCH,
        }
    }

    /// Entries are told how they go through waypoints, as [`Self::hear_waypoint`] says. To be called before the first event.
    pub(super) fn serving_waypoints(mut self, serves: bool) -> Self {
        self.serves_waypoints = serves;
        self
    }

    /// An entry is to be told this of its waypoint, or nothing.
    pub(super) fn hear_waypoint(&mut self, object: ObjectRef, conditions: Vec<Condition>) {
        match conditions.as_slice() {
            [] => drop(self.waypoints.remove(&object)),
            _ => drop(self.waypoints.insert(object.clone(), conditions)),
        }
        if self.known.contains_key(&object) {
            self.changed.insert(object);
        }
    }

    /// Says whether addresses are left to others.
    pub(super) fn leave(&mut self, left: Option<Left>) {
        if self.left != left {
            self.left = left;
            self.look_again();
        }
    }

    /// The watch tells that an entry exists, or has changed. What is older than the answer to a write is nothing new; versions of
    /// the watch itself may also go back, when etcd is restored.
    pub(super) fn apply(&mut self, raw: ServiceEntry, now: Timestamp) {
        let known = Known::of(raw.clone());
        let before = self.known.get(&raw.object_ref()).filter(|before| before.is_ahead);
        if before.is_none_or(|before| before.number() <= known.number()) {
            self.take(raw, known, now);
        }
    }

    /// An entry is this after a write. The watch may have told more by now.
    pub(super) fn wrote(&mut self, raw: ServiceEntry, now: Timestamp) {
        let known = Known { is_ahead: true, ..Known::of(raw.clone()) };
        let before = self.known.get(&raw.object_ref()).filter(|before| before.uid == known.uid);
        if before.is_some_and(|before| before.number() < known.number()) {
            self.take(raw, known, now);
        }
    }

    /// Something beside entries that decides who has a host.
    pub(super) fn apply_other(&mut self, object: &Object, now: Timestamp) {
        if let Some(accepted) = validate(object).accepted {
            let touched = self.snapshot.apply(accepted);
            self.settle(touched, now);
        }
    }

    fn take(&mut self, raw: ServiceEntry, mut known: Known, now: Timestamp) {
        let object = raw.object_ref();
        if is_written_by(&raw, ISTIO) && !raw.status.addresses.is_empty() {
            self.istios.insert(object.clone());
        } else {
            self.istios.remove(&object);
        }
        let judged = validate(&Object::ServiceEntry(Box::new(raw)));
        (known.errors, known.warnings) = (judged.errors, judged.warnings);
        known.follow(self.known.get(&object), now);
        self.clock = now;
        self.known.insert(object.clone(), known);
        let mut touched = self.neighbours(&object);
        match judged.accepted {
            Some(accepted) => touched.extend(self.snapshot.apply(accepted)),
            None => touched.extend(self.snapshot.remove(&object)),
        }
        touched.extend(self.neighbours(&object));
        self.changed.insert(object);
        self.settle(touched, now);
    }

    /// An object is gone.
    pub(super) fn delete(&mut self, object: &ObjectRef, now: Timestamp) {
        self.known.remove(object);
        self.istios.remove(object);
        self.unsettled.remove(object);
        let mut touched = self.neighbours(object);
        touched.extend(self.snapshot.remove(object));
        if object.kind == Kind::ServiceEntry {
            self.changed.insert(object.clone());
        }
        self.settle(touched, now);
    }

    /// The hosts of `object`, and those that have one of its addresses.
    fn neighbours(&self, object: &ObjectRef) -> BTreeSet<HostName> {
        let Some(entry) = self.snapshot.entry(object) else { return BTreeSet::new() };
        let sharing = entry.own_addresses().flat_map(|address| {
            let in_pool = single(address).and_then(|address| self.pool.host_of(address)).cloned();
            let writing = self.snapshot.writers_of(address).flat_map(|entry| entry.hosts.iter().cloned());
            writing.chain(in_pool)
        });
        entry.hosts.iter().cloned().chain(sharing).collect()
    }

    /// Has the pool follow what the entries of these hosts say.
    fn settle(&mut self, hosts: BTreeSet<HostName>, now: Timestamp) {
        let mut waiting: BTreeSet<_> = hosts.into_iter().map(|host| (self.age(&host), host)).collect();
        while let Some((_, host)) = waiting.pop_first() {
            let losers = self.settle_one(&host, now);
            waiting.extend(losers.into_iter().map(|host| (self.age(&host), host)));
        }
    }

    /// The same for one host; returns who lost an address to it, which is only who is younger.
    fn settle_one(&mut self, host: &HostName, now: Timestamp) -> BTreeSet<HostName> {
        self.changed.extend(self.snapshot.entries_of(host).map(|entry| entry.object.clone()));
        let claim = self.claim(host);
        let wants = self.wanting(host).next().is_some();
        if !wants || claim.iter().any(|address| !self.is_ours(*address)) || !is_one_of_each(&claim) {
            self.pool.release(host, now);
            self.lacks_nothing(host);
            if wants {
                self.foreign.insert(host.clone(), claim);
            } else {
                self.foreign.remove(host);
            }
            return BTreeSet::new();
        }
        self.foreign.remove(host);
        let had = self.pool.get(host).copied().unwrap_or_default();
        let had = Vips {
            v4: had.v4.filter(|address| !self.is_outranked(host, (*address).into())),
            v6: had.v6.filter(|address| !self.is_outranked(host, (*address).into())),
        };
        let claimed = |is_family: fn(&IpAddr) -> bool| {
            let mut own = claim.iter().copied().filter(is_family);
            own.find(|address| !self.is_outranked(host, *address))
        };
        let vips = Vips {
            v4: claimed(IpAddr::is_ipv4).and_then(as_v4).or(had.v4),
            v6: claimed(IpAddr::is_ipv6).and_then(as_v6).or(had.v6),
        };
        let losers = self.pool.assign(host, vips, now);
        self.note(host);
        losers
    }

    /// Puts `host` to those that lack an address, or not.
    fn note(&mut self, host: &HostName) {
        let vips = self.pool.get(host).copied().unwrap_or_default();
        if vips.v4.is_some() && vips.v6.is_some() {
            self.lacks_nothing(host);
        } else if self.lacking.insert(host.clone()) {
            self.untried.insert(host.clone());
        }
    }

    fn lacks_nothing(&mut self, host: &HostName) {
        self.lacking.remove(host);
        self.untried.remove(host);
        self.exhausted.remove(host);
        self.short.remove(host);
    }

    /// Has those that lack an address tried again, for which none was left: one may have rested enough by now.
    pub(super) fn retry(&mut self) {
        self.untried.extend(self.lacking.iter().cloned());
    }

    /// Gives those that lack an address one, the oldest first.
    pub(super) fn allocate(&mut self, now: Timestamp) {
        let untried = std::mem::take(&mut self.untried);
        let untried: BTreeSet<_> = untried.into_iter().map(|host| (self.age(&host), host)).collect();
        for (_, host) in untried {
            let had = self.pool.get(&host).copied();
            let got = self.pool.ensure(&host, now, |address| self.snapshot.is_written(address));
            let vips = got.as_ref().copied().unwrap_or_default();
            let mut is_new = had.unwrap_or_default() != vips;
            if is_new {
                tracing::debug!(host = %host, "address allocated");
            }
            if let Err(error) = &got {
                if self.exhausted.insert(host.clone()) {
                    is_new = true;
                    tracing::error!(host = %host, %error, "no virtual address left");
                }
            } else if self.exhausted.remove(&host) {
                is_new = true;
            }
            if vips.v4.is_some() && vips.v6.is_some() {
                self.lacks_nothing(&host);
            } else if self.short.insert(host.clone()) {
                is_new = true;
            }
            if is_new {
                let entries = self.snapshot.entries_of(&host);
                self.changed.extend(entries.map(|entry| entry.object.clone()));
            }
        }
    }

    /// Everything is to be looked at again.
    pub(super) fn look_again(&mut self) {
        self.changed.extend(self.known.keys().cloned());
    }

    /// The same for one entry.
    pub(super) fn look_again_at(&mut self, object: &ObjectRef) {
        self.changed.insert(object.clone());
    }

    fn addresses_of(&self, host: &HostName) -> Vec<IpAddr> {
        match self.foreign.get(host) {
            Some(addresses) => addresses.clone(),
            None => self.pool.get(host).into_iter().flat_map(Vips::iter).collect(),
        }
    }

    /// The entries of `host` that want an address allocated, the oldest first.
    fn wanting<'a>(&'a self, host: &'a HostName) -> impl Iterator<Item = &'a Entry> {
        let entries = self.snapshot.entries_of(host).map(|entry| &**entry);
        entries.filter(move |entry| wants_vip(entry, host))
    }

    /// What the oldest entry with an address in its status says of `host`.
    fn claim(&self, host: &HostName) -> Vec<IpAddr> {
        let claims = self.wanting(host).map(|entry| in_status(entry, host).collect::<Vec<_>>());
        claims.into_iter().find(|claim| !claim.is_empty()).unwrap_or_default()
    }

    /// Whether another host has a better right to `address`: an older entry writes it, or has it in its status.
    fn is_outranked(&self, host: &HostName, address: IpAddr) -> bool {
        let age = self.age(host);
        let net = IpNet::from(address);
        let is_written = self.snapshot.writers_of(net).any(|entry| {
            entry.addresses.contains(&net)
                && !entry.hosts.contains(host)
                && entry.age_order() < (age.0, &age.1)
        });
        let other = self.pool.host_of(address).filter(|other| *other != host);
        is_written
            || other.is_some_and(|other| {
                self.claim(other).contains(&address) && (self.age(other), other) < (age, host)
            })
    }

    /// The age of `host`: that of its oldest entry which wants an address, else of its oldest.
    fn age(&self, host: &HostName) -> Age {
        let mut entries = self.snapshot.entries_of(host);
        let wanting = entries.clone().find(|entry| wants_vip(entry, host)).or_else(|| entries.next());
        let age = |entry: &std::sync::Arc<Entry>| (entry.created, entry.object.clone());
        wanting.map(age).unwrap_or_else(|| {
            let (kind, namespace) = (Kind::ServiceEntry, Namespace::new(""));
            (None, ObjectRef { kind, namespace, name: "".into() })
        })
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.ranges.v4.contains(&v4),
            IpAddr::V6(v6) => self.ranges.v6.contains(&v6),
        }
    }

    /// An entry whose addresses Istio's allocator wrote.
    pub(super) fn istios(&self) -> Option<&ObjectRef> {
        self.istios.first()
    }

    /// How many entries there are, hosts with an address of each family, and hosts for which none is left.
    pub(super) fn counts(&self) -> Counts {
        let vips = || self.pool.iter().map(|(_, vips)| vips);
        Counts {
            entries: self.known.len(),
            v4: vips().filter(|vips| vips.v4.is_some()).count(),
            v6: vips().filter(|vips| vips.v6.is_some()).count(),
            exhausted: self.exhausted.len(),
        }
    }
}

/// What there is, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) entries: usize,
    pub(super) v4: usize,
    pub(super) v6: usize,
    pub(super) exhausted: usize,
}

fn single(net: IpNet) -> Option<IpAddr> {
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

fn is_one_of_each(addresses: &[IpAddr]) -> bool {
    let v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
    v4 <= 1 && addresses.len() - v4 <= 1
}

fn as_v4(address: IpAddr) -> Option<std::net::Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

fn as_v6(address: IpAddr) -> Option<std::net::Ipv6Addr> {
    match address {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    }
}

#[cfg(test)]
mod tests;
