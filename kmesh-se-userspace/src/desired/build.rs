//! One host: which entries win, for whom, and what follows.
//!
//! In: the snapshot, resolved names, the host's VIPs. Out: a [`HostDesired`]. Never: another host.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{
    Address, AddressRange, AddressRule, Bound, Few, Frontend, Known, NameEntry, NameView, Scope, ServiceKey,
    Tables, Unlisted, Vips,
    backends::{self, Of},
    http_routes, waypoint,
    winner::{Winner, winner},
};
use crate::model::{Entry, ExportTo, HostName, Namespace, ObjectRef, Port, Resolution, Snapshot};

/// What one host contributes to the maps and to DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostDesired {
    /// Rows of the maps.
    pub tables: Tables,
    /// Answers for the host's name.
    pub names: NameEntry,
    /// Answers for the same name to those who get it by a DYNAMIC_DNS wildcard.
    pub concrete: NameEntry,
    /// The views whose backends are still to be resolved, all of them: none of their names was ever answered.
    pub unresolved: BTreeSet<Scope>,
    /// The age of the entry that gives each view its addresses: orders the claims of several hosts to one address.
    pub ages: Few<Scope, Age>,
    /// The views whose addresses are dialled straight, on any port.
    pub straight: BTreeSet<Scope>,
    /// What waypoints are to know of its services that are bound to one.
    pub bound: Few<ServiceKey, Bound>,
    /// The addresses of its endpoints: if one is a virtual address of another host, that host's backends are dialled.
    pub dialled: Few<IpAddr, ()>,
}

impl HostDesired {
    /// Adds what another way to the same host contributes, in other scopes.
    pub fn join(&mut self, other: Self) {
        self.tables.services.extend(other.tables.services);
        self.tables.frontends.extend(other.tables.frontends);
        self.tables.addresses.extend(other.tables.addresses);
        self.names.views.extend(other.names.views);
        self.concrete.views.extend(other.concrete.views);
        self.unresolved.extend(other.unresolved);
        self.ages.extend(other.ages);
        self.bound.extend(other.bound);
        self.dialled.extend(other.dialled);
    }
}

/// As [`Entry::age_order`].
pub type Age = (Option<jiff::Timestamp>, ObjectRef);

/// What the clients of one scope see of a host: entries of one namespace, the oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct View<'a> {
    /// The winning entries with the ports that each contributes.
    pub entries: Vec<(&'a Arc<Entry>, Vec<&'a Port>)>,
}

/// What clients of `scope` see of `host`: the entries of their own namespace, else those of the namespace that has the
/// oldest visible entry; nothing if it is the name of a Service that comes before. Within a namespace the oldest entry wins a port; ports that only a
/// younger one lists are added when its resolution agrees.
#[must_use]
pub fn view_for<'a>(snapshot: &'a Snapshot, host: &HostName, scope: &Scope) -> Option<View<'a>> {
    let Winner::Entries(visible) = winner(snapshot, host, scope) else { return None };
    let first = *visible.first()?;
    let mut taken = BTreeSet::new();
    let mut entries = Vec::new();
    for entry in visible {
        if entry.resolution != first.resolution {
            continue;
        }
        let ports: Vec<&Port> = entry.ports.iter().filter(|p| taken.insert(p.number)).collect();
        if !ports.is_empty() || std::ptr::eq(entry, first) {
            entries.push((entry, ports));
        }
    }
    Some(View { entries })
}

impl<'a> View<'a> {
    /// The entry that gives the view its addresses and resolution.
    #[must_use]
    pub fn primary(&self) -> &Arc<Entry> {
        self.entries[0].0
    }

    /// The virtual addresses of the view, ranges included, and what their unlisted ports get: those that the user wrote,
    /// else those in the status, else the allocated ones.
    #[must_use]
    pub fn vips(&self, host: &HostName, allocated: Option<&Vips>) -> (Vec<AddressRange>, Unlisted) {
        let primary = self.primary();
        if !primary.addresses.is_empty() {
            return (primary.addresses.iter().map(|net| (*net).into()).collect(), Unlisted::Pass);
        }
        match primary.resolution {
            // Straight to the address dialled; and names under a wildcard each need a VIP of their own.
            Resolution::None => return (Vec::new(), Unlisted::Pass),
            Resolution::DynamicDns if host.is_wildcard() => return (Vec::new(), Unlisted::Pass),
            Resolution::DynamicDns => {
                let vips = allocated.into_iter().flat_map(Vips::iter);
                return (vips.map(AddressRange::from).collect(), Unlisted::Refuse);
            }
            Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => {}
        }
        let mut vips: Vec<IpAddr> = in_status(primary, host).collect();
        if vips.is_empty() && may_allocate(primary, host) {
            vips = allocated.into_iter().flat_map(Vips::iter).collect();
        }
        (vips.into_iter().map(AddressRange::from).collect(), Unlisted::Refuse)
    }
}

/// Whether some entry of `host` wants a VIP allocated for it.
#[must_use]
pub fn needs_vip(snapshot: &Snapshot, host: &HostName) -> bool {
    snapshot.entries_of(host).any(|entry| lacks_vip(entry, host))
}

/// Whether `entry` wants a VIP allocated for `host` and has none in its status.
pub(super) fn lacks_vip(entry: &Entry, host: &HostName) -> bool {
    wants_vip(entry, host) && in_status(entry, host).next().is_none()
}

/// Whether `host` of `entry` is dialled at an address that somebody allocates: here, or in its status.
#[must_use]
pub fn wants_vip(entry: &Entry, host: &HostName) -> bool {
    entry.export_to != ExportTo::Nobody && may_allocate(entry, host)
}

/// The addresses that somebody has allocated for `host`. As with Istio, who wants none allocated does not get them.
pub fn in_status<'a>(entry: &'a Entry, host: &'a HostName) -> impl Iterator<Item = IpAddr> + 'a {
    let of_host = move |h: &Option<HostName>| h.as_ref().is_none_or(|h| h == host);
    let used = entry.may_allocate.then_some(&entry.status_addresses);
    used.into_iter().flatten().filter(move |(_, h)| of_host(h)).map(|(a, _)| *a)
}

fn may_allocate(entry: &Entry, host: &HostName) -> bool {
    !matches!(entry.resolution, Resolution::None | Resolution::DynamicDns)
        && entry.addresses.is_empty()
        && entry.may_allocate
        && !host.is_wildcard()
}

/// The names that the entries of `host` need resolved.
#[must_use]
pub fn wanted_names(snapshot: &Snapshot, host: &HostName) -> BTreeSet<HostName> {
    let visible = snapshot.entries_of(host).filter(|e| e.export_to != ExportTo::Nobody);
    let names =
        visible.flat_map(|entry| [names_of(snapshot, entry, host), http_routes::names(snapshot, entry)]);
    names.flatten().collect()
}

/// The names that `entry` needs resolved for `host`.
#[must_use]
pub fn names_of(snapshot: &Snapshot, entry: &Entry, host: &HostName) -> BTreeSet<HostName> {
    match entry.resolution {
        Resolution::None => BTreeSet::new(),
        _ if backends::resolves_host(entry, host) => BTreeSet::from([host.clone()]),
        _ => backends::names(snapshot.endpoints_of(entry)).cloned().collect(),
    }
}

/// What `host` contributes.
#[must_use]
pub fn host(known: Known<'_>, host: &HostName) -> HostDesired {
    let snapshot = known.snapshot;
    let mut desired = HostDesired::default();
    let mesh = view_for(snapshot, host, &Scope::Mesh);
    if let Some(view) = &mesh {
        add_view(&mut desired, known, known.vips.get(host), host, Scope::Mesh, view);
    }
    let sharing = namespaces_sharing(snapshot, host);
    for namespace in namespaces_with_views(snapshot, host).union(&sharing) {
        let scope = Scope::Namespace(namespace.clone());
        match view_for(snapshot, host, &scope) {
            Some(view) if mesh.as_ref() != Some(&view) || sharing.contains(namespace) => {
                add_view(&mut desired, known, known.vips.get(host), host, scope, &view);
            }
            Some(_) => {}
            None => {
                if let Some(service) = mesh.as_ref().and_then(|_| snapshot.service_of(host)) {
                    desired.names.views.insert(scope, NameView::not_ours(service.object.clone()));
                }
            }
        }
    }
    desired
}

/// The namespaces whose view of `host` may differ from the mesh's.
pub(super) fn namespaces_with_views(snapshot: &Snapshot, host: &HostName) -> BTreeSet<Namespace> {
    let mut namespaces = BTreeSet::new();
    for entry in snapshot.entries_of(host) {
        namespaces.insert(entry.object.namespace.clone());
        if let ExportTo::Namespaces(listed) = &entry.export_to {
            namespaces.extend(listed.iter().cloned());
        }
    }
    if let Some(service) = snapshot.service_of(host) {
        namespaces.insert(service.object.namespace.clone());
        if let ExportTo::Namespaces(listed) = &service.export_to {
            namespaces.extend(listed.iter().cloned());
        }
    }
    namespaces
}

/// The namespaces that write an address or range of `host` too, if there are several: at a shared address each comes first for its
/// own clients, who then need a view of everybody's ports there.
fn namespaces_sharing(snapshot: &Snapshot, host: &HostName) -> BTreeSet<Namespace> {
    let mut namespaces = BTreeSet::new();
    let addresses: BTreeSet<_> = snapshot.entries_of(host).flat_map(|entry| entry.own_addresses()).collect();
    for address in addresses.into_iter().filter(|address| snapshot.is_shared(*address)) {
        namespaces.extend(snapshot.writers_of(address).map(|entry| entry.object.namespace.clone()));
    }
    namespaces
}

/// Adds what `view` makes of `host`, with these VIPs, for `scope`.
pub(super) fn add_view(
    desired: &mut HostDesired,
    known: Known<'_>,
    allocated: Option<&Vips>,
    host: &HostName,
    scope: Scope,
    view: &View<'_>,
) {
    let (vips, unlisted) = view.vips(host, allocated);
    let mut all_backends: BTreeSet<IpAddr> = BTreeSet::new();
    if view.primary().resolution == Resolution::None {
        desired.straight.insert(scope.clone());
    } else {
        for (entry, ports) in &view.entries {
            for port in ports {
                let of = Of { entry, host, port };
                let (key, found) = (of.key(), backends::backends(known, of));
                let mut bound = waypoint::bound(known, of, &found).filter(|_| !vips.is_empty());
                if let Some(bound) = &mut bound {
                    let (rules, others) = http_routes::rules(known, of);
                    bound.http = rules;
                    desired.dialled.extend(others.into_iter().map(|address| (address, ())));
                }
                desired.bound.extend(bound.map(|bound| (key.clone(), bound)));
                let dialled = waypoint::dialled(known, &waypoint::way(known, of), found.backends);
                let backends = waypoint::backends_of(known, &dialled);
                all_backends.extend(backends.iter().map(|backend| backend.address));
                desired.dialled.extend(found.dialled.into_iter().map(|address| (address, ())));
                for address in &vips {
                    let frontend = Frontend {
                        scope: scope.clone(),
                        address: *address,
                        port: port.number,
                        transport: port.protocol.transport(),
                    };
                    desired.tables.frontends.insert(frontend, key.clone());
                }
                if !vips.is_empty() {
                    desired.tables.services.insert(key, dialled);
                }
            }
        }
    }
    // Without balancing too: the address is this view's, so connections to it pass whatever another view, a younger entry
    // or a wider range makes of it.
    for address in &vips {
        let rule =
            AddressRule { unlisted, sorts_by: sorts_by(&desired.tables, known, &scope, *address, unlisted) };
        desired.tables.addresses.insert(Address { scope: scope.clone(), address: *address }, rule);
    }
    let names: BTreeSet<_> =
        view.entries.iter().flat_map(|(e, _)| names_of(known.snapshot, e, host)).collect();
    if all_backends.is_empty() && !names.is_empty() && !names.iter().any(|n| known.resolved.contains_key(n)) {
        desired.unresolved.insert(scope.clone());
    }
    desired.ages.insert(scope.clone(), (view.primary().created, view.primary().object.clone()));
    // A family is answered when some backend can be reached through it; while there is none at all, the connection
    // fails at once, and for that one family is enough.
    let any_v6 = all_backends.iter().any(IpAddr::is_ipv6);
    let any_v4 = all_backends.iter().any(IpAddr::is_ipv4);
    // A range is nothing to answer.
    let vips: Vec<IpAddr> = vips.iter().filter_map(AddressRange::single).collect();
    let has_v4_vip = vips.iter().any(IpAddr::is_ipv4);
    let name = NameView {
        answers_v4: any_v4 || !any_v6,
        answers_v6: any_v6 || !has_v4_vip,
        vips,
        entry: view.primary().object.clone(),
        from_names: !names.is_empty(),
        waits: desired.unresolved.contains(&scope),
        on_demand: host.is_wildcard() && view.primary().resolution == Resolution::DynamicDns,
    };
    desired.names.views.insert(scope, name);
}

/// Of the services of an address that is ours alone, the one with the lowest port that has a backend of its family; without
/// any such, the first.
fn sorts_by(
    tables: &Tables,
    known: Known<'_>,
    scope: &Scope,
    address: AddressRange,
    unlisted: Unlisted,
) -> Option<ServiceKey> {
    if unlisted == Unlisted::Pass {
        return None;
    }
    let own = |frontend: &&Frontend| frontend.scope == *scope && frontend.address == address;
    let services = || tables.frontends.iter().filter(|(frontend, _)| own(frontend)).map(|(_, key)| key);
    let reaches = |key: &&ServiceKey| {
        let backends = tables.services.get(*key).map(|led_to| waypoint::backends_of(known, led_to));
        backends.is_some_and(|backends| {
            backends.iter().any(|backend| backend.address.is_ipv4() == address.first().is_ipv4())
        })
    };
    services().find(reaches).or_else(|| services().next()).cloned()
}
