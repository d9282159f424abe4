//! Maps that look after every write whether a client could have been misled.

use std::collections::{BTreeMap, BTreeSet};

use kmesh_se_common::{addr, maps::NO_SERVICE};

use super::*;

/// What a look-up passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Element {
    Service(u32),
    Slot(u32),
    Backend(u32),
}

/// Where a look-up begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Frontend(FrontendKey),
    Address(AddressKey),
    Cidr(CidrKey, u8),
}

/// The maps in memory with their raw elements beside them.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) memory: MemoryMaps,
    /// Every wrong that was seen.
    pub(super) wrong: Vec<String>,
    frontends: BTreeMap<FrontendKey, u32>,
    /// With the services that they are sorted by.
    addresses: BTreeMap<AddressKey, u32>,
    /// The same for ranges.
    cidrs: BTreeMap<(CidrKey, u8), u32>,
    /// How many there are, and how many the programs were told of.
    cidr_counts: (usize, u32),
    services: BTreeMap<u32, Service>,
    slots: BTreeMap<u32, maps::Slot>,
    backends: BTreeMap<u32, maps::Backend>,
    /// What each frontend and address may lead to.
    allowed: BTreeMap<From, BTreeSet<(IpAddr, u16)>>,
    /// What some frontend led through since the last grace period: a reader may still be there.
    read: BTreeSet<Element>,
    /// The hash maps with elements that were freed since then.
    freed: BTreeSet<&'static str>,
    fail_at: BTreeSet<u32>,
    writes: u32,
}

impl Recorder {
    pub(super) fn new(capacities: Capacities) -> Self {
        Self {
            memory: MemoryMaps::new(capacities),
            wrong: Vec::new(),
            frontends: BTreeMap::new(),
            addresses: BTreeMap::new(),
            cidrs: BTreeMap::new(),
            cidr_counts: (0, 0),
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            backends: BTreeMap::new(),
            allowed: BTreeMap::new(),
            read: BTreeSet::new(),
            freed: BTreeSet::new(),
            fail_at: BTreeSet::new(),
            writes: 0,
        }
    }

    /// Lets each frontend and address lead to what any of `states` says.
    pub(super) fn allow(&mut self, states: &[Tables]) {
        self.allowed.clear();
        let scope_id = |scope: &Scope| u32::from(*scope != Scope::Mesh);
        for tables in states {
            let frontends = tables.frontends.iter().map(|(frontend, service)| {
                let (scope, (addr, prefix)) = (scope_id(&frontend.scope), rows::place(&frontend.address));
                let key = FrontendKey { scope, addr, port: frontend.port, proto: TCP, prefix };
                (From::Frontend(key), service)
            });
            let addresses = tables.addresses.iter().filter_map(|(address, rule)| {
                let (scope, (addr, prefix)) = (scope_id(&address.scope), rows::place(&address.address));
                let from = match address.address.single() {
                    Some(_) => From::Address(AddressKey { scope, addr }),
                    None => From::Cidr(CidrKey::new(scope, addr), prefix),
                };
                Some((from, rule.sorts_by.as_ref()?))
            });
            for (from, service) in frontends.chain(addresses) {
                let allowed = self.allowed.entry(from).or_default();
                // The service may change before what leads to it does.
                for tables in states {
                    allowed.extend(tables.backends_of(service).iter().map(|b| (b.address, b.port)));
                    // And the waypoint before the service.
                    if let Some(led_to) = tables.services.get(service) {
                        for other in states {
                            let replicas =
                                |waypoint: &_| other.waypoints.get(waypoint).into_iter().flatten().copied();
                            allowed.extend(led_to.backends(replicas).iter().map(|b| (b.address, b.port)));
                        }
                    }
                }
            }
        }
    }

    /// Makes the writes with these numbers fail, counted from now.
    pub(super) fn fail_at(&mut self, numbers: &BTreeSet<u32>) {
        self.writes = 0;
        self.fail_at.clone_from(numbers);
    }

    fn count(&mut self) -> Result<(), MapError> {
        let number = self.writes;
        self.writes += 1;
        if self.fail_at.contains(&number) {
            return Err(MapError::Sys {
                map: "kmse_test",
                call: "write",
                error: "as the test wants".to_owned(),
            });
        }
        Ok(())
    }

    /// An element is about to be written.
    fn writing(&mut self, element: Element) {
        if self.read.contains(&element) {
            self.wrong.push(format!("{element:?} is written while a reader may be there"));
        }
    }

    fn inserting(&mut self, map: &'static str) {
        if self.freed.contains(map) {
            self.wrong.push(format!("{map}: an element that is still being read may be used again"));
        }
    }

    /// The programs must be told of ranges for as long as there are some.
    fn check_cidrs(&mut self) {
        let (there, told) = self.cidr_counts;
        if (told as usize) < there {
            self.wrong.push(format!("the programs know of {told} ranges of {there}"));
        }
    }

    /// After each write: where does each frontend and address lead?
    fn check(&mut self) {
        let frontends = self.frontends.iter().map(|(key, service)| (From::Frontend(*key), *service));
        let addresses = self.addresses.iter().map(|(key, service)| (From::Address(*key), *service));
        let cidrs = self.cidrs.iter().map(|((key, prefix), service)| (From::Cidr(*key, *prefix), *service));
        for (key, service) in frontends.chain(addresses).chain(cidrs) {
            self.read.insert(Element::Service(service));
            let Some(mut run) = self.services.get(&service).copied() else {
                self.wrong.push(format!("{key:?} leads to service {service}, which was never written"));
                continue;
            };
            let mut port_there = 0;
            if let Some((waypoint, port)) = run.waypoint() {
                self.read.insert(Element::Service(waypoint));
                let Some(of_waypoint) = self.services.get(&waypoint) else {
                    self.wrong.push(format!("{key:?} leads to waypoint {waypoint}, which was never written"));
                    continue;
                };
                (run, port_there) = (*of_waypoint, port);
                if run.waypoint().is_some() {
                    self.wrong.push(format!("{key:?} leads to waypoint {waypoint}, which is none"));
                }
            }
            for slot in run.slot_base..run.slot_base + run.slot_count() {
                self.read.insert(Element::Slot(slot));
                let Some(found) = self.slots.get(&slot) else {
                    self.wrong.push(format!("{key:?} leads to slot {slot}, which was never written"));
                    continue;
                };
                for id in [found.backend, found.alias] {
                    self.read.insert(Element::Backend(id));
                    let place = self.backends.get(&id).map(|b| (addr::to_ip(b.addr), b.port | port_there));
                    if !place.is_some_and(|p| self.allowed.get(&key).is_some_and(|a| a.contains(&p))) {
                        self.wrong.push(format!("{key:?} leads to backend {id}: {place:?}"));
                    }
                }
            }
        }
    }
}

impl Maps for Recorder {
    fn set_backend(&mut self, id: u32, backend: maps::Backend) -> Result<(), MapError> {
        self.count()?;
        self.writing(Element::Backend(id));
        self.backends.insert(id, backend);
        self.memory.set_backend(id, backend)?;
        self.check();
        Ok(())
    }

    fn set_slot(&mut self, id: u32, slot: maps::Slot) -> Result<(), MapError> {
        self.count()?;
        self.writing(Element::Slot(id));
        self.slots.insert(id, slot);
        self.memory.set_slot(id, slot)?;
        self.check();
        Ok(())
    }

    fn set_service(&mut self, id: u32, service: Service) -> Result<(), MapError> {
        self.count()?;
        // The service's own store may come at any time; see `reset_service_count`.
        self.services.insert(id, service);
        self.memory.set_service(id, service)?;
        self.check();
        Ok(())
    }

    fn reset_service_count(&mut self, id: u32) -> Result<(), MapError> {
        self.count()?;
        // A new service takes this id.
        self.writing(Element::Service(id));
        Ok(())
    }

    fn insert_frontend(&mut self, key: FrontendKey, service: u32) -> Result<(), MapError> {
        self.count()?;
        self.inserting("frontend");
        self.memory.insert_frontend(key, service)?;
        if self.frontends.insert(key, service).is_some() {
            self.freed.insert("frontend");
        }
        self.check();
        Ok(())
    }

    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), MapError> {
        self.count()?;
        self.frontends.remove(&key);
        self.freed.insert("frontend");
        self.memory.remove_frontend(key)?;
        self.check();
        Ok(())
    }

    fn insert_address(&mut self, key: AddressKey, address: maps::Address) -> Result<(), MapError> {
        self.count()?;
        self.inserting("address");
        let is_new = !self.memory.has_address(&key);
        self.memory.insert_address(key, address)?;
        match address.sorts_by {
            NO_SERVICE => drop(self.addresses.remove(&key)),
            service => drop(self.addresses.insert(key, service)),
        }
        if !is_new {
            self.freed.insert("address");
        }
        self.check();
        Ok(())
    }

    fn remove_address(&mut self, key: AddressKey) -> Result<(), MapError> {
        self.count()?;
        self.freed.insert("address");
        self.addresses.remove(&key);
        self.memory.remove_address(key)
    }

    fn insert_cidr(&mut self, key: CidrKey, cidr: Cidr) -> Result<(), MapError> {
        self.count()?;
        self.inserting("cidr");
        let prefix = u8::try_from(cidr.prefix).expect("at most 128");
        let is_new = !self.memory.has_cidr(&key, prefix);
        self.memory.insert_cidr(key, cidr)?;
        if cidr.addr != key.addr {
            self.wrong.push(format!("{key:?} leads to the frontends of {cidr:?}"));
        }
        match cidr.rule.sorts_by {
            NO_SERVICE => drop(self.cidrs.remove(&(key, prefix))),
            service => drop(self.cidrs.insert((key, prefix), service)),
        }
        if is_new {
            self.cidr_counts.0 += 1;
        } else {
            self.freed.insert("cidr");
        }
        self.check_cidrs();
        self.check();
        Ok(())
    }

    fn remove_cidr(&mut self, key: CidrKey, prefix: u8) -> Result<(), MapError> {
        self.count()?;
        self.freed.insert("cidr");
        self.cidrs.remove(&(key, prefix));
        self.cidr_counts.0 -= usize::from(self.memory.has_cidr(&key, prefix));
        self.memory.remove_cidr(key, prefix)
    }

    fn set_cidr_count(&mut self, count: u32) -> Result<(), MapError> {
        self.count()?;
        self.cidr_counts.1 = count;
        self.check_cidrs();
        self.memory.set_cidr_count(count)
    }

    fn insert_workload(&mut self, cgroup: u64, workload: Workload) -> Result<(), MapError> {
        self.count()?;
        self.inserting("workload");
        if self.memory.workload(cgroup).is_some() {
            self.freed.insert("workload");
        }
        self.memory.insert_workload(cgroup, workload)
    }

    fn remove_workload(&mut self, cgroup: u64) -> Result<(), MapError> {
        self.count()?;
        self.freed.insert("workload");
        self.memory.remove_workload(cgroup)
    }

    fn set_levels(&mut self, levels: [u8; MAX_LEVELS]) -> Result<(), MapError> {
        self.count()?;
        self.memory.set_levels(levels)
    }

    fn contents(&self) -> Result<Contents, MapError> {
        self.memory.contents()
    }

    fn wait_for_readers(&mut self) -> Result<(), MapError> {
        self.count()?;
        self.memory.wait_for_readers()?;
        self.read.clear();
        self.freed.clear();
        self.check();
        Ok(())
    }
}
