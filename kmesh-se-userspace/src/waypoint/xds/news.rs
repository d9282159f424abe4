//! Which services have news, for whoever waits for it.
//!
//! In: keys. Out: each key once, however often it was told since the last look. Never: more than one of each service.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::Notify;

use crate::desired::ServiceKey;

/// Who is told.
#[derive(Debug, Default)]
pub(super) struct News {
    listeners: Mutex<Vec<Weak<Inbox>>>,
}

#[derive(Debug, Default)]
struct Inbox {
    keys: Mutex<BTreeSet<ServiceKey>>,
    arrived: Notify,
}

impl News {
    /// Tells of these services.
    pub(super) fn tell(&self, keys: impl IntoIterator<Item = ServiceKey>) {
        let keys: Vec<_> = keys.into_iter().collect();
        if keys.is_empty() {
            return;
        }
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| {
            let Some(inbox) = listener.upgrade() else { return false };
            inbox.keys.lock().unwrap_or_else(PoisonError::into_inner).extend(keys.iter().cloned());
            inbox.arrived.notify_one();
            true
        });
    }

    /// Who hears of what is told from now on.
    pub(super) fn listen(&self) -> Changes {
        let inbox = Arc::new(Inbox::default());
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Arc::downgrade(&inbox));
        Changes { inbox }
    }
}

/// News of standings, as they come.
#[derive(Debug)]
pub struct Changes {
    inbox: Arc<Inbox>,
}

impl Changes {
    /// Waits until there is news, and answers which services have any. Nothing is lost when the wait is given up.
    pub async fn next(&mut self) -> BTreeSet<ServiceKey> {
        loop {
            let keys = self.now();
            if !keys.is_empty() {
                return keys;
            }
            self.inbox.arrived.notified().await;
        }
    }

    /// Which services have news since the last look.
    pub fn now(&mut self) -> BTreeSet<ServiceKey> {
        std::mem::take(&mut *self.inbox.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
