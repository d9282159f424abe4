//! `cargo xtask image`: the agent as an OCI image archive.
//!
//! In: the sources, and a standard library for the image's architecture. Out: a static program and an archive that
//! `ctr images import`, `skopeo` and `docker load` read. Never: a container runtime, a registry, or root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::ValueEnum;

use crate::setup;
use crate::workspace;

/// As image names have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    fn name(self) -> &'static str {
        match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
        }
    }

    /// glibc's targets, since every toolchain has its own.
    fn target(self) -> &'static str {
        match self {
            Arch::Amd64 => "x86_64-unknown-linux-gnu",
            Arch::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Of Debian's package `gcc-…`, which is where a linker for another architecture comes from.
    fn gcc(self) -> &'static str {
        match self {
            Arch::Amd64 => "x86_64-linux-gnu-gcc",
            Arch::Arm64 => "aarch64-linux-gnu-gcc",
        }
    }
}

/// What the name of the image is, as the Helm chart's values have it, without other wishes.
const NAME: &str = concat!("localhost/kmesh-se:", env!("CARGO_PKG_VERSION"));

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Of the nodes that will run it. Default: this machine's
    #[arg(long, value_enum)]
    arch: Option<Arch>,
    /// The archive. Default: target/image/kmesh-se-ARCH.tar
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The image's full name, as the Helm chart's `image` gives it
    #[arg(long, default_value = NAME)]
    name: String,
}

impl Default for Options {
    fn default() -> Options {
        Options { arch: None, out: None, name: NAME.to_owned() }
    }
}

/// What was built.
pub(crate) struct Built {
    /// The static program.
    pub(crate) program: PathBuf,
    /// The image with it.
    pub(crate) archive: PathBuf,
}

/// Builds the program and packs it.
///
/// # Errors
/// When the machine cannot build for the architecture, or the program does not build.
pub(crate) fn image(options: &Options) -> anyhow::Result<Built> {
    setup::building()?;
    let own = tests::oci::own_architecture()?;
    let arch = options.arch.map_or_else(|| Arch::from_str(own, false), Ok).map_err(anyhow::Error::msg)?;
    let program = build(arch, arch.name() == own)?;
    let folder = workspace::target().join("image");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let copy = folder.join(format!("kmesh-se-{}", arch.name()));
    fs::copy(&program, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    let default = || folder.join(format!("kmesh-se-{}.tar", arch.name()));
    let archive = options.out.clone().unwrap_or_else(default);
    tests::oci::agent_image(&options.name, arch.name(), &program)?.write(&archive)?;
    let mb = |file: &Path| fs::metadata(file).map(|file| file.len() as f64 / 1e6);
    println!("image: {} ({:.1} MB), a static program", copy.display(), mb(&copy)?);
    println!("image: {} ({:.1} MB), named {}", archive.display(), mb(&archive)?, options.name);
    println!("On a node: ctr --namespace k8s.io images import {}", archive.display());
    Ok(Built { program: copy, archive })
}

/// A program without shared libraries, so that the image holds nothing else.
fn build(arch: Arch, is_own: bool) -> anyhow::Result<PathBuf> {
    let target = arch.target();
    if !has_library(target)? {
        bail!(
            "this Rust toolchain has no standard library for {target}, so it cannot build an image for {0}: \
             rustup target add {target}; or, with RUSTC=/usr/bin/rustc of Debian's rustc-web, the package \
             libstd-rust-web-dev:{0} of the same version",
            arch.name()
        );
    }
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--package", "kmesh-se-userspace", "--target", target]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    if !is_own {
        let Some(linker) = setup::find_program(arch.gcc()) else {
            bail!(
                "no {} here to link for {}: apt-get install gcc-aarch64-linux-gnu",
                arch.gcc(),
                arch.name()
            );
        };
        let variable = target.to_uppercase().replace('-', "_");
        cargo.env(format!("CARGO_TARGET_{variable}_LINKER"), linker);
    }
    if !cargo.status().context("cannot run cargo")?.success() {
        bail!("kmesh-se does not build for {target}");
    }
    Ok(workspace::target().join(target).join("release/kmesh-se"))
}

fn has_library(target: &str) -> anyhow::Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "target-libdir", "--target", target]).output();
    let output = output.context("cannot run rustc")?;
    let folder = String::from_utf8(output.stdout)?;
    let Ok(files) = fs::read_dir(folder.trim()) else { return Ok(false) };
    Ok(files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libstd-")))
}
