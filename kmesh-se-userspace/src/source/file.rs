//! A folder of files as a source.
//!
//! In: `*.yaml`, `*.yml` and `*.json` of one folder. Out: events. Never: validation, folders within, or waiting
//! for a pipe.

mod look;
mod pending;
mod read;
mod signals;
mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    look::{Cut, Folder, Wanted},
    pending::Pending,
    signals::Watcher,
    state::State,
};
use super::Event;

pub use self::read::{Listing, ReadError, is_read, list, read};

/// How a folder is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Files with more bytes are not read.
    pub max_file_bytes: u64,
    /// A file that is being written is read when nothing has touched it for this long. One that is moved into place is read
    /// at once.
    pub quiet: Duration,
    /// The same for a file that was closed after writing: who appends to it line by line closes it after each.
    pub quiet_closed: Duration,
    /// All files are looked at this often even when nothing seems to have changed: the system does not tell of files
    /// behind symbolic links, nor on some network file systems.
    pub rescan: Duration,
    /// How often to look for a folder that is gone.
    pub retry: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_file_bytes: 16 << 20,
            quiet: Duration::from_millis(100),
            quiet_closed: Duration::from_millis(20),
            rescan: Duration::from_secs(30),
            retry: Duration::from_secs(1),
        }
    }
}

/// Why a folder cannot be a source. All of it is for the operator to fix.
#[derive(Debug, thiserror::Error)]
pub enum FileSourceError {
    /// There is no such folder.
    #[error("the folder {} does not exist; create it, or name another", folder.display())]
    FolderMissing {
        /// Which.
        folder: PathBuf,
    },
    /// It is not a folder.
    #[error("{} is not a folder; name the folder that the files are in", folder.display())]
    NotAFolder {
        /// Which.
        folder: PathBuf,
    },
    /// It cannot be listed.
    #[error("the folder {} cannot be listed; check its owner and mode", folder.display())]
    FolderUnreadable {
        /// Which.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Reading was cut short by a bug.
    #[error("reading the folder {} failed", folder.display())]
    Interrupted {
        /// Which.
        folder: PathBuf,
        /// What happened.
        source: tokio::task::JoinError,
    },
}

impl FileSourceError {
    /// CamelCase code for labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::FolderMissing { .. } => "FolderMissing",
            Self::NotAFolder { .. } => "NotAFolder",
            Self::FolderUnreadable { .. } => "FolderUnreadable",
            Self::Interrupted { .. } => "Interrupted",
        }
    }

    fn from_io(folder: &Path, source: io::Error) -> Self {
        let folder = folder.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::FolderMissing { folder },
            io::ErrorKind::NotADirectory => Self::NotAFolder { folder },
            _ => Self::FolderUnreadable { folder, source },
        }
    }
}

/// Tells of the objects in the files of `dir` until `shutdown`, or until nobody listens any more. The first
/// `Synced` comes when all files that were there have been read.
///
/// # Errors
/// When the folder cannot be listed at the start: tell the operator. Once it could, a folder that goes away is
/// a problem to report, and it is read again when it comes back.
pub async fn watch(
    dir: PathBuf,
    options: Options,
    tx: mpsc::Sender<Event>,
    shutdown: CancellationToken,
) -> Result<(), FileSourceError> {
    let path = std::path::absolute(&dir).unwrap_or(dir);
    let mut state = State::new(&path, options.rescan);
    let mut pending = Pending::default();
    // Watched before it is read, so that no change falls between.
    let mut watcher = Watcher::new(&path);
    let folder = Folder { path, max_file_bytes: options.max_file_bytes };
    let mut wanted = pending.all();
    let mut next_rescan = Instant::now();
    let mut has_synced = false;
    loop {
        let is_full = matches!(wanted, Wanted::All { .. });
        if is_full {
            watcher.renew();
        }
        let look = Look { folder: folder.clone(), state, wanted, unwatched: watcher.failure(), has_synced };
        let looked = look.run(&tx, &shutdown).await?;
        state = looked.state;
        match looked.cut {
            Some(Cut::Unheard) => return Ok(()),
            Some(Cut::Lost(source)) if !has_synced => {
                return Err(FileSourceError::from_io(&folder.path, source));
            }
            Some(Cut::Lost(_)) => next_rescan = Instant::now() + options.retry,
            None if is_full => next_rescan = Instant::now() + options.rescan,
            None => {}
        }
        has_synced = true;
        pending.add_due(looked.again, Instant::now());
        wanted = loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                signals = watcher.signals() => pending.add(signals, Instant::now(), &options),
                wanted = pending.due() => break wanted,
                () = tokio::time::sleep_until(next_rescan) => break pending.all(),
            }
        };
    }
}

/// One look at the folder, on a thread of its own: disks are slow at times, and the others have work to do.
struct Look {
    folder: Folder,
    state: State,
    wanted: Wanted,
    unwatched: Option<String>,
    has_synced: bool,
}

struct Looked {
    state: State,
    cut: Option<Cut>,
    /// Files that must be read again.
    again: BTreeSet<String>,
}

impl Look {
    async fn run(
        self,
        tx: &mpsc::Sender<Event>,
        shutdown: &CancellationToken,
    ) -> Result<Looked, FileSourceError> {
        let path = self.folder.path.clone();
        let (tx, shutdown, runtime) = (tx.clone(), shutdown.clone(), tokio::runtime::Handle::current());
        let tell = move |event| {
            let sent = shutdown.run_until_cancelled(tx.send(event));
            runtime.block_on(sent).is_some_and(|sent| sent.is_ok())
        };
        tokio::task::spawn_blocking(move || self.look(tell))
            .await
            .map_err(|source| FileSourceError::Interrupted { folder: path, source })
    }

    fn look(mut self, mut tell: impl FnMut(Event) -> bool) -> Looked {
        let looked = self.folder.look(&mut self.state, self.wanted, &mut tell);
        let (mut events, again) = match &looked {
            // At the start there is nothing to go on with.
            Err(Cut::Lost(error)) if self.has_synced => (self.state.lost(error), BTreeSet::new()),
            Err(_) => (Vec::new(), BTreeSet::new()),
            Ok(()) => self.state.finish(self.unwatched.as_deref()),
        };
        if looked.is_ok() && !self.has_synced {
            events.push(Event::Synced);
        }
        let is_heard = events.into_iter().all(tell);
        let cut = looked.err().or_else(|| (!is_heard).then_some(Cut::Unheard));
        Looked { state: self.state, cut, again }
    }
}
