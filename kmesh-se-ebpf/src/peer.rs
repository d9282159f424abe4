//! What is remembered for a socket, and what `getpeername` shows.
//!
//! In: mappings made by connect. Out: the address that the client dialled, where it asks for its peer. Never: a name for a
//! socket whose last connect was not rewritten.

use aya_ebpf::programs::SockAddrContext;
use kmesh_se_common::{
    addr::{from_words, words},
    maps::{Mapping, Service, SockState},
};

use crate::{
    maps::SK,
    sock::{Endpoint, Family, PROCEED},
};

#[inline(always)]
pub(crate) fn mapping(vip: Endpoint, backend: Endpoint, service: u32, slots: Service) -> Mapping {
    Mapping {
        vip: from_words(vip.addr),
        backend: from_words(backend.addr),
        vip_port: vip.port,
        backend_port: backend.port,
        service,
        slots,
    }
}

/// The address that was dialled.
#[inline(always)]
pub(crate) fn vip(mapping: &Mapping) -> Endpoint {
    Endpoint { addr: words(&mapping.vip), port: mapping.vip_port }
}

/// What it was replaced by.
#[inline(always)]
pub(crate) fn backend(mapping: &Mapping) -> Endpoint {
    Endpoint { addr: words(&mapping.backend), port: mapping.backend_port }
}

/// What is remembered for the socket, if anything.
#[inline(always)]
pub(crate) fn state(ctx: &SockAddrContext) -> Option<&'static mut SockState> {
    // SAFETY: the socket is the context's; null means none. Connects of one socket exclude each other; what several
    // threads may send at once is written as the fields say.
    unsafe { SK.get_ptr_mut(ctx).as_mut() }
}

/// The same, made when there is none; none when the kernel has no memory for it.
#[inline(always)]
pub(crate) fn state_or_new(ctx: &SockAddrContext) -> Option<&'static mut SockState> {
    // SAFETY: as `state`; a new value is all zero, which is two empty mappings and no row.
    unsafe { SK.get_or_insert_ptr_mut(ctx, None).as_mut() }
}

/// getpeername(2): the address that the client dialled. The socket's real peer need not be the backend, which a program of
/// a cgroup above may have replaced once more; every connect of this socket sets or clears the mapping.
#[inline(always)]
pub(crate) fn getpeername<F: Family>(ctx: &SockAddrContext) -> i32 {
    if let Some(state) = state(ctx)
        && state.connected.backend_port != 0
    {
        let vip = vip(&state.connected);
        if F::reaches(&vip.addr) {
            F::write(ctx, vip);
        }
    }
    PROCEED
}
