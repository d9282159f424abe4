//! What the followers have told, and what of it was told on.
//!
//! In: news of collections, with the time. Out: events, and which collections to follow. Never: a request, or an object that was
//! told on.
//!
//! An object goes when the last collection that held it does without it. A list that begins anew takes nothing away before it is
//! complete.

mod problems;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use smallvec::SmallVec;

use self::problems::Fault;
use super::{
    Interest, Trouble,
    follow::{Applied, FollowerId, What},
    resource::{Collection, selections},
};
use crate::{
    model::{Issue, Kind, Namespace, Object, ObjectRef},
    source::{Event, Problem},
};

/// A resource that is not served this many times, one after the other, is gone, and its objects with it.
const GONE: u32 = 3;

/// All collections and their objects.
#[derive(Debug)]
pub(super) struct State {
    /// This node; none for what is of no node.
    node: Option<ObjectRef>,
    /// Whether the Pods that entries select matter.
    follows_selectors: bool,
    next: u64,
    follows: BTreeMap<FollowerId, Follow>,
    objects: BTreeMap<ObjectRef, SmallVec<[Hold; 1]>>,
    /// The selectors of entries.
    selectors: BTreeMap<ObjectRef, Selector>,
    /// Whether they have changed since Pods were last followed by them.
    are_selectors_new: bool,
    /// What was told to be wrong with collections.
    told_faults: Told,
    /// And with objects.
    told_problems: Told,
    is_synced: bool,
}

/// A namespace, and the labels that Pods there must have.
type Selector = (Namespace, BTreeMap<String, String>);
/// The problems of each origin.
type Told = BTreeMap<String, Vec<Problem>>;

/// One collection.
#[derive(Debug)]
struct Follow {
    collection: Collection,
    /// Counts its lists.
    list: u32,
    /// Whether it was listed once, or cannot be.
    is_settled: bool,
    /// Whether it is not followed any more, and only holds objects until those that took its place have listed theirs.
    is_over: bool,
    fault: Option<Fault>,
    /// How many times it was not served, one after the other.
    unserved: u32,
}

/// That a collection holds an object.
#[derive(Clone, Copy, Debug)]
struct Hold {
    by: FollowerId,
    /// In which of its lists it was seen last.
    list: u32,
    version: Option<u64>,
}

/// Which followers to start, and which to stop.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Change {
    pub(super) start: Vec<(FollowerId, Collection)>,
    pub(super) stop: Vec<FollowerId>,
}

impl State {
    /// Nothing yet.
    pub(super) fn new(interest: &Interest) -> Self {
        let node = match interest {
            Interest::Node { name, .. } => {
                let (kind, namespace) = (Kind::Node, Namespace::new(""));
                Some(ObjectRef { kind, namespace, name: name.as_str().into() })
            }
            Interest::Waypoints(_) | Interest::Entries => None,
        };
        let follows_selectors = *interest != Interest::Entries;
        Self {
            node,
            follows_selectors,
            next: 0,
            follows: BTreeMap::new(),
            objects: BTreeMap::new(),
            selectors: BTreeMap::new(),
            are_selectors_new: false,
            told_faults: BTreeMap::new(),
            told_problems: BTreeMap::new(),
            is_synced: false,
        }
    }

    /// Follows `collection` from now on.
    pub(super) fn follow(&mut self, collection: Collection) -> (FollowerId, Collection) {
        let id = FollowerId(self.next);
        self.next += 1;
        let follow = Follow {
            collection: collection.clone(),
            list: 0,
            is_settled: false,
            is_over: false,
            fault: None,
            unserved: 0,
        };
        self.follows.insert(id, follow);
        (id, collection)
    }

    /// Takes in what a follower told at `now`.
    pub(super) fn take(&mut self, from: FollowerId, what: What, now: Timestamp) -> Vec<Event> {
        let Some(follow) = self.follows.get_mut(&from).filter(|follow| !follow.is_over) else {
            return Vec::new();
        };
        let mut events = match what {
            What::Connected => {
                follow.unserved = 0;
                if follow.fault.take().is_some() {
                    tracing::info!(collection = %follow.collection, "the API server answers again");
                }
                Vec::new()
            }
            What::Listing => {
                follow.list += 1;
                Vec::new()
            }
            What::Listed => {
                follow.is_settled = true;
                let list = follow.list;
                tracing::debug!(collection = %follow.collection, "listed");
                self.drop_holds(|hold| hold.by == from && hold.list < list)
            }
            What::Applied(applied) => self.apply(from, *applied),
            What::Deleted(reference) => self.release(&reference, |hold| hold.by == from),
            What::Failed(verb, trouble) => {
                let is_unserved = trouble == Trouble::NotServed;
                follow.unserved = if is_unserved { follow.unserved + 1 } else { 0 };
                let is_gone = follow.unserved >= GONE;
                let is_optional = follow.collection.is_optional();
                if is_unserved && is_optional {
                    follow.fault = None;
                    follow.is_settled = true;
                } else {
                    let fault = Fault::set(&mut follow.fault, verb, trouble, now);
                    // Who says what entries get must have seen all of them; a node goes on without what cannot be had.
                    follow.is_settled |= (self.node.is_some() || is_optional) && fault.is_settled(now);
                }
                if is_gone { self.drop_holds(|hold| hold.by == from) } else { Vec::new() }
            }
        };
        events.extend(self.tell_faults());
        events
    }

    fn apply(&mut self, from: FollowerId, applied: Applied) -> Vec<Event> {
        let Applied { reference, version, read } = applied;
        let list = self.follows.get(&from).map_or(0, |follow| follow.list);
        let holds = self.objects.entry(reference.clone()).or_default();
        // Two followers may see an object at different times.
        let is_known = version.is_some()
            && holds
                .iter()
                .any(|hold| if hold.by == from { hold.version == version } else { hold.version >= version });
        holds.retain(|hold| hold.by != from);
        holds.push(Hold { by: from, list, version });
        if is_known {
            return Vec::new();
        }
        let (selector, issues, event) = match read {
            Ok((object, warnings)) => (selector_of(&object), warnings, Event::Apply(object)),
            // What it said before is not what it says now.
            Err(errors) => (None, errors, Event::Delete(reference.clone())),
        };
        self.set_selector(&reference, selector);
        let problems = issues.iter().map(|issue| of_object(&reference, issue)).collect();
        let problems = tell(&mut self.told_problems, problems::origin_of(&reference), problems);
        [event].into_iter().chain(problems).collect()
    }

    fn set_selector(&mut self, reference: &ObjectRef, selector: Option<Selector>) {
        let before = match selector.clone() {
            Some(selector) => self.selectors.insert(reference.clone(), selector),
            None => self.selectors.remove(reference),
        };
        self.are_selectors_new |= before != selector && self.follows_selectors;
    }

    /// Takes back the holds that `is_over` says; objects without one are gone.
    fn drop_holds(&mut self, is_over: impl Fn(&Hold) -> bool) -> Vec<Event> {
        let is_held = |holds: &SmallVec<[Hold; 1]>| holds.iter().any(&is_over);
        let concerned: Vec<_> =
            self.objects.iter().filter(|(_, holds)| is_held(holds)).map(|(r, _)| r.clone()).collect();
        concerned.iter().flat_map(|reference| self.release(reference, &is_over)).collect()
    }

    fn release(&mut self, reference: &ObjectRef, is_over: impl Fn(&Hold) -> bool) -> Vec<Event> {
        let Some(holds) = self.objects.get_mut(reference) else { return Vec::new() };
        holds.retain(|hold| !is_over(hold));
        if !holds.is_empty() {
            return Vec::new();
        }
        self.objects.remove(reference);
        self.set_selector(reference, None);
        let well = tell(&mut self.told_problems, problems::origin_of(reference), Vec::new());
        [Event::Delete(reference.clone())].into_iter().chain(well).collect()
    }

    /// Which Pods to follow beside those that are followed, and which no longer, now that entries have changed; once all entries
    /// are known. Those that are followed no longer keep their objects until the new ones have told theirs.
    pub(super) fn adjust(&mut self) -> (Change, Vec<Event>) {
        let mut change = Change::default();
        let are_entries_known = self
            .follows
            .values()
            .all(|follow| follow.is_settled || follow.collection != Collection::ServiceEntries);
        if are_entries_known && std::mem::take(&mut self.are_selectors_new) {
            let selections = selections(self.selectors.values());
            let mut missing: BTreeSet<_> = selections.into_iter().map(Collection::Pods).collect();
            for (id, follow) in self.follows.iter_mut().filter(|(_, follow)| !follow.is_over) {
                let is_of_selectors = matches!(follow.collection, Collection::Pods(_));
                if is_of_selectors && !missing.remove(&follow.collection) {
                    follow.is_over = true;
                    change.stop.push(*id);
                }
            }
            change.start.extend(missing.into_iter().map(|collection| self.follow(collection)));
        }
        (change, self.end_those_that_are_over())
    }

    fn end_those_that_are_over(&mut self) -> Vec<Event> {
        if self.follows.values().any(|follow| !follow.is_settled && !follow.is_over) {
            return Vec::new();
        }
        let over: BTreeSet<_> =
            self.follows.iter().filter(|(_, follow)| follow.is_over).map(|(id, _)| *id).collect();
        if over.is_empty() {
            return Vec::new();
        }
        self.follows.retain(|id, _| !over.contains(id));
        let mut events = self.drop_holds(|hold| over.contains(&hold.by));
        events.extend(self.tell_faults());
        events
    }

    /// Says once that everything was told which can be told.
    pub(super) fn sync(&mut self) -> Option<Event> {
        if self.is_synced || !self.follows.values().all(|follow| follow.is_settled) {
            return None;
        }
        self.is_synced = true;
        Some(Event::Synced)
    }

    fn tell_faults(&mut self) -> Vec<Event> {
        let faulty = self.follows.values().filter(|follow| !follow.is_over);
        let faults = faulty.filter_map(|follow| Some((&follow.collection, follow.fault.as_ref()?)));
        let mut problems = problems::by_origin(faults);
        if let Some(node) = self.node.as_ref().filter(|node| self.lacks(node)) {
            problems.entry(problems::NODES.to_owned()).or_default().push(problems::unknown_node(node));
        }
        let is_well = |origin: &&String| !problems.contains_key(*origin);
        let well: Vec<_> = self.told_faults.keys().filter(is_well).cloned().collect();
        let all = problems.into_iter().chain(well.into_iter().map(|origin| (origin, Vec::new())));
        all.filter_map(|(origin, problems)| tell(&mut self.told_faults, origin, problems)).collect()
    }

    /// Whether there is no Node of this node's name, as far as is known.
    fn lacks(&self, node: &ObjectRef) -> bool {
        let mut nodes = self.follows.values().filter(|follow| follow.collection == Collection::Nodes);
        nodes.any(|nodes| nodes.list > 0 && nodes.is_settled && nodes.fault.is_none())
            && !self.objects.contains_key(node)
    }
}

/// The selector of an entry, if it may pick something.
fn selector_of(object: &Object) -> Option<Selector> {
    let Object::ServiceEntry(entry) = object else { return None };
    let labels = entry.spec.workload_selector.as_ref().map(|selector| &selector.labels)?;
    (!labels.is_empty()).then(|| (entry.metadata.namespace(), labels.clone()))
}

/// Tells what is wrong with `origin`, if that differs from what was told.
fn tell(told: &mut Told, origin: String, problems: Vec<Problem>) -> Option<Event> {
    if told.get(&origin).map_or(&[][..], Vec::as_slice) == problems {
        return None;
    }
    if problems.is_empty() {
        told.remove(&origin);
    } else {
        told.insert(origin.clone(), problems.clone());
    }
    Some(Event::Problems { origin, problems })
}

fn of_object(reference: &ObjectRef, issue: &Issue) -> Problem {
    let message = format!("{reference}: {}: {}", issue.field, issue.message);
    Problem { reason: issue.reason, message }
}

#[cfg(test)]
mod tests;
