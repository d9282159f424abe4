//! A stand-in for what turns a ClusterIP into a pod's address at a cgroup above ours.
//!
//! In: a cgroup, the ClusterIP and the pod. Out: programs that rewrite connects and datagrams, and show the ClusterIP where
//! the pod is the peer, until dropped. Never: a map, or anything of the project under test.

use std::fs::File;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::Context as _;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const CGROUP_SOCK_ADDR: u32 = 18;
/// Hooks whose address is dialled: connect4 and sendmsg4.
const DIALLED: [u32; 2] = [10, 14];
/// Hooks whose address is the peer's: recvmsg4 and getpeername4.
const PEER: [u32; 2] = [19, 29];

/// The attached programs.
#[derive(Debug)]
pub struct Translator {
    _links: Vec<OwnedFd>,
}

impl Translator {
    /// Attaches it.
    ///
    /// # Errors
    /// When the kernel refuses a program.
    pub fn attach(group: &Path, cluster: SocketAddrV4, pod: SocketAddrV4) -> anyhow::Result<Translator> {
        let group = File::open(group).with_context(|| format!("no cgroup {}", group.display()))?;
        let mut links = Vec::new();
        for (hooks, from, to) in [(DIALLED, cluster, pod), (PEER, pod, cluster)] {
            for hook in hooks {
                let program =
                    load(&rewrite(from, to), hook, *b"trans\0").context("cannot load the translator")?;
                links.push(link(&program, &group, hook)?);
            }
        }
        Ok(Translator { _links: links })
    }
}

/// A connect4 program that does nothing, to compare with.
#[derive(Debug)]
pub struct Empty {
    _link: OwnedFd,
}

impl Empty {
    /// Attaches it.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn attach(group: &Path) -> anyhow::Result<Empty> {
        let group = File::open(group).with_context(|| format!("no cgroup {}", group.display()))?;
        let program =
            load(&[Instruction(0xb7, 0x00, 0, 1), Instruction(0x95, 0x00, 0, 0)], DIALLED[0], *b"empty\0");
        Ok(Empty { _link: link(&program?, &group, DIALLED[0])? })
    }
}

/// An instruction: operation, registers (source << 4 | destination), offset, constant.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction(u8, u8, i16, i32);

const USER_IP4: i16 = 4;
const USER_PORT: i16 = 24;

/// `if address == from { address = to }; return 1`
fn rewrite(from: SocketAddrV4, to: SocketAddrV4) -> [Instruction; 10] {
    let ip = |address: SocketAddrV4| i32::from_ne_bytes(address.ip().octets());
    let port = |address: SocketAddrV4| i32::from(address.port().to_be());
    let (load, store, set, skip_unless) = (0x61, 0x63, 0xb4, 0x56);
    [
        Instruction(load, 0x12, USER_IP4, 0),
        Instruction(skip_unless, 0x02, 6, ip(from)),
        Instruction(load, 0x12, USER_PORT, 0),
        Instruction(skip_unless, 0x02, 4, port(from)),
        Instruction(set, 0x02, 0, ip(to)),
        Instruction(store, 0x21, USER_IP4, 0),
        Instruction(set, 0x02, 0, port(to)),
        Instruction(store, 0x21, USER_PORT, 0),
        Instruction(0xb7, 0x00, 0, 1),
        Instruction(0x95, 0x00, 0, 0),
    ]
}

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The head of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    hook: u32,
    flags: u32,
}

fn link(program: &OwnedFd, group: &File, hook: u32) -> anyhow::Result<OwnedFd> {
    let target_fd = group.as_raw_fd().unsigned_abs();
    let attr = LinkCreate { prog_fd: raw(program), target_fd, hook, flags: 0 };
    bpf(BPF_LINK_CREATE, &attr).context("cannot attach a program")
}

fn load(program: &[Instruction], hook: u32, name: [u8; 6]) -> std::io::Result<OwnedFd> {
    // Before Linux 5.11 programs are charged to the memory that a process may lock.
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a limit that lives through the call. If it cannot be raised, loading fails and says so.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    let mut prog_name = [0; 16];
    prog_name[..name.len()].copy_from_slice(&name);
    let attr = ProgLoad {
        prog_type: CGROUP_SOCK_ADDR,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name,
        prog_ifindex: 0,
        expected_attach_type: hook,
    };
    bpf(BPF_PROG_LOAD, &attr)
}

fn raw(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn bpf<T>(command: libc::c_long, attr: &T) -> std::io::Result<OwnedFd> {
    // SAFETY: `attr` is the head of the `bpf_attr` for `command` and as long as the size says.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
