//! Whatever is set, taken, refused and interrupted in whatever order: in the end an Envoy has what it should have.

use std::collections::{BTreeMap, HashMap};

use envoy_types::pb::google::rpc;
use proptest::prelude::*;

use super::*;
use crate::model::{
    BackendRef, HeaderRules, HostName, NoBackend, Others, PathMatch, Protocol, RequestMatch, RequestRule,
    RoutedRule, RoutedTo, WeightedRef,
};
use crate::waypoint::tests::{address, key, settings};
use crate::waypoint::xds::book;
use crate::waypoint::{Discovery, Other, Service, resources};

/// A port that the Envoy does not like: of an endpoint in a cluster, of a listener in a listener.
const BAD: u16 = 666;

/// The ports of those who answer beside a service, and how each is found.
type Beside = Vec<Option<(u16, Discovery)>>;

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// A host's service is set: listener port, endpoint port, how it is found and spoken to, and the ports of up to three who answer
    /// beside it, each with how it is found; or removed.
    Set(u8, Option<(u16, u16, Discovery, Protocol, Beside)>),
    /// One answer is sent and heard; a refusal names whom it is about, or nobody and then nothing of it is taken.
    Hear { names: bool },
    /// The stream breaks, and the Envoy comes back.
    Break,
}

fn step() -> impl Strategy<Value = Step> {
    let port = |usual: std::ops::Range<u16>| prop_oneof![4 => usual, 1 => Just(BAD)];
    let discovery = || prop_oneof![Just(Discovery::Static), Just(Discovery::Eds)];
    let other = proptest::option::weighted(0.3, (port(1..4), discovery()));
    let others = proptest::collection::vec(other, 3);
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Http)];
    let service = proptest::option::weighted(0.8, (port(1..4), port(1..4), discovery(), protocol, others));
    prop_oneof![
        4 => (0..5_u8, service).prop_map(|(host, service)| Step::Set(host, service)),
        6 => any::<bool>().prop_map(|names| Step::Hear { names }),
        1 => Just(Step::Break),
    ]
}

/// An Envoy: what it has of each kind, and what it has asked for by name.
#[derive(Default)]
struct Envoy {
    client: Client,
    has: [BTreeMap<Arc<str>, String>; Kind::ALL.len()],
    /// What it has of listeners and clusters, to know what they need.
    records: [HashMap<Arc<str>, Arc<Record>>; Kind::ALL.len()],
    standings: HashMap<Arc<str>, Standing>,
}

impl Envoy {
    fn says(&mut self, request: DeltaDiscoveryRequest, book: &Book) {
        let heard = self.client.request(request, book).expect("no nonsense");
        self.restate(&heard.names, book);
    }

    fn restate(&mut self, names: &BTreeSet<Arc<str>>, book: &Book) {
        for record in book::wholes(book, names) {
            let before = self.standings.remove(&record.name).unwrap_or_default();
            self.standings.insert(Arc::clone(&record.name), self.client.standing(record, &before));
        }
    }

    /// What it needs of a kind that is asked for by name.
    fn wanted(&self, kind: Kind) -> BTreeSet<Arc<str>> {
        let by = if kind == Kind::Endpoints { Kind::Cluster } else { Kind::Listener };
        let needs = self.records[by as usize].iter().filter(|(_, record)| record.version(kind).is_some());
        needs.map(|(name, _)| Arc::clone(name)).collect()
    }

    fn connect(&mut self, book: &Book) {
        self.client = Client::default();
        for kind in Kind::ALL {
            let names = if kind.is_wanted_whole() { BTreeSet::new() } else { self.wanted(kind) };
            // It asks for nothing by name when there is nothing that it needs.
            if !kind.is_wanted_whole() && names.is_empty() {
                continue;
            }
            let has = self.has[kind as usize].iter();
            let request = DeltaDiscoveryRequest {
                type_url: kind.url(),
                resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
                initial_resource_versions: has.map(|(name, text)| (name.to_string(), text.clone())).collect(),
                ..DeltaDiscoveryRequest::default()
            };
            self.says(request, book);
        }
    }

    /// Hears one answer, if there is one; answers whether there was.
    fn hear(&mut self, names: bool, book: &Book) -> bool {
        let before: Vec<_> = [Kind::Endpoints, Kind::Route].map(|kind| (kind, self.wanted(kind))).into();
        let Some(answer) = self.client.next(book) else { return false };
        let kind = answer.kind;
        let is_bad = |record: &&Arc<Record>| match kind {
            Kind::Cluster => {
                record.service.endpoints[0].port == BAD && record.version(Kind::Endpoints).is_none()
            }
            Kind::Endpoints => record.service.endpoints[0].port == BAD,
            Kind::Listener => record.service.listener_port == BAD,
            Kind::Route => false,
        };
        let bad: Vec<_> =
            answer.records.iter().filter(is_bad).map(|record| record.name.to_string()).collect();
        let names = names && kind.is_wanted_whole();
        if bad.is_empty() || names {
            for record in answer.records.iter().filter(|record| !is_bad(record)) {
                self.has[kind as usize].insert(Arc::clone(&record.name), version_text(record, kind));
                self.records[kind as usize].insert(Arc::clone(&record.name), Arc::clone(record));
            }
            for name in &answer.removed {
                self.has[kind as usize].remove(name);
                self.records[kind as usize].remove(name);
            }
        }
        let words = if names { bad.join(": no\n") + ": no" } else { "no".to_owned() };
        let error = rpc::Status { message: words, ..rpc::Status::default() };
        self.says(
            DeltaDiscoveryRequest {
                type_url: kind.url(),
                response_nonce: answer.nonce.to_string(),
                error_detail: (!bad.is_empty()).then_some(error),
                ..DeltaDiscoveryRequest::default()
            },
            book,
        );
        for (kind, before) in before {
            self.ask_anew(kind, &before, book);
        }
        for name in self.has[Kind::Listener as usize].keys() {
            assert!(self.has[Kind::Cluster as usize].contains_key(name), "{name} listens without a cluster");
        }
        for (name, route) in &self.records[Kind::Route as usize] {
            // One that was never liked may be missing; others were there before the route, and go after it.
            let missing =
                route.parts.iter().filter(|part| !self.has[Kind::Cluster as usize].contains_key(&part.name));
            let missing: Vec<_> = missing.filter(|part| part.service.endpoints[0].port != BAD).collect();
            assert!(
                missing.is_empty() || !self.wanted(Kind::Route).contains(name),
                "{name} leads to {missing:?}"
            );
        }
        true
    }

    /// Asks for what has come to be needed by name, and gives up what is not needed any more.
    fn ask_anew(&mut self, kind: Kind, before: &BTreeSet<Arc<str>>, book: &Book) {
        let now = self.wanted(kind);
        let (come, gone): (Vec<_>, Vec<_>) =
            (now.difference(before).collect(), before.difference(&now).collect());
        for name in &gone {
            self.has[kind as usize].remove(*name);
            self.records[kind as usize].remove(*name);
        }
        if come.is_empty() && gone.is_empty() {
            return;
        }
        let request = DeltaDiscoveryRequest {
            type_url: kind.url(),
            resource_names_subscribe: come.into_iter().map(ToString::to_string).collect(),
            resource_names_unsubscribe: gone.into_iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        self.says(request, book);
    }
}

/// Those who answer beside a service, by number.
fn beside(others: Beside) -> Others<Other> {
    let other = |(i, other): (usize, Option<(u16, Discovery)>)| {
        let (port, discovery) = other?;
        let (host, protocol) = (HostName::new("o.test"), Protocol::Http);
        let endpoints = vec![address("10.0.0.2", port)];
        Some((format!("o{i}").into(), Other { host, port: 80, protocol, discovery, endpoints }))
    };
    others.into_iter().enumerate().filter_map(other).collect()
}

/// A rule that leads to all of them.
fn rules(others: &Others<Other>) -> Vec<RoutedRule> {
    let backend = BackendRef { field: String::new(), target: Err(NoBackend::Missing), port: 80 };
    let backend = WeightedRef { backend, weight: 1, headers: HeaderRules::default() };
    let (path, method) = (PathMatch::Prefix(String::new()), None);
    let when = RequestMatch { path, method, headers: Vec::new(), params: Vec::new() };
    let rule = RequestRule { backends: vec![backend; others.len()], ..RequestRule::default() };
    let to = others.keys().cloned().map(RoutedTo::Other).collect();
    let routed = RoutedRule { name: "r".to_owned(), when, rule: Arc::new(rule), to, copies: Vec::new() };
    if others.is_empty() { Vec::new() } else { vec![routed] }
}

/// Sets a service, as the server does.
fn set(envoy: &mut Envoy, book: &mut Book, host: u8, service: Option<Service>) {
    let key = key(&format!("h{host}.test"), 80);
    let name: Arc<str> = resources::name(&key).into();
    let port = |book: &Book| book.get(&name).map(|record| record.service.listener_port);
    let before = port(book);
    if service.is_none() {
        envoy.standings.remove(&name);
    }
    let record = service.map(|service| Arc::new(Record::new(&key, service, &settings())));
    let (_, changed) = book::set(book, &name, record);
    if let Some(standing) = envoy.standings.get_mut(&name) {
        let serves = standing.serves && before == port(book);
        *standing = Standing { serves, ..Standing::default() };
    }
    changed.iter().for_each(|name| envoy.client.touch(name));
    envoy.restate(&changed, book);
}

proptest! {
    #[test]
    fn in_the_end_an_envoy_has_all_that_it_likes_and_nothing_else(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let (mut envoy, mut book) = (Envoy::default(), Book::new());
        envoy.connect(&book);
        for step in steps {
            match step {
                Step::Set(host, service) => {
                    let service = service.map(|(listener_port, port, discovery, protocol, others)| {
                        let others = if protocol == Protocol::Http { beside(others) } else { Others::new() };
                        let endpoints = vec![address("10.0.0.1", port)];
                        // Envoys do not mind that two hosts share a port, as long as they are not real.
                        Service { listener_port, protocol, discovery, endpoints, rules: rules(&others), others }
                    });
                    set(&mut envoy, &mut book, host, service);
                }
                Step::Hear { names } => drop(envoy.hear(names, &book)),
                Step::Break => envoy.connect(&book),
            }
        }
        let answers = (0..1000).take_while(|_| envoy.hear(true, &book)).count();
        prop_assert!(answers < 1000, "it never ends");

        for (name, record) in &book {
            let standing = envoy.standings.get(name).cloned().unwrap_or_default();
            let Service { listener_port, endpoints, .. } = &record.service;
            if resources::whole_of(name).is_some() {
                continue;
            }
            let is_bad = |part: &Arc<Record>| part.service.endpoints[0].port == BAD;
            if *listener_port != BAD && endpoints[0].port != BAD && record.parts.iter().any(is_bad) {
                prop_assert!(standing.serves && standing.rejected.is_some(), "{name}: {standing:?}");
                continue;
            }
            if *listener_port == BAD || endpoints[0].port == BAD {
                prop_assert!(standing.rejected.is_some() && !standing.current, "{name}: {standing:?}");
                continue;
            }
            prop_assert_eq!(&standing, &Standing { serves: true, current: true, rejected: None }, "{}", name);
            for part in record.all() {
                for kind in part.kinds() {
                    let has = envoy.has[kind as usize].get(&part.name);
                    prop_assert_eq!(has, Some(&version_text(part, kind)), "{:?} of {}", kind, &part.name);
                }
            }
        }
        for kind in [Kind::Cluster, Kind::Listener] {
            let names = envoy.has[kind as usize].keys();
            // Where the newest of a service is refused, what it was before goes on, and leads to whom it led.
            let is_kept = |name: &&Arc<str>| {
                let whole = resources::whole_of(name).and_then(|whole| envoy.standings.get(whole));
                whole.is_some_and(|standing| standing.rejected.is_some())
            };
            let gone: Vec<_> = names.filter(|name| !book.contains_key(*name) && !is_kept(name)).collect();
            prop_assert!(gone.is_empty(), "{kind:?}: {gone:?}");
        }
    }
}
