//! What one Envoy asked for, has and is to be sent next, on one stream.
//!
//! In: its requests, the book, and names of what changed in it. Out: answers, one of each kind at a time. Never: I/O, a
//! clock, or more memory than the names that there are.
//!
//! A resource is sent once what it needs has been taken: a listener after its cluster and endpoints, a route after the clusters
//! that it leads to, unless they were refused; and a cluster goes after its listener, or after the last route that leads to it. The next answer of a kind waits until the last one was taken or refused, and holds what is newest then; so a
//! slow Envoy costs nothing but its own delay.

mod order;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use thiserror::Error;

use super::{
    Standing,
    book::{Book, Record},
    refusal,
};
use crate::waypoint::resources::Kind;

/// How many resources go into one answer: enough to be quick, little enough to leave others their turn.
const BATCH: usize = 256;
/// How many names beyond those of our services a client may name.
const SPARE_NAMES: usize = 10_000;
/// Stands for all resources of a kind.
const ALL: &str = "*";

/// Why a client is sent away.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum Garbage {
    #[error("the type {0:?} is not served here: ask for clusters, endpoints, listeners or routes")]
    Type(String),
    #[error("the nonce {0:?} was never given: answer with that of a response on this stream")]
    Nonce(String),
    #[error("{0} names are asked for, while there are {1} services: ask for fewer")]
    Names(usize, usize),
}

/// What a request has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The services that the Envoy has, took or refused.
    pub(super) names: BTreeSet<Arc<str>>,
    /// Whether the Envoy has just started: it has nothing.
    pub(super) is_fresh: bool,
}

/// What is to be sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) kind: Kind,
    pub(super) nonce: u64,
    /// Whose resources.
    pub(super) records: Vec<Arc<Record>>,
    /// The names of what has gone.
    pub(super) removed: Vec<Arc<str>>,
}

/// An Envoy as seen from its stream.
#[derive(Debug, Default)]
pub(super) struct Client {
    subscriptions: [Subscription; Kind::ALL.len()],
    nonces: u64,
}

/// What it asked for of one kind, and has.
#[derive(Debug, Default)]
struct Subscription {
    is_open: bool,
    /// Whether it asked for everything.
    whole: bool,
    names: BTreeSet<Arc<str>>,
    has: HashMap<Arc<str>, Has>,
    refused: HashMap<Arc<str>, Refused>,
    /// What may differ from what it has.
    changed: BTreeSet<Arc<str>>,
    /// What it has just asked for by name: answered whatever it has.
    asked: BTreeSet<Arc<str>>,
    /// What it has just refused: it is put back to what it had before. Envoy, when it comes back, says that it has what it
    /// was sent last, even if it refused that.
    undone: BTreeSet<Arc<str>>,
    /// Parts of an answer that was refused without a word about whom: sent apart until it is one.
    suspects: VecDeque<Vec<Arc<str>>>,
    sent: Option<Sent>,
    /// Whether an answer is owed even if there is nothing to tell: an Envoy that starts waits for it.
    owes_answer: bool,
}

#[derive(Clone, Debug)]
struct Has {
    version: u64,
    /// The listener port of the service in this version, if it is known.
    port: Option<u16>,
    /// The service in this version, if it is known.
    record: Option<Arc<Record>>,
}

#[derive(Debug)]
struct Refused {
    version: u64,
    why: String,
}

#[derive(Debug)]
struct Sent {
    nonce: u64,
    /// Whether it puts back what was before.
    undoes: bool,
    resources: HashMap<Arc<str>, Has>,
    removed: Vec<Arc<str>>,
}

/// What is to be done about a name.
enum Due {
    Nothing,
    /// Something else comes first.
    Wait,
    Add(Arc<Record>),
    Remove,
}

impl Client {
    /// Takes in a request.
    ///
    /// # Errors
    /// When it makes no sense: the stream is to be closed with this.
    pub(super) fn request(&mut self, request: DeltaDiscoveryRequest, book: &Book) -> Result<Heard, Garbage> {
        let Some(kind) = Kind::of(&request.type_url) else {
            return Err(Garbage::Type(request.type_url));
        };
        let mut heard = Heard::default();
        let subscription = &mut self.subscriptions[kind as usize];
        let is_first = !subscription.is_open;
        if is_first {
            heard.is_fresh = kind == Kind::Cluster && request.initial_resource_versions.is_empty();
            subscription.open(kind, &request, book);
            heard.names.extend(subscription.has.keys().cloned());
        }
        for name in request.resource_names_subscribe {
            subscription.subscribe(name, is_first, book);
        }
        for name in request.resource_names_unsubscribe {
            subscription.unsubscribe(&name);
        }
        let count = subscription.names.len() + subscription.has.len();
        if count > SPARE_NAMES + book.len() * 4 {
            return Err(Garbage::Names(count, book.len()));
        }
        if request.response_nonce.is_empty() {
            return Ok(heard);
        }
        let Some(nonce) = request.response_nonce.parse::<u64>().ok().filter(|nonce| *nonce <= self.nonces)
        else {
            return Err(Garbage::Nonce(request.response_nonce));
        };
        // Another one is of an answer that a later one has replaced.
        if let Some(sent) = subscription.sent.take_if(|sent| sent.nonce == nonce) {
            heard.names.extend(sent.resources.keys().chain(&sent.removed).cloned());
            match request.error_detail {
                None => subscription.took(sent),
                Some(error) => subscription.refused(kind, sent, &error.message),
            }
        }
        Ok(heard)
    }

    /// Notes that a service was added, changed or removed.
    pub(super) fn touch(&mut self, name: &Arc<str>) {
        for subscription in &mut self.subscriptions {
            let knows = subscription.wants(name) || subscription.has.contains_key(name);
            if subscription.is_open && knows {
                subscription.changed.insert(Arc::clone(name));
            }
        }
    }

    /// What to send next, if anything may be sent now.
    pub(super) fn next(&mut self, book: &Book) -> Option<Answer> {
        Kind::ALL.into_iter().find_map(|kind| self.next_of(kind, book))
    }

    /// What this Envoy made of a service, which was `before`.
    pub(super) fn standing(&self, record: &Record, before: &Standing) -> Standing {
        let name = &record.name;
        let of = |kind: Kind| &self.subscriptions[kind as usize];
        let has_all = record.kinds().all(|kind| of(kind).has.contains_key(name));
        let listener = of(Kind::Listener);
        let same_port = listener.has.get(name).and_then(|has| has.port) == Some(record.service.listener_port);
        // An Envoy that comes back tells of one kind after the other.
        let serves = if listener.is_open { same_port && (before.serves || has_all) } else { before.serves };
        let is_told = record.all().all(|part| part.kinds().all(|kind| of(kind).is_open));
        let is_newest = |record: &Record, kind| {
            of(kind).has.get(&record.name).map(|has| has.version) == record.version(kind)
        };
        let is_current = || record.all().all(|part| part.kinds().all(|kind| is_newest(part, kind)));
        let current = if is_told { is_current() } else { before.current };
        let refusal = |part: &Record, kind: Kind| {
            let refused = of(kind).refused.get(&part.name)?;
            (Some(refused.version) == part.version(kind)).then(|| refused.why.clone())
        };
        let rejected = record.all().find_map(|part| part.kinds().find_map(|kind| refusal(part, kind)));
        let rejected = if is_told { rejected } else { rejected.or_else(|| before.rejected.clone()) };
        Standing { serves, current, rejected }
    }

    fn next_of(&mut self, kind: Kind, book: &Book) -> Option<Answer> {
        let subscription = &mut self.subscriptions[kind as usize];
        if !subscription.is_open || subscription.sent.is_some() {
            return None;
        }
        let undone = subscription.next_undone();
        let undoes = !undone.0.is_empty() || !undone.1.is_empty();
        let (records, removed) = if undoes {
            undone
        } else if let Some(records) = self.next_suspects(kind, book) {
            (records, Vec::new())
        } else {
            self.next_changed(kind, book)
        };
        let subscription = &mut self.subscriptions[kind as usize];
        if records.is_empty() && removed.is_empty() && !subscription.owes_answer {
            return None;
        }
        subscription.owes_answer = false;
        if !undoes {
            for name in records.iter().map(|record| &record.name).chain(&removed) {
                subscription.changed.remove(name);
                subscription.asked.remove(name);
            }
        }
        self.nonces += 1;
        let has = |record: &Arc<Record>| {
            let version = record.version(kind).unwrap_or_default();
            let port = Some(record.service.listener_port);
            (Arc::clone(&record.name), Has { version, port, record: Some(Arc::clone(record)) })
        };
        let resources = records.iter().map(has).collect();
        let (nonce, gone) = (self.nonces, removed.clone());
        subscription.sent = Some(Sent { nonce, undoes, resources, removed: gone });
        Some(Answer { kind, nonce, records, removed })
    }

    /// The next part of an answer that was refused as a whole.
    fn next_suspects(&mut self, kind: Kind, book: &Book) -> Option<Vec<Arc<Record>>> {
        while let Some(names) = self.subscriptions[kind as usize].suspects.pop_front() {
            let still_due = |name: &Arc<str>| match self.due(kind, name, book) {
                Due::Add(record) => Some(record),
                _ => None,
            };
            let records: Vec<_> = names.iter().filter_map(still_due).collect();
            if !records.is_empty() {
                return Some(records);
            }
        }
        None
    }

    /// What has changed: first what is to go, for its port may be another's by now, then what is to come.
    fn next_changed(&mut self, kind: Kind, book: &Book) -> (Vec<Arc<Record>>, Vec<Arc<str>>) {
        let (mut records, mut removed, mut settled) = (Vec::new(), Vec::new(), Vec::new());
        for name in &self.subscriptions[kind as usize].changed {
            match self.due(kind, name, book) {
                Due::Nothing => settled.push(Arc::clone(name)),
                Due::Wait => {}
                Due::Add(record) => records.push(record),
                Due::Remove => removed.push(Arc::clone(name)),
            }
            if removed.len() == BATCH {
                break;
            }
        }
        let subscription = &mut self.subscriptions[kind as usize];
        for name in settled {
            subscription.changed.remove(&name);
            if !book.contains_key(&name) {
                subscription.refused.remove(&name);
            }
        }
        if removed.is_empty() {
            records.truncate(BATCH);
        } else {
            // They may be refused for one another's sake, so they travel apart.
            records.clear();
        }
        (records, removed)
    }

    fn due(&self, kind: Kind, name: &Arc<str>, book: &Book) -> Due {
        let subscription = &self.subscriptions[kind as usize];
        let is_asked = subscription.asked.contains(name);
        let record = book.get(name);
        let has = subscription.has.get(name);
        match record.and_then(|record| Some((record, record.version(kind)?))) {
            Some((record, version)) => {
                let has_it = has.is_some_and(|has| has.version == version);
                let refused =
                    subscription.refused.get(name).is_some_and(|refused| refused.version == version);
                if !subscription.wants(name) || (!is_asked && (has_it || refused)) {
                    Due::Nothing
                } else if kind == Kind::Listener && !self.may_listen(record)
                    || kind == Kind::Route && !self.may_route(record)
                {
                    Due::Wait
                } else {
                    Due::Add(Arc::clone(record))
                }
            }
            None if is_asked => Due::Remove,
            // Those that others name are given up by the Envoy itself, when it needs them no more.
            None if has.is_none() || !kind.is_wanted_whole() => Due::Nothing,
            None if kind == Kind::Cluster && self.may_use(name, book) => Due::Wait,
            None => Due::Remove,
        }
    }
}

impl Subscription {
    /// The first request of a kind.
    fn open(&mut self, kind: Kind, request: &DeltaDiscoveryRequest, book: &Book) {
        self.is_open = true;
        self.whole = kind.is_wanted_whole() && request.resource_names_subscribe.is_empty();
        for (name, version) in &request.initial_resource_versions {
            let (version, port) = version_of(version);
            let record = book.get(&**name).filter(|record| record.version(kind) == Some(version));
            self.has.insert(shared(name, book), Has { version, port, record: record.cloned() });
        }
        self.changed.extend(self.has.keys().cloned());
        if self.whole {
            self.changed.extend(book.keys().cloned());
            self.owes_answer = self.has.is_empty();
        }
    }

    fn subscribe(&mut self, name: String, is_first: bool, book: &Book) {
        if name == ALL {
            self.whole = true;
            self.owes_answer |= self.has.is_empty();
            self.changed.extend(book.keys().cloned());
            return;
        }
        let name = shared(&name, book);
        // A client that comes back has said which version it has.
        if !is_first || !self.has.contains_key(&name) {
            self.asked.insert(Arc::clone(&name));
            self.refused.remove(&name);
        }
        self.changed.insert(Arc::clone(&name));
        self.names.insert(name);
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == ALL {
            self.whole = false;
            return;
        }
        self.names.remove(name);
        self.asked.remove(name);
        if !self.whole {
            self.has.remove(name);
            self.refused.remove(name);
            self.changed.remove(name);
        }
    }

    /// What it had before it refused something, or that it had nothing.
    fn next_undone(&mut self) -> (Vec<Arc<Record>>, Vec<Arc<str>>) {
        let (mut records, mut removed) = (Vec::new(), Vec::new());
        for name in std::mem::take(&mut self.undone) {
            match self.has.get(&name) {
                Some(Has { record: Some(record), .. }) => records.push(Arc::clone(record)),
                // An older version, of which only the number is known: Envoy goes on with it.
                Some(Has { record: None, .. }) => {}
                None => removed.push(name),
            }
        }
        (records, removed)
    }

    fn took(&mut self, sent: Sent) {
        for (name, has) in sent.resources {
            if !sent.undoes {
                self.refused.remove(&name);
            }
            self.has.insert(name, has);
        }
        for name in sent.removed {
            self.has.remove(&name);
        }
    }

    fn refused(&mut self, kind: Kind, mut sent: Sent, words: &str) {
        if sent.undoes {
            return;
        }
        let names: Vec<_> = sent.resources.keys().cloned().collect();
        // Of the other kinds, Envoy stops at the first that it does not like.
        let mut told = if kind.is_wanted_whole() { refusal::refused(words, &names) } else { Vec::new() };
        if told.is_empty() && names.len() > 1 {
            // None of it was taken, not even what it had asked for by name once more.
            if !kind.is_wanted_whole() {
                self.asked.extend(names.iter().cloned());
            }
            let (first, second) = names.split_at(names.len() / 2);
            self.suspects.extend([first.to_vec(), second.to_vec()]);
            return;
        }
        if let (true, [one]) = (told.is_empty(), &names[..]) {
            told.push((Arc::clone(one), words.to_owned()));
        }
        for (name, why) in told {
            if let Some((name, has)) = sent.resources.remove_entry(&name) {
                self.undone.insert(Arc::clone(&name));
                self.refused.insert(name, Refused { version: has.version, why });
            }
        }
        self.took(sent);
    }

    fn wants(&self, name: &Arc<str>) -> bool {
        self.whole || self.names.contains(name)
    }

    /// Whether an answer about it is under way, or due.
    fn is_pending(&self, name: &Arc<str>) -> bool {
        self.changed.contains(name)
            || self.suspects.iter().any(|names| names.contains(name))
            || self.is_sent(name)
    }

    fn is_sent(&self, name: &Arc<str>) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.resources.contains_key(name))
    }

    /// Whether the client has it, or will before long.
    fn may_have(&self, name: &Arc<str>) -> bool {
        self.has.contains_key(name) || self.is_sent(name)
    }
}

/// The book's own copy of a name, if it has one.
fn shared(name: &str, book: &Book) -> Arc<str> {
    book.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name))
}

/// A version as it is written on the wire: of a listener also its port, which a server that starts learns from it.
pub(super) fn version_text(record: &Record, kind: Kind) -> String {
    let version = format!("{:016x}", record.version(kind).unwrap_or_default());
    if kind == Kind::Listener { format!("{version}.{}", record.service.listener_port) } else { version }
}

/// A version and a listener port, as far as they are what [`version_text`] writes.
fn version_of(text: &str) -> (u64, Option<u16>) {
    let (version, port) = text.split_once('.').unwrap_or((text, ""));
    (u64::from_str_radix(version, 16).unwrap_or_default(), port.parse().ok())
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
