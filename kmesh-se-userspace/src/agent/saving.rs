//! When the agent saves what the next one must know.
//!
//! In: the loop's state. Out: files of the state directory. Never: a write that the loop could do without.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use tokio::time::Instant;

use super::Agent;
use crate::{model::HostName, resolve, state::KnownAddresses};

/// Addresses that are confirmed again and again are saved this often, so that the next agent does not take them for old.
const AGES: Duration = Duration::from_secs(300);

/// Which addresses wait to be saved. Those of a name that was saved before can wait a little: an agent that starts without
/// DNS then has older ones. Of a new name it would have none, and would leave its services without a backend.
pub(super) struct Saving {
    names: BTreeSet<HostName>,
    at: Instant,
    is_due: bool,
    is_urgent: bool,
}

impl Saving {
    /// With nothing to do after these were saved.
    pub(super) fn of(saved: &BTreeMap<HostName, KnownAddresses>) -> Self {
        Self { names: saved.keys().cloned().collect(), at: Instant::now(), is_due: false, is_urgent: false }
    }

    /// A name was answered.
    pub(super) fn answered(&mut self, update: &resolve::Update) {
        self.is_due = true;
        self.is_urgent |= !update.addresses.is_empty() && !self.names.contains(&update.name);
    }

    /// Has everything saved the next time.
    pub(super) fn require(&mut self) {
        self.is_due = true;
    }

    /// Whether to save before the addresses are written to the maps.
    pub(super) fn is_urgent(&self) -> bool {
        self.is_urgent
    }

    /// Whether to save at all. When that fails, the next answer has it tried again.
    fn begin(&mut self) -> bool {
        self.is_urgent = false;
        let is_old = !self.names.is_empty() && self.at.elapsed() >= AGES;
        std::mem::take(&mut self.is_due) || is_old
    }
}

impl Agent {
    /// Saves what the maps and clients will refer to, before they do.
    pub(super) fn save_ids(&self) {
        let vips = self.state.save_vips(self.reconciler.vips());
        if let Err(error) = vips.and(self.state.save_scopes(&self.reconciler.sink().scope_ids())) {
            tracing::error!(%error, "state is not saved: after a restart hosts may get other addresses");
        }
    }

    /// Saves the ids of namespaces that got theirs with their first client. That client does not wait for the disk: should
    /// this agent be killed before, the next one enrols it again.
    pub(super) fn save_new_namespaces(&mut self) {
        if std::mem::take(&mut self.has_new_namespaces)
            && let Err(error) = self.state.save_scopes(&self.reconciler.sink().scope_ids())
        {
            tracing::error!(%error, "state is not saved: after a restart clients are enrolled again, not kept");
        }
    }

    /// Saves the names below wildcards that clients were given addresses of.
    pub(super) fn save_leases(&self) {
        if let Err(error) = self.state.save_leases(self.reconciler.leases()) {
            tracing::error!(%error, "state is not saved: after a restart names below wildcards are to be asked for again");
        }
    }

    /// Saves the addresses of names, if they changed.
    pub(super) fn save_addresses(&mut self) {
        if !self.saving.begin() {
            return;
        }
        let now = Timestamp::now();
        let names = self.resolver.status().into_iter().filter(|n| !n.addresses.is_empty()).map(|n| {
            let age =
                jiff::SignedDuration::from_secs(i64::try_from(n.age_secs.unwrap_or_default()).unwrap_or(0));
            (n.name, KnownAddresses { addresses: n.addresses, answered_at: now - age })
        });
        let names = names.collect();
        match self.state.save_addresses(&names) {
            Ok(()) => self.saving = Saving::of(&names),
            Err(error) => {
                tracing::warn!(%error, "addresses are not saved: a restart without DNS will not know them");
            }
        }
    }
}
