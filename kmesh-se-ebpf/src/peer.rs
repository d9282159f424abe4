//! What is remembered for a socket, and what `getpeername` shows.
//!
//! In: mappings made by connect. Out: the address that the client dialled, where it asks for its peer. Never: a name for a
//! socket whose last connect was not rewritten.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext,
    helpers::bpf_get_socket_cookie,
    programs::{SockAddrContext, SockContext},
};
use kmesh_se_common::{
    addr::{from_words, words},
    limits::MAX_CONNECTIONS,
    maps::{Connection, Mapping, Service, SockState},
};

use crate::{
    maps::{CONNECTION, SK},
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

/// What is remembered for the socket in its own storage, if anything.
#[inline(always)]
pub(crate) fn state(ctx: &SockAddrContext) -> Option<&'static mut SockState> {
    // SAFETY: the socket is the context's; null means none. The kernel locks the socket around the program.
    unsafe { SK.get_ptr_mut(ctx).as_mut() }
}

/// The same, made when there is none; none when the kernel has no memory for it.
#[inline(always)]
pub(crate) fn state_or_new(ctx: &SockAddrContext) -> Option<&'static mut SockState> {
    // SAFETY: as `state`; a new value is all zero, which is two empty mappings and no row.
    unsafe { SK.get_or_insert_ptr_mut(ctx, None).as_mut() }
}

/// The socket's cookie, never 0, and its place among the connections.
#[inline(always)]
fn place(ctx: &impl EbpfContext) -> Option<(u64, &'static mut Connection)> {
    // SAFETY: the helper takes a context of either kind of program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let at = CONNECTION.get_ptr_mut(cookie as u32 & (MAX_CONNECTIONS - 1))?;
    // SAFETY: only who holds the place writes it, except for `claims`.
    Some((cookie, unsafe { &mut *at }))
}

/// Adds to the claims of a place; returns what is there afterwards, with what others added since.
#[inline(always)]
fn claim(place: &mut Connection, change: i64) -> u64 {
    let claims = &raw mut place.claims;
    // An addition without a result is the one atomic operation that Linux 5.10 has; `core` has none for this target.
    // SAFETY: the field is aligned to 8 and lives as long as the map.
    unsafe {
        asm!("lock *(u64 *)({at} + 0) += {change}", at = in(reg) claims, change = in(reg) change);
        claims.read_volatile()
    }
}

/// Remembers what a connect was rewritten to. Says whether that worked.
#[inline(always)]
pub(crate) fn remember(ctx: &SockAddrContext, mapping: &Mapping) -> bool {
    if let Some((cookie, place)) = place(ctx) {
        if place.cookie == cookie {
            place.mapping = *mapping;
            return true;
        }
        // Of several that come at once none may get a 1; at most one does, as long as holders keep theirs.
        if place.claims == 0 {
            if claim(place, 1) == 1 {
                place.mapping = *mapping;
                place.cookie = cookie;
                return true;
            }
            claim(place, -1);
        }
    }
    let state = state_or_new(ctx);
    state.map(|state| state.connected = *mapping).is_some()
}

/// The mapping of the last connect; none when that was not rewritten.
#[inline(always)]
pub(crate) fn connected(ctx: &SockAddrContext) -> Option<&'static Mapping> {
    let mapping = match place(ctx) {
        Some((cookie, place)) if place.cookie == cookie => &place.mapping,
        _ => &state(ctx)?.connected,
    };
    (mapping.backend_port != 0).then_some(mapping)
}

/// Forgets the last connect.
#[inline(always)]
pub(crate) fn forget(ctx: &SockAddrContext) {
    match place(ctx) {
        Some((cookie, place)) if place.cookie == cookie => place.mapping.backend_port = 0,
        _ => {
            if let Some(state) = state(ctx) {
                state.connected.backend_port = 0;
            }
        }
    }
}

/// The socket is closed: gives its place back.
#[inline(always)]
pub(crate) fn released(ctx: &SockContext) {
    if let Some((cookie, place)) = place(ctx)
        && place.cookie == cookie
    {
        place.cookie = 0;
        claim(place, -1);
    }
}

/// getpeername(2): the address that the client dialled. The socket's real peer need not be the backend, which a program of
/// a cgroup above may have replaced once more; every connect of this socket sets or clears the mapping.
#[inline(always)]
pub(crate) fn getpeername<F: Family>(ctx: &SockAddrContext) -> i32 {
    if let Some(mapping) = connected(ctx) {
        let vip = vip(mapping);
        if F::reaches(&vip.addr) {
            F::write(ctx, vip);
        }
    }
    PROCEED
}
