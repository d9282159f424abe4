//! sendmsg(2) and recvmsg(2) of datagram sockets.
//!
//! In: the address of one datagram. Out: a backend's address on the way out, the virtual one on the way back. Never: a
//! renamed sender that is not the backend of a remembered mapping.

use aya_ebpf::{bindings::BPF_ANY, programs::SockAddrContext};
use kmesh_se_common::{
    addr::{is_v4_mapped, words},
    maps::{Mapping, NO_SERVICE, Outcome, Service, SockState, UdpPeer},
};

use crate::{
    count, dns, enrol,
    lookup::{self, Target},
    maps::UDP,
    peer, pick,
    sock::{self, ECONNREFUSED, EHOSTUNREACH, Endpoint, Family, IPPROTO_UDP, PROCEED},
};

#[inline(always)]
pub(crate) fn sendmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    let to = F::read(ctx);
    let Some((workload, config)) = enrol::caller() else { return pass(ctx, to) };
    if is_connected(ctx, to) {
        return PROCEED;
    }

    if let Some(listener) = dns::listener(workload, config, to) {
        if !F::sends_to(&listener.addr) {
            return pass(ctx, to);
        }
        count::add(Outcome::DnsCaptured);
        return rewrite::<F>(ctx, to, listener, NO_SERVICE, Service { slot_base: 0, slot_count: 0 });
    }
    if dns::is_listener(workload, config, to) {
        count::refused(Outcome::ListenerDialled, workload, to, IPPROTO_UDP);
        return sock::refuse(ECONNREFUSED);
    }
    let service = match lookup::find(workload, to, IPPROTO_UDP) {
        Target::Service(service) => service,
        Target::Refuse => {
            count::refused(Outcome::PortNotListed, workload, to, IPPROTO_UDP);
            return sock::refuse(ECONNREFUSED);
        }
        Target::Pass => return pass(ctx, to),
    };
    let slots = pick::slots(service);
    let outcome = match kept(ctx, to, service, slots).or_else(|| pick::backend(slots)) {
        Some(backend) if F::sends_to(&backend.addr) => {
            count::add(Outcome::Sent);
            return rewrite::<F>(ctx, to, backend, service, slots);
        }
        Some(_) => Outcome::FamilyMismatch,
        None => Outcome::NoBackend,
    };
    count::service_refused(service);
    count::refused(outcome, workload, to, IPPROTO_UDP);
    sock::refuse(EHOSTUNREACH)
}

/// Whether `to` is what `connect` made of the address dialled: an IPv6 socket that is connected to a v4-mapped address
/// comes here with each datagram, as if it had been given an address.
#[inline(always)]
fn is_connected(ctx: &SockAddrContext, to: Endpoint) -> bool {
    const AF_INET6: u32 = 10;
    // SAFETY: the context is valid for the whole program.
    let is_v6 = unsafe { (*ctx.sock_addr).family } == AF_INET6;
    is_v6
        && is_v4_mapped(&to.addr)
        && peer::state(ctx).is_some_and(|s| peer::vip_of(&s.connected, to).is_some())
}

/// The backend that this socket used last for `vip`, while the service's slots have not changed since.
#[inline(always)]
fn kept(ctx: &SockAddrContext, vip: Endpoint, service: u32, slots: Service) -> Option<Endpoint> {
    let sent = &peer::state(ctx)?.sent;
    let same = sent.service == service
        && sent.slots == slots
        && sent.vip_port == vip.port
        && sent.backend_port != 0
        && words(&sent.vip) == vip.addr;
    same.then(|| Endpoint { addr: words(&sent.backend), port: sent.backend_port })
}

#[inline(always)]
fn rewrite<F: Family>(
    ctx: &SockAddrContext,
    vip: Endpoint,
    backend: Endpoint,
    service: u32,
    slots: Service,
) -> i32 {
    match peer::state_or_new(ctx) {
        Some(state) => remember_sent(ctx, state, peer::mapping(vip, backend, service, slots), backend),
        None => count::add(Outcome::NotRemembered),
    }
    F::write(ctx, backend);
    PROCEED
}

/// The first peer is remembered in the socket itself, further ones in the shared table.
#[inline(always)]
fn remember_sent(ctx: &SockAddrContext, state: &mut SockState, mapping: Mapping, backend: Endpoint) {
    let is_first = state.sent.backend_port == 0;
    if is_first || peer::vip_of(&state.sent, backend).is_some() {
        if is_first && mapping.service != NO_SERVICE {
            count::service_connect(mapping.service);
        }
        state.sent = mapping;
        return;
    }
    let value = UdpPeer { vip: mapping.vip, vip_port: mapping.vip_port, _pad: [0; 6] };
    if UDP.insert(peer::udp_key(ctx, backend), value, u64::from(BPF_ANY)).is_err() {
        count::add(Outcome::NotRemembered);
    }
}

/// Lets a datagram go where it was addressed; replies from there are shown as they are.
#[inline(always)]
fn pass(ctx: &SockAddrContext, to: Endpoint) -> i32 {
    if let Some(state) = peer::state(ctx) {
        peer::forget_peer(ctx, state, to);
    }
    PROCEED
}

#[inline(always)]
pub(crate) fn recvmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(state) = peer::state(ctx) else { return PROCEED };
    let from = F::read(ctx);
    if let Some(vip) = sender(ctx, state, from)
        && F::reaches(&vip.addr)
    {
        F::write(ctx, vip);
    }
    PROCEED
}

/// The address that the client knows `from` by.
#[inline(always)]
fn sender(ctx: &SockAddrContext, state: &SockState, from: Endpoint) -> Option<Endpoint> {
    if let Some(vip) = peer::vip_of(&state.sent, from) {
        return Some(vip);
    }
    // SAFETY: the value is copied at once.
    if let Some(peer) = unsafe { UDP.get(peer::udp_key(ctx, from)) } {
        return Some(Endpoint { addr: words(&peer.vip), port: peer.vip_port });
    }
    peer::vip_of(&state.connected, from)
}
