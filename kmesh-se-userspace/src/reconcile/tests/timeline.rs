//! What comes of a scenario over time: the real schedule of queries, DNS answers that change, and a clock that jumps.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{scenarios::Expect, *};
use crate::desired::ServiceKey;
use crate::resolve::{Ask, Family, LookupError, Outcome, ResolveConfig, Schedule};

/// How long the records of every name live.
const TTL: Duration = Duration::from_secs(30);
/// How often the agent looks after what nobody tells it.
const UPKEEP: SignedDuration = SignedDuration::from_secs(2);

/// What happens next, and what is so then. What is looked up to check `names` and `answers` is asked for by a client.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Then {
    /// Seconds that pass before anything else happens.
    #[serde(default)]
    after: i64,
    /// Objects that come, or change.
    #[serde(default)]
    pub(super) apply: String,
    /// `KIND NAMESPACE/NAME` of objects that go.
    #[serde(default)]
    delete: Vec<String>,
    /// How names are answered from now on.
    #[serde(default)]
    dns: BTreeMap<String, Answer>,
    /// `HOST:PORT` of the services whose listeners at a waypoint take connections; without it, as before.
    #[serde(default)]
    listeners: Option<Vec<String>>,
    /// The same of those that it does not take, with its words.
    #[serde(default)]
    rejected_listeners: BTreeMap<String, String>,
    /// Namespace -> the names that its clients ask for.
    #[serde(default)]
    asks: BTreeMap<String, Vec<String>>,
    /// Host -> connections to it so far.
    #[serde(default)]
    connections: BTreeMap<String, u64>,
    /// Seconds that pass after that.
    #[serde(default)]
    wait: i64,
    expect: Expect,
    /// Name -> how often it was asked for since the start, for either family.
    #[serde(default)]
    queries: BTreeMap<String, usize>,
}

/// How a DNS server answers a name.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Answer {
    Addresses(Vec<std::net::IpAddr>),
    Word(Word),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Word {
    /// NXDOMAIN.
    Gone,
    /// SERVFAIL, or nothing at all.
    Fails,
}

/// The world around a node.
pub(super) struct Timeline {
    schedule: Schedule,
    /// When the node's clock was at its start.
    begun: Instant,
    answers: BTreeMap<String, Answer>,
    connections: BTreeMap<HostName, u64>,
    queries: BTreeMap<String, usize>,
}

impl Timeline {
    pub(super) fn new(answers: &BTreeMap<String, Vec<String>>) -> Self {
        let parse = |text: &String| text.parse().expect("an address");
        let answers = answers
            .iter()
            .map(|(name, texts)| (name.clone(), Answer::Addresses(texts.iter().map(parse).collect())));
        Self {
            schedule: Schedule::new(ResolveConfig::new(Vec::new())),
            begun: Instant::now(),
            answers: answers.collect(),
            connections: BTreeMap::new(),
            queries: BTreeMap::new(),
        }
    }

    /// Carries the next part of a scenario out.
    pub(super) fn play(&mut self, node: &mut Node, then: &Then) {
        self.pass(node, then.after);
        self.answers.extend(then.dns.clone());
        self.connections.extend(then.connections.iter().map(|(host, count)| (HostName::new(host), *count)));
        if !then.apply.is_empty() {
            objects(&then.apply).into_iter().for_each(|object| node.reconciler.event(Event::Apply(object)));
        }
        for gone in &then.delete {
            node.reconciler.event(Event::Delete(reference(gone)));
        }
        self.settle(node);
        if let Some(ready) = &then.listeners {
            let ready = ready.iter().map(|text| service(node, text)).collect();
            let rejected =
                then.rejected_listeners.iter().map(|(at, words)| (service(node, at), words.clone()));
            let rejected = rejected.collect();
            node.reconciler.set_listeners(ready, rejected);
            self.settle(node);
        }
        self.ask(node, &then.asks);
        self.pass(node, then.wait);
    }

    /// Clients ask for names, one after the other.
    pub(super) fn ask(&mut self, node: &mut Node, asks: &BTreeMap<String, Vec<String>>) {
        for (namespace, name) in
            asks.iter().flat_map(|(namespace, names)| names.iter().map(move |n| (namespace, n)))
        {
            node.reconciler.demand(&HostName::new(name), &user(namespace), node.now);
            self.settle(node);
        }
    }

    pub(super) fn check(&self, node: &mut Node, then: &Then, what: &str) {
        then.expect.check(node, what);
        then.expect.connect(node, what);
        for (name, count) in &then.queries {
            assert_eq!(self.queries.get(name).unwrap_or(&0), count, "{what}: queries for {name}");
        }
    }

    /// Does what is due, as the agent's loop does, until nothing is.
    pub(super) fn settle(&mut self, node: &mut Node) {
        loop {
            if node.reconciler.is_dirty() {
                let effects = node.effects();
                effects.unwant.iter().for_each(|name| self.schedule.unwant(name));
                effects.rest.iter().for_each(|name| self.schedule.rest(self.at(node), name, 0.0));
                for name in effects.want {
                    self.schedule.want(self.at(node), name, None);
                }
            }
            let asks = self.schedule.start_due(self.at(node), usize::MAX);
            for ask in &asks {
                self.answer(node, ask);
            }
            if asks.is_empty() && !node.reconciler.is_dirty() {
                return;
            }
        }
    }

    fn answer(&mut self, node: &mut Node, ask: &Ask) {
        *self.queries.entry(ask.name.to_string()).or_default() += 1;
        // A name without an answer is never answered.
        let outcome = match self.answers.get(ask.name.as_str()) {
            None => return,
            Some(Answer::Word(Word::Fails)) => Outcome::Failed(LookupError::Panicked),
            Some(Answer::Word(Word::Gone)) => Outcome::Nothing { exists: false, ttl: None },
            Some(Answer::Addresses(all)) => {
                let is_asked = |address: &&IpAddr| address.is_ipv4() == (ask.family == Family::V4);
                let addresses: Vec<_> = all.iter().filter(is_asked).copied().collect();
                match addresses.is_empty() {
                    true => Outcome::Nothing { exists: !all.is_empty(), ttl: None },
                    false => Outcome::Records { addresses, ttl: TTL },
                }
            }
        };
        let Some(update) = self.schedule.finish(self.at(node), ask, outcome, 0.0) else { return };
        if update.has_failed {
            node.reconciler.failed(&update.name);
        } else {
            node.reconciler.resolved(update.name.clone(), update.addresses);
        }
        if update.is_complete {
            node.reconciler.completed(&update.name);
        }
    }

    /// Lets time pass, with all that happens meanwhile.
    fn pass(&mut self, node: &mut Node, secs: i64) {
        let end = node.now + SignedDuration::from_secs(secs);
        while node.now < end {
            let due = self.schedule.next_due().map(|due| due.saturating_duration_since(self.begun));
            let due = due.and_then(|due| SignedDuration::try_from(due).ok());
            let due = due.map_or(end, |due| Timestamp::UNIX_EPOCH + due);
            // A long time is not gone through by so small steps.
            let upkeep = node.now + UPKEEP.max(SignedDuration::from_secs(secs / 1000));
            node.now = due.max(node.now).min(upkeep).min(end);
            self.settle(node);
            self.look_after(node);
            self.settle(node);
        }
    }

    fn look_after(&self, node: &mut Node) {
        node.reconciler.retry_failed();
        drop(node.reconciler.take_left_listeners(node.now));
        let used = node.names.take_used();
        node.reconciler.used(used, node.now);
        let quiet = node.reconciler.quiet_names(node.now);
        for (host, _) in quiet.into_iter().chain(node.reconciler.unused_hosts(8)) {
            let connections = self.connections.get(&host).copied().unwrap_or_default();
            node.reconciler.end_unless_connected(&host, connections, node.now);
        }
    }

    fn at(&self, node: &Node) -> Instant {
        let passed = node.now.duration_since(Timestamp::UNIX_EPOCH);
        self.begun + Duration::try_from(passed).expect("time does not go back")
    }
}

/// The service at a waypoint that is called `HOST:PORT`.
fn service(node: &Node, text: &str) -> ServiceKey {
    let (host, port) = text.split_once(':').expect("HOST:PORT");
    let mut listeners = node.reconciler.listeners_of(&HostName::new(host)).map(|(service, ..)| service);
    listeners.find(|service| service.port.to_string() == port).expect("a service of a waypoint").clone()
}

/// `KIND NAMESPACE/NAME`
pub(super) fn reference(text: &str) -> ObjectRef {
    let (kind, object) = text.split_once(' ').expect("KIND NAMESPACE/NAME");
    let (namespace, name) = object.split_once('/').expect("NAMESPACE/NAME");
    let kinds = [
        Kind::ServiceEntry,
        Kind::WorkloadEntry,
        Kind::Pod,
        Kind::Service,
        Kind::Node,
        Kind::Namespace,
        Kind::HttpRoute,
    ];
    let kind = kinds.into_iter().find(|known| known.to_string() == kind).expect("a kind");
    ObjectRef { kind, namespace: Namespace::new(namespace), name: name.into() }
}
