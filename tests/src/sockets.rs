//! A stage for tests of single system calls: client processes, an agent, and servers as threads of the test.
//!
//! In: entries. Out: clients, enrolled or not, whose sockets the test uses like its own. Never: an external program other
//! than `kmesh-se` and `ip`, so that the same executable runs in a small virtual machine.

pub mod call;
pub mod client;
pub mod hammer;
pub mod servers;
pub mod translator;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use self::client::Client;
use crate::agent::{Agent, Flags};
use crate::cgroup;
use crate::clean::Run;
use crate::netns::Netns;
use crate::topology::{BACKEND, BACKEND_2, NODE, SLEEP, v6};

/// A range whose every IPv4 address is the backend namespace's own.
pub const MANY: Ipv4Addr = Ipv4Addr::new(10, 245, 0, 0);

/// An agent with a client's and a backend's namespace, joined by one wire.
#[derive(Debug)]
pub struct Arena {
    /// The agent under test.
    pub agent: Agent,
    /// Where the agent runs.
    pub node: Netns,
    /// Where servers run.
    pub backend: Netns,
    /// Where clients run.
    pub sleep: Netns,
    /// The parent of the cgroup that the agent attaches to.
    pub parent: PathBuf,
    client: PathBuf,
    entries: PathBuf,
    /// The owner of everything above.
    pub run: Run,
}

impl Arena {
    /// Sets it up with these entries; `client` is the program `socket-client`.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start(client: &Path, entries: &str) -> anyhow::Result<Arena> {
        Arena::start_with(client, entries, |_| ())
    }

    /// The same with changed flags.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start_with(
        client: &Path,
        entries: &str,
        change: impl FnOnce(&mut Flags),
    ) -> anyhow::Result<Arena> {
        let run = Run::begin()?;
        let add = |role: &str| Netns::add(&run, role);
        let (node, sleep, backend) = (add("node")?, add("sleep")?, add("backend")?);
        node.ip(&format!("link set lo up\naddr add {NODE}/32 dev lo\n"))?;
        sleep.ip(&format!("link add eth0 type veth peer name eth0 netns {}\n", backend.name()))?;
        // What is not rewritten reaches the backend's namespace, which does not answer for addresses that it lacks.
        let routes = format!("route add default via {BACKEND}\nroute add default via {}\n", v6(BACKEND));
        let many = format!("route add local {MANY}/16 dev lo\n");
        for (netns, own, more) in
            [(&backend, &[BACKEND, BACKEND_2][..], many.as_str()), (&sleep, &[SLEEP], &routes)]
        {
            let addresses: String = own
                .iter()
                .map(|address| {
                    let v6 = v6(*address);
                    format!("addr add {address}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n")
                })
                .collect();
            netns.ip(&format!("link set lo up\n{addresses}link set eth0 up\n{more}"))?;
        }
        let parent = cgroup::make(&run)?;
        let mut flags = Flags::new(&run, &parent.join("pods"))?;
        change(&mut flags);
        std::fs::write(flags.source.join("entries.yaml"), entries)?;
        let source = flags.source.clone();
        let agent = Agent::start_with(&run, &node, flags, &[])?;
        Ok(Arena { agent, node, backend, sleep, parent, client: client.to_owned(), entries: source, run })
    }

    /// A client process in the client's namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn client(&self, enrolled: bool) -> anyhow::Result<Client> {
        self.client_after(if enrolled { self.agent.exec() } else { Vec::new() })
    }

    /// An enrolled client of a Kubernetes namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn client_of(&self, namespace: &str) -> anyhow::Result<Client> {
        self.client_after(self.agent.exec_in(namespace))
    }

    fn client_after(&self, mut words: Vec<String>) -> anyhow::Result<Client> {
        words.push(self.client.display().to_string());
        let mut command = self.sleep.command(&words[0]);
        Client::start(command.args(&words[1..])).with_context(|| format!("cannot start {words:?}"))
    }

    /// Starts an agent in place of one that has ended.
    ///
    /// # Errors
    /// When it does not start well.
    pub fn resume(&mut self, program: &Path) -> anyhow::Result<()> {
        let flags = Flags { program: program.to_owned(), ..self.agent.flags().clone() };
        self.agent = Agent::start_with(&self.run, &self.node, flags, &[])?;
        Ok(())
    }

    /// Starts a second agent that takes over from the first, which must end by itself and well.
    ///
    /// # Errors
    /// When one of them does not.
    pub fn take_over(&mut self, program: &Path) -> anyhow::Result<()> {
        let flags = Flags { program: program.to_owned(), ..self.agent.flags().clone() };
        let new = Agent::start_with(&self.run, &self.node, flags, &["--takeover"])?;
        let mut old = std::mem::replace(&mut self.agent, new);
        let status = old.process().wait(Duration::from_secs(10))?;
        anyhow::ensure!(status.success(), "the old agent ended with {status}\n{}", old.log_tail());
        Ok(())
    }

    /// Puts a file of entries in place at once, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let draft = self.entries.join(format!(".{name}.draft"));
        std::fs::write(&draft, text)?;
        std::fs::rename(draft, self.entries.join(name)).with_context(|| format!("cannot write {name}"))
    }

    /// Adds or replaces a file of entries, and waits until all of its hosts are served.
    ///
    /// # Errors
    /// When it cannot be written, or is not served.
    pub fn write(&self, name: &str, text: &str, hosts: &[&str]) -> anyhow::Result<()> {
        self.put(name, text)?;
        hosts.iter().try_for_each(|host| self.agent.until_serves(host, true))
    }

    /// Removes a file of entries, and waits until this host of it is forgotten.
    ///
    /// # Errors
    /// When it is not there, or stays in force.
    pub fn remove(&self, name: &str, host: &str) -> anyhow::Result<()> {
        std::fs::remove_file(self.entries.join(name)).with_context(|| format!("cannot remove {name}"))?;
        self.agent.until_serves(host, false)
    }

    /// The errno of a refusal that is meant as `errno`.
    pub fn refusal(&self, errno: i32) -> i32 {
        if self.lacks(SET_RETVAL) { libc::EPERM } else { errno }
    }

    /// Whether this kernel is older than a feature.
    pub fn lacks(&self, (_, since): Feature) -> bool {
        kernel() < since
    }

    /// The virtual addresses of a host, IPv4 first.
    ///
    /// # Errors
    /// When it has not both.
    pub fn vips(&self, host: &str) -> anyhow::Result<[IpAddr; 2]> {
        let services = self.agent.json("services")?;
        let rows = services["services"].as_array().into_iter().flatten();
        let row = rows.into_iter().find(|row| row["host"] == host);
        let row = row.with_context(|| format!("{host} is not served: {services}"))?;
        let texts = row["vips"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut vips: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
        vips.sort_unstable();
        match vips[..] {
            [v4, v6] if v4.is_ipv4() && v6.is_ipv6() => Ok([v4, v6]),
            _ => bail!("{host} has the addresses {vips:?}"),
        }
    }
}

/// What the kernel calls a helper of BPF programs, and since when it has it.
pub type Feature = (&'static str, (u32, u32));
/// Without it a program cannot choose the errno of a refusal.
pub const SET_RETVAL: Feature = ("bpf_set_retval", (5, 18));
/// Without it a program cannot tell MPTCP from TCP.
pub const MPTCP: Feature = ("bpf_skc_to_mptcp_sock", (5, 19));

fn kernel() -> (u32, u32) {
    let release = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The address as an IPv6 socket writes it.
pub fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// One ServiceEntry, to be put behind others in one file.
pub fn entry(name: &str, spec: &Value) -> String {
    entry_in("default", name, spec)
}

/// The same in a namespace.
pub fn entry_in(namespace: &str, name: &str, spec: &Value) -> String {
    let metadata = json!({ "name": name, "namespace": namespace });
    let entry = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": metadata,
        "spec": spec,
    });
    format!("{entry}\n---\n")
}

static SHARED: Mutex<Option<Arc<Arena>>> = Mutex::new(None);

/// The one arena of this process, set up by the first who asks and removed when the process ends.
///
/// # Errors
/// When it does not come up; the next who asks tries again.
pub fn shared(start: impl FnOnce() -> anyhow::Result<Arena>) -> anyhow::Result<Arc<Arena>> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(arena) = &*shared {
        return Ok(Arc::clone(arena));
    }
    let arena = Arc::new(start()?);
    // SAFETY: the function is `extern "C"` and lives as long as the process.
    unsafe { libc::atexit(end) };
    *shared = Some(Arc::clone(&arena));
    Ok(arena)
}

/// A static is not dropped, and a test executable has no place of its own for the end of all tests.
extern "C" fn end() {
    let arena = SHARED.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop(arena);
}
