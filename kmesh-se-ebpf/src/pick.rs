//! From a service to a backend.
//!
//! In: a service, or its slots, and the family that was dialled. Out: one backend, at random by weight. Never: a second look at
//! a word of slots, which may have changed.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use kmesh_se_common::{
    addr::{is_v4_mapped, words},
    limits::MAX_KEEP_SCAN,
    maps::Service,
};

use crate::{
    maps::{BACKEND, SERVICE, SLOT},
    sock::Endpoint,
};

/// One backend of `service` for who dials `to`; of its waypoint, at the service's port there, if it goes through one.
#[inline(always)]
pub(crate) fn stream(service: u32, to: Endpoint) -> Option<Endpoint> {
    let own = slots(service);
    let (slots, port) = match own.waypoint() {
        None => (own, 0),
        Some((waypoint, port)) => (slots(waypoint), port),
    };
    let (backend, _) = backend(slots, to)?;
    // One of the two ports is 0.
    Some(Endpoint { port: backend.port | port, ..backend })
}

/// Where the slots of `service`, which may be a waypoint, lie now, read as one word. What is sent without a connection never goes
/// through a waypoint: with a look at one the verifier (Linux 6.18) goes through more than a million instructions in `sendmsg`.
#[inline(always)]
pub(crate) fn slots(service: u32) -> Service {
    let Some(at) = SERVICE.get_ptr(service) else { return Service::EMPTY };
    // SAFETY: the element is 8 bytes, aligned to 8; both types are plain integers. Volatile makes it one load.
    unsafe { core::mem::transmute::<u64, Service>(at.cast::<u64>().read_volatile()) }
}

/// One backend of `slots` for who dials `to`, and the column where it is; none when there are no slots.
#[inline(always)]
pub(crate) fn backend(slots: Service, to: Endpoint) -> Option<(Endpoint, u32)> {
    let (base, count) = slots.run(is_v4_mapped(&to.addr));
    if count == 0 {
        return None;
    }
    // The high half of random * count is an even choice of a column; the low half is an even fraction within it.
    // SAFETY: the helper has no preconditions.
    let product = u64::from(unsafe { bpf_get_prandom_u32() }) * u64::from(count);
    let column = (product >> 32) as u32;
    let slot = SLOT.get(base + column)?;
    let backend = at(if (product as u32) < slot.threshold { slot.backend } else { slot.alias })?;
    Some((backend, column))
}

/// Whether who dials `to` may get `backend` by a column.
#[inline(always)]
pub(crate) fn lists_at(slots: Service, to: Endpoint, column: u32, backend: Endpoint) -> bool {
    let (base, count) = slots.run(is_v4_mapped(&to.addr));
    let Some(slot) = SLOT.get(base.wrapping_add(column)) else { return false };
    column < count && [slot.backend, slot.alias].into_iter().any(|id| at(id) == Some(backend))
}

/// The column of `backend`, if it is among the first that who dials `to` may get.
#[inline(always)]
pub(crate) fn column_of(slots: Service, to: Endpoint, backend: Endpoint) -> Option<u32> {
    let (base, count) = slots.run(is_v4_mapped(&to.addr));
    for offset in 0..MAX_KEEP_SCAN {
        if offset >= count {
            break;
        }
        // Each backend has one column that is its own.
        if let Some(slot) = SLOT.get(base + offset)
            && at(slot.backend).is_some_and(|listed| listed == backend)
        {
            return Some(offset);
        }
    }
    None
}

#[inline(always)]
fn at(id: u32) -> Option<Endpoint> {
    let backend = BACKEND.get(id)?;
    Some(Endpoint { addr: words(&backend.addr), port: backend.port })
}
