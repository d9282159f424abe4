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
    maps::{Connection, Mapping, SockState},
};

use crate::{
    maps::{CLAIM, CONNECTION, KMSE_CONN_MASK, SK},
    sock::{Endpoint, Family, PROCEED},
};

#[inline(always)]
pub(crate) fn mapping(vip: Endpoint, backend: Endpoint, service: u32, column: u32) -> Mapping {
    Mapping {
        vip: from_words(vip.addr),
        backend: from_words(backend.addr),
        vip_port: vip.port,
        backend_port: backend.port,
        service,
        column,
        _pad: 0,
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

/// The socket's cookie, never 0 and no other socket's, and its place among the connections.
#[inline(always)]
fn place(ctx: &impl EbpfContext) -> (u64, u32) {
    // SAFETY: the helper takes a context of either kind of program. The static is of the object; volatile, because the
    // loader changes it before the program is loaded.
    unsafe {
        let cookie = bpf_get_socket_cookie(ctx.as_ptr());
        (cookie, cookie as u32 & (&raw const KMSE_CONN_MASK).read_volatile())
    }
}

/// The place, if the socket holds it.
#[inline(always)]
fn held((cookie, place): (u64, u32)) -> Option<&'static mut Connection> {
    // That a place is free, as most are, is known without a look at it, which no cache would have.
    // SAFETY: array elements live as long as the map. Only who holds a place writes it, and reads more than its cookie.
    unsafe {
        if CLAIM.get_ptr(place)?.read_volatile() == 0 {
            return None;
        }
        let at = &mut *CONNECTION.get_ptr_mut(place)?;
        (at.cookie == cookie).then_some(at)
    }
}

/// The place, if it was free: now the socket holds it.
#[inline(always)]
fn taken((cookie, place): (u64, u32)) -> Option<&'static mut Connection> {
    let (claims, at) = (CLAIM.get_ptr_mut(place)?, CONNECTION.get_ptr_mut(place)?);
    // SAFETY: as `held`.
    if unsafe { claims.read_volatile() } != 0 {
        return None;
    }
    // Of several that come at once none may get a 1; at most one does, as long as holders keep theirs.
    if claim(claims, 1) != 1 {
        claim(claims, -1);
        return None;
    }
    // SAFETY: as `held`.
    let at = unsafe { &mut *at };
    at.cookie = cookie;
    Some(at)
}

/// Adds to the claims of a place; returns what is there afterwards, with what others added since.
#[inline(always)]
fn claim(claims: *mut u64, change: i64) -> u64 {
    // An addition without a result is the one atomic operation that Linux 5.10 has; `core` has none for this target.
    // SAFETY: an element of the array, aligned to 8.
    unsafe {
        asm!("lock *(u64 *)({at} + 0) += {change}", at = in(reg) claims, change = in(reg) change);
        claims.read_volatile()
    }
}

/// Remembers what a connect was rewritten to, in the socket's place or else in its storage. Says whether that worked.
#[inline(always)]
pub(crate) fn remember(ctx: &SockAddrContext, mapping: &Mapping) -> bool {
    let place = place(ctx);
    // What an earlier connect left in the storage is not looked at while the place is held, which it is until the end.
    if let Some(at) = taken(place).or_else(|| held(place)) {
        at.mapping = *mapping;
        return true;
    }
    let state = state_or_new(ctx);
    state.map(|state| state.connected = *mapping).is_some()
}

/// The mapping of the last connect; none when that was not rewritten.
#[inline(always)]
pub(crate) fn connected(ctx: &SockAddrContext) -> Option<&'static Mapping> {
    let mapping = match held(place(ctx)) {
        Some(held) => &held.mapping,
        None => &state(ctx)?.connected,
    };
    (mapping.backend_port != 0).then_some(mapping)
}

/// Forgets the last connect.
#[inline(always)]
pub(crate) fn forget(ctx: &SockAddrContext) {
    if let Some(held) = held(place(ctx)) {
        held.mapping.backend_port = 0;
    } else if let Some(state) = state(ctx) {
        state.connected.backend_port = 0;
    }
}

/// The socket is closed: gives its place back. Its cookie stays there: a store here could come after that of the next
/// holder.
#[inline(always)]
pub(crate) fn released(ctx: &SockContext) {
    let place = place(ctx);
    if held(place).is_some()
        && let Some(claims) = CLAIM.get_ptr_mut(place.1)
    {
        claim(claims, -1);
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
