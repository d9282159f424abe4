//! `cargo xtask kernels`: the data-path tests on other kernels, each booted in an emulated machine.
//!
//! In: the programs as cargo builds them, Debian's kernels. Out: a table, JSON, and whether all passed. Never: a change to
//! this machine but for the tools that it lacks.

mod archive;
mod boot;
mod image;
mod modules;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::Value;

use self::archive::Installed;
use self::image::Image;
use crate::test::Count;
use crate::{setup, workspace};

/// What a kernel is called here, and the Debian suite that has it.
const KERNELS: [(&str, &str); 4] =
    [("5.10", "bullseye"), ("6.1", "bookworm"), ("6.12", "trixie"), ("7.2", "sid")];

/// The modules that the tests need of a kernel; those that it has built in are no files.
const MODULES: &[&str] = &["veth", "sctp"];

/// The test executable that needs nothing but `kmesh-se`, its own helper and `ip`.
const TEST: &str = "sockets";
/// Its helper.
const HELPER: &str = "socket-client";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these kernels: 5.10, 6.1, 6.12, 7.2
    #[arg(long, value_name = "KERNEL,…", value_delimiter = ',', value_parser = known)]
    only: Vec<&'static str>,
    /// Fetch the newest build of each kernel, even if an older one is there
    #[arg(long)]
    refresh: bool,
    /// How long one kernel may take
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    limit: u64,
    /// Passed on to the test executable: a part of a test's name, `--nocapture`
    #[arg(last = true)]
    arguments: Vec<String>,
}

fn known(name: &str) -> Result<&'static str, String> {
    let names = KERNELS.map(|(name, _)| name);
    let found = names.into_iter().find(|known| *known == name);
    found.ok_or_else(|| format!("no such kernel; there are {}", names.join(", ")))
}

/// What came of one kernel.
#[derive(Debug, Serialize)]
struct Outcome {
    kernel: &'static str,
    /// Of the Debian package.
    version: String,
    passed: u64,
    failed: u64,
    seconds: f64,
    /// Names of the tests that failed.
    failures: Vec<String>,
    /// What tests left out on this kernel, and why.
    skipped: Vec<String>,
    /// Why the tests did not run to their end.
    problem: Option<String>,
}

impl Outcome {
    fn is_well(&self) -> bool {
        self.problem.is_none() && self.failed == 0 && self.passed > 0
    }
}

/// What is put into the machine.
struct Programs {
    agent: PathBuf,
    test: PathBuf,
    helper: PathBuf,
}

/// Runs the tests on each kernel; the answer is whether all passed on all.
///
/// # Errors
/// When this machine lacks something, or something does not build.
pub(crate) fn kernels(options: &Options) -> anyhow::Result<bool> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the programs are built for this machine, and only x86-64 machines are emulated");
    }
    setup::emulation()?;
    let programs = build()?;
    let folder = workspace::target().join("kernels");
    let mut image = Image::begin(&folder.join("image"))?;
    for program in ["ip", "busybox"] {
        image.program(&setup::find_program(program).with_context(|| format!("no {program}"))?)?;
    }
    for program in [&programs.agent, &programs.test, &programs.helper] {
        image.program(program)?;
    }
    image.settle(&programs.agent, &programs.test, &options.arguments)?;

    let chosen = KERNELS.iter().filter(|(name, _)| options.only.is_empty() || options.only.contains(name));
    let outcomes: Vec<Outcome> = chosen
        .map(|(kernel, suite)| {
            let began = Instant::now();
            let outcome = run(kernel, suite, &folder.join(kernel), &image, options);
            let outcome = outcome.unwrap_or_else(|error| Outcome {
                kernel,
                version: "?".to_owned(),
                passed: 0,
                failed: 0,
                seconds: began.elapsed().as_secs_f64(),
                failures: Vec::new(),
                skipped: Vec::new(),
                problem: Some(format!("{error:#}")),
            });
            println!("{}", row(&outcome));
            outcome
        })
        .collect();

    println!("\n{}", table(&outcomes));
    let file = folder.join("kernels.json");
    let json = serde_json::to_string_pretty(&outcomes)?;
    std::fs::write(&file, json).with_context(|| format!("cannot write {}", file.display()))?;
    println!("written: {}", file.display());
    Ok(outcomes.iter().all(Outcome::is_well))
}

fn run(
    kernel: &'static str,
    suite: &str,
    folder: &Path,
    image: &Image,
    options: &Options,
) -> anyhow::Result<Outcome> {
    let installed = Installed::obtain(suite, folder, options.refresh)?;
    println!("kernels: {kernel} is {} (Debian {})", installed.release, installed.version);
    let initrd = folder.join("initrd");
    image.pack(&installed.module_files(MODULES)?, &initrd)?;

    let began = Instant::now();
    let mut count = Count::default();
    let (mut failures, mut skipped) = (Vec::new(), Vec::new());
    let limit = Duration::from_secs(options.limit);
    let exit = boot::boot(&installed.image, &initrd, folder, limit, |line| {
        count.add(line);
        failures.extend(failed_test(line).map(str::to_owned));
        skipped.extend(line.split_once("skipped: ").map(|(_, what)| what.to_owned()));
    });
    let log = folder.join(boot::TESTS_LOG);
    let problem = match exit {
        Ok(0) => None,
        Ok(_) if count.failed > 0 => None,
        Ok(code) => Some(format!("the tests ended with {code}; see {}", log.display())),
        Err(error) => Some(format!("{error:#}")),
    };
    if count.failed > 0 {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        println!("{}\n(all of it: {})", failure_part(&text), log.display());
    }
    Ok(Outcome {
        kernel,
        version: installed.version,
        passed: count.passed,
        failed: count.failed,
        seconds: began.elapsed().as_secs_f64(),
        failures,
        skipped,
        problem,
    })
}

/// Builds what runs in the machine, but for an agent that `KMESH_SE_BIN` names.
fn build() -> anyhow::Result<Programs> {
    let agent = match std::env::var_os("KMESH_SE_BIN") {
        Some(path) => std::fs::canonicalize(&path)
            .with_context(|| format!("KMESH_SE_BIN names {}, which cannot be used", path.display()))?,
        None => workspace::build_agent(false)?,
    };
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--package", "tests", "--test", TEST, "--no-run", "--message-format", "json"]);
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("the tests do not build: run cargo test --package tests --test {TEST} --no-run");
    }
    let find = |kind, name| {
        executable(&text, kind, name).with_context(|| format!("cargo does not say where {name} is"))
    };
    Ok(Programs { agent, test: find("test", TEST)?, helper: find("bin", HELPER)? })
}

/// The executable of a target in cargo's messages.
fn executable(messages: &str, kind: &str, name: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let target = &message["target"];
        let is_it = target["name"] == name && target["kind"].as_array()?.iter().any(|k| k == kind);
        let path = message["executable"].as_str()?;
        is_it.then(|| path.into())
    })
}

/// The test that this line says has failed.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// What the test executable says of each failure, without the list of those that passed.
fn failure_part(log: &str) -> &str {
    log.find("\nfailures:").map_or(log, |at| log[at..].trim())
}

fn row(outcome: &Outcome) -> String {
    let Outcome { kernel, version, passed, failed, seconds, failures, skipped, problem } = outcome;
    let verdict = if outcome.is_well() { "well" } else { "NOT well" };
    let mut text = format!("{kernel:<7} {version:<14} {passed:>6} {failed:>6} {seconds:>7.1}  {verdict}");
    for name in failures {
        text += &format!("\n          failed: {name}");
    }
    for what in skipped {
        text += &format!("\n          skipped: {what}");
    }
    for line in problem.iter().flat_map(|problem| problem.lines()) {
        text += &format!("\n          {line}");
    }
    text
}

fn table(outcomes: &[Outcome]) -> String {
    let head = "kernel  Debian's       passed failed seconds".to_owned();
    std::iter::once(head).chain(outcomes.iter().map(row)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(passed: u64, failed: u64, problem: Option<&str>) -> Outcome {
        let (version, failures) = ("6.1.1-1".to_owned(), vec!["stream::works".to_owned(); failed as usize]);
        Outcome {
            kernel: "6.1",
            version,
            passed,
            failed,
            seconds: 9.06,
            failures,
            skipped: vec!["a_test: no SCTP".to_owned(); failed as usize],
            problem: problem.map(str::to_owned),
        }
    }

    #[test]
    fn a_kernel_is_well_only_if_tests_ran_and_none_failed() {
        assert!(outcome(3, 0, None).is_well());
        assert!(!outcome(0, 0, None).is_well());
        assert!(!outcome(3, 1, None).is_well());
        assert!(!outcome(3, 0, Some("it stopped")).is_well());
    }

    #[test]
    fn the_table_names_failures_and_problems() {
        let text = table(&[outcome(3, 1, Some("it stopped\nhere"))]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "6.1     6.1.1-1             3      1     9.1  NOT well");
        let rest = ["failed: stream::works", "skipped: a_test: no SCTP", "it stopped", "here"];
        assert_eq!(lines[2..], rest.map(|line| format!("          {line}")));
    }

    #[test]
    fn finds_executables_in_cargos_messages() {
        let messages = "Compiling\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"lib\"],\"name\":\"sockets\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"bin\"],\"name\":\"socket-client\"},\"executable\":\"/t/c\"}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"test\"],\"name\":\"sockets\"},\"executable\":\"/t/s-1\"}\n";
        assert_eq!(executable(messages, "test", "sockets"), Some("/t/s-1".into()));
        assert_eq!(executable(messages, "bin", "socket-client"), Some("/t/c".into()));
        assert_eq!(executable(messages, "bin", "sockets"), None);
    }

    #[test]
    fn knows_which_test_failed_and_what_it_said() {
        assert_eq!(failed_test("test stream::works ... FAILED"), Some("stream::works"));
        assert_eq!(failed_test("test stream::works ... ok"), None);
        assert_eq!(failure_part("test a ... ok\n\nfailures:\n\n---- b\n"), "failures:\n\n---- b");
        assert_eq!(failure_part("error: no"), "error: no");
    }

    #[test]
    fn only_known_kernels_can_be_asked_for() {
        assert_eq!(known("6.12"), Ok("6.12"));
        assert_eq!(known("6.2"), Err("no such kernel; there are 5.10, 6.1, 6.12, 7.2".to_owned()));
    }
}
