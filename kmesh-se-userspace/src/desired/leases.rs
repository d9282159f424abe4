//! Concrete names under DYNAMIC_DNS wildcards: which are in use, by whom, at which addresses.
//!
//! In: the names that clients ask for, and the time. Out: addresses from ranges of their own. Never: a name that nobody
//! asked for, or one that is forgotten while somebody uses it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};
use jiff::{SignedDuration, Timestamp};

use super::{Exhausted, VipPool, VipRanges, Vips};
use crate::model::{HostName, Namespace};

/// The default ranges. For IPv4 the /16 beside the one that hosts get, in space that is routed nowhere; for IPv6 the prefix
/// whose packets every router may discard (RFC 6666).
pub const DYNAMIC_RANGES: VipRanges = VipRanges {
    v4: Ipv4Net::new_assert(Ipv4Addr::new(240, 241, 0, 0), 16),
    v6: Ipv6Net::new_assert(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
};

/// Who uses names: the clients of one namespace at one address. On Kubernetes that is one Pod; commands of one network
/// namespace, and Pods in that of their node, count together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct User {
    /// Whose view they have.
    pub namespace: Namespace,
    /// Where they ask from.
    pub address: IpAddr,
}

impl User {
    /// The clients of `namespace` at `address`, which an IPv6 socket may have seen as a mapped one.
    #[must_use]
    pub fn new(namespace: Namespace, address: IpAddr) -> Self {
        Self { namespace, address: address.to_canonical() }
    }

    /// Anybody of `namespace`, for who only wants to know what would be answered.
    #[must_use]
    pub fn of(namespace: Namespace) -> Self {
        Self::new(namespace, Ipv4Addr::UNSPECIFIED.into())
    }
}

/// How many concrete names, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLimits {
    /// Names that one client may have in use at one time.
    pub names: usize,
    /// A name that was neither asked for nor connected to for this long is no longer in use.
    pub idle: SignedDuration,
}

impl Default for LeaseLimits {
    fn default() -> Self {
        Self { names: 1024, idle: SignedDuration::from_mins(10) }
    }
}

/// A client uses as many names as it may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the client {} of namespace {} uses {limit} names under wildcards; {host} and others are left to the resolver: raise \
     --dynamic-names",
    user.address,
    user.namespace
)]
pub struct QuotaFull {
    /// The name that was asked for.
    pub host: HostName,
    /// Who asked.
    pub user: User,
    /// How many names it may use.
    pub limit: usize,
}

/// The concrete names in use.
#[derive(Debug)]
pub struct Leases {
    pool: VipPool,
    limits: LeaseLimits,
    names: BTreeMap<HostName, Lease>,
    /// User -> how many names it uses.
    counts: BTreeMap<User, usize>,
    /// Whether something is to be saved.
    is_changed: bool,
}

#[derive(Debug)]
struct Lease {
    /// User -> when it asked last.
    users: BTreeMap<User, Timestamp>,
    /// Connections when they were last looked at.
    connects: u64,
}

impl Leases {
    /// No names, and these ranges for their addresses.
    #[must_use]
    pub fn new(ranges: VipRanges, limits: LeaseLimits) -> Self {
        let (names, counts) = (BTreeMap::new(), BTreeMap::new());
        Self { pool: VipPool::new(ranges), limits, names, counts, is_changed: false }
    }

    /// A name of an earlier run with its addresses; those outside the ranges are dropped: says whether it has all of them.
    pub fn restore(
        &mut self,
        host: &HostName,
        vips: Vips,
        users: impl IntoIterator<Item = User>,
        now: Timestamp,
    ) -> bool {
        for user in users {
            self.add_user(host, &user, now);
        }
        self.pool.restore(host, vips);
        self.pool.get(host) == Some(&vips)
    }

    /// `user` asks for `host`.
    ///
    /// # Errors
    /// [`QuotaFull`]: the name is not in use by that client, and cannot be.
    pub fn ask(&mut self, host: &HostName, user: &User, now: Timestamp) -> Result<(), QuotaFull> {
        if let Some(at) = self.names.get_mut(host).and_then(|lease| lease.users.get_mut(user)) {
            *at = now;
            return Ok(());
        }
        if self.counts.get(user).copied().unwrap_or_default() >= self.limits.names {
            return Err(QuotaFull { host: host.clone(), user: user.clone(), limit: self.limits.names });
        }
        self.add_user(host, user, now);
        Ok(())
    }

    fn add_user(&mut self, host: &HostName, user: &User, now: Timestamp) {
        let lease =
            self.names.entry(host.clone()).or_insert_with(|| Lease { users: BTreeMap::new(), connects: 0 });
        if lease.users.insert(user.clone(), now).is_none() {
            *self.counts.entry(user.clone()).or_default() += 1;
        }
    }

    /// Whether `host` is in use.
    #[must_use]
    pub fn contains(&self, host: &HostName) -> bool {
        self.names.contains_key(host)
    }

    /// The addresses of `host`, if it has any.
    #[must_use]
    pub fn vips(&self, host: &HostName) -> Option<&Vips> {
        self.pool.get(host)
    }

    /// The addresses of `host`, which is in use: allocated now if it has none.
    ///
    /// # Errors
    /// As [`VipPool::ensure`].
    pub fn ensure_vips(
        &mut self,
        host: &HostName,
        now: Timestamp,
        is_written: impl Fn(IpAddr) -> bool,
    ) -> Result<Vips, Exhausted> {
        let had = self.pool.get(host).copied();
        let vips = self.pool.ensure(host, now, is_written)?;
        self.is_changed |= had != Some(vips);
        Ok(vips)
    }

    /// Nobody uses `host` any more. Its addresses rest before another name gets them.
    pub fn end(&mut self, host: &HostName, now: Timestamp) {
        let Some(lease) = self.names.remove(host) else { return };
        lease.users.keys().for_each(|user| release(&mut self.counts, user));
        self.is_changed |= self.pool.get(host).is_some();
        self.pool.release(host, now);
    }

    /// How many, and for how long.
    #[must_use]
    pub fn limits(&self) -> LeaseLimits {
        self.limits
    }

    /// The names that nobody has asked for in time. A client that has not, while another one has, is no user any more.
    pub fn quiet(&mut self, now: Timestamp) -> Vec<HostName> {
        let Self { names, counts, limits, .. } = self;
        let mut quiet = Vec::new();
        for (host, lease) in names {
            let is_idle = |at: &Timestamp| now.duration_since(*at) >= limits.idle;
            if lease.users.values().all(is_idle) {
                quiet.push(host.clone());
                continue;
            }
            lease.users.retain(|user, at| {
                let stays = !is_idle(at);
                if !stays {
                    release(counts, user);
                }
                stays
            });
        }
        quiet
    }

    /// `host` is quiet and has seen so many connections: says whether some are new, which is a use of it.
    pub fn is_connected_to(&mut self, host: &HostName, connects: u64, now: Timestamp) -> bool {
        let Some(lease) = self.names.get_mut(host) else { return false };
        if std::mem::replace(&mut lease.connects, connects) == connects {
            return false;
        }
        lease.users.values_mut().for_each(|at| *at = now);
        true
    }

    /// The names in use below `suffix`.
    pub fn below<'a>(&'a self, suffix: &'a str) -> impl Iterator<Item = &'a HostName> {
        let is_below = move |host: &&HostName| {
            host.as_str().strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
        };
        self.names.keys().filter(is_below)
    }

    /// All names with their addresses and users.
    pub fn iter(&self) -> impl Iterator<Item = (&HostName, Option<&Vips>, impl Iterator<Item = &User>)> {
        self.names.iter().map(|(host, lease)| (host, self.pool.get(host), lease.users.keys()))
    }

    /// Whether names got or lost addresses since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }
}

fn release(counts: &mut BTreeMap<User, usize>, user: &User) {
    if let Some(count) = counts.get_mut(user) {
        *count -= 1;
        if *count == 0 {
            counts.remove(user);
        }
    }
}
