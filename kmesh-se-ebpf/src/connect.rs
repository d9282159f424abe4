//! connect(2): TCP and connected UDP.
//!
//! In: the address dialled. Out: a backend's address, remembered for the socket. Never: a second choice after the
//! rewrite.

use aya_ebpf::programs::SockAddrContext;
use kmesh_se_common::{
    addr::is_v4_mapped,
    limits::DISCARD_PORT,
    maps::{Mapping, NO_SERVICE, Outcome},
};

use crate::{
    count, dns, enrol,
    lookup::{self, Fate, Target},
    peer, pick,
    sock::{self, ECONNREFUSED, EHOSTUNREACH, Endpoint, Family, IPPROTO_TCP, PROCEED},
    udp,
};

#[inline(always)]
pub(crate) fn connect<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(proto) = sock::transport(ctx) else { return PROCEED };
    let to = F::dialled(ctx);
    let Some((workload, config)) = enrol::caller() else { return pass(ctx, to, proto) };

    if let Some(listener) = dns::listener(workload, config, to) {
        if proto == IPPROTO_TCP && sock::is_mptcp(ctx) {
            return PROCEED;
        }
        count::add(Outcome::DnsCaptured);
        return rewrite::<F>(ctx, proto, peer::mapping(to, listener, NO_SERVICE, 0), listener);
    }
    if dns::is_listener(workload, config, to) {
        count::refused(Outcome::ListenerDialled, workload, to, proto);
        return sock::refuse(ECONNREFUSED);
    }
    let Target { fate, service } = lookup::find(workload, config, to, proto);
    if proto == IPPROTO_TCP && !matches!(fate, Fate::Pass | Fate::Unknown) && sock::is_mptcp(ctx) {
        return PROCEED;
    }
    match fate {
        Fate::Service => {}
        Fate::Refuse if proto == IPPROTO_TCP => {
            count::refused(Outcome::PortNotListed, workload, to, proto);
            return sock::refuse(ECONNREFUSED);
        }
        Fate::Refuse => return sort::<F>(ctx, to, proto, service),
        Fate::Pass => {
            count::add(Outcome::Passed);
            return pass(ctx, to, proto);
        }
        Fate::Unknown => return pass(ctx, to, proto),
    }
    let outcome = match pick::stream(service, to) {
        Some(backend) if F::reaches(&backend.addr) => {
            count::add(Outcome::Connected);
            count::service_connect(service);
            count::trace_connect(config, workload, to, backend, service, proto);
            return rewrite::<F>(ctx, proto, peer::mapping(to, backend, service, 0), backend);
        }
        Some(_) => Outcome::FamilyMismatch,
        None => Outcome::NoBackend,
    };
    count::service_refused(service);
    count::refused(outcome, workload, to, proto);
    sock::refuse(EHOSTUNREACH)
}

/// Resolver libraries connect a datagram socket to each address of a host, and prefer those for which that works: it must
/// work where a connection would, over the family that was dialled. So the socket is led to a backend of this family, to a
/// port where nobody listens. Neither that nor a refusal is counted: nobody wanted to talk.
#[inline(always)]
fn sort<F: Family>(ctx: &SockAddrContext, to: Endpoint, proto: u8, service: u32) -> i32 {
    match pick::stream(service, to) {
        Some(backend) if is_v4_mapped(&backend.addr) == is_v4_mapped(&to.addr) => {
            let backend = Endpoint { port: DISCARD_PORT, ..backend };
            rewrite::<F>(ctx, proto, peer::mapping(to, backend, NO_SERVICE, 0), backend)
        }
        _ => sock::refuse(EHOSTUNREACH),
    }
}

#[inline(always)]
fn rewrite<F: Family>(ctx: &SockAddrContext, proto: u8, mapping: Mapping, backend: Endpoint) -> i32 {
    if !peer::remember(ctx, &mapping) {
        count::add(Outcome::NotRemembered);
    }
    if proto != IPPROTO_TCP
        && let Some(state) = peer::state(ctx)
    {
        udp::name_if_named(ctx, state, backend, peer::vip(&mapping));
    }
    F::write(ctx, backend);
    PROCEED
}

/// Lets a connect go where it was dialled, and forgets what an earlier connect or datagram of this socket left.
#[inline(always)]
fn pass(ctx: &SockAddrContext, to: Endpoint, proto: u8) -> i32 {
    // Nothing is remembered for a stream that connects for the first time, as nearly all do.
    if proto == IPPROTO_TCP && !sock::has_connected(ctx) {
        return PROCEED;
    }
    peer::forget(ctx);
    if proto != IPPROTO_TCP
        && let Some(state) = peer::state(ctx)
    {
        udp::name_if_named(ctx, state, to, to);
    }
    PROCEED
}
