//! Names that get their addresses, and hosts whose backends are resolved, while clients use them.
//!
//! In: what the DNS server is asked for, and what clients connect to. Out: word to those who wait. Never: an answer.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kmesh_se_common::{addr, maps::Event};
use tokio::sync::oneshot;

use super::Agent;
use crate::{
    desired::{Scope, ServiceKey},
    dns::Ask,
    model::HostName,
};

/// Hosts without a use whose connections are looked at each time: each one takes a system call.
const LOOKED_AT: usize = 512;

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

    /// A connection found no backend.
    pub(super) fn dialled_in_vain(&mut self, event: &Event) {
        let own = self.reconciler.sink().scope_of(event.scope);
        let scopes: Vec<_> = own.into_iter().chain([Scope::Mesh]).collect();
        self.reconciler.dialled_in_vain(scopes.iter(), addr::to_ip(event.addr), Timestamp::now());
    }

    /// Takes the addresses back of names that nobody has asked for or connected to for a while, and lets the names rest behind
    /// hosts of which this is true. Connections to a host that nobody asks for are a use of it, too.
    pub(super) fn forget_unused_names(&mut self) {
        let now = Timestamp::now();
        let used = self.reconciler.names().take_used();
        self.reconciler.used(used, now);
        // Many become so at once. Those that are left over are looked at the next time.
        let quiet = self.reconciler.quiet_names(now).into_iter().take(LOOKED_AT);
        for (host, services) in quiet.chain(self.reconciler.unused_hosts(LOOKED_AT)) {
            let connects = self.connects_of(&services);
            self.reconciler.end_unless_connected(&host, connects, now);
        }
    }

    /// Connections to services so far, those without a backend included.
    fn connects_of(&self, services: &[ServiceKey]) -> u64 {
        let sink = self.reconciler.sink();
        let counts =
            services.iter().filter_map(|key| sink.service_id(key)).map(|id| sink.maps().service_count(id));
        counts.map(|count| count.connects + count.refused).sum()
    }
}
