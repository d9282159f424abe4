//! What one file says, and what it said when it was last whole.
//!
//! In: the file's bytes, or why there are none. Out: its objects and problems. Never: other files.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use super::super::ReadError;
use crate::{
    model::{Object, ObjectRef, ParseFailure, Parsed, Reason, VERSIONS, parse},
    source::Problem,
};

/// The objects of one file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Of the bytes that `objects` and `problems` come from.
    digest: Option<u64>,
    objects: Vec<Held>,
    problems: Vec<Problem>,
}

/// One object of a file.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) reference: ObjectRef,
    pub(super) object: Arc<Object>,
    /// Where it is, or was, from 1.
    pub(super) line: usize,
}

impl Contents {
    /// The objects in use: those of the file in its order, then those kept from before.
    pub(super) fn objects(&self) -> &[Held] {
        &self.objects
    }

    /// What is wrong with the file itself.
    pub(super) fn problems(&self) -> Vec<Problem> {
        self.problems.clone()
    }

    /// The file cannot be read. What was read of it before stays in use.
    pub(super) fn unreadable(&mut self, error: &ReadError) {
        self.digest = None;
        let message = format!("{error}{}", stay(self.objects.len()));
        self.problems = vec![Problem { reason: error.reason(), message }];
    }

    /// The file holds `bytes` now.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let digest = Some(hasher.finish());
        if self.digest == digest {
            return;
        }
        self.digest = digest;
        if bytes.trim_ascii().is_empty() {
            // An editor that starts to write, or a crash that lost the data.
            let message =
                format!("the file is empty; write an object, or remove it{}", stay(self.objects.len()));
            self.problems = vec![Problem { reason: "FileEmpty", message }];
            return;
        }
        let before = std::mem::take(&mut self.objects);
        self.problems.clear();
        let mut failures = Vec::new();
        let items = parse(bytes);
        // Text that is no YAML may be half of a file, and the other half is still to come; so may what comes last
        // in a line without an end.
        let is_last_doubtful = !bytes.ends_with(b"\n")
            && matches!(items.last(), Some(Parsed::Skipped { .. } | Parsed::Failed(_)));
        let mut is_cut = is_last_doubtful || items.iter().any(is_text_broken);
        for item in items {
            match item {
                Parsed::Object { line, object, warnings } => {
                    let reference = object.object_ref();
                    if reference.name.is_empty() {
                        let kind = reference.kind;
                        let message =
                            format!("line {line}: {kind} without a name is not used; write metadata.name");
                        self.problem(Reason::NameMissing, message);
                        is_cut = true;
                        continue;
                    }
                    for warning in warnings {
                        let message =
                            format!("line {line}: {reference}: {}: {}", warning.field, warning.message);
                        self.problem(Reason::UnknownField, message);
                    }
                    self.objects.push(Held { reference, object: Arc::new(object), line });
                }
                Parsed::Skipped { line, kind, api_version, .. } => {
                    let message = format!(
                        "line {line}: kind {kind} ({api_version}) is not used by kmesh-se; it reads ServiceEntry and \
                         WorkloadEntry of networking.istio.io/{}, and Pod, Service, Node and Namespace of v1",
                        VERSIONS.join(", ")
                    );
                    self.problems.push(Problem { reason: "KindNotUsed", message });
                }
                Parsed::Failed(failure) => failures.push(failure),
            }
        }
        self.keep(before, &failures, is_cut);
    }

    /// Takes over those of `before` that the file does not have any more because of `failures`, or because it is
    /// cut short, and tells of the failures.
    fn keep(&mut self, before: Vec<Held>, failures: &[ParseFailure], is_cut: bool) {
        let present: BTreeSet<_> = self.objects.iter().map(|held| held.reference.clone()).collect();
        let failed: BTreeSet<_> = failures.iter().filter_map(ParseFailure::object_ref).collect();
        let mut kept: Vec<_> = before
            .into_iter()
            .filter(|held| !present.contains(&held.reference) && (is_cut || failed.contains(&held.reference)))
            .collect();
        let is_kept = |r: &ObjectRef| kept.iter().any(|held| held.reference == *r);
        let others = kept.iter().filter(|held| !failed.contains(&held.reference)).count();
        for failure in failures {
            let fate = if failure.object_ref().is_some_and(|r| is_kept(&r)) {
                "; its last good version stays in use until it is corrected or the file is removed"
            } else {
                ""
            };
            self.problems.push(Problem { reason: failure.reason(), message: format!("{failure}{fate}") });
        }
        // Whatever was doubtful is a problem, so there is one to say it with.
        if let Some(last) = self.problems.last_mut() {
            last.message.push_str(&stay(others));
        }
        self.objects.append(&mut kept);
    }

    fn problem(&mut self, reason: Reason, message: String) {
        self.problems.push(Problem { reason: reason.as_str(), message });
    }
}

/// Whether `item` may be a piece of something else. A wrong type in an object that is known is not.
fn is_text_broken(item: &Parsed) -> bool {
    let Parsed::Failed(failure) = item else { return false };
    let reasons = [Reason::InvalidSyntax, Reason::InvalidEncoding, Reason::NotAnObject, Reason::MissingKind];
    failure.object_ref().is_none() || reasons.iter().any(|r| r.as_str() == failure.reason())
}

/// Says that `count` objects stay in use although they cannot be found in the file now.
fn stay(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => {
            "; 1 object read from this file before stays in use until the file is whole or removed".to_owned()
        }
        _ => format!(
            "; {count} objects read from this file before stay in use until the file is whole or removed"
        ),
    }
}
