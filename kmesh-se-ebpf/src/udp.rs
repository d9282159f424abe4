//! What an unconnected datagram socket remembers of its peers.
//!
//! In: datagrams on their way out. Out: the backend that a peer keeps, and the name that an answer gets. Never: an answer
//! under a name that was not the last one dialled for its sender.
//!
//! The first peer lies in the socket's own storage. What comes later is rows of `kmse_udp`, chained so that closing the
//! socket can remove them.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_ANY,
    helpers::{bpf_get_socket_cookie, generated::bpf_sk_storage_get},
    programs::{SockAddrContext, SockContext},
};
use kmesh_se_common::{
    addr::{from_words, words},
    limits::MAX_UDP_RELEASE,
    maps::{
        Mapping, NO_SERVICE, Outcome, Service, SockState, UDP_BACKEND, UDP_DIALLED, UdpKey, UdpLink, UdpPeer,
    },
};

use crate::{
    count,
    maps::{SK, UDP},
    peer, pick,
    sock::{self, Endpoint},
};

/// The backend that this socket used last for `vip`, while the service lists it.
#[inline(always)]
pub(crate) fn kept(ctx: &SockAddrContext, vip: Endpoint, slots: Service) -> Option<(Endpoint, u32)> {
    let state = peer::state(ctx)?;
    if let Some(row) = row(ctx, state, vip, UDP_DIALLED) {
        let backend = Endpoint { addr: words(&row.addr), port: row.port };
        return still(&mut row.column, vip, backend, slots);
    }
    if state.sent.backend_port == 0 || peer::vip(&state.sent) != vip {
        return None;
    }
    let backend = peer::backend(&state.sent);
    still(&mut state.sent.column, vip, backend, slots)
}

/// `backend`, if it is listed now; where it is, is noted for the next look. That the slots lie where they lay says nothing: a
/// socket may have been silent while others were there.
#[inline(always)]
fn still(column: &mut u32, vip: Endpoint, backend: Endpoint, slots: Service) -> Option<(Endpoint, u32)> {
    if !pick::lists_at(slots, vip, *column, backend) {
        *column = pick::column_of(slots, vip, backend)?;
    }
    Some((backend, *column))
}

/// Remembers that a datagram went to a backend under a name.
#[inline(always)]
pub(crate) fn sent(ctx: &SockAddrContext, state: &mut SockState, mapping: &Mapping) {
    let (vip, backend) = (peer::vip(mapping), peer::backend(mapping));
    let first = state.sent.backend_port != 0
        && peer::vip(&state.sent) == vip
        && peer::backend(&state.sent) == backend;
    if !first && !claim(state, mapping) {
        let known = row(ctx, state, vip, UDP_DIALLED).is_some_and(|row| is(row, backend));
        if !known {
            let row = UdpPeer {
                addr: mapping.backend,
                port: mapping.backend_port,
                _pad: 0,
                service: mapping.service,
                column: mapping.column,
                older: UdpLink::NONE,
            };
            put(ctx, state, vip, UDP_DIALLED, row);
            if mapping.service != NO_SERVICE {
                count::service_connect(mapping.service);
            }
        }
    }
    // The name of an answer. A row has precedence over the first peer, whose own name needs none.
    match row(ctx, state, backend, UDP_BACKEND) {
        Some(row) if is(row, vip) => {}
        None if state.sent.backend_port != 0 && names(&state.sent, backend, vip) => {}
        _ => name(ctx, state, backend, vip),
    }
}

/// Makes `mapping` the first peer, unless there is one.
#[inline(always)]
fn claim(state: &mut SockState, mapping: &Mapping) -> bool {
    if state.sent.backend_port != 0 {
        return false;
    }
    if mapping.service != NO_SERVICE {
        count::service_connect(mapping.service);
    }
    state.sent = *mapping;
    true
}

/// Gives answers from `backend` the name `vip`, if they would have another name than their own or this one.
#[inline(always)]
pub(crate) fn name_if_named(ctx: &SockAddrContext, state: &mut SockState, backend: Endpoint, vip: Endpoint) {
    let named = match row(ctx, state, backend, UDP_BACKEND) {
        Some(row) => !is(row, vip),
        None => {
            peer::backend(&state.sent) == backend
                && state.sent.backend_port != 0
                && peer::vip(&state.sent) != vip
        }
    };
    if named {
        name(ctx, state, backend, vip);
    }
}

/// Whether this is `send`, not `sendto`: an IPv6 socket that is connected to an IPv4 address hands its peer's address to the
/// hook of IPv4 although the client wrote none. Answers then have the name that was connected to.
#[inline(always)]
pub(crate) fn is_send_to_peer(ctx: &SockAddrContext, to: Endpoint) -> bool {
    if !sock::is_v6_socket(ctx) || !sock::is_connected_to(ctx, to) {
        return false;
    }
    let Some(connected) = peer::connected(ctx) else { return false };
    if let Some(state) = peer::state(ctx) {
        name_if_named(ctx, state, to, peer::vip(connected));
    }
    true
}

/// Lets a datagram go to the address that the client wrote; answers from there are shown as they are.
#[inline(always)]
pub(crate) fn passed(ctx: &SockAddrContext, to: Endpoint) {
    // An answer would have the name that was connected to.
    if sock::is_connected_to(ctx, to) && peer::connected(ctx).is_some() {
        match peer::state_or_new(ctx) {
            Some(state) if row(ctx, state, to, UDP_BACKEND).is_none() => name(ctx, state, to, to),
            Some(state) => name_if_named(ctx, state, to, to),
            None => count::add(Outcome::NotRemembered),
        }
    } else if let Some(state) = peer::state(ctx) {
        name_if_named(ctx, state, to, to);
    }
}

/// The name that the client knows `from` by.
#[inline(always)]
pub(crate) fn sender(ctx: &SockAddrContext, from: Endpoint) -> Option<Endpoint> {
    if let Some(state) = peer::state(ctx) {
        if let Some(row) = row(ctx, state, from, UDP_BACKEND) {
            return Some(Endpoint { addr: words(&row.addr), port: row.port });
        }
        if state.sent.backend_port != 0 && peer::backend(&state.sent) == from {
            return Some(peer::vip(&state.sent));
        }
    }
    // The peer of a connected socket need not be the backend: see `getpeername`.
    if !sock::is_connected_to(ctx, from) {
        return None;
    }
    peer::connected(ctx).map(peer::vip)
}

/// Whether `first` already gives answers from `backend` the name `vip`.
#[inline(always)]
fn names(first: &Mapping, backend: Endpoint, vip: Endpoint) -> bool {
    peer::backend(first) == backend && peer::vip(first) == vip
}

#[inline(always)]
fn is(row: &UdpPeer, place: Endpoint) -> bool {
    row.port == place.port && words(&row.addr) == place.addr
}

#[inline(always)]
fn name(ctx: &SockAddrContext, state: &mut SockState, backend: Endpoint, vip: Endpoint) {
    let row = UdpPeer {
        addr: from_words(vip.addr),
        port: vip.port,
        _pad: 0,
        service: NO_SERVICE,
        column: 0,
        older: UdpLink::NONE,
    };
    put(ctx, state, backend, UDP_BACKEND, row);
}

#[inline(always)]
fn key(ctx: &impl EbpfContext, at: UdpLink) -> UdpKey {
    // SAFETY: the helper takes a context of either kind of program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    UdpKey { cookie, at }
}

#[inline(always)]
fn link(at: Endpoint, way: u8) -> UdpLink {
    UdpLink { addr: from_words(at.addr), port: at.port, way, _pad: [0; 5] }
}

/// A row of this socket; most sockets have none, and pay nothing for it.
#[inline(always)]
fn row(ctx: &SockAddrContext, state: &SockState, at: Endpoint, way: u8) -> Option<&'static mut UdpPeer> {
    if state.newest.port == 0 {
        return None;
    }
    // SAFETY: a row is replaced as a whole, except for its column, which is one word.
    UDP.get_ptr_mut(key(ctx, link(at, way))).and_then(|row| unsafe { row.as_mut() })
}

/// Adds or replaces a row of this socket.
#[inline(always)]
fn put(ctx: &SockAddrContext, state: &mut SockState, at: Endpoint, way: u8, mut value: UdpPeer) {
    let key = key(ctx, link(at, way));
    let is_new = match UDP.get_ptr(key) {
        Some(old) => {
            // SAFETY: as `row`.
            value.older = unsafe { (*old).older };
            false
        }
        None => {
            value.older = state.newest;
            true
        }
    };
    if UDP.insert(key, value, u64::from(BPF_ANY)).is_err() {
        return count::add(Outcome::NotRemembered);
    }
    if is_new {
        state.newest = key.at;
    }
}

/// The socket is closed: removes its rows.
#[inline(always)]
pub(crate) fn released(ctx: &SockContext) {
    // SAFETY: the helper takes the context's socket; null means that nothing is remembered.
    let state = unsafe {
        let map = (&raw const SK).cast_mut().cast();
        bpf_sk_storage_get(map, ctx.as_ptr(), core::ptr::null_mut(), 0).cast::<SockState>().as_ref()
    };
    let Some(state) = state else { return };
    let mut key = key(ctx, state.newest);
    for _ in 0..MAX_UDP_RELEASE {
        if key.at.port == 0 {
            break;
        }
        let Some(row) = UDP.get_ptr(key) else { break };
        // SAFETY: as `row`.
        let older = unsafe { (*row).older };
        let _gone = UDP.remove(key);
        key.at = older;
    }
}
