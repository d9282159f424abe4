//! `tests/scenarios/*.yaml`: objects and DNS answers in one file with what must come of them, in any order of arrival.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, str::FromStr as _};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
use serde::Deserialize;

use super::{
    timeline::{Then, Timeline},
    *,
};
use crate::{
    desired::{PortPool, Unavailable},
    dns::{self, Decision, Transport, Waited},
    model::{Issue, Place},
    sink::{Enrolment, memory::Outcome},
};

/// One file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    /// The objects, as a user writes them.
    objects: String,
    /// Where the node is.
    #[serde(default)]
    locality: Option<String>,
    /// What the node is called.
    #[serde(default)]
    node: String,
    /// Where virtual addresses come from.
    #[serde(default)]
    ranges: VipRanges,
    /// Whether hosts wait for an address that somebody else gives them, as in a cluster.
    #[serde(default)]
    waits_for_address: bool,
    /// The waypoints of the node; none are served without.
    #[serde(default)]
    waypoints: Option<Served>,
    /// Namespace -> the names that its clients ask for one after the other, when all objects are there.
    #[serde(default)]
    asks: BTreeMap<String, Vec<String>>,
    /// The answers: name -> addresses. A name that is not here is never answered.
    #[serde(default)]
    dns: BTreeMap<String, Vec<String>>,
    /// Whether nobody asks for hosts but by what is written here; else clients ask for all that there are.
    #[serde(default)]
    unasked: bool,
    expect: Expect,
    /// What happens after that, one after the other.
    #[serde(default)]
    then: Vec<Then>,
}

/// The waypoints of a node.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Served {
    /// Where their listeners are.
    at: Vec<IpAddr>,
    /// The ports that they may have.
    ports: String,
    /// Whether connections go past a waypoint that is not there.
    #[serde(default)]
    direct: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    /// `SCOPE ADDRESS:PORT TRANSPORT -> BACKEND…`; a backend's weight is written unless it is 1.
    #[serde(default)]
    frontends: Vec<String>,
    /// Namespace -> `ADDRESS:PORT` -> what a stream of a client of it meets: `passes`, `refused`, `no backend`, or the
    /// backends.
    #[serde(default)]
    connects: BTreeMap<String, BTreeMap<SocketAddr, String>>,
    /// Namespace -> name -> the addresses that a client of it is answered; none: it is left to the resolver.
    #[serde(default)]
    names: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// Namespace -> `NAME TYPE` -> the records that a query of a client of it is answered, as `TTL TYPE DATA`, addresses
    /// sorted; or `forwarded` alone. When nothing is left, all of them are forwarded.
    #[serde(default)]
    answers: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// Object -> the reasons why it is rejected.
    #[serde(default)]
    rejected: BTreeMap<String, Vec<String>>,
    /// Object -> what it is warned of; when there is anything here, it is all.
    #[serde(default)]
    warned: BTreeMap<String, Vec<String>>,
    /// Client namespace -> entry and host -> the reasons of its conditions besides `Accepted`. What is not listed has none.
    #[serde(default)]
    conditions: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// The names that are resolved.
    #[serde(default)]
    resolved: Vec<String>,
    /// Host -> why it is not served.
    #[serde(default)]
    failures: BTreeMap<String, String>,
}

#[test]
fn every_scenario_ends_as_it_says_in_any_order_and_leaves_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios");
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("the folder of scenarios").map(|f| f.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= 120, "only {} scenarios were found", files.len());
    for file in files {
        let text = fs::read_to_string(&file).expect("a scenario");
        let name = file.file_stem().expect("a name").to_string_lossy();
        let scenario: Scenario = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut objects = objects(&scenario.objects);
        let run = |objects: &[Object], order: &str| {
            scenario.run(objects, &format!("{name}, {order}"));
            if !scenario.then.is_empty() {
                scenario.run_over_time(objects, &format!("{name}, {order}, over time"));
            }
            scenario.run_one_by_one(objects, &format!("{name}, {order}, one by one"));
        };
        run(&objects, "as written");
        objects.reverse();
        run(&objects, "reversed");
        for seed in 0..5 {
            objects.shuffle(&mut SmallRng::seed_from_u64(seed));
            run(&objects, &format!("shuffled with {seed}"));
        }
    }
}

impl Scenario {
    /// All objects are told before the first step, as at start.
    fn run(&self, objects: &[Object], what: &str) {
        let mut node = self.node();
        for object in objects {
            node.reconciler.event(Event::Apply(object.clone()));
        }
        node.reconciler.event(Event::Synced);
        node.step_if_dirty();
        self.answer(&mut node);
        self.ask(&mut node);
        self.expect.check(&node, what);
        self.expect.connect(&mut node, what);
        // In the same order: what came first goes first.
        for object in objects {
            node.reconciler.event(Event::Delete(object.object_ref()));
        }
        node.step_if_dirty();
        self.check_gone(&node, what);
    }

    /// The same by the real schedule of queries, and what comes after.
    fn run_over_time(&self, objects: &[Object], what: &str) {
        let (mut node, mut time) = (self.node(), Timeline::new(&self.dns));
        for object in objects {
            node.reconciler.event(Event::Apply(object.clone()));
        }
        node.reconciler.event(Event::Synced);
        time.settle(&mut node);
        time.ask(&mut node, &self.asks);
        self.expect.check(&node, what);
        let mut all: BTreeSet<_> = objects.iter().map(Object::object_ref).collect();
        for (number, then) in self.then.iter().enumerate() {
            time.play(&mut node, then);
            time.check(&mut node, then, &format!("{what}, then {}", number + 1));
            all.extend(super::objects(&then.apply).iter().map(Object::object_ref));
        }
        all.into_iter().for_each(|object| node.reconciler.event(Event::Delete(object)));
        time.settle(&mut node);
        self.check_gone(&node, what);
    }

    /// A step for each object. Where addresses are allocated they depend on the order, but all must go well and nothing be left.
    fn run_one_by_one(&self, objects: &[Object], what: &str) {
        let mut node = self.node();
        for object in objects {
            node.reconciler.event(Event::Apply(object.clone()));
            node.step_if_dirty();
            self.answer(&mut node);
        }
        self.ask(&mut node);
        let is_allocated =
            |row: &String| ["240.24", "[2001:2:", "[100:"].iter().any(|start| row.contains(start));
        if self.expect.frontends.iter().any(is_allocated) {
            assert!(!node.frontends().is_empty(), "{what}");
        } else {
            self.expect.check(&node, what);
        }
        for object in objects.iter().rev() {
            node.reconciler.event(Event::Delete(object.object_ref()));
            node.step_if_dirty();
        }
        self.check_gone(&node, what);
    }

    fn node(&self) -> Node {
        let locality = self.locality.as_deref().map(|text| text.parse().expect("a locality"));
        let place = Place { locality: locality.unwrap_or_default(), node: self.node.clone() };
        let mut node = Node::at(place, self.ranges);
        node.asks = !self.unasked;
        let unavailable = |direct| if direct { Unavailable::Direct } else { Unavailable::Refuse };
        let waypoints = self.waypoints.as_ref().map(|served| {
            let ports = PortPool::new(served.ports.parse().expect("a range of ports"));
            Waypoints::at(served.at.clone(), ports, unavailable(served.direct))
        });
        let reconciler = node.reconciler.allocating(!self.waits_for_address);
        node.reconciler = reconciler.through(waypoints.unwrap_or_default());
        node
    }

    fn ask(&self, node: &mut Node) {
        for (namespace, names) in &self.asks {
            for name in names {
                node.reconciler.demand(&HostName::new(name), &user(namespace), node.now);
                node.step_if_dirty();
                self.answer(node);
            }
        }
    }

    fn answer(&self, node: &mut Node) {
        for name in node.wanted.clone() {
            if let Some(addresses) = self.dns.get(name.as_str()) {
                let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
                node.answer(name.as_str(), &addresses);
                node.step_if_dirty();
            }
        }
    }

    fn check_gone(&self, node: &Node, what: &str) {
        node.assert_empty();
        for (namespace, names) in &self.expect.names {
            for name in names.keys() {
                assert!(
                    node.query(namespace, name).is_empty(),
                    "{what}: {name} is still answered in {namespace}"
                );
            }
        }
        for (namespace, queries) in &self.expect.answers {
            for query in queries.keys() {
                assert_eq!(node.reply(namespace, query), ["forwarded"], "{what}: {query} in {namespace}");
            }
        }
    }
}

impl Expect {
    /// Whether a node is so.
    pub(super) fn check(&self, node: &Node, what: &str) {
        let mut frontends = self.frontends.clone();
        frontends.sort();
        assert_eq!(node.frontends(), frontends, "{what}: frontends");
        assert_eq!(
            node.reconciler.sink().maps().frontends().count(),
            frontends.len(),
            "{what}: frontends in the maps"
        );
        for (namespace, names) in &self.names {
            for (name, addresses) in names {
                assert_eq!(node.query(namespace, name), *addresses, "{what}: {name} in {namespace}");
            }
        }
        for (namespace, queries) in &self.answers {
            for (query, records) in queries {
                assert_eq!(node.reply(namespace, query), *records, "{what}: {query} in {namespace}");
            }
        }
        let told = |issues: fn(&ObjectReport) -> &Vec<Issue>| -> BTreeMap<String, Vec<String>> {
            let objects = node.reconciler.report().objects().filter(|(_, said)| !issues(said).is_empty());
            let reasons = |said| issues(said).iter().map(|issue| issue.reason.to_owned()).collect();
            objects.map(|(o, said)| (format!("{}/{}", o.namespace, o.name), reasons(said))).collect()
        };
        assert_eq!(told(|said| &said.errors), self.rejected, "{what}: rejected");
        if !self.warned.is_empty() {
            assert_eq!(told(|said| &said.warnings), self.warned, "{what}: warned");
        }
        for (namespace, expected) in &self.conditions {
            assert_eq!(node.conditions(namespace), *expected, "{what}: conditions for {namespace}");
        }
        let resolved: Vec<_> = node.wanted.iter().map(ToString::to_string).collect();
        assert_eq!(resolved, self.resolved, "{what}: resolved names");
        let failures = self.failures.iter().map(|(host, reason)| (host.clone(), reason.as_str()));
        assert_eq!(node.failures(), failures.collect::<Vec<_>>(), "{what}");
    }

    /// Whether its clients meet what is expected.
    pub(super) fn connect(&self, node: &mut Node, what: &str) {
        for (namespace, connects) in &self.connects {
            let enrolment = Enrolment { level: 1, namespace: Some(Namespace::new(namespace)), dns_port: 0 };
            node.reconciler.sink_mut().enrol(1, enrolment).expect("there is room");
            for (to, expected) in connects {
                let met = match node.reconciler.sink().maps().connect(1, to.ip(), to.port(), 6) {
                    Outcome::Passes => "passes".to_owned(),
                    Outcome::Refused => "refused".to_owned(),
                    Outcome::NoBackend => "no backend".to_owned(),
                    Outcome::Sorts(all) => panic!("a stream is led to {all:?}"),
                    Outcome::Backends(all) => {
                        let all = all.iter().map(|(ip, port)| SocketAddr::new(*ip, *port).to_string());
                        all.collect::<Vec<_>>().join(" ")
                    }
                };
                assert_eq!(met, *expected, "{what}: {namespace} to {to}");
            }
            node.reconciler.sink_mut().unenrol(1).expect("memory does not fail");
        }
    }
}

impl Node {
    /// What the query `NAME TYPE` of a client of `namespace` gets from the DNS server.
    fn reply(&self, namespace: &str, query: &str) -> Vec<String> {
        let (name, record_type) = query.split_once(' ').expect("NAME TYPE");
        let question = Query::query(
            Name::from_ascii(name).expect("a name"),
            RecordType::from_str(record_type).expect("a type"),
        );
        let mut message = Message::query();
        message.add_query(question);
        let bytes = message.to_vec().expect("a query");
        let (namespace, search) =
            (Namespace::new(namespace), Search::new(Some(HostName::new("cluster.local")), []));
        let client = Client::of(&namespace, &search);
        let reply = match dns::answer(&self.names, client, Transport::Udp, &bytes, Waited::ToTheEnd) {
            Decision::Reply(reply) => Message::from_vec(&reply).expect("a reply"),
            Decision::Forward => return vec!["forwarded".to_owned()],
            other => panic!("{query}: {other:?}"),
        };
        assert_eq!(reply.response_code, ResponseCode::NoError, "{query}");
        assert!(reply.authoritative && reply.recursion_available, "{query}");
        let mut records: Vec<_> =
            reply.answers.iter().map(|r| format!("{} {} {}", r.ttl, r.record_type(), r.data)).collect();
        // Addresses are shuffled; an alias stays in front.
        records.sort_by_key(|record| (!record.contains(" CNAME "), record.clone()));
        records
    }

    /// What a plan for `namespace` says of each host of each entry, besides that it is accepted.
    fn conditions(&self, namespace: &str) -> BTreeMap<String, Vec<String>> {
        let at = &self.reconciler;
        let known = Known {
            snapshot: at.snapshot(),
            resolved: at.resolution(),
            vips: at.vips(),
            waypoints: at.waypoints(),
        };
        let plan = desired::plan(known, at.leases(), &Namespace::new(namespace));
        let mut found = BTreeMap::new();
        for service in plan.services {
            let reasons = service.conditions.iter().map(|c| c.reason.to_owned()).filter(|r| r != "Accepted");
            let reasons: Vec<_> = reasons.collect();
            if !reasons.is_empty() {
                found.insert(format!("{}/{} {}", service.namespace, service.name, service.host), reasons);
            }
        }
        found
    }

    fn step_if_dirty(&mut self) {
        if self.reconciler.is_dirty() {
            self.step();
        }
    }
}
