//! The calls of `bpf(2)` and `mmap(2)` that aya does not offer.
//!
//! In: descriptors and paths. Out: an array map mapped into memory, a grace period waited for, a pinned link opened and led
//! to another program, the programs of a cgroup. Never: a look at what the values mean.

mod process;

use std::{
    ffi::CString,
    io,
    marker::PhantomData,
    mem::size_of,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

pub(crate) use self::process::{pidfd_open, pidfd_send_signal};

/// An array map with `BPF_F_MMAPABLE`, whose elements are multiples of 8 bytes, in this process's memory.
#[derive(Debug)]
pub(crate) struct MappedArray<T> {
    base: NonNull<AtomicU64>,
    words: usize,
    _element: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone and is only read and written through atomics.
unsafe impl<T: Send> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for MappedArray<T> {}

impl<T> MappedArray<T> {
    /// Maps all `len` elements of `map`.
    pub(crate) fn new(map: BorrowedFd<'_>, len: u32) -> io::Result<Self> {
        assert!(size_of::<T>().is_multiple_of(8), "the kernel pads elements to 8 bytes");
        let words = len as usize * (size_of::<T>() / 8);
        // SAFETY: a new mapping of a descriptor; the kernel checks that the map is as long as this.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                words * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, words, _element: PhantomData })
    }

    /// The 8-byte word at `byte_offset` of element `index`.
    pub(crate) fn word(&self, index: u32, byte_offset: usize) -> Option<&AtomicU64> {
        let at = index as usize * (size_of::<T>() / 8) + byte_offset / 8;
        // SAFETY: within the mapping, which lives as long as `self`; mappings are aligned to a page.
        (at < self.words).then(|| unsafe { self.base.add(at).as_ref() })
    }

    /// Stores a word so that programs that see it also see what was written to other maps before.
    pub(crate) fn store(&self, index: u32, byte_offset: usize, value: u64) -> io::Result<()> {
        self.word(index, byte_offset).ok_or(io::ErrorKind::InvalidInput)?.store(value, Ordering::Release);
        Ok(())
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.words * 8) };
    }
}

/// Waits for RCU grace periods: the kernel does so when an element of a map of maps is replaced.
#[derive(Debug)]
pub(crate) struct GracePeriod {
    inner: OwnedFd,
    outer: OwnedFd,
}

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// The head of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// The head of `union bpf_attr` for `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The head of `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectPath {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The head of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct ObjectInfo {
    fd: u32,
    length: u32,
    info: u64,
}

/// The head of `union bpf_attr` for `BPF_LINK_UPDATE`.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_program_fd: u32,
    flags: u32,
    old_program_fd: u32,
}

/// The head of `struct bpf_link_info` of a cgroup link.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CgroupLinkInfo {
    link_type: u32,
    /// The link's id.
    pub(crate) id: u32,
    /// The id of the program behind it.
    pub(crate) program: u32,
    _pad: u32,
    /// The cgroup that it is attached to; 0 when that is gone.
    pub(crate) cgroup: u64,
    attach_type: u32,
    _pad2: u32,
}

/// The head of `union bpf_attr` for `BPF_PROG_QUERY`.
#[repr(C)]
struct ProgramQuery {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    _pad: u32,
}

/// The hook of `connect` over IPv4.
pub(crate) const CGROUP_INET4_CONNECT: u32 = 10;
/// The hook of `connect` over IPv6.
pub(crate) const CGROUP_INET6_CONNECT: u32 = 11;
/// More programs than the kernel lets attach to a hook of one cgroup.
const PROGRAMS_MAX: usize = 256;

/// The ids of the programs that run at a hook for processes of a cgroup: its own and those of the cgroups above it.
pub(crate) fn effective_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; PROGRAMS_MAX];
    let mut query = ProgramQuery {
        target: cgroup.as_raw_fd().unsigned_abs(),
        attach_type,
        query_flags: BPF_F_QUERY_EFFECTIVE,
        attach_flags: 0,
        programs: ids.as_mut_ptr() as u64,
        count: PROGRAMS_MAX as u32,
        _pad: 0,
    };
    // SAFETY: the head of the `bpf_attr` for this command, whose array has as many elements as it says; the kernel writes
    // into both.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<ProgramQuery>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids.into_iter().take(query.count as usize).collect())
}

/// Opens what is pinned at `path`.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = bpf(BPF_OBJ_GET, &ObjectPath { path: path.as_ptr() as u64, fd: 0, flags: 0 })?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a cgroup link is.
pub(crate) fn link_info(link: &OwnedFd) -> io::Result<CgroupLinkInfo> {
    let mut info = CgroupLinkInfo::default();
    let length = u32::try_from(size_of::<CgroupLinkInfo>()).unwrap_or_default();
    bpf(BPF_OBJ_GET_INFO_BY_FD, &ObjectInfo { fd: raw(link), length, info: (&raw mut info) as u64 })?;
    Ok(info)
}

/// Puts another program behind a link in one step: no call falls between the two.
pub(crate) fn update_link(link: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    let new_program_fd = program.as_raw_fd().unsigned_abs();
    bpf(BPF_LINK_UPDATE, &LinkUpdate { link_fd: raw(link), new_program_fd, flags: 0, old_program_fd: 0 })
        .map(drop)
}

impl GracePeriod {
    /// Makes the two small maps that it needs.
    pub(crate) fn new() -> io::Result<Self> {
        let inner = create(BPF_MAP_TYPE_ARRAY, 0, *b"kmse_grace_in\0\0\0")?;
        let outer = create(BPF_MAP_TYPE_ARRAY_OF_MAPS, raw(&inner), *b"kmse_grace\0\0\0\0\0\0")?;
        Ok(Self { inner, outer })
    }

    /// Returns when no BPF program still runs that was running at the call.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let (key, value) = (0u32, raw(&self.inner));
        let attr = MapUpdate {
            map_fd: raw(&self.outer),
            _pad: 0,
            key: (&raw const key) as u64,
            value: (&raw const value) as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &attr).map(drop)
    }
}

fn raw(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}

fn create(map_type: u32, inner_map_fd: u32, map_name: [u8; 16]) -> io::Result<OwnedFd> {
    let attr = MapCreate {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd,
        numa_node: 0,
        map_name,
    };
    let fd = bpf(BPF_MAP_CREATE, &attr)?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<i32> {
    // SAFETY: `attr` is the head of the `bpf_attr` for `command` and as long as the size says; the kernel takes the rest
    // as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or_default()) }
}
