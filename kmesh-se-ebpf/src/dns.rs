//! Capture of DNS queries.
//!
//! In: a destination with port 53. Out: the agent's listener for this client's namespace and that resolver. Never:
//! a resolver that the agent does not know.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use kmesh_se_common::{
    addr::{V4_MAPPED_WORD, from_words, is_v4_mapped, words},
    limits::DNS_PORT,
    maps::{Config, Outcome, Workload},
};

use crate::{count, maps::RESOLVER, sock::Endpoint};

/// Where a query to `to` goes instead; none when it is no DNS query to a captured resolver, or the agent is away.
#[inline(always)]
pub(crate) fn listener(workload: &Workload, config: &Config, to: Endpoint) -> Option<Endpoint> {
    if to.port != DNS_PORT || workload.dns_port == 0 {
        return None;
    }
    // SAFETY: the value is read at once.
    let resolver = unsafe { RESOLVER.get(from_words(to.addr)) }?;
    let addr = listener_addr(config, is_v4_mapped(&to.addr))?;
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if now > config.heartbeat_ns + config.heartbeat_max_ns {
        count::add(Outcome::DnsBypassed);
        return None;
    }
    Some(Endpoint { addr, port: workload.dns_port + resolver.index as u16 })
}

/// Whether `to` is a DNS listener dialled straight.
#[inline(always)]
pub(crate) fn is_listener(workload: &Workload, config: &Config, to: Endpoint) -> bool {
    workload.dns_port != 0
        && to.port >= config.dns_port_first
        && to.port <= config.dns_port_last
        && listener_addr(config, is_v4_mapped(&to.addr)) == Some(to.addr)
}

/// The listener of a family, if there is one.
#[inline(always)]
fn listener_addr(config: &Config, v4: bool) -> Option<[u32; 4]> {
    let (word, v6) = (u32::from_ne_bytes(config.dns4), words(&config.dns6));
    if v4 {
        (word != 0).then_some([0, 0, V4_MAPPED_WORD, word])
    } else {
        (v6[0] | v6[1] | v6[2] | v6[3] != 0).then_some(v6)
    }
}
