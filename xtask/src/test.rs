//! `cargo xtask test`: all tests, with one line in the end that counts them.
//!
//! In: arguments for `cargo test`. Out: its output, then `N passed, N failed, N skipped`. Never: a test that
//! is skipped without a line that says why.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::setup::{self, Verbosity};
use crate::workspace;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    skipped: u64,
}

impl Count {
    /// Adds what a line like this says:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`,
    /// or a test that leaves something out.
    pub(crate) fn add(&mut self, line: &str) {
        // Behind the name of a test when they run one by one.
        if line.starts_with("skipped: ") || line.contains(" ... skipped: ") {
            self.skipped += 1;
        }
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            let Some((number, what)) = part.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => (),
            }
        }
    }
}

/// Runs all tests; the answer is whether all passed.
///
/// # Errors
/// When the machine lacks something, or the program under test does not build.
pub(crate) fn test(arguments: &[String]) -> anyhow::Result<bool> {
    let agent = workspace::build_agent(false)?;
    let mut cargo = cargo();
    let mut count = Count::default();
    let skipped = if ::tests::clean::need_root().is_ok() { 0 } else { kernel_tests()? };
    if skipped == 0 {
        setup::languages(Verbosity::Changes)?;
        // Its tests say that they are skipped.
        if let Err(error) = setup::waypoints(Verbosity::Changes) {
            println!("{error:#}");
        }
    } else {
        cargo.args(["--exclude", "tests"]);
        count.skipped = skipped;
    }
    cargo.args(arguments).env("KMESH_SE_BIN", agent);
    if skipped > 0 {
        println!("skipped: {skipped} end-to-end tests (tests/tests): they need root");
    }
    run(&mut cargo, count)
}

/// `cargo test` of all packages: with fewer, cargo would build the libraries once more, with other features.
pub(crate) fn cargo() -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--workspace", "--exclude", "kmesh-se-ebpf", "--no-fail-fast"]);
    cargo
}

/// Runs `cargo test` and prints in the end how many tests passed, on top of those counted before; the answer is whether all did.
///
/// # Errors
/// When cargo cannot be run.
pub(crate) fn run(cargo: &mut Command, mut count: Count) -> anyhow::Result<bool> {
    // A failed test tells its own error; where that was made is noise.
    cargo.env("RUST_LIB_BACKTRACE", "0").stdout(Stdio::piped());
    let mut child = cargo.spawn().context("cannot run cargo")?;
    let output = child.stdout.take().context("no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        count.add(&line);
        println!("{line}");
    }
    let status = child.wait()?;
    // Tests that do not compile are not counted, but cargo says so.
    if !status.success() && count.failed == 0 {
        println!("cargo test ended with {status}, though no test failed");
        count.failed = 1;
    }
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    Ok(status.success())
}

/// How many tests need a kernel to play with.
fn kernel_tests() -> anyhow::Result<u64> {
    let mut number = 0;
    for file in std::fs::read_dir(workspace::root().join("tests/tests"))? {
        let text = std::fs::read_to_string(file?.path()).unwrap_or_default();
        number += text.lines().filter(|line| line.trim() == "#[test]").count();
    }
    Ok(u64::try_from(number)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_over_all_test_binaries() {
        let mut count = Count::default();
        count.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        count.add(
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out; finished in 9s",
        );
        count.add("test a_test ... ok");
        count.add("skipped: a_test: this kernel has no SCTP");
        count.add("test a_test ... skipped: a_test: this kernel has no SCTP");
        assert_eq!(count, Count { passed: 4, failed: 2, skipped: 3 });
    }
}
