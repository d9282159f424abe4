//! Where things are in this repository, and how they are built.
//!
//! In: what cargo says of where xtask lies. Out: paths, and a built `kmesh-se`. Never: a decision what to run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::setup::{self, Verbosity};

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    // cargo sets it at run time too, and then it is right even if the folder moved since the build.
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map_or_else(|| xtask.clone(), Path::to_path_buf)
}

/// What `cargo xtask setup` installs that the machine does not have.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    tests::stage::target_folder()
}

/// The cargo that runs xtask, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // `cargo run` set these for xtask; some crates' build scripts would be run again because they differ.
    let own = std::env::vars_os().map(|(name, _)| name);
    for name in own.filter(|name| is_xtasks_own(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    cargo
}

/// The target triple of this machine.
///
/// # Errors
/// When rustc cannot be asked.
pub(crate) fn host() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "host-tuple"]).output().context("cannot run rustc")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn is_xtasks_own(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "OUT_DIR"].contains(&name)
}

/// Makes the machine ready and builds `kmesh-se`.
///
/// # Errors
/// When the machine lacks something, or the build fails.
pub(crate) fn build_agent(release: bool) -> anyhow::Result<PathBuf> {
    setup::setup(Verbosity::Changes)?;
    let mut cargo = cargo();
    // Not quiet: the first time takes minutes.
    cargo.args(["build", "--package", "kmesh-se-userspace"]);
    if release {
        cargo.arg("--release");
    }
    let status = cargo.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("kmesh-se does not build");
    }
    let profile = if release { "release" } else { "debug" };
    Ok(tests::stage::target_folder().join(profile).join("kmesh-se"))
}
