//! What has news, for whoever waits for it.
//!
//! In: names. Out: each name once, however often it was told since the last look. Never: more than one of each.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::Notify;

/// Who is told.
#[derive(Debug)]
pub(super) struct News<T> {
    listeners: Mutex<Vec<Weak<Inbox<T>>>>,
}

#[derive(Debug)]
struct Inbox<T> {
    names: Mutex<BTreeSet<T>>,
    arrived: Notify,
}

impl<T> Default for News<T> {
    fn default() -> Self {
        Self { listeners: Mutex::default() }
    }
}

impl<T: Ord + Clone> News<T> {
    /// Tells of these, and wakes everyone even if there are none.
    pub(super) fn tell(&self, names: impl IntoIterator<Item = T>) {
        let names: Vec<_> = names.into_iter().collect();
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| {
            let Some(inbox) = listener.upgrade() else { return false };
            inbox.names.lock().unwrap_or_else(PoisonError::into_inner).extend(names.iter().cloned());
            inbox.arrived.notify_one();
            true
        });
    }

    /// Who hears of what is told from now on.
    pub(super) fn listen(&self) -> Changes<T> {
        let inbox = Arc::new(Inbox { names: Mutex::default(), arrived: Notify::new() });
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Arc::downgrade(&inbox));
        Changes { inbox }
    }
}

/// News, as they come.
#[derive(Debug)]
pub struct Changes<T> {
    inbox: Arc<Inbox<T>>,
}

impl<T: Ord> Changes<T> {
    /// Waits until there is news, and answers what has any. Nothing is lost when the wait is given up.
    pub async fn next(&mut self) -> BTreeSet<T> {
        loop {
            let names = self.now();
            if !names.is_empty() {
                return names;
            }
            self.woken().await;
        }
    }

    /// What has news since the last look.
    pub fn now(&mut self) -> BTreeSet<T> {
        std::mem::take(&mut *self.inbox.names.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until somebody has told something, or nothing.
    pub(super) async fn woken(&mut self) {
        self.inbox.arrived.notified().await;
    }
}
