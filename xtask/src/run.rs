//! `cargo xtask run`: a node to play with, and a live view of it.
//!
//! In: `examples/`, then whatever a person does in another terminal. Out: the view, until Ctrl-C. Never:
//! anything left behind.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use tests::clean;
use tests::stage::Stage;

use crate::demo::{self, Way};

/// How often the view is drawn.
const REFRESH: Duration = Duration::from_secs(1);
/// How soon Ctrl-C is seen.
const TICK: Duration = Duration::from_millis(50);

/// Runs until a signal; the answer is whether all went well and nothing is left.
///
/// # Errors
/// When a part does not come up, or the agent ends by itself.
pub(crate) fn run(release: bool, waypoint: bool) -> anyhow::Result<bool> {
    let way = if waypoint { Way::Through(demo::envoy()?) } else { Way::Straight };
    let mut stage = demo::node(release, &way)?;
    clean::expect_signal();
    let first = ["curl", "-s", "http://kmesh-fake.com/headers"];
    let output = stage.ask(true, &first)?;
    let first = format!("$ {}\n{}", demo::typed(&first), String::from_utf8_lossy(&output.stdout));
    let answered = output.status.success() && !output.stdout.is_empty();
    if !answered {
        println!("run: the tutorial's first request failed: {}\n{}", output.status, stage.agent.log_tail());
    }

    let hints = hints(&stage);
    let terminal = std::io::stdout().is_terminal();
    if terminal {
        // Only once: later pictures are drawn over it.
        print!("\x1b[2J");
    } else {
        println!("{first}{hints}");
    }
    let mut shown = Vec::new();
    while !clean::interrupted() {
        if let Some(status) = stage.agent.process().ended() {
            anyhow::bail!("the agent ended by itself: {status}\n{}", stage.agent.log_tail());
        }
        if terminal {
            redraw(&stage, &format!("{first}{hints}"))?;
        } else {
            print_changes(&mut shown, lines(&stage));
        }
        let drawn = Instant::now();
        while drawn.elapsed() < REFRESH && !clean::interrupted() {
            std::thread::sleep(TICK);
        }
    }

    println!("\nrun: stopping");
    let left = stage.end()?;
    left.iter().for_each(|what| println!("run: left behind: {what}"));
    if left.is_empty() {
        println!("run: nothing is left behind");
    }
    Ok(answered && left.is_empty())
}

/// What to type in another terminal, as it must be typed.
fn hints(stage: &Stage) -> String {
    let kmesh = |words: &str| {
        let exec = stage.agent.exec();
        let (command, rest) = words.split_once(' ').unwrap_or((words, ""));
        let line = format!("{} {command} --admin {} {rest}", exec[0], stage.agent.admin().display());
        line.trim_end().to_owned()
    };
    let lines = [
        ("a client on this node", demo::typed(&stage.enrolled(&["curl", "-s", "http://kmesh-fake.com/get"]))),
        (
            "the same without kmesh-se",
            demo::typed(&stage.topology.in_sleep(&["curl", "-s", "http://httpbin.org/get"])),
        ),
        ("what is programmed", kmesh("services")),
        ("is it healthy", kmesh("status -o json")),
        ("what the kernel holds", "bpftool map dump name kmse_frontend".to_owned()),
        ("add, edit, remove entries in", stage.entries().display().to_string()),
    ];
    let width = lines.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let lines = lines.map(|(what, line)| format!("  {what:<width$}  {line}\n"));
    format!("\nIn another terminal (Ctrl-C here ends all of it):\n{}", lines.concat())
}

/// The operator's own commands, drawn over the last picture.
fn redraw(stage: &Stage, below: &str) -> anyhow::Result<()> {
    let mut picture = String::new();
    for command in ["status", "services"] {
        let output = stage.agent.ask(&[command]).with_context(|| format!("kmesh-se {command}"))?;
        picture += &String::from_utf8_lossy(&output.stdout);
        picture += &String::from_utf8_lossy(&output.stderr);
        picture.push('\n');
    }
    // Home, and what is left of the old picture is erased line by line, so that nothing flickers.
    let picture = format!("{picture}{below}").replace('\n', "\x1b[K\n");
    print!("\x1b[H{picture}\x1b[J");
    Ok(std::io::Write::flush(&mut std::io::stdout())?)
}

/// A line for each thing that can change: health, and each service with its backends.
fn lines(stage: &Stage) -> Vec<String> {
    let health = match stage.agent.json("status") {
        Ok(status) => format!("healthy, revision {}", status.get("revision").unwrap_or(&Value::Null)),
        Err(error) => format!("not healthy: {error:#}"),
    };
    let services = stage.agent.json("services").unwrap_or_default();
    let services = services["services"].as_array().cloned().unwrap_or_default();
    std::iter::once(health).chain(services.iter().map(service_line)).collect()
}

/// `default/external-fake-svc kmesh-fake.com:80/TCP 240.240.0.1 -> 10.244.1.7:8000`.
fn service_line(service: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let vips: Vec<_> = list(&service["vips"]).iter().map(text).collect();
    let backends = list(&service["backends"]);
    let backends =
        backends.iter().map(|backend| format!("{}:{}", text(&backend["address"]), backend["port"]));
    let backends = backends.collect::<Vec<_>>().join(" ");
    let name = format!("{}/{}", text(&service["namespace"]), text(&service["name"]));
    let port = format!("{}:{}/{}", text(&service["host"]), service["port"], text(&service["protocol"]));
    format!(
        "{name} {port} {} -> {}",
        vips.join(" "),
        if backends.is_empty() { "no backend yet" } else { &backends }
    )
}

fn print_changes(shown: &mut Vec<String>, now: Vec<String>) {
    shown.iter().filter(|line| !now.contains(line)).for_each(|line| println!("run: - {line}"));
    now.iter().filter(|line| !shown.contains(line)).for_each(|line| println!("run: + {line}"));
    *shown = now;
}
