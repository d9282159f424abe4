//! All of it: a run with its topology, cgroup, folder of entries and agent.
//!
//! In: options. Out: a node on which things can be tried. Never: anything left when it is dropped, or
//! silence about what is left when it is ended.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::agent::{Agent, Flags};
use crate::bpf::Objects;
use crate::clean::Run;
use crate::topology::{Options, Topology};
use crate::{cgroup, poll};

/// What `cargo xtask setup` installed.
pub fn tools_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).join("target/tools")
}

/// Where cargo builds: `$CARGO_TARGET_DIR`, or `target` in the workspace.
pub fn target_folder() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |path| workspace.join(path))
}

/// The ServiceEntries that come with the project.
pub fn examples_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).join("examples")
}

/// The protocol number of an agent's routes.
pub const VIP_ROUTES: u8 = 107;

/// A node with its agent. Fields are dropped in order: agent, servers, then what the run owns.
#[derive(Debug)]
pub struct Stage {
    /// The agent under test.
    pub agent: Agent,
    /// Namespaces and servers.
    pub topology: Topology,
    /// The cgroup that the agent attaches to.
    pub cgroup: PathBuf,
    entries: PathBuf,
    /// The owner of everything above.
    pub run: Run,
}

impl Stage {
    /// Sets it up with the usual flags and these files of entries: (file name, text).
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start(options: Options, entries: &[(&str, &str)]) -> anyhow::Result<Stage> {
        Stage::start_with(options, entries, |_| ())
    }

    /// Sets it up with changed flags.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start_with(
        options: Options,
        entries: &[(&str, &str)],
        change: impl FnOnce(&mut Flags),
    ) -> anyhow::Result<Stage> {
        let run = Run::begin()?;
        let cgroup = cgroup::make(&run)?;
        let mut flags = Flags::new(&run, &cgroup)?;
        change(&mut flags);
        for (name, text) in entries {
            std::fs::write(flags.source.join(name), text)?;
        }
        let folder = flags.source.clone();
        let topology = Topology::start(&run, options)?;
        let agent = Agent::start(&run, &topology, flags)?;
        Ok(Stage { agent, topology, cgroup, entries: folder, run })
    }

    /// The folder that the agent watches.
    pub fn entries(&self) -> &Path {
        &self.entries
    }

    /// Puts a file of entries in place at once, as a person's editor does.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let draft = self.entries.join(format!(".{name}.draft"));
        std::fs::write(&draft, text)?;
        std::fs::rename(draft, self.entries.join(name)).with_context(|| format!("cannot write {name}"))
    }

    /// Removes a file of entries.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        std::fs::remove_file(self.entries.join(name)).with_context(|| format!("cannot remove {name}"))
    }

    /// The words that run a command in the client's namespace, enrolled; they work as typed.
    pub fn enrolled(&self, command: &[&str]) -> Vec<String> {
        [self.agent.exec(), self.topology.in_sleep(command)].concat()
    }

    /// A client in its namespace, enrolled or not.
    pub fn client(&self, enrolled: bool, command: &[&str]) -> Command {
        let words = if enrolled { self.enrolled(command) } else { self.topology.in_sleep(command) };
        let mut client = Command::new(&words[0]);
        self.run.own(client.args(&words[1..]).stdin(Stdio::null()));
        client
    }

    /// Runs a client to its end.
    ///
    /// # Errors
    /// When it cannot be started; how it ended is in the answer.
    pub fn ask(&self, enrolled: bool, command: &[&str]) -> anyhow::Result<Output> {
        poll::output(&mut self.client(enrolled, command))
    }

    /// What an enrolled or other client prints on standard output, and whether it ended well.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn says(&self, enrolled: bool, command: &[&str]) -> anyhow::Result<(bool, String)> {
        let output = self.ask(enrolled, command)?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// What an enrolled client of `namespace` prints on standard output, and whether it ended well.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn says_in(&self, namespace: &str, command: &[&str]) -> anyhow::Result<(bool, String)> {
        let words = [self.agent.exec_in(namespace), self.topology.in_sleep(command)].concat();
        let mut client = Command::new(&words[0]);
        let output = poll::output(self.run.own(client.args(&words[1..])))?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Runs a Python program in a client; it must end well.
    ///
    /// # Errors
    /// When it does not; with what it wrote.
    pub fn python(&self, enrolled: bool, program: &str) -> anyhow::Result<String> {
        let python = tools_folder().join("httpbin/bin/python3");
        let output = self.ask(enrolled, &[&python.display().to_string(), "-c", program])?;
        if !output.status.success() {
            bail!("python ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The programs and maps at work.
    ///
    /// # Errors
    /// When bpftool fails.
    pub fn objects(&self) -> anyhow::Result<Objects> {
        Objects::of(&self.cgroup)
    }

    /// Stops the agent and starts it again with the same flags.
    ///
    /// # Errors
    /// When it does not end or start well.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.agent.pause()?;
        self.resume()
    }

    /// Starts an agent with the same flags in place of one that has ended.
    ///
    /// # Errors
    /// When it does not start well.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let flags = self.agent.flags().clone();
        self.agent = Agent::start(&self.run, &self.topology, flags)?;
        Ok(())
    }

    /// Starts a second agent that takes over from the first, which must end by itself and well.
    ///
    /// # Errors
    /// When one of them does not.
    pub fn take_over(&mut self) -> anyhow::Result<()> {
        let flags = self.agent.flags().clone();
        let new = Agent::start_with(&self.run, &self.topology.node, flags, &["--takeover"])?;
        let mut old = std::mem::replace(&mut self.agent, new);
        let status = old.process().wait(Duration::from_secs(10))?;
        if !status.success() {
            bail!("the agent that was taken over ended with {status}\n{}", old.log_tail());
        }
        Ok(())
    }

    /// Stops the agent as an operator would, removes everything, and answers what is left, which is nothing
    /// if all is well.
    ///
    /// # Errors
    /// When the agent does not end well.
    pub fn end(mut self) -> anyhow::Result<Vec<String>> {
        let objects = self.objects()?;
        self.agent.stop()?;
        // What the agent leaves counts, not what removing the cgroup detaches.
        let mut left = settled(&objects);
        left.extend(groups_in(&self.cgroup));
        left.extend(self.topology.node.routes(VIP_ROUTES)?);
        let Stage { agent, topology, run, .. } = self;
        drop((agent, topology));
        left.extend(run.end());
        Ok(left)
    }
}

/// Which of these objects stay. The kernel frees them a moment after their last user has gone.
pub fn settled(objects: &Objects) -> Vec<String> {
    let gone = || objects.alive().is_empty().then_some(());
    let _ = poll::until("BPF objects to go", Duration::from_secs(5), gone);
    objects.alive()
}

/// The cgroups below one, one line each: the agent removes what it made.
pub fn groups_in(group: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| format!("cgroup {}", entry.path().display())).collect()
}
