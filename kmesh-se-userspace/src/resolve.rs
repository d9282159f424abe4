//! Names to addresses, kept fresh by the records' time to live.
//!
//! In: the names that are wanted. Out: an [`Update`] whenever the addresses of one change, and
//! [`NameStatus`]. Never: the hosts file, search domains, or an answer from a cache.

mod config;
mod lookup;
mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::lookup::Upstreams;
#[cfg(test)]
pub(crate) use self::state::Family;
pub use self::{
    config::{ResolveConfig, ResolveError, system_search, system_servers},
    state::{NO_ADDRESS, NO_SUCH_NAME},
};
pub(crate) use self::{
    lookup::LookupError,
    state::{Ask, Outcome, Schedule},
};
use crate::model::{Addresses, HostName};

/// What a name resolves to now. Sent at its first answer or failure, when both families are known, and whenever the
/// addresses or their order change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The name that was wanted.
    pub name: HostName,
    /// All its addresses; empty when the name has none or could not be asked.
    pub addresses: Addresses,
    /// Whether both families have been answered, or have failed, since the name is wanted.
    pub is_complete: bool,
    /// Whether no address is known because a query failed, rather than found none.
    pub has_failed: bool,
}

/// How one name is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NameStatus {
    /// The name.
    pub name: HostName,
    /// The addresses in use.
    pub addresses: Addresses,
    /// Seconds since an answer last held an address; none before the first.
    pub age_secs: Option<u64>,
    /// Seconds until the next query; 0 while one is under way.
    pub next_refresh_secs: u64,
    /// Whether nobody uses it, so that its addresses are hardly ever refreshed.
    pub rests: bool,
    /// Why the newest query of a family failed or found nothing, while that lasts.
    pub last_error: Option<String>,
    /// Whether addresses are in use that the newest query did not confirm.
    pub stale: bool,
}

/// Keeps the wanted names resolved. Clones share their names; the work ends with the shutdown token.
#[derive(Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    schedule: Mutex<Schedule>,
    /// Something is due earlier than the worker knows.
    wake: Notify,
}

impl Shared {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        // Every change of the schedule is complete before anything in it could panic.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolver {
    /// Starts to serve `want` on the current tokio runtime, until `shutdown` or until `updates` has no reader.
    /// A slow reader of `updates` slows the refreshing down; it never makes `want` or `status` wait.
    #[must_use]
    pub fn start(config: ResolveConfig, updates: mpsc::Sender<Update>, shutdown: CancellationToken) -> Self {
        let upstreams = Arc::new(Upstreams::new(&config));
        let limit = config.max_lookups.max(1);
        let shared = Arc::new(Shared { schedule: Mutex::new(Schedule::new(config)), wake: Notify::new() });
        let worker = Worker { shared: Arc::clone(&shared), upstreams, limit, updates };
        tokio::spawn(async move {
            // Dropping the worker drops its lookups.
            shutdown.run_until_cancelled(worker.run()).await;
        });
        Self { shared }
    }

    /// Resolves `name` from now on, at once if it rested. A name is wanted or not: wanting it twice changes nothing. `known` are addresses of an
    /// earlier run with their age: they are served, as stale, until an answer comes.
    pub fn want(&self, name: HostName, known: Option<(Addresses, Duration)>) {
        if self.shared.schedule().want(Instant::now().into_std(), name, known) {
            self.shared.wake.notify_one();
        }
    }

    /// Keeps the addresses of `name` as they are until it is wanted again. Now and then they are refreshed all the same, long
    /// before they are too old to be used.
    pub fn rest(&self, name: &HostName) {
        self.shared.schedule().rest(Instant::now().into_std(), name, rand::random());
    }

    /// Forgets `name` and its addresses, however often it was wanted. An update of it that was sent before
    /// may still be waiting to be read.
    pub fn unwant(&self, name: &HostName) {
        self.shared.schedule().unwant(name);
    }

    /// How every wanted name is doing, in the order of the names.
    #[must_use]
    pub fn status(&self) -> Vec<NameStatus> {
        self.shared.schedule().status(Instant::now().into_std())
    }
}

struct Worker {
    shared: Arc<Shared>,
    upstreams: Arc<Upstreams>,
    limit: usize,
    updates: mpsc::Sender<Update>,
}

impl Worker {
    async fn run(self) {
        let mut lookups: JoinSet<Outcome> = JoinSet::new();
        let mut asked: HashMap<tokio::task::Id, Ask> = HashMap::new();
        loop {
            let (due, next) = {
                let mut schedule = self.shared.schedule();
                let due = schedule.start_due(Instant::now().into_std(), self.limit - lookups.len());
                (due, schedule.next_due())
            };
            for ask in due {
                let upstreams = Arc::clone(&self.upstreams);
                let (name, family) = (ask.name.clone(), ask.family);
                let task = lookups.spawn(async move { upstreams.ask(&name, family).await });
                asked.insert(task.id(), ask);
            }
            let is_full = lookups.len() >= self.limit;
            let finished = tokio::select! {
                () = self.shared.wake.notified() => continue,
                () = sleep_until(next), if !is_full => continue,
                Some(finished) = lookups.join_next_with_id() => finished,
            };
            let (id, outcome) = match finished {
                Ok(finished) => finished,
                Err(error) => (error.id(), Outcome::Failed(LookupError::Panicked)),
            };
            let Some(ask) = asked.remove(&id) else { continue };
            let update =
                self.shared.schedule().finish(Instant::now().into_std(), &ask, outcome, rand::random());
            if let Some(update) = update
                && self.updates.send(update).await.is_err()
            {
                tracing::debug!("nobody reads updates of names; resolving ends");
                return;
            }
        }
    }
}

async fn sleep_until(when: Option<std::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        // Nothing is due; a wanted name wakes the worker.
        None => std::future::pending().await,
    }
}
