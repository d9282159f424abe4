//! The Envoys that have been here, and what each made of the services.
//!
//! In: what their streams hear. Out: standings. Never: more than a few Envoys that are not connected.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::Serialize;

use super::book::Record;

/// How many Envoys that are not connected are remembered.
const GONE_MAX: usize = 64;

/// What one Envoy made of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Whether it listens at the service's port: it has taken the service, in the version that is in force or in an
    /// earlier one with the same listener port.
    pub serves: bool,
    /// Whether it has taken the version that is in force.
    pub current: bool,
    /// Why it refused the version that is in force, in its own words. The last good version stays at work.
    pub rejected: Option<String>,
}

/// An Envoy that is connected, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// Its id, from the bootstrap.
    pub id: Arc<str>,
    /// Whether it is connected now. One that is not goes on with what it has, unless it has ended.
    pub connected: bool,
    /// How many services it serves.
    pub serves: usize,
    /// How many services it refused, in the version that is in force.
    pub rejected: usize,
    /// What it was sent since it connected.
    pub sent: Sent,
}

/// What was sent on a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// Responses.
    pub responses: u64,
    /// Resources in them, removed ones included.
    pub resources: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Node {
    /// The number of its stream.
    stream: u64,
    connected: bool,
    sent: Sent,
    standings: HashMap<Arc<str>, Standing>,
}

/// All Envoys, by id.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<Arc<str>, Node>,
    streams: u64,
}

impl Nodes {
    /// Notes that an Envoy has a new stream, and answers its number.
    pub(super) fn connect(&mut self, id: &Arc<str>) -> u64 {
        self.streams += 1;
        let node = self.nodes.entry(Arc::clone(id)).or_default();
        (node.stream, node.connected, node.sent) = (self.streams, true, Sent::default());
        let gone = || self.nodes.iter().filter(|(_, node)| !node.connected);
        if gone().count() > GONE_MAX
            && let Some(oldest) = gone().min_by_key(|(_, node)| node.stream).map(|(id, _)| Arc::clone(id))
        {
            self.nodes.remove(&oldest);
        }
        self.streams
    }

    /// Notes that a stream has ended.
    pub(super) fn disconnect(&mut self, id: &str, stream: u64) {
        if let Some(node) = self.of_stream(id, stream) {
            node.connected = false;
        }
    }

    /// Notes what was sent.
    pub(super) fn sent(&mut self, id: &str, stream: u64, resources: usize, bytes: usize) {
        if let Some(node) = self.of_stream(id, stream) {
            node.sent.responses += 1;
            node.sent.resources += resources as u64;
            node.sent.bytes += bytes as u64;
        }
    }

    /// Forgets what an Envoy that has just started made of the services before; answers their names.
    pub(super) fn start(&mut self, id: &str, stream: u64) -> Vec<Arc<str>> {
        let node = self.of_stream(id, stream);
        node.map(|node| std::mem::take(&mut node.standings).into_keys().collect()).unwrap_or_default()
    }

    /// Replaces a standing; answers whether it has changed.
    pub(super) fn restate(
        &mut self,
        (id, stream): (&str, u64),
        name: &Arc<str>,
        change: impl FnOnce(&Standing) -> Standing,
    ) -> bool {
        let Some(node) = self.of_stream(id, stream) else { return false };
        let before = node.standings.get(name).cloned().unwrap_or_default();
        let now = change(&before);
        let has_changed = now != before;
        if has_changed {
            if let Some(why) = now.rejected.as_ref().filter(|_| now.rejected != before.rejected) {
                tracing::warn!(node = id, service = &**name, error = why, "a waypoint refused a service");
            }
            node.standings.insert(Arc::clone(name), now);
        }
        has_changed
    }

    /// Notes that a service was replaced or removed, before any Envoy has heard of it.
    pub(super) fn service_changed(&mut self, name: &str, before: Option<&Record>, now: Option<&Record>) {
        let port = |record: &Record| record.service.listener_port;
        let same_port = before.map(port) == now.map(port);
        for node in self.nodes.values_mut() {
            if now.is_none() {
                node.standings.remove(name);
            } else if let Some(standing) = node.standings.get_mut(name) {
                *standing = Standing { serves: standing.serves && same_port, ..Standing::default() };
            }
        }
    }

    /// Forgets an Envoy; answers the names of the services that it had made something of.
    pub(super) fn forget(&mut self, id: &str) -> Vec<Arc<str>> {
        let node = self.nodes.remove(id);
        node.map(|node| node.standings.into_keys().collect()).unwrap_or_default()
    }

    /// What each made of a service.
    pub(super) fn standings(&self, name: &str) -> Vec<(Arc<str>, Standing)> {
        let of = |node: &Node| node.standings.get(name).cloned().unwrap_or_default();
        self.nodes.iter().map(|(id, node)| (Arc::clone(id), of(node))).collect()
    }

    /// What each refused: the name of the service, the id of the node, its words.
    pub(super) fn rejections(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &String)> {
        self.nodes.iter().flat_map(|(id, node)| {
            let refused = node.standings.iter();
            refused.filter_map(move |(name, standing)| Some((name, id, standing.rejected.as_ref()?)))
        })
    }

    /// All of them.
    pub(super) fn infos(&self) -> Vec<NodeInfo> {
        let info = |(id, node): (&Arc<str>, &Node)| {
            let count = |what: fn(&Standing) -> bool| node.standings.values().filter(|s| what(s)).count();
            NodeInfo {
                id: Arc::clone(id),
                connected: node.connected,
                serves: count(|standing| standing.serves),
                rejected: count(|standing| standing.rejected.is_some()),
                sent: node.sent,
            }
        };
        self.nodes.iter().map(info).collect()
    }

    /// The node, if this is still its stream.
    fn of_stream(&mut self, id: &str, stream: u64) -> Option<&mut Node> {
        self.nodes.get_mut(id).filter(|node| node.stream == stream)
    }
}
