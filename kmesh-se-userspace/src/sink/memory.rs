//! The maps in memory, with the look-ups that the BPF programs make.
//!
//! In: the sink's writes. Out: what a client would be connected to. Never: the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use kmesh_se_common::{
    addr,
    limits::{LEVEL_END, MAX_LEVELS},
    maps::{
        self, AddressKey, Cidr, CidrKey, FrontendKey, PREFIX_SINGLE, SCOPE_MESH, Service, UNLISTED_REFUSE,
        WORKLOAD_EXEMPT, WORKLOAD_PRIVATE_VIEW, Workload,
    },
};

use super::{Capacities, Contents, MapError, Maps};

/// What a connect meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One of these backends.
    Backends(BTreeSet<(IpAddr, u16)>),
    /// `ECONNREFUSED`.
    Refused,
    /// `EHOSTUNREACH`.
    NoBackend,
    /// A datagram socket that only sorts addresses, led to one of these.
    Sorts(BTreeSet<IpAddr>),
    /// It is not rewritten.
    Passes,
}

/// The maps.
#[derive(Clone, Debug, Default)]
pub struct MemoryMaps {
    frontends: BTreeMap<FrontendKey, u32>,
    addresses: BTreeMap<AddressKey, maps::Address>,
    /// By key and prefix.
    cidrs: BTreeMap<(CidrKey, u8), Cidr>,
    cidr_count: u32,
    services: BTreeMap<u32, Service>,
    slots: BTreeMap<u32, maps::Slot>,
    backends: BTreeMap<u32, maps::Backend>,
    workloads: BTreeMap<u64, Workload>,
    capacities: Capacities,
    levels: Vec<u8>,
    /// How often a grace period was waited for.
    pub waits: u32,
}

impl MemoryMaps {
    /// Empty maps with room for `capacities`.
    #[must_use]
    pub fn new(capacities: Capacities) -> Self {
        Self { capacities, ..Self::default() }
    }

    /// What a connect from `cgroup` to an address and port meets.
    #[must_use]
    pub fn connect(&self, cgroup: u64, address: IpAddr, port: u16, proto: u8) -> Outcome {
        let Some(workload) = self.workloads.get(&cgroup).filter(|w| w.flags & WORKLOAD_EXEMPT == 0) else {
            return Outcome::Passes;
        };
        let private = workload.flags & WORKLOAD_PRIVATE_VIEW != 0;
        let scopes = || private.then_some(workload.scope).into_iter().chain([SCOPE_MESH]);
        let (addr, is_v4) = (addr::from_ip(address), address.is_ipv4());
        let frontend = |scope, addr, prefix| {
            let service = self.frontends.get(&FrontendKey { scope, addr, port, proto, prefix })?;
            Some(self.backends_of(*service, is_v4))
        };
        let unlisted = |known: &maps::Address| match known.unlisted {
            UNLISTED_REFUSE if proto == 6 => Outcome::Refused,
            UNLISTED_REFUSE => self.sorts(known.sorts_by, is_v4),
            _ => Outcome::Passes,
        };
        let single = |scope| {
            let known = || self.addresses.get(&AddressKey { scope, addr }).map(unlisted);
            frontend(scope, addr, PREFIX_SINGLE).or_else(known)
        };
        let by_range = || {
            let ranges = scopes().filter_map(|scope| Some((scope, self.narrowest(scope, addr, is_v4)?)));
            // Of equal ones the first.
            let (scope, (prefix, cidr)) = ranges.min_by_key(|(_, (prefix, _))| u8::MAX - prefix)?;
            Some(frontend(scope, cidr.addr, prefix).unwrap_or_else(|| unlisted(&cidr.rule)))
        };
        scopes().find_map(single).or_else(by_range).unwrap_or(Outcome::Passes)
    }

    fn sorts(&self, service: u32, v4: bool) -> Outcome {
        let Outcome::Backends(backends) = self.backends_of(service, v4) else { return Outcome::NoBackend };
        let family: BTreeSet<_> =
            backends.into_iter().map(|(a, _)| a).filter(|a| a.is_ipv4() == v4).collect();
        if family.is_empty() { Outcome::NoBackend } else { Outcome::Sorts(family) }
    }

    /// The narrowest range that holds an address, as a trie finds it.
    fn narrowest(&self, scope: u32, addr: addr::Addr16, is_v4: bool) -> Option<(u8, Cidr)> {
        if self.cidr_count == 0 {
            return None;
        }
        let wanted = u128::from_be_bytes(addr);
        let same = |key: &CidrKey, prefix: u8| {
            let differing = wanted ^ u128::from_be_bytes(key.addr);
            key.scope == scope.to_be_bytes() && differing.leading_zeros() >= prefix.into()
        };
        let found = self.cidrs.iter().filter(|((key, prefix), _)| same(key, *prefix));
        let ((_, prefix), cidr) = found.max_by_key(|((_, prefix), _)| *prefix)?;
        cidr.means(is_v4).then_some((*prefix, *cidr))
    }

    /// What who dials an address of this family can be connected to.
    fn backends_of(&self, service: u32, v4: bool) -> Outcome {
        let word = |id| self.services.get(&id).copied().unwrap_or(Service::EMPTY);
        let (service, port) = match word(service).waypoint() {
            None => (word(service), 0),
            Some((waypoint, port)) => (word(waypoint), port),
        };
        let (base, count) = service.run(v4);
        let slots = (base..base + count).filter_map(|slot| self.slots.get(&slot));
        let ids: BTreeSet<u32> = slots.flat_map(|s| [s.backend, s.alias]).collect();
        let backends: BTreeSet<_> = ids
            .iter()
            .filter_map(|id| self.backends.get(id))
            .map(|b| (addr::to_ip(b.addr), b.port | port))
            .collect();
        if backends.is_empty() { Outcome::NoBackend } else { Outcome::Backends(backends) }
    }

    /// Every frontend with what it leads to.
    pub fn frontends(&self) -> impl Iterator<Item = (FrontendKey, Outcome)> {
        let v4 = |key: &FrontendKey| addr::to_ip(key.addr).is_ipv4();
        self.frontends.iter().map(move |(key, service)| (*key, self.backends_of(*service, v4(key))))
    }

    /// An enrolled cgroup.
    #[must_use]
    pub fn workload(&self, cgroup: u64) -> Option<&Workload> {
        self.workloads.get(&cgroup)
    }

    /// Whether an address is known.
    #[must_use]
    pub fn has_address(&self, key: &AddressKey) -> bool {
        self.addresses.contains_key(key)
    }

    /// Whether a range is known.
    #[must_use]
    pub fn has_cidr(&self, key: &CidrKey, prefix: u8) -> bool {
        self.cidrs.contains_key(&(*key, prefix))
    }

    /// The depths at which cgroups are looked for, the deepest first.
    #[must_use]
    pub fn levels(&self) -> &[u8] {
        &self.levels
    }

    /// Whether no frontend, address or workload is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
            && self.addresses.is_empty()
            && self.cidrs.is_empty()
            && self.cidr_count == 0
            && self.workloads.is_empty()
    }
}

fn check(
    len: usize,
    is_new: bool,
    capacity: u32,
    map: &'static str,
    flag: &'static str,
) -> Result<(), MapError> {
    if is_new && len >= capacity as usize { Err(MapError::Full { map, capacity, flag }) } else { Ok(()) }
}

impl Maps for MemoryMaps {
    fn set_backend(&mut self, id: u32, backend: maps::Backend) -> Result<(), MapError> {
        self.backends.insert(id, backend);
        Ok(())
    }

    fn set_slot(&mut self, id: u32, slot: maps::Slot) -> Result<(), MapError> {
        self.slots.insert(id, slot);
        Ok(())
    }

    fn set_service(&mut self, id: u32, service: Service) -> Result<(), MapError> {
        self.services.insert(id, service);
        Ok(())
    }

    fn reset_service_count(&mut self, _id: u32) -> Result<(), MapError> {
        Ok(())
    }

    fn insert_frontend(&mut self, key: FrontendKey, service: u32) -> Result<(), MapError> {
        let is_new = !self.frontends.contains_key(&key);
        let map = kmesh_se_common::limits::MAP_FRONTEND;
        check(self.frontends.len(), is_new, self.capacities.frontends, map, "frontends")?;
        self.frontends.insert(key, service);
        Ok(())
    }

    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), MapError> {
        self.frontends.remove(&key);
        Ok(())
    }

    fn insert_address(&mut self, key: AddressKey, address: maps::Address) -> Result<(), MapError> {
        let is_new = !self.addresses.contains_key(&key);
        let map = kmesh_se_common::limits::MAP_ADDRESS;
        check(self.addresses.len(), is_new, self.capacities.addresses, map, "addresses")?;
        self.addresses.insert(key, address);
        Ok(())
    }

    fn remove_address(&mut self, key: AddressKey) -> Result<(), MapError> {
        self.addresses.remove(&key);
        Ok(())
    }

    fn insert_cidr(&mut self, key: CidrKey, cidr: Cidr) -> Result<(), MapError> {
        let place = (key, u8::try_from(cidr.prefix).unwrap_or(u8::MAX));
        let is_new = !self.cidrs.contains_key(&place);
        let map = kmesh_se_common::limits::MAP_CIDR;
        check(self.cidrs.len(), is_new, self.capacities.cidrs, map, "cidrs")?;
        self.cidrs.insert(place, cidr);
        Ok(())
    }

    fn remove_cidr(&mut self, key: CidrKey, prefix: u8) -> Result<(), MapError> {
        self.cidrs.remove(&(key, prefix));
        Ok(())
    }

    fn set_cidr_count(&mut self, count: u32) -> Result<(), MapError> {
        self.cidr_count = count;
        Ok(())
    }

    fn insert_workload(&mut self, cgroup: u64, workload: Workload) -> Result<(), MapError> {
        let is_new = !self.workloads.contains_key(&cgroup);
        let map = kmesh_se_common::limits::MAP_ENROL;
        check(self.workloads.len(), is_new, self.capacities.workloads, map, "workloads")?;
        self.workloads.insert(cgroup, workload);
        Ok(())
    }

    fn remove_workload(&mut self, cgroup: u64) -> Result<(), MapError> {
        self.workloads.remove(&cgroup);
        Ok(())
    }

    fn set_levels(&mut self, levels: [u8; MAX_LEVELS]) -> Result<(), MapError> {
        self.levels = levels.into_iter().take_while(|level| *level != LEVEL_END).collect();
        Ok(())
    }

    fn contents(&self) -> Result<Contents, MapError> {
        let services = self.services.iter().filter(|(_, word)| **word != Service::EMPTY);
        Ok(Contents {
            frontends: self.frontends.iter().map(|(key, service)| (*key, *service)).collect(),
            addresses: self.addresses.iter().map(|(key, address)| (*key, *address)).collect(),
            cidrs: self.cidrs.iter().map(|((key, _), cidr)| (*key, *cidr)).collect(),
            services: services.map(|(id, word)| (*id, *word)).collect(),
            slots: self.slots.clone(),
            backends: self.backends.clone(),
            workloads: self.workloads.iter().map(|(cgroup, workload)| (*cgroup, *workload)).collect(),
        })
    }

    fn wait_for_readers(&mut self) -> Result<(), MapError> {
        self.waits += 1;
        Ok(())
    }
}
