//! The calls of `bpf(2)` and `mmap(2)` that aya does not offer.
//!
//! In: map descriptors. Out: an array map mapped into memory; a grace period waited for. Never: a look at what the
//! values mean.

use std::{
    io,
    marker::PhantomData,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

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
