//! What each entry loses of its hosts, over all views.
//!
//! In: the snapshot, entries. Out: for each entry to whom it loses, and for whose clients. Never: a decision, which
//! [`winner`](super::winner) makes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Scope,
    build::namespaces_with_views,
    winner::{self, Loss, Ruling},
};
use crate::model::{Entry, ExportTo, HostName, Namespace, Snapshot};

/// How many namespaces with a view of their own are looked at, beside the entry's own.
const OTHERS: usize = 4;

/// What an entry loses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loser {
    /// CamelCase code.
    pub reason: &'static str,
    /// Who gets what from whom instead.
    pub message: String,
}

/// Rulings on hosts, each found once: many entries may name one host.
#[derive(Debug)]
pub struct Losers<'a> {
    snapshot: &'a Snapshot,
    hosts: BTreeMap<HostName, Host<'a>>,
}

#[derive(Debug, Default)]
struct Host<'a> {
    views: BTreeSet<Namespace>,
    rulings: BTreeMap<Scope, Ruling<'a>>,
}

impl<'a> Losers<'a> {
    /// No host was looked at yet.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, hosts: BTreeMap::new() }
    }

    /// What `entry` does not serve although it lists it, the hosts in the order written.
    pub fn of(&mut self, entry: &Entry) -> Vec<Loser> {
        let mut seen = BTreeSet::new();
        let hosts = entry.hosts.iter().filter(|host| seen.insert(*host));
        hosts.flat_map(|host| self.of_host(host, entry)).collect()
    }

    fn of_host(&mut self, host: &HostName, entry: &Entry) -> Vec<Loser> {
        let snapshot = self.snapshot;
        let known = self.hosts.entry(host.clone()).or_insert_with(|| Host {
            views: namespaces_with_views(snapshot, host),
            rulings: BTreeMap::new(),
        });
        let own = &entry.object.namespace;
        let others =
            known.views.iter().filter(|namespace| *namespace != own && entry.is_visible_to(namespace));
        let own_view = entry.is_visible_to(own).then(|| Scope::Namespace(own.clone()));
        let mesh = (entry.export_to == ExportTo::All).then_some(Scope::Mesh);
        let others = others.take(OTHERS).cloned().map(Scope::Namespace);
        let scopes: Vec<_> = own_view.into_iter().chain(mesh).chain(others).collect();
        // Who gets the same from the same is told once.
        let mut found: Vec<(Loss, Vec<String>)> = Vec::new();
        for scope in scopes {
            let ruling = known.rulings.entry(scope.clone());
            let ruling = ruling.or_insert_with(|| winner::ruling(snapshot, host, &scope));
            let whom = match &scope {
                Scope::Mesh => "other namespaces".to_owned(),
                Scope::Namespace(namespace) => format!("namespace {namespace}"),
            };
            for loss in winner::losses(ruling, host, &scope, entry) {
                // Who wins elsewhere wins among its own as well.
                let is_same = |known: &Loss| {
                    *known == loss || (loss.reason == "OwnNamespaceWins" && known.winner == loss.winner)
                };
                match found.iter_mut().find(|(known, _)| is_same(known)) {
                    Some((_, whoms)) => whoms.push(whom.clone()),
                    None => found.push((loss, vec![whom.clone()])),
                }
            }
        }
        let told = |(loss, whom): (Loss, Vec<String>)| Loser {
            reason: loss.reason,
            message: loss.message(&few(&whom)),
        };
        found.into_iter().map(told).collect()
    }
}

/// The first of those who are meant: a number would change with every namespace that comes.
fn few(whom: &[String]) -> String {
    const SHOWN: usize = 3;
    match whom {
        [all @ .., last] if !all.is_empty() && whom.len() <= SHOWN => {
            format!("{} and {last}", all.join(", "))
        }
        _ if whom.len() > SHOWN => format!("{} and others", whom[..SHOWN].join(", ")),
        _ => whom.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Parsed, parse, validate};

    fn snapshot(objects: &str) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for parsed in parse(objects.as_bytes()) {
            let Parsed::Object { object, .. } = parsed else { panic!("{parsed:?}") };
            let judged = validate(&object);
            snapshot.apply(judged.accepted.unwrap_or_else(|| panic!("{:?}", judged.errors)));
        }
        snapshot
    }

    fn entry(namespace: &str, name: &str, day: u8, more: &str) -> String {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-0{day}T00:00:00Z'}}\n\
             spec: {{hosts: [a.test], resolution: STATIC, endpoints: [{{address: 10.0.0.1}}], {more}}}\n"
        )
    }

    /// What every entry loses, as `namespace/name: reason: message`.
    fn told(snapshot: &Snapshot) -> Vec<String> {
        let mut losers = Losers::new(snapshot);
        let mut all = Vec::new();
        for entry in snapshot.entries() {
            let own = losers.of(entry);
            // However many were asked for before.
            assert_eq!(Losers::new(snapshot).of(entry), own);
            let object = format!("{}/{}", entry.object.namespace, entry.object.name);
            all.extend(own.into_iter().map(|l| format!("{object}: {}: {}", l.reason, l.message)));
        }
        all
    }

    const HTTP: &str = "ports: [{number: 80, name: http, protocol: HTTP}]";

    #[test]
    fn each_loser_is_told_who_wins_and_for_whom() {
        let objects = entry("one", "young", 2, HTTP) + &entry("two", "old", 1, HTTP);
        assert_eq!(
            told(&snapshot(&objects)),
            [
                "one/young: OlderEntryWins: clients of other namespaces and namespace two get a.test from ServiceEntry two/old, which is older",
                "two/old: OwnNamespaceWins: clients of namespace one get a.test from ServiceEntry one/young, an entry of their own",
            ]
        );
    }

    #[test]
    fn a_service_of_the_name_wins_and_a_hidden_entry_loses_nothing() {
        let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: one}\nspec: {clusterIP: 10.0.0.9}\n";
        let objects = entry("one", "a", 1, HTTP).replace("a.test", "a.one.svc.cluster.local") + service;
        let told_here = told(&snapshot(&objects));
        assert_eq!(
            told_here,
            [
                "one/a: KubernetesServiceWins: clients of namespace one and other namespaces get a.one.svc.cluster.local from Service one/a, whose name it is"
            ]
        );
        let hidden = format!("exportTo: ['~'], {HTTP}");
        assert_eq!(told(&snapshot(&(entry("one", "a", 2, &hidden) + &entry("one", "b", 1, HTTP)))), [""; 0]);
    }

    #[test]
    fn many_namespaces_are_counted_and_few_looked_at() {
        let mut objects = entry("zz", "old", 1, HTTP);
        for number in 0..40 {
            objects += &entry(&format!("n{number:02}"), "own", 2, HTTP);
        }
        let snapshot = snapshot(&objects);
        let all = told(&snapshot);
        let old: Vec<_> = all.iter().filter(|line| line.starts_with("zz/old")).collect();
        // One for each entry that wins in its own namespace.
        assert_eq!(old.len(), OTHERS, "{old:#?}");
    }
}
