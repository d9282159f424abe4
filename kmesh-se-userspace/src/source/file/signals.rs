//! What the system tells of a folder.
//!
//! In: notifications of the file system. Out: names that were touched. Never: reading, or a backlog without
//! bound.

use std::{
    collections::BTreeSet,
    fs, mem,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::sync::Notify;

use super::read;

/// More names than this are the whole folder.
const MAX_FILES: usize = 4096;

/// What was touched since the last time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Signals {
    /// Names of files that are read.
    pub(super) files: BTreeSet<String>,
    /// Perhaps everything.
    pub(super) folder: bool,
}

#[derive(Debug, Default)]
struct Shared {
    signals: Mutex<Signals>,
    woken: Notify,
}

/// Watches one folder.
pub(super) struct Watcher {
    folder: PathBuf,
    shared: Arc<Shared>,
    active: Result<Active, notify::Error>,
}

/// A watch holds on to the folder that it was made for, not to its path.
struct Active {
    identity: (u64, u64),
    /// Stops when dropped.
    _watcher: RecommendedWatcher,
}

impl Watcher {
    /// Watches `folder`, an absolute path, as far as the system lets us.
    pub(super) fn new(folder: &Path) -> Self {
        let shared = Arc::new(Shared::default());
        let active = Active::new(folder, &shared);
        Self { folder: folder.to_owned(), shared, active }
    }

    /// Watches again if it does not, or if another folder is at the path now.
    pub(super) fn renew(&mut self) {
        let now = identity(&self.folder);
        if !matches!((&self.active, now), (Ok(active), Some(now)) if active.identity == now) {
            self.active = Active::new(&self.folder, &self.shared);
        }
    }

    /// Why nothing is watched, if so.
    pub(super) fn failure(&self) -> Option<&notify::Error> {
        self.active.as_ref().err()
    }

    /// Waits for signals and takes all there are.
    pub(super) async fn signals(&self) -> Signals {
        self.shared.woken.notified().await;
        mem::take(&mut *self.shared.signals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Active {
    fn new(folder: &Path, shared: &Arc<Shared>) -> Result<Self, notify::Error> {
        let (told, root) = (shared.clone(), folder.to_owned());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            told.tell(&root, &event);
        })?;
        let before = identity(folder);
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        // If it was replaced just now, the next renewal sees that it is another.
        Ok(Self { identity: before.unwrap_or_default(), _watcher: watcher })
    }
}

impl Shared {
    fn tell(&self, folder: &Path, event: &notify::Result<notify::Event>) {
        let mut signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(event) if is_reading(event.kind) => return,
            Ok(event) if !event.need_rescan() => {
                event.paths.iter().for_each(|path| signals.add(folder, path));
            }
            // It lost some, or does not know.
            _ => signals.folder = true,
        }
        if signals.files.len() > MAX_FILES {
            signals.files.clear();
            signals.folder = true;
        }
        let is_empty = signals.files.is_empty() && !signals.folder;
        drop(signals);
        if !is_empty {
            self.woken.notify_one();
        }
    }
}

impl Signals {
    fn add(&mut self, folder: &Path, path: &Path) {
        let name = path.file_name().and_then(|name| name.to_str());
        match name {
            _ if path == folder => self.folder = true,
            Some(name) if read::is_read(name) => {
                self.files.insert(name.to_owned());
            }
            // A ConfigMap's files are links through `..data`, which is what changes.
            Some(name) if name.starts_with("..") => self.folder = true,
            Some(_) => {}
            None => self.folder = true,
        }
    }
}

/// Whether somebody only looks, as this source does itself.
fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn identity(folder: &Path) -> Option<(u64, u64)> {
    fs::metadata(folder).ok().map(|m| (m.dev(), m.ino()))
}
