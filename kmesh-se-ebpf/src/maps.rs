//! The maps.
//!
//! In: their layout, from `kmesh-se-common`. Out: statics. Never: a capacity that the loader cannot change.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    macros::btf_map,
};
use kmesh_se_common::{
    addr::Addr16,
    limits::{
        ENROL_PLACES, EVENT_BYTES, FILTER_BITS, MAX_ADDRESSES, MAX_BACKENDS, MAX_CIDRS, MAX_CONNECTIONS,
        MAX_FRONTENDS, MAX_RESOLVERS, MAX_SERVICES, MAX_SLOTS, MAX_UDP_PEERS, MAX_WORKLOADS,
    },
    maps::{
        Address, AddressKey, Backend, Cidr, CidrKey, Config, Connection, EnrolPlace, EventRate, Frontend,
        FrontendKey, Outcome, Resolver, Service, ServiceCount, Slot, SockState, UdpKey, UdpPeer, Workload,
    },
};

/// Room for as many resolvers as are captured, in both spellings of a family.
const RESOLVERS: usize = MAX_RESOLVERS as usize;

#[btf_map(name = "kmse_enrol")]
pub(crate) static ENROL: HashMap<u64, Workload, { MAX_WORKLOADS as usize }> = HashMap::new();
#[btf_map(name = "kmse_enrol_at")]
pub(crate) static ENROL_PLACE: Array<EnrolPlace, { ENROL_PLACES as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map(name = "kmse_filter")]
pub(crate) static FILTER: Array<u64, { (FILTER_BITS / u64::BITS) as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map(name = "kmse_frontend")]
pub(crate) static FRONTEND: HashMap<FrontendKey, Frontend, { MAX_FRONTENDS as usize }> = HashMap::new();
#[btf_map(name = "kmse_address")]
pub(crate) static ADDRESS: HashMap<AddressKey, Address, { MAX_ADDRESSES as usize }> = HashMap::new();
#[btf_map(name = "kmse_cidr")]
pub(crate) static CIDR: LpmTrie<CidrKey, Cidr, { MAX_CIDRS as usize }> = LpmTrie::new();
#[btf_map(name = "kmse_service")]
pub(crate) static SERVICE: Array<Service, { MAX_SERVICES as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map(name = "kmse_slot")]
pub(crate) static SLOT: Array<Slot, { MAX_SLOTS as usize }> = Array::new();
#[btf_map(name = "kmse_backend")]
pub(crate) static BACKEND: Array<Backend, { MAX_BACKENDS as usize }> = Array::new();
#[btf_map(name = "kmse_conn")]
pub(crate) static CONNECTION: Array<Connection, { MAX_CONNECTIONS as usize }, { BPF_F_MMAPABLE as usize }> =
    Array::new();
#[btf_map(name = "kmse_conn_use")]
pub(crate) static CLAIM: Array<u64, { MAX_CONNECTIONS as usize }> = Array::new();
#[btf_map(name = "kmse_sk")]
pub(crate) static SK: SkStorage<SockState> = SkStorage::new();
#[btf_map(name = "kmse_udp")]
pub(crate) static UDP: LruHashMap<UdpKey, UdpPeer, { MAX_UDP_PEERS as usize }> = LruHashMap::new();
#[btf_map(name = "kmse_count")]
pub(crate) static COUNT: PerCpuArray<u64, { Outcome::COUNT as usize }> = PerCpuArray::new();
#[btf_map(name = "kmse_svc_count")]
pub(crate) static SERVICE_COUNT: PerCpuArray<ServiceCount, { MAX_SERVICES as usize }> = PerCpuArray::new();
#[btf_map(name = "kmse_event")]
pub(crate) static EVENT: RingBuf<(), { EVENT_BYTES as usize }> = RingBuf::new();
#[btf_map(name = "kmse_rate")]
pub(crate) static RATE: PerCpuArray<EventRate, 1> = PerCpuArray::new();
#[btf_map(name = "kmse_config")]
pub(crate) static CONFIG: Array<Config, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map(name = "kmse_resolver")]
pub(crate) static RESOLVER: HashMap<Addr16, Resolver, RESOLVERS> = HashMap::new();

/// Number of places in `kmse_conn`, a power of two, less one; the loader sets it.
#[unsafe(no_mangle)]
pub(crate) static KMSE_CONN_MASK: u32 = MAX_CONNECTIONS - 1;
/// Whether the kernel has `bpf_set_retval` (Linux 5.18); the loader sets it. Elsewhere a refusal is `EPERM`.
#[unsafe(no_mangle)]
pub(crate) static KMSE_SET_RETVAL: u8 = 0;
/// Whether the kernel has `bpf_skc_to_mptcp_sock` (Linux 5.19); the loader sets it. Elsewhere MPTCP is taken for TCP.
#[unsafe(no_mangle)]
pub(crate) static KMSE_MPTCP: u8 = 0;
