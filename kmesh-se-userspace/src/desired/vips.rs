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
    v4: Family<u32>,
    v6: Family<u128>,
    resting: VecDeque<(Timestamp, Vips)>,
}

/// The addresses of one family as numbers: which are taken, and where the next search starts.
#[derive(Clone, Debug)]
struct Family<N> {
    first: N,
    last: N,
    next: N,
    taken: BTreeSet<N>,
}

impl VipPool {
    /// An empty pool over `ranges`.
    #[must_use]
    pub fn new(ranges: VipRanges) -> Self {
        let (v4, v6) = (ranges.v4.trunc(), ranges.v6.trunc());
        Self {
            ranges,
            hosts: BTreeMap::new(),
            v4: Family::new(u32::from(v4.network()) + 1, u32::from(v4.broadcast()).saturating_sub(1)),
            v6: Family::new(u128::from(v6.network()) + 1, u128::from(v6.broadcast())),
            resting: VecDeque::new(),
        }
    }

    /// Gives `host` the addresses it had in an earlier life; ones outside the ranges or taken are dropped.
    pub fn restore(&mut self, host: &HostName, vips: Vips) {
        let v4 = vips.v4.filter(|a| self.v4.take(u32::from(*a)));
        let v6 = vips.v6.filter(|a| self.v6.take(u128::from(*a)));
        if v4.is_some() || v6.is_some() {
            self.hosts.insert(host.clone(), Vips { v4, v6 });
        }
    }

    /// The addresses of `host`, allocated now if it has none.
    ///
    /// # Errors
    /// [`Exhausted`] when neither family has a free address; one family alone is enough.
    pub fn ensure(&mut self, host: &HostName, now: Timestamp) -> Result<Vips, Exhausted> {
        if let Some(vips) = self.hosts.get(host) {
            return Ok(*vips);
        }
        self.wake(now);
        let vips =
            Vips { v4: self.v4.allocate().map(Ipv4Addr::from), v6: self.v6.allocate().map(Ipv6Addr::from) };
        if vips == Vips::default() {
            return Err(Exhausted { host: host.clone(), v4: self.ranges.v4, v6: self.ranges.v6 });
        }
        self.hosts.insert(host.clone(), vips);
        Ok(vips)
    }

    /// Takes the addresses of `host` back; they rest before they are used again.
    pub fn release(&mut self, host: &HostName, now: Timestamp) {
        if let Some(vips) = self.hosts.remove(host) {
            self.resting.push_back((now + QUARANTINE, vips));
        }
    }

    /// The addresses of `host`, if it has any.
    #[must_use]
    pub fn get(&self, host: &HostName) -> Option<&Vips> {
        self.hosts.get(host)
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

/// The arithmetic that both families need.
trait Number: Copy + Ord {
    fn successor(self) -> Self;
}

impl Number for u32 {
    fn successor(self) -> Self {
        self.wrapping_add(1)
    }
}

impl Number for u128 {
    fn successor(self) -> Self {
        self.wrapping_add(1)
    }
}

impl<N: Number> Family<N> {
    fn new(first: N, last: N) -> Self {
        Self { first, last, next: first, taken: BTreeSet::new() }
    }

    fn take(&mut self, number: N) -> bool {
        number >= self.first && number <= self.last && self.taken.insert(number)
    }

    /// The next free number after the last one given, around the end of the range.
    fn allocate(&mut self) -> Option<N> {
        let start = self.next;
        let found = self.free_from(start, self.last).or_else(|| self.free_from(self.first, start))?;
        self.taken.insert(found);
        self.next = if found == self.last { self.first } else { found.successor() };
        Some(found)
    }

    fn free_from(&self, start: N, end: N) -> Option<N> {
        let mut candidate = start;
        for taken in self.taken.range(start..=end) {
            if *taken != candidate {
                break;
            }
            if candidate == end {
                return None;
            }
            candidate = candidate.successor();
        }
        (candidate <= end).then_some(candidate)
    }
}
