//! The services of a waypoint and what its Envoys made of them.
//!
//! In: services, one by one. Out: who serves what, and news of it. Never: a wait for an Envoy.

mod book;
mod client;
mod news;
mod nodes;
mod refusal;
mod serve;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use news::Changes;
pub use nodes::{NodeInfo, Sent, Standing};
pub use serve::ServeError;

use book::{Book, Record};
use news::News;
use nodes::Nodes;

use super::{Service, Settings, resources};
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
    /// For those who ask for standings.
    news: News<ServiceKey>,
    /// For the streams: the names of services that were set.
    orders: News<Arc<str>>,
}

#[derive(Debug, Default)]
struct State {
    book: Book,
    /// Whether the book is complete, so that what it lacks may go.
    is_synced: bool,
    nodes: Nodes,
}

impl Xds {
    /// Nothing to tell yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let (state, news, orders) = (Mutex::default(), News::default(), News::default());
        Self { shared: Arc::new(Shared { settings, state, news, orders }) }
    }

    /// What all services have in common.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Adds, changes or removes (none) one service. Every Envoy is told of this one only, and of nothing when it is as
    /// before.
    pub fn set(&self, key: &ServiceKey, service: Option<Service>) {
        let name: Arc<str> = resources::name(key).into();
        let record = service.map(|service| Arc::new(Record::new(key, service, self.settings())));
        let mut state = self.shared.state();
        if state.book.get(&name).map(|before| &before.service) == record.as_ref().map(|now| &now.service) {
            return;
        }
        let (before, changed) = book::set(&mut state.book, &name, record.clone());
        state.nodes.service_changed(&name, before.as_deref(), record.as_deref());
        drop(state);
        self.shared.orders.tell(changed);
        self.shared.news.tell([key.clone()]);
    }

    /// Says that everything which is known has been set: from now on Envoys are told, and what they have beyond that goes.
    pub fn synced(&self) {
        self.shared.state().is_synced = true;
        self.shared.orders.tell([]);
    }

    /// The services as they were set.
    #[must_use]
    pub fn services(&self) -> Vec<(ServiceKey, Service)> {
        let state = self.shared.state();
        let wholes = state.book.iter().filter(|(name, _)| resources::whole_of(name).is_none());
        wholes.map(|(_, record)| (record.key.clone(), record.service.clone())).collect()
    }

    /// What each Envoy that has been here made of a service, by its node id; none for a service that is not set.
    #[must_use]
    pub fn standing(&self, key: &ServiceKey) -> Vec<(Arc<str>, Standing)> {
        let name = resources::name(key);
        let state = self.shared.state();
        if state.book.contains_key(&*name) { state.nodes.standings(&name) } else { Vec::new() }
    }

    /// The Envoys that are or were connected.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeInfo> {
        self.shared.state().nodes.infos()
    }

    /// What was refused: the service, the node id and Envoy's words.
    #[must_use]
    pub fn rejections(&self) -> Vec<(ServiceKey, Arc<str>, String)> {
        let state = self.shared.state();
        let told = state.nodes.rejections().filter_map(|(name, node, why)| {
            Some((state.book.get(name)?.key.clone(), Arc::clone(node), why.clone()))
        });
        told.collect()
    }

    /// Forgets an Envoy that will not come back.
    pub fn forget(&self, node: &str) {
        let mut state = self.shared.state();
        let names = state.nodes.forget(node);
        let keys = state.keys(&names);
        drop(state);
        self.shared.news.tell(keys);
    }

    /// The services whose standing changes from now on: for a loop that asks [`Self::standing`] of them.
    #[must_use]
    pub fn changes(&self) -> Changes<ServiceKey> {
        self.shared.news.listen()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The keys of services with these names, as far as they are there.
    fn keys<'a>(&self, names: impl IntoIterator<Item = &'a Arc<str>>) -> Vec<ServiceKey> {
        names.into_iter().filter_map(|name| Some(self.book.get(name)?.key.clone())).collect()
    }
}
