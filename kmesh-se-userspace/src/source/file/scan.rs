//! One look at a folder.
//!
//! In: a folder and what is wanted of it. Out: what was found. Never: a memory of what was there before.

use std::{collections::BTreeSet, io, path::Path};

use super::{Listing, ReadError, read};

/// What to look at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// These files.
    Files(BTreeSet<String>),
    /// All files but these, which are still being written.
    All { except: BTreeSet<String> },
}

/// What was found.
#[derive(Debug)]
pub(super) enum Scan {
    /// The folder cannot be listed.
    Lost(io::Error),
    /// The folder's names, and what the wanted files hold. When all were wanted, other files that were there
    /// once are gone, but for those still being written.
    Found {
        listing: Listing,
        files: Vec<(String, Result<Vec<u8>, ReadError>)>,
        all_but: Option<BTreeSet<String>>,
    },
}

impl Scan {
    /// Looks at `folder`. It waits for the disk only.
    pub(super) fn of(folder: &Path, max_file_bytes: u64, wanted: Wanted) -> Self {
        let listing = match read::list(folder) {
            Ok(listing) => listing,
            Err(error) => return Self::Lost(error),
        };
        let is_wanted = |name: &String| match &wanted {
            Wanted::Files(names) => names.contains(name),
            Wanted::All { except } => !except.contains(name),
        };
        let mut files: Vec<_> = listing
            .names
            .iter()
            .filter(|name| is_wanted(name))
            .map(|name| (name.clone(), read::read(&folder.join(name), max_file_bytes)))
            .collect();
        let all_but = match wanted {
            Wanted::All { except } => Some(except),
            Wanted::Files(mut names) => {
                listing.names.iter().for_each(|name| _ = names.remove(name));
                files.extend(names.into_iter().map(|name| (name, Err(ReadError::Gone))));
                None
            }
        };
        // Files went alone, or with the folder.
        if files.iter().any(|(_, found)| matches!(found, Err(ReadError::Gone)))
            && let Err(error) = read::list(folder)
        {
            return Self::Lost(error);
        }
        Self::Found { listing, files, all_but }
    }
}
