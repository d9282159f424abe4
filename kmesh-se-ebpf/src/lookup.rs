//! From a dialled address to a service.
//!
//! In: workload, address, port, protocol. Out: a service, or what an address without such a port gets. Never: a backend.

use kmesh_se_common::{
    addr::{filter_bit, from_words},
    maps::{AddressKey, FrontendKey, SCOPE_MESH, UNLISTED_REFUSE, WORKLOAD_PRIVATE_VIEW, Workload},
};

use crate::{
    maps::{ADDRESS, FILTER, FRONTEND},
    sock::Endpoint,
};

/// What a dialled address means.
pub(crate) enum Target {
    /// A frontend: index of its service.
    Service(u32),
    /// One of our addresses, without that port, and ours alone; and a service by which to sort it.
    Refuse(u32),
    /// Not ours.
    Pass,
}

/// Looks `to` up as `workload` sees it: its own view first, where an address that the view knows hides the mesh's.
#[inline(always)]
pub(crate) fn find(workload: &Workload, to: Endpoint, proto: u8) -> Target {
    if workload.flags & WORKLOAD_PRIVATE_VIEW != 0
        && let Some(target) = find_in(workload.scope, to, proto)
    {
        return target;
    }
    find_in(SCOPE_MESH, to, proto).unwrap_or(Target::Pass)
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
fn find_in(scope: u32, to: Endpoint, proto: u8) -> Option<Target> {
    if !may_be_known(to.addr) {
        return None;
    }
    let addr = from_words(to.addr);
    let key = FrontendKey { scope, addr, port: to.port, proto, _pad: 0 };
    // SAFETY: the value is read before the program ends; the agent reuses elements only after a grace period.
    if let Some(frontend) = unsafe { FRONTEND.get(key) } {
        return Some(Target::Service(frontend.service));
    }
    // SAFETY: as above.
    let address = unsafe { ADDRESS.get(AddressKey { scope, addr }) }?;
    Some(if address.unlisted == UNLISTED_REFUSE { Target::Refuse(address.sorts_by) } else { Target::Pass })
}
