//! Real servers for tests: a DNS server of its own on loopback for whoever asks.
//!
//! In: lines of a hosts file. Out: a `dnsmasq` that serves them. Never: the network beyond loopback.

pub(crate) mod objects;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a test waits for a condition before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A `dnsmasq` on 127.0.0.1 and a port of its own; `.test` is its own zone, everything else is refused.
pub(crate) struct Dnsmasq {
    child: Option<Child>,
    address: SocketAddr,
    hosts: PathBuf,
    extra: Vec<String>,
    _directory: tempfile::TempDir,
}

impl Dnsmasq {
    /// Starts a server whose A and AAAA records are the hosts-file lines `hosts`, with a TTL of 1 s.
    pub(crate) fn start(hosts: &str) -> Self {
        Self::start_with(hosts, &[])
    }

    /// The same with further options of dnsmasq.
    pub(crate) fn start_with(hosts: &str, extra: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("create a directory for the hosts file");
        // As root, dnsmasq reads the file as another user.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("open the directory");
        let mut server = Self {
            child: None,
            address: free_port(),
            hosts: directory.path().join("hosts"),
            extra: extra.iter().map(|&option| option.to_owned()).collect(),
            _directory: directory,
        };
        fs::write(&server.hosts, hosts).expect("write the hosts file");
        // Another process can take the port between finding and using it.
        for _ in 0..5 {
            if server.spawn() {
                return server;
            }
            server.address = free_port();
        }
        panic!("dnsmasq did not come up on any of five ports; run it by hand to see why");
    }

    /// Where it listens, for UDP and TCP.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the records.
    pub(crate) fn set_hosts(&self, hosts: &str) {
        fs::write(&self.hosts, hosts).expect("write the hosts file");
        if let Some(child) = &self.child {
            let pid = Pid::from_raw(child.id().try_into().expect("a process id"));
            kill(pid, Signal::SIGHUP).expect("tell dnsmasq to read its hosts file again");
        }
    }

    /// Stops it, so that its port refuses.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("stop dnsmasq");
            child.wait().expect("wait for dnsmasq to end");
        }
    }

    /// Starts it again on the same port.
    pub(crate) fn start_again(&mut self) {
        assert!(self.spawn(), "dnsmasq did not come back on {}", self.address);
    }

    fn spawn(&mut self) -> bool {
        let mut child = Command::new("/usr/sbin/dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--no-poll"])
            .args(["--pid-file", "--log-facility=-", "--bind-interfaces", "--listen-address=127.0.0.1"])
            .args(["--local-ttl=1", "--local=/test/"])
            .arg(format!("--port={}", self.address.port()))
            .arg(format!("--addn-hosts={}", self.hosts.display()))
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start /usr/sbin/dnsmasq: install the Debian package dnsmasq-base");
        let deadline = Instant::now() + PATIENCE;
        let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket to probe dnsmasq");
        probe.connect(self.address).expect("connect the probe");
        probe.set_read_timeout(Some(Duration::from_millis(50))).expect("set the probe's timeout");
        // A query for version.bind, which dnsmasq answers by itself.
        let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x07version\x04bind\0\0\x10\0\x03";
        while Instant::now() < deadline {
            if child.try_wait().expect("ask after dnsmasq").is_some() {
                return false;
            }
            // Both fail at once for as long as nobody listens.
            if probe.send(query).is_ok() && probe.recv(&mut [0; 512]).is_ok() {
                self.child = Some(child);
                return true;
            }
        }
        child.kill().expect("stop dnsmasq");
        child.wait().expect("wait for dnsmasq to end");
        false
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An address of loopback with a port that was free for UDP and TCP a moment ago.
pub(crate) fn free_port() -> SocketAddr {
    free_block(1)
}

/// The same for `count` consecutive ports, of which this is the first. They lie below the ports that the
/// kernel hands out, and no two calls in one process give the same ones.
pub(crate) fn free_block(count: u16) -> SocketAddr {
    const RANGE: u32 = 20_000;
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let is_free = |port| {
        UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
    };
    // Test processes that run at the same time begin apart.
    let start = std::process::id().wrapping_mul(1009);
    for _ in 0..RANGE {
        let offset = start.wrapping_add(TAKEN.fetch_add(count.into(), Ordering::Relaxed)) % RANGE;
        let port = 12_000 + u16::try_from(offset).expect("a small number");
        if (port..port + count).all(is_free) {
            return (Ipv4Addr::LOCALHOST, port).into();
        }
    }
    panic!("no {count} consecutive ports of 127.0.0.1 from 12000 to 32000 are free");
}
