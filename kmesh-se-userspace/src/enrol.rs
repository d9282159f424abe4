//! The cgroups whose processes are handled.
//!
//! In: paths. Out: ids and depths for the sink; cgroups for commands, removed when they are empty; the cgroups of pods.
//! Never: a map.

mod kubepods;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

pub use self::watch::{Change, PodCgroups, first_directories};
use crate::model::{Namespace, is_namespace};

/// A cgroup by its path in the cgroup2 file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its directory.
    pub path: PathBuf,
    /// Its id: the inode number of the directory.
    pub id: u64,
    /// Its depth: the root is 0.
    pub level: u8,
}

/// A cgroup that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no cgroup2 file system.
    #[error("no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup, or boot with cgroup2")]
    NotMounted,
    /// Only a part of the hierarchy is there to be seen.
    #[error(
        "the cgroup2 mount {} shows only a part of the hierarchy, as in a private cgroup namespace: start the agent in the \
         host's, or mount the host's cgroup2 file system for it (a hostPath of /sys/fs/cgroup)",
        mount.display()
    )]
    PrivateNamespace {
        /// Where that part is mounted.
        mount: PathBuf,
    },
    /// The path is outside the cgroup2 file system.
    #[error("{} is not below the cgroup2 mount {}", path.display(), mount.display())]
    Outside {
        /// The path given.
        path: PathBuf,
        /// Where cgroup2 is mounted.
        mount: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {action} the cgroup {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// The id of the root of the whole hierarchy. That of a cgroup namespace has another.
const ROOT_ID: u64 = 1;

/// Where the whole cgroup2 hierarchy is mounted: `/sys/fs/cgroup`, or below it on a hybrid host. A mount of a part of it, as
/// in a private cgroup namespace, would give wrong depths.
#[must_use]
pub fn cgroup2_mount() -> Option<PathBuf> {
    cgroup2_mounts().into_iter().find(|mount| fs::metadata(mount).is_ok_and(|m| m.ino() == ROOT_ID))
}

/// The same, or why there is none.
///
/// # Errors
/// [`CgroupError`].
pub fn hierarchy() -> Result<PathBuf, CgroupError> {
    cgroup2_mount().ok_or_else(|| match cgroup2_mounts().into_iter().next() {
        Some(mount) => CgroupError::PrivateNamespace { mount },
        None => CgroupError::NotMounted,
    })
}

/// Every mount of cgroup2, from `/proc/self/mountinfo`.
fn cgroup2_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let of_line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(PathBuf::from)).flatten()
    };
    mounts.lines().filter_map(of_line).collect()
}

impl Cgroup {
    /// The cgroup at `path`.
    ///
    /// # Errors
    /// [`CgroupError`]; the path must exist below the cgroup2 mount.
    pub fn open(path: &Path) -> Result<Self, CgroupError> {
        let io = |error| CgroupError::Io { action: "open", path: path.to_owned(), error };
        let mount = hierarchy()?;
        let path = fs::canonicalize(path).map_err(io)?;
        let below = path
            .strip_prefix(&mount)
            .map_err(|_| CgroupError::Outside { path: path.clone(), mount: mount.clone() })?;
        let level = u8::try_from(below.components().count()).unwrap_or(u8::MAX - 1);
        let id = fs::metadata(&path).map_err(io)?.ino();
        Ok(Self { id, level, path })
    }

    /// The cgroup at `path`, made if it is not there; says whether it was made.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn open_or_create(path: &Path) -> Result<(Self, bool), CgroupError> {
        let created = match fs::create_dir(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(CgroupError::Io { action: "create", path: path.to_owned(), error }),
        };
        Ok((Self::open(path)?, created))
    }

    /// The cgroup of this process.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn own() -> Result<Self, CgroupError> {
        Self::of_process(std::process::id())
    }

    /// The cgroup of a process, by its id as this process sees it.
    ///
    /// # Errors
    /// There is no such process, or [`CgroupError`].
    pub fn of_process(pid: u32) -> Result<Self, CgroupError> {
        let mount = hierarchy()?;
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = fs::read_to_string(&path).map_err(|error| CgroupError::Io {
            action: "read",
            path: path.clone(),
            error,
        })?;
        let below = text.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
        Self::open(&mount.join(below.trim_start_matches('/')))
    }

    /// This cgroup and all below it, by id.
    #[must_use]
    pub fn tree(&self) -> BTreeMap<u64, Self> {
        let mut found = BTreeMap::new();
        let mut waiting = vec![self.clone()];
        while let Some(cgroup) = waiting.pop() {
            for child in fs::read_dir(&cgroup.path).into_iter().flatten().filter_map(Result::ok) {
                // Directories are cgroups; one that goes away meanwhile is not looked for.
                if let Ok(metadata) = child.metadata()
                    && metadata.is_dir()
                {
                    waiting.push(Self { path: child.path(), id: metadata.ino(), level: cgroup.level + 1 });
                }
            }
            found.insert(cgroup.id, cgroup);
        }
        found
    }

    /// The namespace of the command that this cgroup was made for; see [`create_for_command`].
    #[must_use]
    pub fn command_namespace(&self) -> Option<Namespace> {
        let name = self.path.file_name()?.to_str()?.strip_prefix(COMMAND_PREFIX)?;
        let (namespace, _) = name.rsplit_once('-')?.0.rsplit_once('-')?;
        is_namespace(namespace).then(|| Namespace::new(namespace))
    }

    /// The cgroup itself and those above it, the deepest first; without what is gone meanwhile.
    pub fn with_ancestors(&self) -> impl Iterator<Item = Self> {
        let levels = (0..=self.level).rev();
        levels.zip(self.path.ancestors()).filter_map(|(level, path)| {
            Some(Self { path: path.to_owned(), id: fs::metadata(path).ok()?.ino(), level })
        })
    }

    /// Whether a process lives here or below.
    #[must_use]
    pub fn is_populated(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events"))
            .is_ok_and(|e| e.lines().any(|l| l == "populated 1"))
    }

    /// Removes the cgroup; one that is gone is no error.
    ///
    /// # Errors
    /// It still has processes or children.
    pub fn remove(&self) -> Result<(), CgroupError> {
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CgroupError::Io { action: "remove", path: self.path.clone(), error })
            }
            _ => Ok(()),
        }
    }
}

/// The paths of cgroups by their ids, by a walk of the whole tree; those that are gone have none.
#[must_use]
pub fn paths_of(ids: &BTreeSet<u64>) -> BTreeMap<u64, PathBuf> {
    let mut found = BTreeMap::new();
    let mut waiting: Vec<PathBuf> = cgroup2_mount().into_iter().collect();
    while let Some(path) = waiting.pop() {
        if found.len() == ids.len() {
            break;
        }
        if let Some(id) = fs::metadata(&path).map(|m| m.ino()).ok().filter(|id| ids.contains(id)) {
            found.insert(id, path.clone());
        }
        let children = fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok);
        waiting.extend(children.filter(|c| c.file_type().is_ok_and(|t| t.is_dir())).map(|c| c.path()));
    }
    found
}

/// Prefix of the names of the cgroups that [`create_for_command`] makes.
const COMMAND_PREFIX: &str = "kmse-exec-";

/// A new cgroup below `parent` for one command of `namespace`, which its name tells to whatever agent comes after.
///
/// # Errors
/// [`CgroupError`].
pub fn create_for_command(parent: &Path, namespace: &Namespace) -> Result<Cgroup, CgroupError> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = parent.join(format!("{COMMAND_PREFIX}{namespace}-{}-{number}", std::process::id()));
    Cgroup::open_or_create(&path).map(|(cgroup, _)| cgroup)
}

/// Whether a directory entry is such a cgroup.
#[must_use]
pub fn is_for_command(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(COMMAND_PREFIX)
}

/// Removes the empty cgroups that commands left below `parent`; returns how many.
pub fn remove_command_cgroups(parent: &Path) -> usize {
    let Ok(children) = fs::read_dir(parent) else { return 0 };
    children
        .filter_map(Result::ok)
        .filter(is_for_command)
        .filter(|c| fs::remove_dir(c.path()).is_ok())
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_commands_cgroup_tells_its_namespace() {
        for (name, namespace) in [
            ("kmse-exec-default-12-1", Some("default")),
            ("kmse-exec-my-shop-12-34", Some("my-shop")),
            ("kmse-exec-1-2-3", Some("1")),
            ("kmse-exec-12-1", None),
            ("kmse-exec-A-12-1", None),
            ("pods", None),
        ] {
            let cgroup = Cgroup { path: Path::new("/sys/fs/cgroup/kmesh-se").join(name), id: 1, level: 2 };
            let found = cgroup.command_namespace();
            assert_eq!(found.as_ref().map(Namespace::as_str), namespace, "{name}");
        }
    }
}
