//! What the kernel is told of the DNS server: where it listens, and that it is alive.
//!
//! In: addresses, the loops that serve DNS. Out: the configuration of the programs, and its heartbeat. Never: a beat of its own.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kmesh_se_common::{
    limits::{LAYOUT_VERSION, LEVEL_END, MAX_LEVELS},
    maps::Config as KernelConfig,
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    dns::{DnsListen, DnsServer},
    sink::aya::Heartbeat,
};

/// How often the kernel is told that DNS is served.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// The kernel captures DNS until this long after the last heartbeat.
pub(super) const HEARTBEAT_MAX: Duration = Duration::from_secs(2);

/// What the programs are configured with at first: the listeners at which some resolver's clients are served.
pub(super) fn kernel_config(listen: &DnsListen, resolvers: &[SocketAddr], last_port: u16) -> KernelConfig {
    // An address where nobody listens is no listener's: dialling it is nobody's business.
    let serves = |ip: std::net::IpAddr| resolvers.iter().any(|r| listen.for_resolver(r) == Some(ip));
    KernelConfig {
        layout: LAYOUT_VERSION,
        dns4: listen.v4().filter(|v4| serves((*v4).into())).map_or([0; 4], |v4| v4.octets()),
        dns6: listen.v6().filter(|v6| serves((*v6).into())).map_or([0; 16], |v6| v6.octets()),
        dns_port_first: listen.port(),
        dns_port_last: last_port,
        flags: 0,
        levels: [LEVEL_END; MAX_LEVELS],
        heartbeat_ns: 0,
        heartbeat_max_ns: u64::try_from(HEARTBEAT_MAX.as_nanos()).unwrap_or(u64::MAX),
        cidrs: 0,
    }
}

/// Passes the beat of the loops that serve DNS on to the kernel; when one of them hangs, so does the beat.
pub(super) async fn beat(dns: Arc<DnsServer>, heartbeat: Heartbeat, shutdown: CancellationToken) {
    let mut ticks = interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        if dns.last_beat().is_some_and(|at| at.elapsed() < HEARTBEAT_MAX / 2) {
            heartbeat.beat();
        }
    }
}
