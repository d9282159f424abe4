//! Which host has which address in the whole cluster, and what each entry's status should say of it.
//!
//! In: entries as the API server has them, the time. Out: patches. Never: a request, or an address that moves without need.
//!
//! What a status says is true, whoever wrote it: the pool follows it, and gives only hosts without an address one. An address
//! that two hosts have stays with the older entry. So a controller that starts finds out from the entries alone what there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use jiff::Timestamp;
use json_patch::Patch;
use serde_json::Value;

use super::patch::{self, Old, Test};
use crate::{
    desired::{Age, VipPool, VipRanges, Vips, in_status, wants_vip},
    model::{
        Entry, HostName, Kind, Namespace, Object, ObjectRef, ServiceEntry, ServiceEntryStatus, Snapshot,
        StatusAddress, validate,
    },
};

/// By what the API server knows the writes of this program.
pub(super) const MANAGER: &str = "kmesh-se-controller";
/// By what it knows those of Istio's control plane.
const ISTIO: &str = "pilot-discovery";

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
    /// Of these, the ones for which there is none at all.
    exhausted: BTreeSet<HostName>,
    /// Entries of which it is not known whether they are as they should be.
    changed: BTreeSet<ObjectRef>,
    /// Entries whose addresses Istio's allocator wrote.
    istios: BTreeSet<ObjectRef>,
}

/// An entry as the API server has it, accepted or not.
#[derive(Debug)]
struct Known {
    api_version: String,
    uid: String,
    version: String,
    status: ServiceEntryStatus,
    /// Whether this program wrote `status.addresses`.
    is_ours: bool,
    /// How often a patch of this version was refused.
    refused: u32,
    /// Whether this is what a write of our own was answered, which the watch has not told yet.
    is_ahead: bool,
}

impl Known {
    fn of(raw: ServiceEntry) -> Self {
        Self {
            is_ours: is_written_by(&raw, MANAGER),
            api_version: raw.api_version,
            uid: raw.metadata.uid,
            version: raw.metadata.resource_version,
            status: raw.status,
            refused: 0,
            is_ahead: false,
        }
    }

    fn number(&self) -> u64 {
        self.version.parse().unwrap_or_default()
    }
}

/// A write that makes an entry what it should be.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) object: ObjectRef,
    pub(super) api_version: String,
    /// The version of the object that it was made for.
    pub(super) version: String,
    pub(super) patch: Patch,
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
            changed: BTreeSet::new(),
            istios: BTreeSet::new(),
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

    fn take(&mut self, raw: ServiceEntry, known: Known, now: Timestamp) {
        let object = raw.object_ref();
        if is_written_by(&raw, ISTIO) && !raw.status.addresses.is_empty() {
            self.istios.insert(object.clone());
        } else {
            self.istios.remove(&object);
        }
        self.known.insert(object.clone(), known);
        let mut touched = self.neighbours(&object);
        match validate(&Object::ServiceEntry(Box::new(raw))).accepted {
            Some(accepted) => touched.extend(self.snapshot.apply(accepted)),
            None => touched.extend(self.snapshot.remove(&object)),
        }
        touched.extend(self.neighbours(&object));
        self.changed.insert(object);
        self.settle(touched, now);
    }

    /// An entry is gone.
    pub(super) fn delete(&mut self, object: &ObjectRef, now: Timestamp) {
        self.known.remove(object);
        self.istios.remove(object);
        let mut touched = self.neighbours(object);
        touched.extend(self.snapshot.remove(object));
        self.changed.insert(object.clone());
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
            match self.pool.ensure(&host, now, |address| self.snapshot.is_written(address)) {
                Ok(vips) if Some(vips) != had => {
                    tracing::debug!(host = %host, "address allocated");
                    let entries = self.snapshot.entries_of(&host);
                    self.changed.extend(entries.map(|entry| entry.object.clone()));
                    self.exhausted.remove(&host);
                    if vips.v4.is_some() && vips.v6.is_some() {
                        self.lacking.remove(&host);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    if self.exhausted.insert(host.clone()) {
                        tracing::error!(host = %host, %error, "no virtual address left");
                    }
                }
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

    /// The entries that have changed since this was last asked, each with its age if it is to be written.
    pub(super) fn take_changed(&mut self) -> Vec<(ObjectRef, Option<Age>)> {
        let changed = std::mem::take(&mut self.changed);
        let age = |object: &ObjectRef| {
            self.wanted(object)?;
            Some((self.snapshot.entry(object)?.created, object.clone()))
        };
        changed.into_iter().map(|object| (object.clone(), age(&object))).collect()
    }

    /// The write that `object` needs, if it does.
    pub(super) fn write(&self, object: &ObjectRef) -> Option<Write> {
        let wanted = self.wanted(object)?;
        let known = self.known.get(object)?;
        let old = Old {
            uid: &known.uid,
            version: &known.version,
            lacks_status: known.status == ServiceEntryStatus::default(),
            addresses: &known.status.addresses,
        };
        // What has no status in our eyes may have one that only others can read.
        let test = if known.refused % 2 == 0 { Test::Addresses } else { Test::Version };
        Some(Write {
            object: object.clone(),
            api_version: known.api_version.clone(),
            version: known.version.clone(),
            patch: patch::set_addresses(old, &wanted, test),
        })
    }

    /// The API server refused a write of this version of `object`: it is another by now, or not quite what it looks like.
    pub(super) fn refused(&mut self, object: &ObjectRef, version: &str) {
        if let Some(known) = self.known.get_mut(object).filter(|known| known.version == version) {
            known.refused += 1;
        }
        self.changed.insert(object.clone());
    }

    /// What the status of `object` should have; nothing if it has that.
    fn wanted(&self, object: &ObjectRef) -> Option<Vec<StatusAddress>> {
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
        let item = |host: &HostName, address: IpAddr| StatusAddress {
            value: address.to_string(),
            host: host.to_string(),
        };
        let all = hosts
            .iter()
            .flat_map(|host| self.addresses_of(host).into_iter().map(move |address| item(host, address)));
        Some(all.collect())
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

/// Whether the manager `name` wrote `status.addresses`.
fn is_written_by(raw: &ServiceEntry, name: &str) -> bool {
    let wrote = |manager: &Value| manager.pointer("/fieldsV1/f:status/f:addresses").is_some();
    raw.metadata.managed_fields.iter().any(|manager| manager["manager"] == name && wrote(manager))
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
