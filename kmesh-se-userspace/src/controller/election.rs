//! Which of several controllers works: the one that holds a Lease.
//!
//! In: the Lease as the API server has it. Out: until when this one may write. Never: a write after that.
//!
//! A Lease is taken only in the version in which it was read, so two never hold it; and it counts as left only when it has not
//! changed for its duration by the clock of who watches, so clocks need not agree. Who holds it stops writing well before others
//! may take it: the last write that it began has ended by then.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::known::MANAGER;
use crate::source::kube::Trouble;

/// After how long without a sign of its holder a Lease is taken.
const DURATION: Duration = Duration::from_secs(8);
/// For how long the holder writes after it has renewed the Lease.
const TERM: Duration = Duration::from_secs(5);
/// How long a write may take: what remains.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_millis(2500);
/// How often the holder renews it, and the others look.
const TURN: Duration = Duration::from_secs(1);
/// How long a request about the Lease may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// One candidate.
pub(super) struct Election {
    leases: Api<Lease>,
    name: String,
    identity: String,
    /// The version of the Lease, and when it was first seen.
    seen: Option<(String, Instant)>,
}

/// Until when this candidate leads; none if it does not.
pub(super) type Term = Option<Instant>;

impl Election {
    /// For the Lease `name` of `namespace`.
    pub(super) fn new(client: Client, namespace: &str, name: &str) -> Self {
        let host = nix::sys::utsname::uname();
        let host = host.map(|host| host.nodename().to_string_lossy().into_owned()).unwrap_or_default();
        // A process that is started again is another candidate.
        let identity = format!("{host}_{:08x}", rand::random::<u32>());
        Self { leases: Api::namespaced(client, namespace), name: name.to_owned(), identity, seen: None }
    }

    /// Takes part until `shutdown`, then gives the Lease up.
    pub(super) async fn run(mut self, terms: watch::Sender<Term>, shutdown: CancellationToken) {
        let mut told = None;
        loop {
            let began = Instant::now();
            let turn = timeout(TIMEOUT, self.turn(began)).await;
            match turn.unwrap_or_else(|_| Err(Trouble::no_answer())) {
                Ok(term) => {
                    told = None;
                    let led = terms.send_replace(term).is_some();
                    if led != term.is_some() {
                        let leads = term.is_some();
                        tracing::info!(identity = self.identity, leads, "the leader changes");
                    }
                }
                Err(trouble) if told.as_ref() != Some(&trouble) => {
                    tracing::warn!(lease = self.name, error = %trouble, "the Lease cannot be had");
                    told = Some(trouble);
                }
                Err(_) => {}
            }
            if shutdown.run_until_cancelled(sleep(TURN)).await.is_none() {
                break;
            }
        }
        if terms.send_replace(None).is_some()
            && let Ok(Err(trouble)) = timeout(TIMEOUT, self.give_up()).await
        {
            tracing::warn!(error = %trouble, "the Lease is left to run out");
        }
    }

    /// Looks at the Lease, and takes or renews it if that is allowed.
    async fn turn(&mut self, now: Instant) -> Result<Term, Trouble> {
        let Some(lease) = self.leases.get_opt(&self.name).await.map_err(|error| Trouble::of(&error))? else {
            let mine = self.mine(None);
            return self.won(self.leases.create(&params(), &mine).await, now);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        // After the answer: its holder may have renewed it until a moment ago.
        let read_at = Instant::now();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, read_at));
        }
        let since = self.seen.as_ref().map_or(read_at, |(_, since)| *since);
        let duration = spec.lease_duration_seconds.and_then(|secs| u64::try_from(secs).ok());
        let duration = duration.map_or(DURATION, Duration::from_secs);
        let is_free = match spec.holder_identity.as_deref() {
            None | Some("") => true,
            Some(holder) => holder == self.identity || now.duration_since(since) >= duration,
        };
        if !is_free {
            return Ok(None);
        }
        let mine = self.mine(Some(lease));
        self.won(self.leases.replace(&self.name, &params(), &mine).await, now)
    }

    /// Who was too late does not lead.
    fn won(&mut self, answer: kube::Result<Lease>, began: Instant) -> Result<Term, Trouble> {
        match answer {
            Ok(_) => Ok(Some(began + TERM)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(Trouble::of(&error)),
        }
    }

    /// The Lease with this one as its holder.
    fn mine(&self, before: Option<Lease>) -> Lease {
        let mut lease = before.unwrap_or_default();
        let spec = lease.spec.take().unwrap_or_default();
        let now = || Some(MicroTime(Timestamp::now()));
        let is_mine = spec.holder_identity.as_deref() == Some(&self.identity);
        let transitions = spec.lease_transitions.unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            acquire_time: if is_mine { spec.acquire_time } else { now() },
            renew_time: now(),
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: Some(if is_mine { transitions } else { transitions.saturating_add(1) }),
            ..spec
        });
        let ObjectMeta { name, .. } = &mut lease.metadata;
        name.get_or_insert_with(|| self.name.clone());
        lease
    }

    async fn give_up(&self) -> Result<(), Trouble> {
        let failed = |error| Trouble::of(&error);
        let mut lease = self.leases.get(&self.name).await.map_err(failed)?;
        if let Some(spec) = &mut lease.spec
            && spec.holder_identity.as_deref() == Some(&self.identity)
        {
            spec.holder_identity = Some(String::new());
            self.leases.replace(&self.name, &params(), &lease).await.map_err(failed)?;
        }
        Ok(())
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}
