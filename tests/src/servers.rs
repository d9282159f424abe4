//! Servers that answer inside a topology: an authoritative DNS server, httpbin, and one that tells addresses.
//!
//! In: a namespace and addresses. Out: servers that are ready when their constructor returns. Never: one
//! that outlives its value.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::Netns;
use crate::poll;

/// How long a server may take until it answers.
const READY: Duration = Duration::from_secs(20);

/// A child process with its output in a file; dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command; what it writes goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Process> {
        let file = fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        // In a group of its own, so that Ctrl-C on the terminal reaches only the one that cleans up.
        let command = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Process { child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(self.pid(), signal).with_context(|| format!("cannot send {signal} to {}", self.pid()))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it has not within `limit`.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<std::process::ExitStatus> {
        let what = format!("process {} to end", self.pid());
        poll::until(&what, limit, || self.ended())
    }

    /// What it wrote.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of what it wrote, for messages.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Waits until `ready` answers, or until it is plain that it never will.
    ///
    /// # Errors
    /// When the process ended or the time is up; with the end of what it wrote.
    pub fn ready(&mut self, what: &str, limit: Duration, ready: impl Fn() -> bool) -> anyhow::Result<()> {
        let mut ended = None;
        let outcome = poll::until(what, limit, || {
            if ready() {
                return Some(());
            }
            ended = self.ended();
            ended.map(|_| ())
        });
        match (ended, outcome) {
            (None, Ok(())) => Ok(()),
            (Some(status), _) => bail!("waiting for {what}: it ended with {status}\n{}", self.tail()),
            (None, Err(error)) => bail!("{error:#}\n{}", self.tail()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.signal(Signal::SIGTERM);
            if self.wait(Duration::from_secs(5)).is_err() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

/// Whether a server listens there.
pub(crate) fn accepts(netns: &Netns, address: SocketAddr) -> bool {
    netns.inside(|| TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()).unwrap_or(false)
}

/// An authoritative DNS server: what it was told, or NXDOMAIN.
#[derive(Debug)]
pub struct Dns {
    process: Process,
    hosts: PathBuf,
}

impl Dns {
    /// Starts a dnsmasq that listens on `addresses`, whose answers live `ttl_secs`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(
        netns: &Netns,
        folder: &Path,
        addresses: &[IpAddr],
        ttl_secs: u32,
        records: &[(&str, IpAddr)],
    ) -> anyhow::Result<Dns> {
        let hosts = folder.join("dns-hosts");
        write_hosts(&hosts, records)?;
        let mut command = netns.command("dnsmasq");
        // `--local=/#/`: every name is ours, so an unknown one is NXDOMAIN rather than REFUSED.
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--local=/#/",
        ]);
        command.args(["--bind-interfaces", "--except-interface=lo", "--user=root", "--pid-file="]);
        command.args(["--log-queries", "--log-facility=-"]);
        command.arg(format!("--local-ttl={ttl_secs}")).arg(format!("--addn-hosts={}", hosts.display()));
        command.args(addresses.iter().map(|address| format!("--listen-address={address}")));
        let mut process = Process::start(&mut command, &folder.join("dns.log"))?;
        let ready = || addresses.iter().all(|address| accepts(netns, (*address, 53).into()));
        process.ready("the DNS server", READY, ready)?;
        Ok(Dns { process, hosts })
    }

    /// Replaces what it knows.
    ///
    /// # Errors
    /// When it is gone, or does not read the change.
    pub fn set(&self, records: &[(&str, IpAddr)]) -> anyhow::Result<()> {
        write_hosts(&self.hosts, records)?;
        let reads = || self.process.output().matches("read ").count();
        let before = reads();
        self.process.signal(Signal::SIGHUP)?;
        poll::until("the DNS server to read the change", READY, || (reads() > before).then_some(()))
    }

    /// How many queries for this name it got.
    pub fn queries(&self, name: &str) -> usize {
        let asked = format!(" {name} from ");
        self.process.output().lines().filter(|line| line.contains("query[") && line.contains(&asked)).count()
    }

    /// Stops or continues answering (SIGSTOP, SIGCONT): a server that is away, rather than one that refuses.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause(&self, paused: bool) -> anyhow::Result<()> {
        self.process.signal(if paused { Signal::SIGSTOP } else { Signal::SIGCONT })
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // A stopped process does not end.
        let _ = self.pause(false);
    }
}

fn write_hosts(path: &Path, records: &[(&str, IpAddr)]) -> anyhow::Result<()> {
    let text: String = records.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// httpbin, the real one, as the tutorial uses it.
#[derive(Debug)]
pub struct Httpbin {
    process: Process,
}

impl Httpbin {
    /// Starts it on these addresses.
    ///
    /// # Errors
    /// When `cargo xtask setup` has not installed it, or it does not come up.
    pub fn start(netns: &Netns, folder: &Path, addresses: &[SocketAddr]) -> anyhow::Result<Httpbin> {
        let gunicorn = crate::stage::tools_folder().join("httpbin/bin/gunicorn");
        if !gunicorn.exists() {
            bail!("no httpbin at {}: run `cargo xtask setup`", gunicorn.display());
        }
        let mut command = netns.command(&gunicorn);
        // The access log's format: who asked, which host, what.
        command.args(["--no-control-socket", "--worker-tmp-dir", "/tmp", "--workers", "1", "--threads", "8"]);
        command.args(["--access-logfile", "-", "--access-logformat", "request %(h)s %({host}i)s %(r)s"]);
        command.args(addresses.iter().map(|address| format!("--bind={address}"))).arg("httpbin:app");
        let mut process = Process::start(&mut command, &folder.join("httpbin.log"))?;
        let ready = || addresses.iter().all(|address| accepts(netns, *address));
        process.ready("httpbin", READY, ready)?;
        Ok(Httpbin { process })
    }

    /// The address that each request came from, in order, once there were so many: a request is told of only after its
    /// answer.
    ///
    /// # Errors
    /// When fewer came.
    pub fn clients(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let told = || {
            let output = self.process.output();
            let requests = output.lines().filter_map(|line| line.strip_prefix("request "));
            let clients: Vec<_> =
                requests.filter_map(|request| request.split(' ').next()).map(str::to_owned).collect();
            (clients.len() >= count).then_some(clients)
        };
        poll::until(&format!("httpbin to tell of {count} requests"), READY, told)
    }
}

/// Tells each client on one line which address it reached and from where: `10.244.1.7:9000 10.244.1.6:40000`.
///
/// It answers HTTP when it is asked in HTTP, so that curl is a client too.
#[derive(Debug)]
pub struct Echo {
    connections: Arc<AtomicUsize>,
}

impl Echo {
    /// Listens on an address of the namespace, until the process ends.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(netns: &Netns, address: SocketAddr) -> anyhow::Result<Echo> {
        let listener = netns.inside(|| TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    let _ = answer(stream);
                });
            }
        });
        Ok(Echo { connections })
    }

    /// How many connections it has taken.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let body = format!("{} {}\n", stream.local_addr()?, stream.peer_addr()?);
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    // A request ends with an empty line; a client that is not HTTP sends one at once.
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}
