//! The CustomResourceDefinitions of ServiceEntry and WorkloadEntry, for clusters that do not have Istio's.
//!
//! In: the types of objects as written. Out: definitions that an API server accepts, with one schema for all versions. Never:
//! a rule that looks at several fields: those are validation's, which says more.

use schemars::{
    JsonSchema, Schema,
    generate::SchemaSettings,
    transform::{Transform, transform_subschemas},
};
use serde_json::{Value, json};

use super::{GROUP, ServiceEntrySpec, ServiceEntryStatus, VERSIONS, WorkloadEntrySpec, WorkloadEntryStatus};

/// The version that objects are stored in, as Istio's definitions have it.
const STORED: &str = "v1";

/// What the definitions of two kinds do not share.
struct Names {
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    about: &'static str,
    /// What `kubectl get` shows: name, type and path.
    columns: &'static [Column],
    /// What it shows beside these with `-o wide`.
    wide: &'static [Column],
}

type Column = (&'static str, &'static str, &'static str);

const SERVICE_ENTRY: Names = Names {
    kind: "ServiceEntry",
    plural: "serviceentries",
    short: "se",
    about: "Hosts that clients reach by a name or an address, and who answers for them.",
    columns: &[
        ("Hosts", "string", ".spec.hosts"),
        ("Location", "string", ".spec.location"),
        ("Resolution", "string", ".spec.resolution"),
        ("Accepted", "string", r#".status.conditions[?(@.type=="Accepted")].status"#),
        ("Programmed", "string", r#".status.conditions[?(@.type=="Programmed")].status"#),
        ("Age", "date", ".metadata.creationTimestamp"),
    ],
    wide: &[
        // Of a list, a column shows the first.
        ("Address", "string", ".status.addresses[0].value"),
        ("Reason", "string", r#".status.conditions[?(@.type=="Accepted")].reason"#),
    ],
};

const WORKLOAD_ENTRY: Names = Names {
    kind: "WorkloadEntry",
    plural: "workloadentries",
    short: "we",
    about: "One who answers for the hosts of ServiceEntries that select it by its labels.",
    columns: &[("Age", "date", ".metadata.creationTimestamp"), ("Address", "string", ".spec.address")],
    wide: &[],
};

/// The definitions, ServiceEntry's first.
#[must_use]
pub fn crds() -> [Value; 2] {
    [
        definition::<ServiceEntrySpec, ServiceEntryStatus>(&SERVICE_ENTRY),
        definition::<WorkloadEntrySpec, WorkloadEntryStatus>(&WORKLOAD_ENTRY),
    ]
}

fn definition<Spec: JsonSchema, Status: JsonSchema>(names: &Names) -> Value {
    let column = |(name, kind, path): &Column| json!({"name": name, "type": kind, "jsonPath": path});
    let wide = |found: &Column| {
        let mut column = column(found);
        column["priority"] = json!(1);
        column
    };
    let columns: Vec<_> = names.columns.iter().map(column).chain(names.wide.iter().map(wide)).collect();
    let schema = json!({
        "type": "object",
        "description": names.about,
        "required": ["spec"],
        "properties": {"spec": structural::<Spec>(), "status": structural::<Status>()},
    });
    let version = |version: &str| {
        json!({
            "name": version,
            "served": true,
            "storage": version == STORED,
            "additionalPrinterColumns": columns,
            "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": schema},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{GROUP}", names.plural)},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": names.kind,
                "listKind": format!("{}List", names.kind),
                "plural": names.plural,
                "singular": names.kind.to_lowercase(),
                "shortNames": [names.short],
                "categories": ["istio-io", "networking-istio-io"],
            },
            "scope": "Namespaced",
            "versions": VERSIONS.map(version),
        },
    })
}

/// The schema of a type in the part of JSON Schema that Kubernetes takes: without references, defaults and alternatives.
fn structural<T: JsonSchema>() -> Schema {
    let mut settings = SchemaSettings::draft07().with_transform(Structural);
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    settings.into_generator().into_root_schema_for::<T>()
}

#[derive(Clone, Debug)]
struct Structural;

impl Transform for Structural {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        for word in ["title", "default"] {
            schema.remove(word);
        }
        // A field that may be left out, which is so for all that are not required.
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|name| name != "null");
            if let [name] = types.as_slice() {
                let name = name.clone();
                schema.insert("type".to_owned(), name);
            }
        }
        if let Some(Value::Array(choices)) = schema.remove("anyOf") {
            let given = choices.into_iter().find(|choice| choice["type"] != "null");
            if let Some(Value::Object(given)) = given {
                given.into_iter().for_each(|(word, value)| drop(schema.insert(word, value)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Object, Parsed, parse, validate};

    /// Every schema below this one, with its path.
    fn all<'a>(path: &str, schema: &'a Value, out: &mut Vec<(String, &'a Value)>) {
        out.push((path.to_owned(), schema));
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            all(&format!("{path}.{name}"), inner, out);
        }
        for (word, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
            if schema[word].is_object() {
                all(&format!("{path}{mark}"), &schema[word], out);
            }
        }
    }

    fn schema(crd: &Value) -> &Value {
        &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    }

    #[test]
    fn every_field_has_one_type_and_nothing_that_kubernetes_refuses() {
        for crd in crds() {
            let mut found = Vec::new();
            all("", schema(&crd), &mut found);
            assert!(found.len() > 20, "{found:?}");
            for (path, schema) in found {
                let is_typed = schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == true;
                assert!(is_typed, "{path}: {schema}");
                for word in ["$ref", "anyOf", "oneOf", "allOf", "default", "title", "$schema", "definitions"]
                {
                    assert!(schema.get(word).is_none(), "{path} has {word}: {schema}");
                }
            }
        }
    }

    #[test]
    fn all_versions_are_served_with_one_schema_and_one_is_stored() {
        for crd in crds() {
            let versions = crd["spec"]["versions"].as_array().expect("a list");
            assert_eq!(versions.len(), VERSIONS.len());
            assert!(versions.iter().all(|v| v["served"] == true && v["schema"] == versions[0]["schema"]));
            assert_eq!(versions.iter().filter(|v| v["storage"] == true).count(), 1);
        }
    }

    /// An object with a value for every field of the schema.
    fn full(schema: &Value) -> Value {
        if let Some(first) = schema["enum"].get(0) {
            return first.clone();
        }
        if schema["additionalProperties"].is_object() {
            return json!({"key": full(&schema["additionalProperties"])});
        }
        match schema["type"].as_str() {
            Some("object") => {
                let fields = schema["properties"].as_object().into_iter().flatten();
                fields.map(|(name, inner)| (name.clone(), full(inner))).collect()
            }
            Some("array") => json!([full(&schema["items"])]),
            Some("string") => json!("a"),
            Some("integer") => json!(1),
            _ => json!(7),
        }
    }

    #[test]
    fn every_field_of_the_schema_is_read_with_its_type() {
        for crd in crds() {
            let mut object = full(schema(&crd));
            object["apiVersion"] = json!(format!("{GROUP}/v1"));
            object["kind"] = crd["spec"]["names"]["kind"].clone();
            object["metadata"] = json!({"name": "full"});
            let parsed = parse(object.to_string().as_bytes());
            let [Parsed::Object { warnings, .. }] = parsed.as_slice() else { panic!("{parsed:?}") };
            assert_eq!(*warnings, []);
        }
    }

    #[test]
    fn the_words_of_the_schema_are_those_of_validation() {
        let [entry, _] = crds();
        let spec = &schema(&entry)["properties"]["spec"]["properties"];
        for (field, count) in [("location", 2), ("resolution", 5)] {
            let words = spec[field]["enum"].as_array().expect("a list");
            assert_eq!(words.len(), count);
            for word in words {
                let text = json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
                    "metadata": {"name": "a"}, "spec": {"hosts": ["a.test"], field: word}});
                let parsed = parse(text.to_string().as_bytes());
                let [Parsed::Object { object: object @ Object::ServiceEntry(_), .. }] = parsed.as_slice()
                else {
                    panic!("{parsed:?}")
                };
                let told = format!("{:?}", validate(object));
                assert!(!told.contains("Unknown"), "{word}: {told}");
            }
        }
        assert_eq!(spec["hosts"]["minItems"], 1);
        assert_eq!(spec["endpoints"]["maxItems"], 4096);
        assert_eq!(spec["ports"]["items"]["required"], json!(["number", "name"]));
    }
}
