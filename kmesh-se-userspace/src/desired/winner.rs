//! Of all that have one host, who serves it to whom.
//!
//! In: the snapshot, a host, whose view. Out: the Service or the entries that win, and why an entry does not. Never:
//! what the winner makes of it.

use std::{collections::BTreeMap, sync::Arc};

use super::Scope;
use crate::model::{ClusterHost, Entry, ExportTo, HostName, Namespace, ObjectRef, Snapshot};

/// Who has a host in one view.
#[derive(Clone, Debug)]
pub(super) enum Winner<'a> {
    /// A Service of Kubernetes: the host is not ours.
    Service(&'a Arc<ClusterHost>),
    /// The visible entries of one namespace, of which there is one, the oldest first.
    Entries(Vec<&'a Arc<Entry>>),
    /// Nobody that the view sees.
    Nobody,
}

/// Who has `host` in the view of `scope`: a Service of the client's namespace, an entry of it, a Service, the oldest entry.
pub(super) fn winner<'a>(snapshot: &'a Snapshot, host: &HostName, scope: &Scope) -> Winner<'a> {
    let namespace = match scope {
        Scope::Mesh => None,
        Scope::Namespace(namespace) => Some(namespace),
    };
    let service = snapshot.cluster_host(host, namespace);
    if let Some(service) = service.filter(|service| Some(&service.object.namespace) == namespace) {
        return Winner::Service(service);
    }
    let sees = |entry: &&Arc<Entry>| match namespace {
        None => entry.export_to == ExportTo::All,
        Some(namespace) => entry.is_visible_to(namespace),
    };
    let own = namespace.and_then(|namespace| snapshot.entries_within(host, namespace).find(sees));
    if let (None, Some(service)) = (own, service) {
        return Winner::Service(service);
    }
    match own.or_else(|| snapshot.entries_of(host).find(sees)) {
        Some(first) => {
            let visible = snapshot.entries_within(host, &first.object.namespace).filter(sees);
            Winner::Entries(visible.collect())
        }
        None => Winner::Nobody,
    }
}

/// The Service that has `host` for clients of `namespace`, whatever entries say.
#[must_use]
pub fn service_that_wins<'a>(
    snapshot: &'a Snapshot,
    host: &HostName,
    namespace: &Namespace,
) -> Option<&'a Arc<ClusterHost>> {
    match winner(snapshot, host, &Scope::Namespace(namespace.clone())) {
        Winner::Service(service) => Some(service),
        Winner::Entries(_) | Winner::Nobody => None,
    }
}

/// Who has a host in one view, and each of its ports.
#[derive(Clone, Debug)]
pub(super) struct Ruling<'a> {
    winner: Winner<'a>,
    /// Port -> the oldest entry that lists it and has the resolution of the oldest of all.
    ports: BTreeMap<u16, &'a ObjectRef>,
}

/// Who has `host` in the view of `scope`, and each of its ports.
pub(super) fn ruling<'a>(snapshot: &'a Snapshot, host: &HostName, scope: &Scope) -> Ruling<'a> {
    let winner = winner(snapshot, host, scope);
    let mut ports = BTreeMap::new();
    if let Winner::Entries(entries) = &winner {
        let agree = entries.iter().filter(|entry| entry.resolution == entries[0].resolution);
        for (port, object) in agree.flat_map(|e| e.ports.iter().map(move |port| (port, &e.object))) {
            ports.entry(port.number).or_insert(object);
        }
    }
    Ruling { winner, ports }
}

/// Why an entry does not serve all of a host that it names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Loss {
    /// CamelCase code.
    pub(super) reason: &'static str,
    /// To whom.
    pub(super) winner: ObjectRef,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// What clients get, and from whom.
    Clients(String),
    /// Something that is so for everybody.
    Everybody(String),
}

impl Loss {
    /// What happens instead, naming the winner. `whom` is whose clients are meant.
    pub(super) fn message(&self, whom: &str) -> String {
        match &self.what {
            What::Clients(get) => format!("clients of {whom} get {get}"),
            What::Everybody(what) => what.clone(),
        }
    }
}

/// What `entry` loses of `host` by `ruling` in the view of `scope`, which sees it, and to whom.
pub(super) fn losses(ruling: &Ruling<'_>, host: &HostName, scope: &Scope, entry: &Entry) -> Vec<Loss> {
    let lost = |reason, winner: &ObjectRef, get| {
        vec![Loss { reason, winner: winner.clone(), what: What::Clients(get) }]
    };
    let entries = match &ruling.winner {
        Winner::Nobody => return Vec::new(),
        Winner::Service(service) => {
            let get = format!("{host} from {}, whose name it is", service.object);
            return lost("KubernetesServiceWins", &service.object, get);
        }
        Winner::Entries(entries) => entries,
    };
    let Some(first) = entries.first().filter(|first| first.object != entry.object) else { return Vec::new() };
    let winner = &first.object;
    if winner.namespace != entry.object.namespace {
        let is_own = *scope == Scope::Namespace(winner.namespace.clone());
        let (reason, why) = if is_own {
            ("OwnNamespaceWins", "an entry of their own")
        } else {
            ("OlderEntryWins", "which is older")
        };
        return lost(reason, winner, format!("{host} from {winner}, {why}"));
    }
    if first.resolution != entry.resolution {
        let get = format!("{host} from {winner}, which is older and has another resolution");
        return lost("ResolutionDiffers", winner, get);
    }
    of_one_namespace(host, first, &ruling.ports, entry)
}

/// What `entry` loses to older ones of its namespace that agree on the resolution, of which `first` is the oldest; `owners` have
/// the ports.
fn of_one_namespace(
    host: &HostName,
    first: &Entry,
    owners: &BTreeMap<u16, &ObjectRef>,
    entry: &Entry,
) -> Vec<Loss> {
    let has = |number| owners.get(&number).filter(|owner| ***owner != entry.object);
    let taken: Vec<_> = entry.ports.iter().filter_map(|p| Some((p.number, has(p.number)?))).collect();
    let mut losses = Vec::new();
    if !taken.is_empty() || entry.ports.is_empty() {
        let list: Vec<_> = taken.iter().map(|(number, by)| format!("port {number} from {by}")).collect();
        let list = if list.is_empty() { "everything".to_owned() } else { list.join(", ") };
        let reason = if taken.len() == entry.ports.len() { "OlderEntryWins" } else { "PortOfOlderEntry" };
        let what = What::Clients(format!("{host}, {list}, which is older"));
        losses.push(Loss { reason, winner: first.object.clone(), what });
    }
    if taken.len() < entry.ports.len() && !entry.addresses.is_empty() && entry.addresses != first.addresses {
        let message = format!(
            "{host} has the addresses of {}, which is older; those written here are not used",
            first.object
        );
        let (winner, what) = (first.object.clone(), What::Everybody(message));
        losses.push(Loss { reason: "AddressesOfOlderEntry", winner, what });
    }
    losses
}
