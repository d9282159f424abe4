//! A folder of files as a source.
//!
//! In: `*.yaml`, `*.yml` and `*.json` of one folder. Out: events. Never: validation, folders within, or waiting
//! for a pipe.

mod pending;
mod read;
mod scan;
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
    pending::Pending,
    scan::{Scan, Wanted},
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
    /// A file is read when nothing has touched it for this long.
    pub quiet: Duration,
    /// All files are read this often even when nothing seems to have changed: the system does not tell of files
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
    let folder = std::path::absolute(&dir).unwrap_or(dir);
    let mut state = State::new(&folder, options.rescan);
    let mut pending = Pending::default();
    // Watched before it is read, so that no change falls between.
    let mut watcher = Watcher::new(&folder);
    let first = scan(&folder, &options, Wanted::All { except: BTreeSet::new() }).await?;
    if let Scan::Lost(source) = first {
        return Err(FileSourceError::from_io(&folder, source));
    }
    let mut events = state.update(first, watcher.failure());
    events.push(Event::Synced);
    let mut next_rescan = Instant::now() + options.rescan;
    loop {
        for event in events.drain(..) {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                sent = tx.send(event) => if sent.is_err() { return Ok(()) },
            }
        }
        let wanted = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            signals = watcher.signals() => {
                pending.add(signals, Instant::now());
                continue;
            }
            wanted = pending.quiet_for(options.quiet) => wanted,
            () = tokio::time::sleep_until(next_rescan) => pending.all(),
        };
        let is_full = matches!(wanted, Wanted::All { .. });
        if is_full {
            watcher.renew();
        }
        let found = scan(&folder, &options, wanted).await?;
        if matches!(found, Scan::Lost(_)) {
            next_rescan = Instant::now() + options.retry;
        } else if is_full {
            next_rescan = Instant::now() + options.rescan;
        }
        events = state.update(found, watcher.failure());
    }
}

async fn scan(folder: &Path, options: &Options, wanted: Wanted) -> Result<Scan, FileSourceError> {
    let (at, max_file_bytes) = (folder.to_owned(), options.max_file_bytes);
    // Disks are slow at times, and the others have work to do.
    tokio::task::spawn_blocking(move || Scan::of(&at, max_file_bytes, wanted))
        .await
        .map_err(|source| FileSourceError::Interrupted { folder: folder.to_owned(), source })
}
