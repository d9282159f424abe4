//! Text to objects.
//!
//! In: the bytes of a file: YAML documents, JSON, lists of objects. Out: each object, or what is wrong with
//! it and on which line. Never: a panic, or one broken document taking another with it.

mod locate;
mod parallel;
mod split;
#[cfg(test)]
mod tests;
mod tree;

use std::{cell::OnceCell, fmt};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    GATEWAY_GROUP, GATEWAY_VERSIONS, GROUP, Issue, Kind, Namespace, Object, ObjectRef, Reason, VERSIONS,
    is_judged,
};

/// The kinds that are read, with their names in text.
const KINDS: [(&str, Kind); 7] = [
    ("ServiceEntry", Kind::ServiceEntry),
    ("WorkloadEntry", Kind::WorkloadEntry),
    ("Pod", Kind::Pod),
    ("Service", Kind::Service),
    ("Node", Kind::Node),
    ("Namespace", Kind::Namespace),
    ("HTTPRoute", Kind::HttpRoute),
];
/// The version of the kinds that are Kubernetes' own.
const CORE: &str = "v1";
/// Lists within lists are not written by anybody; this many are followed.
const MAX_LIST_DEPTH: usize = 4;
/// Wrong types listed for one object. Each costs one more pass over it.
const MAX_TYPE_ERRORS: usize = 32;

/// One object, or what should have been one.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// An object of a kind that is read.
    Object {
        /// The line of the file where its document starts, from 1.
        line: usize,
        /// The object.
        object: Object,
        /// Fields that the API does not have.
        warnings: Vec<Issue>,
    },
    /// An object of another kind.
    Skipped {
        /// The line of the file where its document starts, from 1.
        line: usize,
        /// As written.
        api_version: String,
        /// As written.
        kind: String,
        /// As written, if it is.
        namespace: Option<String>,
        /// As written, if it is.
        name: Option<String>,
    },
    /// Not an object that can be used.
    Failed(ParseFailure),
}

/// Why a document, or one item of a list, is not an object that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseFailure {
    /// The line of the file where the first issue is, from 1.
    pub line: usize,
    /// The object's kind, if it could be read.
    pub kind: Option<String>,
    /// The object's namespace, if it could be read.
    pub namespace: Option<String>,
    /// The object's name, if it could be read.
    pub name: Option<String>,
    /// What is wrong; never empty. The field is empty when it is the text as a whole.
    pub issues: Vec<Issue>,
}

impl ParseFailure {
    /// Which object this is about, if its kind and name could be read.
    #[must_use]
    pub fn object_ref(&self) -> Option<ObjectRef> {
        let kind = KINDS.iter().find(|(text, _)| Some(*text) == self.kind.as_deref())?.1;
        let namespace = match kind {
            Kind::Node | Kind::Namespace => Namespace::new(""),
            _ => self.namespace.as_deref().map_or_else(Namespace::default, Namespace::new),
        };
        Some(ObjectRef { kind, namespace, name: self.name.as_deref()?.into() })
    }

    /// The code of the first issue.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.issues.first().map_or(Reason::InvalidSyntax.as_str(), |issue| issue.reason)
    }
}

impl fmt::Display for ParseFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match (&self.kind, &self.name) {
            (Some(kind), Some(name)) => {
                write!(f, "{kind} {}/{name}: ", self.namespace.as_deref().unwrap_or("default"))?;
            }
            (Some(kind), None) => write!(f, "{kind} without a name: ")?,
            (None, Some(name)) => write!(f, "object {name}: ")?,
            (None, None) => {}
        }
        for (i, issue) in self.issues.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            if issue.field.is_empty() {
                write!(f, "{separator}{}", issue.message)?;
            } else {
                write!(f, "{separator}{}: {}", issue.field, issue.message)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ParseFailure {}

/// One document of a file, not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// The line of the file where it starts, from 1.
    pub line: usize,
    /// Its text.
    pub bytes: &'a [u8],
}

/// Cuts a file into its documents; those that are empty are left out.
#[must_use]
pub fn documents(input: &[u8]) -> Vec<Document<'_>> {
    // The cuts are sought byte by byte.
    if is_utf16(input) { vec![Document { line: 1, bytes: input }] } else { split::documents(input) }
}

/// Reads all objects of one file, in its order. Nothing comes of documents that are empty.
#[must_use]
pub fn parse(input: &[u8]) -> Vec<Parsed> {
    parse_documents(&documents(input)).into_iter().flatten().collect()
}

/// Reads documents, each by itself, on several threads when there is much to read.
#[must_use]
pub fn parse_documents(documents: &[Document<'_>]) -> Vec<Vec<Parsed>> {
    parallel::map(documents, |document| document.bytes.len(), parse_document)
}

fn is_utf16(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")
}

fn parse_document(document: &Document<'_>) -> Vec<Parsed> {
    let (line, bytes) = (document.line, document.bytes);
    let mut out = Vec::new();
    if is_utf16(bytes) {
        fail(&mut out, line, Reason::InvalidEncoding, "the text is UTF-16; save it as UTF-8".to_owned());
        return out;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => parse_text(line, text, &mut out),
        Err(error) => {
            let line = line + count_lines(&bytes[..error.valid_up_to()]);
            let message = "the text is not UTF-8 here; save it as UTF-8".to_owned();
            let (kind, namespace, name) = locate::peek(&String::from_utf8_lossy(bytes));
            let issues = vec![Issue::new("", Reason::InvalidEncoding, message)];
            out.push(Parsed::Failed(ParseFailure { line, kind, namespace, name, issues }));
        }
    }
    out
}

fn parse_text(line: usize, text: &str, out: &mut Vec<Parsed>) {
    match tree::read(text) {
        Ok(values) => {
            let values_of = Values { line, text, shape: OnceCell::new() };
            for value in values {
                values_of.read(value, "", None, 0, out);
            }
        }
        Err(error) => {
            let (kind, namespace, name) = locate::peek(text);
            let issues = vec![Issue::new("", Reason::InvalidSyntax, error.message)];
            let line = line + error.line.saturating_sub(1);
            out.push(Parsed::Failed(ParseFailure { line, kind, namespace, name, issues }));
        }
    }
}

/// The text that values are read from.
struct Values<'a> {
    line: usize,
    text: &'a str,
    /// Made when a line is asked for, which costs a second pass over the text.
    shape: OnceCell<Option<locate::Shape>>,
}

impl Values<'_> {
    /// Reads the object `value`, which is at `path` in the document. `listed_as` is what the items of a typed
    /// list are when they do not say it themselves.
    fn read(
        &self,
        value: Value,
        path: &str,
        listed_as: Option<(&str, &str)>,
        depth: usize,
        out: &mut Vec<Parsed>,
    ) {
        let Value::Object(mut map) = value else {
            if !value.is_null() {
                let what = tree::type_name(&value);
                let message =
                    format!("an object is expected here, not {what}; start with apiVersion and kind");
                fail(out, self.line_of(path), Reason::NotAnObject, message);
            }
            return;
        };
        let own = |key| map.get(key).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
        let api_version = own("apiVersion").or_else(|| listed_as.map(|l| l.0.to_owned()));
        let kind = own("kind").or_else(|| listed_as.map(|l| l.1.to_owned()));
        let mut failure = ParseFailure {
            line: self.line_of(path),
            kind: kind.clone(),
            namespace: meta(&map, "namespace"),
            name: meta(&map, "name"),
            issues: Vec::new(),
        };
        let Some(kind) = kind else {
            let message = "kind is missing; write kind: ServiceEntry, say";
            failure.issues.push(Issue::new("kind", Reason::MissingKind, message));
            out.push(Parsed::Failed(failure));
            return;
        };
        let api_version = api_version.unwrap_or_default();

        let listed = kind.strip_suffix("List").filter(|_| map.get("items").is_some_and(Value::is_array));
        if let (Some(item_kind), Some(Value::Array(items))) = (listed, map.remove("items")) {
            if depth == MAX_LIST_DEPTH {
                let message = "lists are nested too deeply; put the objects in one list".to_owned();
                failure.issues.push(Issue::new("items", Reason::NotAnObject, message));
                out.push(Parsed::Failed(failure));
                return;
            }
            let item_is = (!item_kind.is_empty()).then_some((api_version.as_str(), item_kind));
            for (i, item) in items.into_iter().enumerate() {
                self.read(item, &join(path, &format!("items[{i}]")), item_is, depth + 1, out);
            }
            return;
        }

        let skip = |failure: ParseFailure, api_version, kind| {
            let ParseFailure { line, namespace, name, .. } = failure;
            Parsed::Skipped { line, api_version, kind, namespace, name }
        };
        let Some((_, known)) = KINDS.iter().find(|(text, _)| *text == kind) else {
            out.push(skip(failure, api_version, kind));
            return;
        };
        let is_istio = matches!(known, Kind::ServiceEntry | Kind::WorkloadEntry);
        let is_read = match known {
            Kind::HttpRoute => api_version.split_once('/').is_some_and(|(group, version)| {
                group == GATEWAY_GROUP && GATEWAY_VERSIONS.contains(&version)
            }),
            _ => is_istio || api_version == CORE,
        };
        if !is_read {
            // Another API has a kind of this name.
            out.push(skip(failure, api_version, kind));
            return;
        }
        let version =
            api_version.split_once('/').filter(|(group, _)| *group == GROUP).map(|(_, version)| version);
        if is_istio && !version.is_some_and(|version| VERSIONS.contains(&version)) {
            let message = if api_version.is_empty() {
                format!("apiVersion is missing; write apiVersion: {GROUP}/v1")
            } else {
                format!("{kind} is not known in apiVersion {api_version}; write {GROUP}/v1")
            };
            failure.issues.push(Issue::new("apiVersion", Reason::UnknownApiVersion, message));
            out.push(Parsed::Failed(failure));
            return;
        }
        let typed = read_known(*known, api_version, map);
        out.push(match typed {
            Ok((object, warnings)) => Parsed::Object { line: failure.line, object, warnings },
            Err(issues) => {
                let first = issues.first().map_or("", |i| i.field.as_str());
                failure.line = self.line_of(&join(path, first));
                Parsed::Failed(ParseFailure { issues, ..failure })
            }
        });
    }

    /// The line of the file where the value at `path` is.
    fn line_of(&self, path: &str) -> usize {
        let shape = || self.shape.get_or_init(|| locate::Shape::of(self.text)).as_ref();
        let line = if path.is_empty() { None } else { shape().and_then(|s| s.line_of(path)) };
        self.line + line.unwrap_or_else(|| locate::first_content_line(self.text)) - 1
    }
}

/// Reads an object of a kind that is known from elsewhere, as from the answer of an API server: the object and the fields
/// that the API does not have.
///
/// # Errors
/// Every field that has the wrong type: tell who wrote the object.
pub fn read_object(
    kind: Kind,
    api_version: &str,
    mut value: Value,
) -> Result<(Object, Vec<Issue>), Vec<Issue>> {
    tree::strip_nulls(&mut value);
    match value {
        Value::Object(map) => read_known(kind, api_version.to_owned(), map),
        other => {
            let message = format!("an object is expected here, not {}", tree::type_name(&other));
            Err(vec![Issue::new("", Reason::NotAnObject, message)])
        }
    }
}

fn read_known(
    kind: Kind,
    api_version: String,
    mut map: serde_json::Map<String, Value>,
) -> Result<(Object, Vec<Issue>), Vec<Issue>> {
    map.remove("kind");
    if kind == Kind::HttpRoute {
        // Controllers write there, and nobody here reads it.
        map.remove("status");
    }
    map.insert("apiVersion".to_owned(), Value::String(api_version));
    let value = Value::Object(map);
    match kind {
        Kind::ServiceEntry => typed(value).map(|(o, w)| (Object::ServiceEntry(Box::new(o)), w)),
        Kind::WorkloadEntry => typed(value).map(|(o, w)| (Object::WorkloadEntry(Box::new(o)), w)),
        // Only some of the fields of these are read.
        Kind::Pod => typed(value).map(|(o, _)| (Object::Pod(Box::new(o)), Vec::new())),
        Kind::Service => typed(value).map(|(o, _)| (Object::Service(Box::new(o)), Vec::new())),
        Kind::Node => typed(value).map(|(o, _)| (Object::Node(Box::new(o)), Vec::new())),
        Kind::Namespace => typed(value).map(|(o, _)| (Object::Namespace(Box::new(o)), Vec::new())),
        Kind::ConfigMap => typed(value).map(|(o, _)| (Object::ConfigMap(Box::new(o)), Vec::new())),
        Kind::HttpRoute => typed(value).map(|(o, warnings)| {
            let object = Object::HttpRoute(Box::new(o));
            // What others' routes have is theirs.
            let warnings = if is_judged(&object) { warnings } else { Vec::new() };
            (object, warnings)
        }),
    }
}

/// Reads the fields of an object: the object and the fields that the API does not have, or every field that
/// has the wrong type.
fn typed<T: DeserializeOwned>(mut value: Value) -> Result<(T, Vec<Issue>), Vec<Issue>> {
    let mut errors = locate::remove_lists_for_objects(&mut value);
    loop {
        let mut warnings = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let deserializer = serde_path_to_error::Deserializer::new(&value, &mut track);
        let result = serde_ignored::deserialize(deserializer, |path| {
            let message = "the API has no such field, so it is ignored; check how it is spelt";
            warnings.push(Issue::new(locate::unknown_path(&path), Reason::UnknownField, message));
        });
        let error = match result {
            Ok(object) if errors.is_empty() => return Ok((object, warnings)),
            Ok(_) => return Err(errors),
            Err(error) => error,
        };
        let path = track.path();
        errors.push(Issue::new(locate::type_path(&path), Reason::WrongType, error.to_string()));
        // Go on without the field, to find the next.
        if errors.len() >= MAX_TYPE_ERRORS || !locate::remove(&mut value, &path) {
            return Err(errors);
        }
    }
}

fn meta(map: &serde_json::Map<String, Value>, key: &str) -> Option<String> {
    let text = map.get("metadata")?.get(key)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn join(path: &str, field: &str) -> String {
    match (path, field) {
        ("", field) => field.to_owned(),
        (path, "") => path.to_owned(),
        (path, field) => format!("{path}.{field}"),
    }
}

fn fail(out: &mut Vec<Parsed>, line: usize, reason: Reason, message: String) {
    let issues = vec![Issue::new("", reason, message)];
    out.push(Parsed::Failed(ParseFailure { line, kind: None, namespace: None, name: None, issues }));
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|b| **b == b'\n').count()
}
