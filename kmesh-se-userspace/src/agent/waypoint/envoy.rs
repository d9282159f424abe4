//! The Envoy process of this node: started, found again, ended.
//!
//! In: a program, its configuration, a folder of its own. Out: a process that outlives the agent, and the news of its end. Never: a
//! signal to a process that is not the one that was started.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{errno::Errno, sys::signal::Signal};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::timeout,
};

use crate::{
    poll::{self, Owning},
    sys,
    waypoint::{Bootstrap, Server},
};

/// What one Envoy is called towards the server.
pub(super) const NODE: &str = "waypoint";
/// Threads that carry traffic, as Istio's proxies have.
const WORKERS: &str = "2";
/// How long it may take to end by itself.
const GRACE: Duration = Duration::from_secs(3);
/// A log of this size is begun anew with the next start.
const LOG_MAX: u64 = 4 << 20;

/// Where everything about the process is: a folder that only root may enter.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// The one that belongs to the agent whose admin socket is at `admin`.
    pub(crate) fn beside(admin: &Path) -> Self {
        let mut path = admin.as_os_str().to_owned();
        path.push(".waypoint");
        Self(path.into())
    }

    /// Makes the folder.
    pub(super) fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Where the server listens that Envoy asks.
    pub(super) fn server(&self) -> PathBuf {
        self.0.join("xds.sock")
    }

    /// Where Envoy's own page listens.
    pub(super) fn page(&self) -> PathBuf {
        self.0.join("envoy.sock")
    }

    /// What Envoy writes.
    pub(super) fn log(&self) -> PathBuf {
        self.0.join("envoy.log")
    }

    fn config(&self) -> PathBuf {
        self.0.join("envoy.json")
    }

    fn record(&self) -> PathBuf {
        self.0.join("process.json")
    }

    /// Ends the process, if there is one, and removes the folder. Says whether there was anything.
    ///
    /// # Errors
    /// Something stays; the message names it.
    pub(crate) async fn clear(&self) -> io::Result<bool> {
        if let Some(mut envoy) = Envoy::find(self) {
            envoy.end().await?;
        }
        match fs::remove_dir_all(&self.0) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// What is started.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) place: Place,
}

impl Launch {
    /// The configuration, as it is written to the disk.
    fn config(&self) -> String {
        let bootstrap = Bootstrap {
            node: NODE.to_owned(),
            cluster: NODE.to_owned(),
            server: Server::Socket(self.place.server()),
            admin: Some(self.place.page()),
            status: None,
        };
        bootstrap.config().to_string()
    }

    /// The process of an earlier agent, if it runs by the same program and configuration; another one is ended.
    pub(super) async fn take_over(&self) -> io::Result<Option<Envoy>> {
        let Some(mut envoy) = Envoy::find(&self.place) else { return Ok(None) };
        let is_same_config = fs::read_to_string(self.place.config()).is_ok_and(|text| text == self.config());
        if envoy.record.program == self.program && is_same_config {
            return Ok(Some(envoy));
        }
        tracing::info!(
            pid = envoy.record.pid,
            "the waypoint is started anew: its program or its settings are others"
        );
        envoy.end().await?;
        Ok(None)
    }

    /// Starts it.
    pub(super) fn start(&self) -> io::Result<Envoy> {
        self.place.make()?;
        let config = self.place.config();
        fs::write(&config, self.config())?;
        let log = self.place.log();
        let is_long = log.metadata().is_ok_and(|log| log.len() > LOG_MAX);
        let log = if is_long {
            File::create(log)?
        } else {
            OpenOptions::new().create(true).append(true).open(log)?
        };
        let mut command = Command::new(&self.program);
        command.args(Bootstrap::arguments(&config)).args(["--concurrency", WORKERS]);
        // In a group of its own: Ctrl-C at a terminal is for the agent, which ends it when it takes everything down.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn()?;
        let pid = child.id();
        let started = start_time(pid).unwrap_or_default();
        let mut envoy = Envoy::of(Record { pid, started, program: self.program.clone() })?;
        envoy.child = Some(child);
        fs::write(self.place.record(), serde_json::to_vec(&envoy.record)?)?;
        Ok(envoy)
    }
}

/// A process beyond doubt: ids are used again, but not with the same time of start.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    pid: u32,
    /// In ticks since the system's start.
    started: u64,
    program: PathBuf,
}

/// A running Envoy. Dropping it leaves it running.
#[derive(Debug)]
pub(super) struct Envoy {
    record: Record,
    ended: AsyncFd<Owning<OwnedFd>>,
    /// Of which this process is the parent.
    child: Option<Child>,
}

impl Envoy {
    fn of(record: Record) -> io::Result<Self> {
        let descriptor = sys::pidfd_open(record.pid)?;
        Ok(Self { record, ended: poll::register(descriptor, Interest::READABLE)?, child: None })
    }

    /// The process that an earlier agent started, if it still runs.
    pub(super) fn find(place: &Place) -> Option<Self> {
        let record: Record = serde_json::from_slice(&fs::read(place.record()).ok()?).ok()?;
        let started = record.started;
        let envoy = Self::of(record).ok()?;
        // The descriptor holds the id: from here on it is of one process.
        (start_time(envoy.record.pid) == Some(started)).then_some(envoy)
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.record.pid
    }

    /// Returns when it has ended, and says how, as far as that is known.
    pub(super) async fn ended(&mut self) -> String {
        if let Err(error) = self.ended.readable().await {
            tracing::warn!(%error, "cannot wait for the waypoint");
        }
        let status = self.child.as_mut().and_then(|child| child.wait().ok());
        status.map_or_else(|| "it ended".to_owned(), |status| format!("it ended: {status}"))
    }

    /// Ends it.
    ///
    /// # Errors
    /// The system does not let it.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            match sys::pidfd_send_signal(&self.ended.get_ref().0, signal) {
                Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Ok(()),
                sent => sent?,
            }
            if timeout(GRACE, self.ended()).await.is_ok() {
                return Ok(());
            }
        }
        Err(io::Error::other(format!("process {} does not end", self.record.pid)))
    }
}

/// When a process was started; none when it is not there, or has ended.
fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may have anything in it, but for the last bracket.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(started)
}
