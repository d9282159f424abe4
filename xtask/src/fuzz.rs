//! `cargo xtask fuzz`: mutates the inputs that other people write, guided by what the code does with them.
//!
//! In: the committed corpus, and what earlier runs found. Out: nothing, or an input that breaks something, kept in a file.
//! Never: a change to the committed corpus, or another toolchain.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::setup;
use crate::workspace;

/// What is fuzzed, as the programs of the `fuzz` crate are called.
const TARGETS: &[&str] = &["yaml", "dns"];

/// What makes LLVM report to libFuzzer which code an input reaches. A compiler that is not nightly takes these, too.
const INSTRUMENTED: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Sections of counters must not be dropped by the linker.
    "-Clink-dead-code",
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this one
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(TARGETS))]
    target: Option<String>,
    /// Run only these files, as after a crash
    inputs: Vec<PathBuf>,
}

/// Runs the targets; the answer is whether nothing broke.
///
/// # Errors
/// When the machine lacks something, or the targets do not build.
pub(crate) fn fuzz(options: &Options) -> anyhow::Result<bool> {
    if !options.inputs.is_empty() && options.target.is_none() {
        bail!("say with --target which of {} the files are for", TARGETS.join(", "));
    }
    setup::fuzzing()?;
    let programs = build()?;
    let mut well = true;
    for target in TARGETS.iter().filter(|target| options.target.as_ref().is_none_or(|only| only == *target)) {
        well &= run(&programs, target, options)?;
    }
    Ok(well)
}

/// Builds the instrumented programs; where they are. They need all that they use built anew, so they have a folder of
/// their own.
fn build() -> anyhow::Result<PathBuf> {
    let host = workspace::host()?;
    let folder = workspace::target().join("fuzz");
    let mut cargo = workspace::cargo();
    // For a named target, so that build scripts and macros are not instrumented.
    cargo.args(["build", "--package", "fuzz", "--bins", "--profile", "fuzz", "--target", &host]);
    cargo.arg("--target-dir").arg(&folder).env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTED.join("\x1f"));
    if !cargo.status().context("cannot run cargo")?.success() {
        bail!("the fuzz targets do not build");
    }
    Ok(folder.join(host).join("fuzz"))
}

fn run(programs: &Path, target: &str, options: &Options) -> anyhow::Result<bool> {
    let committed = workspace::root().join("fuzz/corpus").join(target);
    let found = workspace::target().join("fuzz/corpus").join(target);
    let crashes = workspace::target().join("fuzz/crashes").join(target);
    for folder in [&found, &crashes] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut fuzzer = std::process::Command::new(programs.join(format!("fuzz-{target}")));
    fuzzer.current_dir(workspace::root());
    fuzzer
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args(["-timeout=10", "-rss_limit_mb=2048"]);
    if options.inputs.is_empty() {
        fuzzer
            .arg(format!("-max_total_time={}", options.seconds))
            .args(["-print_final_stats=1", "-max_len=8192"]);
        // What is new goes to the first.
        fuzzer.arg(&found).arg(&committed);
    } else {
        fuzzer.args(&options.inputs);
    }
    let status = fuzzer.status().with_context(|| format!("cannot run fuzz-{target}"))?;
    if status.success() {
        println!("fuzz: {target} well");
        return Ok(true);
    }
    println!(
        "fuzz: {target} NOT well ({status}). The input is in {}; to run it again:\n  cargo xtask fuzz --target {target} FILE\n\
         When it is mended, put the file into {}.",
        crashes.display(),
        committed.display()
    );
    Ok(false)
}
