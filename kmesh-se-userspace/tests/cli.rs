//! The binary as a shell sees it: exit codes, and what goes where.

use std::{
    io::{Read, Write},
    process::{Command, Output, Stdio},
};

const GOOD: &str =
    "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec: {hosts: [a.com]}\n";

fn kmesh_se(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmesh-se"));
    command.args(arguments).env_remove("KMESH_SE_OUTPUT").env_remove("KMESH_SE_LOG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(mut command: Command, stdin: &str) -> Output {
    let mut child = command.spawn().expect("started");
    // It may have ended without reading.
    let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    child.wait_with_output().expect("ended")
}

#[test]
fn exit_codes_are_0_done_1_no_2_wrong_use_or_error() {
    let bad = GOOD.replace("a.com", "'*'");
    for (arguments, stdin, code) in [
        (&["validate", "-"][..], GOOD, 0),
        (&["validate", "-"], &bad, 1),
        (&["validate", "-"], "a: [", 1),
        (&["validate"], "", 2),
        (&["validate", "/nonexistent"], "", 2),
        (&["validate", "--log", "=", "-"], GOOD, 2),
        (&["nonsense"], "", 2),
        (&[], "", 2),
        (&["--help"], "", 0),
        (&["--version"], "", 0),
    ] {
        let output = run(kmesh_se(arguments), stdin);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert_eq!(output.stderr.is_empty(), code != 2, "{arguments:?}: {output:?}");
    }
}

#[test]
fn errors_on_stderr_say_what_and_answers_on_stdout_stay_whole() {
    let output = run(kmesh_se(&["-o", "json", "validate", "/nonexistent/a.yaml", "-"]), GOOD);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(stderr.starts_with("error: cannot read /nonexistent/a.yaml: No such file"), "{stderr}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["results"][0]["name"], "a");
}

#[test]
fn the_environment_stands_for_flags() {
    let mut command = kmesh_se(&["validate", "-"]);
    command.env("KMESH_SE_OUTPUT", "json");
    let output = run(command, GOOD);
    assert!(serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok(), "{output:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_panic_and_does_not_change_the_answer() {
    let many: String =
        (0..2000).map(|i| format!("---\n{}", GOOD.replace("name: a", &format!("name: a{i}")))).collect();
    let mut child = kmesh_se(&["validate", "-"]).spawn().expect("started");
    drop(child.stdout.take());
    child.stdin.take().expect("piped").write_all(many.as_bytes()).expect("read");
    let status = child.wait().expect("ended");
    let mut stderr = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("UTF-8");
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn text_in_a_pipe_has_no_colour() {
    let output = run(kmesh_se(&["validate", "-"]), GOOD);
    assert!(!output.stdout.contains(&0x1b) && !output.stdout.is_empty(), "{output:?}");
}
