//! From a service to a backend.
//!
//! In: a service's slots and the family that was dialled. Out: one backend, at random by weight. Never: a second look at
//! the slots' word, which may have changed.

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

/// Where the slots of `service` lie now, read as one word.
#[inline(always)]
pub(crate) fn slots(service: u32) -> Service {
    let Some(at) = SERVICE.get_ptr(service) else { return Service::EMPTY };
    // SAFETY: the element is 8 bytes, aligned to 8; both types are plain integers. Volatile makes it one load.
    unsafe { core::mem::transmute::<u64, Service>(at.cast::<u64>().read_volatile()) }
}

/// One backend of `slots` for who dials `to`; none when there are no slots.
#[inline(always)]
pub(crate) fn backend(slots: Service, to: Endpoint) -> Option<Endpoint> {
    let (base, count) = slots.run(is_v4_mapped(&to.addr));
    if count == 0 {
        return None;
    }
    // The high half of random * count is an even choice of a column; the low half is an even fraction within it.
    // SAFETY: the helper has no preconditions.
    let product = u64::from(unsafe { bpf_get_prandom_u32() }) * u64::from(count);
    let slot = SLOT.get(base + (product >> 32) as u32)?;
    at(if (product as u32) < slot.threshold { slot.backend } else { slot.alias })
}

/// Whether `backend` is among the first backends that who dials `to` may get.
#[inline(always)]
pub(crate) fn lists(slots: Service, to: Endpoint, backend: Endpoint) -> bool {
    let (base, count) = slots.run(is_v4_mapped(&to.addr));
    for offset in 0..MAX_KEEP_SCAN {
        if offset >= count {
            break;
        }
        // Each backend has one column that is its own.
        if let Some(slot) = SLOT.get(base + offset)
            && at(slot.backend).is_some_and(|listed| listed == backend)
        {
            return true;
        }
    }
    false
}

#[inline(always)]
fn at(id: u32) -> Option<Endpoint> {
    let backend = BACKEND.get(id)?;
    Some(Endpoint { addr: words(&backend.addr), port: backend.port })
}
