//! What the DNS server did so far.
//!
//! In: events of the server. Out: [`DnsStats`]. Never: a label per name or client.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Counts since the start. Every query is in exactly one of `answered`, `forwarded`, `failed_upstream`,
/// `too_slow`, `overloaded`, `malformed`, `refused` and `dropped` once it is done; one that is under way when its listener closes is in
/// none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsStats {
    /// Messages received.
    pub queries: u64,
    /// Answered from the table.
    pub answered: u64,
    /// Answered by the resolver that was asked.
    pub forwarded: u64,
    /// Answered SERVFAIL because that resolver did not answer.
    pub failed_upstream: u64,
    /// Answered SERVFAIL because a name on demand had no first address in time.
    pub too_slow: u64,
    /// Answered SERVFAIL because too many queries were under way.
    pub overloaded: u64,
    /// Answered FORMERR.
    pub malformed: u64,
    /// Answered REFUSED, because the sender is no client of the namespace whose listener it asked.
    pub refused: u64,
    /// Not answered: no query, but a reply or less than a header.
    pub dropped: u64,
    /// TCP connections closed at once because too many were open.
    pub refused_connections: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) queries: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) forwarded: AtomicU64,
    pub(super) failed_upstream: AtomicU64,
    pub(super) too_slow: AtomicU64,
    pub(super) overloaded: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) refused_connections: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn snapshot(&self) -> DnsStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DnsStats {
            queries: read(&self.queries),
            answered: read(&self.answered),
            forwarded: read(&self.forwarded),
            failed_upstream: read(&self.failed_upstream),
            too_slow: read(&self.too_slow),
            overloaded: read(&self.overloaded),
            malformed: read(&self.malformed),
            refused: read(&self.refused),
            dropped: read(&self.dropped),
            refused_connections: read(&self.refused_connections),
        }
    }
}
