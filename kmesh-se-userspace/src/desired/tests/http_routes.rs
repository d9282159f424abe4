//! What a waypoint is told of requests, by HTTPRoutes.

use std::collections::BTreeSet;

use super::*;
use crate::model::{Parsed, PathMatch, RoutedTo, parse, validate};

/// Entries, bound to a waypoint, and routes as they are written.
struct World {
    snapshot: Snapshot,
    /// What Envoy said of port 80 of `a.com` when it refused it, if it did.
    refusal: Option<&'static str>,
}

impl World {
    fn new(objects: &str) -> Self {
        let mut world = Self { snapshot: Snapshot::default(), refusal: None };
        world.apply(ENTRIES);
        world.apply(objects);
        world
    }

    /// Returns the hosts that are touched.
    fn apply(&mut self, objects: &str) -> Vec<String> {
        let mut touched = BTreeSet::new();
        for parsed in parse(objects.as_bytes()) {
            let Parsed::Object { object, .. } = parsed else { panic!("not an object: {parsed:?}") };
            let judgement = validate(&object);
            let accepted = judgement.accepted.unwrap_or_else(|| panic!("{:?}", judgement.errors));
            touched.extend(self.snapshot.apply(accepted));
        }
        touched.iter().map(ToString::to_string).collect()
    }

    fn built(&self) -> HostDesired {
        self.ask(|known| host(known, &HostName::new("a.com")))
    }

    fn ask<T>(&self, question: impl FnOnce(Known<'_>) -> T) -> T {
        let mut pool = VipPool::new(VipRanges::default());
        pool.restore(&HostName::new("a.com"), first_vips());
        let mut ports = PortPool::new(PortRange::default());
        let service = ServiceKey {
            host: HostName::new("a.com"),
            entry: object_ref(Kind::ServiceEntry, "default/a"),
            port: 80,
        };
        ports.ensure(&service, true, Timestamp::UNIX_EPOCH).expect("a port");
        let mut waypoints = Waypoints::at(vec![ip("10.9.9.9")], ports, Unavailable::Refuse);
        let refused = self.refusal.map(|why| (service, why.to_owned()));
        waypoints.set_listeners(BTreeSet::new(), refused.into_iter().collect());
        let resolved = resolved(&[("x.net", &["10.0.0.9"])]);
        let known =
            Known { snapshot: &self.snapshot, resolved: &resolved, vips: &pool, waypoints: &waypoints };
        question(known)
    }

    /// What the one route is told of its parent.
    fn conditions(&self) -> Vec<String> {
        let route = self.snapshot.routes().next().expect("a route");
        let conditions = self.ask(|known| route_conditions(known, route, &route.parents[0]));
        conditions
            .into_iter()
            .map(|c| format!("{} {} {}: {}", c.kind, c.status, c.reason, c.message))
            .collect()
    }

    /// What port 80 of `a.com` is to become.
    fn http(&self) -> HttpRules {
        let built = self.built();
        let bound =
            built.bound.iter().find(|(service, _)| service.port == 80).map(|(_, bound)| bound.clone());
        bound.expect("it is bound").http
    }

    /// Each rule: its path, and where it leads.
    fn told(&self) -> Vec<String> {
        let path = |path: &PathMatch| match path {
            PathMatch::Exact(text) => format!("={text}"),
            PathMatch::Prefix(text) => format!("{text}/"),
            PathMatch::Regex(text) => format!("~{text}"),
        };
        let to = |to: &RoutedTo| match to {
            RoutedTo::Itself => "itself".to_owned(),
            RoutedTo::Other(name) => name.to_string(),
            RoutedTo::Nobody => "nobody".to_owned(),
        };
        let rule = |rule: &crate::model::RoutedRule| {
            let to: Vec<_> = rule.to.iter().map(to).collect();
            format!("{} -> {}", path(&rule.when.path), to.join(" "))
        };
        self.http().rules.iter().map(rule).collect()
    }
}

const ENTRIES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, namespace: default, labels: {istio.io/use-waypoint: way}}
spec:
  hosts: [a.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: more, protocol: HTTP}, {number: 90, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 10.0.0.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: b, namespace: default}
spec:
  hosts: [b.com]
  ports: [{number: 8080, name: http, protocol: HTTP2}]
  resolution: DNS
  endpoints: [{address: x.net}]
";

/// A route of `a` with these rules.
fn route(name: &str, age: u8, rules: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: default, creationTimestamp: '2026-01-0{age}T00:00:00Z'}}
spec:
  parentRefs: [{{group: networking.istio.io, kind: ServiceEntry, name: a, port: 80}}]
  rules: [{rules}]
"
    )
}

fn to(path: &str, backends: &[&str]) -> String {
    format!("{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{}]}}", backends.join(", "))
}

const ITSELF: &str = "{group: networking.istio.io, kind: ServiceEntry, name: a, port: 80}";
const B: &str = "{group: networking.istio.io, kind: ServiceEntry, name: b, port: 8080}";
const B_HOST: &str = "{group: networking.istio.io, kind: Hostname, name: b.com, port: 8080}";
const SERVICE: &str = "{name: web, port: 80}";

#[test]
fn rules_of_all_routes_are_in_one_order_and_the_older_route_wins_a_tie() {
    let young = route("young", 2, &[to("/", &[B]), to("/x", &[ITSELF])].join(", "));
    let old = route("old", 1, &to("/", &[ITSELF]));
    let world = World::new(&format!("{young}{old}"));
    assert_eq!(world.told(), ["/x/ -> itself", "/ -> itself", "/ -> default/b|b.com|8080"]);
    assert_eq!(world.http().routes, ["default/old", "default/young"]);
    assert!(World::new("").http().rules.is_empty());
}

#[test]
fn a_route_is_of_the_ports_that_its_parent_names_and_that_carry_requests() {
    let world = World::new(&route("r", 1, &to("/", &[B])));
    let routed = |world: &World| -> Vec<u16> {
        let built = world.built();
        built.bound.iter().filter(|(_, b)| !b.http.rules.is_empty()).map(|(s, _)| s.port).collect()
    };
    assert_eq!(routed(&world), [80]);
    let all = route("r", 1, &to("/", &[B])).replace(", port: 80}]\n  rules", "}]\n  rules");
    assert_eq!(routed(&World::new(&all)), [80, 81], "TCP is not read");
    let named =
        route("r", 1, &to("/", &[B])).replace(", port: 80}]\n  rules", ", sectionName: more}]\n  rules");
    assert_eq!(routed(&World::new(&named)), [81]);
}

#[test]
fn backends_are_entries_hosts_and_services_as_they_are_found() {
    let world = World::new(&route("r", 1, &to("/", &[ITSELF, B, B_HOST, SERVICE])));
    let b = "default/b|b.com|8080";
    assert_eq!(world.told(), [format!("/ -> itself {b} {b} web.default.svc.cluster.local|80")]);
    let http = world.http();
    assert_eq!(http.problems, BTreeSet::new());
    let other = &http.others[b];
    assert_eq!(
        (other.protocol, other.upstream.to_strings()),
        (Protocol::Http2, vec!["x.net:8080".to_owned()])
    );
    let names = desired_names(&world);
    assert!(
        names.contains(&HostName::new("x.net")),
        "what is routed to is resolved as what is dialled: {names:?}"
    );
}

fn desired_names(world: &World) -> BTreeSet<HostName> {
    crate::desired::wanted_names(&world.snapshot, &HostName::new("a.com"))
}

#[test]
fn what_leads_nowhere_is_nobody_and_comes_back_when_it_is_there() {
    let none = "{group: networking.istio.io, kind: ServiceEntry, name: c, port: 80}";
    let port = "{group: networking.istio.io, kind: ServiceEntry, name: b, port: 1}";
    let elsewhere = "{group: networking.istio.io, kind: ServiceEntry, name: b, namespace: other, port: 8080}";
    let mut world = World::new(&route("r", 1, &to("/", &[none, port, elsewhere])));
    assert_eq!(world.told(), ["/ -> nobody nobody nobody"]);
    let problems: Vec<_> = world.http().problems.into_iter().map(|(_, message)| message).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].contains("there is no ServiceEntry default/c"), "{problems:?}");

    let c = ENTRIES.replace("name: b,", "name: c,").replace("b.com", "c.com").replace("8080", "80");
    let touched = world.apply(c.split("---").nth(1).expect("the second"));
    assert_eq!(touched, ["a.com", "c.com"], "a.com is built again");
    assert_eq!(world.told(), ["/ -> default/c|c.com|80 nobody nobody"]);
}

#[test]
fn a_service_of_a_known_cluster_has_to_be_there() {
    let mut world = World::new(&route("r", 1, &to("/", &[SERVICE])));
    assert_eq!(world.told(), ["/ -> web.default.svc.cluster.local|80"], "a folder does not know");
    let service = |name: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n")
    };
    assert!(world.apply(&service("other")).contains(&"a.com".to_owned()));
    assert_eq!(world.told(), ["/ -> nobody"]);
    assert!(world.apply(&service("web")).contains(&"a.com".to_owned()));
    assert_eq!(world.told(), ["/ -> web.default.svc.cluster.local|80"]);
}

#[test]
fn a_change_of_a_route_or_of_whom_it_leads_to_touches_its_entry_only() {
    let mut world = World::new(&route("r", 1, &to("/", &[B])));
    assert_eq!(world.apply(&route("r", 1, &to("/", &[B]))), Vec::<String>::new(), "as it was");
    assert_eq!(world.apply(&route("r", 1, &to("/x", &[B]))), ["a.com"]);
    let moved = ENTRIES.split("---").nth(1).expect("b").replace("x.net", "y.net");
    assert_eq!(world.apply(&moved), ["a.com", "b.com"]);
    let gone = world.snapshot.remove(&object_ref(Kind::HttpRoute, "default/r"));
    assert_eq!(gone.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a.com"]);
    assert!(world.http().rules.is_empty());
}

#[test]
fn a_route_is_told_whether_requests_go_as_it_says_and_whom_it_does_not_find() {
    const WELL: &str = "ResolvedRefs True ResolvedRefs: all are there that it leads to";
    let of = |ports: &str, backend: &str| {
        let route = route("r", 1, &to("/", &[backend]))
            .replace(", port: 80}]\n  rules", &format!("{ports}}}]\n  rules"));
        World::new(&route)
    };
    let followed = "requests to port 80 go as HTTPRoute default/r says, once they go through the waypoint";
    assert_eq!(of(", port: 80", B).conditions(), [&format!("Accepted True Accepted: {followed}"), WELL]);
    let everywhere = of("", B).conditions();
    assert!(everywhere[0].starts_with(&format!("Accepted True Accepted: {followed}")), "{everywhere:?}");
    assert!(everywhere[0].ends_with("HTTPRoute default/r: port 90 is not of HTTP, so nothing is read there"));
    let carried = of(", port: 90", B).conditions();
    assert!(carried.len() == 1 && carried[0].starts_with("Accepted False RouteNeedsHttp: "), "{carried:?}");
    assert_eq!(
        of(", port: 7", B).conditions(),
        ["Accepted False NoMatchingParent: ServiceEntry default/a has no such port"]
    );
    for (backend, reason) in [
        (B.replace("name: b", "name: c"), "BackendNotFound"),
        (B.replace("name: b", "name: b, namespace: other"), "RefNotPermitted"),
        (B.replace("kind: ServiceEntry", "kind: WorkloadEntry"), "InvalidKind"),
    ] {
        let conditions = of(", port: 80", &backend).conditions();
        assert_eq!(conditions[0], format!("Accepted True Accepted: {followed}"));
        let lacks =
            format!("ResolvedRefs False {reason}: spec.rules[0].backendRefs[0] of HTTPRoute default/r");
        assert!(conditions[1].starts_with(&lacks), "{conditions:?}");
    }
    let mut world = of(", port: 80", B);
    world.refusal = Some("too large");
    let refused = "Accepted False RouteRejected: the waypoint did not take HTTPRoute default/r: too large";
    assert_eq!(world.conditions(), [refused, WELL]);
    world.refusal = None;
    let unbound = ENTRIES.replace(", labels: {istio.io/use-waypoint: way}", "");
    world.apply(&unbound);
    assert!(world.conditions()[0].starts_with("Accepted False RouteNeedsWaypoint: "));
    world.snapshot.remove(&object_ref(Kind::ServiceEntry, "default/a"));
    assert_eq!(
        world.conditions(),
        ["Accepted False NoMatchingParent: ServiceEntry default/a is not there, or is rejected"]
    );
}
