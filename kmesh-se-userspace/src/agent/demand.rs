//! Names that get their addresses when a client asks for them.
//!
//! In: what the DNS server is asked for. Out: word to those who wait. Never: an answer.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::Agent;
use crate::{dns::Ask, model::HostName};

/// Who waits for which name.
pub(super) type Waiting = BTreeMap<HostName, Vec<oneshot::Sender<()>>>;

impl Agent {
    /// A client asks for a name that it cannot be answered yet.
    pub(super) fn demand(&mut self, ask: Ask) {
        self.reconciler.demand(&ask.name, &ask.user, Timestamp::now());
        self.waiting.entry(ask.name).or_default().push(ask.done);
    }

    /// Tells those who wait for a name of which all is known now.
    pub(super) fn tell_waiting(&mut self) {
        let known = self.waiting.extract_if(.., |name, _| !self.reconciler.waits_for(name));
        // Whoever has waited for too long is gone.
        for done in known.flat_map(|(_, waiting)| waiting) {
            let _ = done.send(());
        }
        self.waiting.retain(|_, waiting| {
            waiting.retain(|done| !done.is_closed());
            !waiting.is_empty()
        });
    }

    /// Takes the addresses back of names that nobody has asked for or connected to for a while.
    pub(super) fn forget_unused_names(&mut self) {
        let now = Timestamp::now();
        let used = self.reconciler.names().take_used();
        self.reconciler.used(used, now);
        for (host, services) in self.reconciler.quiet_names(now) {
            let sink = self.reconciler.sink();
            let connects = services.iter().filter_map(|key| sink.service_id(key));
            let connects = connects.map(|id| sink.maps().service_count(id).connects).sum();
            self.reconciler.end_unless_connected(&host, connects, now);
        }
    }
}
