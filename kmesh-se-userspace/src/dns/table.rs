//! Which names are ours, for whom.
//!
//! In: name entries, one host at a time. Out: the view of a name that a namespace has. Never: a query.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use crate::{
    desired::{NameEntry, NameView},
    model::{HostName, Namespace},
};

/// The names that the DNS server answers itself. Readers do not wait for one another.
#[derive(Debug, Default)]
pub struct NameTable {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    exact: HashMap<Box<str>, NameEntry>,
    /// By what follows `*.`.
    wildcards: HashMap<Box<str>, NameEntry>,
}

/// What a namespace sees of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// We answer.
    Ours(NameView),
    /// The resolver that was asked answers.
    NotOurs,
}

impl NameTable {
    /// An empty table: every name is someone else's.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets or, with `None`, removes what is answered for one host. `*.example.com` stands for every name
    /// below `example.com`, at any depth.
    pub fn set(&self, name: HostName, entry: Option<NameEntry>) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let (table, key) = match name.wildcard_suffix() {
            Some(suffix) => (&mut tables.wildcards, suffix),
            None => (&mut tables.exact, name.as_str()),
        };
        match entry {
            Some(entry) => drop(table.insert(key.into(), entry)),
            None => drop(table.remove(key)),
        }
    }

    /// What is answered for exactly this host, which may be a wildcard.
    #[must_use]
    pub fn get(&self, name: &HostName) -> Option<NameEntry> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        match name.wildcard_suffix() {
            Some(suffix) => tables.wildcards.get(suffix).cloned(),
            None => tables.exact.get(name.as_str()).cloned(),
        }
    }

    /// What a client of `namespace` sees of `name`: the exact entry, else that of the longest wildcard above
    /// it. An entry that the namespace does not see does not exist for it; one that it sees and that has no
    /// virtual address leaves the name to the resolver.
    #[must_use]
    pub fn lookup(&self, namespace: &Namespace, name: &HostName) -> Found {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let view = tables
            .exact
            .get(name.as_str())
            .and_then(|entry| entry.view(namespace))
            .or_else(|| tables.wildcard_view(namespace, name.as_str()));
        match view {
            Some(view) if !view.vips.is_empty() => Found::Ours(view.clone()),
            _ => Found::NotOurs,
        }
    }
}

impl Tables {
    fn wildcard_view(&self, namespace: &Namespace, name: &str) -> Option<&NameView> {
        if self.wildcards.is_empty() {
            return None;
        }
        let mut rest = name;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(view) = self.wildcards.get(suffix).and_then(|entry| entry.view(namespace)) {
                return Some(view);
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
        dns::tests::{entry, only_for, view},
    };

    fn lookup(table: &NameTable, namespace: &str, name: &str) -> Option<String> {
        match table.lookup(&Namespace::new(namespace), &HostName::new(name)) {
            Found::Ours(view) => Some(view.vips[0].to_string()),
            Found::NotOurs => None,
        }
    }

    #[test]
    fn finds_exact_before_the_longest_wildcard_in_any_case() {
        let table = NameTable::new();
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
        let table = NameTable::new();
        table.set(HostName::new("a.example.com"), Some(only_for("inside", &["240.240.0.1"])));
        assert_eq!(lookup(&table, "inside", "a.example.com").as_deref(), Some("240.240.0.1"));
        assert_eq!(lookup(&table, "outside", "a.example.com"), None);
        table.set(HostName::new("*.example.com"), Some(entry(&["240.240.0.2"])));
        assert_eq!(lookup(&table, "outside", "a.example.com").as_deref(), Some("240.240.0.2"));
    }

    #[test]
    fn a_namespace_sees_its_own_view() {
        let table = NameTable::new();
        let mut own = entry(&["240.240.0.1"]);
        own.views.insert(Scope::Namespace(Namespace::new("own")), view(&["240.240.0.9"]));
        table.set(HostName::new("a.example.com"), Some(own));
        assert_eq!(lookup(&table, "own", "a.example.com").as_deref(), Some("240.240.0.9"));
        assert_eq!(lookup(&table, "other", "a.example.com").as_deref(), Some("240.240.0.1"));
    }

    #[test]
    fn a_visible_name_without_addresses_is_left_to_the_resolver() {
        let table = NameTable::new();
        table.set(HostName::new("a.example.com"), Some(entry(&[])));
        table.set(HostName::new("*.example.com"), Some(entry(&["240.240.0.2"])));
        assert_eq!(lookup(&table, "default", "a.example.com"), None);
    }
}
