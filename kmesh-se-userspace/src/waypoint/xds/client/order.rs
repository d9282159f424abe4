//! What has to come before what on a stream.
//!
//! In: what an Envoy has and was sent. Out: whether a resource may come, or go. Never: a wait for what was refused: others are not to
//! suffer from that.

use std::sync::Arc;

use super::{Client, Has, shared};
use crate::waypoint::{
    resources::{Kind, whole_of},
    xds::book::{Book, Record},
};

impl Client {
    /// Whether what a listener needs has been taken.
    pub(super) fn may_listen(&self, record: &Record) -> bool {
        let has = |kind: Kind| {
            let subscription = &self.subscriptions[kind as usize];
            subscription.has.contains_key(&record.name) && !subscription.is_pending(&record.name)
        };
        let is_asked_for = self.subscriptions[Kind::Cluster as usize].is_open;
        let needs_endpoints = record.version(Kind::Endpoints).is_some();
        let has_own = || has(Kind::Cluster) && (!needs_endpoints || has(Kind::Endpoints));
        !is_asked_for || (has_own() && self.may_route(record))
    }

    /// Whether those whom a route may lead to have been taken, or refused: others are not to wait for these.
    pub(super) fn may_route(&self, record: &Record) -> bool {
        let is_asked_for = self.subscriptions[Kind::Cluster as usize].is_open;
        let is_settled = |part: &Record, kind: Kind| {
            let subscription = &self.subscriptions[kind as usize];
            let refused = subscription.refused.get(&part.name).map(|refused| refused.version);
            let is_refused = refused.is_some() && refused == part.version(kind);
            let has = subscription.has.contains_key(&part.name);
            (!subscription.is_pending(&part.name) && (has || is_refused), is_refused)
        };
        let is_there = |part: &Arc<Record>| {
            let (is_told, is_refused) = is_settled(part, Kind::Cluster);
            let needs_endpoints = part.version(Kind::Endpoints).is_some() && !is_refused;
            is_told && (!needs_endpoints || is_settled(part, Kind::Endpoints).0)
        };
        !is_asked_for || record.parts.iter().all(is_there)
    }

    /// Whether a listener leads to the cluster of this name, which is in no book any more, or a route, as far as is known.
    pub(super) fn may_use(&self, name: &Arc<str>, book: &Book) -> bool {
        let of = |kind: Kind| &self.subscriptions[kind as usize];
        let (listeners, routes) = (of(Kind::Listener), of(Kind::Route));
        // An Envoy that comes back tells of its clusters before it tells of its listeners.
        if !listeners.is_open {
            return true;
        }
        let Some(whole) = whole_of(name) else { return listeners.may_have(name) };
        let whole = shared(whole, book);
        if !listeners.may_have(&whole) {
            return false;
        }
        let leads_there = |has: &Has| {
            has.record.as_ref().is_some_and(|record| record.parts.iter().any(|part| part.name == *name))
        };
        let record = book.get(&whole);
        let newest = |kind| record.and_then(|record| record.version(kind));
        let sent = routes.sent.as_ref().and_then(|sent| sent.resources.get(&whole));
        sent.is_some_and(leads_there)
            || match routes.has.get(&whole) {
                Some(has) if has.record.is_some() => leads_there(has),
                // What an Envoy that comes back has is known only if it is the newest.
                Some(has) => newest(Kind::Route) != Some(has.version),
                None if newest(Kind::Route).is_some() => !routes.is_open,
                // It may have had one until its listener is the newest.
                None => listeners.has.get(&whole).map(|has| has.version) != newest(Kind::Listener),
            }
    }
}
