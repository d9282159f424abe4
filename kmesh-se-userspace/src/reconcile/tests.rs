//! The whole path from objects to maps and names, without a kernel.

mod addresses;
mod changes;
mod demand;
mod failures;
mod generated;
mod scenarios;
mod timeline;
mod uses;
mod waypoints;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{Ipv4Net, Ipv6Net};
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::{
    desired::{LeaseLimits, Scope, User, VipRanges},
    dns::{Client, Found, NameTable, Search},
    model::{Addresses, HostName, Kind, Namespace, Object, ObjectRef, Parsed, Place, parse},
    sink::{Capacities, Sink, memory::MemoryMaps},
    source::Event,
};

/// Two addresses of each family.
const DYNAMIC: VipRanges = VipRanges {
    v4: Ipv4Net::new_assert(Ipv4Addr::new(240, 241, 0, 0), 30),
    v6: Ipv6Net::new_assert(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 126),
};
const LIMITS: LeaseLimits = LeaseLimits { names: 2, idle: SignedDuration::from_secs(600) };

/// A reconciler with what it asked for.
struct Node {
    reconciler: Reconciler<MemoryMaps>,
    names: Arc<NameTable>,
    /// The names that a resolver would work on.
    wanted: BTreeSet<HostName>,
    /// Those that it lets rest.
    resting: BTreeSet<HostName>,
    /// Whether clients have asked for every host as soon as it is there.
    asks: bool,
    now: Timestamp,
}

/// What a step asked for and touched.
#[derive(Debug, Default, PartialEq, Eq)]
struct Effects {
    want: BTreeSet<HostName>,
    rest: BTreeSet<HostName>,
    unwant: BTreeSet<HostName>,
    must_save: bool,
    hosts: BTreeSet<HostName>,
}

impl Node {
    fn new() -> Self {
        Self::with(Capacities::default(), VipRanges::default())
    }

    fn with(capacities: Capacities, ranges: VipRanges) -> Self {
        let names = Arc::new(NameTable::default());
        let sink = Sink::new(MemoryMaps::new(capacities), capacities);
        let leases = Leases::new(DYNAMIC, LIMITS);
        let reconciler = Reconciler::new(sink, VipPool::new(ranges), leases, names.clone());
        Self {
            reconciler,
            names,
            wanted: BTreeSet::new(),
            resting: BTreeSet::new(),
            asks: true,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn at(place: Place, ranges: VipRanges) -> Self {
        let mut node = Self::with(Capacities::default(), ranges);
        node.reconciler = node.reconciler.at(place);
        node
    }

    /// With names in use and addresses that an earlier agent remembered, and empty maps.
    fn restarted(leases: Leases, remembered: &[(&str, &[&str])]) -> Self {
        let mut node = Self::new();
        let sink = Sink::new(MemoryMaps::new(Capacities::default()), Capacities::default());
        let vips = VipPool::new(VipRanges::default());
        let addresses = |(name, texts): &(&str, &[&str])| (HostName::new(name), addresses(texts));
        node.reconciler = Reconciler::new(sink, vips, leases, node.names.clone())
            .taking_over(remembered.iter().map(addresses).collect(), true);
        node
    }

    fn apply(&mut self, yaml: &str) {
        objects(yaml).into_iter().for_each(|object| self.reconciler.event(Event::Apply(object)));
    }

    fn delete(&mut self, name: &str) {
        self.reconciler.event(Event::Delete(ObjectRef {
            kind: Kind::ServiceEntry,
            namespace: Namespace::default(),
            name: name.into(),
        }));
    }

    /// What the agent's loop does.
    fn step(&mut self) {
        drop(self.effects());
    }

    /// The same, with what it asks for.
    fn effects(&mut self) -> Effects {
        assert!(self.reconciler.is_dirty(), "there is nothing to do");
        for host in self.reconciler.snapshot().hosts().filter(|_| self.asks).cloned().collect::<Vec<_>>() {
            self.reconciler.use_host(&host, self.now);
        }
        let step = self.reconciler.prepare(self.now);
        let effects = Effects {
            want: step.want.clone(),
            rest: step.rest.clone(),
            unwant: step.unwant.clone(),
            must_save: step.must_save,
            hosts: step.touched.keys().cloned().collect(),
        };
        assert!(effects.want.is_disjoint(&self.wanted), "wanted twice: {effects:?}");
        assert!(step.rest.is_subset(&self.wanted), "never wanted: {step:?}");
        let known = &self.wanted | &self.resting;
        assert!(effects.unwant.is_subset(&known), "never wanted: {effects:?}");
        self.wanted.retain(|name| !effects.unwant.contains(name) && !step.rest.contains(name));
        self.wanted.extend(effects.want.iter().cloned());
        self.resting.extend(step.rest.iter().cloned());
        self.resting.retain(|name| !effects.unwant.contains(name) && !effects.want.contains(name));
        self.reconciler.commit(step);
        assert!(!self.reconciler.is_dirty());
        effects
    }

    fn answer(&mut self, name: &str, addresses: &[&str]) {
        self.one_family(name, addresses);
        self.reconciler.completed(&HostName::new(name));
    }

    /// The other one has not been answered yet.
    fn one_family(&mut self, name: &str, addresses: &[&str]) {
        self.reconciler.resolved(HostName::new(name), self::addresses(addresses));
    }

    fn look_up(&self, namespace: &str, name: &str) -> Found {
        self.names.lookup(Client::of(&Namespace::new(namespace), &Search::default()), &HostName::new(name))
    }

    /// What a client of `namespace` is answered: the addresses of both families; none when the name is not ours.
    fn query(&self, namespace: &str, name: &str) -> Vec<String> {
        match self.look_up(namespace, name) {
            Found::OnDemand { .. } | Found::NotOurs => Vec::new(),
            Found::Ours { view, .. } => {
                let answered = view
                    .vips
                    .iter()
                    .filter(|vip| if vip.is_ipv4() { view.answers_v4 } else { view.answers_v6 });
                answered.map(ToString::to_string).collect()
            }
        }
    }

    /// `* 240.240.0.1:80 TCP -> 10.0.0.1:80 10.0.0.2:80*3`
    fn frontends(&self) -> Vec<String> {
        let actual = self.reconciler.sink().actual();
        let mut lines: Vec<_> = actual
            .frontends
            .iter()
            .map(|(frontend, key)| {
                let backends = actual.backends_of(key);
                let backends = backends.iter().map(|b| {
                    let at = std::net::SocketAddr::new(b.address, b.port);
                    if b.weight == 1 { format!(" {at}") } else { format!(" {at}*{}", b.weight) }
                });
                let at = frontend.address.with_port(frontend.port);
                let transport = format!("{:?}", frontend.transport).to_uppercase();
                format!("{} {at} {transport} ->{}", frontend.scope, backends.collect::<String>())
            })
            .collect();
        lines.sort();
        lines
    }

    fn failures(&self) -> Vec<(String, &'static str)> {
        self.reconciler.report().failures().map(|(host, reason, _)| (host.to_string(), reason)).collect()
    }

    fn assert_empty(&self) {
        assert_eq!(*self.reconciler.sink().actual(), crate::desired::Tables::default());
        assert!(self.reconciler.sink().maps().is_empty());
        for usage in self.reconciler.sink().usage() {
            assert_eq!(usage.used, 0, "{}", usage.name);
        }
        assert_eq!((&self.wanted, &self.resting), (&BTreeSet::new(), &BTreeSet::new()));
        assert_eq!(self.reconciler.resolution().len(), 0);
        assert_eq!(self.reconciler.vips().iter().count(), 0);
        assert_eq!(self.reconciler.leases().iter().count(), 0);
        assert_eq!(self.reconciler.waypoints().ports().iter().count(), 0);
        assert_eq!(self.failures(), []);
        assert_eq!(self.reconciler.report().objects().count(), 0);
    }
}

fn user(namespace: &str) -> User {
    User::of(Namespace::new(namespace))
}

fn addresses(texts: &[&str]) -> Addresses {
    let mut found = Addresses::default();
    for text in texts {
        match text.parse().expect("an address") {
            IpAddr::V4(v4) => found.v4.push(v4),
            IpAddr::V6(v6) => found.v6.push(v6),
        }
    }
    found
}

fn objects(yaml: &str) -> Vec<Object> {
    let parsed = parse(yaml.as_bytes()).into_iter().map(|item| match item {
        Parsed::Object { object, .. } => object,
        other => panic!("not an object: {other:?}"),
    });
    parsed.collect()
}

/// A ServiceEntry of the default namespace with port 80 and `spec` besides.
fn entry(name: &str, host: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
         spec:\n  hosts: [{host}]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  {spec}\n"
    )
}

/// A STATIC entry with one endpoint.
fn fixed(name: &str, host: &str, address: &str) -> String {
    entry(name, host, &format!("resolution: STATIC\n  endpoints: [{{address: {address}}}]"))
}

/// A DNS entry with endpoints at `names`, written as `x.net, y.net`.
fn named(name: &str, host: &str, names: &str) -> String {
    let endpoints: Vec<_> = names.split(", ").map(|n| format!("{{address: {n}}}")).collect();
    entry(name, host, &format!("resolution: DNS\n  endpoints: [{}]", endpoints.join(", ")))
}
