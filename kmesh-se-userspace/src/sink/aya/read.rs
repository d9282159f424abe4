//! The maps as they are in the kernel now, for people who ask.
//!
//! In: keys and ids. Out: elements, read by system calls or from mapped memory. Never: a write.

use std::mem::offset_of;

use aya::maps::{MapError as AyaError, lpm_trie::Key};
use kmesh_se_common::{
    addr::{is_v4_mapped, words},
    limits::{self as l, LEVEL_END, MAX_LEVELS},
    maps::{
        Address, AddressKey, Backend, Cidr, CidrKey, Config, FrontendKey, PREFIX_SINGLE, Service, Slot,
        Workload,
    },
};

use super::{AyaMaps, MapError, chain};

fn found<V>(read: Result<V, AyaError>, map: &'static str) -> Result<Option<V>, MapError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(AyaError::KeyNotFound) => Ok(None),
        Err(error) => Err(MapError::Sys { map, call: "read", error: chain(&error) }),
    }
}

/// All elements. One that is removed meanwhile may be missing or there.
pub(super) fn all<K, V>(
    rows: impl Iterator<Item = Result<(K, V), AyaError>>,
    map: &'static str,
) -> Result<Vec<(K, V)>, MapError> {
    rows.filter_map(|row| found(row, map).transpose()).collect()
}

impl AyaMaps {
    /// The service of a frontend.
    ///
    /// # Errors
    /// The kernel refused the read.
    pub fn read_frontend(&self, key: &FrontendKey) -> Result<Option<u32>, MapError> {
        Ok(found(self.frontend.get(key, 0), l::MAP_FRONTEND)?.map(|frontend| frontend.service))
    }

    /// A known address.
    ///
    /// # Errors
    /// As [`AyaMaps::read_frontend`].
    pub fn read_address(&self, key: &AddressKey) -> Result<Option<Address>, MapError> {
        found(self.address.get(key, 0), l::MAP_ADDRESS)
    }

    /// The narrowest range that holds an address.
    ///
    /// # Errors
    /// As [`AyaMaps::read_frontend`].
    pub fn read_cidr(&self, key: CidrKey) -> Result<Option<Cidr>, MapError> {
        let is_v4 = is_v4_mapped(&words(&key.addr));
        let key = Key::new(CidrKey::bits(PREFIX_SINGLE), key);
        Ok(found(self.cidr.get(&key, 0), l::MAP_CIDR)?.filter(|cidr| cidr.means(is_v4)))
    }

    /// An enrolled cgroup.
    ///
    /// # Errors
    /// As [`AyaMaps::read_frontend`].
    pub fn read_workload(&self, cgroup: u64) -> Result<Option<Workload>, MapError> {
        found(self.enrol.get(&cgroup, 0), l::MAP_ENROL)
    }

    /// Where the slots of a service or waypoint lie; none for an id that the map has no room for.
    #[must_use]
    pub fn read_service(&self, id: u32) -> Option<Service> {
        let word = self.service.word(id, 0)?.load(std::sync::atomic::Ordering::Acquire);
        // SAFETY: both are 8 plain bytes, in the layout in which the sink wrote them.
        Some(unsafe { std::mem::transmute::<u64, Service>(word) })
    }

    /// One slot; none for an id that the map has no room for.
    ///
    /// # Errors
    /// As [`AyaMaps::read_frontend`].
    pub fn read_slot(&self, id: u32) -> Result<Option<Slot>, MapError> {
        if id >= self.slot.len() {
            return Ok(None);
        }
        found(self.slot.get(&id, 0), l::MAP_SLOT)
    }

    /// One backend; none for an id that the map has no room for.
    ///
    /// # Errors
    /// As [`AyaMaps::read_frontend`].
    pub fn read_backend(&self, id: u32) -> Result<Option<Backend>, MapError> {
        if id >= self.backend.len() {
            return Ok(None);
        }
        found(self.backend.get(&id, 0), l::MAP_BACKEND)
    }

    /// All frontends with their services.
    ///
    /// # Errors
    /// As [`AyaMaps::read_frontend`].
    pub fn read_frontends(&self) -> Result<Vec<(FrontendKey, u32)>, MapError> {
        let rows = all(self.frontend.iter(), l::MAP_FRONTEND)?;
        Ok(rows.into_iter().map(|(key, frontend)| (key, frontend.service)).collect())
    }

    /// All known addresses.
    ///
    /// # Errors
    /// As [`AyaMaps::read_frontend`].
    pub fn read_addresses(&self) -> Result<Vec<(AddressKey, Address)>, MapError> {
        all(self.address.iter(), l::MAP_ADDRESS)
    }

    /// All ranges.
    ///
    /// # Errors
    /// As [`AyaMaps::read_frontend`].
    pub fn read_cidrs(&self) -> Result<Vec<(CidrKey, Cidr)>, MapError> {
        let rows = all(self.cidr.iter(), l::MAP_CIDR)?;
        Ok(rows.into_iter().map(|(key, cidr)| (key.data(), cidr)).collect())
    }

    /// All enrolled cgroups.
    ///
    /// # Errors
    /// As [`AyaMaps::read_frontend`].
    pub fn read_workloads(&self) -> Result<Vec<(u64, Workload)>, MapError> {
        all(self.enrol.iter(), l::MAP_ENROL)
    }

    /// The depths of the cgroup tree at which the programs look for enrolled cgroups.
    #[must_use]
    pub fn read_levels(&self) -> Vec<u8> {
        let word = self.config.word(0, offset_of!(Config, levels));
        let levels: [u8; MAX_LEVELS] = word
            .map_or([LEVEL_END; MAX_LEVELS], |w| w.load(std::sync::atomic::Ordering::Acquire).to_ne_bytes());
        levels.into_iter().take_while(|level| *level != LEVEL_END).collect()
    }
}
