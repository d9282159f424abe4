//! What the files of a folder say, and what was told of it.
//!
//! In: what each look at the folder found. Out: events for what has changed. Never: I/O, a clock, or an object that was
//! told and is not needed to tell of it again.

mod contents;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;

use self::contents::Held;
pub(super) use self::contents::{Contents, Draft, Read};
use super::{Listing, ReadError, look::Stamp};
use crate::{
    model::{ObjectRef, Reason},
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
    files: BTreeMap<Arc<str>, Contents>,
    objects: BTreeMap<ObjectRef, Known>,
    told_problems: BTreeMap<String, Vec<Problem>>,
    /// Names that cannot be shown as they are.
    unreadable_names: Vec<String>,
    look: Look,
}

/// An object that some file defines.
#[derive(Debug, Default)]
struct Known {
    /// The digest of what was told of it.
    told: Option<u64>,
    /// Where it is defined, by file name and position; the first counts.
    places: SmallVec<[Place; 1]>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: Arc<str>,
    /// Its place among the objects of the file.
    index: u32,
}

/// What a look has found so far.
#[derive(Debug, Default)]
struct Look {
    events: Vec<Event>,
    /// Objects that have lost their last definition, unless another file turns out to have it.
    undefined: BTreeSet<ObjectRef>,
    /// Files of which something else may be wrong than before.
    doubtful: BTreeSet<Arc<str>>,
    /// Files that define an object which is needed, or may be, and is not kept.
    wanting: BTreeSet<Arc<str>>,
}

impl State {
    pub(super) fn new(folder: &Path, rescan: Duration) -> Self {
        Self {
            folder: folder.to_owned(),
            rescan,
            files: BTreeMap::new(),
            objects: BTreeMap::new(),
            told_problems: BTreeMap::new(),
            unreadable_names: Vec::new(),
            look: Look::default(),
        }
    }

    pub(super) fn contents(&self, name: &str) -> Option<&Contents> {
        self.files.get(name)
    }

    /// As of when a file need not be read again.
    pub(super) fn stamp(&self, name: &str) -> Option<Stamp> {
        self.files.get(name)?.stamp
    }

    /// The folder holds these files, and no others but those that are still being written.
    pub(super) fn present(&mut self, listing: &Listing, unfinished: &BTreeSet<String>) {
        let is_gone = |name: &str| {
            !unfinished.contains(name) && listing.names.binary_search_by(|n| n.as_str().cmp(name)).is_err()
        };
        let gone: Vec<_> = self.files.keys().filter(|name| is_gone(name)).cloned().collect();
        gone.iter().for_each(|name| self.gone(name));
        let before = mem::replace(&mut self.unreadable_names, listing.unreadable_names.clone());
        self.look.doubtful.extend(before.into_iter().map(Arc::from));
    }

    /// A file holds this now.
    pub(super) fn read(&mut self, name: &str, read: Read, stamp: Option<Stamp>) {
        if read.is_as_before() {
            if let Some(contents) = self.files.get_mut(name) {
                contents.stamp = stamp;
            }
            return;
        }
        self.change(name, |contents| {
            contents.take(read);
            contents.stamp = stamp;
        });
    }

    /// A file cannot be read.
    pub(super) fn unreadable(&mut self, name: &str, error: &ReadError) {
        match error {
            ReadError::Gone => self.gone(name),
            _ => self.change(name, |contents| contents.unreadable(error)),
        }
    }

    fn gone(&mut self, name: &str) {
        let Some((name, contents)) = self.files.remove_entry(name) else { return };
        let touched = self.displace(&name, &contents.objects);
        self.settle(touched, name);
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Contents)) {
        let (name, mut contents) =
            self.files.remove_entry(name).unwrap_or_else(|| (name.into(), Contents::default()));
        let mut touched = self.displace(&name, &contents.objects);
        change(&mut contents);
        for (index, held) in (0..).zip(&contents.objects) {
            let known = self.objects.entry(held.reference.clone()).or_default();
            let place = Place { file: name.clone(), index };
            let at = known.places.partition_point(|other| *other < place);
            known.places.insert(at, place);
            touched.insert(held.reference.clone());
        }
        self.files.insert(name.clone(), contents);
        self.settle(touched, name);
    }

    /// The objects of a file are not where they were; returns which.
    fn displace(&mut self, name: &Arc<str>, objects: &[Held]) -> BTreeSet<ObjectRef> {
        for held in objects {
            if let Some(known) = self.objects.get_mut(&held.reference) {
                known.places.retain(|place| place.file != *name);
                self.look.doubtful.extend(known.places.iter().map(|place| place.file.clone()));
            }
        }
        objects.iter().map(|held| held.reference.clone()).collect()
    }

    /// Finds out what there is to tell of these objects, after a change of the file `name`.
    fn settle(&mut self, touched: BTreeSet<ObjectRef>, name: Arc<str>) {
        self.look.doubtful.insert(name);
        for reference in touched {
            self.settle_object(reference);
        }
    }

    fn settle_object(&mut self, reference: ObjectRef) {
        let Some(known) = self.objects.get_mut(&reference) else { return };
        let is_contested = known.places.len() > 1;
        let mut winner = None;
        for place in &known.places {
            if is_contested {
                self.look.doubtful.insert(place.file.clone());
            }
            let Some(held) = held(&mut self.files, place) else { continue };
            // The others may be needed when those before them go.
            let is_needed = winner.is_some() || known.told != Some(held.digest);
            if is_needed && held.object.is_none() {
                if held.is_only_kept {
                    // Its text is gone and so is the object: nothing can be told of this one.
                    continue;
                }
                self.look.wanting.insert(place.file.clone());
            }
            winner.get_or_insert(place);
        }
        let Some(held) = winner.and_then(|place| held(&mut self.files, place)) else {
            self.look.undefined.insert(reference);
            return;
        };
        self.look.undefined.remove(&reference);
        // What was told is not kept.
        let object = held.object.take();
        if let Some(object) = object.filter(|_| known.told != Some(held.digest)) {
            known.told = Some(held.digest);
            self.look.events.push(Event::Apply(*object));
        }
    }

    /// What has been found to have changed since the last time. What is new comes first: an object that was renamed then
    /// leaves no gap.
    pub(super) fn news(&mut self) -> impl Iterator<Item = Event> {
        mem::take(&mut self.look.events).into_iter()
    }

    /// The folder cannot be listed. All that was read stays in use until it comes back.
    pub(super) fn lost(&mut self, error: &std::io::Error) -> Vec<Event> {
        let message = format!(
            "the folder cannot be listed: {error}; the {} objects read from it before stay in use, and it is read \
             again when it is back",
            self.objects.len()
        );
        let here = self.folder.display().to_string();
        let mut events = mem::take(&mut self.look.events);
        events.extend(self.tell_problems(here, vec![Problem { reason: "FolderLost", message }]));
        events
    }

    /// Ends a look: what is left to tell, and which files have to be read again for what they hold. `unwatched` says why
    /// nothing is watched, if so.
    pub(super) fn finish(&mut self, unwatched: Option<&str>) -> (Vec<Event>, BTreeSet<String>) {
        let Look { mut events, undefined, doubtful, wanting } = mem::take(&mut self.look);
        for name in &wanting {
            if let Some(contents) = self.files.get_mut(name) {
                contents.forget_text();
            }
        }
        for reference in undefined {
            let Some(known) = self.objects.get_mut(&reference) else { continue };
            let was_told = known.told.take().is_some();
            if known.places.is_empty() {
                self.objects.remove(&reference);
            }
            events.extend(was_told.then_some(Event::Delete(reference)));
        }
        let mut problems: BTreeMap<_, _> =
            doubtful.iter().map(|name| (self.origin(name), self.problems_of(name))).collect();
        for name in &self.unreadable_names {
            let message = "its name is not UTF-8, so it is not read; rename it".to_owned();
            problems.insert(self.origin(name), vec![Problem { reason: "FileNameNotUtf8", message }]);
        }
        let unwatched = unwatched.map(|error| {
            let message = format!(
                "the system does not tell of changes ({error}), so they are seen only every {} s; raise \
                 fs.inotify.max_user_watches and max_user_instances",
                self.rescan.as_secs_f32()
            );
            Problem { reason: "FolderNotWatched", message }
        });
        problems.insert(self.folder.display().to_string(), unwatched.into_iter().collect());
        events.extend(
            problems.into_iter().filter_map(|(origin, problems)| self.tell_problems(origin, problems)),
        );
        (events, wanting.iter().map(ToString::to_string).collect())
    }

    /// The problems of a file, with those that other files make for it.
    fn problems_of(&self, name: &str) -> Vec<Problem> {
        let Some(contents) = self.files.get(name) else { return Vec::new() };
        let mut problems = contents.problems();
        for (i, held) in contents.objects.iter().enumerate() {
            let first = self.objects.get(&held.reference).and_then(|known| known.places.first());
            let Some(winner) = first.filter(|place| *place.file != *name || place.index as usize != i) else {
                continue;
            };
            let at = self.files.get(&winner.file).and_then(|c| c.objects.get(winner.index as usize));
            let message = format!(
                "line {}: {} is also defined in {} (line {}), which comes first and is used; remove one of the two",
                held.line(),
                held.reference,
                winner.file,
                at.map_or(0, Held::line)
            );
            problems.push(Problem { reason: Reason::ObjectDuplicate.as_str(), message });
        }
        if problems.len() > MAX_PROBLEMS {
            let message = format!("{} more problems are not listed", problems.len() - MAX_PROBLEMS);
            problems.truncate(MAX_PROBLEMS);
            problems.push(Problem { reason: "TooManyProblems", message });
        }
        problems
    }

    /// Tells what is wrong with `origin`, if that differs from what was told.
    fn tell_problems(&mut self, origin: String, problems: Vec<Problem>) -> Option<Event> {
        let told = self.told_problems.get(&origin);
        if told.map_or(&[][..], Vec::as_slice) == problems {
            return None;
        }
        if problems.is_empty() {
            self.told_problems.remove(&origin);
        } else {
            self.told_problems.insert(origin.clone(), problems.clone());
        }
        Some(Event::Problems { origin, problems })
    }

    fn origin(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

fn held<'a>(files: &'a mut BTreeMap<Arc<str>, Contents>, place: &Place) -> Option<&'a mut Held> {
    files.get_mut(&place.file)?.objects.get_mut(place.index as usize)
}

#[cfg(test)]
mod tests;
