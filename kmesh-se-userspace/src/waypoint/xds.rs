//! The services of a waypoint and what its Envoys made of them.
//!
//! In: services, one by one. Out: who serves what, and news of it. Never: a wait for an Envoy.

mod news;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

pub use news::Changes;
use news::News;

use super::{Service, Settings};
use crate::desired::ServiceKey;

/// What Envoys are told; cheap to clone.
#[derive(Clone, Debug)]
pub struct Xds {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    state: Mutex<State>,
    news: News,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<ServiceKey, Service>,
    synced: bool,
    nodes: BTreeMap<Arc<str>, Node>,
}

/// An Envoy that has been here.
#[derive(Debug, Default)]
struct Node {
    connected: bool,
    standings: BTreeMap<ServiceKey, Standing>,
}

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
}

impl Xds {
    /// Nothing to tell yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { shared: Arc::new(Shared { settings, state: Mutex::default(), news: News::default() }) }
    }

    /// What all services have in common.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Adds, changes or removes (none) one service. Every Envoy is told of this one only, and of nothing when it is as
    /// before.
    pub fn set(&self, key: &ServiceKey, service: Option<Service>) {
        let mut state = self.state();
        let before = match service {
            Some(service) => state.services.insert(key.clone(), service),
            None => state.services.remove(key),
        };
        let State { services, nodes, .. } = &mut *state;
        let now = services.get(key);
        if before.as_ref() == now {
            return;
        }
        let same_port = before.as_ref().zip(now).is_some_and(|(a, b)| a.listener_port == b.listener_port);
        for node in nodes.values_mut() {
            if now.is_none() {
                node.standings.remove(key);
            } else if let Some(standing) = node.standings.get_mut(key) {
                *standing = Standing { serves: standing.serves && same_port, ..Standing::default() };
            }
        }
        drop(state);
        self.shared.news.tell([key.clone()]);
    }

    /// Says that everything which is known has been set: from now on Envoys are told, and what they have beyond that goes.
    pub fn synced(&self) {
        self.state().synced = true;
    }

    /// The services as they were set.
    #[must_use]
    pub fn services(&self) -> Vec<(ServiceKey, Service)> {
        self.state().services.iter().map(|(key, service)| (key.clone(), service.clone())).collect()
    }

    /// What each Envoy that has been here made of a service, by its node id; none for a service that is not set.
    #[must_use]
    pub fn standing(&self, key: &ServiceKey) -> Vec<(Arc<str>, Standing)> {
        let state = self.state();
        if !state.services.contains_key(key) {
            return Vec::new();
        }
        let of = |node: &Node| node.standings.get(key).cloned().unwrap_or_default();
        state.nodes.iter().map(|(id, node)| (Arc::clone(id), of(node))).collect()
    }

    /// The Envoys that are or were connected.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeInfo> {
        let info = |(id, node): (&Arc<str>, &Node)| {
            let count = |what: fn(&Standing) -> bool| node.standings.values().filter(|s| what(s)).count();
            NodeInfo {
                id: Arc::clone(id),
                connected: node.connected,
                serves: count(|standing| standing.serves),
                rejected: count(|standing| standing.rejected.is_some()),
            }
        };
        self.state().nodes.iter().map(info).collect()
    }

    /// What every Envoy refused: the service, the node and Envoy's words.
    #[must_use]
    pub fn rejections(&self) -> Vec<(ServiceKey, Arc<str>, String)> {
        let state = self.state();
        let of = |(id, node): (&Arc<str>, &Node)| {
            let refused = node.standings.iter().filter_map(|(key, standing)| {
                Some((key.clone(), Arc::clone(id), standing.rejected.clone()?))
            });
            refused.collect::<Vec<_>>()
        };
        state.nodes.iter().flat_map(of).collect()
    }

    /// Forgets an Envoy that will not come back.
    pub fn forget(&self, node: &str) {
        let gone = self.state().nodes.remove(node);
        self.shared.news.tell(gone.into_iter().flat_map(|node| node.standings.into_keys()));
    }

    /// News of standings from now on: for a loop that asks [`Self::standing`] of what has changed.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.shared.news.listen()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
