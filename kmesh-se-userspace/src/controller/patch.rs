//! A change of one entry's status, as a JSON patch.
//!
//! In: what the status has and what it should have. Out: operations that test the old value first. Never: a field that is not
//! ours.

use json_patch::Patch;
use serde_json::{Value, json};

use crate::model::StatusAddress;

/// How the old value is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// The addresses are as they were; the rest of the status may change meanwhile.
    Addresses,
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
}

/// Has the status hold `wanted`, if it is as `old` says.
pub(super) fn set_addresses(old: Old<'_>, wanted: &[StatusAddress], test: Test) -> Patch {
    let is = |path: &str, value: Value| json!({"op": "test", "path": path, "value": value});
    // A new object of the same name is another one.
    let mut operations = vec![is("/metadata/uid", json!(old.uid))];
    let whole = test == Test::Addresses && old.lacks_status;
    operations.push(match test {
        Test::Version => is("/metadata/resourceVersion", json!(old.version)),
        Test::Addresses if old.lacks_status => is("/status", Value::Null),
        Test::Addresses if old.addresses.is_empty() => is("/status/addresses", Value::Null),
        Test::Addresses => is("/status/addresses", list(old.addresses)),
    });
    operations.push(match wanted {
        [] => json!({"op": "remove", "path": "/status/addresses"}),
        _ if whole => json!({"op": "add", "path": "/status", "value": {"addresses": list(wanted)}}),
        _ => json!({"op": "add", "path": "/status/addresses", "value": list(wanted)}),
    });
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
        let old = Old { uid: "u", version: "7", lacks_status, addresses: had };
        let patch = serde_json::to_value(set_addresses(old, wanted, test)).expect("JSON");
        assert_eq!(patch[0], json!({"op": "test", "path": "/metadata/uid", "value": "u"}));
        json!([patch[1], patch[2]])
    }

    #[test]
    fn what_is_there_is_tested_and_nothing_else_is_touched() {
        let (one, two) = (address("240.240.0.1"), address("240.240.0.2"));
        let item = |value: &str| json!([{"value": value, "host": "a.test"}]);
        let cases = [
            (
                made(true, &[], std::slice::from_ref(&one), Test::Addresses),
                json!([{"op": "test", "path": "/status", "value": null},
                       {"op": "add", "path": "/status", "value": {"addresses": item("240.240.0.1")}}]),
            ),
            (
                made(false, &[], std::slice::from_ref(&one), Test::Addresses),
                json!([{"op": "test", "path": "/status/addresses", "value": null},
                       {"op": "add", "path": "/status/addresses", "value": item("240.240.0.1")}]),
            ),
            (
                made(false, std::slice::from_ref(&one), std::slice::from_ref(&two), Test::Addresses),
                json!([{"op": "test", "path": "/status/addresses", "value": item("240.240.0.1")},
                       {"op": "add", "path": "/status/addresses", "value": item("240.240.0.2")}]),
            ),
            (
                made(false, std::slice::from_ref(&one), &[], Test::Addresses),
                json!([{"op": "test", "path": "/status/addresses", "value": item("240.240.0.1")},
                       {"op": "remove", "path": "/status/addresses"}]),
            ),
            (
                made(true, &[], std::slice::from_ref(&one), Test::Version),
                json!([{"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
                       {"op": "add", "path": "/status/addresses", "value": item("240.240.0.1")}]),
            ),
        ];
        for (made, wanted) in cases {
            assert_eq!(made, wanted);
        }
    }
}
