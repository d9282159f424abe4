//! Endpoints that are hosts or virtual addresses of ours: where they lead.
//!
//! In: an endpoint's name or address, as the namespace of its entry sees it. Out: the service behind it, or that it is
//! dialled as it is. Never: more than one step, which is for the caller to limit.

use std::net::IpAddr;

use super::{
    Unlisted, View,
    backends::{Known, Of},
    view_for,
};
use crate::{
    desired::Scope,
    model::{HostName, Resolution},
};

/// Where an endpoint leads.
#[derive(Clone, Debug)]
pub(super) enum Lead<'a> {
    /// To addresses that are dialled as they are.
    Straight(Vec<IpAddr>),
    /// To another service of ours.
    Service(Of<'a>),
    /// To a port that a connection is refused at; why.
    Refused(String),
}

/// Where `name` leads if it is a host of another entry that has `port`. Every other name is for DNS: it may exist there
/// too, as the hosts of the entry itself do.
pub(super) fn lead_of_name<'a>(known: Known<'a>, of: Of<'a>, name: &HostName, port: u16) -> Lead<'a> {
    let nowhere = Lead::Straight(Vec::new());
    if of.entry.hosts.contains(name) {
        return nowhere;
    }
    let scope = Scope::Namespace(of.entry.object.namespace.clone());
    let Some((host, view)) = view_of(known, name, &scope) else { return nowhere };
    let (vips, _) = view.vips(host, known.vips.get(host));
    // A name without a single address is for DNS.
    if vips.iter().all(|vip| vip.single().is_none()) || view.primary().resolution == Resolution::None {
        return nowhere;
    }
    service(&view, host, of, port).map_or(nowhere, Lead::Service)
}

/// Where `address` leads.
pub(super) fn lead_of_address<'a>(known: Known<'a>, of: Of<'a>, address: IpAddr, port: u16) -> Lead<'a> {
    let straight = Lead::Straight(vec![address]);
    let namespace = &of.entry.object.namespace;
    let scope = Scope::Namespace(namespace.clone());
    let writers = known.snapshot.writers_of(address.into()).flat_map(|entry| &entry.hosts);
    let hosts = writers.chain(known.vips.host_of(address));
    let mut users: Vec<(&HostName, View<'_>, Unlisted)> = hosts
        .filter_map(|host| {
            let (host, view) = view_of(known, host, &scope)?;
            let (vips, unlisted) = view.vips(host, known.vips.get(host));
            vips.contains(&address.into()).then_some((host, view, unlisted))
        })
        .collect();
    // As the connection itself would find it: an entry of the namespace first, then the oldest.
    users.sort_by_cached_key(|(host, view, _)| {
        let first = view.primary();
        let is_foreign = first.object.namespace != *namespace;
        (is_foreign, first.created, first.object.clone(), (*host).clone())
    });
    for (host, view, unlisted) in &users {
        if view.primary().resolution == Resolution::None {
            return straight;
        }
        let Some(next) = service(view, host, of, port) else { continue };
        // Who lists the real address of a host as its own endpoint means that address.
        let is_itself = next.host == of.host && next.entry.object == of.entry.object;
        return if is_itself && *unlisted == Unlisted::Pass { straight } else { Lead::Service(next) };
    }
    match users.first() {
        Some((host, view, Unlisted::Refuse)) => Lead::Refused(format!(
            "endpoint {address} is a virtual address of {host} of {}, which does not list port {port}; it gets no \
             connections",
            view.primary().object
        )),
        _ => straight,
    }
}

/// The view of `host`, with the snapshot's own copy of its name.
fn view_of<'a>(known: Known<'a>, host: &HostName, scope: &Scope) -> Option<(&'a HostName, View<'a>)> {
    let host = known.snapshot.host(host)?;
    Some((host, view_for(known.snapshot, host, scope)?))
}

/// The service for `port` in `view`, over the transport that `of` has.
fn service<'a>(view: &View<'a>, host: &'a HostName, of: Of<'_>, port: u16) -> Option<Of<'a>> {
    let transport = of.port.protocol.transport();
    view.entries.iter().find_map(|(entry, ports)| {
        let port = ports.iter().find(|p| p.number == port && p.protocol.transport() == transport)?;
        Some(Of { entry, host, port })
    })
}
