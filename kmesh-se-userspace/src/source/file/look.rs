//! One look at a folder.
//!
//! In: a folder and what is wanted of it. Out: what has changed, as it is found. Never: more text in memory than one file
//! or one portion of small ones, or a second reading of a file that is as it was.

use std::{
    collections::BTreeSet, fs::Metadata, io, os::unix::fs::MetadataExt, path::PathBuf, time::SystemTime,
};

use super::{
    ReadError, read,
    state::{Draft, State},
};
use crate::{model::parse_documents, source::Event};

/// Files are read together until they have so many bytes.
const PORTION: usize = 4 << 20;
/// A file that was changed again within the grain of its times looks as before; after this long its times can be trusted.
const GRAIN_SECS: i64 = 2;

/// What to look at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// These files.
    Files(BTreeSet<String>),
    /// All files but these, which are still being written.
    All { except: BTreeSet<String> },
}

/// Which file, and as of when: two equal ones mean that the file is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Why a look has ended early.
#[derive(Debug)]
pub(super) enum Cut {
    /// The folder cannot be listed.
    Lost(io::Error),
    /// Nobody listens any more.
    Unheard,
}

/// A folder to look at.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) max_file_bytes: u64,
}

/// What one file gave.
type Found = (String, Option<Stamp>, Result<Vec<u8>, ReadError>);

impl Folder {
    /// Brings `state` up to date and tells of what has changed, until `tell` says that nobody listens. It waits for the disk
    /// and for who listens only.
    pub(super) fn look(
        &self,
        state: &mut State,
        wanted: Wanted,
        tell: &mut impl FnMut(Event) -> bool,
    ) -> Result<(), Cut> {
        let mut names = match wanted {
            Wanted::Files(names) => names.into_iter().collect(),
            Wanted::All { except } => {
                let listing = read::list(&self.path).map_err(Cut::Lost)?;
                state.present(&listing, &except);
                let is_quiet = |name: &String| !except.contains(name);
                listing
                    .names
                    .into_iter()
                    .filter(is_quiet)
                    .filter(|name| !self.is_as_seen(state, name))
                    .collect::<Vec<_>>()
            }
        }
        .into_iter();
        while let Some(portion) = self.read_portion(&mut names) {
            // Files went alone, or with the folder.
            if portion.iter().any(|(_, _, found)| matches!(found, Err(ReadError::Gone))) {
                read::list(&self.path).map_err(Cut::Lost)?;
            }
            take(state, portion);
            if !state.news().all(&mut *tell) {
                return Err(Cut::Unheard);
            }
        }
        Ok(())
    }

    fn is_as_seen(&self, state: &State, name: &str) -> bool {
        let now = || std::fs::metadata(self.path.join(name)).ok().as_ref().and_then(Stamp::of);
        state.stamp(name).is_some_and(|before| now() == Some(before))
    }

    /// Reads the next files; none when there are no more.
    fn read_portion(&self, names: &mut impl Iterator<Item = String>) -> Option<Vec<Found>> {
        let (mut portion, mut bytes) = (Vec::new(), 0);
        while bytes < PORTION
            && let Some(name) = names.next()
        {
            let path = self.path.join(&name);
            let stamp = std::fs::metadata(&path).ok().as_ref().and_then(Stamp::of);
            let found = read::read(&path, self.max_file_bytes);
            bytes += found.as_ref().map_or(0, Vec::len);
            portion.push((name, stamp, found));
        }
        (!portion.is_empty()).then_some(portion)
    }
}

/// Parses what is new in these files, all of it together, and hands it over file by file.
fn take(state: &mut State, portion: Vec<Found>) {
    let drafts: Vec<_> = portion
        .iter()
        .map(|(name, _, found)| found.as_ref().ok().map(|bytes| Draft::of(bytes, state.contents(name))))
        .collect();
    let unknown: Vec<_> = drafts.iter().flatten().flat_map(Draft::unknown).collect();
    let mut parsed = parse_documents(&unknown).into_iter();
    let drafts: Vec<_> = drafts.into_iter().map(|draft| draft.map(|draft| draft.with(&mut parsed))).collect();
    for ((name, stamp, found), draft) in portion.into_iter().zip(drafts) {
        match (found, draft) {
            (Err(error), _) => state.unreadable(&name, &error),
            (Ok(_), Some(read)) => state.read(&name, read, stamp),
            (Ok(_), None) => {}
        }
    }
}

impl Stamp {
    /// None while the times cannot be trusted.
    fn of(metadata: &Metadata) -> Option<Self> {
        let newest = metadata.mtime().max(metadata.ctime());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let age_secs = i64::try_from(now).ok()?.saturating_sub(newest);
        (age_secs > GRAIN_SECS).then(|| Self {
            file: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}
