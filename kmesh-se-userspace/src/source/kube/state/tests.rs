use serde_json::{Value, json};

use super::*;
use crate::{model::read_object, source::kube::follow::Verb};

/// A state that follows Nodes, entries and the Pods of `n1`, which is listed and there.
struct Cluster {
    state: State,
    nodes: FollowerId,
    entries: FollowerId,
    own_pods: FollowerId,
    seconds: i64,
}

impl Cluster {
    fn new() -> Self {
        let mut state = State::new(&Interest::Node { name: "n1".to_owned(), waypoints: None });
        let nodes = state.follow(Collection::Nodes).0;
        let entries = state.follow(Collection::ServiceEntries).0;
        let own_pods = state.follow(Collection::PodsOfNode("n1".to_owned())).0;
        let mut cluster = Self { state, nodes, entries, own_pods, seconds: 0 };
        cluster.list(nodes, &[node("n1", 1)]);
        cluster
    }

    fn take(&mut self, from: FollowerId, what: What) -> Vec<String> {
        self.seconds += 1;
        let now = Timestamp::from_second(self.seconds).expect("a time");
        self.state.take(from, what, now).iter().map(shown).collect()
    }

    fn apply(&mut self, from: FollowerId, (kind, value): &(Kind, Value)) -> Vec<String> {
        self.take(from, applied(*kind, value))
    }

    fn list(&mut self, from: FollowerId, objects: &[(Kind, Value)]) -> Vec<String> {
        let mut told = self.take(from, What::Connected);
        told.extend(self.take(from, What::Listing));
        for object in objects {
            told.extend(self.apply(from, object));
        }
        told.extend(self.take(from, What::Listed));
        told
    }

    fn fail(&mut self, from: FollowerId, trouble: Trouble) -> Vec<String> {
        self.take(from, What::Failed(Verb::Watch, trouble))
    }

    /// What is to be started and stopped, and the events.
    fn adjust(&mut self) -> (Vec<(FollowerId, String)>, Vec<FollowerId>, Vec<String>) {
        let (change, events) = self.state.adjust();
        let start = change.start.into_iter().map(|(id, collection)| (id, collection.to_string()));
        (start.collect(), change.stop, events.iter().map(shown).collect())
    }
}

fn applied(kind: Kind, value: &Value) -> What {
    let version = value["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
    let read = read_object(kind, "v1", value.clone());
    let named = json!({ "metadata": { "name": value["metadata"]["name"], "namespace": value["metadata"]["namespace"] } });
    let reference = read_object(kind, "v1", named).expect("metadata").0.object_ref();
    What::Applied(Box::new(Applied { reference, version, read }))
}

fn shown(event: &Event) -> String {
    match event {
        Event::Apply(object) => {
            let version = &object.metadata().resource_version;
            format!("+ {}@{version}", object.object_ref())
        }
        Event::Delete(reference) => format!("- {reference}"),
        Event::Problems { origin, problems } => {
            let reasons: Vec<_> = problems.iter().map(|problem| problem.reason).collect();
            format!("! {origin} {}", reasons.join(","))
        }
        Event::Synced => "synced".to_owned(),
    }
}

fn object(name: &str, version: u32, namespace: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": namespace, "resourceVersion": version.to_string() } })
}

fn node(name: &str, version: u32) -> (Kind, Value) {
    (Kind::Node, json!({ "metadata": { "name": name, "resourceVersion": version.to_string() } }))
}

fn pod(name: &str, version: u32) -> (Kind, Value) {
    (Kind::Pod, object(name, version, "shop"))
}

fn entry(name: &str, version: u32, selector: Value) -> (Kind, Value) {
    let mut value = object(name, version, "shop");
    value["spec"] = json!({ "workloadSelector": { "labels": selector } });
    (Kind::ServiceEntry, value)
}

fn reference(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef { kind, namespace: Namespace::new("shop"), name: name.into() }
}

fn away() -> Trouble {
    Trouble::Unreachable { cause: "refused".to_owned() }
}

#[test]
fn a_new_list_takes_away_what_it_lacks_and_not_before_it_is_complete() {
    let mut c = Cluster::new();
    let entries = c.entries;
    let list = [entry("a", 1, json!({})), entry("b", 2, json!({}))];
    assert_eq!(c.list(entries, &list), ["+ ServiceEntry shop/a@1", "+ ServiceEntry shop/b@2"]);
    assert_eq!(c.fail(entries, away()), ["! kube ApiServerUnreachable"]);
    assert_eq!(c.take(entries, What::Connected), ["! kube "]);
    assert!(c.take(entries, What::Listing).is_empty());
    assert_eq!(c.apply(entries, &entry("c", 4, json!({}))), ["+ ServiceEntry shop/c@4"]);
    // The list breaks off and begins again; what has not changed is not told again.
    assert_eq!(c.list(entries, &list[..1]), ["- ServiceEntry shop/b", "- ServiceEntry shop/c"]);
}

#[test]
fn a_pod_that_two_collections_hold_goes_with_the_last() {
    let mut c = Cluster::new();
    let (entries, own) = (c.entries, c.own_pods);
    c.list(entries, &[entry("e", 1, json!({ "app": "a" }))]);
    let (start, stop, events) = c.adjust();
    assert!(stop.is_empty() && events.is_empty());
    let [(selected, ref name)] = start[..] else { panic!("{start:?}") };
    assert_eq!(name, "pods of namespace shop with app=a");
    assert_eq!(c.list(own, &[pod("p", 5)]), ["+ Pod shop/p@5"]);
    assert!(c.list(selected, &[pod("p", 5)]).is_empty());
    // Each state is told once, by whoever sees it first; who is behind takes nothing back.
    assert_eq!(c.apply(selected, &pod("p", 7)), ["+ Pod shop/p@7"]);
    assert!(c.apply(own, &pod("p", 6)).is_empty());
    assert!(c.apply(own, &pod("p", 7)).is_empty());
    assert!(c.take(selected, What::Deleted(reference(Kind::Pod, "p"))).is_empty());
    assert_eq!(c.apply(own, &pod("p", 8)), ["+ Pod shop/p@8"]);
    assert_eq!(c.take(own, What::Deleted(reference(Kind::Pod, "p"))), ["- Pod shop/p"]);
}

#[test]
fn pods_stay_until_those_that_another_selector_picks_are_known() {
    let mut c = Cluster::new();
    let (entries, own) = (c.entries, c.own_pods);
    c.list(own, &[]);
    c.list(entries, &[entry("e", 1, json!({ "app": "a" }))]);
    let old = c.adjust().0[0].0;
    c.list(old, &[pod("p", 5), pod("q", 6)]);
    c.apply(entries, &entry("e", 9, json!({ "app": "a", "v": "2" })));
    let (start, stop, events) = c.adjust();
    assert_eq!((stop, events), (vec![old], vec![]));
    let new = start[0].0;
    // What the stopped one had still to say is too late.
    assert!(c.take(old, What::Deleted(reference(Kind::Pod, "p"))).is_empty());
    assert!(c.list(new, &[pod("p", 5)]).is_empty());
    assert_eq!(c.adjust(), (vec![], vec![], vec!["- Pod shop/q".to_owned()]));
    // Without the entry, nobody asks for its Pods.
    c.take(entries, What::Deleted(reference(Kind::ServiceEntry, "e")));
    assert_eq!(c.adjust(), (vec![], vec![new], vec!["- Pod shop/p".to_owned()]));
}

#[test]
fn selectors_wait_until_all_entries_are_known() {
    let mut c = Cluster::new();
    let entries = c.entries;
    c.take(entries, What::Listing);
    c.apply(entries, &entry("e", 1, json!({ "app": "a" })));
    assert!(c.adjust().0.is_empty());
    c.take(entries, What::Listed);
    assert_eq!(c.adjust().0.len(), 1);
}

#[test]
fn all_is_told_when_everything_is_listed_or_refused() {
    let mut c = Cluster::new();
    let (entries, own) = (c.entries, c.own_pods);
    c.list(entries, &[entry("e", 1, json!({ "app": "a" }))]);
    let selected = c.adjust().0[0].0;
    c.fail(own, away());
    c.list(selected, &[]);
    assert_eq!(c.state.sync(), None);
    let forbidden = || Trouble::Forbidden { user: None };
    assert_eq!(c.fail(own, forbidden()), ["! kube:pods Forbidden", "! kube "]);
    // A server that has just started forbids what it allows later.
    assert_eq!(c.state.sync(), None);
    c.seconds += 2;
    c.fail(own, forbidden());
    assert_eq!(c.state.sync(), Some(Event::Synced));
    assert_eq!(c.state.sync(), None);
}

#[test]
fn a_resource_that_is_not_served_is_settled_and_loses_its_objects_only_when_that_lasts() {
    let mut c = Cluster::new();
    let entries = c.entries;
    c.list(entries, &[entry("a", 1, json!({}))]);
    assert_eq!(c.fail(entries, Trouble::NotServed), ["! kube:serviceentries CrdMissing"]);
    assert!(c.fail(entries, Trouble::NotServed).is_empty());
    assert_eq!(c.fail(entries, Trouble::NotServed), ["- ServiceEntry shop/a"]);
    let told = c.list(entries, &[entry("a", 1, json!({}))]);
    assert_eq!(told, ["! kube:serviceentries ", "+ ServiceEntry shop/a@1"]);
}

#[test]
fn a_node_that_does_not_exist_is_a_problem_until_it_does() {
    let mut c = Cluster::new();
    let nodes = c.nodes;
    assert_eq!(c.list(nodes, &[node("n2", 2)]), ["+ Node n2@2", "- Node n1", "! kube:nodes NodeUnknown"]);
    assert_eq!(c.apply(nodes, &node("n1", 3)), ["+ Node n1@3", "! kube:nodes "]);
}

#[test]
fn an_object_that_cannot_be_read_is_a_problem_of_its_own() {
    let mut c = Cluster::new();
    let entries = c.entries;
    c.list(entries, &[entry("a", 1, json!({}))]);
    let mut bad = entry("a", 2, json!({}));
    bad.1["spec"]["hosts"] = json!("one.com");
    let told = c.apply(entries, &bad);
    assert_eq!(told, ["- ServiceEntry shop/a", "! kube:serviceentries/shop/a WrongType"]);
    bad.1["metadata"]["resourceVersion"] = json!("3");
    bad.1["spec"] = json!({ "host": [] });
    let told = c.apply(entries, &bad);
    assert_eq!(told, ["+ ServiceEntry shop/a@3", "! kube:serviceentries/shop/a UnknownField"]);
    let told = c.take(entries, What::Deleted(reference(Kind::ServiceEntry, "a")));
    assert_eq!(told, ["- ServiceEntry shop/a", "! kube:serviceentries/shop/a "]);
}

#[test]
fn a_problem_says_since_when_and_does_not_change_while_it_lasts() {
    let mut c = Cluster::new();
    let (entries, own) = (c.entries, c.own_pods);
    c.fail(entries, away());
    let message = |c: &Cluster| c.state.told_faults["kube"][0].message.clone();
    let first = message(&c);
    assert_eq!(
        first,
        "the API server does not answer (refused), since 1970-01-01T00:00:05Z; what it said before stays in use"
    );
    assert!(c.fail(entries, Trouble::Unreachable { cause: "closed".to_owned() }).is_empty());
    assert!(c.fail(own, away()).is_empty());
    assert_eq!(message(&c), first);
}

#[test]
fn a_missing_rule_is_named() {
    let mut c = Cluster::new();
    let (entries, own) = (c.entries, c.own_pods);
    let forbidden = || Trouble::Forbidden { user: Some("ServiceAccount kmesh/agent".to_owned()) };
    c.fail(entries, forbidden());
    c.fail(own, forbidden());
    let message = |origin: &str| c.state.told_faults[origin][0].message.as_str();
    assert_eq!(
        message("kube:serviceentries"),
        "ServiceAccount kmesh/agent may not watch serviceentries, so ServiceEntries are not seen; add {apiGroups: \
         [networking.istio.io], resources: [serviceentries], verbs: [list, watch]} to its ClusterRole"
    );
    assert!(
        message("kube:pods").contains("add {apiGroups: [\"\"], resources: [pods], verbs: [list, watch]}")
    );
}

#[test]
fn a_resource_that_a_cluster_may_be_without_is_no_problem() {
    for interest in
        [Interest::Node { name: "n1".to_owned(), waypoints: None }, Interest::Waypoints("kmesh".to_owned())]
    {
        let mut state = State::new(&interest);
        let routes = state.follow(Collection::HttpRoutes).0;
        let mut c = Cluster { state, nodes: routes, entries: routes, own_pods: routes, seconds: 0 };
        assert_eq!(c.fail(routes, Trouble::NotServed), Vec::<String>::new());
        assert_eq!(c.state.sync(), Some(Event::Synced));
        assert_eq!(c.list(routes, &[(Kind::HttpRoute, object("r", 1, "shop"))]), ["+ HTTPRoute shop/r@1"]);
        // It goes with its objects.
        let told: Vec<_> = (0..GONE).flat_map(|_| c.fail(routes, Trouble::NotServed)).collect();
        assert_eq!(told, ["- HTTPRoute shop/r"]);
        // Who may not read it is told of that.
        assert_eq!(c.fail(routes, Trouble::Forbidden { user: None }), ["! kube:httproutes Forbidden"]);
    }
}
