//! One document to untyped values.
//!
//! In: the text of one document. Out: its values, without the fields that are null. Never: types of fields.

use serde_json::Value;
use serde_saphyr::{MessageFormatter, Options, UserMessageFormatter, options::DuplicateKeyPolicy};

const TOO_COMPLEX: &str = "YAML document too large or too complex";

/// Why a text is neither YAML nor JSON.
#[derive(Debug)]
pub(super) struct SyntaxError {
    /// Line in the document, from 1.
    pub(super) line: usize,
    pub(super) message: String,
}

/// Reads one YAML document, or JSON objects one after the other. JSON is YAML, so it is read as YAML; what
/// only JSON has, several objects in one document, is tried next.
pub(super) fn read(text: &str) -> Result<Vec<Value>, SyntaxError> {
    let mut values = match serde_saphyr::from_str_with_options::<Value>(text, options()) {
        Ok(value) => vec![value],
        Err(yaml) => {
            let is_duplicate =
                matches!(yaml.without_snippet(), serde_saphyr::Error::DuplicateMappingKey { .. });
            if is_duplicate || !text.trim_start().starts_with('{') {
                return Err(yaml_error(&yaml));
            }
            match serde_json::Deserializer::from_str(text).into_iter::<Value>().collect::<Result<_, _>>() {
                Ok(values) => values,
                Err(json) if looks_like_json(text) => return Err(json_error(&json)),
                Err(_) => return Err(yaml_error(&yaml)),
            }
        }
    };
    values.iter_mut().for_each(strip_nulls);
    Ok(values)
}

/// Limits for hostile text: depth for the stack, aliases for the "billion laughs"; sizes are for the caller.
pub(super) fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 64,
            flow_nesting_limit: 64,
            max_events: 8_000_000,
            max_nodes: 4_000_000,
            max_aliases: 10_000,
            max_anchors: 10_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 200_000,
            max_replay_stack_depth: 16,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        // YAML 1.2: a namespace called n or on is a text. No field of the API is a boolean.
        strict_booleans: true,
        with_snippet: false,
        emit_comments: false,
    }
}

/// What a value is, for people.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A field that is null is a field that is not there, as in Kubernetes.
pub(super) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

fn looks_like_json(text: &str) -> bool {
    let after = text.trim_start().trim_start_matches('{').trim_start();
    after.starts_with(['"', '}'])
}

/// In words for who wrote the text. The line is told apart and counts from the start of the file.
fn yaml_error(error: &serde_saphyr::Error) -> SyntaxError {
    let line = error.location().and_then(|at| usize::try_from(at.line()).ok()).unwrap_or(1).max(1);
    let message = UserMessageFormatter.format_message(error);
    // What follows are the parser's own figures.
    let message = if message.starts_with(TOO_COMPLEX) { TOO_COMPLEX } else { &*message };
    SyntaxError { line, message: format!("not valid YAML: {message}") }
}

fn json_error(error: &serde_json::Error) -> SyntaxError {
    let place = format!(" at line {} column {}", error.line(), error.column());
    SyntaxError { line: error.line().max(1), message: format!("not valid JSON: {error}").replace(&place, "") }
}
