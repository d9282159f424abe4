//! sendmsg(2) and recvmsg(2) of datagram sockets.
//!
//! In: the address of one datagram. Out: a backend's address on the way out, the virtual one on the way back. Never: a
//! renamed sender that is not the backend of a remembered mapping.

use aya_ebpf::programs::SockAddrContext;
use kmesh_se_common::{
    addr::is_v4_mapped,
    maps::{NO_SERVICE, Outcome},
};

use crate::{
    count, dns, enrol,
    lookup::{self, Fate, Target},
    peer, pick,
    sock::{self, ECONNREFUSED, EHOSTUNREACH, Endpoint, Family, IPPROTO_UDP, PROCEED},
    udp,
};

#[inline(always)]
pub(crate) fn sendmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    // UDP-Lite comes here too.
    if sock::transport(ctx) != Some(IPPROTO_UDP) {
        return PROCEED;
    }
    let to = F::dialled(ctx);
    if is_v4_mapped(&to.addr) && udp::is_send_to_peer(ctx, to) {
        return PROCEED;
    }
    let Some((workload, config)) = enrol::caller() else { return pass(ctx, to) };

    if let Some(listener) = dns::listener(workload, config, to) {
        if !F::sends_to(&listener.addr) {
            return pass(ctx, to);
        }
        count::add(Outcome::DnsCaptured);
        return rewrite::<F>(ctx, to, listener, NO_SERVICE, 0);
    }
    if dns::is_listener(workload, config, to) {
        count::refused(Outcome::ListenerDialled, workload, to, IPPROTO_UDP);
        return sock::refuse(ECONNREFUSED);
    }
    let Target { fate, service } = lookup::find(workload, config, to, IPPROTO_UDP);
    match fate {
        Fate::Service => {}
        Fate::Refuse => {
            count::refused(Outcome::PortNotListed, workload, to, IPPROTO_UDP);
            return sock::refuse(ECONNREFUSED);
        }
        Fate::Pass => {
            count::add(Outcome::Passed);
            return pass(ctx, to);
        }
        Fate::Unknown => return pass(ctx, to),
    }
    let slots = pick::slots(service);
    let outcome = match udp::kept(ctx, to, slots).or_else(|| pick::backend(slots, to)) {
        Some((backend, column)) if F::sends_to(&backend.addr) => {
            count::add(Outcome::Sent);
            return rewrite::<F>(ctx, to, backend, service, column);
        }
        Some(_) => Outcome::FamilyMismatch,
        None => Outcome::NoBackend,
    };
    count::service_refused(service);
    count::refused(outcome, workload, to, IPPROTO_UDP);
    sock::refuse(EHOSTUNREACH)
}

#[inline(always)]
fn rewrite<F: Family>(
    ctx: &SockAddrContext,
    vip: Endpoint,
    backend: Endpoint,
    service: u32,
    column: u32,
) -> i32 {
    match peer::state_or_new(ctx) {
        Some(state) => udp::sent(ctx, state, &peer::mapping(vip, backend, service, column)),
        None => count::add(Outcome::NotRemembered),
    }
    F::write(ctx, backend);
    PROCEED
}

#[inline(always)]
fn pass(ctx: &SockAddrContext, to: Endpoint) -> i32 {
    udp::passed(ctx, to);
    PROCEED
}

#[inline(always)]
pub(crate) fn recvmsg<F: Family>(ctx: &SockAddrContext) -> i32 {
    if let Some(name) = udp::sender(ctx, F::read(ctx))
        && F::reaches(&name.addr)
    {
        F::write(ctx, name);
    }
    PROCEED
}
