//! What comes of each kind of text.

use proptest::prelude::*;

use super::*;
use crate::model::validate;

const HEAD: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: ";

fn entry(name: &str) -> String {
    format!("{HEAD}{name}\nspec:\n  hosts: [a.com]\n")
}

/// Each item in one line: `object NAME @LINE`, `skipped KIND`, `failed REASON @LINE`.
fn told(items: &[Parsed]) -> Vec<String> {
    items
        .iter()
        .map(|item| match item {
            Parsed::Object { line, object, .. } => format!("{} @{line}", object.object_ref()),
            Parsed::Skipped { line, kind, .. } => format!("skipped {kind} @{line}"),
            Parsed::Failed(failure) => format!("failed {} @{}", failure.reason(), failure.line),
        })
        .collect()
}

fn failures(items: &[Parsed]) -> Vec<&ParseFailure> {
    items.iter().filter_map(|i| if let Parsed::Failed(f) = i { Some(f) } else { None }).collect()
}

#[test]
fn texts_without_objects_are_empty() {
    for text in [
        "",
        "\n",
        "# only a comment\n",
        "---\n",
        "---\n---\n# c\n...\n",
        "--- # c\n",
        "\u{feff}",
        "\r\n",
        "null",
        "~",
    ] {
        assert_eq!(told(&parse(text.as_bytes())), [""; 0], "{text:?}");
    }
}

#[test]
fn reads_every_document_and_skips_other_kinds() {
    let text = format!(
        "# first\n---\n{}---\n{}--- # third\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: s}}\n...\n{}",
        entry("a"),
        entry("b").replace("networking.istio.io/v1", "networking.istio.io/v1alpha3"),
        entry("c").replace("ServiceEntry", "WorkloadEntry").replace("hosts: [a.com]", "address: 10.0.0.1"),
    );
    assert_eq!(
        told(&parse(text.as_bytes())),
        [
            "ServiceEntry default/a @3",
            "ServiceEntry default/b @10",
            "skipped ConfigMap @17",
            "WorkloadEntry default/c @21"
        ]
    );
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_change_nothing() {
    let text = format!("\u{feff}{}---\n{}", entry("a"), entry("b")).replace('\n', "\r\n");
    assert_eq!(told(&parse(text.as_bytes())), ["ServiceEntry default/a @1", "ServiceEntry default/b @8"]);
}

#[test]
fn a_broken_document_does_not_take_the_others() {
    let broken = format!("{HEAD}broken\nspec:\n  hosts: [a.com\n  ports: }}\n");
    let text = format!("{}---\n{broken}---\n{}", entry("a"), entry("b"));
    let items = parse(text.as_bytes());
    assert_eq!(told(&items).len(), 3, "{items:?}");
    assert_eq!(told(&items)[0], "ServiceEntry default/a @1");
    assert_eq!(told(&items)[2], "ServiceEntry default/b @16");
    let failure = failures(&items)[0];
    assert_eq!(failure.reason(), "InvalidSyntax");
    assert!((13..=15).contains(&failure.line), "{failure:?}");
    assert_eq!(
        failure.object_ref().expect("kind and name were read").to_string(),
        "ServiceEntry default/broken"
    );
}

#[test]
fn a_broken_document_s_place_is_told_once_and_counts_from_the_start_of_the_file() {
    for (text, line) in [
        ("# c\n---\na: [\n", 3),
        ("# c\n---\na: 1\na: 2\n", 4),
        ("# c\n---\n{\"a\": 1,\n\"b\" 2}", 4),
        ("# c\n---\nb: 1\n  c: 2\n", 4),
        ("# c\n---\na: *b\n", 3),
        ("# c\n---\na: \"b\n", 3),
    ] {
        let items = parse(text.as_bytes());
        let failure = failures(&items)[0];
        let message = &failure.issues[0].message;
        assert!(!message.contains("line ") && !message.contains('\n'), "{text:?}: {message}");
        assert!((line..=line + 1).contains(&failure.line), "{text:?}: {failure:?}");
    }
}

#[test]
fn the_names_of_broken_objects_are_read_in_both_styles() {
    for metadata in [
        "metadata: {name: a, namespace: n}",
        "metadata:\n  labels: {name: x}\n  name: 'a' # c\n  namespace: n",
    ] {
        let text = format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n{metadata}\nspec: [\n");
        let items = parse(text.as_bytes());
        assert_eq!(failures(&items)[0].object_ref().expect("read").to_string(), "ServiceEntry n/a");
    }
}

#[test]
fn tabs_are_named_as_the_error() {
    let text = format!("{}\tresolution: DNS\n", entry("a"));
    let items = parse(text.as_bytes());
    assert!(failures(&items)[0].issues[0].message.to_lowercase().contains("tab"), "{items:?}");
}

#[test]
fn bytes_that_are_not_utf8_hurt_only_their_document() {
    let mut text = entry("a").into_bytes();
    text.extend(b"---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: b\n  x: \xff\n---\n");
    text.extend(entry("c").as_bytes());
    let items = parse(&text);
    assert_eq!(
        told(&items),
        ["ServiceEntry default/a @1", "failed InvalidEncoding @12", "ServiceEntry default/c @14"]
    );
    assert_eq!(failures(&items)[0].object_ref().expect("read").to_string(), "ServiceEntry default/b");
    assert_eq!(told(&parse(b"\xff\xfek\0")), ["failed InvalidEncoding @1"]);
}

#[test]
fn wrong_types_are_all_listed_with_path_and_line() {
    let text = format!(
        "# c\n{HEAD}a\n  labels: {{x.y/z: false}}\nspec:\n  hosts: [a.com, 7]\n  ports:\n  - number: \"80\"\n    name: 5\n"
    );
    let items = parse(text.as_bytes());
    let failure = failures(&items)[0];
    let fields: Vec<_> = failure.issues.iter().map(|i| (i.field.as_str(), i.reason)).collect();
    assert_eq!(
        fields,
        [
            ("metadata.labels.x.y/z", "WrongType"),
            ("spec.hosts[1]", "WrongType"),
            ("spec.ports[0].name", "WrongType"),
            ("spec.ports[0].number", "WrongType"),
        ]
    );
    assert_eq!(failure.line, 6, "the line of the label");
    let numbers = &failure.issues[3].message;
    assert!(numbers.contains("\"80\"") && numbers.contains("a whole number"), "{numbers}");
}

#[test]
fn unknown_fields_are_warned_about_with_their_path() {
    let text = format!("{}  ports: [{{number: 80, name: a, numbr: 1}}]\nstatuss: {{}}\n", entry("a"));
    let Parsed::Object { warnings, .. } = parse(text.as_bytes()).remove(0) else { panic!("not an object") };
    let fields: Vec<_> = warnings.iter().map(|w| w.field.as_str()).collect();
    assert_eq!(fields, ["spec.ports[0].numbr", "statuss"]);
    assert!(warnings.iter().all(|w| w.reason == "UnknownField"));
}

#[test]
fn everything_that_a_cluster_writes_is_known() {
    let text = r#"{"apiVersion": "networking.istio.io/v1beta1", "kind": "ServiceEntry", "metadata": {
        "name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 2, "selfLink": "/x",
        "creationTimestamp": "2026-01-31T12:00:00Z", "labels": {"a": "b"}, "annotations": {"c": "d"},
        "finalizers": ["f"], "ownerReferences": [{"name": "o"}],
        "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
      "spec": {"hosts": ["a.com"], "addresses": ["10.0.0.1"], "location": "MESH_INTERNAL", "resolution": "STATIC",
        "ports": [{"number": 80, "name": "a", "protocol": "HTTP", "targetPort": 81}],
        "endpoints": [{"address": "10.0.0.1", "ports": {"a": 1}, "labels": {"a": "b"}, "network": "n",
          "locality": "r/z", "weight": 2, "serviceAccount": "s"}],
        "workloadSelector": {"labels": {"a": "b"}}, "exportTo": ["."], "subjectAltNames": ["x"]},
      "status": {"addresses": [{"value": "240.240.0.1", "host": "a.com"}], "observedGeneration": "2",
        "conditions": [{"type": "t", "status": "True", "reason": "r", "message": "m",
          "lastTransitionTime": "2026-01-31T12:00:00Z", "lastProbeTime": null, "observedGeneration": "1"}],
        "validationMessages": [{"type": {"name": "x"}}]}}"#;
    let Parsed::Object { warnings, object: Object::ServiceEntry(entry), .. } =
        parse(text.as_bytes()).remove(0)
    else {
        panic!("not an object: {:?}", parse(text.as_bytes()))
    };
    assert_eq!(warnings, []);
    assert_eq!(entry.spec.endpoints[0].weight, Some(2));
    assert_eq!(entry.status.addresses[0].value, "240.240.0.1");
}

#[test]
fn a_null_field_is_an_absent_field() {
    let text =
        format!("{HEAD}a\n  creationTimestamp: null\n  labels: ~\nspec:\n  hosts: [a.com]\n  ports:\n");
    assert_eq!(told(&parse(text.as_bytes())), ["ServiceEntry default/a @1"]);
}

#[test]
fn only_true_and_false_are_booleans() {
    for (name, told_as) in [
        ("n", "ServiceEntry default/n @1"),
        ("on", "ServiceEntry default/on @1"),
        ("no", "ServiceEntry default/no @1"),
        ("true", "failed WrongType @4"),
    ] {
        assert_eq!(told(&parse(entry(name).as_bytes())), [told_as]);
    }
}

#[test]
fn lists_are_their_items() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: networking.istio.io/v1\n  kind: ServiceEntry\n  \
                metadata: {name: a}\n- 5\n- apiVersion: v1\n  kind: Secret\n- apiVersion: networking.istio.io/v1\n  \
                kind: ServiceEntry\n  metadata: {name: b}\n  spec:\n    hosts: x\n";
    assert_eq!(
        told(&parse(list.as_bytes())),
        ["ServiceEntry default/a @4", "failed NotAnObject @7", "skipped Secret @8", "failed WrongType @14"]
    );
    let typed = r#"{"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntryList", "metadata": {},
                    "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b", "namespace": "n"}}]}"#;
    assert_eq!(told(&parse(typed.as_bytes())), ["ServiceEntry default/a @2", "ServiceEntry n/b @2"]);
}

#[test]
fn json_objects_may_follow_each_other() {
    let one = |name| {
        format!(
            "{{\"apiVersion\": \"networking.istio.io/v1\",\t\"kind\": \"ServiceEntry\",\n\"metadata\": {{\"name\": \"{name}\"}}}}\n"
        )
    };
    assert_eq!(told(&parse(one("a").as_bytes())), ["ServiceEntry default/a @1"]);
    let two = one("a") + &one("b");
    assert_eq!(told(&parse(two.as_bytes())), ["ServiceEntry default/a @1", "ServiceEntry default/b @1"]);
    let cut = &one("a")[..40];
    let items = parse(cut.as_bytes());
    assert!(failures(&items)[0].issues[0].message.contains("JSON"), "{items:?}");
}

#[test]
fn objects_that_cannot_be_told_are_failures_that_say_so() {
    for (text, reason) in [
        ("hello", "NotAnObject"),
        ("[1, 2]", "NotAnObject"),
        ("apiVersion: networking.istio.io/v1\nmetadata: {name: a}\n", "MissingKind"),
        ("kind: ServiceEntry\nmetadata: {name: a}\n", "UnknownApiVersion"),
        ("apiVersion: networking.istio.io/v2\nkind: ServiceEntry\n", "UnknownApiVersion"),
        ("apiVersion: v1\nkind: ServiceEntry\n", "UnknownApiVersion"),
        ("apiVersion: networking.istio.oi/v1\nkind: ServiceEntry\n", "UnknownApiVersion"),
        ("kind: ServiceEntry\nkind: ServiceEntry\n", "InvalidSyntax"),
        ("{\"kind\": \"ServiceEntry\", \"kind\": \"ServiceEntry\"}", "InvalidSyntax"),
        ("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nspec: []\n", "WrongType"),
        ("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nspec: {ports: [[80, a]]}\n", "WrongType"),
        ("a: &a [*a]\n", "InvalidSyntax"),
        ("a: *nothing\n", "InvalidSyntax"),
        ("%YAML 1.2\na: b\n", "InvalidSyntax"),
    ] {
        let items = parse(text.as_bytes());
        assert_eq!(
            failures(&items).iter().map(|f| f.reason()).collect::<Vec<_>>(),
            [reason],
            "{text:?}: {items:?}"
        );
        assert!(!failures(&items)[0].to_string().is_empty());
    }
    let knative = b"apiVersion: serving.knative.dev/v1\nkind: Service\n";
    assert_eq!(told(&parse(knative)), ["skipped Service @1"]);
    assert_eq!(
        told(&parse(format!("%YAML 1.2\n---\n{}", entry("a")).as_bytes())),
        ["ServiceEntry default/a @3"]
    );
}

#[test]
fn whole_numbers_may_be_written_as_floats() {
    let with_port = |number: &str| format!("{}  ports: [{{number: {number}, name: a}}]\n", entry("a"));
    for number in ["80.0", "8e1", "0x50"] {
        let items = parse(with_port(number).as_bytes());
        let Parsed::Object { object: Object::ServiceEntry(entry), .. } = &items[0] else {
            panic!("{items:?}")
        };
        assert_eq!(entry.spec.ports[0].number, Some(80), "{number}");
    }
    for (number, told) in [
        ("80.5", "floating point `80.5`, expected a whole number"),
        ("1e30", "too large"),
        ("99999999999999999999", "too large"),
    ] {
        let items = parse(with_port(number).as_bytes());
        let issue = &failures(&items)[0].issues[0];
        assert!(issue.field == "spec.ports[0].number" && issue.message.contains(told), "{issue:?}");
    }
}

#[test]
fn errors_are_told_to_who_wrote_the_text_and_not_to_a_programmer() {
    let many: String = (0..20_000).map(|i| format!("- &a{i} x\n")).collect();
    for (text, told) in [
        ("a: 1\na: 2\n", "duplicate mapping key `a` is not allowed here"),
        (&*"- ".repeat(100), "too large or too complex"),
        (&*many, "too large or too complex"),
        ("&a [*a]", "reference"),
    ] {
        let items = parse(text.as_bytes());
        let message = &failures(&items)[0].issues[0].message;
        let start: String = text.chars().take(20).collect();
        assert!(message.contains(told), "{start}: {message}");
        for jargon in ["Policy", "Options", "breach", "weak"] {
            assert!(!message.contains(jargon), "{start}: {message}");
        }
    }
}

#[test]
fn hostile_texts_end_quickly_in_one_failure() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let inner = vec![format!("*a{}", i - 1); 9].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{inner}]\n"));
    }
    let deep = |open: &str| open.repeat(100_000);
    let texts =
        [bomb, deep("["), deep("{a: "), deep("- "), deep("{\"a\":"), deep("? "), "%\n".repeat(100_000)];
    for text in texts {
        let items = parse(text.as_bytes());
        let start: String = text.chars().take(20).collect();
        assert_eq!(failures(&items).len(), 1, "{start:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn no_text_makes_it_panic(text in "([a-z{}\\[\\]:,\"'|>&*!%@#?\\-. \t\n\r]|---\n|\\.\\.\\.\n|[^a]){0,80}") {
        let _ = parse(text.as_bytes());
    }

    /// A valid file with bytes replaced: whatever is read can also be validated.
    #[test]
    fn no_damage_makes_it_panic(at in 0_usize..400, bytes in proptest::collection::vec(any::<u8>(), 1..6)) {
        let mut text = (entry("a") + "  ports: [{number: 80, name: a}]\n  resolution: DNS\n  endpoints:\n  \
            - address: b.com\n    weight: 3\n    ports: {a: 1}\n  exportTo: ['.']\n---\n" + &entry("b")).into_bytes();
        let at = at % text.len();
        let end = (at + bytes.len()).min(text.len());
        text.splice(at..end, bytes);
        for item in parse(&text) {
            match item {
                Parsed::Object { object, .. } => drop(validate(&object)),
                Parsed::Failed(failure) => prop_assert!(!failure.issues.is_empty()),
                Parsed::Skipped { .. } => {}
            }
        }
    }
}
