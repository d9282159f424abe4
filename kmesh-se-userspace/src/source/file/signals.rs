//! What the system tells of a folder.
//!
//! In: notifications of the file system. Out: names that were touched, and how. Never: reading, or a backlog without
//! bound.

use std::{
    collections::BTreeMap,
    fs, mem,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use tokio::sync::Notify;

use super::read;

/// More names than this are the whole folder.
const MAX_FILES: usize = 4096;

/// What was done to a file, as far as it says how whole the file is. What came last counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    /// Something of it changed; more may follow.
    Changed,
    /// Somebody who wrote it closed it. Whoever writes line by line does so after each.
    Closed,
    /// It was moved to where it is, as a whole.
    Moved,
}

/// What was touched since the last time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Signals {
    /// The files that are read, by name.
    pub(super) files: BTreeMap<String, Touch>,
    /// Perhaps everything.
    pub(super) folder: Option<Touch>,
}

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Heard>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct Heard {
    signals: Signals,
    /// The file that was moved away last, with the number of that move.
    moved_away: Option<(usize, String)>,
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
    pub(super) fn failure(&self) -> Option<String> {
        self.active.as_ref().err().map(ToString::to_string)
    }

    /// Waits for signals and takes all there are.
    pub(super) async fn signals(&self) -> Signals {
        self.shared.woken.notified().await;
        mem::take(&mut self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner).signals)
    }
}

impl Active {
    fn new(folder: &Path, shared: &Arc<Shared>) -> Result<Self, notify::Error> {
        let (told, root) = (shared.clone(), folder.to_owned());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            told.tell(&root, &event);
        })?;
        let before = identity(folder);
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        // If it was replaced just now, the next renewal sees that it is another.
        Ok(Self { identity: before.unwrap_or_default(), _watcher: watcher })
    }
}

impl Shared {
    fn tell(&self, folder: &Path, event: &notify::Result<Event>) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(event) if is_no_news(event.kind) => return,
            Ok(event) if !event.need_rescan() => heard.add(folder, event),
            // It lost some, or does not know.
            _ => heard.signals.folder = Some(Touch::Changed),
        }
        let is_empty = heard.signals == Signals::default();
        drop(heard);
        if !is_empty {
            self.woken.notify_one();
        }
    }
}

impl Heard {
    fn add(&mut self, folder: &Path, event: &Event) {
        let touch = match event.kind {
            EventKind::Access(_) => Touch::Closed,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Touch::Moved,
            _ => Touch::Changed,
        };
        for path in &event.paths {
            let name = path.file_name().and_then(|name| name.to_str());
            match name {
                _ if path == folder => self.signals.folder = Some(Touch::Changed),
                Some(name) if read::is_read(name) => self.add_file(name, touch, event),
                // A ConfigMap's files are links through `..data`, which is what changes.
                Some(name) if name.starts_with("..") => self.signals.folder = Some(touch),
                Some(_) => {}
                None => self.signals.folder = Some(touch),
            }
        }
        if self.signals.files.len() > MAX_FILES {
            self.signals.files.clear();
            self.signals.folder = Some(Touch::Changed);
        }
    }

    fn add_file(&mut self, name: &str, touch: Touch, event: &Event) {
        self.signals.files.insert(name.to_owned(), touch);
        let EventKind::Modify(ModifyKind::Name(mode)) = event.kind else { return };
        match (mode, event.tracker()) {
            // An editor that keeps the old file under another name is about to write a new one here.
            (RenameMode::From, Some(number)) => self.moved_away = Some((number, name.to_owned())),
            // From one file that is read to another: nothing is to come of the first.
            (RenameMode::To, number) => {
                if let Some((_, from)) = self.moved_away.take_if(|(from, _)| Some(*from) == number) {
                    self.signals.files.insert(from, Touch::Moved);
                }
            }
            _ => {}
        }
    }
}

/// Whether somebody only looks, as this source does itself; or the two ends of a renaming are told of once more.
fn is_no_news(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access != AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => true,
        _ => false,
    }
}

fn identity(folder: &Path) -> Option<(u64, u64)> {
    fs::metadata(folder).ok().map(|m| (m.dev(), m.ino()))
}
