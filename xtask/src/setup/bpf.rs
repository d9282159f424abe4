//! The toolchain that builds the BPF programs, found or installed in one of two ways.
//!
//! In: Debian's `rustc-web` or rustup's nightly, and `bpf-linker`. Out: `target/tools/bpf-toolchain.json`,
//! the recipe that `kmesh-se-userspace/build.rs` follows. Never: a recipe that has not built a program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::machine::{self, Machine};
use crate::workspace;

/// bpf-linker's version: `cargo install` gets it, and one in PATH must have it.
const LINKER_VERSION: &str = "0.13";
const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_TOOLCHAIN: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf", "cargo-web", "rust-web-clippy"];
/// To build bpf-linker; g++ brings the C++ library that LLVM is linked with.
const DEBIAN_LINKER: &[&str] = &["llvm-22-dev", "g++", "pkg-config"];

/// How to build a crate for the BPF target.
#[derive(Serialize, Deserialize)]
pub(crate) struct Recipe {
    /// One line for people.
    pub(crate) how: String,
    /// What takes cargo's arguments, beginning with `build`.
    pub(crate) command: Vec<String>,
    /// To be added to cargo's arguments.
    pub(crate) args: Vec<String>,
    /// To be set; inherited flags for rustc are to be cleared before.
    pub(crate) env: BTreeMap<String, String>,
    /// What `rustc -V` said when the recipe was proved: another compiler wants another proof.
    rustc: String,
    /// The linker that the recipe was proved with.
    linker: PathBuf,
}

impl Recipe {
    fn path() -> PathBuf {
        workspace::tools().join("bpf-toolchain.json")
    }

    /// The recipe of this machine, if setup has made one.
    pub(crate) fn read() -> Option<Recipe> {
        serde_json::from_str(&std::fs::read_to_string(Recipe::path()).ok()?).ok()
    }

    /// The clippy that belongs to a compiler which is not rustup's.
    pub(crate) fn clippy_driver(&self) -> Option<PathBuf> {
        let driver = Path::new(self.env.get("RUSTC")?).with_file_name("clippy-driver");
        driver.is_file().then_some(driver)
    }

    /// Whether the recipe's cargo knows `clippy`.
    pub(crate) fn has_cargo_clippy(&self) -> bool {
        !self.env.contains_key("RUSTC")
            && machine::first_line(self.cargo("clippy").args(["--", "--version"])).is_some()
    }

    /// cargo as the recipe wants it, without what the surroundings say to rustc.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = Command::new(&self.command[0]);
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTUP_TOOLCHAIN",
            "CARGO_BUILD_TARGET",
        ] {
            cargo.env_remove(name);
        }
        cargo.args(&self.command[1..]).arg(subcommand).args(&self.args).envs(&self.env);
        cargo
    }
}

/// A way to get a compiler for the BPF target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Debian,
    Rustup,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Debian => "Debian's rustc-web",
            Way::Rustup => "rustup's nightly",
        }
    }

    fn rustc(self) -> Command {
        match self {
            Way::Debian => Command::new(DEBIAN_RUSTC),
            Way::Rustup => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", "nightly", "rustc"]);
                rustup
            }
        }
    }

    /// The compiler's version, if it and its `core` for the BPF target are there.
    fn find(self) -> Option<String> {
        let version = machine::first_line(self.rustc().arg("-V"))?;
        let complete = match self {
            Way::Debian => {
                let libraries =
                    machine::first_line(self.rustc().args(["--print", "target-libdir", "--target", TARGET]))?;
                let mut files = std::fs::read_dir(libraries).ok()?.flatten();
                let core = files.any(|file| {
                    let name = file.file_name();
                    let name = name.to_string_lossy();
                    name.starts_with("libcore-") && name.ends_with(".rlib")
                });
                core && Path::new(DEBIAN_CARGO).is_file()
            }
            Way::Rustup => {
                let sysroot = machine::first_line(self.rustc().args(["--print", "sysroot"]))?;
                Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
            }
        };
        complete.then_some(version)
    }

    /// Installs the compiler.
    fn install(self, machine: &Machine) -> anyhow::Result<()> {
        match self {
            Way::Debian => machine.apt_install(DEBIAN_TOOLCHAIN).with_context(|| {
                format!("as root on Debian, apt-get install {}", DEBIAN_TOOLCHAIN.join(" "))
            }),
            Way::Rustup => {
                let wanted = "get rustup (https://rustup.rs), then: rustup toolchain install nightly --profile \
                              minimal --component rust-src";
                if machine::program("rustup").is_none() {
                    bail!("no rustup here; {wanted}");
                }
                let mut rustup = Command::new("rustup");
                let has_nightly = machine::first_line(self.rustc().arg("-V")).is_some();
                if has_nightly {
                    rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
                } else {
                    let install = ["toolchain", "install", "nightly", "--profile", "minimal"];
                    rustup.args(install).args(["--component", "rust-src"]);
                }
                machine::run_logged(&mut rustup).context(wanted)
            }
        }
    }

    fn recipe(self, rustc: &str, linker: &Path) -> Recipe {
        let mut env = BTreeMap::from([
            ("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER".to_owned(), linker.display().to_string()),
            // In this form since it wins over every other way to give flags: without them the object has
            // no BTF, and nothing else would say so.
            (
                "CARGO_ENCODED_RUSTFLAGS".to_owned(),
                ["-C", "debuginfo=2", "-C", "link-arg=--btf"].join("\u{1f}"),
            ),
        ]);
        let (command, args) = match self {
            Way::Debian => {
                env.insert("RUSTC".to_owned(), DEBIAN_RUSTC.to_owned());
                // aya-ebpf uses `asm_experimental_arch`.
                env.insert("RUSTC_BOOTSTRAP".to_owned(), "1".to_owned());
                (vec![DEBIAN_CARGO], vec![])
            }
            Way::Rustup => (vec!["rustup", "run", "nightly", "cargo"], vec!["-Z", "build-std=core"]),
        };
        let owned = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect();
        Recipe {
            how: format!("{} ({rustc}) with {}", self.name(), linker.display()),
            command: owned(command),
            args: owned(args),
            env,
            rustc: rustc.to_owned(),
            linker: linker.to_owned(),
        }
    }

    /// Builds bpf-linker for this way's LLVM.
    fn build_linker(self, machine: &Machine) -> anyhow::Result<PathBuf> {
        let root = workspace::tools();
        let mut cargo = workspace::cargo();
        cargo.args(["install", "bpf-linker", "--locked", "--force", "--version"]);
        cargo.arg(format!("^{LINKER_VERSION}")).arg("--root").arg(&root);
        if self == Way::Debian {
            let built_with =
                [Path::new(DEBIAN_LLVM).join("lib/libLLVM-22.so"), PathBuf::from("/usr/bin/c++")];
            if !built_with.iter().all(|file| file.exists()) {
                machine.apt_install(DEBIAN_LINKER).with_context(|| {
                    format!("as root on Debian, apt-get install {}", DEBIAN_LINKER.join(" "))
                })?;
            }
            // The default feature wants a newer LLVM than Debian has. llvm-sys reads the second variable,
            // bpf-linker's own build script the first.
            cargo.args(["--no-default-features", "--features", "llvm-22"]);
            cargo.env("LLVM_PREFIX", DEBIAN_LLVM).env("LLVM_SYS_221_PREFIX", DEBIAN_LLVM);
        }
        machine::run_logged(&mut cargo).context("bpf-linker could not be built")?;
        Ok(own_linker())
    }
}

fn own_linker() -> PathBuf {
    workspace::tools().join("bin/bpf-linker")
}

/// The linkers of the right version that are there.
fn linkers() -> Vec<PathBuf> {
    let found = [Some(own_linker()), machine::program("bpf-linker")];
    found.into_iter().flatten().filter(|linker| linker_runs(linker)).collect()
}

fn linker_runs(linker: &Path) -> bool {
    let version = machine::first_line(Command::new(linker).arg("--version"));
    version.is_some_and(|line| {
        line.split_whitespace()
            .any(|word| word.strip_prefix(LINKER_VERSION).is_some_and(|rest| rest.starts_with('.')))
    })
}

pub(super) fn find(_: &Machine) -> Option<String> {
    let recipe = Recipe::read()?;
    let way = if recipe.command.first()? == DEBIAN_CARGO { Way::Debian } else { Way::Rustup };
    let same = way.find()? == recipe.rustc && linker_runs(&recipe.linker);
    same.then_some(recipe.how)
}

pub(super) fn install(machine: &Machine) -> anyhow::Result<String> {
    // What is complete comes before what must be installed.
    let mut ways = [Way::Debian, Way::Rustup];
    ways.sort_by_key(|way| way.find().is_none());
    let mut failures = Vec::new();
    for way in ways {
        match try_way(way, machine) {
            Ok(recipe) => {
                std::fs::write(Recipe::path(), serde_json::to_string_pretty(&recipe)? + "\n")?;
                return Ok(recipe.how);
            }
            Err(error) => failures.push(format!("by {}: {error:#}", way.name())),
        }
    }
    bail!("neither way worked\n    {}", failures.join("\n    "))
}

fn try_way(way: Way, machine: &Machine) -> anyhow::Result<Recipe> {
    if way.find().is_none() {
        way.install(machine)?;
    }
    let rustc = way.find().context("installed, but there is still no `core` for the BPF target")?;
    for linker in linkers() {
        let recipe = way.recipe(&rustc, &linker);
        // A linker of another LLVM than the compiler's runs, but cannot read what the compiler writes.
        if prove(&recipe).is_ok() {
            return Ok(recipe);
        }
    }
    let recipe = way.recipe(&rustc, &way.build_linker(machine)?);
    prove(&recipe).context("the toolchain does not build a BPF program")?;
    Ok(recipe)
}

/// Builds the smallest program with the recipe, and looks for BTF in it.
fn prove(recipe: &Recipe) -> anyhow::Result<()> {
    let folder = workspace::tools().join("bpf-proof");
    std::fs::create_dir_all(folder.join("src"))?;
    let manifest =
        "[package]\nname = \"proof\"\nedition = \"2024\"\n\n[workspace]\n\n[profile.release]\ndebug = 2\n";
    std::fs::write(folder.join("Cargo.toml"), manifest)?;
    std::fs::write(folder.join("src/main.rs"), PROOF)?;
    let mut cargo = recipe.cargo("build");
    cargo.args(["--release", "--offline", "--target", TARGET, "--target-dir", "target"]).current_dir(&folder);
    machine::run_logged(&mut cargo)?;
    let object = std::fs::read(folder.join("target").join(TARGET).join("release/proof"))?;
    let has_btf = object.windows(5).any(|bytes| bytes == b".BTF\0");
    std::fs::remove_dir_all(&folder)?;
    if !has_btf {
        bail!("the object has no BTF");
    }
    Ok(())
}

const PROOF: &str = r#"#![no_std]
#![no_main]

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "cgroup/connect4")]
pub extern "C" fn proof_connect(_: *mut u8) -> i32 {
    1
}
"#;
