//! Loads the BPF programs and attaches them to a cgroup.
//!
//! In: the embedded object, a cgroup, a pin directory. Out: maps and links, pinned, taken over from an earlier agent where
//! they are there. Never: an element of a map.

mod features;
mod pins;
mod rivals;

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::Map,
    programs::{CgroupAttachMode, Program, ProgramError, links::FdLink},
};
use kmesh_se_common::limits as l;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

pub use self::{
    features::{Feature, missing_features},
    pins::Pins,
    rivals::{others_at, rivals},
};
use crate::{enrol::Cgroup, sink::Capacities, sys};

/// The programs, with BTF, built by `build.rs`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("KMESH_SE_BPF_OBJECT"));

/// Where programs and maps are pinned unless `--pin` says otherwise.
pub const DEFAULT_PIN: &str = "/sys/fs/bpf/kmesh-se";

/// The programs in the order of attaching: those that clean up and restore addresses before those that rewrite them, so
/// that no reply is seen under a backend's address.
const PROGRAMS: [&str; 9] = [
    "kmse_release",
    "kmse_peer4",
    "kmse_peer6",
    "kmse_recvmsg4",
    "kmse_recvmsg6",
    "kmse_sendmsg4",
    "kmse_sendmsg6",
    "kmse_connect4",
    "kmse_connect6",
];

/// Why the programs are not in place. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The process may not load BPF programs.
    #[error("missing {}: run as root, or grant the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON", missing.join(" and "))]
    Capability {
        /// The capabilities that are not there.
        missing: Vec<&'static str>,
    },
    /// The path is not of a cgroup2 file system.
    #[error("{} is not a cgroup2 directory: give --attach a directory below {}", path.display(), mount_hint())]
    NotCgroup2 {
        /// The path given.
        path: PathBuf,
    },
    /// The cgroup cannot be opened.
    #[error("cannot open the cgroup {}: {error}; create it, or give --attach another one", path.display())]
    Cgroup {
        /// The path given.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },
    /// There is no BPF file system at the pin directory.
    #[error("{} is not of a BPF file system: mount one (mount -t bpf bpf /sys/fs/bpf), or give --pin a directory below it", path.display())]
    NotBpffs {
        /// The pin directory.
        path: PathBuf,
    },
    /// The pin directory cannot be used.
    #[error("cannot use the pin directory {}: {error}; mount a BPF file system (mount -t bpf bpf /sys/fs/bpf), or give --pin another directory", path.display())]
    Pin {
        /// The pin directory.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The kernel has no BPF, or it is switched off.
    #[error(
        "this kernel has no bpf(2) system call, or it is blocked: use Linux 5.10 or newer with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF, and a seccomp profile that allows it"
    )]
    NoBpf,
    /// The object does not load.
    #[error("the kernel does not accept the BPF maps and programs (Linux {kernel}): {error}")]
    Object {
        /// The running kernel.
        kernel: String,
        /// What aya says, with the verifier's log.
        error: String,
    },
    /// A program does not load or attach.
    #[error("cannot {action} the program {program} (Linux {kernel}): {error}")]
    Program {
        /// Its name.
        program: &'static str,
        /// `load` or `attach`.
        action: &'static str,
        /// The running kernel.
        kernel: String,
        /// What aya says, with the verifier's log.
        error: String,
    },
}

fn mount_hint() -> String {
    crate::enrol::cgroup2_mount().map_or_else(
        || "a cgroup2 mount, which this host does not have: mount -t cgroup2 none /sys/fs/cgroup".to_owned(),
        |mount| mount.display().to_string(),
    )
}

/// The programs, attached and pinned: they stay when this is dropped.
#[derive(Debug)]
pub struct Loaded {
    /// What was attached, for people.
    pub programs: Vec<AttachedProgram>,
    /// The cgroup.
    pub cgroup: PathBuf,
}

/// One attached program.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachedProgram {
    /// Its name, as `bpftool` shows it.
    pub name: &'static str,
    /// Its id in the kernel.
    pub id: u32,
}

/// The maps of a loaded object, for the sink to take over.
#[derive(Debug)]
pub struct LoadedMaps {
    maps: std::collections::HashMap<String, Map>,
}

impl LoadedMaps {
    /// Looks at a map.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<&Map> {
        self.maps.get(name)
    }

    /// Takes a map out.
    pub fn take_map(&mut self, name: &str) -> Option<Map> {
        self.maps.remove(name)
    }
}

/// Checks what the kernel would otherwise refuse with a bare errno: capabilities, `bpf(2)`, and that the cgroup or the
/// directory in which it is to be made is of cgroup2.
///
/// # Errors
/// [`LoadError`], naming what is missing.
pub fn check_place(cgroup: &Path) -> Result<(), LoadError> {
    check_capabilities()?;
    check_bpf()?;
    check_cgroup2(cgroup)
}

/// Loads the object over the pinned maps, which are made if they are not there. No program is attached or replaced yet, so
/// that the maps can be filled first.
///
/// # Errors
/// [`LoadError`], each naming what is missing.
pub fn load(pins: Pins, capacities: &Capacities) -> Result<(Unattached, LoadedMaps), LoadError> {
    let has = |feature: Feature| u8::from(!missing_features().contains(&feature));
    let (set_retval, mptcp) = (has(features::SET_RETVAL), has(features::MPTCP));
    let mut loader = EbpfLoader::new();
    for name in l::MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut ebpf = loader
        .override_global("KMSE_SET_RETVAL", &set_retval, true)
        .override_global("KMSE_MPTCP", &mptcp, true)
        .override_global("KMSE_CONN_MASK", &(capacities.connections - 1), true)
        .map_max_entries(l::MAP_ENROL, capacities.workloads)
        .map_max_entries(l::MAP_FRONTEND, capacities.frontends)
        .map_max_entries(l::MAP_ADDRESS, capacities.addresses)
        .map_max_entries(l::MAP_CIDR, capacities.cidrs)
        .map_max_entries(l::MAP_SERVICE, capacities.services)
        .map_max_entries(l::MAP_SERVICE_COUNT, capacities.services)
        .map_max_entries(l::MAP_SLOT, capacities.slots)
        .map_max_entries(l::MAP_BACKEND, capacities.backends)
        .map_max_entries(l::MAP_CONNECTION, capacities.connections)
        .map_max_entries(l::MAP_CLAIM, capacities.connections)
        .load(OBJECT)
        .map_err(|e| LoadError::Object { kernel: kernel(), error: chain(&e) })?;
    for name in PROGRAMS {
        let load = |program: &mut Program| match program {
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        let done = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded).and_then(load);
        done.map_err(|e| program_error(name, "load", &e))?;
    }
    let names: Vec<String> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
    let maps = names.into_iter().filter_map(|name| Some((name.clone(), ebpf.take_map(&name)?))).collect();
    Ok((Unattached { ebpf, pins }, LoadedMaps { maps }))
}

/// Programs that are loaded and verified, but see no traffic yet.
#[derive(Debug)]
pub struct Unattached {
    ebpf: Ebpf,
    pins: Pins,
}

impl Unattached {
    /// Puts the programs in place: behind the pinned links of an earlier agent in one step each, else by new links. From
    /// here on connections are rewritten by these programs.
    ///
    /// # Errors
    /// The kernel refuses a program at this cgroup; those attached before it stay.
    pub fn attach(mut self, cgroup: &Cgroup) -> Result<Loaded, LoadError> {
        let directory = fs::File::open(&cgroup.path)
            .map_err(|error| LoadError::Cgroup { path: cgroup.path.clone(), error })?;
        let mut programs = Vec::new();
        for name in PROGRAMS {
            let link = self.pins.link(name);
            let program = self.ebpf.program_mut(name).ok_or(ProgramError::NotLoaded);
            let program = program.map_err(|e| program_error(name, "attach", &e))?;
            let id = program.info().map_err(|e| program_error(name, "attach", &e))?.id();
            let is_replaced = program.fd().is_ok_and(|fd| replace(&link, cgroup, fd.as_fd()));
            if !is_replaced {
                attach_new(program, directory.as_fd(), &link)
                    .map_err(|e| program_error(name, "attach", &e))?;
            }
            programs.push(AttachedProgram { name, id });
        }
        self.pins.set_in_use();
        self.pins.remove_outdated(&PROGRAMS);
        Ok(Loaded { programs, cgroup: cgroup.path.clone() })
    }
}

/// Puts `program` behind the link that is pinned at `path`, if that is there and at this cgroup.
fn replace(path: &Path, cgroup: &Cgroup, program: BorrowedFd<'_>) -> bool {
    let Ok(link) = sys::open_pin(path) else { return false };
    sys::link_info(&link).is_ok_and(|info| info.cgroup == cgroup.id)
        && sys::update_link(&link, program).is_ok()
}

/// Attaches `program` by a new link, pinned at `path` in place of one that leads elsewhere.
fn attach_new(program: &mut Program, cgroup: BorrowedFd<'_>, path: &Path) -> Result<(), ProgramError> {
    // The kernel takes no other mode for links; several programs can be attached all the same.
    let mode = CgroupAttachMode::Single;
    let link: Result<FdLink, _> = match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()
        }
        Program::CgroupSock(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    };
    let link = link.map_err(|_| ProgramError::NotAttached)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ProgramError::IOError(error)),
        _ => {}
    }
    link.pin(path).map(drop).map_err(|e| ProgramError::IOError(io::Error::other(e)))
}

/// Removes the programs and maps that are pinned below `root`; see [`Pins::remove_all`].
///
/// # Errors
/// Something cannot be removed.
pub fn remove_pins(root: &Path) -> io::Result<bool> {
    Pins::remove_all(root, &PROGRAMS)
}

fn program_error(program: &'static str, action: &'static str, error: &ProgramError) -> LoadError {
    LoadError::Program { program, action, kernel: kernel(), error: chain(error) }
}

fn kernel() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |u| u.release().to_string_lossy().into_owned())
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Asks before the kernel would answer with a bare `EPERM`.
fn check_capabilities() -> Result<(), LoadError> {
    let effective = effective_capabilities().unwrap_or(u64::MAX);
    let has = |capability: u32| effective & (1 << capability) != 0;
    let missing: Vec<_> =
        [(CAP_BPF, "CAP_BPF"), (CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_PERFMON, "CAP_PERFMON")]
            .into_iter()
            .filter(|(capability, _)| !has(*capability) && !has(CAP_SYS_ADMIN))
            .map(|(_, name)| name)
            .collect();
    if missing.is_empty() { Ok(()) } else { Err(LoadError::Capability { missing }) }
}

fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn check_cgroup2(path: &Path) -> Result<(), LoadError> {
    let existing = if path.exists() { path } else { path.parent().unwrap_or(path) };
    let kind = statfs(existing)
        .map_err(|e| LoadError::Cgroup { path: path.to_owned(), error: e.into() })?
        .filesystem_type();
    if kind == CGROUP2_SUPER_MAGIC && existing.is_dir() {
        Ok(())
    } else {
        Err(LoadError::NotCgroup2 { path: path.to_owned() })
    }
}

fn check_bpf() -> Result<(), LoadError> {
    // SAFETY: a command that does not exist and no attributes: the kernel answers EINVAL, or that there is no such call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, -1 as libc::c_long, std::ptr::null::<u8>(), 0) };
    // The capabilities are there, so EPERM is a seccomp profile's.
    let blocked =
        [Some(libc::ENOSYS), Some(libc::EPERM)].contains(&io::Error::last_os_error().raw_os_error());
    if result < 0 && blocked { Err(LoadError::NoBpf) } else { Ok(()) }
}
