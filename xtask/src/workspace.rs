//! Where things are in this repository.
//!
//! In: what cargo says of where xtask lies. Out: paths. Never: creates anything.

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// The cargo that runs xtask, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    // These are xtask's own and would make cargo rebuild what a person's own `cargo build` made.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "OUT_DIR"] {
        cargo.env_remove(name);
    }
    cargo
}
