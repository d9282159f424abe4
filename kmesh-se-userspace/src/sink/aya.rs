//! The maps in the kernel.
//!
//! In: the loaded object's maps. Out: one system call, or one store to mapped memory, for each write; counters read.
//! Never: an id chosen here.

mod front;
mod read;

use std::{
    collections::BTreeMap,
    io,
    mem::offset_of,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use aya::{
    Pod,
    maps::{
        Array, HashMap, LpmTrie, MapData, MapError as AyaError, PerCpuArray, PerCpuValues, lpm_trie::Key,
    },
};
use kmesh_se_common::{
    addr::{self, Addr16},
    limits::{self as l, MAX_LEVELS},
    maps::{
        self, AddressKey, CONFIG_TRACE, Cidr, CidrKey, Config, Frontend, FrontendKey, Outcome, PREFIX_SINGLE,
        Resolver, Service, ServiceCount, Workload,
    },
};

use self::front::{Enrolled, Filter};
use super::{Capacities, Contents, MapError, Maps};
use crate::{
    loader::LoadedMaps,
    sys::{GracePeriod, MappedArray},
};

/// Writes to the maps of a loaded object.
pub struct AyaMaps {
    enrol: HashMap<MapData, u64, Workload>,
    enrolled: Enrolled,
    filter: Filter,
    frontend: HashMap<MapData, FrontendKey, Frontend>,
    address: HashMap<MapData, AddressKey, maps::Address>,
    cidr: LpmTrie<MapData, CidrKey, Cidr>,
    service: MappedArray<Service>,
    slot: Array<MapData, maps::Slot>,
    backend: Array<MapData, maps::Backend>,
    count: PerCpuArray<MapData, u64>,
    service_count: PerCpuArray<MapData, ServiceCount>,
    resolver: HashMap<MapData, Addr16, Resolver>,
    config: Arc<MappedArray<Config>>,
    grace: GracePeriod,
    capacities: Capacities,
}

/// Writes the heartbeat that keeps DNS captured; see [`Config::heartbeat_ns`].
#[derive(Clone, Debug)]
pub struct Heartbeat {
    config: Arc<MappedArray<Config>>,
    has_stopped: Arc<Mutex<bool>>,
}

impl Heartbeat {
    /// Says that the loop that serves DNS runs.
    pub fn beat(&self) {
        let has_stopped = self.has_stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*has_stopped {
            self.write(monotonic_ns());
        }
    }

    /// From now on queries go to the resolvers; this cannot be taken back by a beat.
    pub fn stop(&self) {
        *self.has_stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.write(0);
    }

    fn write(&self, time_ns: u64) {
        let stored = self.config.store(0, offset_of!(Config, heartbeat_ns), time_ns);
        debug_assert!(stored.is_ok(), "the configuration has one element");
    }
}

/// `CLOCK_MONOTONIC`, which is the clock of `bpf_ktime_get_ns`.
fn monotonic_ns() -> u64 {
    let Ok(now) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) else { return 0 };
    u64::try_from(now.tv_sec()).unwrap_or_default() * 1_000_000_000
        + u64::try_from(now.tv_nsec()).unwrap_or_default()
}

impl std::fmt::Debug for AyaMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AyaMaps").field("capacities", &self.capacities).finish_non_exhaustive()
    }
}

impl AyaMaps {
    /// Takes over the maps of a loaded object.
    ///
    /// # Errors
    /// The kernel refused to map one into memory, or to make the map that grace periods need.
    pub fn new(mut loaded: LoadedMaps, capacities: Capacities) -> Result<Self, MapError> {
        let config = MappedArray::new(loaded.fd(l::MAP_CONFIG)?, 1).map_err(sys(l::MAP_CONFIG, "mmap"))?;
        let service = MappedArray::new(loaded.fd(l::MAP_SERVICE)?, capacities.services)
            .map_err(sys(l::MAP_SERVICE, "mmap"))?;
        let enrol: HashMap<MapData, u64, Workload> = loaded.take(l::MAP_ENROL)?;
        let rows = read::all(enrol.iter(), l::MAP_ENROL)?;
        let enrolled =
            Enrolled::new(loaded.fd(l::MAP_ENROL_PLACE)?, &rows).map_err(sys(l::MAP_ENROL_PLACE, "mmap"))?;
        let filter = Filter::new(loaded.fd(l::MAP_FILTER)?).map_err(sys(l::MAP_FILTER, "mmap"))?;
        Ok(Self {
            enrol,
            enrolled,
            filter,
            frontend: loaded.take(l::MAP_FRONTEND)?,
            address: loaded.take(l::MAP_ADDRESS)?,
            cidr: loaded.take(l::MAP_CIDR)?,
            service,
            slot: loaded.take(l::MAP_SLOT)?,
            backend: loaded.take(l::MAP_BACKEND)?,
            count: loaded.take(l::MAP_COUNT)?,
            service_count: loaded.take(l::MAP_SERVICE_COUNT)?,
            resolver: loaded.take(l::MAP_RESOLVER)?,
            config: Arc::new(config),
            grace: GracePeriod::new().map_err(sys("kmse_grace", "create"))?,
            capacities,
        })
    }

    /// Writes the heartbeat from elsewhere.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat { config: self.config.clone(), has_stopped: Arc::default() }
    }

    /// Writes what the programs need to know of the agent. The heartbeat, the depths of enrolled cgroups and the number of
    /// ranges are kept: in maps that are taken over, programs may be using them.
    ///
    /// # Errors
    /// A word lies outside the map, which cannot be.
    pub fn write_config(&mut self, config: Config) -> Result<(), MapError> {
        let kept = [offset_of!(Config, levels), offset_of!(Config, heartbeat_ns), offset_of!(Config, cidrs)];
        let words = std::mem::size_of::<Config>() / 8;
        // SAFETY: `Config` is plain old data (`aya::Pod`) without implicit padding, 8-byte aligned, of `words` words.
        let source = unsafe { std::slice::from_raw_parts((&raw const config).cast::<u64>(), words) };
        for (index, word) in source.iter().enumerate().filter(|(index, _)| !kept.contains(&(index * 8))) {
            self.config.store(0, index * 8, *word).map_err(sys(l::MAP_CONFIG, "write"))?;
        }
        Ok(())
    }

    /// Has the programs send connects that work as events, too, or no longer.
    ///
    /// # Errors
    /// As [`AyaMaps::write_config`].
    pub fn set_trace(&mut self, is_traced: bool) -> Result<(), MapError> {
        let flags = if is_traced { CONFIG_TRACE } else { 0 };
        self.change_config(offset_of!(Config, flags), &flags.to_ne_bytes())
    }

    /// Says which ports at the listeners' addresses are listeners, so that others there can be dialled.
    ///
    /// # Errors
    /// As [`AyaMaps::write_config`].
    pub fn set_dns_ports(&mut self, first: u16, last: u16) -> Result<(), MapError> {
        let [a, b] = first.to_ne_bytes();
        let [c, d] = last.to_ne_bytes();
        self.change_config(offset_of!(Config, dns_port_first), &[a, b, c, d])
    }

    /// Changes some bytes of the configuration that lie within one word. Only the agent's loop does so.
    fn change_config(&mut self, at: usize, value: &[u8]) -> Result<(), MapError> {
        let (word_at, within) = (at / 8 * 8, at % 8);
        let outside = || sys(l::MAP_CONFIG, "write")(io::Error::from(io::ErrorKind::InvalidInput));
        let word = self.config.word(0, word_at).ok_or_else(outside)?;
        let mut bytes = word.load(Ordering::Acquire).to_ne_bytes();
        bytes.get_mut(within..within + value.len()).ok_or_else(outside)?.copy_from_slice(value);
        self.config.store(0, word_at, u64::from_ne_bytes(bytes)).map_err(sys(l::MAP_CONFIG, "write"))
    }

    /// Has port 53 of these resolvers captured, in this order, and of no others.
    ///
    /// # Errors
    /// There are more than [`l::MAX_RESOLVERS`], or the kernel refused.
    pub fn write_resolvers(&mut self, resolvers: &[std::net::IpAddr]) -> Result<(), MapError> {
        for (addr, _) in read::all(self.resolver.iter(), l::MAP_RESOLVER)? {
            if !resolvers.contains(&addr::to_ip(addr)) {
                remove(&mut self.resolver, &addr, l::MAP_RESOLVER)?;
            }
        }
        for (index, resolver) in (0..).zip(resolvers) {
            self.resolver
                .insert(addr::from_ip(*resolver), Resolver { index }, 0)
                .map_err(|e| write_error(e, l::MAP_RESOLVER, l::MAX_RESOLVERS, "resolvers"))?;
        }
        Ok(())
    }

    /// The counters of all outcomes, summed over the CPUs.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let read = |outcome: Outcome| self.count.get(&(outcome as u32), 0).map_or(0, |v| v.iter().sum());
        Outcome::ALL.iter().map(|(outcome, name)| (*name, read(*outcome))).collect()
    }

    /// The counters of one service, summed over the CPUs.
    #[must_use]
    pub fn service_count(&self, id: u32) -> ServiceCount {
        let values = self.service_count.get(&id, 0);
        values.iter().flat_map(|v| v.iter()).fold(ServiceCount::default(), |sum, one| ServiceCount {
            connects: sum.connects + one.connects,
            refused: sum.refused + one.refused,
        })
    }
}

impl LoadedMaps {
    fn take<T: TryFrom<aya::maps::Map, Error = AyaError>>(
        &mut self,
        name: &'static str,
    ) -> Result<T, MapError> {
        let missing = || sys(name, "open")(io::Error::from(io::ErrorKind::NotFound));
        T::try_from(self.take_map(name).ok_or_else(missing)?)
            .map_err(|e| sys(name, "open")(io::Error::other(e)))
    }

    fn fd(&self, name: &'static str) -> Result<std::os::fd::BorrowedFd<'_>, MapError> {
        let missing = || sys(name, "open")(io::Error::from(io::ErrorKind::NotFound));
        match self.map(name).ok_or_else(missing)? {
            aya::maps::Map::Array(data) => Ok(data.fd().as_fd()),
            _ => Err(missing()),
        }
    }
}

fn sys(map: &'static str, call: &'static str) -> impl Fn(io::Error) -> MapError {
    move |error| MapError::Sys { map, call, error: error.to_string() }
}

fn write_error(error: AyaError, map: &'static str, capacity: u32, flag: &'static str) -> MapError {
    match &error {
        // A trie answers otherwise than a hash map.
        AyaError::SyscallError(e)
            if matches!(e.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) =>
        {
            MapError::Full { map, capacity, flag }
        }
        _ => MapError::Sys { map, call: "write", error: chain(&error) },
    }
}

/// The whole chain of an error in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn remove<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    key: &K,
    name: &'static str,
) -> Result<(), MapError> {
    removed(map.remove(key), name)
}

fn removed(result: Result<(), AyaError>, name: &'static str) -> Result<(), MapError> {
    match result {
        Ok(()) | Err(AyaError::KeyNotFound) => Ok(()),
        Err(AyaError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(write_error(error, name, 0, "")),
    }
}

impl Maps for AyaMaps {
    fn set_backend(&mut self, id: u32, backend: maps::Backend) -> Result<(), MapError> {
        self.backend
            .set(id, backend, 0)
            .map_err(|e| write_error(e, l::MAP_BACKEND, self.capacities.backends, "backends"))
    }

    fn set_slot(&mut self, id: u32, slot: maps::Slot) -> Result<(), MapError> {
        self.slot.set(id, slot, 0).map_err(|e| write_error(e, l::MAP_SLOT, self.capacities.slots, "slots"))
    }

    fn set_service(&mut self, id: u32, service: Service) -> Result<(), MapError> {
        // SAFETY: both are 8 plain bytes; the type is aligned to 8 and in the layout that the programs read.
        let word = unsafe { std::mem::transmute::<Service, u64>(service) };
        self.service.store(id, 0, word).map_err(sys(l::MAP_SERVICE, "write"))
    }

    fn reset_service_count(&mut self, id: u32) -> Result<(), MapError> {
        let error = sys(l::MAP_SERVICE_COUNT, "write");
        let cpus = aya::util::nr_cpus().map_err(|(_, e)| error(e))?;
        let zero = PerCpuValues::try_from(vec![ServiceCount::default(); cpus]).map_err(&error)?;
        self.service_count.set(id, zero, 0).map_err(|e| error(io::Error::other(e)))
    }

    fn insert_frontend(&mut self, key: FrontendKey, service: u32) -> Result<(), MapError> {
        if key.prefix == PREFIX_SINGLE {
            self.filter.add(&key.addr).map_err(sys(l::MAP_FILTER, "write"))?;
        }
        let full = self.capacities.frontends;
        self.frontend
            .insert(key, Frontend { service }, 0)
            .map_err(|e| write_error(e, l::MAP_FRONTEND, full, "frontends"))
    }

    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), MapError> {
        remove(&mut self.frontend, &key, l::MAP_FRONTEND)
    }

    fn insert_address(&mut self, key: AddressKey, address: maps::Address) -> Result<(), MapError> {
        self.filter.add(&key.addr).map_err(sys(l::MAP_FILTER, "write"))?;
        let full = self.capacities.addresses;
        self.address.insert(key, address, 0).map_err(|e| write_error(e, l::MAP_ADDRESS, full, "addresses"))
    }

    fn remove_address(&mut self, key: AddressKey) -> Result<(), MapError> {
        remove(&mut self.address, &key, l::MAP_ADDRESS)
    }

    fn insert_cidr(&mut self, key: CidrKey, cidr: Cidr) -> Result<(), MapError> {
        let bits = u32::BITS + cidr.prefix;
        self.cidr
            .insert(&Key::new(bits, key), cidr, 0)
            .map_err(|e| write_error(e, l::MAP_CIDR, self.capacities.cidrs, "cidrs"))
    }

    fn remove_cidr(&mut self, key: CidrKey, prefix: u8) -> Result<(), MapError> {
        removed(self.cidr.remove(&Key::new(CidrKey::bits(prefix), key)), l::MAP_CIDR)
    }

    fn set_cidr_count(&mut self, count: u32) -> Result<(), MapError> {
        let at = offset_of!(Config, cidrs);
        self.config.store(0, at, count.into()).map_err(sys(l::MAP_CONFIG, "write"))
    }

    fn insert_workload(&mut self, cgroup: u64, workload: Workload) -> Result<(), MapError> {
        let full = self.capacities.workloads;
        let error = sys(l::MAP_ENROL_PLACE, "write");
        self.enrolled.hide(cgroup).map_err(&error)?;
        self.enrol
            .insert(cgroup, workload, 0)
            .map_err(|e| write_error(e, l::MAP_ENROL, full, "workloads"))?;
        self.enrolled.show(cgroup, workload, || self.grace.wait()).map_err(error)
    }

    fn remove_workload(&mut self, cgroup: u64) -> Result<(), MapError> {
        remove(&mut self.enrol, &cgroup, l::MAP_ENROL)?;
        self.enrolled.removed(cgroup).map_err(sys(l::MAP_ENROL_PLACE, "write"))
    }

    fn set_levels(&mut self, levels: [u8; MAX_LEVELS]) -> Result<(), MapError> {
        self.config
            .store(0, offset_of!(Config, levels), u64::from_ne_bytes(levels))
            .map_err(sys(l::MAP_CONFIG, "write"))
    }

    fn contents(&self) -> Result<Contents, MapError> {
        let mut contents = Contents {
            frontends: self.read_frontends()?,
            addresses: self.read_addresses()?,
            cidrs: self.read_cidrs()?,
            workloads: self.read_workloads()?,
            ..Contents::default()
        };
        let services = (0..self.capacities.services).filter_map(|id| Some((id, self.read_service(id)?)));
        contents.services = services.filter(|(_, word)| *word != Service::EMPTY).collect();
        for word in contents.services.values() {
            for slot_id in word.slot_base..word.slot_base.saturating_add(word.slot_count()) {
                let Some(slot) = self.read_slot(slot_id)? else { continue };
                for id in [slot.backend, slot.alias] {
                    contents.backends.extend(self.read_backend(id)?.map(|backend| (id, backend)));
                }
                contents.slots.insert(slot_id, slot);
            }
        }
        Ok(contents)
    }

    fn wait_for_readers(&mut self) -> Result<(), MapError> {
        self.grace.wait().map_err(sys("kmse_grace", "update"))
    }
}
