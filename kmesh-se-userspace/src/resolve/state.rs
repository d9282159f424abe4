//! When each family of each name is asked for, and what an outcome does to its addresses.
//!
//! In: names, outcomes and the time. Out: what to ask next, and updates. Never: a clock or a query.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{NameStatus, Update, config::ResolveConfig, lookup::LookupError};
use crate::model::{Addresses, HostName};

/// [`NameStatus::last_error`] of a name that does not exist (NXDOMAIN).
pub const NO_SUCH_NAME: &str = "no such name";
/// [`NameStatus::last_error`] of a name that exists without an address.
pub const NO_ADDRESS: &str = "no address of this family";

/// Refreshes come at most this much after a record has expired, so that nodes do not ask in step.
const JITTER_MAX: Duration = Duration::from_secs(3);

/// Which records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// A.
    V4,
    /// AAAA.
    V6,
}

/// One query to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) name: HostName,
    pub(crate) family: Family,
    /// Which wanting of the name this is for: an answer from before an `unwant` is not taken.
    generation: u64,
}

/// What one query found.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Addresses of the family, at least one, in the order of the answer, for as long as the shortest link of
    /// the chain lives.
    Records { addresses: Vec<IpAddr>, ttl: Duration },
    /// The server knows that there are none: the name does not exist, or has no record of this family.
    Nothing { exists: bool, ttl: Option<Duration> },
    /// Nothing was learned.
    Failed(LookupError),
}

/// Everything about the wanted names.
pub(crate) struct Schedule {
    config: ResolveConfig,
    names: BTreeMap<HostName, Name>,
    /// What is asked when; a query under way is not in it.
    queue: BTreeSet<(Instant, HostName, Family)>,
    generation: u64,
}

struct Name {
    generation: u64,
    v4: FamilyState,
    v6: FamilyState,
    /// Whether nobody uses the name.
    rests: bool,
    /// What the last update said.
    published: Option<Said>,
}

/// Addresses, whether both families are known, and whether there are none because of a failure.
type Said = (Addresses, bool, bool);

struct FamilyState {
    addresses: Vec<IpAddr>,
    /// When an answer last held addresses.
    good_at: Option<Instant>,
    /// When it is asked next; none while a query is under way.
    due: Option<Instant>,
    answered: bool,
    /// Answers in a row that held nothing. A failure between them says nothing and changes nothing.
    nothings: u32,
    failures: u32,
    error: Option<String>,
}

impl Schedule {
    pub(crate) fn new(config: ResolveConfig) -> Self {
        Self { config, names: BTreeMap::new(), queue: BTreeSet::new(), generation: 0 }
    }

    /// Adds a name, or wakes one that rests: due at once. False if it is there already.
    pub(crate) fn want(
        &mut self,
        now: Instant,
        name: HostName,
        known: Option<(Addresses, Duration)>,
    ) -> bool {
        if let Some(state) = self.names.get_mut(&name) {
            let rested = std::mem::take(&mut state.rests);
            if rested {
                for family in [Family::V4, Family::V6] {
                    state.family_mut(family).answered = false;
                }
                state.published = state.published.take().map(|(addresses, ..)| (addresses, false, false));
                self.reschedule(&name, now);
            }
            return rested;
        }
        self.generation += 1;
        self.queue.insert((now, name.clone(), Family::V4));
        self.queue.insert((now, name.clone(), Family::V6));
        let mut state = Name {
            generation: self.generation,
            v4: FamilyState::new(now),
            v6: FamilyState::new(now),
            rests: false,
            published: None,
        };
        if let Some((addresses, age)) = known {
            let good_at = now.checked_sub(age);
            state.v4.remember(addresses.v4.iter().copied().map(IpAddr::V4).collect(), good_at);
            state.v6.remember(addresses.v6.iter().copied().map(IpAddr::V6).collect(), good_at);
            state.published = Some((addresses, false, false));
        }
        self.names.insert(name, state);
        true
    }

    /// Has a name asked for only so often that its addresses never get too old. `jitter` is a random number from 0 to 1.
    pub(crate) fn rest(&mut self, now: Instant, name: &HostName, jitter: f64) {
        let rest = early(self.config.rest(), jitter);
        if let Some(state) = self.names.get_mut(name) {
            state.rests = true;
            self.reschedule(name, now + rest);
        }
    }

    /// Moves what is not under way.
    fn reschedule(&mut self, name: &HostName, due: Instant) {
        let Some(state) = self.names.get_mut(name) else { return };
        for family in [Family::V4, Family::V6] {
            if let Some(old) = state.family_mut(family).due.replace(due) {
                self.queue.remove(&(old, name.clone(), family));
                self.queue.insert((due, name.clone(), family));
            } else {
                // A query is under way, and says when to ask next.
                state.family_mut(family).due = None;
            }
        }
    }

    pub(crate) fn unwant(&mut self, name: &HostName) {
        let Some(state) = self.names.remove(name) else { return };
        for (family, due) in [(Family::V4, state.v4.due), (Family::V6, state.v6.due)] {
            if let Some(due) = due {
                self.queue.remove(&(due, name.clone(), family));
            }
        }
    }

    /// Takes what is due, at most `limit`, the longest overdue first.
    pub(crate) fn start_due(&mut self, now: Instant, limit: usize) -> Vec<Ask> {
        let mut asks = Vec::new();
        while asks.len() < limit {
            if self.next_due().is_none_or(|due| due > now) {
                break;
            }
            let Some((_, name, family)) = self.queue.pop_first() else { break };
            let Some(state) = self.names.get_mut(&name) else { continue };
            state.family_mut(family).due = None;
            asks.push(Ask { generation: state.generation, name, family });
        }
        asks
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|(due, ..)| *due)
    }

    /// Takes what a query found. `jitter` is a random number from 0 to 1.
    pub(crate) fn finish(
        &mut self,
        now: Instant,
        ask: &Ask,
        outcome: Outcome,
        jitter: f64,
    ) -> Option<Update> {
        let state = self.names.get_mut(&ask.name).filter(|state| state.generation == ask.generation)?;
        let has_failed = matches!(outcome, Outcome::Failed(_));
        let mut wait = state.family_mut(ask.family).apply(&self.config, now, outcome, jitter);
        // Only what is known is worth to be tried again soon, before it is too old.
        let is_at_stake = has_failed && !state.family_mut(ask.family).addresses.is_empty();
        if state.rests && !is_at_stake {
            wait = early(self.config.rest(), jitter);
        }
        let due = now + wait;
        state.family_mut(ask.family).due = Some(due);
        self.queue.insert((due, ask.name.clone(), ask.family));
        let addresses = state.addresses();
        let is_complete = state.v4.answered && state.v6.answered;
        let has_failed = addresses.is_empty() && state.v4.failures.max(state.v6.failures) > 0;
        let said = (addresses, is_complete, has_failed);
        let changed = match &state.published {
            Some(published) => *published != said,
            // Addresses of one family are of use at once; "none" is known only when both have answered.
            None => !said.0.is_empty() || is_complete,
        };
        if !changed {
            return None;
        }
        state.published = Some(said.clone());
        let (addresses, is_complete, has_failed) = said;
        Some(Update { name: ask.name.clone(), addresses, is_complete, has_failed })
    }

    pub(crate) fn status(&self, now: Instant) -> Vec<NameStatus> {
        self.names.iter().map(|(name, state)| state.status(now, name)).collect()
    }
}

impl Name {
    fn family_mut(&mut self, family: Family) -> &mut FamilyState {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    fn addresses(&self) -> Addresses {
        let mut addresses = Addresses::default();
        for address in self.v4.addresses.iter().chain(&self.v6.addresses) {
            match address {
                IpAddr::V4(address) => addresses.v4.push(*address),
                IpAddr::V6(address) => addresses.v6.push(*address),
            }
        }
        addresses
    }

    fn status(&self, now: Instant, name: &HostName) -> NameStatus {
        let families = [&self.v4, &self.v6];
        let good_at = families.iter().filter_map(|family| family.good_at).max();
        // A query under way is due now.
        let next = families.iter().map(|family| family.due.unwrap_or(now)).min().unwrap_or(now);
        // A name of one family only is well: what the other lacks is no error.
        let has_addresses = families.iter().any(|family| !family.addresses.is_empty());
        let troubled =
            |family: &&&FamilyState| family.failures > 0 || !family.addresses.is_empty() || !has_addresses;
        NameStatus {
            name: name.clone(),
            addresses: self.addresses(),
            age_secs: good_at.map(|at| now.saturating_duration_since(at).as_secs()),
            rests: self.rests,
            next_refresh_secs: next.saturating_duration_since(now).as_secs(),
            last_error: families.iter().filter(troubled).find_map(|family| family.error.clone()),
            stale: families.iter().any(|family| family.is_stale()),
        }
    }
}

impl FamilyState {
    fn new(due: Instant) -> Self {
        Self {
            addresses: Vec::new(),
            good_at: None,
            due: Some(due),
            answered: false,
            nothings: 0,
            failures: 0,
            error: None,
        }
    }

    /// Takes addresses of an earlier run, which no answer of this one has confirmed.
    fn remember(&mut self, addresses: Vec<IpAddr>, good_at: Option<Instant>) {
        if !addresses.is_empty() {
            self.addresses = addresses;
            self.good_at = good_at;
            self.error = Some("not confirmed since the agent's start".to_owned());
        }
    }

    fn is_stale(&self) -> bool {
        !self.addresses.is_empty() && self.error.is_some()
    }

    /// Changes what is known and says after which time to ask again.
    fn apply(&mut self, config: &ResolveConfig, now: Instant, outcome: Outcome, jitter: f64) -> Duration {
        self.answered = true;
        let jitter = jitter.clamp(0.0, 1.0);
        match outcome {
            Outcome::Records { addresses, ttl } => {
                self.addresses = addresses;
                self.good_at = Some(now);
                self.nothings = 0;
                self.failures = 0;
                self.error = None;
                late(ttl.clamp(config.min_ttl, config.max_ttl.max(config.min_ttl)), jitter)
            }
            Outcome::Nothing { exists, ttl } => {
                self.nothings = self.nothings.saturating_add(1);
                self.failures = 0;
                let what = if exists { NO_ADDRESS } else { NO_SUCH_NAME };
                self.error = Some(what.to_owned());
                if self.nothings == 1 && !self.addresses.is_empty() {
                    // A server that restarts may say so of every name: ask once more before believing it.
                    return late(config.backoff_min.min(config.negative_refresh), jitter);
                }
                self.addresses.clear();
                let wait = ttl.map_or(config.negative_refresh, |ttl| ttl.min(config.negative_refresh));
                late(wait.max(config.min_ttl), jitter)
            }
            Outcome::Failed(error) => {
                self.failures = self.failures.saturating_add(1);
                self.error = Some(error.to_string());
                let wait = backoff(config, self.failures, jitter);
                let Some(good_at) = self.good_at.filter(|_| !self.addresses.is_empty()) else { return wait };
                let left = (good_at + config.stale_for).saturating_duration_since(now);
                if left.is_zero() {
                    self.addresses.clear();
                    return wait;
                }
                // Ask right when the addresses would be dropped, so that they go on time.
                wait.min(left)
            }
        }
    }
}

/// `wait` and up to a tenth more.
fn late(wait: Duration, jitter: f64) -> Duration {
    wait + (wait / 10).min(JITTER_MAX).mul_f64(jitter)
}

/// A rest that ends up to a quarter earlier: many names that begin to rest together are not asked for together.
fn early(rest: Duration, jitter: f64) -> Duration {
    rest - (rest / 4).mul_f64(jitter.clamp(0.0, 1.0))
}

/// Twice as long after each failure, and between a half and all of that.
fn backoff(config: &ResolveConfig, failures: u32, jitter: f64) -> Duration {
    let doubled = config.backoff_min.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let wait = doubled.min(config.backoff_max.max(config.backoff_min));
    (wait / 2 + (wait / 2).mul_f64(jitter)).max(Duration::from_millis(1))
}
