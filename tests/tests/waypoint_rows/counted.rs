//! The kernel's maps, with a count of what is written to them.

use std::collections::BTreeMap;

use kmesh_se::sink::{Contents, MapError, Maps, aya::AyaMaps};
use kmesh_se_common::limits::MAX_LEVELS;
use kmesh_se_common::maps::{self, AddressKey, Cidr, CidrKey, FrontendKey, Service, Workload};

/// The maps and how often each was written.
#[derive(Debug)]
pub(crate) struct Counted {
    maps: AyaMaps,
    /// Writes of elements, by map.
    pub(crate) writes: BTreeMap<&'static str, usize>,
}

impl Counted {
    pub(crate) fn new(maps: AyaMaps) -> Self {
        Self { maps, writes: BTreeMap::new() }
    }
}

macro_rules! counted {
    ($($map:literal $name:ident($($arg:ident: $kind:ty),*);)+) => {
        $(fn $name(&mut self, $($arg: $kind),*) -> Result<(), MapError> {
            *self.writes.entry($map).or_default() += 1;
            self.maps.$name($($arg),*)
        })+
    };
}

impl Maps for Counted {
    counted! {
        "backend" set_backend(id: u32, backend: maps::Backend);
        "slot" set_slot(id: u32, slot: maps::Slot);
        "service" set_service(id: u32, service: Service);
        "count" reset_service_count(id: u32);
        "frontend" insert_frontend(key: FrontendKey, service: u32);
        "frontend" remove_frontend(key: FrontendKey);
        "address" insert_address(key: AddressKey, address: maps::Address);
        "address" remove_address(key: AddressKey);
        "cidr" insert_cidr(key: CidrKey, cidr: Cidr);
        "cidr" remove_cidr(key: CidrKey, prefix: u8);
        "cidrs" set_cidr_count(count: u32);
        "workload" insert_workload(cgroup: u64, workload: Workload);
        "workload" remove_workload(cgroup: u64);
        "levels" set_levels(levels: [u8; MAX_LEVELS]);
    }

    fn contents(&self) -> Result<Contents, MapError> {
        self.maps.contents()
    }

    fn wait_for_readers(&mut self) -> Result<(), MapError> {
        self.maps.wait_for_readers()
    }
}
