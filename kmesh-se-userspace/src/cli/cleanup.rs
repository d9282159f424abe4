//! `kmesh-se cleanup`: leaves nothing behind.
//!
//! In: the places that an agent uses. Out: what was removed. Never: a thing of a running agent.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use anyhow::Context;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::{AdminArgs, Answer, Output, Text, block_on};
use crate::{agent, enrol, loader, routes, state};

/// How often an agent that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Remove what an agent that was killed left behind.
///
/// An agent that was stopped by SIGTERM, or killed, leaves its programs and maps in place, for the next one to go on with.
/// This removes them, and its cgroup, the cgroups of its commands, its admin socket and its state, and the routes of this
/// network namespace that have its protocol number. A cgroup in which processes still live is kept and named.
///
/// Exit status: 0 nothing is left, 1 something is left (it is named), 2 an agent is still running, or an error.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,

    /// The cgroup that the agent was attached to. Default: `kmesh-se` below the cgroup2 mount, and the
    /// cgroup of all pods.
    #[arg(long, env = "KMESH_SE_ATTACH", value_name = "CGROUP")]
    pub attach: Option<PathBuf>,

    /// The directory where its programs and maps are pinned.
    #[arg(long, env = "KMESH_SE_PIN", value_name = "DIR", default_value = loader::DEFAULT_PIN)]
    pub pin: PathBuf,

    /// The agent's state directory; hosts get new virtual addresses after it is gone.
    #[arg(long, env = "KMESH_SE_STATE", value_name = "DIR", default_value = "/var/lib/kmesh-se")]
    pub state: PathBuf,

    /// When an agent is running, wait until it has ended instead of refusing.
    #[arg(long, env = "KMESH_SE_WAIT")]
    pub wait: bool,

    /// When nothing is left, stay until a signal instead of ending: for a supervisor that would start it again, as Kubernetes
    /// does in a DaemonSet.
    #[arg(long, env = "KMESH_SE_STAY")]
    pub stay: bool,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    removed: Vec<String>,
    left: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When an agent is running, or something cannot be removed.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    let socket = args.admin.path();
    let is_running = || UnixStream::connect(socket).is_ok();
    if args.wait && is_running() {
        tracing::info!(socket = %socket.display(), "waiting for the agent that answers there to end");
        block_on(async {
            let mut stop = pin!(stop_signal());
            while is_running() {
                tokio::select! {
                    stopped = &mut stop => return stopped,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            Ok(())
        })?;
    }
    anyhow::ensure!(
        !is_running(),
        "an agent is running and answers on {}: stop it first, it cleans up by itself",
        socket.display()
    );
    let mut report = Report::default();
    let waypoint = agent::WaypointPlace::beside(socket);
    let cleared = block_on(waypoint.clear());
    if cleared.with_context(|| format!("cannot remove the waypoint of {}", waypoint.path().display()))? {
        report.removed.push(format!("waypoint {}", waypoint.path().display()));
    }
    if loader::remove_pins(&args.pin).with_context(|| format!("cannot remove {}", args.pin.display()))? {
        report.removed.push(args.pin.display().to_string());
    }
    remove_routes(&mut report)?;
    for cgroup in args.attach.map_or_else(default_places, |path| vec![path]) {
        remove_cgroups(&cgroup, &mut report)?;
    }
    remove_file(socket, &mut report)?;
    remove_file(&agent::handover_socket(socket), &mut report)?;
    for file in state::StateDir::files(&args.state) {
        remove_file(&file, &mut report)?;
    }
    for directory in [Some(args.state.as_path()), socket.parent()].into_iter().flatten() {
        // Ours only if nothing else is in it.
        if directory.ends_with("kmesh-se") && fs::remove_dir(directory).is_ok() {
            report.removed.push(directory.display().to_string());
        }
    }
    output.print(&report, text)?;
    if !report.left.is_empty() {
        return Ok(Answer::No);
    }
    if args.stay {
        block_on(stop_signal())?;
    }
    Ok(Answer::Yes)
}

async fn stop_signal() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Where an agent without `--attach` is attached, with pods and without.
fn default_places() -> Vec<PathBuf> {
    let Some(mount) = enrol::cgroup2_mount() else { return Vec::new() };
    let mut places = enrol::first_directories(&mount);
    places.push(mount.join("kmesh-se"));
    places
}

fn remove_routes(report: &mut Report) -> anyhow::Result<()> {
    let (ours, errors) = block_on(async {
        anyhow::Ok(match routes::ours().await {
            Ok(ours) if ours.is_empty() => (ours, Vec::new()),
            Ok(ours) => (ours, routes::set(&[]).await),
            Err(error) => (Vec::new(), vec![error]),
        })
    })?;
    let gone = ours.into_iter().filter(|range| !errors.iter().any(|error| error.range() == Some(*range)));
    report.removed.extend(gone.map(|range| format!("route unreachable {range}")));
    report.left.extend(errors.iter().map(ToString::to_string));
    Ok(())
}

fn remove_cgroups(attach: &Path, report: &mut Report) -> anyhow::Result<()> {
    let mut cgroups: Vec<PathBuf> = match fs::read_dir(attach) {
        Ok(children) => {
            children.filter_map(Result::ok).filter(enrol::is_for_command).map(|c| c.path()).collect()
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", attach.display())),
    };
    if attach.ends_with("kmesh-se") {
        cgroups.push(attach.to_owned());
    }
    for cgroup in cgroups {
        match fs::remove_dir(&cgroup) {
            Ok(()) => report.removed.push(cgroup.display().to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => report.left.push(format!("{}: {error}", cgroup.display())),
        }
    }
    Ok(())
}

fn remove_file(path: &Path, report: &mut Report) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => report.removed.push(path.display().to_string()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
    Ok(())
}

fn text(report: &Report, out: &mut Text<'_>) -> io::Result<()> {
    for removed in &report.removed {
        writeln!(out, "removed {removed}")?;
    }
    for left in &report.left {
        writeln!(out, "left {left}")?;
    }
    if report.removed.is_empty() && report.left.is_empty() {
        writeln!(out, "There was nothing to remove.")?;
    }
    Ok(())
}
