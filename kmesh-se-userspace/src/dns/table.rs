//! Which names are ours, for whom.
//!
//! In: name entries, one host at a time. Out: the view of a name that a namespace has. Never: a query.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::Client;
use crate::{
    desired::{NameEntry, NameView, User},
    model::{HostName, Namespace},
};

/// The names that the DNS server answers itself. Readers do not wait for one another, but for a name's first answer to a client.
#[derive(Debug, Default)]
pub struct NameTable {
    tables: RwLock<Tables>,
    /// What was answered since it was last asked.
    used: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Tables {
    exact: HashMap<Box<str>, Host>,
    /// By what follows `*.`.
    wildcards: HashMap<Box<str>, Host>,
    /// Names below wildcards that give names on demand.
    concrete: HashMap<Box<str>, Concrete>,
}

/// A host of entries.
#[derive(Debug)]
struct Host {
    name: HostName,
    entry: NameEntry,
    /// Whether it is noted that it was answered.
    is_noted: AtomicBool,
}

/// A name below a wildcard.
#[derive(Debug)]
struct Concrete {
    name: HostName,
    entry: NameEntry,
    /// To whom it was answered; empty while that is not noted.
    users: Mutex<Vec<User>>,
}

/// Hosts and concrete names, each once.
#[derive(Debug, Default)]
struct Noted {
    hosts: Vec<HostName>,
    names: Vec<HostName>,
}

/// What clients were answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Hosts whose backends come from other names.
    pub hosts: BTreeSet<HostName>,
    /// Names below wildcards that give names on demand, and to whom.
    pub names: BTreeSet<(HostName, User)>,
}

/// What a namespace sees of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// We answer.
    Ours {
        /// What was asked for, without the domain of a search list.
        name: HostName,
        /// What it is answered.
        view: NameView,
    },
    /// We answer when somebody has seen to it: the name is below a wildcard that gives addresses on demand, or its backends
    /// are still to be resolved.
    OnDemand {
        /// As in [`Found::Ours`].
        name: HostName,
        /// What is to be seen to: the same, or the wildcard of an entry above it.
        host: HostName,
        /// What it is answered if there is no time to wait for all that is to be known.
        so_far: Option<NameView>,
    },
    /// The resolver that was asked answers.
    NotOurs,
}

impl NameTable {
    /// Sets or, with `None`, removes what is answered for one host. `*.example.com` stands for every name
    /// below `example.com`, at any depth.
    pub fn set(&self, name: HostName, entry: Option<NameEntry>) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let (table, key) = match name.wildcard_suffix() {
            Some(suffix) => (&mut tables.wildcards, suffix),
            None => (&mut tables.exact, name.as_str()),
        };
        match (entry, table.get_mut(key)) {
            (Some(entry), Some(host)) => host.entry = entry,
            (Some(entry), None) => {
                let key = key.into();
                table.insert(key, Host { name, entry, is_noted: AtomicBool::new(false) });
            }
            (None, _) => drop(table.remove(key)),
        }
    }

    /// Sets or, with `None`, removes what is answered for a concrete name to those who get it by a wildcard that gives names
    /// on demand.
    pub fn set_concrete(&self, name: &HostName, entry: Option<NameEntry>) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        match (entry, tables.concrete.get_mut(name.as_str())) {
            (Some(entry), Some(concrete)) => concrete.entry = entry,
            (Some(entry), None) => {
                let concrete = Concrete { name: name.clone(), entry, users: Mutex::default() };
                tables.concrete.insert(name.as_str().into(), concrete);
            }
            (None, _) => drop(tables.concrete.remove(name.as_str())),
        }
    }

    /// What is answered for this concrete name by a wildcard.
    #[must_use]
    pub fn get_concrete(&self, name: &HostName) -> Option<NameEntry> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.concrete.get(name.as_str()).map(|concrete| concrete.entry.clone())
    }

    /// The concrete names, and the hosts with backends that come from names, that were answered since this was last asked.
    #[must_use]
    pub fn take_used(&self) -> Used {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let mut noted = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let Noted { hosts, names } = std::mem::take(&mut *noted);
        for host in &hosts {
            if let Some(host) = tables.host(host) {
                host.is_noted.store(false, Ordering::Relaxed);
            }
        }
        let users = names.into_iter().filter_map(|name| {
            let concrete = tables.concrete.get(name.as_str())?;
            let users = std::mem::take(&mut *concrete.users.lock().unwrap_or_else(PoisonError::into_inner));
            Some(users.into_iter().map(move |user| (name.clone(), user)))
        });
        Used { names: users.flatten().collect(), hosts: hosts.into_iter().collect() }
    }

    /// What is answered for exactly this host, which may be a wildcard.
    #[must_use]
    pub fn get(&self, name: &HostName) -> Option<NameEntry> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables.host(name).map(|host| host.entry.clone())
    }

    /// What a client sees of `name`: the exact entry of the name or of what is left of it without a domain
    /// that it searches; else that of the longest wildcard above the first of these that has one. An entry that the
    /// namespace does not see does not exist for it; one that it sees and that has no virtual address leaves the name to
    /// the resolver.
    #[must_use]
    pub fn lookup(&self, client: Client<'_>, name: &HostName) -> Found {
        let Client { namespace, search, .. } = client;
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let aliases = || search.aliases(namespace, name.as_str());
        let exact = |alias| {
            let host = tables.exact.get(alias)?;
            Some((alias, host, host.entry.view(namespace)?))
        };
        let wildcard = |alias| {
            let (host, view) = tables.wildcard_view(namespace, alias)?;
            Some((alias, host, view))
        };
        let Some((alias, host, view)) = aliases().find_map(exact).or_else(|| aliases().find_map(wildcard))
        else {
            return Found::NotOurs;
        };
        // Most names are asked for as they are.
        let asked = if alias == name.as_str() { name.clone() } else { HostName::new(alias) };
        if view.on_demand {
            return self.on_demand(tables.concrete.get(alias), asked, client);
        }
        let found = found(asked, host, view);
        if matches!(&found, Found::Ours { view, .. } if view.from_names) {
            self.note_host(host);
        }
        found
    }

    fn on_demand(&self, concrete: Option<&Concrete>, name: HostName, client: Client<'_>) -> Found {
        let Some((concrete, view)) = concrete.and_then(|c| Some((c, c.entry.view(client.namespace)?))) else {
            return Found::OnDemand { host: name.clone(), name, so_far: None };
        };
        match (concrete.entry.is_complete, view.vips.is_empty()) {
            // It has no address now, and the resolver says so best.
            (true, true) => Found::NotOurs,
            (true, false) => {
                if view.from_names {
                    self.note_user(concrete, client);
                }
                Found::Ours { name, view: view.clone() }
            }
            (false, is_empty) => {
                let so_far = (!is_empty).then(|| view.clone());
                Found::OnDemand { host: name.clone(), name, so_far }
            }
        }
    }

    /// A host was answered. Once that is noted, nothing is written any more.
    fn note_host(&self, host: &Host) {
        if !host.is_noted.load(Ordering::Relaxed) && !host.is_noted.swap(true, Ordering::Relaxed) {
            self.used.lock().unwrap_or_else(PoisonError::into_inner).hosts.push(host.name.clone());
        }
    }

    /// A concrete name was answered to a client.
    fn note_user(&self, concrete: &Concrete, client: Client<'_>) {
        let address = client.address.to_canonical();
        let is_first = {
            let mut users = concrete.users.lock().unwrap_or_else(PoisonError::into_inner);
            if users.iter().any(|user| user.address == address && user.namespace == *client.namespace) {
                return;
            }
            users.push(client.user());
            users.len() == 1
        };
        if is_first {
            self.used.lock().unwrap_or_else(PoisonError::into_inner).names.push(concrete.name.clone());
        }
    }
}

/// What is said of `name`, which `host` gives.
fn found(name: HostName, host: &Host, view: &NameView) -> Found {
    let is_complete = host.entry.is_complete;
    match view {
        view if view.vips.is_empty() => Found::NotOurs,
        view if !view.from_names || (is_complete && !view.waits) => Found::Ours { name, view: view.clone() },
        view => {
            let so_far = (!is_complete && !view.waits).then(|| view.clone());
            Found::OnDemand { name, host: host.name.clone(), so_far }
        }
    }
}

impl Tables {
    fn host(&self, name: &HostName) -> Option<&Host> {
        match name.wildcard_suffix() {
            Some(suffix) => self.wildcards.get(suffix),
            None => self.exact.get(name.as_str()),
        }
    }

    /// The longest wildcard above `name` that the namespace sees.
    fn wildcard_view(&self, namespace: &Namespace, name: &str) -> Option<(&Host, &NameView)> {
        if self.wildcards.is_empty() {
            return None;
        }
        let mut rest = name;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some((host, view)) =
                self.wildcards.get(suffix).and_then(|host| Some((host, host.entry.view(namespace)?)))
            {
                return Some((host, view));
            }
            rest = suffix;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        desired::Scope,
        dns::{
            Search,
            tests::{entry, only_for, resolved, view},
        },
    };

    fn cluster() -> Search {
        Search::new(Some(HostName::new("cluster.local")), [])
    }

    fn find(table: &NameTable, search: &Search, namespace: &str, name: &str) -> Found {
        table.lookup(Client::of(&Namespace::new(namespace), search), &HostName::new(name))
    }

    fn lookup(table: &NameTable, namespace: &str, name: &str) -> Option<String> {
        match find(table, &cluster(), namespace, name) {
            Found::Ours { view, .. } => Some(view.vips[0].to_string()),
            Found::OnDemand { .. } | Found::NotOurs => None,
        }
    }

    #[test]
    fn finds_exact_before_the_longest_wildcard_in_any_case() {
        let table = NameTable::default();
        table.set(HostName::new("a.b.example.com"), Some(entry(&["240.240.0.1"])));
        table.set(HostName::new("*.b.example.com"), Some(entry(&["240.240.0.2"])));
        table.set(HostName::new("*.example.com"), Some(entry(&["240.240.0.3"])));
        for (name, expected) in [
            ("a.b.example.com", Some("240.240.0.1")),
            ("A.B.Example.COM.", Some("240.240.0.1")),
            ("x.a.b.example.com", Some("240.240.0.2")),
            ("c.b.example.com", Some("240.240.0.2")),
            ("b.example.com", Some("240.240.0.3")),
            ("deep.er.down.example.com", Some("240.240.0.3")),
            ("example.com", None),
            ("badexample.com", None),
            ("com", None),
            ("", None),
        ] {
            assert_eq!(lookup(&table, "default", name).as_deref(), expected, "{name}");
        }
        table.set(HostName::new("*.b.example.com"), None);
        assert_eq!(lookup(&table, "default", "c.b.example.com").as_deref(), Some("240.240.0.3"));
    }

    #[test]
    fn a_name_that_a_namespace_does_not_see_does_not_exist_for_it() {
        let table = NameTable::default();
        table.set(HostName::new("a.example.com"), Some(only_for("inside", &["240.240.0.1"])));
        assert_eq!(lookup(&table, "inside", "a.example.com").as_deref(), Some("240.240.0.1"));
        assert_eq!(lookup(&table, "outside", "a.example.com"), None);
        table.set(HostName::new("*.example.com"), Some(entry(&["240.240.0.2"])));
        assert_eq!(lookup(&table, "outside", "a.example.com").as_deref(), Some("240.240.0.2"));
    }

    #[test]
    fn a_namespace_sees_its_own_view() {
        let table = NameTable::default();
        let mut own = entry(&["240.240.0.1"]);
        own.views.insert(Scope::Namespace(Namespace::new("own")), view(&["240.240.0.9"]));
        table.set(HostName::new("a.example.com"), Some(own));
        assert_eq!(lookup(&table, "own", "a.example.com").as_deref(), Some("240.240.0.9"));
        assert_eq!(lookup(&table, "other", "a.example.com").as_deref(), Some("240.240.0.1"));
    }

    #[test]
    fn a_visible_name_without_addresses_is_left_to_the_resolver() {
        let table = NameTable::default();
        table.set(HostName::new("a.example.com"), Some(entry(&[])));
        table.set(HostName::new("*.example.com"), Some(entry(&["240.240.0.2"])));
        assert_eq!(lookup(&table, "default", "a.example.com"), None);
    }

    #[test]
    fn a_search_domain_is_stripped_exact_before_wildcard_and_as_asked_first() {
        let table = NameTable::default();
        for (host, vip) in [
            ("a.com", "240.240.0.1"),
            ("*.com", "240.240.0.2"),
            ("*.svc.cluster.local", "240.240.0.3"),
            ("b.com.shop.svc.cluster.local", "240.240.0.4"),
            ("db.shop", "240.240.0.5"),
        ] {
            table.set(HostName::new(host), Some(entry(&[vip])));
        }
        table.set(HostName::new("*.org"), Some(only_for("shop", &["240.240.0.6"])));
        for (name, wanted) in [
            // Exact of any alias, before a wildcard above the name as asked.
            ("A.com.shop.svc.Cluster.local", Some(("240.240.0.1", "a.com"))),
            ("b.com.shop.svc.cluster.local", Some(("240.240.0.4", "b.com.shop.svc.cluster.local"))),
            ("db.shop.svc.cluster.local", Some(("240.240.0.5", "db.shop"))),
            ("db.svc.cluster.local", Some(("240.240.0.3", "db.svc.cluster.local"))),
            // Of wildcards, that of the name as asked.
            ("c.com.shop.svc.cluster.local", Some(("240.240.0.3", "c.com.shop.svc.cluster.local"))),
            ("c.com.cluster.local", Some(("240.240.0.2", "c.com"))),
            ("c.org.cluster.local", Some(("240.240.0.6", "c.org"))),
            ("c.net.cluster.local", None),
        ] {
            let found = match find(&table, &cluster(), "shop", name) {
                Found::Ours { name, view } => Some((view.vips[0].to_string(), name.to_string())),
                Found::OnDemand { .. } | Found::NotOurs => None,
            };
            assert_eq!(found, wanted.map(|(vip, name)| (vip.to_owned(), name.to_owned())), "{name}");
        }
        // Another namespace does not see `*.org`, and searches its own domain.
        assert_eq!(lookup(&table, "other", "c.org.cluster.local"), None);
        assert_eq!(lookup(&table, "other", "db.svc.cluster.local").as_deref(), Some("240.240.0.3"));
        table.set(HostName::new("*.svc.cluster.local"), None);
        assert_eq!(lookup(&table, "other", "db.svc.cluster.local"), None);
        assert_eq!(lookup(&table, "other", "a.com.other.svc.cluster.local").as_deref(), Some("240.240.0.1"));
        assert_eq!(lookup(&table, "other", "a.com.shop.svc.cluster.local").as_deref(), None);
    }

    #[test]
    fn a_name_on_demand_is_ours_when_both_families_are_known_and_stands_below_its_wildcard() {
        let table = NameTable::default();
        let on_demand = |namespace: Option<&str>| {
            let mut entry = namespace.map_or_else(|| entry(&[]), |namespace| only_for(namespace, &[]));
            entry.views.values_mut().for_each(|view| view.on_demand = true);
            Some(entry)
        };
        let find = |namespace| find(&table, &Search::default(), namespace, "a.b.test");
        let name = HostName::new("a.b.test");
        let used = |namespaces: &[&str]| {
            let users = namespaces.iter().map(|namespace| User::of(Namespace::new(namespace)));
            Used { names: users.map(|user| (name.clone(), user)).collect(), ..Used::default() }
        };
        table.set(HostName::new("*.test"), on_demand(None));
        assert_eq!(find("x"), Found::OnDemand { name: name.clone(), host: name.clone(), so_far: None });
        let concrete = |vips: &[&str], is_complete| Some(NameEntry { is_complete, ..resolved(vips) });
        let answered = resolved(&["240.241.0.1"]).views[&Scope::Mesh].clone();
        table.set_concrete(&name, concrete(&["240.241.0.1"], false));
        assert_eq!(
            find("x"),
            Found::OnDemand { name: name.clone(), host: name.clone(), so_far: Some(answered.clone()) }
        );
        assert_eq!(table.take_used(), Used::default(), "not answered yet");
        table.set_concrete(&name, concrete(&["240.241.0.1"], true));
        let ours = Found::Ours { name: name.clone(), view: answered };
        assert_eq!((find("x"), find("y"), find("x")), (ours.clone(), ours.clone(), ours.clone()));
        assert_eq!(table.take_used(), used(&["x", "y"]));
        assert_eq!(table.take_used(), used(&[]));
        // Once more, also when it was published anew meanwhile.
        assert_eq!(find("y"), ours);
        table.set_concrete(&name, concrete(&["240.241.0.1"], true));
        assert_eq!(find("x"), ours);
        assert_eq!(table.take_used(), used(&["x", "y"]));

        // A longer wildcard of one namespace, and an entry of the name itself, come first for those who see them.
        table.set(HostName::new("*.b.test"), Some(only_for("x", &["240.240.0.1"])));
        table.set(name.clone(), Some(only_for("y", &["240.240.0.2"])));
        assert_eq!(lookup(&table, "x", "a.b.test").as_deref(), Some("240.240.0.1"));
        assert_eq!(lookup(&table, "y", "a.b.test").as_deref(), Some("240.240.0.2"));
        assert_eq!(lookup(&table, "z", "a.b.test").as_deref(), Some("240.241.0.1"));
        // A wildcard that somebody does not see gives no names to him.
        table.set(HostName::new("*.test"), on_demand(Some("z")));
        assert_eq!(find("w"), Found::NotOurs);
        // While it has no address, the name is the resolver's.
        table.set_concrete(&name, concrete(&[], true));
        assert_eq!(find("z"), Found::NotOurs);
        table.set_concrete(&name, None);
        assert_eq!(find("z"), Found::OnDemand { host: name.clone(), name, so_far: None });
    }

    #[test]
    fn a_name_whose_backends_come_from_names_is_ours_when_they_are_known() {
        let table = NameTable::default();
        let set = |host: &str, is_complete, waits| {
            let mut entry = NameEntry { is_complete, ..resolved(&["240.240.0.1"]) };
            entry.views.values_mut().for_each(|view| view.waits = waits);
            table.set(HostName::new(host), Some(entry));
        };
        let so_far = |name: &str| match find(&table, &Search::default(), "x", name) {
            Found::OnDemand { host, so_far, .. } => (host.to_string(), so_far.is_some()),
            other => panic!("{other:?}"),
        };
        for (host, name) in [("a.test", "a.test"), ("*.w.test", "a.b.w.test")] {
            set(host, false, true);
            assert_eq!(so_far(name), (host.to_owned(), false), "nobody has asked for it");
            set(host, false, false);
            assert_eq!(so_far(name), (host.to_owned(), true), "the other family is not known yet");
            set(host, true, true);
            assert_eq!(so_far(name), (host.to_owned(), false), "its resolver fails");
            assert_eq!(table.take_used(), Used::default(), "not answered yet");
            for published in 0..3 {
                set(host, true, false);
                for namespace in ["x", "y", "x"] {
                    assert_eq!(lookup(&table, namespace, name).as_deref(), Some("240.240.0.1"));
                }
                // Published anew, it is still noted once.
                if published > 0 {
                    let used = Used { hosts: [HostName::new(host)].into(), ..Used::default() };
                    assert_eq!(table.take_used(), used);
                    assert_eq!(table.take_used(), Used::default());
                }
            }
        }
        table.set(HostName::new("b.test"), Some(entry(&["240.240.0.2"])));
        assert_eq!(lookup(&table, "x", "b.test").as_deref(), Some("240.240.0.2"), "it needs no name");
        assert_eq!(table.take_used(), Used::default());
    }
}
