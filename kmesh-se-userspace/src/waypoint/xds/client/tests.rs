//! A stream's side of the protocol, with a client that is played by hand.

use std::collections::HashMap;

use envoy_types::pb::google::rpc;

use super::*;
use crate::model::{
    BackendRef, HeaderRules, HostName, NoBackend, Others, PathMatch, Protocol, RequestMatch, RequestRule,
    RoutedRule, RoutedTo, WeightedRef,
};
use crate::waypoint::tests::{address, key, service, settings};
use crate::waypoint::xds::book;
use crate::waypoint::{Discovery, Other, Service, resources};

/// An Envoy by hand, with the book that it is told of.
#[derive(Default)]
struct Play {
    client: Client,
    book: Book,
    standings: HashMap<Arc<str>, Standing>,
}

fn request(kind: Kind) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.url(), ..DeltaDiscoveryRequest::default() }
}

/// A service that is carried, so that it has a cluster and a listener only.
fn carried(port: u16) -> Service {
    let endpoints = vec![address("10.0.0.1", 80)];
    Service { protocol: Protocol::Tcp, discovery: Discovery::Static, endpoints, ..service(port) }
}

impl Play {
    fn set(&mut self, host: &str, service: Option<Service>) -> Arc<str> {
        let record = service.map(|service| Record::new(&key(host, 80), service, &settings()));
        let name: Arc<str> = crate::waypoint::resources::name(&key(host, 80)).into();
        let (_, changed) = book::set(&mut self.book, &name, record.map(Arc::new));
        changed.iter().for_each(|name| self.client.touch(name));
        name
    }

    fn says(&mut self, request: DeltaDiscoveryRequest) -> Result<Heard, Garbage> {
        let heard = self.client.request(request, &self.book)?;
        for record in book::wholes(&self.book, &heard.names) {
            let before = self.standings.remove(&record.name).unwrap_or_default();
            self.standings.insert(Arc::clone(&record.name), self.client.standing(record, &before));
        }
        Ok(heard)
    }

    fn opens(&mut self, kinds: &[Kind]) {
        for kind in kinds {
            self.says(request(*kind)).expect("a request");
        }
    }

    /// The next answer in words: its kind, `+host` for what comes and `-host` for what goes.
    fn hears(&mut self) -> Option<(Answer, String)> {
        let answer = self.client.next(&self.book)?;
        let mut words = format!("{:?}", answer.kind);
        for record in &answer.records {
            words += &format!(" +{}", record.key.host);
        }
        for name in &answer.removed {
            words += &format!(" -{}", name.split('|').nth(1).unwrap_or_default());
        }
        Some((answer, words))
    }

    fn takes(&mut self, answer: &Answer) {
        let request =
            DeltaDiscoveryRequest { response_nonce: answer.nonce.to_string(), ..request(answer.kind) };
        self.says(request).expect("a nonce that was given");
    }

    fn refuses(&mut self, answer: &Answer, words: &str) {
        let error = rpc::Status { message: words.to_owned(), ..rpc::Status::default() };
        let nonce = answer.nonce.to_string();
        self.says(DeltaDiscoveryRequest {
            response_nonce: nonce,
            error_detail: Some(error),
            ..request(answer.kind)
        })
        .expect("a nonce that was given");
    }

    /// Takes everything; answers it in words.
    fn takes_all(&mut self) -> Vec<String> {
        let mut heard = Vec::new();
        while let Some((answer, words)) = self.hears() {
            self.takes(&answer);
            heard.push(words);
        }
        heard
    }

    fn standing(&self, name: &str) -> Standing {
        self.standings.get(name).cloned().unwrap_or_default()
    }
}

#[test]
fn a_listener_comes_after_its_cluster_and_goes_before_it() {
    let mut play = Play::default();
    let name = play.set("a.test", Some(carried(1)));
    play.opens(&[Kind::Cluster, Kind::Listener]);
    let (cluster, words) = play.hears().expect("the cluster");
    assert_eq!(words, "Cluster +a.test");
    // The answer that each kind is owed at first holds nothing here.
    assert_eq!(play.hears().map(|(_, words)| words).as_deref(), Some("Listener"));
    assert!(!play.standing(&name).serves);
    play.takes(&cluster);
    let request = DeltaDiscoveryRequest { response_nonce: "2".into(), ..request(Kind::Listener) };
    play.says(request).expect("an acknowledgement");
    assert_eq!(play.takes_all(), ["Listener +a.test"]);
    assert_eq!(play.standing(&name), Standing { serves: true, current: true, rejected: None });

    play.set("a.test", None);
    let (listener, words) = play.hears().expect("the listener goes");
    assert_eq!(words, "Listener -a.test");
    assert!(play.hears().is_none(), "the cluster waits");
    play.takes(&listener);
    assert_eq!(play.takes_all(), ["Cluster -a.test"]);
    assert!(play.hears().is_none());
}

/// A service whose requests go to these hosts.
fn leading(hosts: &[&str], discovery: Discovery) -> Service {
    let other = |host: &&str| {
        let endpoints = vec![address("10.0.0.2", 80)];
        let of =
            Other { host: HostName::new(host), port: 80, protocol: Protocol::Http, discovery, endpoints };
        ((*host).into(), of)
    };
    let others: Others<Other> = hosts.iter().map(other).collect();
    let (path, method) = (PathMatch::Prefix(String::new()), None);
    let when = RequestMatch { path, method, headers: Vec::new(), params: Vec::new() };
    let backend = BackendRef { field: String::new(), target: Err(NoBackend::Missing), port: 80 };
    let backend = WeightedRef { backend, weight: 1, headers: HeaderRules::default() };
    let rule = RequestRule { backends: vec![backend; hosts.len()], ..RequestRule::default() };
    let to = others.keys().cloned().map(RoutedTo::Other).collect();
    let rule = RoutedRule { name: "r".to_owned(), when, rule: Arc::new(rule), to, copies: Vec::new() };
    Service { protocol: Protocol::Http, rules: vec![rule], others, ..carried(1) }
}

/// `a.test` with a route that is followed.
fn routed(play: &mut Play, hosts: &[&str]) -> Arc<str> {
    let name = play.set("a.test", Some(leading(hosts, Discovery::Static)));
    play.opens(&[Kind::Cluster, Kind::Listener]);
    play.takes_all();
    let asks =
        DeltaDiscoveryRequest { resource_names_subscribe: vec![name.to_string()], ..request(Kind::Route) };
    play.says(asks).expect("a subscription");
    play.takes_all();
    assert_eq!(play.standing(&name), Standing { serves: true, current: true, rejected: None });
    name
}

#[test]
fn a_route_comes_after_the_clusters_that_it_leads_to_and_they_go_after_it() {
    let mut play = Play::default();
    let name = routed(&mut play, &["b.test"]);
    play.set("a.test", Some(leading(&["c.test"], Discovery::Static)));
    let (cluster, _) = play.hears().expect("the new cluster");
    assert_eq!(*cluster.records[0].name, *resources::part_name(&name, "c.test"));
    assert!(play.hears().is_none(), "neither the route nor the old cluster");
    play.takes(&cluster);
    let (route, words) = play.hears().expect("the route");
    assert_eq!(words, "Route +a.test");
    assert!(play.hears().is_none(), "the old cluster waits until the route is taken");
    play.takes(&route);
    let (gone, _) = play.hears().expect("the old cluster goes");
    assert_eq!(gone.removed, [Arc::<str>::from(resources::part_name(&name, "b.test"))]);
    play.takes(&gone);
    assert!(play.hears().is_none());
    assert!(play.standing(&name).current);
}

#[test]
fn a_cluster_that_is_refused_holds_back_no_route_and_is_told_of_its_service() {
    let mut play = Play::default();
    let name = routed(&mut play, &["b.test"]);
    play.set("a.test", Some(leading(&["b.test", "c.test"], Discovery::Static)));
    let (cluster, _) = play.hears().expect("the new cluster");
    let part = resources::part_name(&name, "c.test");
    play.refuses(&cluster, &format!("Error adding/updating cluster(s) {part}: bad"));
    assert!(play.takes_all().contains(&"Route +a.test".to_owned()));
    let refused = Standing { serves: true, current: false, rejected: Some("bad".to_owned()) };
    assert_eq!(play.standing(&name), refused);
    play.set("a.test", Some(leading(&["b.test"], Discovery::Static)));
    play.takes_all();
    assert_eq!(play.standing(&name), Standing { serves: true, current: true, rejected: None });
}

#[test]
fn who_comes_back_keeps_the_clusters_of_its_old_route_until_it_has_the_new_one() {
    let mut play = Play::default();
    let name = routed(&mut play, &["b.test"]);
    let versions = |play: &Play, kind: Kind, names: &[&str]| -> HashMap<String, String> {
        let version = |name: &&str| ((*name).to_owned(), version_text(&play.book[*name], kind));
        names.iter().map(version).collect()
    };
    let part = resources::part_name(&name, "b.test");
    let has =
        [(Kind::Cluster, vec![&*name, &*part]), (Kind::Listener, vec![&*name]), (Kind::Route, vec![&*name])]
            .map(|(kind, names)| (kind, versions(&play, kind, &names)));
    play.client = Client::default();
    play.set("a.test", Some(leading(&["c.test"], Discovery::Static)));
    for (kind, initial_resource_versions) in has {
        let subscribed = if kind == Kind::Route { vec![name.to_string()] } else { Vec::new() };
        play.says(DeltaDiscoveryRequest {
            initial_resource_versions,
            resource_names_subscribe: subscribed,
            ..request(kind)
        })
        .expect("what it has");
        let told = play.hears().map(|(answer, _)| answer);
        if let Some(answer) = told {
            assert!(answer.removed.is_empty(), "{:?}", answer.removed);
            play.takes(&answer);
        }
    }
    let words = play.takes_all();
    let at = |text: &str| words.iter().position(|words| words.starts_with(text));
    assert!(at("Route +") < at("Cluster -") && at("Cluster -").is_some(), "{words:?}");
}

#[test]
fn endpoints_and_routes_are_sent_to_whom_asks_for_them() {
    let mut play = Play::default();
    let eds = Service { discovery: Discovery::Eds, endpoints: vec![address("10.0.0.1", 80)], ..service(1) };
    let name = play.set("a.test", Some(eds));
    play.opens(&[Kind::Cluster, Kind::Listener]);
    assert_eq!(play.takes_all(), ["Cluster +a.test", "Listener"]);
    let named =
        |kind| DeltaDiscoveryRequest { resource_names_subscribe: vec![name.to_string()], ..request(kind) };
    play.says(named(Kind::Endpoints)).expect("a subscription");
    assert_eq!(play.takes_all(), ["Endpoints +a.test", "Listener +a.test"]);
    assert!(!play.standing(&name).serves, "it has no route yet");
    play.says(named(Kind::Route)).expect("a subscription");
    assert_eq!(play.takes_all(), ["Route +a.test"]);
    assert!(play.standing(&name).serves);
    // Asked for again, it is told again; what is not there is said to be gone.
    play.says(named(Kind::Route)).expect("a subscription");
    assert_eq!(play.takes_all(), ["Route +a.test"]);
    let nobody = DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["default/entry|nobody.test|80".into()],
        ..request(Kind::Route)
    };
    play.says(nobody).expect("a subscription");
    assert_eq!(play.takes_all(), ["Route -nobody.test"]);
}

#[test]
fn one_that_comes_back_with_what_it_has_is_told_nothing() {
    let mut play = Play::default();
    let name = play.set("a.test", Some(carried(1)));
    let changed = play.set("b.test", Some(carried(2)));
    let with = |kind: Kind| {
        let old = HashMap::from([
            (name.to_string(), version_text(&play.book[&name], kind)),
            (changed.to_string(), "1".to_owned()),
            ("default/entry|gone.test|80".to_owned(), "2".to_owned()),
        ]);
        let part = (resources::part_name("default/entry|gone.test|80", "part"), "3".to_owned());
        let parts = (kind == Kind::Cluster).then_some(part);
        let initial_resource_versions = old.into_iter().chain(parts).collect();
        DeltaDiscoveryRequest { initial_resource_versions, ..request(kind) }
    };
    let (clusters, listeners) = (with(Kind::Cluster), with(Kind::Listener));
    let heard = play.says(clusters).expect("a request");
    assert!(!heard.is_fresh && heard.names.contains(&name));
    assert_eq!(play.takes_all(), ["Cluster +b.test"], "a listener may still lead to the one that is gone");
    play.says(listeners).expect("a request");
    assert_eq!(play.standing(&name), Standing { serves: true, current: true, rejected: None });
    assert_eq!(
        play.takes_all(),
        ["Listener -gone.test", "Cluster -gone.test -gone.test", "Listener +b.test"]
    );
    assert!(play.standing(&changed).serves);
}

#[test]
fn one_that_comes_back_with_an_older_version_of_the_same_port_serves_meanwhile() {
    for (port, serves) in [(1, true), (7, false)] {
        let mut play = Play::default();
        let name = play.set("a.test", Some(carried(1)));
        for kind in [Kind::Cluster, Kind::Listener] {
            let old = HashMap::from([(name.to_string(), format!("00000000000000ff.{port}"))]);
            let back = DeltaDiscoveryRequest { initial_resource_versions: old, ..request(kind) };
            play.says(back).expect("a request");
        }
        assert_eq!(play.standing(&name), Standing { serves, current: false, rejected: None });
        assert_eq!(play.takes_all(), ["Cluster +a.test", "Listener +a.test"]);
        assert!(play.standing(&name).current);
    }
}

#[test]
fn what_is_refused_is_told_of_and_holds_nothing_up() {
    let mut play = Play::default();
    let (good, bad) = (play.set("a.test", Some(carried(1))), play.set("b.test", Some(carried(2))));
    play.opens(&[Kind::Cluster, Kind::Listener]);
    let (clusters, _) = play.hears().expect("clusters");
    play.takes(&clusters);
    let (listeners, words) = play.hears().expect("listeners");
    assert_eq!(words, "Listener +a.test +b.test");
    play.refuses(&listeners, &format!("Error adding/updating listener(s) {bad}: cannot bind\n"));
    assert_eq!(play.standing(&good), Standing { serves: true, current: true, rejected: None });
    let refused = Standing { serves: false, current: false, rejected: Some("cannot bind".into()) };
    assert_eq!(play.standing(&bad), refused);
    assert_eq!(play.takes_all(), ["Listener -b.test"], "Envoy is not to say later that it has it");
    assert_eq!(play.standing(&bad), refused);
    assert!(play.hears().is_none(), "it is not sent again");
    play.set("b.test", Some(carried(3)));
    assert_eq!(play.takes_all(), ["Listener +b.test"]);
    assert_eq!(play.standing(&bad), Standing { serves: true, current: true, rejected: None });
}

#[test]
fn one_that_is_refused_stays_at_work_in_its_last_good_version() {
    let mut play = Play::default();
    let name = play.set("a.test", Some(carried(1)));
    play.opens(&[Kind::Cluster, Kind::Listener]);
    play.takes_all();
    let mut other = carried(1);
    other.endpoints = vec![address("10.0.0.9", 80)];
    play.set("a.test", Some(other));
    let (cluster, words) = play.hears().expect("the cluster");
    assert_eq!(words, "Cluster +a.test");
    play.refuses(&cluster, &format!("Error adding/updating cluster(s) {name}: no"));
    assert_eq!(play.standing(&name), Standing { serves: true, current: false, rejected: Some("no".into()) });
    let (answer, words) = play.hears().expect("the version before");
    assert_eq!(words, "Cluster +a.test");
    assert_eq!(answer.records[0].service, carried(1));
    play.takes(&answer);
    assert!(play.hears().is_none(), "and not the refused one again");
    assert!(play.standing(&name).rejected.is_some());
    // Back at the version that it has, there is nothing to send.
    play.set("a.test", Some(carried(1)));
    assert!(play.hears().is_none());
}

#[test]
fn a_refusal_that_names_nobody_is_traced_to_the_one_who_caused_it() {
    let mut play = Play::default();
    let hosts = ["a.test", "b.test", "c.test", "d.test", "e.test"];
    let names: Vec<_> =
        hosts.iter().zip(1..).map(|(host, port)| play.set(host, Some(carried(port)))).collect();
    play.opens(&[Kind::Cluster]);
    let mut answers = 0;
    while let Some((answer, words)) = play.hears() {
        answers += 1;
        if words.contains("+d.test") {
            play.refuses(&answer, "Proto constraint validation failed");
        } else {
            play.takes(&answer);
        }
    }
    assert!(answers < 10, "{answers} answers");
    play.opens(&[Kind::Listener]);
    play.takes_all();
    for (host, name) in hosts.iter().zip(&names) {
        assert_eq!(play.standing(name).serves, *host != "d.test", "{host}");
    }
    assert_eq!(play.standing(&names[3]).rejected.as_deref(), Some("Proto constraint validation failed"));
}

#[test]
fn what_cannot_be_put_back_holds_nothing_up() {
    let mut play = Play::default();
    let names = ["a.test", "b.test"].map(|host| play.set(host, Some(carried(1))));
    // It has older versions of both, of which nothing else is known.
    let old = names.clone().map(|name| (name.to_string(), "1.1".to_owned()));
    let back = DeltaDiscoveryRequest { initial_resource_versions: old.into(), ..request(Kind::Cluster) };
    play.says(back).expect("a request");
    let mut told = BTreeSet::new();
    while let Some((answer, words)) = play.hears() {
        // The last word about each of them, whichever comes first.
        if let [record] = &answer.records[..] {
            told.insert(record.key.host.to_string());
        }
        play.refuses(&answer, &format!("no to {words}"));
    }
    assert_eq!(told, ["a.test", "b.test"].map(str::to_owned).into());
}

#[test]
fn many_changes_while_it_is_slow_are_one_answer() {
    let mut play = Play::default();
    play.set("a.test", Some(carried(1)));
    play.opens(&[Kind::Cluster]);
    let (first, _) = play.hears().expect("the cluster");
    for last in 2..=200 {
        let endpoints = vec![address(&format!("10.0.0.{last}"), 80)];
        play.set("a.test", Some(Service { endpoints, ..carried(1) }));
    }
    assert!(play.hears().is_none(), "the last answer is still under way");
    play.takes(&first);
    assert_eq!(play.takes_all(), ["Cluster +a.test"]);
}

#[test]
fn a_thousand_services_come_in_parts() {
    let mut play = Play::default();
    for port in 1..=1000 {
        play.set(&format!("h{port}.test"), Some(carried(port)));
    }
    play.opens(&[Kind::Cluster, Kind::Listener]);
    let sizes: Vec<_> = play.takes_all().iter().map(|words| words.split(' ').count() - 1).collect();
    assert!(sizes.iter().all(|size| *size <= BATCH), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 2000);
}

#[test]
fn nonsense_is_refused_with_a_reason() {
    let mut play = Play::default();
    play.opens(&[Kind::Cluster]);
    let unknown = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/x".into(),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(play.says(unknown), Err(Garbage::Type("type.googleapis.com/x".into())));
    for nonce in ["99", "x"] {
        let never = DeltaDiscoveryRequest { response_nonce: nonce.into(), ..request(Kind::Cluster) };
        assert_eq!(play.says(never), Err(Garbage::Nonce(nonce.into())));
    }
    let names = (0..=SPARE_NAMES).map(|number| number.to_string()).collect();
    let many = DeltaDiscoveryRequest { resource_names_subscribe: names, ..request(Kind::Route) };
    assert_eq!(play.says(many), Err(Garbage::Names(SPARE_NAMES + 1, 0)));
}
