//! `cargo xtask lint`: formatting, clippy, who may import whom, the tests that the docs name, and
//! files that grow too long.
//!
//! In: the sources. Out: what is wrong, a line each. Never: a change to a source.

mod named;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setup::{self, Recipe, Verbosity};
use crate::workspace;

/// A file past this is asking to be two.
const LONG_FILE_LINES: usize = 500;

/// The page whose every row names the test that backs it.
const PROMISES: &str = "docs/compatibility.md";

/// What the rooms of `kmesh-se-userspace` may not do.
const RULES: &[Rule] = &[
    Rule { room: "model", rooms: Rooms::Only(&["model"]), crates: EFFECTS },
    Rule { room: "desired", rooms: Rooms::Only(&["model", "desired", "testing"]), crates: EFFECTS },
    Rule { room: "diff", rooms: Rooms::Only(&["model", "desired", "diff"]), crates: EFFECTS },
    Rule { room: "pods", rooms: Rooms::Only(&["model", "enrol", "pods"]), crates: EFFECTS },
    Rule {
        room: "waypoint",
        rooms: Rooms::Only(&["model", "desired", "waypoint"]),
        crates: &["kube::", "aya::"],
    },
    Rule { room: "certificates", rooms: Rooms::Only(&["certificates"]), crates: EFFECTS },
    Rule { room: "source", rooms: Rooms::AllBut(&["resolve", "sink", "dns"]), crates: &[] },
    Rule { room: "resolve", rooms: Rooms::AllBut(&["source", "sink", "dns"]), crates: &[] },
    Rule { room: "sink", rooms: Rooms::AllBut(&["source", "resolve", "dns"]), crates: &[] },
    Rule { room: "dns", rooms: Rooms::AllBut(&["source", "resolve", "sink"]), crates: &[] },
];

/// Pure rooms have neither I/O nor a clock.
const EFFECTS: &[&str] = &[
    "tokio::",
    "kube::",
    "aya::",
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "std::fs",
    "std::net::Tcp",
];

struct Rule {
    room: &'static str,
    rooms: Rooms,
    /// What must not occur in its code.
    crates: &'static [&'static str],
}

/// The rooms that a room may import.
enum Rooms {
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

/// Runs all checks; the answer is whether all is well.
///
/// # Errors
/// When the machine lacks something, or a source cannot be read.
pub(crate) fn lint() -> anyhow::Result<bool> {
    // clippy runs the build script that builds the BPF programs.
    setup::setup(Verbosity::Changes)?;
    let mut well = true;
    let mut fmt = workspace::cargo();
    well &= step("format", fmt.args(["fmt", "--all", "--check"]));
    let mut clippy = workspace::cargo();
    clippy.args(["clippy", "--quiet", "--workspace", "--exclude", "kmesh-se-ebpf", "--all-targets"]);
    well &= step("clippy", clippy.args(["--", "-D", "warnings"]));
    match bpf_clippy() {
        Some(mut clippy) => well &= step("clippy (BPF)", &mut clippy),
        None => println!("lint: clippy (BPF)   skipped: the BPF toolchain has no clippy"),
    }

    let sources = sources(&workspace::root())?;
    let mut wrong = Vec::new();
    for (path, text) in &sources {
        wrong.extend(broken_rules(path, text).into_iter().map(|what| format!("{}: {what}", path.display())));
    }
    well &= wrong.is_empty();
    say("imports", wrong.is_empty());
    for line in wrong {
        println!("  {line}");
    }
    let unbacked = unbacked_promises(&sources)?;
    well &= unbacked.is_empty();
    say("named tests", unbacked.is_empty());
    for line in unbacked {
        println!("  {PROMISES}: {line}");
    }
    for (path, text) in &sources {
        let lines = text.lines().count();
        if lines > LONG_FILE_LINES {
            println!("lint: long file       {} has {lines} lines: is it two rooms?", path.display());
        }
    }
    Ok(well)
}

/// Rows of [`PROMISES`] that no test backs.
fn unbacked_promises(sources: &[(PathBuf, String)]) -> anyhow::Result<Vec<String>> {
    let root = workspace::root();
    let mut tests: BTreeSet<String> = sources.iter().flat_map(|(_, text)| named::tests_in(text)).collect();
    for file in std::fs::read_dir(root.join("tests/scenarios"))? {
        tests.extend(file?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    let page = std::fs::read_to_string(root.join(PROMISES))?;
    Ok(named::unbacked_rows(&page, &tests))
}

fn say(what: &str, well: bool) {
    println!("lint: {what:<15} {}", if well { "well" } else { "NOT well" });
}

fn step(what: &str, command: &mut Command) -> bool {
    let well = command.status().is_ok_and(|status| status.success());
    say(what, well);
    well
}

/// clippy for the BPF crate by the BPF toolchain.
fn bpf_clippy() -> Option<Command> {
    let recipe = Recipe::read()?;
    let mut cargo = if let Some(driver) = recipe.clippy_driver() {
        // `cargo clippy` would be another toolchain's; this is what it does.
        let mut cargo = recipe.cargo("check");
        cargo.env("RUSTC_WORKSPACE_WRAPPER", driver).env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
        cargo
    } else if recipe.has_cargo_clippy() {
        let mut cargo = recipe.cargo("clippy");
        cargo.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
        cargo
    } else {
        return None;
    };
    cargo.args(["--quiet", "--package", "kmesh-se-ebpf", "--target", "bpfel-unknown-none"]);
    // Another compiler than the workspace's: in a folder of its own, neither makes the other build again.
    cargo.args(["--target-dir", "target/bpf-lint"]).current_dir(workspace::root());
    Some(cargo)
}

/// The Rust sources of the workspace: (path from its root, text).
fn sources(root: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    let crates = ["kmesh-se-common", "kmesh-se-ebpf", "kmesh-se-userspace", "xtask", "tests", "fuzz"];
    let mut folders: Vec<PathBuf> = crates.iter().map(|name| root.join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)?;
                found.push((path.strip_prefix(root)?.to_owned(), text));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What a file does that it may not.
fn broken_rules(path: &Path, text: &str) -> Vec<String> {
    let code = code_of(text);
    if path.starts_with("kmesh-se-common") || path.starts_with("kmesh-se-ebpf") {
        let forbidden = ["kmesh_se::", "kmesh_se_userspace"].into_iter().filter(|name| code.contains(name));
        return forbidden.map(|name| format!("the kernel's side may not use `{name}`")).collect();
    }
    let Some(room) = room_of(path) else { return Vec::new() };
    let Some(rule) = RULES.iter().find(|rule| rule.room == room) else { return Vec::new() };
    let mut wrong = Vec::new();
    for imported in rooms_in(&code) {
        let allowed = match rule.rooms {
            Rooms::Only(rooms) => rooms.contains(&imported.as_str()),
            Rooms::AllBut(rooms) => !rooms.contains(&imported.as_str()),
        };
        if !allowed {
            wrong.push(format!("`{room}` may not import `{imported}`"));
        }
    }
    let used = rule.crates.iter().filter(|name| code.contains(*name));
    wrong.extend(used.map(|name| format!("`{room}` is pure and may not use `{name}`")));
    wrong
}

/// `model` for `kmesh-se-userspace/src/model.rs` and for `kmesh-se-userspace/src/model/entry.rs`.
fn room_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix("kmesh-se-userspace/src").ok()?;
    let first = Path::new(inside.components().next()?.as_os_str());
    Some(first.file_stem()?.to_string_lossy().into_owned())
}

/// The text without comments on lines of their own, where a room may be named freely.
fn code_of(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The rooms that code names: `crate::model::…`, `crate::{desired, model::…}`.
fn rooms_in(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (_, rest) in code.match_indices("crate::").map(|(at, word)| code.split_at(at + word.len())) {
        let names = match rest.strip_prefix('{') {
            Some(list) => top_level_names(list),
            None => vec![name_at(rest)],
        };
        // Rooms are lower case; a type that the library's root re-exports is not.
        rooms.extend(
            names.into_iter().filter(|name| name.starts_with(|first: char| first.is_ascii_lowercase())),
        );
    }
    rooms.sort_unstable();
    rooms.dedup();
    rooms
}

fn name_at(text: &str) -> String {
    text.trim_start().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

/// The first names of the items of `a::b, c::{d, e}}…`.
fn top_level_names(list: &str) -> Vec<String> {
    let mut names = vec![name_at(list)];
    let mut depth = 0;
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name_at(&list[at + 1..])),
            _ => (),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_rooms_in_paths_and_in_lists() {
        let code = "use crate::model::Host;\nuse crate::{desired, sink::{self, aya}, Error};\nlet x = crate::dns::X;";
        assert_eq!(rooms_in(code), ["desired", "dns", "model", "sink"]);
    }

    #[test]
    fn refuses_a_sibling_in_the_model_and_a_clock_in_diff() {
        let model = Path::new("kmesh-se-userspace/src/model/entry.rs");
        assert_eq!(broken_rules(model, "use crate::sink::X;"), ["`model` may not import `sink`"]);
        assert!(broken_rules(model, "//! See [`crate::sink`].\nuse crate::model::Host;").is_empty());
        let diff = Path::new("kmesh-se-userspace/src/diff.rs");
        assert_eq!(broken_rules(diff, "Instant::now()"), ["`diff` is pure and may not use `Instant::now`"]);
        let dns = Path::new("kmesh-se-userspace/src/dns/server.rs");
        assert_eq!(broken_rules(dns, "use crate::{model, resolve::X};"), ["`dns` may not import `resolve`"]);
        assert!(broken_rules(Path::new("kmesh-se-userspace/src/agent.rs"), "use crate::dns::X;").is_empty());
    }
}
