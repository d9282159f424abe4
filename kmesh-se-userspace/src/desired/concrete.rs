//! One concrete name under a DYNAMIC_DNS wildcard, as if an entry named it with resolution DNS.
//!
//! In: the snapshot, resolved names, the name's VIPs. Out: a [`HostDesired`]. Never: a view that an entry or
//! a Service of the name itself, or a longer wildcard, gives.

use std::collections::BTreeSet;

use super::{
    HostDesired, Known, Scope, View, Vips, build, view_for,
    winner::{Winner, winner},
};
use crate::model::{HostName, Resolution, Snapshot};

/// The wildcards that stand for `host`, the longest first.
pub fn wildcards_above(host: &HostName) -> impl Iterator<Item = HostName> {
    let dots = host.as_str().match_indices('.');
    dots.map(|(at, _)| HostName::new(&format!("*{}", &host.as_str()[at..])))
}

/// The DYNAMIC_DNS wildcard by which the clients of `scope` get `host`, with its view.
#[must_use]
pub fn dynamic_view<'a>(
    snapshot: &'a Snapshot,
    host: &HostName,
    scope: &Scope,
) -> Option<(HostName, View<'a>)> {
    if !matches!(winner(snapshot, host, scope), Winner::Nobody) {
        return None;
    }
    let mut views = wildcards_above(host).filter_map(|wildcard| {
        let view = view_for(snapshot, &wildcard, scope)?;
        Some((wildcard, view))
    });
    views.next().filter(|(_, view)| view.primary().resolution == Resolution::DynamicDns)
}

/// Whether some client gets `host` by a DYNAMIC_DNS wildcard.
#[must_use]
pub fn is_dynamic(snapshot: &Snapshot, host: &HostName) -> bool {
    scopes(snapshot, host).iter().any(|scope| dynamic_view(snapshot, host, scope).is_some())
}

/// What `host` contributes by the wildcards above it, given its VIPs. While it has no backend, its name is the resolver's.
#[must_use]
pub fn concrete(known: Known<'_>, vips: Option<&Vips>, host: &HostName) -> HostDesired {
    let snapshot = known.snapshot;
    let mut desired = HostDesired::default();
    let mesh = dynamic_view(snapshot, host, &Scope::Mesh);
    for scope in scopes(snapshot, host) {
        let Some((wildcard, view)) = dynamic_view(snapshot, host, &scope) else { continue };
        let is_mesh = scope == Scope::Mesh;
        if is_mesh || mesh.as_ref().is_none_or(|(of, mesh)| (of, mesh) != (&wildcard, &view)) {
            build::add_view(&mut desired, known, vips, host, scope, &view);
        }
    }
    if known.resolved.get(host).is_none_or(crate::model::Addresses::is_empty) {
        desired.names.views.values_mut().for_each(|view| view.vips.clear());
    }
    desired.concrete = std::mem::take(&mut desired.names);
    desired
}

/// The scopes whose view of `host` may differ.
fn scopes(snapshot: &Snapshot, host: &HostName) -> BTreeSet<Scope> {
    let hosts = std::iter::once(host.clone()).chain(wildcards_above(host));
    let namespaces = hosts.flat_map(|host| build::namespaces_with_views(snapshot, &host));
    namespaces.map(Scope::Namespace).chain([Scope::Mesh]).collect()
}
