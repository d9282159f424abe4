//! A run: the owner of everything that the harness makes, which removes all of it.
//!
//! In: nothing. Out: an id that all names of a run carry. Never: touches what a live run owns, or what
//! does not carry an id.
//!
//! A run holds a lock on `/run/kmse-<id>.lock`. The kernel gives it back when the process dies in whatever
//! way, so whoever can take the lock may remove what carries the id. What carries an id without a lock is another machine's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{cgroup, poll};

/// Every name starts with it.
pub(crate) const PREFIX: &str = "kmse-";
/// The variable that a run's processes and their children carry.
const RUN_VARIABLE: &str = "KMSE_RUN";
const LOCKS: &str = "/run";
const NAMESPACES: &str = "/run/netns";
const NAMESPACE_FILES: &str = "/etc/netns";
/// Where the agents of runs pin their programs and maps.
const PINS: &str = "/sys/fs/bpf";

/// Runs of this process, for the signal handler.
static LIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static EXPECTED: AtomicBool = AtomicBool::new(false);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Says early that root is needed.
///
/// # Errors
/// When this is not root.
pub fn need_root() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces, cgroups and BPF programs need root: run it as root");
    }
    Ok(())
}

/// The owner of what it names; dropping it removes all of that.
#[derive(Debug)]
pub struct Run {
    id: String,
    /// Held as long as the run lives.
    _lock: File,
}

impl Run {
    /// Begins a run: removes what dead runs left, and takes an id.
    ///
    /// # Errors
    /// When this is not root, or the lock cannot be made.
    pub fn begin() -> anyhow::Result<Run> {
        need_root()?;
        clean_on_signals();
        sweep();
        loop {
            let id = format!("{:08x}", std::hash::RandomState::new().build_hasher().finish() as u32);
            // While a signal is handled, nothing begins any more.
            let mut live = live();
            if let Some(lock) = take_lock(&id)? {
                live.insert(id.clone());
                return Ok(Run { id, _lock: lock });
            }
        }
    }

    /// Eight hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `kmse-<id>-<role>`.
    pub fn name(&self, role: &str) -> String {
        format!("{PREFIX}{}-{role}", self.id)
    }

    /// A folder for this run's files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self) -> anyhow::Result<PathBuf> {
        let path = folder(&self.id);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// A folder of the BPF file system for this run's pins; the agent makes it.
    pub fn pins(&self) -> PathBuf {
        Path::new(PINS).join(format!("{PREFIX}{}", self.id))
    }

    /// Marks a process as this run's, and so its children.
    pub fn own<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env(RUN_VARIABLE, &self.id)
    }

    /// Removes everything and answers what is still there, which is nothing if all is well.
    pub fn end(self) -> Vec<String> {
        let id = self.id.clone();
        drop(self);
        leftovers(&id)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        remove(&self.id);
        live().remove(&self.id);
        // Removed while still locked, see `take_lock`.
        let _ = fs::remove_file(lock_path(&self.id));
    }
}

fn live() -> std::sync::MutexGuard<'static, BTreeSet<String>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn folder(id: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{id}"))
}

fn lock_path(id: &str) -> PathBuf {
    Path::new(LOCKS).join(format!("{PREFIX}{id}.lock"))
}

/// `None` if another process has the lock.
fn take_lock(id: &str) -> anyhow::Result<Option<File>> {
    let path = lock_path(id);
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("cannot make {}", path.display()))?;
    if file.try_lock().is_err() {
        return Ok(None);
    }
    // Its last owner may have removed it between opening and locking; then the lock protects nothing.
    let same = fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino()));
    Ok(same.then_some(file))
}

/// Removes what runs left that were killed. Who has a lock in `/run` was a run of this machine, or container: cgroups, pins and
/// processes may be seen that are of another one's, whose locks are in a `/run` of its own.
pub fn sweep() {
    let locks = names_in(Path::new(LOCKS));
    for id in locks.iter().filter(|name| name.ends_with(".lock")).filter_map(|name| id_of(name)) {
        if let Ok(Some(lock)) = take_lock(&id) {
            remove(&id);
            let _ = fs::remove_file(lock_path(&id));
            drop(lock);
        }
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The id in `kmse-<id>`, `kmse-<id>-role` and `kmse-<id>.lock`.
fn id_of(name: &str) -> Option<String> {
    let rest = name.strip_prefix(PREFIX)?;
    let (id, rest) = rest.split_at_checked(8)?;
    let ours = id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        && (rest.is_empty() || rest.starts_with(['-', '.']));
    ours.then(|| id.to_owned())
}

fn owned_names(folder: &str, id: &str) -> Vec<String> {
    names_in(Path::new(folder)).into_iter().filter(|name| id_of(name).as_deref() == Some(id)).collect()
}

fn owned_cgroups(id: &str) -> Vec<PathBuf> {
    cgroup::of_run(id).into_iter().filter(|path| path.is_dir()).collect()
}

/// Processes that carry the run's variable, or are in one of its network namespaces or cgroups, and have not ended: one that
/// nobody has waited for yet still has a cgroup.
fn processes(id: &str) -> Vec<Pid> {
    let identity = |path: PathBuf| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let namespaces: Vec<_> = owned_names(NAMESPACES, id)
        .into_iter()
        .filter_map(|name| identity(Path::new(NAMESPACES).join(name)))
        .collect();
    let variable = format!("{RUN_VARIABLE}={id}");
    let group = format!("/{PREFIX}{id}");
    let is_owned = |pid: &i32| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        if fs::read_to_string(process.join("stat")).is_ok_and(|stat| has_ended(&stat)) {
            return false;
        }
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
            || identity(process.join("ns/net")).is_some_and(|ours| namespaces.contains(&ours))
            || fs::read_to_string(process.join("cgroup"))
                .is_ok_and(|text| text.lines().any(|line| in_group(line, &group)))
    };
    let own = std::process::id().cast_signed();
    let pids = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok());
    pids.filter(|pid| *pid != own).filter(is_owned).map(Pid::from_raw).collect()
}

/// Of `/proc/PID/stat`: `7 (its name) Z 1 …`.
fn has_ended(stat: &str) -> bool {
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Of a line of `/proc/PID/cgroup`: `0::/path`, `4:memory:/path`.
fn in_group(line: &str, group: &str) -> bool {
    let path = line.splitn(3, ':').nth(2);
    path.and_then(|path| path.strip_prefix(group))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn end_processes(id: &str) {
    for (signal, limit) in [(Signal::SIGTERM, 5), (Signal::SIGKILL, 3)] {
        for pid in processes(id) {
            let _ = kill(pid, signal);
        }
        let gone = || processes(id).is_empty().then_some(());
        if poll::until("processes to end", Duration::from_secs(limit), gone).is_ok() {
            return;
        }
    }
}

/// Removes everything that carries the id, processes first.
fn remove(id: &str) {
    end_processes(id);
    for name in owned_names(NAMESPACES, id) {
        let _ = poll::output(Command::new("ip").args(["netns", "del", &name]));
    }
    for name in owned_names(NAMESPACE_FILES, id) {
        let _ = fs::remove_dir_all(Path::new(NAMESPACE_FILES).join(name));
    }
    // Only goes when it is empty.
    let _ = fs::remove_dir(NAMESPACE_FILES);
    for name in owned_names(PINS, id) {
        let _ = fs::remove_dir_all(Path::new(PINS).join(name));
    }
    owned_cgroups(id).iter().for_each(|group| cgroup::remove(group));
    let folder = folder(id);
    unmount_below(&folder);
    let _ = fs::remove_dir_all(folder);
}

fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<_> =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect();
    points.reverse();
    for point in points.iter().filter(|point| point.starts_with(folder)) {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// What carries the id and is still there, one line each. BPF objects carry no id: see
/// [`crate::bpf::Objects::alive`].
pub fn leftovers(id: &str) -> Vec<String> {
    let mut left = Vec::new();
    left.extend(owned_names(NAMESPACES, id).into_iter().map(|name| format!("network namespace {name}")));
    left.extend(owned_names(NAMESPACE_FILES, id).into_iter().map(|name| format!("{NAMESPACE_FILES}/{name}")));
    left.extend(owned_names(PINS, id).into_iter().map(|name| format!("pins {PINS}/{name}")));
    left.extend(owned_names(LOCKS, id).into_iter().map(|name| format!("{LOCKS}/{name}")));
    left.extend(owned_cgroups(id).into_iter().map(|path| format!("cgroup {}", path.display())));
    left.extend(folder(id).exists().then(|| format!("folder {}", folder(id).display())));
    left.extend(processes(id).into_iter().map(|pid| format!("process {pid}")));
    left
}

/// A signal is how this process is meant to end: the first one only makes [`interrupted`] true.
pub fn expect_signal() {
    EXPECTED.store(true, Ordering::SeqCst);
}

/// Whether the expected signal came.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// On SIGINT, SIGTERM and SIGHUP: removes what this process's runs made, and ends with 128 + the signal.
fn clean_on_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if EXPECTED.load(Ordering::SeqCst) && !INTERRUPTED.swap(true, Ordering::SeqCst) {
                    continue;
                }
                let runs = live();
                // Twice: other threads go on until the exit, and may make something in between.
                for id in runs.iter().chain(runs.iter()) {
                    remove(id);
                }
                runs.iter().for_each(|id| drop(fs::remove_file(lock_path(id))));
                // At once: what `exit` would still run is not ours, and other threads may be in the midst of it.
                signal_hook::low_level::exit(128 + signal);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_id_of_own_names_only() {
        assert_eq!(id_of("kmse-0123abcd-sleep").as_deref(), Some("0123abcd"));
        assert_eq!(id_of("kmse-0123abcd.lock").as_deref(), Some("0123abcd"));
        assert_eq!(id_of("kmse-0123abcd").as_deref(), Some("0123abcd"));
        for other in ["kmse-0123abcde", "kmse-0123ABCD", "kmse-short", "cni-0123abcd", "kmse-"] {
            assert_eq!(id_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_zombie_has_ended_whatever_its_name_is() {
        assert!(has_ended("7 (a) S (b) Z 1 7 7 0 -1"));
        assert!(!has_ended("7 (a) Z (b) S 1 7 7 0 -1"));
        assert!(!has_ended(""));
    }

    #[test]
    fn a_cgroup_with_a_longer_name_is_not_ours() {
        assert!(in_group("0::/kmse-0123abcd", "/kmse-0123abcd"));
        assert!(in_group("4:memory:/kmse-0123abcd/exec-1", "/kmse-0123abcd"));
        assert!(!in_group("0::/kmse-0123abcdef", "/kmse-0123abcd"));
    }
}
