//! Counting and telling what happened.
//!
//! In: outcomes. Out: per-CPU counters, and rate-limited events for refusals. Never: a count of what is not ours.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use kmesh_se_common::{
    addr::from_words,
    limits::EVENTS_PER_SECOND,
    maps::{CONFIG_TRACE, Config, ConnectEvent, Event, Outcome, Workload},
};

use crate::{
    maps::{COUNT, EVENT, RATE, SERVICE_COUNT},
    sock::Endpoint,
};

/// Adds one to the counter of `outcome`.
#[inline(always)]
pub(crate) fn add(outcome: Outcome) {
    if let Some(count) = COUNT.get_ptr_mut(outcome as u32) {
        // SAFETY: the element is this CPU's own.
        unsafe { *count += 1 };
    }
}

/// Counts a rewritten connect or first datagram of `service`.
#[inline(always)]
pub(crate) fn service_connect(service: u32) {
    if let Some(count) = SERVICE_COUNT.get_ptr_mut(service) {
        // SAFETY: the element is this CPU's own.
        unsafe { (*count).connects += 1 };
    }
}

/// Sends a rewritten connect to the agent, while somebody traces.
#[inline(always)]
pub(crate) fn trace_connect(
    config: &Config,
    workload: &Workload,
    to: Endpoint,
    backend: Endpoint,
    service: u32,
    proto: u8,
) {
    if config.flags & CONFIG_TRACE == 0 {
        return;
    }
    let traced = ConnectEvent {
        event: event(Outcome::Connected, workload, to, proto),
        backend: from_words(backend.addr),
        service,
        backend_port: backend.port,
        _pad: 0,
        comm: bpf_get_current_comm().unwrap_or_default(),
    };
    if EVENT.output_untyped::<ConnectEvent>(traced, 0).is_err() {
        add(Outcome::EventLost);
    }
}

/// Counts a refusal by `service`.
#[inline(always)]
pub(crate) fn service_refused(service: u32) {
    if let Some(count) = SERVICE_COUNT.get_ptr_mut(service) {
        // SAFETY: the element is this CPU's own.
        unsafe { (*count).refused += 1 };
    }
}

/// Counts a refusal and, below the rate limit, sends it to the agent.
#[inline(always)]
pub(crate) fn refused(outcome: Outcome, workload: &Workload, to: Endpoint, proto: u8) {
    add(outcome);
    let event = event(outcome, workload, to, proto);
    if !may_send(event.time_ns) {
        return add(Outcome::EventLost);
    }
    if EVENT.output_untyped::<Event>(event, 0).is_err() {
        add(Outcome::EventLost);
    }
}

#[inline(always)]
fn event(outcome: Outcome, workload: &Workload, to: Endpoint, proto: u8) -> Event {
    // SAFETY: the helpers have no preconditions.
    let (time_ns, pid) = unsafe { (bpf_ktime_get_ns(), (bpf_get_current_pid_tgid() >> 32) as u32) };
    Event {
        time_ns,
        outcome: outcome as u32,
        workload: workload.id,
        scope: workload.scope,
        pid,
        addr: from_words(to.addr),
        port: to.port,
        proto,
        _pad: [0; 5],
    }
}

#[inline(always)]
fn may_send(now_ns: u64) -> bool {
    let Some(rate) = RATE.get_ptr_mut(0) else { return false };
    // SAFETY: the element is this CPU's own.
    let rate = unsafe { &mut *rate };
    if now_ns - rate.start_ns > 1_000_000_000 {
        rate.start_ns = now_ns;
        rate.sent = 0;
    }
    rate.sent += 1;
    rate.sent <= u64::from(EVENTS_PER_SECOND)
}
