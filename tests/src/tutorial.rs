//! The tutorial's entries, and what must come back of its steps.
//!
//! In: a client, where the entries are applied. Out: an error that names the step that was answered otherwise. Never: how the answer
//! came, with or without a waypoint.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::stage::examples_folder;

/// The files of both entries, below `examples/`.
pub const ENTRIES: [&str; 2] = ["external-fake-svc.yaml", "external-httpbin-org.yaml"];

/// Both entries: the name of the file and its text.
///
/// # Errors
/// When an example cannot be read.
pub fn entries() -> anyhow::Result<[(&'static str, String); 2]> {
    let read = |name: &'static str| {
        let path: PathBuf = examples_folder().join(name);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()));
        anyhow::Ok((name, text?))
    };
    Ok([read(ENTRIES[0])?, read(ENTRIES[1])?])
}

/// Asks what steps 1, 2, 3 and 5 ask, as an enrolled client with the address `origin`: five requests. `client` runs a command there, and
/// says whether it ended well and what it wrote.
///
/// # Errors
/// When an answer is another.
pub fn ask(client: impl Fn(&[&str]) -> anyhow::Result<(bool, String)>, origin: &str) -> anyhow::Result<()> {
    let headers = |host: &str| json!({"Accept": "*/*", "Host": host, "User-Agent": "curl/test"});
    is_answered(&client, "http://kmesh-fake.com/headers", &json!({"headers": headers("kmesh-fake.com")}))?;
    let get = json!({
        "args": {}, "headers": headers("kmesh-fake.com"), "origin": origin,
        "url": "http://kmesh-fake.com/get",
    });
    is_answered(&client, "http://kmesh-fake.com/get", &get)?;
    let empty = client(&["curl", "-s", "http://kmesh-fake.com/status/200"])?;
    ensure!(empty == (true, String::new()), "/status/200: {empty:?}");
    let teapot =
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}\\n", "http://kmesh-fake.com/status/418"];
    let code = client(&teapot)?;
    ensure!(code == (true, "418\n".to_owned()), "/status/418: {code:?}");
    is_answered(&client, "http://httpbin.org/headers", &json!({"headers": headers("httpbin.org")}))
}

fn is_answered(
    client: impl Fn(&[&str]) -> anyhow::Result<(bool, String)>,
    url: &str,
    expected: &Value,
) -> anyhow::Result<()> {
    let (well, body) = client(&["curl", "-s", "-A", "curl/test", url])?;
    ensure!(well, "curl {url} failed: {body}");
    let answer: Value = serde_json::from_str(&body).with_context(|| format!("{url} is no JSON: {body}"))?;
    ensure!(answer == *expected, "{url}: {answer}, not {expected}");
    Ok(())
}

/// What the head of step 4's answer lacks.
#[must_use]
pub fn missing_headers(head: &str) -> Vec<&'static str> {
    const TOLD: [&str; 6] = [
        "server: envoy",
        "content-type: application/json",
        "access-control-allow-origin: *",
        "access-control-allow-credentials: true",
        "x-envoy-upstream-service-time: ",
        "x-envoy-decorator-operation: httpbin.default.svc.cluster.local:8000/*",
    ];
    let lines: Vec<_> = head.lines().map(str::trim_end).collect();
    let is_there = |told: &str| match told.strip_suffix(": ") {
        Some(_) => {
            lines.iter().any(|line| line.strip_prefix(told).is_some_and(|ms| ms.parse::<u32>().is_ok()))
        }
        None => lines.contains(&told),
    };
    let mut missing: Vec<_> = TOLD.into_iter().filter(|told| !is_there(told)).collect();
    missing.extend((lines.first() != Some(&"HTTP/1.1 200 OK")).then_some("HTTP/1.1 200 OK"));
    missing
}
