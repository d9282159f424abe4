//! Where programs and maps outlive the agent: a directory of a BPF file system.
//!
//! In: a directory. Out: places for maps by layout and size, for per-socket maps, for links. Never: an element of a map.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use kmesh_se_common::limits::{
    LAYOUT_VERSION, MAP_CLAIM, MAP_CONNECTION, MAP_SK, MAP_UDP, SOCKET_LAYOUT_VERSION,
};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::LoadError;
use crate::sink::Capacities;

/// Where BPF file systems are mounted by custom.
const BPFFS: &str = "/sys/fs/bpf";

/// The pin directory of one agent: `maps-…/NAME`, `sockets-…/NAME` and `links/PROGRAM`.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    maps: PathBuf,
    sockets: PathBuf,
    links: PathBuf,
}

/// A directory beside the maps that programs work on.
const IN_USE: &str = "in-use";

impl Pins {
    /// Opens the directory, made if it is not there. Maps of another layout or size have another place, so that new ones can
    /// be filled beside them.
    ///
    /// # Errors
    /// The directory is not of a BPF file system and none can be mounted, or it cannot be written.
    pub fn open(root: &Path, capacities: &Capacities) -> Result<Self, LoadError> {
        let pin_error = |error| LoadError::Pin { path: root.to_owned(), error };
        if root.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS)) {
            let none: Option<&str> = None;
            mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none)
                .map_err(|e| pin_error(e.into()))?;
            tracing::info!(path = BPFFS, "mounted a BPF file system");
        }
        fs::create_dir_all(root).map_err(pin_error)?;
        if !is_bpffs(root) {
            return Err(LoadError::NotBpffs { path: root.to_owned() });
        }
        let pins = Self {
            root: root.to_owned(),
            maps: root.join(format!("maps-{LAYOUT_VERSION}-{}", size_tag(capacities))),
            sockets: root.join(format!("sockets-{SOCKET_LAYOUT_VERSION}-{:x}", capacities.connections)),
            links: root.join("links"),
        };
        for directory in [&pins.maps, &pins.sockets, &pins.links] {
            fs::create_dir_all(directory).map_err(pin_error)?;
        }
        Ok(pins)
    }

    /// Whether programs have worked on maps of this layout and size. Those of an agent that was killed before it came to that
    /// need not hold everything.
    #[must_use]
    pub fn are_in_use(&self) -> bool {
        self.maps.join(IN_USE).exists()
    }

    /// Notes that all programs work on these maps.
    pub fn set_in_use(&self) {
        if let Err(error) = fs::create_dir_all(self.maps.join(IN_USE)) {
            tracing::warn!(%error, "the next agent will fill the maps anew before it uses them");
        }
    }

    /// Where a map is pinned. Maps that hold state of sockets have a layout version of their own.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        let of_sockets = [MAP_CONNECTION, MAP_CLAIM, MAP_SK, MAP_UDP].contains(&name);
        let directory = if of_sockets { &self.sockets } else { &self.maps };
        directory.join(name)
    }

    /// Where the link of a program is pinned.
    #[must_use]
    pub fn link(&self, program: &str) -> PathBuf {
        self.links.join(program)
    }

    /// Removes the maps of other layouts and sizes, and the links of programs that this build does not have, once nothing
    /// uses them.
    pub fn remove_outdated(&self, programs: &[&str]) {
        let known = |path: &PathBuf| [&self.maps, &self.sockets, &self.links].contains(&path);
        for directory in children(&self.root).filter(|path| !known(path)) {
            let is_of_sockets =
                directory.file_name().is_some_and(|n| n.to_string_lossy().starts_with("sockets-"));
            if is_of_sockets {
                let consequence = "connections of before go on, but show their backends' addresses as peers";
                tracing::warn!(path = %directory.display(), consequence, "removing the state of sockets of another layout or size");
            } else {
                tracing::info!(path = %directory.display(), "removing maps of another layout or size");
            }
            remove(&directory);
        }
        for link in children(&self.links) {
            if link.file_name().is_none_or(|name| !programs.iter().any(|p| name == *p)) {
                remove(&link);
            }
        }
    }

    /// Whether an agent left its programs attached here.
    #[must_use]
    pub fn has_links(root: &Path) -> bool {
        children(&root.join("links")).next().is_some()
    }

    /// Removes everything below `root`: programs that rewrite go first, those that restore addresses after them, so that no
    /// socket sees a backend's address; maps last. Says whether there was something.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove_all(root: &Path, programs: &[&str]) -> io::Result<bool> {
        if !root.exists() {
            return Ok(false);
        }
        if !is_bpffs(root) {
            return Ok(false);
        }
        for program in programs.iter().rev() {
            remove(&root.join("links").join(program));
        }
        fs::remove_dir_all(root)?;
        Ok(true)
    }
}

/// A short word that is different for maps of different sizes.
fn size_tag(capacities: &Capacities) -> String {
    let Capacities { workloads, frontends, addresses, cidrs, services, slots, backends, connections: _ } =
        capacities;
    [workloads, frontends, addresses, cidrs, services, slots, backends].map(|n| format!("{n:x}")).join("-")
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC)
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a pin stays");
    }
}
