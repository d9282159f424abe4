//! What the files of a folder say, and what was told of it.
//!
//! In: what each look at the folder found. Out: events for what has changed. Never: I/O or a clock.

mod contents;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use self::contents::Contents;
use super::{ReadError, scan::Scan};
use crate::{
    model::{Object, ObjectRef, Reason},
    source::{Event, Problem},
};

/// Most problems told of one file; the last then says how many more there are.
const MAX_PROBLEMS: usize = 100;

/// The files of one folder.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    /// For messages: how soon changes are seen when nothing is watched.
    rescan: Duration,
    files: BTreeMap<String, Contents>,
    told: BTreeMap<ObjectRef, Arc<Object>>,
    told_problems: BTreeMap<String, Vec<Problem>>,
}

impl State {
    pub(super) fn new(folder: &Path, rescan: Duration) -> Self {
        let folder = folder.to_owned();
        Self { folder, rescan, files: BTreeMap::new(), told: BTreeMap::new(), told_problems: BTreeMap::new() }
    }

    /// Takes what was found and why nothing is watched, if so; returns what has changed by it.
    pub(super) fn update(&mut self, scan: Scan, unwatched: Option<&notify::Error>) -> Vec<Event> {
        let mut problems = BTreeMap::new();
        let here = self.folder.display().to_string();
        match scan {
            // All that was read stays in use until the folder comes back.
            Scan::Lost(error) => {
                let problem = self.lost(&error);
                problems.insert(here, vec![problem]);
                problems.extend(self.file_problems());
                return self.tell_problems(problems);
            }
            Scan::Found { listing, files, all_but } => {
                if let Some(unfinished) = all_but {
                    let present: BTreeSet<_> = listing.names.into_iter().chain(unfinished).collect();
                    self.files.retain(|name, _| present.contains(name));
                }
                for (name, found) in files {
                    self.file(name, found);
                }
                for name in listing.unreadable_names {
                    let message = "its name is not UTF-8, so it is not read; rename it".to_owned();
                    let problem = Problem { reason: "FileNameNotUtf8", message };
                    problems.insert(self.origin(&name), vec![problem]);
                }
            }
        }
        if let Some(error) = unwatched {
            let message = format!(
                "the system does not tell of changes ({error}), so they are seen only every {} s; raise \
                 fs.inotify.max_user_watches and max_user_instances",
                self.rescan.as_secs_f32()
            );
            problems.insert(here, vec![Problem { reason: "FolderNotWatched", message }]);
        }
        problems.extend(self.file_problems());
        let mut events = self.tell_objects();
        events.extend(self.tell_problems(problems));
        events
    }

    fn file(&mut self, name: String, found: Result<Vec<u8>, ReadError>) {
        match found {
            Ok(bytes) => self.files.entry(name).or_default().read(&bytes),
            Err(ReadError::Gone) => drop(self.files.remove(&name)),
            Err(error) => self.files.entry(name).or_default().unreadable(&error),
        }
    }

    fn lost(&self, error: &std::io::Error) -> Problem {
        let message = format!(
            "the folder cannot be listed: {error}; the {} objects read from it before stay in use, and it is read \
             again when it is back",
            self.told.len()
        );
        Problem { reason: "FolderLost", message }
    }

    /// The definition of each object that counts: the first by file name, then by position.
    fn winners(&self) -> BTreeMap<&ObjectRef, (&str, usize)> {
        let mut winners = BTreeMap::new();
        for (name, contents) in &self.files {
            for (i, held) in contents.objects().iter().enumerate() {
                winners.entry(&held.reference).or_insert((name.as_str(), i));
            }
        }
        winners
    }

    fn tell_objects(&mut self) -> Vec<Event> {
        let mut applied = Vec::new();
        let winners = self.winners();
        for (reference, (name, i)) in &winners {
            let object = &self.files[*name].objects()[*i].object;
            if self.told.get(*reference).is_none_or(|told| told != object) {
                applied.push(((*reference).clone(), object.clone()));
            }
        }
        let gone: Vec<_> = self.told.keys().filter(|r| !winners.contains_key(r)).cloned().collect();
        // What is new comes first: an object that was renamed then leaves no gap.
        let mut events: Vec<_> = applied.iter().map(|(_, o)| Event::Apply(Object::clone(o))).collect();
        self.told.extend(applied);
        for reference in gone {
            self.told.remove(&reference);
            events.push(Event::Delete(reference));
        }
        events
    }

    /// The problems of each file, with those that other files make for it.
    fn file_problems(&self) -> Vec<(String, Vec<Problem>)> {
        let winners = self.winners();
        let problems_of = |(name, contents): (&String, &Contents)| {
            let mut problems = contents.problems();
            for (i, held) in contents.objects().iter().enumerate() {
                let Some((winner, at)) = winners.get(&held.reference).filter(|w| **w != (name.as_str(), i))
                else {
                    continue;
                };
                let message = format!(
                    "line {}: {} is also defined in {winner} (line {}), which comes first and is used; remove one of \
                     the two",
                    held.line,
                    held.reference,
                    self.files[*winner].objects()[*at].line
                );
                problems.push(Problem { reason: Reason::ObjectDuplicate.as_str(), message });
            }
            if problems.len() > MAX_PROBLEMS {
                let message = format!("{} more problems are not listed", problems.len() - MAX_PROBLEMS);
                problems.truncate(MAX_PROBLEMS);
                problems.push(Problem { reason: "TooManyProblems", message });
            }
            (self.origin(name), problems)
        };
        self.files.iter().map(problems_of).collect()
    }

    /// Tells what differs from what was told; `problems` is all that is wrong now.
    fn tell_problems(&mut self, mut problems: BTreeMap<String, Vec<Problem>>) -> Vec<Event> {
        problems.retain(|_, list| !list.is_empty());
        let mut events = Vec::new();
        for (origin, now) in &problems {
            if self.told_problems.get(origin) != Some(now) {
                events.push(Event::Problems { origin: origin.clone(), problems: now.clone() });
            }
        }
        for origin in self.told_problems.keys().filter(|o| !problems.contains_key(*o)) {
            events.push(Event::Problems { origin: origin.clone(), problems: Vec::new() });
        }
        self.told_problems = problems;
        events
    }

    fn origin(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

#[cfg(test)]
mod tests;
