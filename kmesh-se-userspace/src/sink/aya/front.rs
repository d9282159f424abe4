//! The tables in front of hash maps, which spare most connects a look-up.
//!
//! In: rows of the hash maps, before or after they are written there. Out: stores to mapped memory. Never: a row of a hash
//! map that programs do not find because of what is in front of it.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    mem::offset_of,
    os::fd::BorrowedFd,
    sync::atomic::Ordering,
};

use kmesh_se_common::{
    addr::{Addr16, filter_bit, words},
    limits::{ENROL_PLACES, FILTER_BITS},
    maps::{ENROL_ASK, EnrolPlace, Workload},
};

use crate::sys::MappedArray;

#[cfg(test)]
mod tests;

/// `kmse_enrol_at`, in front of `kmse_enrol`.
pub(super) struct Enrolled {
    places: MappedArray<EnrolPlace>,
    /// The cgroups in `kmse_enrol` by place.
    cgroups: HashMap<u32, BTreeSet<u64>>,
}

impl Enrolled {
    /// Makes it agree with the rows that the hash map holds, whatever an earlier agent left half done.
    pub(super) fn new(map: BorrowedFd<'_>, rows: &[(u64, Workload)]) -> io::Result<Self> {
        let mut front = Self { places: MappedArray::new(map, ENROL_PLACES)?, cgroups: HashMap::new() };
        let mut right = BTreeSet::new();
        for (cgroup, workload) in rows {
            let at = place(*cgroup);
            front.cgroups.entry(at).or_default().insert(*cgroup);
            if front.holder(at) == *cgroup && front.workload(at) == halves(*workload).map(Some) {
                right.insert(at);
            }
        }
        for at in 0..ENROL_PLACES {
            let wanted = match front.cgroups.get(&at).map(BTreeSet::len) {
                None => 0,
                Some(1) if right.contains(&at) => continue,
                Some(_) => ENROL_ASK,
            };
            front.hold(at, wanted)?;
        }
        Ok(front)
    }

    /// The row of a cgroup is about to be written: if it is in front, programs ask the hash map from now on.
    pub(super) fn hide(&self, cgroup: u64) -> io::Result<()> {
        let at = place(cgroup);
        if self.holder(at) == cgroup { self.hold(at, ENROL_ASK) } else { Ok(()) }
    }

    /// The row of a cgroup was written, after it was hidden. A free place must have been free for a grace period; `wait`
    /// waits for one.
    pub(super) fn show(
        &mut self,
        cgroup: u64,
        workload: Workload,
        wait: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let at = place(cgroup);
        let sharers = self.cgroups.entry(at).or_default();
        sharers.insert(cgroup);
        if sharers.len() > 1 {
            return self.hold(at, ENROL_ASK);
        }
        if self.holder(at) != 0 {
            // Programs may still be reading what lay in front before it was hidden.
            wait()?;
        }
        let first = offset_of!(EnrolPlace, workload);
        for (half, value) in halves(workload).into_iter().enumerate() {
            self.places.store(at, first + half * 8, value)?;
        }
        self.hold(at, cgroup)
    }

    /// The row of a cgroup was removed.
    pub(super) fn removed(&mut self, cgroup: u64) -> io::Result<()> {
        let at = place(cgroup);
        let Some(sharers) = self.cgroups.get_mut(&at) else { return Ok(()) };
        sharers.remove(&cgroup);
        if !sharers.is_empty() {
            return Ok(());
        }
        self.cgroups.remove(&at);
        self.hold(at, 0)
    }

    fn hold(&self, at: u32, cgroup: u64) -> io::Result<()> {
        self.places.store(at, offset_of!(EnrolPlace, cgroup), cgroup)
    }

    fn holder(&self, at: u32) -> u64 {
        let word = self.places.word(at, offset_of!(EnrolPlace, cgroup));
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn workload(&self, at: u32) -> [Option<u64>; 2] {
        let first = offset_of!(EnrolPlace, workload);
        [0, 8].map(|half| self.places.word(at, first + half).map(|word| word.load(Ordering::Acquire)))
    }
}

const fn place(cgroup: u64) -> u32 {
    cgroup as u32 & (ENROL_PLACES - 1)
}

fn halves(workload: Workload) -> [u64; 2] {
    // SAFETY: 16 plain bytes without padding, in the layout that the programs read.
    unsafe { std::mem::transmute(workload) }
}

/// `kmse_filter`, in front of the single addresses of `kmse_frontend` and `kmse_address`. A bit stays when its rows go: a wrong one costs two look-ups.
pub(super) struct Filter(MappedArray<u64>);

impl Filter {
    pub(super) fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        MappedArray::new(map, FILTER_BITS / u64::BITS).map(Self)
    }

    /// A row with this address is about to be written.
    pub(super) fn add(&self, address: &Addr16) -> io::Result<()> {
        let bit = filter_bit(words(address));
        let word = self.0.word(bit / u64::BITS, 0).ok_or(io::ErrorKind::InvalidInput)?;
        word.fetch_or(1 << (bit % u64::BITS), Ordering::Release);
        Ok(())
    }
}
