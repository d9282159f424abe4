//! An agent with many entries, and cgroups of its clients.
//!
//! In: a yard, how many entries, an Envoy. Out: an agent whose maps hold them, and how long that took. Never: a
//! neighbour of another agent: each has a network namespace of its own, for all listen at the same address; the one with an
//! Envoy has the clients'.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Yard, fillers, with_nice};
use crate::agent::Flags;
use crate::netns::Netns;
use crate::poll;
use crate::servers::Process;
use crate::topology::NODE;

/// Longer than any number of entries should take.
const LIMIT: Duration = Duration::from_secs(300);
/// How often a starting agent is asked: rarely, since asking takes time from it.
const ASK: Duration = Duration::from_millis(50);

/// Which client of an agent's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Passes the programs, but is not enrolled.
    NotEnrolled,
    /// Enrolled, and dials the backend's own address.
    Miss,
    /// Enrolled, and dials the VIP.
    Hit,
}

/// A running agent; dropping it ends it.
#[derive(Debug)]
pub struct Node {
    process: Process,
    flags: Flags,
    /// The cgroup of enrolled clients.
    pub enrolled: PathBuf,
    /// A cgroup that passes the programs, but is not enrolled.
    pub other: PathBuf,
    /// How many entries it was given beside its own two.
    pub entries: u32,
    /// From the start of the process to the last element in the maps.
    pub programmed_after: Duration,
    /// How it is told to end.
    end: Signal,
}

/// The services of the bench that go through a waypoint: those of TCP.
const THROUGH: u64 = 2;

impl Node {
    /// Writes the entries, then starts the agent, and waits until its maps hold them.
    ///
    /// # Errors
    /// When that does not happen; with the end of its log.
    pub fn start(yard: &Yard, program: &Path, name: &str, entries: u32) -> anyhow::Result<Node> {
        Node::start_with(yard, program, name, entries, None)
    }

    /// The same with the bench's entry bound to a waypoint, which is this Envoy on the loopback of the clients' namespace; waits
    /// until it takes connections, too.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_waypoint(yard: &Yard, program: &Path, name: &str, envoy: &Path) -> anyhow::Result<Node> {
        Node::start_with(yard, program, name, 1, Some(envoy))
    }

    fn start_with(
        yard: &Yard,
        program: &Path,
        name: &str,
        entries: u32,
        envoy: Option<&Path>,
    ) -> anyhow::Result<Node> {
        let attach = yard.cgroup(name)?;
        let [enrolled, other] = ["enrolled", "other"].map(|part| attach.join(part));
        for group in [&enrolled, &other] {
            fs::create_dir(group)?;
        }
        let folder = yard.run.folder()?.join(name);
        let source = folder.join("entries");
        fs::create_dir_all(&source)?;
        fillers::write(&source, entries, envoy.is_some())?;
        let mut more = fillers::flags(entries);
        more.extend(["--enrol".to_owned(), enrolled.display().to_string()]);
        more.extend(["--log".to_owned(), "warn".to_owned()]);
        let listen = envoy.map_or(NODE, |_| IpAddr::V4(Ipv4Addr::LOCALHOST));
        if let Some(path) = envoy {
            more.extend(["--waypoint-envoy".to_owned(), path.display().to_string()]);
        }
        let (state, admin) = (folder.join("state"), folder.join("admin.sock"));
        let pin = yard.run.pins().join(name);
        let flags = Flags {
            program: program.to_owned(),
            source,
            cluster: None,
            listen,
            attach,
            pin,
            state,
            admin,
            more,
        };

        let (mut command, end) = match envoy {
            // Its Envoy has the niceness of the one that it is compared with; told to stop for good, it ends that.
            Some(_) => (with_nice(&yard.topology.sleep, yard.nice, program), Signal::SIGINT),
            None => {
                let netns = Netns::add(&yard.run, name)?;
                netns.ip(&format!("link set lo up\naddr add {NODE}/32 dev lo\n"))?;
                (netns.command(program), Signal::SIGTERM)
            }
        };
        let began = Instant::now();
        let process = Process::start(command.args(flags.arguments()), &folder.join("agent.log"))?;
        let programmed_after = Duration::ZERO;
        let mut node = Node { process, flags, enrolled, other, entries, programmed_after, end };
        let wanted = u64::from(entries) * 2;
        let (mut ended, mut asked) = (None, began);
        let programmed = poll::until(&format!("{entries} entries to be programmed"), LIMIT, || {
            if asked.elapsed() < ASK {
                return None;
            }
            asked = Instant::now();
            ended = node.process.ended();
            let complete = node.status().is_ok_and(|status| {
                let is_through = envoy.is_none() || status["waypoint"]["through"] == THROUGH;
                let has_all = frontends(&status).is_some_and(|used| used > wanted);
                status["healthy"] == true && has_all && is_through
            });
            (complete || ended.is_some()).then_some(())
        });
        if let Some(status) = ended {
            bail!("the agent ended with {status}: {}", node.process.tail());
        }
        let told = node.status().map(|status| status["unhealthyBecause"].to_string()).unwrap_or_default();
        programmed.with_context(|| format!("{told}\n{}", node.process.tail()))?;
        node.programmed_after = began.elapsed();
        Ok(node)
    }

    /// What the agent says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> anyhow::Result<Value> {
        let mut command = std::process::Command::new(&self.flags.program);
        command.args(["status", "-o", "json", "--admin"]).arg(&self.flags.admin);
        let output = command.output().context("cannot run kmesh-se status")?;
        serde_json::from_slice(&output.stdout).context("kmesh-se status printed no JSON")
    }

    /// How many frontends the map holds.
    ///
    /// # Errors
    /// When the agent does not tell.
    pub fn frontends(&self) -> anyhow::Result<u64> {
        frontends(&self.status()?).context("the agent does not tell how full kmse_frontend is")
    }

    /// The id of a program that it attached: `kmse_connect4`.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn program_id(&self, name: &str) -> anyhow::Result<u64> {
        let status = self.status()?;
        let programs = status["programs"]["programs"].as_array().context("no programs in status")?;
        let found = programs.iter().find(|program| program["name"] == name);
        found.and_then(|program| program["id"].as_u64()).with_context(|| format!("no program {name}"))
    }

    /// Resident memory of the agent, bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes * 1024)
    }

    /// Leads [`super::MOVED`] to another port of the backend, as a person's editor does; answers when that
    /// was, on the clock of [`crate::load::now_ns`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn lead_to(&self, port: u16) -> anyhow::Result<u64> {
        let draft = self.flags.source.join(".moved.draft");
        fs::write(&draft, fillers::moved(port))?;
        let at = crate::load::now_ns()?;
        fs::rename(draft, self.flags.source.join("moved.yaml"))?;
        Ok(at)
    }

    /// Ends it as an operator would.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.process.signal(self.end)?;
        let status = self.process.wait(Duration::from_secs(60))?;
        if !status.success() {
            bail!("the agent ended with {status} on {}\n{}", self.end, self.process.tail());
        }
        Ok(())
    }
}

fn frontends(status: &Value) -> Option<u64> {
    let maps = status["maps"].as_array()?;
    maps.iter().find(|map| map["name"] == "kmse_frontend")?["used"].as_u64()
}
