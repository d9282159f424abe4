//! The command as a person and as a program sees it.

use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::cli::{Format, output::Shared};

const GOOD: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: good}\nspec:\n  \
                    hosts: [a.com]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: DNS\n";
const BAD: &str = "apiVersion: networking.istio.io/v1alpha3\nkind: ServiceEntry\nmetadata: {name: bad, namespace: n}\n\
                   spec:\n  hosts: [a.com]\n  ports: [{number: 0, name: http, protocol: HTTP}]\n";

fn run(inputs: &[&str], stdin: &str, format: Format) -> (anyhow::Result<Answer>, String) {
    let shared = Shared::default();
    let mut output = Output::to(shared.clone(), format);
    let args = Args { inputs: inputs.iter().map(PathBuf::from).collect() };
    let answer = run_with(args, &mut stdin.as_bytes(), &mut output);
    (answer, shared.text())
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn a_rejected_entry_is_told_in_the_contract_s_json() {
    let (answer, text) = run(&["-"], BAD, Format::Json);
    assert_eq!(answer.expect("read"), Answer::No);
    let result = &json_of(&text)["results"][0];
    let mut expected = json!({
        "kind": "ServiceEntry", "namespace": "n", "name": "bad", "accepted": false,
        "errors": [{"field": "spec.ports[0].number", "reason": "PortOutOfRange",
                    "message": "port 0 is not in 1..65535"}],
        "warnings": [],
    });
    expected["file"] = json!("-");
    expected["line"] = json!(1);
    assert_eq!(*result, expected);
}

#[test]
fn yaml_says_the_same_as_json() {
    let (_, yaml) = run(&["-"], BAD, Format::Yaml);
    let (_, json) = run(&["-"], BAD, Format::Json);
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml).expect("YAML"), json_of(&json));
}

#[test]
fn other_kinds_are_skipped_in_silence() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: 5}\n---\n";
    let (answer, text) = run(&["-"], &format!("{service}{GOOD}"), Format::Json);
    assert_eq!(answer.expect("read"), Answer::Yes);
    assert_eq!(json_of(&text)["results"].as_array().expect("a list").len(), 1);
    let (answer, text) = run(&["-"], service, Format::Text);
    assert_eq!(
        (answer.expect("read"), text.as_str()),
        (Answer::Yes, "No ServiceEntry, WorkloadEntry or HTTPRoute for a ServiceEntry found.\n")
    );
    let (answer, text) = run(&["-"], "kind: Service\nmetadata: [\n", Format::Json);
    assert_eq!((answer.expect("read"), json_of(&text)), (Answer::Yes, json!({"results": []})));
}

#[test]
fn text_is_aligned_and_lists_each_error_under_its_object() {
    let (answer, text) = run(&["-"], &format!("{GOOD}---\n{BAD}---\n{{broken\n"), Format::Text);
    assert_eq!(answer.expect("read"), Answer::No);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "KIND           NAMESPACE   NAME   RESULT     WHERE");
    assert_eq!(lines[1], "ServiceEntry   default     good   accepted   -:1");
    assert_eq!(lines[2], "ServiceEntry   n           bad    rejected   -:9");
    assert_eq!(lines[3], "  error: spec.ports[0].number: port 0 is not in 1..65535 (PortOutOfRange)");
    assert!(lines[4].starts_with("-              -           -      rejected   -:1"), "{text}");
    assert!(lines[5].starts_with("  error: not valid YAML: "), "{text}");
}

#[test]
fn reads_files_and_the_files_of_folders() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    fs::create_dir(at("sub")).expect("created");
    for (name, text) in
        [("b.yaml", BAD), ("a.yml", GOOD), ("c.txt", BAD), ("sub/d.yaml", BAD), (".e.yaml", BAD)]
    {
        fs::write(at(name), text).expect("written");
    }
    fs::write(
        at("f.json"),
        r#"{"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": {"name": "w"}, "spec": {"address": "10.0.0.1"}}"#,
    )
    .expect("written");

    let (answer, text) = run(&[folder.path().to_str().expect("UTF-8")], "", Format::Json);
    assert_eq!(answer.expect("read"), Answer::No);
    let report = json_of(&text);
    let names: Vec<_> = report["results"].as_array().expect("a list").iter().map(|r| &r["name"]).collect();
    assert_eq!(names, ["good", "bad", "w"]);
    // A file that is named is read, whatever its name.
    let (answer, _) = run(&[&at("c.txt")], "", Format::Json);
    assert_eq!(answer.expect("read"), Answer::No);
}

#[test]
fn an_input_that_cannot_be_read_is_an_error_and_the_others_are_still_told() {
    let (answer, text) = run(&["/nonexistent/a.yaml", "-", "/nonexistent/b.yaml"], GOOD, Format::Json);
    let error = format!("{:#}", answer.expect_err("an error"));
    assert!(
        error.contains("a.yaml") && error.contains("b.yaml") && error.contains("No such file"),
        "{error}"
    );
    assert_eq!(json_of(&text)["results"][0]["accepted"], json!(true));
}

#[test]
fn an_object_that_is_there_twice_is_warned_about() {
    let (answer, text) = run(&["-"], &format!("{GOOD}---\n{GOOD}"), Format::Json);
    assert_eq!(answer.expect("read"), Answer::Yes);
    let report = json_of(&text);
    assert_eq!(report["results"][0]["warnings"], json!([]));
    assert_eq!(report["results"][1]["warnings"][0]["reason"], json!("ObjectDuplicate"));
}
