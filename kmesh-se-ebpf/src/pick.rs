//! From a service to a backend.
//!
//! In: a service's slots. Out: one backend, at random by weight. Never: a second look at the slots' word, which may
//! have changed.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use kmesh_se_common::{addr::words, maps::Service};

use crate::{
    maps::{BACKEND, SERVICE, SLOT},
    sock::Endpoint,
};

/// Where the slots of `service` lie now, read as one word.
#[inline(always)]
pub(crate) fn slots(service: u32) -> Service {
    let none = Service { slot_base: 0, slot_count: 0 };
    let Some(at) = SERVICE.get_ptr(service) else { return none };
    // SAFETY: the element is 8 bytes, aligned to 8; both types are plain integers. Volatile makes it one load.
    unsafe { core::mem::transmute::<u64, Service>(at.cast::<u64>().read_volatile()) }
}

/// One backend of `slots`; none when there are no slots.
#[inline(always)]
pub(crate) fn backend(slots: Service) -> Option<Endpoint> {
    if slots.slot_count == 0 {
        return None;
    }
    // The high half of random * count is an even choice of a column; the low half is an even fraction within it.
    // SAFETY: the helper has no preconditions.
    let product = u64::from(unsafe { bpf_get_prandom_u32() }) * u64::from(slots.slot_count);
    let slot = SLOT.get(slots.slot_base + (product >> 32) as u32)?;
    let id = if (product as u32) < slot.threshold { slot.backend } else { slot.alias };
    let backend = BACKEND.get(id)?;
    Some(Endpoint { addr: words(&backend.addr), port: backend.port })
}
