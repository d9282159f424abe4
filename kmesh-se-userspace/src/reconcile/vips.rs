//! Virtual addresses of hosts: given here, or waited for.
//!
//! In: hosts that changed, the time. Out: the pool as it should be. Never: an address given where others allocate.

use jiff::Timestamp;

use super::Reconciler;
use crate::{
    desired::{self, Condition},
    model::{Entry, HostName},
    sink::Maps,
};

impl<M: Maps> Reconciler<M> {
    fn needs_vip(&self, host: &HostName) -> bool {
        self.allocates && desired::needs_vip(&self.snapshot, host)
    }

    /// The entries and hosts that wait for an address.
    pub fn pending(&self) -> impl Iterator<Item = (&Entry, &HostName, Condition)> {
        let entries = self.snapshot.entries().filter(|_| !self.allocates);
        let hosts = entries.flat_map(|entry| entry.hosts.iter().map(move |host| (&**entry, host)));
        hosts.filter_map(|(entry, host)| Some((entry, host, desired::address_pending(entry, host)?)))
    }

    /// Allocates or releases the host's VIPs; says whether something changed.
    pub(super) fn update_vips(&mut self, host: &HostName, now: Timestamp) -> bool {
        let had = self.vips.get(host).copied();
        if !self.needs_vip(host) {
            self.report.clear_exhausted(host);
            self.vips.release(host, now);
            return had.is_some();
        }
        match self.vips.ensure(host, now, |address| self.snapshot.is_written(address)) {
            Ok(vips) => {
                self.report.clear_exhausted(host);
                had != Some(vips)
            }
            Err(error) => {
                if self.report.set_exhausted(host, &error) {
                    tracing::error!(host = %host, %error, "no virtual address left");
                }
                false
            }
        }
    }

    /// The hosts that kept their VIP from an earlier run but that no object names now lose it.
    pub(super) fn release_unused_vips(&mut self, now: Timestamp) -> bool {
        let unused: Vec<HostName> =
            self.vips.iter().map(|(h, _)| h).filter(|h| !self.needs_vip(h)).cloned().collect();
        unused.iter().for_each(|host| self.vips.release(host, now));
        !unused.is_empty()
    }
}
