//! Network namespaces that `ip netns` lists.
//!
//! In: a run and a role. Out: `kmse-<id>-<role>`, commands and closures that run in it. Never: another
//! mount namespace for them (except by `ip netns exec`), so `/sys/fs/cgroup` stays as it is.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::clean::Run;
use crate::poll;

/// A network namespace; its run removes it.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    run_id: String,
}

impl Netns {
    /// Makes a namespace in which addresses can be used at once, without duplicate address detection.
    ///
    /// # Errors
    /// When `ip netns add` fails.
    pub fn add(run: &Run, role: &str) -> anyhow::Result<Netns> {
        let netns = Netns { name: run.name(role), run_id: run.id().to_owned() };
        let added = poll::output(Command::new("ip").args(["netns", "add", &netns.name]))?;
        if !added.status.success() {
            bail!("cannot make {}: {}", netns.name, String::from_utf8_lossy(&added.stderr).trim());
        }
        netns.set("net/ipv6/conf/all/accept_dad", "0")?;
        netns.set("net/ipv6/conf/default/accept_dad", "0")?;
        Ok(netns)
    }

    /// `kmse-<id>-<role>`.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that runs in this network namespace and in the caller's mount namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("KMSE_RUN", &self.run_id);
        let netns = File::open(self.path());
        let enter = move || {
            let netns = netns.as_ref().map_err(|error| std::io::Error::from(error.kind()))?;
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).map_err(Into::into)
        };
        // SAFETY: between fork and exec it makes one system call and allocates nothing.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs a closure on a thread in this namespace. Sockets that it makes stay in the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let file = File::open(self.path()).with_context(|| format!("no namespace {}", self.name))?;
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter {}", self.name))?;
                Ok(work())
            });
            // A panic in the closure goes on here.
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets a value under `/proc/sys`.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn set(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let path = PathBuf::from("/proc/sys").join(key);
        self.inside(|| fs::write(&path, value))?.with_context(|| format!("cannot set {key} to {value}"))
    }

    /// Runs lines of `ip` commands (without the word `ip`) in this namespace, all or until one fails.
    ///
    /// # Errors
    /// When one fails; the message is `ip`'s.
    pub fn ip(&self, lines: &str) -> anyhow::Result<()> {
        let mut ip = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run ip")?;
        ip.stdin.take().context("no stdin")?.write_all(lines.as_bytes())?;
        let output = ip.wait_with_output()?;
        if !output.status.success() {
            bail!("in {}: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// The routes of this protocol number, IPv4 first: `unreachable 240.240.0.0/16`, `10.0.0.0/8 via 10.244.1.1 dev eth0`.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn routes(&self, protocol: u8) -> anyhow::Result<Vec<String>> {
        let mut routes = Vec::new();
        for family in ["-4", "-6"] {
            let mut ip = Command::new("ip");
            ip.args(["-n", &self.name, family, "route", "show", "proto", &protocol.to_string()]);
            let listed = poll::output(&mut ip)?;
            if !listed.status.success() {
                bail!("in {}: {}", self.name, String::from_utf8_lossy(&listed.stderr).trim());
            }
            for line in String::from_utf8_lossy(&listed.stdout).lines() {
                let line = line.split(" metric ").next().unwrap_or(line).trim();
                let of_v6 = line.strip_suffix(" dev lo").filter(|_| line.starts_with("unreachable "));
                routes.push(of_v6.unwrap_or(line).to_owned());
            }
        }
        Ok(routes)
    }

    /// Gives the namespace a `resolv.conf`, which `ip netns exec` puts in place of the machine's.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn resolv_conf(&self, text: &str) -> anyhow::Result<()> {
        let folder = PathBuf::from("/etc/netns").join(&self.name);
        let write = || fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join("resolv.conf"), text));
        // Another run that ends may just have removed the empty /etc/netns.
        write().or_else(|_| write()).with_context(|| format!("cannot write {}/resolv.conf", folder.display()))
    }
}
