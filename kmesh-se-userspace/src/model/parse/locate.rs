//! Paths of fields, and where in a text they are.
//!
//! In: text and paths. Out: lines, and paths as `spec.ports[0].number`. Never: an error; it is only asked
//! about texts that already have one.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use serde_path_to_error::Segment;
use serde_saphyr::Spanned;

use super::tree;
use crate::model::{Issue, Reason};

/// Where everything is in one document.
pub(super) struct Shape(Spanned<Node>);

impl Shape {
    /// The shape of `text`; none when it is not one YAML document.
    pub(super) fn of(text: &str) -> Option<Self> {
        serde_saphyr::from_str_with_options(text, tree::options()).ok().map(Self)
    }

    /// The line, from 1, of the value at `path`, or of the nearest value above it that is there.
    pub(super) fn line_of(&self, path: &str) -> Option<usize> {
        let mut at = &self.0;
        let mut rest = path;
        while !rest.is_empty() {
            let Some((value, tail)) = at.value.step(rest) else { break };
            at = value;
            rest = tail.strip_prefix('.').unwrap_or(tail);
        }
        usize::try_from(at.referenced.line()).ok().filter(|line| *line > 0)
    }
}

/// The line of `text`, from 1, where something other than comments and directives starts.
pub(super) fn first_content_line(text: &str) -> usize {
    let is_content = |line: &str| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !line.is_empty() && !line.starts_with(['#', '%'])
    };
    text.lines().position(is_content).map_or(1, |i| i + 1)
}

/// Kind, namespace and name of a text that does not parse, as far as lines that look like them say so.
pub(super) fn peek(text: &str) -> (Option<String>, Option<String>, Option<String>) {
    let (mut kind, mut namespace, mut name) = (None, None, None);
    // The indentation of the fields of `metadata` while in it.
    let mut within: Option<Option<usize>> = None;
    for line in text.lines() {
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let indent = line.len() - content.len();
        if indent == 0 {
            kind = kind.or_else(|| scalar(content, "kind:"));
            let metadata = content.strip_prefix("metadata:");
            within = metadata.map(|_| None);
            // `metadata: {name: a, namespace: b}`
            for field in metadata.into_iter().flat_map(|m| m.split(['{', ',', '}'])).map(str::trim) {
                name = name.or_else(|| scalar(field, "name:"));
                namespace = namespace.or_else(|| scalar(field, "namespace:"));
            }
            continue;
        }
        let Some(field_indent) = within.as_mut() else { continue };
        if *field_indent.get_or_insert(indent) == indent {
            name = name.or_else(|| scalar(content, "name:"));
            namespace = namespace.or_else(|| scalar(content, "namespace:"));
        }
    }
    (kind, namespace, name)
}

fn scalar(line: &str, key: &str) -> Option<String> {
    let value = line.strip_prefix(key)?.split(" #").next()?.trim().trim_matches(['"', '\'']);
    let is_plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    is_plain.then(|| value.to_owned())
}

/// The path of a field that has the wrong type.
pub(super) fn type_path(path: &serde_path_to_error::Path) -> String {
    let mut out = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => out.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } => push_key(&mut out, key),
            Segment::Unknown => push_key(&mut out, "?"),
        }
    }
    out
}

/// The path of a field that the API does not have.
pub(super) fn unknown_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", unknown_path(parent)),
        Path::Map { parent, key } => {
            let mut out = unknown_path(parent);
            push_key(&mut out, key);
            out
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            unknown_path(parent)
        }
    }
}

fn push_key(out: &mut String, key: &str) {
    if !out.is_empty() {
        out.push('.');
    }
    out.push_str(key);
}

/// Removes the field at `path`; when it is an item of a list, the list, as the paths of the other items must
/// stay true. Returns whether there was anything to remove.
pub(super) fn remove(value: &mut Value, path: &serde_path_to_error::Path) -> bool {
    let segments: Vec<&Segment> = path.iter().collect();
    let Some(last) = segments.iter().rposition(|s| matches!(s, Segment::Map { .. })) else { return false };
    let mut at = value;
    for segment in &segments[..last] {
        let next = match segment {
            Segment::Map { key } => at.get_mut(key.as_str()),
            Segment::Seq { index } => at.get_mut(*index),
            _ => None,
        };
        let Some(next) = next else { return false };
        at = next;
    }
    match (segments[last], at) {
        (Segment::Map { key }, Value::Object(map)) => map.remove(key.as_str()).is_some(),
        _ => false,
    }
}

/// Removes lists that are where an object must be, and says so for each: serde would take the items of such a
/// list for the fields of the object, in their order.
pub(super) fn remove_lists_for_objects(value: &mut Value) -> Vec<Issue> {
    let mut issues = Vec::new();
    let mut wrong = |path: String| {
        let message = "invalid type: sequence, expected an object";
        issues.push(Issue::new(path, Reason::WrongType, message));
    };
    for path in ["metadata", "spec", "spec.workloadSelector", "status"] {
        if let Some((parent, key)) = parent_of(value, path)
            && parent.get(key).is_some_and(Value::is_array)
        {
            wrong(path.to_owned());
            parent.remove(key);
        }
    }
    for path in ["spec.ports", "spec.endpoints", "status.addresses", "status.conditions"] {
        let Some((parent, key)) = parent_of(value, path) else { continue };
        let items = parent.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let lists = items.iter().enumerate().filter(|(_, item)| item.is_array());
        let found: Vec<_> = lists.map(|(i, _)| format!("{path}[{i}]")).collect();
        if !found.is_empty() {
            found.into_iter().for_each(&mut wrong);
            parent.remove(key);
        }
    }
    issues
}

fn parent_of<'v, 'p>(
    value: &'v mut Value,
    path: &'p str,
) -> Option<(&'v mut serde_json::Map<String, Value>, &'p str)> {
    match path.split_once('.') {
        None => Some((value.as_object_mut()?, path)),
        Some((first, key)) => Some((value.get_mut(first)?.as_object_mut()?, key)),
    }
}

/// Just the shape of a document.
enum Node {
    Leaf,
    Seq(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

impl Node {
    /// The value that `path` leads to first, and what is left of the path.
    fn step<'n, 'p>(&'n self, path: &'p str) -> Option<(&'n Spanned<Self>, &'p str)> {
        match self {
            Self::Leaf => None,
            Self::Seq(items) => {
                let (index, tail) = path.strip_prefix('[')?.split_once(']')?;
                Some((items.get(index.parse::<usize>().ok()?)?, tail))
            }
            // Keys may hold dots, so the longest key that fits is followed.
            Self::Map(fields) => fields
                .iter()
                .filter_map(|(key, value)| {
                    let tail = path.strip_prefix(key.as_str())?;
                    (tail.is_empty() || tail.starts_with(['.', '['])).then_some((key.len(), value, tail))
                })
                .max_by_key(|(length, ..)| *length)
                .map(|(_, value, tail)| (value, tail)),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;

        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_str<E>(self, _: &str) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Leaf)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                IgnoredAny::deserialize(deserializer).map(|_| Node::Leaf)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Node::Seq(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = access.next_entry()? {
                    fields.push(field);
                }
                Ok(Node::Map(fields))
            }
        }

        deserializer.deserialize_any(NodeVisitor)
    }
}
