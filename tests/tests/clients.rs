//! The HTTP clients that programs in each language use, asking the tutorial's host by name.
//!
//! Each is a program in `tests/clients` that prints, for each library that it asks by, `== LIBRARY STATUS` and the body.

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tests::netns::Netns;
use tests::poll;
use tests::stage::{Stage, examples_folder, target_folder, tools_folder};
use tests::topology::{BACKEND, DNS, NODE, Options, SLEEP, v6};

const HOST: &str = "kmesh-fake.com";
/// The tutorial's backend, with an address of each family.
const BOTH: Options = Options {
    httpbin: true,
    ttl_secs: 1,
    records: &[
        ("httpbin.default.svc.cluster.local", BACKEND),
        ("httpbin.default.svc.cluster.local", IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, 7))),
    ],
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Any,
    V4,
    V6,
}

impl Family {
    fn word(self) -> &'static str {
        match self {
            Family::Any => "any",
            Family::V4 => "4",
            Family::V6 => "6",
        }
    }

    /// The addresses of a client that the backend may see.
    fn origins(self, client: IpAddr) -> Vec<String> {
        let addresses = match self {
            Family::Any => vec![client, v6(client)],
            Family::V4 => vec![client],
            Family::V6 => vec![v6(client)],
        };
        addresses.iter().map(ToString::to_string).collect()
    }
}

fn source(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name).display().to_string()
}

/// A stage with the tutorial's entry, which DNS answers over both families.
fn stage() -> anyhow::Result<Stage> {
    let entry = std::fs::read_to_string(examples_folder().join("external-fake-svc.yaml"))?;
    let stage = Stage::start(BOTH, &[("fake.yaml", &entry)])?;
    stage.topology.node.resolv_conf(&format!("nameserver {DNS}\n"))?;
    let resolved = || {
        let known = |family| stage.says(true, &["getent", family, HOST]).is_ok_and(|(known, _)| known);
        (known("ahostsv4") && known("ahostsv6")).then_some(())
    };
    tests::poll::until("both addresses", std::time::Duration::from_secs(10), resolved)?;
    Ok(stage)
}

/// Asks by each library of a client, all of which must answer as the tutorial says; on the node too, which has routes for the
/// ranges of virtual addresses that a client sorts addresses by.
fn ask(stage: &Stage, client: &[&str], family: Family, libraries: &[&str]) -> anyhow::Result<()> {
    ask_in(stage, (&stage.topology.sleep, SLEEP), client, family, libraries)?;
    if family == Family::Any {
        ask_in(stage, (&stage.topology.node, NODE), client, family, libraries)?;
    }
    Ok(())
}

fn ask_in(
    stage: &Stage,
    (netns, address): (&Netns, IpAddr),
    client: &[&str],
    family: Family,
    libraries: &[&str],
) -> anyhow::Result<()> {
    let words =
        [&["ip", "netns", "exec", netns.name()], client, &[HOST, "80", "/get", family.word()]].concat();
    let exec = stage.agent.exec();
    let mut command = Command::new(&exec[0]);
    let output = poll::output(stage.run.own(command.args(&exec[1..]).args(&words)))?;
    let (told, error) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{words:?} ended with {}: {error}\n{told}", output.status);
    }
    let answers: Vec<&str> = told.split("== ").filter(|part| !part.trim().is_empty()).collect();
    let mut asked = Vec::new();
    for answer in answers {
        let (head, body) = answer.split_once('\n').with_context(|| format!("no body: {answer}"))?;
        let (library, status) = head.trim().rsplit_once(' ').with_context(|| format!("no status: {head}"))?;
        assert_eq!(status, "200", "{words:?}: {answer}");
        let body: Value = serde_json::from_str(body).with_context(|| format!("{library}: {body}"))?;
        assert_eq!(body["headers"]["Host"], HOST, "{library}: {body}");
        let origin = body["origin"].as_str().unwrap_or_default().to_owned();
        assert!(family.origins(address).contains(&origin), "{library} over {family:?}: {body}");
        asked.push(library);
    }
    assert_eq!(asked, libraries, "{words:?}: {told}");
    Ok(())
}

/// Nobody asked the real resolver, and nothing was refused.
fn end(stage: Stage) -> anyhow::Result<()> {
    assert_eq!(stage.topology.dns.queries(HOST), 0);
    assert_eq!(stage.agent.json("status")?["refusals"], serde_json::json!([]));
    assert_eq!(stage.end()?, Vec::<String>::new());
    Ok(())
}

/// A program that `cargo xtask setup` finds or installs.
fn tool(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    found.with_context(|| format!("no {name} here: run `cargo xtask setup`"))
}

fn compile(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn c_by_sockets() -> anyhow::Result<()> {
    let stage = stage()?;
    let program = stage.run.folder()?.join("client-c").display().to_string();
    compile(Command::new(tool("gcc")?).args([
        "-Wall",
        "-Werror",
        "-O1",
        "-o",
        &program,
        &source("client.c"),
    ]))?;
    for family in [Family::Any, Family::V4, Family::V6] {
        ask(&stage, &[&program], family, &["sockets"])?;
    }
    end(stage)
}

#[test]
fn go_by_both_of_its_resolvers() -> anyhow::Result<()> {
    let stage = stage()?;
    let program = stage.run.folder()?.join("client-go").display().to_string();
    let mut go = Command::new(tool("go")?);
    // Its own compiler and library are all that it may use; they are compiled once.
    go.env("GOTOOLCHAIN", "local").env("GOPROXY", "off").env("GOFLAGS", "-mod=mod").env("CGO_ENABLED", "1");
    go.env("GOCACHE", target_folder().join("go-cache")).current_dir(stage.run.folder()?);
    compile(go.args(["build", "-o", &program, &source("client.go")]))?;
    for resolver in ["go", "cgo"] {
        let setting = format!("GODEBUG=netdns={resolver}");
        for family in [Family::Any, Family::V4, Family::V6] {
            ask(&stage, &["env", &setting, &program], family, &["net/http"])?;
        }
    }
    end(stage)
}

#[test]
fn node_by_http_and_fetch() -> anyhow::Result<()> {
    let stage = stage()?;
    let (node, script) = (tool("node")?.display().to_string(), source("client.js"));
    ask(&stage, &[&node, &script], Family::Any, &["http", "fetch"])?;
    for family in [Family::V4, Family::V6] {
        ask(&stage, &[&node, &script], family, &["http"])?;
    }
    end(stage)
}

#[test]
fn java_by_both_of_its_clients() -> anyhow::Result<()> {
    let stage = stage()?;
    tool("javac")?;
    let (java, program) = (tool("java")?.display().to_string(), source("Client.java"));
    for (family, property) in [
        (Family::Any, "-Djava.net.preferIPv6Addresses=system"),
        (Family::V4, "-Djava.net.preferIPv6Addresses=false"),
        (Family::V4, "-Djava.net.preferIPv4Stack=true"),
        (Family::V6, "-Djava.net.preferIPv6Addresses=true"),
    ] {
        let words = [&java, "-XX:TieredStopAtLevel=1", property, &program];
        ask(&stage, &words, family, &["HttpURLConnection", "HttpClient"])?;
    }
    end(stage)
}

#[test]
fn python_by_urllib_and_http_client() -> anyhow::Result<()> {
    let stage = stage()?;
    let python = tools_folder().join("httpbin/bin/python3").display().to_string();
    let script = source("client.py");
    ask(&stage, &[&python, &script], Family::Any, &["urllib", "http.client"])?;
    for family in [Family::V4, Family::V6] {
        ask(&stage, &[&python, &script], family, &["http.client"])?;
    }
    end(stage)
}

#[test]
fn rust_by_ureq() -> anyhow::Result<()> {
    let stage = stage()?;
    for family in [Family::Any, Family::V4, Family::V6] {
        ask(&stage, &[env!("CARGO_BIN_EXE_http-client")], family, &["ureq"])?;
    }
    end(stage)
}
