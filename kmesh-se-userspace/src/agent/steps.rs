//! The steps of the loop: what came is taken in, and the maps and names follow.
//!
//! In: answers of resolvers, the sources at the start. Out: rows and names as they should be, what clients will refer to saved before.
//! Never: a decision of what they should be.

use jiff::Timestamp;
use tokio::time::{interval, timeout};

use super::{Agent, Inputs, SYNC_PATIENCE, UPKEEP};
use crate::{health::Step, resolve};

impl Agent {
    /// Waits for the source for as long as it takes: the programs of an earlier agent go on with what their maps hold, and the
    /// new maps hold nothing yet.
    pub(super) async fn until_synced(&mut self, inputs: &mut Inputs) {
        tracing::warn!(
            "the source is slow: the programs of the earlier agent stay until it has told everything"
        );
        let mut ticks = interval(UPKEEP);
        while !self.reconciler.report().synced {
            tokio::select! {
                Some(event) = inputs.events.recv() => self.reconciler.event(event),
                Some(query) = inputs.queries.recv() => self.answer(query).await,
                _ = ticks.tick() => self.health.pause(Step::Starting),
            }
        }
    }

    /// Waits until every name was answered once, so that programs on new maps know backends of all services.
    pub(super) async fn until_resolved(&mut self, inputs: &mut Inputs) {
        let known = timeout(SYNC_PATIENCE, async {
            while !self.reconciler.is_resolved() {
                match inputs.updates.recv().await {
                    Some(update) => self.resolved(update),
                    None => return,
                }
                self.reconcile();
            }
        });
        if known.await.is_err() {
            tracing::warn!("resolvers are slow: serving the names that are known so far");
        }
    }

    pub(super) fn resolved(&mut self, update: resolve::Update) {
        self.saving.answered(&update);
        if update.has_failed {
            self.reconciler.failed(&update.name);
        } else {
            self.reconciler.resolved(update.name.clone(), update.addresses);
        }
        if update.is_complete {
            self.reconciler.completed(&update.name);
        }
    }

    pub(super) fn reconcile(&mut self) {
        self.save_new_namespaces();
        if !self.reconciler.is_dirty() {
            return;
        }
        let step = self.reconciler.prepare(Timestamp::now());
        step.unwant.iter().for_each(|name| self.resolver.unwant(name));
        step.rest.iter().for_each(|name| self.resolver.rest(name));
        for name in &step.want {
            let known = self.known.remove(name).map(|known| {
                let age = Timestamp::now().duration_since(known.answered_at);
                (known.addresses, age.try_into().unwrap_or_default())
            });
            self.resolver.want(name.clone(), known);
        }
        if step.must_save {
            self.save_ids();
        }
        if step.must_save_leases {
            self.save_leases();
        }
        if step.must_save_ports {
            self.save_assignments();
        }
        if self.saving.is_urgent() {
            self.save_addresses();
        }
        let hosts: Vec<_> = step.hosts().cloned().collect();
        self.reconciler.commit(step);
        self.tell_waypoint(hosts.iter());
    }
}
