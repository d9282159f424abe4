//! What a ConfigMap says that the objects of a waypoint should have.
//!
//! In: a text for each kind, in YAML. Out: objects that have it. Never: another name, owner or selector than a waypoint's.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::objects::Part;

/// What takes an item out of a list, as in patches of kubectl.
const PATCH: &str = "$patch";

/// Changes of the objects of a waypoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Overlays(BTreeMap<Part, Value>);

/// Why a ConfigMap says nothing that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OverlayError {
    /// A key that stands for nothing.
    #[error("its key {key} is none of {}", Part::keys().join(", "))]
    Key { key: String },
    /// A text that is no object in YAML.
    #[error("its key {key} cannot be read: {cause}")]
    Unreadable { key: String, cause: String },
}

impl Overlays {
    /// Those of the data of a ConfigMap.
    ///
    /// # Errors
    /// It has something else, too: tell its author.
    pub(super) fn of(data: &BTreeMap<String, String>) -> Result<Self, OverlayError> {
        let mut overlays = BTreeMap::new();
        for (key, text) in data {
            let part = Part::ALL.into_iter().find(|part| part.key() == key);
            let part = part.ok_or_else(|| OverlayError::Key { key: key.clone() })?;
            let unreadable = |cause: String| OverlayError::Unreadable { key: key.clone(), cause };
            let value: Value = serde_saphyr::from_str(text).map_err(|error| unreadable(error.to_string()))?;
            match value {
                Value::Null => {}
                Value::Object(_) => {
                    overlays.insert(part, value);
                }
                _ => return Err(unreadable("it is no mapping of fields".to_owned())),
            }
        }
        Ok(Self(overlays))
    }

    /// Whether nothing is changed.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Changes an object.
    pub(super) fn apply(&self, part: Part, object: &mut Value) {
        if let Some(overlay) = self.0.get(&part) {
            merge(object, overlay);
        }
    }
}

/// A JSON merge patch, but for lists of things that have names, or paths where they are mounted: what has the same one is merged, what
/// is new is added, and what says `$patch: delete` is taken out.
fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            if !into.is_object() {
                *into = Value::Object(Map::new());
            }
            let Some(object) = into.as_object_mut() else { return };
            for (name, value) in fields {
                if value.is_null() {
                    object.remove(name);
                } else {
                    merge(object.entry(name).or_insert(Value::Null), value);
                }
            }
        }
        Value::Array(items) => {
            let key =
                ["name", "mountPath"].into_iter().find(|key| items.iter().all(|item| item[key].is_string()));
            match (key, into.as_array_mut()) {
                (Some(key), Some(list)) if list.iter().all(|item| item[key].is_string()) => {
                    items.iter().for_each(|item| merge_item(list, key, item));
                }
                _ => *into = patch.clone(),
            }
        }
        other => *into = other.clone(),
    }
}

fn merge_item(list: &mut Vec<Value>, key: &str, item: &Value) {
    let place = list.iter().position(|other| other[key] == item[key]);
    match (place, item[PATCH] == "delete") {
        (Some(place), true) => {
            list.remove(place);
        }
        (Some(place), false) => merge(&mut list[place], item),
        (None, true) => {}
        (None, false) => {
            let mut new = Value::Null;
            merge(&mut new, item);
            list.push(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(mut value: Value, patch: &Value) -> Value {
        merge(&mut value, patch);
        value
    }

    #[test]
    fn lists_are_merged_by_name_or_path_and_other_lists_are_replaced() {
        let before = json!({"replicas": 2, "containers": [{"name": "envoy", "image": "a", "args": ["x", "y"]}],
                            "volumeMounts": [{"mountPath": "/a", "name": "a"}], "tolerations": [{"key": "a"}]});
        for (patch, field, wanted) in [
            (json!({"replicas": 5}), "replicas", json!(5)),
            (json!({"replicas": null}), "replicas", Value::Null),
            (
                json!({"containers": [{"name": "envoy", "args": ["z"]}, {"name": "other", "tty": null}]}),
                "containers",
                json!([{"name": "envoy", "image": "a", "args": ["z"]}, {"name": "other"}]),
            ),
            (json!({"containers": [{"name": "envoy", "$patch": "delete"}]}), "containers", json!([])),
            (json!({"tolerations": [{"key": "b"}]}), "tolerations", json!([{"key": "b"}])),
            (json!({"new": {"deep": {"er": 1}}}), "new", json!({"deep": {"er": 1}})),
        ] {
            assert_eq!(merged(before.clone(), &patch)[field], wanted, "{patch}");
        }
    }

    #[test]
    fn what_is_in_the_config_map_is_read_or_named() {
        let of = |key: &str, text: &str| Overlays::of(&BTreeMap::from([(key.to_owned(), text.to_owned())]));
        assert!(!of("deployment", "spec:\n  replicas: 3\n").expect("read").is_empty());
        assert!(of("service", "").expect("read").is_empty());
        for (key, text, says) in [
            (
                "horizontalPodAutoscaler",
                "spec: {}",
                "its key horizontalPodAutoscaler is none of deployment, ",
            ),
            ("deployment", "spec: [", "its key deployment cannot be read: "),
            ("service", "- 1", "its key service cannot be read: it is no mapping"),
        ] {
            let error = of(key, text).expect_err("refused").to_string();
            assert!(error.starts_with(says), "{error}");
        }
    }
}
