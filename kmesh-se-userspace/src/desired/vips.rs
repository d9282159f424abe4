//! Virtual addresses for hosts.
//!
//! In: hosts, in the order in which they are to be served, and the time. Out: one address per family and host, the same
//! for as long as the host exists. Never: an address that was released less than a DNS time to live ago.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::HostName;

/// How long a released address rests: longer than clients may cache the DNS answer (30 s).
const QUARANTINE: SignedDuration = SignedDuration::from_secs(60);

/// The ranges that addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipRanges {
    /// For IPv4; network and broadcast address are not used.
    pub v4: Ipv4Net,
    /// For IPv6; the first address is not used.
    pub v6: Ipv6Net,
}

impl Default for VipRanges {
    fn default() -> Self {
        Self {
            v4: Ipv4Net::new_assert(Ipv4Addr::new(240, 240, 0, 0), 16),
            v6: Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48),
        }
    }
}

/// The addresses of one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vips {
    /// IPv4; none when that range was exhausted.
    pub v4: Option<Ipv4Addr>,
    /// IPv6; none when that range was exhausted.
    pub v6: Option<Ipv6Addr>,
}

impl Vips {
    /// The addresses, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Leaves an address out; whether it was there.
    fn remove(&mut self, address: IpAddr) -> bool {
        let has = self.iter().any(|own| own == address);
        if has && address.is_ipv4() {
            self.v4 = None;
        } else if has {
            self.v6 = None;
        }
        has
    }
}

/// No address of either family is free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no virtual address is left for {host}: {v4} and {v6} are used up; give larger ranges")]
pub struct Exhausted {
    /// The host without an address.
    pub host: HostName,
    /// The IPv4 range.
    pub v4: Ipv4Net,
    /// The IPv6 range.
    pub v6: Ipv6Net,
}

/// Which host has which address.
#[derive(Clone, Debug)]
pub struct VipPool {
    ranges: VipRanges,
    hosts: BTreeMap<HostName, Vips>,
    by_address: BTreeMap<IpAddr, HostName>,
    v4: Family<u32>,
    v6: Family<u128>,
    resting: VecDeque<(Timestamp, Vips)>,
}

/// The addresses of one family, or ports, as numbers: which are taken, and where the next search starts.
#[derive(Clone, Debug)]
pub(super) struct Family<N> {
    pub(super) first: N,
    pub(super) last: N,
    pub(super) next: N,
    pub(super) taken: BTreeSet<N>,
}

impl VipPool {
    /// An empty pool over `ranges`.
    #[must_use]
    pub fn new(ranges: VipRanges) -> Self {
        let (v4, v6) = (ranges.v4.trunc(), ranges.v6.trunc());
        Self {
            ranges,
            hosts: BTreeMap::new(),
            by_address: BTreeMap::new(),
            v4: Family::new(u32::from(v4.network()), u32::from(v4.broadcast()).saturating_sub(1)),
            v6: Family::new(u128::from(v6.network()), u128::from(v6.broadcast())),
            resting: VecDeque::new(),
        }
    }

    /// Gives `host` the addresses it had in an earlier life; ones outside the ranges or taken are dropped. To be called
    /// before the host is given others.
    pub fn restore(&mut self, host: &HostName, vips: Vips) {
        let v4 = vips.v4.filter(|a| self.v4.take(u32::from(*a)));
        let v6 = vips.v6.filter(|a| self.v6.take(u128::from(*a)));
        if v4.is_some() || v6.is_some() {
            self.insert(host, Vips { v4, v6 });
        }
    }

    /// The addresses of `host`, allocated now if it has none. A family that it lacks is added when there is room.
    /// Addresses that `is_written` knows belong to somebody else.
    ///
    /// # Errors
    /// [`Exhausted`] when neither family has a free address; one family alone is enough.
    pub fn ensure(
        &mut self,
        host: &HostName,
        now: Timestamp,
        is_written: impl Fn(IpAddr) -> bool,
    ) -> Result<Vips, Exhausted> {
        let mut vips = self.hosts.get(host).copied().unwrap_or_default();
        if vips.v4.is_some() && vips.v6.is_some() {
            return Ok(vips);
        }
        self.wake(now);
        if vips.v4.is_none() {
            vips.v4 = self.v4.allocate(|n| is_written(Ipv4Addr::from(n).into())).map(Ipv4Addr::from);
        }
        if vips.v6.is_none() {
            vips.v6 = self.v6.allocate(|n| is_written(Ipv6Addr::from(n).into())).map(Ipv6Addr::from);
        }
        if vips == Vips::default() {
            return Err(Exhausted { host: host.clone(), v4: self.ranges.v4, v6: self.ranges.v6 });
        }
        self.insert(host, vips);
        Ok(vips)
    }

    /// Makes `vips` the addresses of `host`, as somebody else has decided, and takes them from whoever had them; returns who lost
    /// one. Addresses outside the ranges are left out; what `host` had beside them rests.
    pub fn assign(&mut self, host: &HostName, vips: Vips, now: Timestamp) -> BTreeSet<HostName> {
        let had = self.hosts.remove(host).unwrap_or_default();
        had.iter().for_each(|address| drop(self.by_address.remove(&address)));
        let mut losers = BTreeSet::new();
        let (had_v4, had_v6) =
            (had.v4.filter(|a| vips.v4 != Some(*a)), had.v6.filter(|a| vips.v6 != Some(*a)));
        let v4 = vips.v4.filter(|a| had.v4 == Some(*a) || self.seize((*a).into(), &mut losers));
        let v6 = vips.v6.filter(|a| had.v6 == Some(*a) || self.seize((*a).into(), &mut losers));
        let gone = Vips { v4: had_v4, v6: had_v6 };
        if gone != Vips::default() {
            self.resting.push_back((now + QUARANTINE, gone));
        }
        if v4.is_some() || v6.is_some() {
            self.insert(host, Vips { v4, v6 });
        }
        losers
    }

    /// Takes an address from the host that has it, from rest or from the range; whether it is of the range.
    fn seize(&mut self, address: IpAddr, losers: &mut BTreeSet<HostName>) -> bool {
        if let Some(user) = self.by_address.remove(&address) {
            if let Some(vips) = self.hosts.get_mut(&user) {
                vips.remove(address);
                if *vips == Vips::default() {
                    self.hosts.remove(&user);
                }
            }
            losers.insert(user);
            return true;
        }
        if self.resting.iter_mut().any(|(_, vips)| vips.remove(address)) {
            return true;
        }
        match address {
            IpAddr::V4(v4) => self.v4.take(u32::from(v4)),
            IpAddr::V6(v6) => self.v6.take(u128::from(v6)),
        }
    }

    /// Takes the addresses of `host` back; they rest before they are used again.
    pub fn release(&mut self, host: &HostName, now: Timestamp) {
        if let Some(vips) = self.hosts.remove(host) {
            vips.iter().for_each(|address| drop(self.by_address.remove(&address)));
            self.resting.push_back((now + QUARANTINE, vips));
        }
    }

    /// The addresses of `host`, if it has any.
    #[must_use]
    pub fn get(&self, host: &HostName) -> Option<&Vips> {
        self.hosts.get(host)
    }

    /// The host that was given `address`.
    #[must_use]
    pub fn host_of(&self, address: IpAddr) -> Option<&HostName> {
        self.by_address.get(&address)
    }

    fn insert(&mut self, host: &HostName, vips: Vips) {
        self.by_address.extend(vips.iter().map(|address| (address, host.clone())));
        self.hosts.insert(host.clone(), vips);
    }

    /// All hosts with their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (&HostName, &Vips)> {
        self.hosts.iter()
    }

    fn wake(&mut self, now: Timestamp) {
        while let Some((until, vips)) = self.resting.front().copied() {
            if until > now {
                break;
            }
            self.resting.pop_front();
            vips.v4.map(|a| self.v4.taken.remove(&u32::from(a)));
            vips.v6.map(|a| self.v6.taken.remove(&u128::from(a)));
        }
    }
}

/// The arithmetic that they need.
pub(super) trait Number: Copy + Ord + Into<u128> {
    fn successor(self) -> Option<Self>;
}

impl Number for u16 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u32 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl<N: Number> Family<N> {
    /// The numbers after `network`, up to `last`; there may be none.
    fn new(network: N, last: N) -> Self {
        let first = network.successor().unwrap_or(network);
        Self { first, last: last.max(network), next: first, taken: BTreeSet::new() }
    }

    /// Takes a number that was given in an earlier life. Later ones follow it, so that one which was released shortly
    /// before is not the first to be given again.
    pub(super) fn take(&mut self, number: N) -> bool {
        let is_free = number >= self.first && number <= self.last && self.taken.insert(number);
        if is_free && number >= self.next {
            self.next = self.after(number);
        }
        is_free
    }

    /// The next free number after the last one given, around the end of the range.
    pub(super) fn allocate(&mut self, is_written: impl Fn(N) -> bool) -> Option<N> {
        if self.is_full() {
            return None;
        }
        let found = self
            .free_between(self.next, self.last, &is_written)
            .or_else(|| self.free_between(self.first, self.next, &is_written))?;
        self.taken.insert(found);
        self.next = self.after(found);
        Some(found)
    }

    fn after(&self, number: N) -> N {
        if number < self.last { number.successor().unwrap_or(self.first) } else { self.first }
    }

    fn is_full(&self) -> bool {
        self.first > self.last || self.taken.len() as u128 > self.last.into() - self.first.into()
    }

    fn free_between(&self, start: N, end: N, is_written: &impl Fn(N) -> bool) -> Option<N> {
        let mut taken = self.taken.range(start..=end).peekable();
        let mut candidate = start;
        loop {
            if taken.next_if_eq(&&candidate).is_none() && !is_written(candidate) {
                return Some(candidate);
            }
            candidate = candidate.successor().filter(|next| *next <= end)?;
        }
    }
}
