//! A change of one entry's status, as a JSON patch.
//!
//! In: what the status has and what it should have. Out: operations that test the old value first. Never: a field or a condition
//! that is not ours.

mod conditions;

use json_patch::Patch;
use serde_json::{Value, json};

use crate::model::{Condition, StatusAddress};

/// How the old value is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// What is changed is as it was; the rest of the status may change meanwhile.
    Values,
    /// The whole object is as it was: for a status that is not written as we would write it.
    Version,
}

/// What a patch starts from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Old<'a> {
    pub(super) uid: &'a str,
    pub(super) version: &'a str,
    /// Whether there is no status, as far as is known.
    pub(super) lacks_status: bool,
    pub(super) addresses: &'a [StatusAddress],
    pub(super) conditions: &'a [Condition],
}

/// What it leads to; what is not named stays.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct New<'a> {
    pub(super) addresses: Option<&'a [StatusAddress]>,
    /// All conditions that are ours, in their order.
    pub(super) conditions: Option<&'a [Value]>,
    /// The type of one that is not to be touched.
    pub(super) kept: &'a [&'a str],
}

/// Has the status be as `new` says, if it is as `old` says.
pub(super) fn set(old: Old<'_>, new: New<'_>, test: Test) -> Patch {
    // A new object of the same name is another one.
    let mut operations = vec![is("/metadata/uid", json!(old.uid))];
    if test == Test::Version {
        operations.push(is("/metadata/resourceVersion", json!(old.version)));
    }
    if test == Test::Values && old.lacks_status {
        let mut status = json!({});
        if let Some(addresses) = new.addresses.filter(|addresses| !addresses.is_empty()) {
            status["addresses"] = list(addresses);
        }
        if let Some(conditions) = new.conditions {
            status["conditions"] = json!(conditions);
        }
        operations.push(is("/status", Value::Null));
        operations.push(json!({"op": "add", "path": "/status", "value": status}));
        return patch(operations);
    }
    let mut changes = Vec::new();
    let parts = [
        new.addresses.map(|wanted| addresses(old.addresses, wanted)),
        new.conditions.map(|wanted| conditions::change(old.conditions, wanted, new.kept)),
    ];
    for Part { tests, changes: more } in parts.into_iter().flatten() {
        // The version says as much.
        operations.extend(tests.into_iter().filter(|_| test == Test::Values));
        changes.extend(more);
    }
    operations.extend(changes);
    patch(operations)
}

/// What one field needs: tests that it is as it was, and changes.
struct Part {
    tests: Vec<Value>,
    changes: Vec<Value>,
}

fn addresses(old: &[StatusAddress], wanted: &[StatusAddress]) -> Part {
    const PATH: &str = "/status/addresses";
    let test = if old.is_empty() { is(PATH, Value::Null) } else { is(PATH, list(old)) };
    let change = match wanted {
        [] => json!({"op": "remove", "path": PATH}),
        _ => json!({"op": "add", "path": PATH, "value": list(wanted)}),
    };
    Part { tests: vec![test], changes: vec![change] }
}

fn is(path: &str, value: Value) -> Value {
    json!({"op": "test", "path": path, "value": value})
}

fn patch(operations: Vec<Value>) -> Patch {
    // They are operations by construction.
    serde_json::from_value(Value::Array(operations)).unwrap_or_default()
}

fn list(addresses: &[StatusAddress]) -> Value {
    let item = |address: &StatusAddress| match address.host.as_str() {
        "" => json!({"value": address.value}),
        host => json!({"value": address.value, "host": host}),
    };
    addresses.iter().map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(value: &str) -> StatusAddress {
        StatusAddress { value: value.to_owned(), host: "a.test".to_owned() }
    }

    fn made(lacks_status: bool, had: &[StatusAddress], wanted: &[StatusAddress], test: Test) -> Value {
        let old = Old { uid: "u", version: "7", lacks_status, addresses: had, conditions: &[] };
        let new = New { addresses: Some(wanted), ..New::default() };
        let patch = serde_json::to_value(set(old, new, test)).expect("JSON");
        assert_eq!(patch[0], json!({"op": "test", "path": "/metadata/uid", "value": "u"}));
        json!([patch[1], patch[2]])
    }

    #[test]
    fn what_is_there_is_tested_and_nothing_else_is_touched() {
        let (one, two) = (address("240.240.0.1"), address("240.240.0.2"));
        let item = |value: &str| json!([{"value": value, "host": "a.test"}]);
        let cases = [
            (
                made(true, &[], std::slice::from_ref(&one), Test::Values),
                json!([{"op": "test", "path": "/status", "value": null},
                       {"op": "add", "path": "/status", "value": {"addresses": item("240.240.0.1")}}]),
            ),
            (
                made(false, &[], std::slice::from_ref(&one), Test::Values),
                json!([{"op": "test", "path": "/status/addresses", "value": null},
                       {"op": "add", "path": "/status/addresses", "value": item("240.240.0.1")}]),
            ),
            (
                made(false, std::slice::from_ref(&one), std::slice::from_ref(&two), Test::Values),
                json!([{"op": "test", "path": "/status/addresses", "value": item("240.240.0.1")},
                       {"op": "add", "path": "/status/addresses", "value": item("240.240.0.2")}]),
            ),
            (
                made(false, std::slice::from_ref(&one), &[], Test::Values),
                json!([{"op": "test", "path": "/status/addresses", "value": item("240.240.0.1")},
                       {"op": "remove", "path": "/status/addresses"}]),
            ),
            (
                made(false, &[], std::slice::from_ref(&one), Test::Version),
                json!([{"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
                       {"op": "add", "path": "/status/addresses", "value": item("240.240.0.1")}]),
            ),
        ];
        for (made, wanted) in cases {
            assert_eq!(made, wanted);
        }
    }

    #[test]
    fn addresses_and_conditions_of_an_entry_without_status_are_one_value() {
        let (one, condition) = (address("240.240.0.1"), json!({"type": "Accepted", "status": "True"}));
        let old = Old { uid: "u", version: "7", lacks_status: true, addresses: &[], conditions: &[] };
        let new = New {
            addresses: Some(std::slice::from_ref(&one)),
            conditions: Some(std::slice::from_ref(&condition)),
            kept: &[],
        };
        let patch = serde_json::to_value(set(old, new, Test::Values)).expect("JSON");
        assert_eq!(patch.as_array().map(Vec::len), Some(3));
        assert_eq!(
            patch[2]["value"],
            json!({"addresses": [{"value": "240.240.0.1", "host": "a.test"}], "conditions": [condition]})
        );
    }
}
