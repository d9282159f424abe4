//! What `plan` and `query` share: objects from files and a hosts file, built into what a client would get.
//!
//! In: files, folders, stdin, a hosts file. Out: a snapshot, resolved names and VIPs. Never: the network or the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;

use super::input;
use crate::{
    desired::{
        self, ASSUMED_WAYPOINTS, DYNAMIC_RANGES, Known, LeaseLimits, Leases, Scope, User, VipPool, VipRanges,
    },
    model::{
        Addresses, HostName, Issue, Namespace, Object, ObjectRef, Parsed, Place, Reason, Resolved, Snapshot,
        parse, validate,
    },
};

/// Everything that the answer is built from.
#[derive(Debug, Default)]
pub(super) struct Offline {
    pub(super) snapshot: Snapshot,
    pub(super) resolved: Resolved,
    pub(super) rejected: Vec<Rejected>,
    seen: BTreeSet<ObjectRef>,
}

/// An object that is not used.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Rejected {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) errors: Vec<Issue>,
    /// Where it is from; `-` is stdin.
    pub(super) file: String,
    /// Line in the file, from 1.
    pub(super) line: usize,
}

impl Offline {
    /// Reads all inputs.
    pub(super) fn read(
        inputs: &[PathBuf],
        hosts: Option<&Path>,
        place: Place,
        stdin: &mut dyn Read,
    ) -> anyhow::Result<Self> {
        let mut offline = Self { snapshot: Snapshot::at(place), ..Self::default() };
        for path in inputs {
            for (file, bytes) in input::read(path, stdin)? {
                offline.add(&file, &bytes);
            }
        }
        if let Some(path) = hosts {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            offline.resolved = hosts_file(&text).with_context(|| format!("in {}", path.display()))?;
        }
        Ok(offline)
    }

    fn add(&mut self, file: &str, bytes: &[u8]) {
        for item in parse(bytes) {
            match item {
                Parsed::Object { line, object, .. } => self.add_object((file, line), &object),
                Parsed::Failed(failure) => self.rejected.push(Rejected {
                    kind: failure.kind.unwrap_or_default(),
                    namespace: failure.namespace.unwrap_or_else(|| "default".to_owned()),
                    name: failure.name.unwrap_or_default(),
                    errors: failure.issues,
                    file: file.to_owned(),
                    line: failure.line,
                }),
                Parsed::Skipped { .. } => {}
            }
        }
    }

    fn add_object(&mut self, at: (&str, usize), object: &Object) {
        let reference = object.object_ref();
        if !self.seen.insert(reference.clone()) {
            let message = "another object of this kind, namespace and name comes first".to_owned();
            let issue = Issue::new("metadata.name", Reason::ObjectDuplicate, message);
            return self.reject(at, &reference, vec![issue]);
        }
        let verdict = validate(object);
        if let Some(accepted) = verdict.accepted {
            self.snapshot.apply(accepted);
        }
        let errors = verdict.errors;
        if !errors.is_empty() {
            self.reject(at, &reference, errors);
        }
    }

    fn reject(&mut self, (file, line): (&str, usize), object: &ObjectRef, errors: Vec<Issue>) {
        self.rejected.push(Rejected {
            kind: object.kind.to_string(),
            namespace: object.namespace.to_string(),
            name: object.name.to_string(),
            errors,
            file: file.to_owned(),
            line,
        });
    }

    /// What hosts are built from, with these VIPs.
    pub(super) fn known<'a>(&'a self, vips: &'a VipPool) -> Known<'a> {
        Known { snapshot: &self.snapshot, resolved: &self.resolved, vips, waypoints: &ASSUMED_WAYPOINTS }
    }

    /// The VIPs that a first agent would allocate: by age of the entry, then namespace and name, then host.
    pub(super) fn vips(&self) -> VipPool {
        let mut pool = VipPool::new(VipRanges::default());
        let mut entries: Vec<_> = self.snapshot.entries().collect();
        entries.sort_by_key(|e| e.age_order());
        for entry in entries {
            let mut hosts: Vec<_> = entry.hosts.iter().collect();
            hosts.sort();
            for host in hosts {
                if pool.get(host).is_some() || !desired::needs_vip(&self.snapshot, host) {
                    continue;
                }
                let is_written = |address| self.snapshot.is_written(address);
                if let Err(error) = pool.ensure(host, Timestamp::UNIX_EPOCH, is_written) {
                    tracing::warn!(%error, "no virtual address left");
                }
            }
        }
        pool
    }
}

impl Offline {
    /// The names of the hosts file that clients of `namespace` get by a DYNAMIC_DNS wildcard, with the addresses that a first
    /// agent with the default ranges would give them if they were asked for in the order of the names.
    pub(super) fn leases(&self, namespace: &Namespace) -> Leases {
        let now = Timestamp::UNIX_EPOCH;
        let mut leases =
            Leases::new(DYNAMIC_RANGES, LeaseLimits { names: usize::MAX, ..LeaseLimits::default() });
        let (scope, user) = (Scope::Namespace(namespace.clone()), User::of(namespace.clone()));
        let given =
            self.resolved.keys().filter(|name| desired::dynamic_view(&self.snapshot, name, &scope).is_some());
        for name in given {
            let is_written = |address| self.snapshot.is_written(address);
            let leased = leases.ask(name, &user, now).map_err(|error| error.to_string());
            let leased = leased
                .and_then(|()| leases.ensure_vips(name, now, is_written).map_err(|error| error.to_string()));
            if let Err(error) = leased {
                tracing::warn!(error, "no virtual address left");
            }
        }
        leases
    }
}

/// Names from hosts-file lines (`ADDRESS NAME…`, `#` starts a comment); a name may repeat.
fn hosts_file(text: &str) -> anyhow::Result<Resolved> {
    let mut found: BTreeMap<HostName, Addresses> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        let address: IpAddr =
            first.parse().with_context(|| format!("line {number}: `{first}` is not an address"))?;
        for name in words {
            let addresses = found.entry(HostName::new(name)).or_default();
            match address {
                IpAddr::V4(v4) if !addresses.v4.contains(&v4) => addresses.v4.push(v4),
                IpAddr::V6(v6) if !addresses.v6.contains(&v6) => addresses.v6.push(v6),
                _ => {}
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_repeat_in_a_hosts_file() -> anyhow::Result<()> {
        let resolved = hosts_file("10.0.0.1 a.com b.com # both\n\n10.0.0.2 A.com.\n::1 a.com\n")?;
        let a = &resolved[&HostName::new("a.com")];
        assert_eq!(a.iter().map(|ip| ip.to_string()).collect::<Vec<_>>(), ["10.0.0.1", "10.0.0.2", "::1"]);
        let error = hosts_file("a.com 10.0.0.1").expect_err("the wrong way round");
        assert!(error.to_string().contains("line 1"), "{error}");
        Ok(())
    }
}
