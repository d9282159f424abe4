//! What is on this machine, and Debian's way to add to it.
//!
//! In: PATH, `/proc`, apt's lists. Out: where things are. Never: a decision what is needed.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::workspace;

/// What does not change while setup runs.
pub(super) struct Machine {
    /// May install packages and make network namespaces.
    pub(super) root: bool,
    /// apt's lists were fetched by this run, so fetching them again will not help.
    lists_are_fresh: Cell<bool>,
}

impl Machine {
    pub(super) fn look() -> Self {
        Machine { root: nix::unistd::geteuid().is_root(), lists_are_fresh: Cell::new(false) }
    }

    /// Installs Debian packages, fetching apt's lists first when they do not know one of them.
    ///
    /// # Errors
    /// When this machine has no apt-get, this is not root, or apt-get failed (its last words are told).
    pub(super) fn apt_install(&self, packages: &[&str]) -> anyhow::Result<()> {
        if program("apt-get").is_none() {
            bail!("no apt-get here");
        }
        if !self.root {
            bail!("not root");
        }
        if !apt_knows(packages) {
            self.apt_update()?;
        }
        let install = || {
            let mut apt = Command::new("apt-get");
            apt.env("DEBIAN_FRONTEND", "noninteractive");
            apt.args(["install", "-y", "--no-install-recommends"]).args(packages);
            run_logged(&mut apt)
        };
        match install() {
            // Old lists name files that the archive no longer has.
            Err(_) if !self.lists_are_fresh.get() => {
                self.apt_update()?;
                install()
            }
            done => done,
        }
    }

    fn apt_update(&self) -> anyhow::Result<()> {
        self.lists_are_fresh.set(true);
        run_logged(Command::new("apt-get").arg("update"))
    }
}

fn apt_knows(packages: &[&str]) -> bool {
    let Ok(policy) = Command::new("apt-cache").arg("policy").args(packages).env("LC_ALL", "C").output()
    else {
        return false;
    };
    let text = String::from_utf8_lossy(&policy.stdout);
    let candidates = text.lines().filter(|line| {
        line.trim_start().strip_prefix("Candidate:").is_some_and(|version| version.trim() != "(none)")
    });
    candidates.count() >= packages.len()
}

/// A program in PATH, or where root's programs are when PATH lacks them.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The first of these files that exists.
pub(super) fn first_file(files: &[&str]) -> Option<String> {
    files.iter().find(|file| Path::new(file).is_file()).map(|file| (*file).to_owned())
}

/// Where the cgroup2 hierarchy is mounted.
pub(super) fn cgroup2_mount() -> Option<String> {
    tests::cgroup::mount_point().ok().map(|path| path.display().to_string())
}

/// What a command prints on its first line, if it runs and ends well.
pub(super) fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let line = String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned();
    output.status.success().then_some(line)
}

/// Runs a command with its output in `target/tools/setup.log`.
///
/// # Errors
/// When it cannot be started or does not end well; its last lines are told.
pub(super) fn run_logged(command: &mut Command) -> anyhow::Result<()> {
    std::fs::create_dir_all(workspace::tools())?;
    let path = workspace::tools().join("setup.log");
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let name = format!("{:?}", command.get_program()).replace('"', "");
    let status = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .with_context(|| format!("cannot start {name}"))?;
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read(&path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(8)..].join("\n      ");
    bail!("{name} ended with {status}; its last lines:\n      {tail}")
}
