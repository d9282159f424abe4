//! connect(2): TCP and connected UDP.
//!
//! In: the address dialled. Out: a backend's address, remembered for the socket. Never: a second choice after the
//! rewrite.

use aya_ebpf::programs::SockAddrContext;
use kmesh_se_common::maps::{Mapping, NO_SERVICE, Outcome, Service};

use crate::{
    count, dns, enrol,
    lookup::{self, Target},
    peer, pick,
    sock::{self, ECONNREFUSED, EHOSTUNREACH, Endpoint, Family, IPPROTO_TCP, PROCEED},
};

#[inline(always)]
pub(crate) fn connect<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(proto) = sock::transport(ctx) else { return PROCEED };
    let to = F::read(ctx);
    let Some((workload, config)) = enrol::caller() else { return pass(ctx, to) };

    if let Some(listener) = dns::listener(workload, config, to) {
        count::add(Outcome::DnsCaptured);
        return rewrite::<F>(ctx, to, listener, NO_SERVICE, Service { slot_base: 0, slot_count: 0 });
    }
    if dns::is_listener(workload, config, to) {
        count::refused(Outcome::ListenerDialled, workload, to, proto);
        return sock::refuse(ECONNREFUSED);
    }
    let service = match lookup::find(workload, to, proto) {
        Target::Service(service) => service,
        // Resolver libraries connect a datagram socket to each address only to sort them: not a refusal.
        Target::Refuse if proto == IPPROTO_TCP => {
            count::refused(Outcome::PortNotListed, workload, to, proto);
            return sock::refuse(ECONNREFUSED);
        }
        Target::Refuse | Target::Pass => return pass(ctx, to),
    };
    let slots = pick::slots(service);
    let outcome = match pick::backend(slots) {
        Some(backend) if F::reaches(&backend.addr) => {
            count::add(Outcome::Connected);
            count::service_connect(service);
            count::trace_connect(config, workload, to, backend, service, proto);
            return rewrite::<F>(ctx, to, backend, service, slots);
        }
        Some(_) => Outcome::FamilyMismatch,
        None => Outcome::NoBackend,
    };
    count::service_refused(service);
    count::refused(outcome, workload, to, proto);
    sock::refuse(EHOSTUNREACH)
}

#[inline(always)]
fn rewrite<F: Family>(
    ctx: &SockAddrContext,
    vip: Endpoint,
    backend: Endpoint,
    service: u32,
    slots: Service,
) -> i32 {
    peer::remember_connect(ctx, peer::mapping(vip, backend, service, slots));
    F::write(ctx, backend);
    PROCEED
}

/// Lets a connect go where it was dialled, and forgets what an earlier connect or datagram of this socket left.
#[inline(always)]
fn pass(ctx: &SockAddrContext, to: Endpoint) -> i32 {
    if let Some(state) = peer::state(ctx) {
        state.connected = Mapping::EMPTY;
        peer::forget_peer(ctx, state, to);
    }
    PROCEED
}
