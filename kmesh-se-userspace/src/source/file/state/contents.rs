//! What one file says, and what it said when it was last whole.
//!
//! In: the file's bytes, or why there are none. Out: its objects and problems. Never: other files, or the text itself once
//! it is read.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
};

use super::super::{ReadError, look::Stamp};
use crate::{
    model::{
        Document, GATEWAY_VERSIONS, Issue, Object, ObjectRef, ParseFailure, Parsed, Reason, VERSIONS,
        documents,
    },
    source::Problem,
};

/// The objects of one file.
#[derive(Debug, Default)]
pub(in super::super) struct Contents {
    /// Of the bytes that `objects` and `problems` come from.
    digest: Option<u64>,
    /// As of when the file need not be read again.
    pub(super) stamp: Option<Stamp>,
    pub(super) objects: Vec<Held>,
    problems: Vec<Problem>,
}

/// One object of a file.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) reference: ObjectRef,
    /// Of the object.
    pub(super) digest: u64,
    /// The object, until it is told.
    pub(super) object: Option<Box<Object>>,
    /// Whether the file does not have it any more.
    pub(super) is_only_kept: bool,
    /// Of the text of its document, if that gives nothing but objects: then it need not be read again.
    document: Option<u64>,
    /// Where its document is, or was, from 1.
    start: u32,
    /// How many lines after that the object is.
    offset: u32,
}

/// A file's text, cut and compared with what it was.
pub(in super::super) struct Draft<'a> {
    digest: u64,
    is_as_before: bool,
    is_blank: bool,
    lacks_end: bool,
    parts: Vec<Part<'a>>,
}

struct Part<'a> {
    digest: u64,
    document: Document<'a>,
    /// The places in [`Contents::objects`] of what it gave before.
    known: Vec<usize>,
}

/// A file's text, read as far as it is new.
pub(in super::super) struct Read {
    digest: u64,
    is_as_before: bool,
    is_blank: bool,
    lacks_end: bool,
    documents: Vec<ReadDocument>,
}

struct ReadDocument {
    digest: u64,
    start: u32,
    known: Vec<usize>,
    parsed: Vec<Parsed>,
}

impl<'a> Draft<'a> {
    /// Cuts `bytes` and finds out what is known from `before`.
    pub(in super::super) fn of(bytes: &'a [u8], before: Option<&Contents>) -> Self {
        let digest = digest(bytes);
        let is_as_before = before.is_some_and(|before| before.digest == Some(digest));
        let mut known: HashMap<u64, Vec<usize>> = HashMap::new();
        for (place, held) in before.iter().flat_map(|before| before.objects.iter().enumerate()) {
            if let Some(document) = held.document {
                known.entry(document).or_default().push(place);
            }
        }
        let documents = if is_as_before { Vec::new() } else { documents(bytes) };
        let parts = documents.into_iter().map(|document| {
            let digest = self::digest(document.bytes);
            Part { digest, document, known: known.get(&digest).cloned().unwrap_or_default() }
        });
        Self {
            digest,
            is_as_before,
            is_blank: bytes.trim_ascii().is_empty(),
            lacks_end: !bytes.ends_with(b"\n"),
            parts: parts.collect(),
        }
    }

    /// The documents that are not known.
    pub(in super::super) fn unknown(&self) -> impl Iterator<Item = Document<'a>> {
        self.parts.iter().filter(|part| part.known.is_empty()).map(|part| part.document)
    }

    /// With what the unknown documents gave, taken from `parsed`.
    pub(in super::super) fn with(self, parsed: &mut impl Iterator<Item = Vec<Parsed>>) -> Read {
        let documents = self.parts.into_iter().map(|part| ReadDocument {
            digest: part.digest,
            start: line(part.document.line),
            parsed: if part.known.is_empty() { parsed.next().unwrap_or_default() } else { Vec::new() },
            known: part.known,
        });
        Read {
            digest: self.digest,
            is_as_before: self.is_as_before,
            is_blank: self.is_blank,
            lacks_end: self.lacks_end,
            documents: documents.collect(),
        }
    }
}

impl Read {
    /// Whether the text is the one that was read before.
    pub(super) fn is_as_before(&self) -> bool {
        self.is_as_before
    }
}

impl Held {
    /// Where it is, or was, from 1.
    pub(super) fn line(&self) -> u32 {
        self.start + self.offset
    }
}

impl Contents {
    /// What is wrong with the file itself.
    pub(super) fn problems(&self) -> Vec<Problem> {
        self.problems.clone()
    }

    /// The file cannot be read. What was read of it before stays in use.
    pub(super) fn unreadable(&mut self, error: &ReadError) {
        (self.digest, self.stamp) = (None, None);
        let message = format!("{error}{}", stay(self.objects.len()));
        self.only_keep(Problem { reason: error.reason(), message });
    }

    /// Has the file read again, and every document of it.
    pub(super) fn forget_text(&mut self) {
        (self.digest, self.stamp) = (None, None);
        self.objects.iter_mut().for_each(|held| held.document = None);
    }

    /// The file holds something else now.
    pub(super) fn take(&mut self, read: Read) {
        self.digest = Some(read.digest);
        if read.is_blank {
            // An editor that starts to write, or a crash that lost the data.
            let message =
                format!("the file is empty; write an object, or remove it{}", stay(self.objects.len()));
            self.only_keep(Problem { reason: "FileEmpty", message });
            return;
        }
        let before = std::mem::take(&mut self.objects);
        self.problems.clear();
        let mut failures = Vec::new();
        let parsed = || read.documents.iter().flat_map(|document| &document.parsed);
        // Text that is no YAML may be half of a file, and the other half is still to come; so may what comes last
        // in a line without an end.
        let is_last_doubtful = read.lacks_end
            && read.documents.last().and_then(|document| document.parsed.last()).is_some_and(is_useless);
        let mut is_cut = is_last_doubtful || parsed().any(is_text_broken);
        for document in read.documents {
            let known = document.known.iter().filter_map(|place| before.get(*place).cloned());
            self.objects.extend(known.map(|held| Held {
                start: document.start,
                is_only_kept: false,
                ..held
            }));
            let (first, bad) = (self.objects.len(), self.problems.len() + failures.len());
            for item in document.parsed {
                match item {
                    Parsed::Object { line, object, warnings } => {
                        is_cut |= !self.object(document.start, line, object, &warnings);
                    }
                    Parsed::Skipped { line, kind, api_version, .. } => {
                        let message = format!(
                            "line {line}: kind {kind} ({api_version}) is not used by kmesh-se; it reads ServiceEntry \
                             and WorkloadEntry of networking.istio.io/{}, and HTTPRoute of gateway.networking.k8s.io/{}",
                            VERSIONS.join(", "),
                            GATEWAY_VERSIONS.join(", ")
                        );
                        self.problems.push(Problem { reason: "KindNotUsed", message });
                    }
                    Parsed::Failed(failure) => failures.push(failure),
                }
            }
            let is_good = self.problems.len() + failures.len() == bad;
            let new = self.objects[first..].iter_mut().filter(|_| is_good);
            new.for_each(|held| held.document = Some(document.digest));
        }
        self.keep(before, &failures, is_cut);
    }

    /// Takes an object with a name; says whether it has one.
    fn object(&mut self, start: u32, at: usize, object: Object, warnings: &[Issue]) -> bool {
        let reference = object.object_ref();
        if reference.name.is_empty() {
            let kind = reference.kind;
            let message = format!("line {at}: {kind} without a name is not used; write metadata.name");
            self.problem(Reason::NameMissing, message);
            return false;
        }
        for warning in warnings {
            let message = format!("line {at}: {reference}: {}: {}", warning.field, warning.message);
            self.problem(Reason::UnknownField, message);
        }
        self.objects.push(Held {
            reference,
            digest: digest(&object),
            object: Some(Box::new(object)),
            is_only_kept: false,
            document: None,
            start,
            offset: line(at).saturating_sub(start),
        });
        true
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
        let kept_references: BTreeSet<_> = kept.iter().map(|held| held.reference.clone()).collect();
        let others = kept_references.difference(&failed).count();
        for failure in failures {
            let fate = if failure.object_ref().is_some_and(|r| kept_references.contains(&r)) {
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
        // What is left of a document is not all of it.
        kept.iter_mut().for_each(|held| (held.document, held.is_only_kept) = (None, true));
        self.objects.append(&mut kept);
        self.objects.shrink_to_fit();
    }

    /// Nothing can be had from the file now.
    fn only_keep(&mut self, problem: Problem) {
        self.problems = vec![problem];
        self.objects.iter_mut().for_each(|held| held.is_only_kept = true);
    }

    fn problem(&mut self, reason: Reason, message: String) {
        self.problems.push(Problem { reason: reason.as_str(), message });
    }
}

fn digest(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn line(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn is_useless(item: &Parsed) -> bool {
    matches!(item, Parsed::Skipped { .. } | Parsed::Failed(_))
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
