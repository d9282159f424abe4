//! What is remembered for a socket.
//!
//! In: mappings made by connect and sendmsg. Out: the address that the client dialled, where it asks for its peer.
//! Never: a mapping that does not fit the socket's real peer.

use aya_ebpf::{EbpfContext, helpers::bpf_get_socket_cookie, programs::SockAddrContext};
use kmesh_se_common::{
    addr::{from_words, words},
    maps::{Mapping, Outcome, Service, SockState, UdpKey},
};

use crate::{
    count,
    maps::{SK, UDP},
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

/// The address that `mapping` gives for a peer that is really `peer`.
#[inline(always)]
pub(crate) fn vip_of(mapping: &Mapping, peer: Endpoint) -> Option<Endpoint> {
    let fits = mapping.backend_port == peer.port
        && mapping.backend_port != 0
        && words(&mapping.backend) == peer.addr;
    fits.then(|| Endpoint { addr: words(&mapping.vip), port: mapping.vip_port })
}

/// What is remembered for the socket, if anything.
#[inline(always)]
pub(crate) fn state(ctx: &SockAddrContext) -> Option<&'static mut SockState> {
    // SAFETY: the socket is the context's; null means none. The kernel serialises the calls on one socket.
    unsafe { SK.get_ptr_mut(ctx).as_mut() }
}

/// The same, made when there is none; none when the kernel has no memory for it.
#[inline(always)]
pub(crate) fn state_or_new(ctx: &SockAddrContext) -> Option<&'static mut SockState> {
    // SAFETY: as `state`; a new value is all zero, which is two empty mappings.
    unsafe { SK.get_or_insert_ptr_mut(ctx, None).as_mut() }
}

/// Remembers the mapping of a connect.
#[inline(always)]
pub(crate) fn remember_connect(ctx: &SockAddrContext, mapping: Mapping) {
    match state_or_new(ctx) {
        Some(state) => state.connected = mapping,
        None => count::add(Outcome::NotRemembered),
    }
}

/// Forgets every mapping that would rename datagrams from `peer`, which the client now dialled itself.
#[inline(always)]
pub(crate) fn forget_peer(ctx: &SockAddrContext, state: &mut SockState, peer: Endpoint) {
    if vip_of(&state.sent, peer).is_some() {
        state.sent = Mapping::EMPTY;
    }
    let _absent = UDP.remove(udp_key(ctx, peer));
}

/// The key of a further datagram peer.
#[inline(always)]
pub(crate) fn udp_key(ctx: &SockAddrContext, peer: Endpoint) -> UdpKey {
    // SAFETY: the helper takes this context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    UdpKey { cookie, addr: from_words(peer.addr), port: peer.port, _pad: [0; 6] }
}

/// getpeername(2): the address that the client dialled, when the real peer is the backend it became.
#[inline(always)]
pub(crate) fn getpeername<F: Family>(ctx: &SockAddrContext) -> i32 {
    if let Some(state) = state(ctx)
        && let Some(vip) = vip_of(&state.connected, F::read(ctx))
        && F::reaches(&vip.addr)
    {
        F::write(ctx, vip);
    }
    PROCEED
}
