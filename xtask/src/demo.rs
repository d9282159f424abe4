//! `cargo xtask demo`: the tutorial, played for real and checked to the letter.
//!
//! In: `examples/`. Out: each command with its answer and a tick. Never: success with a wrong answer or with
//! anything left behind.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tests::bench::Envoy;
use tests::stage::Stage;
use tests::topology::{BACKEND_2, Options, SLEEP};
use tests::tutorial::{self, ENTRIES, missing_headers};
use tests::{clean, poll};

use crate::{
    setup::{self, Verbosity},
    workspace,
};

const FAKE: &str = "kmesh-fake.com";
const REAL: &str = "httpbin.org";
/// How long a change of the folder may take to have effect.
const EFFECT: Duration = Duration::from_secs(10);
/// curl's exit code when a name does not resolve.
const NO_SUCH_NAME: i32 = 6;

/// The label that binds all services of a namespace, and the file that it is in.
const NAMESPACE: (&str, &str) = (
    "namespace.yaml",
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio.io/use-waypoint: waypoint}}\n",
);

/// How connections go.
pub(crate) enum Way {
    /// Straight to the backends; no waypoint is there.
    Straight,
    /// The same, until a label says otherwise: this Envoy is there.
    Beside(PathBuf),
    /// Through this Envoy from the start.
    Through(PathBuf),
}

/// The Envoy that is a waypoint, installed if need be.
///
/// # Errors
/// When it cannot be had.
pub(crate) fn envoy() -> anyhow::Result<PathBuf> {
    setup::waypoints(Verbosity::Changes)?;
    Envoy::program().context("Envoy is installed, but is not found")
}

/// A node with the examples applied.
///
/// # Errors
/// When this is not root, the machine lacks something, or a part does not come up.
pub(crate) fn node(release: bool, way: &Way) -> anyhow::Result<Stage> {
    clean::need_root()?;
    let agent = workspace::build_agent(release)?;
    let entries = tutorial::entries()?;
    let mut files: Vec<_> = entries.iter().map(|(name, text)| (*name, text.as_str())).collect();
    files.extend(matches!(way, Way::Through(_)).then_some(NAMESPACE));
    let stage = Stage::start_with(Options::default(), &files, |flags| {
        flags.program = agent;
        if let Way::Beside(envoy) | Way::Through(envoy) = way {
            flags.more.extend(["--waypoint-envoy".to_owned(), envoy.display().to_string()]);
        }
    })?;
    if matches!(way, Way::Through(_)) {
        stage.agent.until_through(ENTRIES.len())?;
    }
    Ok(stage)
}

/// Plays the tutorial; the answer is whether every step came out right.
///
/// # Errors
/// When it cannot be played.
pub(crate) fn demo(release: bool, waypoint: bool) -> anyhow::Result<bool> {
    let way = match envoy() {
        Ok(envoy) if waypoint => Way::Through(envoy),
        Ok(envoy) => Way::Beside(envoy),
        Err(error) if waypoint => return Err(error),
        Err(error) => {
            println!("demo: step 4 is skipped, since there is no Envoy for a waypoint: {error:#}");
            Way::Straight
        }
    };
    let stage = node(release, &way)?;
    let began = Instant::now();
    println!("demo: a node of its own, with the agent attached to {}\n", stage.cgroup.display());
    let mut play = Play { stage, right: 0, wrong: 0 };
    play.tutorial(&way)?;
    let Play { stage, mut right, mut wrong } = play;

    println!("Stop the agent (Ctrl-C), and take everything down:");
    let left = stage.end()?;
    tick(
        left.is_empty(),
        "no program, map, pin, namespace, cgroup, process or file is left",
        &left.join("\n"),
    );
    *if left.is_empty() { &mut right } else { &mut wrong } += 1;
    println!("\ndemo: {right} right, {wrong} wrong, {:.1} s", began.elapsed().as_secs_f64());
    Ok(wrong == 0)
}

fn tick(well: bool, what: &str, otherwise: &str) {
    println!("  {} {what}", if well { '✓' } else { '✗' });
    if !well {
        println!("{}", indent(otherwise));
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect::<String>().trim_end().to_owned()
}

/// The tutorial in progress.
struct Play {
    stage: Stage,
    right: u32,
    wrong: u32,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    code: Option<i32>,
    text: String,
}

impl Play {
    fn tutorial(&mut self, way: &Way) -> anyhow::Result<()> {
        let headers = |host: &str| -> anyhow::Result<Value> {
            Ok(json!({"Accept": "*/*", "Host": host, "User-Agent": user_agent()?}))
        };
        println!("Step 1: a host that exists nowhere else");
        self.expect_json(
            &["curl", "-s", "http://kmesh-fake.com/headers"],
            &json!({"headers": headers(FAKE)?}),
        )?;

        println!("Step 2: the server sees the client's own address");
        self.expect_json(
            &["curl", "-s", "http://kmesh-fake.com/get"],
            &json!({
                "args": {}, "headers": headers(FAKE)?, "origin": SLEEP.to_string(),
                "url": "http://kmesh-fake.com/get",
            }),
        )?;

        println!("Step 3: answers are the server's");
        self.expect_text(&["curl", "-s", "http://kmesh-fake.com/status/200"], "")?;
        let teapot = "http://kmesh-fake.com/status/418";
        self.expect_text(&["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}\\n", teapot], "418\n")?;

        self.through_the_waypoint(way)?;

        println!("Step 5: a host outside");
        self.expect_json(&["curl", "-s", "http://httpbin.org/headers"], &json!({"headers": headers(REAL)?}))?;
        let addresses = self.addresses(true, REAL)?;
        let virtual_only = !addresses.is_empty() && addresses.iter().all(|address| is_virtual(address));
        let told = format!("{REAL} resolves to virtual addresses: {}", addresses.join(" "));
        self.check(virtual_only, &told, "expected addresses of 240.240.0.0/16 and 2001:2::/48");
        println!();

        println!("Step 6: both entries deleted");
        for name in ENTRIES {
            println!("  $ rm {}", self.stage.entries().join(name).display());
            self.stage.remove(name)?;
        }
        self.gone()
    }

    /// Step 4: what the waypoint adds to an answer.
    fn through_the_waypoint(&mut self, way: &Way) -> anyhow::Result<()> {
        println!("Step 4: through the waypoint");
        match way {
            Way::Straight => {
                println!("  skipped: there is no Envoy\n");
                return Ok(());
            }
            Way::Through(_) => {}
            Way::Beside(_) => {
                let (name, text) = NAMESPACE;
                println!(
                    "  $ cat > {} <<END\n{}\n    END",
                    self.stage.entries().join(name).display(),
                    indent(text)
                );
                self.stage.write(name, text)?;
                self.stage.agent.until_through(ENTRIES.len())?;
            }
        }
        let answer = self.play(&["curl", "-IsS", "http://kmesh-fake.com/headers"])?;
        let missing = missing_headers(&answer.text);
        let right = answer.code == Some(0) && missing.is_empty();
        self.check(
            right,
            "as in the tutorial",
            &format!("ended with {:?}, without {missing:?}", answer.code),
        );
        if matches!(way, Way::Beside(_)) {
            println!("  $ rm {}", self.stage.entries().join(NAMESPACE.0).display());
            self.stage.remove(NAMESPACE.0)?;
            self.stage.agent.until_through(0)?;
        }
        println!();
        Ok(())
    }

    /// After step 6: as if there had been nothing.
    fn gone(&mut self) -> anyhow::Result<()> {
        // `-I`: the answer's head is enough, and a name that does not resolve fails likewise.
        let fake = ["curl", "-sI", "http://kmesh-fake.com/headers"];
        let refused = || self.answer(true, &fake).ok().filter(|answer| answer.code == Some(NO_SUCH_NAME));
        let outcome = poll::until("kmesh-fake.com to be unknown", EFFECT, refused);
        self.check(outcome.is_ok(), "kmesh-fake.com no longer resolves", &format!("{outcome:?}"));

        let same = || (self.addresses(true, REAL).ok()? == self.addresses(false, REAL).ok()?).then_some(());
        let outcome = poll::until("httpbin.org to resolve as without", EFFECT, same);
        let addresses = self.addresses(true, REAL)?;
        let real = outcome.is_ok() && addresses == [BACKEND_2.to_string()];
        let told = format!("httpbin.org resolves as without kmesh-se: {}", addresses.join(" "));
        self.check(real, &told, &format!("expected {BACKEND_2}, {outcome:?}"));

        let get = ["curl", "-s", "-w", "%{remote_ip}", "http://httpbin.org/get"];
        let (enrolled, plain) = (self.answer(true, &get)?, self.answer(false, &get)?);
        let same = enrolled == plain && enrolled.text.ends_with(&BACKEND_2.to_string());
        let both = format!("enrolled: {enrolled:?}\nnot enrolled: {plain:?}");
        self.check(same, "httpbin.org connects as without kmesh-se", &both);

        let entries = self.entries_in_maps()?;
        self.check(entries.is_empty(), "no map entry of either remains", &entries.join("\n"));
        println!();
        Ok(())
    }

    /// What the maps that lead from names to backends still hold.
    fn entries_in_maps(&self) -> anyhow::Result<Vec<String>> {
        let objects = self.stage.objects()?;
        let mut found = Vec::new();
        // The first must be there; how the others are made is the data plane's own business.
        found.extend(objects.dump("kmse_frontend")?.iter().map(|entry| format!("kmse_frontend {entry}")));
        for (id, name) in &objects.maps {
            let leads =
                ["kmse_address", "kmse_service", "kmse_slot", "kmse_backend"].contains(&name.as_str());
            let shown = tests::bpf::bpftool(&["map", "show", "id", &id.to_string()])?;
            // An array always has all its elements.
            if leads && !shown["type"].as_str().unwrap_or_default().contains("array") {
                found.extend(objects.dump(name)?.iter().map(|entry| format!("{name} {entry}")));
            }
        }
        Ok(found)
    }

    fn answer(&self, enrolled: bool, command: &[&str]) -> anyhow::Result<Answer> {
        let output = self.stage.ask(enrolled, command)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Answer { code: output.status.code(), text })
    }

    /// The IPv4 and IPv6 addresses of a name, sorted.
    fn addresses(&self, enrolled: bool, name: &str) -> anyhow::Result<Vec<String>> {
        let answer = self.answer(enrolled, &["getent", "ahosts", name])?;
        let mut addresses: Vec<_> = answer
            .text
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect();
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }

    fn check(&mut self, well: bool, what: &str, otherwise: &str) {
        tick(well, what, otherwise);
        *if well { &mut self.right } else { &mut self.wrong } += 1;
    }

    fn expect_json(&mut self, command: &[&str], expected: &Value) -> anyhow::Result<()> {
        let answer = self.play(command)?;
        let came: Value = serde_json::from_str(&answer.text).unwrap_or(Value::Null);
        // httpbin ends its bodies with a newline.
        let right = answer.code == Some(0) && came == *expected && answer.text.ends_with("}\n");
        self.check(
            right,
            "as in the tutorial",
            &format!("expected {expected}\nand it ended with {:?}", answer.code),
        );
        println!();
        Ok(())
    }

    fn expect_text(&mut self, command: &[&str], expected: &str) -> anyhow::Result<()> {
        let answer = self.play(command)?;
        let right = answer.code == Some(0) && answer.text == expected;
        self.check(
            right,
            "as in the tutorial",
            &format!("expected {expected:?}, ended with {:?}", answer.code),
        );
        println!();
        Ok(())
    }

    /// Runs a command enrolled, and shows both.
    fn play(&self, command: &[&str]) -> anyhow::Result<Answer> {
        println!("  $ {}", typed(command));
        let answer = self.answer(true, command)?;
        if !answer.text.is_empty() {
            println!("{}", indent(&answer.text));
        }
        Ok(answer)
    }
}

/// A command as one types it.
pub(crate) fn typed(words: &[impl AsRef<str>]) -> String {
    let quoted = words.iter().map(|word| {
        let word = word.as_ref();
        if word.contains(['%', '\\', ' ', '*', '&', '?']) { format!("'{word}'") } else { word.to_owned() }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn is_virtual(address: &str) -> bool {
    address.starts_with("240.240.") || address.starts_with("2001:2:0:") || address.starts_with("2001:2::")
}

/// What curl says of itself to a server: `curl/7.88.1`.
pub(crate) fn user_agent() -> anyhow::Result<String> {
    let output = std::process::Command::new("curl").arg("--version").output().context("cannot run curl")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.split_whitespace().nth(1) {
        Some(version) => Ok(format!("curl/{version}")),
        None => bail!("curl does not tell its version"),
    }
}
