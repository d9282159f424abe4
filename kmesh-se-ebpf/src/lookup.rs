//! From a dialled address to a service.
//!
//! In: workload, address, port, protocol. Out: a service, or what an address without such a port gets. Never: a backend.

use aya_ebpf::btf_maps::lpm_trie::Key;
use kmesh_se_common::{
    addr::{filter_bit, from_words, is_v4_mapped},
    maps::{
        Address, AddressKey, Cidr, CidrKey, Config, FrontendKey, NO_SERVICE, PREFIX_SINGLE, SCOPE_MESH,
        UNLISTED_REFUSE, WORKLOAD_PRIVATE_VIEW, Workload,
    },
};

use crate::{
    maps::{ADDRESS, CIDR, FILTER, FRONTEND},
    sock::Endpoint,
};

/// What a dialled address means, and the index of a service. Not one enum: the verifier (Linux 6.18) refuses the copy of a
/// service that is not there, which LLVM makes before it asks ("R2 !read_ok").
pub(crate) struct Target {
    pub(crate) fate: Fate,
    /// The one that it leads to, or by which it is sorted; else [`NO_SERVICE`].
    pub(crate) service: u32,
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A frontend: it goes to a backend of the service.
    Service,
    /// One of our addresses, without that port, and ours alone; with a service by which to sort it.
    Refuse,
    /// An address of an entry that leaves it alone, or does not list that port of it.
    Pass,
    /// Not ours.
    Unknown,
}

impl Target {
    const UNKNOWN: Self = Self { fate: Fate::Unknown, service: NO_SERVICE };
}

/// Looks `to` up as `workload` sees it: the address itself, else the narrowest range that holds it; in the workload's own
/// view before the mesh's. What knows the address decides about all of its ports.
#[inline(always)]
pub(crate) fn find(workload: &Workload, config: &Config, to: Endpoint, proto: u8) -> Target {
    let has_own_view = workload.flags & WORKLOAD_PRIVATE_VIEW != 0;
    if may_be_known(to.addr) {
        if has_own_view && let Some(target) = find_single(workload.scope, to, proto) {
            return target;
        }
        if let Some(target) = find_single(SCOPE_MESH, to, proto) {
            return target;
        }
    }
    // A walk through the trie costs more than all the rest: nobody pays for ranges that are not there.
    if config.cidrs == 0 {
        return Target::UNKNOWN;
    }
    let own = if has_own_view { narrowest(workload.scope, to) } else { None };
    match (own, narrowest(SCOPE_MESH, to)) {
        (Some(own), Some(mesh)) if own.prefix < mesh.prefix => by_range(SCOPE_MESH, mesh, to, proto),
        (Some(own), _) => by_range(workload.scope, own, to, proto),
        (None, Some(mesh)) => by_range(SCOPE_MESH, mesh, to, proto),
        (None, None) => Target::UNKNOWN,
    }
}

/// Whether one of the maps may hold an address; most that are dialled are in none, and end here.
#[inline(always)]
fn may_be_known(addr: [u32; 4]) -> bool {
    let bit = filter_bit(addr);
    let Some(word) = FILTER.get_ptr(bit / u64::BITS) else { return true };
    // SAFETY: an array element lives as long as the map; volatile makes it one load.
    let word = unsafe { word.read_volatile() };
    word & (1 << (bit % u64::BITS)) != 0
}

#[inline(always)]
fn find_single(scope: u32, to: Endpoint, proto: u8) -> Option<Target> {
    let addr = from_words(to.addr);
    let key = FrontendKey { scope, addr, port: to.port, proto, prefix: PREFIX_SINGLE };
    // SAFETY: the value is read before the program ends; the agent reuses elements only after a grace period.
    if let Some(frontend) = unsafe { FRONTEND.get(key) } {
        return Some(Target { fate: Fate::Service, service: frontend.service });
    }
    // SAFETY: as above.
    unsafe { ADDRESS.get(AddressKey { scope, addr }) }.map(unlisted)
}

/// The narrowest range of a scope that holds an address. As with frontends, the agent reuses its element only after a grace
/// period.
#[inline(always)]
fn narrowest(scope: u32, to: Endpoint) -> Option<&'static Cidr> {
    let data = CidrKey::new(scope, from_words(to.addr));
    let cidr = CIDR.get(&Key { prefix_len: CidrKey::bits(PREFIX_SINGLE), data })?;
    cidr.means(is_v4_mapped(&to.addr)).then_some(cidr)
}

#[inline(always)]
fn by_range(scope: u32, range: &Cidr, to: Endpoint, proto: u8) -> Target {
    let key = FrontendKey { scope, addr: range.addr, port: to.port, proto, prefix: range.prefix as u8 };
    // SAFETY: as in `find_single`.
    match unsafe { FRONTEND.get(key) } {
        Some(frontend) => Target { fate: Fate::Service, service: frontend.service },
        None => unlisted(&range.rule),
    }
}

#[inline(always)]
fn unlisted(rule: &Address) -> Target {
    let fate = if rule.unlisted == UNLISTED_REFUSE { Fate::Refuse } else { Fate::Pass };
    Target { fate, service: rule.sorts_by }
}
