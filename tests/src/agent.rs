//! The program under test: `kmesh-se agent`, and `kmesh-se` as its operator types it.
//!
//! In: a topology, a cgroup, a folder of entries. Out: a running agent and its answers. Never: knowledge
//! of how it is built; it is a program at a path.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::clean::Run;
use crate::netns::Netns;
use crate::servers::Process;
use crate::topology::{DNS, NODE, Topology};
use crate::{poll, stage};

/// How long the agent may take to be healthy, and to end.
const LIMIT: Duration = Duration::from_secs(20);

/// The `kmesh-se` program: `$KMESH_SE_BIN`, or the newest that cargo built.
///
/// # Errors
/// When there is none; the message says how to build it.
pub fn program() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("KMESH_SE_BIN").map(PathBuf::from) {
        if !path.is_file() {
            bail!("KMESH_SE_BIN names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    let built = ["debug", "release"].map(|profile| stage::target_folder().join(profile).join("kmesh-se"));
    let newest = built.into_iter().filter(|path| path.is_file()).max_by_key(|path| {
        let modified = path.metadata().and_then(|file| file.modified());
        modified.unwrap_or(std::time::SystemTime::UNIX_EPOCH)
    });
    newest.context("kmesh-se is not built: run `cargo build -p kmesh-se-userspace`, or `cargo xtask test`")
}

/// Whether the program is as fast and as small as a release.
///
/// # Errors
/// When it does not say its version.
pub fn is_release(program: &Path) -> anyhow::Result<bool> {
    let output = Command::new(program).arg("--version").output()?;
    let version = String::from_utf8(output.stdout)?;
    if !version.starts_with("kmesh-se ") {
        bail!("{} does not say its version", program.display());
    }
    Ok(!version.contains("debug build"))
}

/// What `kmesh-se crds` prints.
///
/// # Errors
/// When it fails.
pub fn definitions() -> anyhow::Result<String> {
    let output = poll::output(Command::new(program()?).arg("crds"))?;
    ensure!(output.status.success(), "kmesh-se crds: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// What the agent is started with.
#[derive(Clone, Debug)]
pub struct Flags {
    /// The `kmesh-se` program.
    pub program: PathBuf,
    /// The folder of YAML files.
    pub source: PathBuf,
    /// The cluster to watch instead of the folder, and the name that the node has there.
    pub cluster: Option<(PathBuf, String)>,
    /// Where its DNS server listens, at port 15053.
    pub listen: IpAddr,
    /// The cgroup to attach to.
    pub attach: PathBuf,
    /// Where its programs and maps are pinned.
    pub pin: PathBuf,
    /// Where it keeps what it remembers.
    pub state: PathBuf,
    /// Its admin socket.
    pub admin: PathBuf,
    /// Anything more.
    pub more: Vec<String>,
}

impl Flags {
    /// The usual ones for a run.
    ///
    /// # Errors
    /// When the program is not built, or the run's folder cannot be made.
    pub fn new(run: &Run, attach: &Path) -> anyhow::Result<Flags> {
        let folder = run.folder()?;
        let source = folder.join("entries");
        std::fs::create_dir_all(&source)?;
        let (state, admin) = (folder.join("state"), folder.join("admin.sock"));
        let pin = run.pins();
        let attach = attach.to_owned();
        let (program, more) = (program()?, Vec::new());
        Ok(Flags { program, source, cluster: None, listen: NODE, attach, pin, state, admin, more })
    }

    /// The agent's command line, after the word `kmesh-se`.
    pub fn arguments(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let mut words = vec!["agent".to_owned(), "--source".to_owned()];
        match &self.cluster {
            None => words.push(format!("file:{}", self.source.display())),
            Some((kubeconfig, node)) => words
                .extend(["kube", "--kubeconfig", &path(kubeconfig), "--node", node].map(ToOwned::to_owned)),
        }
        words.extend(["--attach".to_owned(), path(&self.attach)]);
        words.extend(["--dns-listen".to_owned(), format!("{}:15053", self.listen)]);
        words.extend(["--resolver".to_owned(), DNS.to_string()]);
        words.extend(["--pin".to_owned(), path(&self.pin)]);
        words.extend(["--state".to_owned(), path(&self.state), "--admin".to_owned(), path(&self.admin)]);
        words.extend(self.more.iter().cloned());
        words
    }
}

/// A running agent; dropping it ends it.
#[derive(Debug)]
pub struct Agent {
    flags: Flags,
    node: Netns,
    process: Process,
}

impl Agent {
    /// Starts the agent in the node's namespace and waits until it is healthy and synced.
    ///
    /// # Errors
    /// When it is not, with the end of its log.
    pub fn start(run: &Run, topology: &Topology, flags: Flags) -> anyhow::Result<Agent> {
        Agent::start_with(run, &topology.node, flags, &[])
    }

    /// The same in a namespace that may belong to no topology, with words that are for this start only.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_with(run: &Run, node: &Netns, flags: Flags, words: &[&str]) -> anyhow::Result<Agent> {
        let mut agent = Agent::spawn(run, node, flags, words)?;
        let (program, admin) = (agent.flags.program.clone(), agent.flags.admin.clone());
        let pid = agent.process.pid().as_raw();
        // Another agent may answer on the same socket for a while.
        let healthy = || {
            let status = ask(&program, &admin, &["status", "-o", "json"]);
            let status = status.ok().filter(|output| output.status.success());
            let status = status.and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
            status.is_some_and(|status| status["pid"].as_i64() == Some(pid.into()))
        };
        agent.process.ready("the agent to be healthy", LIMIT, healthy)?;
        Ok(agent)
    }

    /// Starts an agent that may not come up.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(run: &Run, node: &Netns, flags: Flags, words: &[&str]) -> anyhow::Result<Agent> {
        let folder = run.folder()?;
        let mut logs = (1..).map(|number| folder.join(format!("agent-{number}.log")));
        let log = logs.find(|log| !log.exists()).context("no name for a log is left")?;
        let mut command = node.command(&flags.program);
        let process = Process::start(command.args(flags.arguments()).args(words), &log)?;
        Ok(Agent { flags, node: node.clone(), process })
    }

    /// Its process, to signal.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its admin socket.
    pub fn admin(&self) -> &Path {
        &self.flags.admin
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// What it logged last.
    pub fn log_tail(&self) -> String {
        self.process.tail()
    }

    /// Runs a `kmesh-se` command that asks this agent: `["status", "-o", "json"]`.
    ///
    /// # Errors
    /// When it cannot be run; how it ended is in the answer.
    pub fn ask(&self, words: &[&str]) -> anyhow::Result<Output> {
        ask(&self.flags.program, &self.flags.admin, words)
    }

    /// The JSON that a command answers: `status`, `services`, `backends`, `names`.
    ///
    /// # Errors
    /// When the command fails or its answer is no JSON.
    pub fn json(&self, command: &str) -> anyhow::Result<Value> {
        let output = self.ask(&[command, "-o", "json"])?;
        if !output.status.success() {
            bail!("kmesh-se {command}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!("kmesh-se {command} printed no JSON: {}", String::from_utf8_lossy(&output.stdout))
        })
    }

    /// The JSON at a path of the admin socket: what [`Agent::json`] answers, without a program in between.
    ///
    /// # Errors
    /// When nobody answers, or not with JSON.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        let mut stream = UnixStream::connect(&self.flags.admin)?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
        serde_json::from_str(body).with_context(|| format!("{path} answered {answer}"))
    }

    /// The words before a command to run it enrolled: `kmesh-se exec --admin SOCKET --`.
    pub fn exec(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        [&path(&self.flags.program), "exec", "--admin", &path(&self.flags.admin), "--"]
            .map(str::to_owned)
            .to_vec()
    }

    /// The same as a client of `namespace`.
    pub fn exec_in(&self, namespace: &str) -> Vec<String> {
        let mut words = self.exec();
        words.splice(words.len() - 1..words.len() - 1, ["--namespace".to_owned(), namespace.to_owned()]);
        words
    }

    /// Removes what an agent that was killed left: `kmesh-se cleanup`.
    ///
    /// # Errors
    /// When it cannot be run; how it ended is in the answer.
    pub fn cleanup(&self) -> anyhow::Result<Output> {
        let mut command = self.node.command(&self.flags.program);
        command.arg("cleanup").arg("--admin").arg(&self.flags.admin).arg("--attach").arg(&self.flags.attach);
        command.arg("--pin").arg(&self.flags.pin);
        poll::output(command.arg("--state").arg(&self.flags.state))
    }

    /// What it was started with.
    pub fn flags(&self) -> &Flags {
        &self.flags
    }

    /// Ends it as a person at a terminal does, by Ctrl-C, and waits: it takes everything down.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.end(Signal::SIGINT)
    }

    /// Ends it as a service manager does for a restart, and waits: connections stay possible.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        self.end(Signal::SIGTERM)
    }

    fn end(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)?;
        let status = self.process.wait(LIMIT)?;
        if !status.success() {
            bail!("the agent ended with {status} on {signal}\n{}", self.log_tail());
        }
        Ok(())
    }
}

fn ask(program: &Path, admin: &Path, words: &[&str]) -> anyhow::Result<Output> {
    let (command, rest) = words.split_first().context("no command")?;
    let mut kmesh = Command::new(program);
    poll::output(kmesh.arg(command).args([OsStr::new("--admin"), admin.as_os_str()]).args(rest))
}

/// Whether a text occurs anywhere in a JSON value's strings.
pub fn mentions(value: &Value, text: &str) -> bool {
    match value {
        Value::String(string) => string.contains(text),
        Value::Array(items) => items.iter().any(|item| mentions(item, text)),
        Value::Object(fields) => fields.values().any(|item| mentions(item, text)),
        _ => false,
    }
}

impl Agent {
    /// Waits until `services` names this host, or no longer does.
    ///
    /// # Errors
    /// When that does not happen; with the end of the agent's log.
    pub fn until_serves(&self, host: &str, serves: bool) -> anyhow::Result<()> {
        let what = format!("{host} to {}", if serves { "be served" } else { "be forgotten" });
        let done = || self.json("services").ok().filter(|json| mentions(json, host) == serves).map(|_| ());
        poll::until(&what, LIMIT, done).with_context(|| self.log_tail())
    }

    /// Waits until so many services go through the waypoint, and no other waits for it.
    ///
    /// # Errors
    /// When that does not happen; with the end of the agent's log.
    pub fn until_through(&self, services: usize) -> anyhow::Result<()> {
        let what = format!("{services} services to go through the waypoint");
        let done = || {
            let status = self.get("/status").ok()?;
            let waypoint = &status["waypoint"];
            let has = |key: &str| waypoint[key].as_u64() == u64::try_from(services).ok();
            (has("through") && has("services")).then_some(())
        };
        poll::until(&what, LIMIT, done).with_context(|| self.log_tail())
    }
}
