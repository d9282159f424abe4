//! Names of maps and programs, their default capacities, and other bounds.
//!
//! In: nothing. Out: constants. Never: a value that depends on the machine.

/// Version of the layout of every map but the per-socket ones; a change of any type in [`crate::maps`] raises it.
pub const LAYOUT_VERSION: u32 = 5;

/// Version of the layout of the maps that hold state of sockets: `kmse_conn`, `kmse_sk` and `kmse_udp`.
pub const SOCKET_LAYOUT_VERSION: u32 = 4;

/// cgroup id -> [`crate::maps::Workload`].
pub const MAP_ENROL: &str = "kmse_enrol";
/// cgroup id modulo [`ENROL_PLACES`] -> [`crate::maps::EnrolPlace`].
pub const MAP_ENROL_PLACE: &str = "kmse_enrol_at";
/// Bit [`crate::addr::filter_bit`] -> whether [`MAP_FRONTEND`] or [`MAP_ADDRESS`] may hold such a single address.
pub const MAP_FILTER: &str = "kmse_filter";
/// [`crate::maps::FrontendKey`] -> [`crate::maps::Frontend`].
pub const MAP_FRONTEND: &str = "kmse_frontend";
/// [`crate::maps::AddressKey`] -> [`crate::maps::Address`].
pub const MAP_ADDRESS: &str = "kmse_address";
/// [`crate::maps::CidrKey`], by its leading bits -> [`crate::maps::Cidr`].
pub const MAP_CIDR: &str = "kmse_cidr";
/// service id -> [`crate::maps::Service`], mapped into user space.
pub const MAP_SERVICE: &str = "kmse_service";
/// slot -> [`crate::maps::Slot`].
pub const MAP_SLOT: &str = "kmse_slot";
/// backend id -> [`crate::maps::Backend`].
pub const MAP_BACKEND: &str = "kmse_backend";
/// socket -> [`crate::maps::SockState`].
pub const MAP_SK: &str = "kmse_sk";
/// socket cookie modulo the capacity -> [`crate::maps::Connection`].
pub const MAP_CONNECTION: &str = "kmse_conn";
/// The same place -> how many sockets hold or try to take it: who finds a 1 after adding one holds it, the others go back.
pub const MAP_CLAIM: &str = "kmse_conn_use";
/// [`crate::maps::UdpKey`] -> [`crate::maps::UdpPeer`].
pub const MAP_UDP: &str = "kmse_udp";
/// [`crate::maps::Outcome`] -> count, per CPU.
pub const MAP_COUNT: &str = "kmse_count";
/// service id -> [`crate::maps::ServiceCount`], per CPU.
pub const MAP_SERVICE_COUNT: &str = "kmse_svc_count";
/// Ring buffer of [`crate::maps::Event`].
pub const MAP_EVENT: &str = "kmse_event";
/// How many events each CPU has sent in this second.
pub const MAP_RATE: &str = "kmse_rate";
/// The one [`crate::maps::Config`].
pub const MAP_CONFIG: &str = "kmse_config";
/// resolver address -> [`crate::maps::Resolver`].
pub const MAP_RESOLVER: &str = "kmse_resolver";

/// All maps.
pub const MAPS: [&str; 19] = [
    MAP_ENROL,
    MAP_ENROL_PLACE,
    MAP_FILTER,
    MAP_FRONTEND,
    MAP_ADDRESS,
    MAP_CIDR,
    MAP_SERVICE,
    MAP_SLOT,
    MAP_BACKEND,
    MAP_SK,
    MAP_CONNECTION,
    MAP_CLAIM,
    MAP_UDP,
    MAP_COUNT,
    MAP_SERVICE_COUNT,
    MAP_EVENT,
    MAP_RATE,
    MAP_CONFIG,
    MAP_RESOLVER,
];

/// Default capacity of the enrolment map, in cgroups.
pub const MAX_WORKLOADS: u32 = 4096;
/// Places of the table in front of the enrolment map, a power of two; cgroups that share a place cost a look-up more.
pub const ENROL_PLACES: u32 = 8192;
/// Bits of the filter in front of the maps of addresses, a power of two.
pub const FILTER_BITS: u32 = 1 << 20;
/// Default capacity of the frontend map.
pub const MAX_FRONTENDS: u32 = 131_072;
/// Default capacity of the known-address map.
pub const MAX_ADDRESSES: u32 = 131_072;
/// Default capacity of the map of address ranges; a row takes memory only when it is there.
pub const MAX_CIDRS: u32 = 65_536;
/// Default number of services; a waypoint counts as one.
pub const MAX_SERVICES: u32 = 65_536;
/// Default number of slots over all services; a change needs room for the old and the new run.
pub const MAX_SLOTS: u32 = 524_288;
/// Default number of backends.
pub const MAX_BACKENDS: u32 = 262_144;
/// Default number of places for connected sockets, a power of two; who finds its place taken uses socket storage, which
/// takes longer.
pub const MAX_CONNECTIONS: u32 = 65_536;
/// Capacity of the table of further datagram peers, which have two rows each. When it is full, the peer that was used least
/// recently is forgotten: its next answer shows the backend's own address.
pub const MAX_UDP_PEERS: u32 = 65_536;
/// How many rows of that table are removed at once when their socket is closed; the kernel forgets the rest by age.
pub const MAX_UDP_RELEASE: u32 = 1024;
/// How many backends are looked through to find out whether a service still lists the one that a datagram socket uses.
pub const MAX_KEEP_SCAN: u32 = 64;
/// Most resolvers whose port 53 is captured; each has a listener port for each namespace.
pub const MAX_RESOLVERS: u32 = 8;
/// Size of the event ring buffer, bytes.
pub const EVENT_BYTES: u32 = 256 * 1024;
/// Most events that one CPU sends in a second; the rest is only counted.
pub const EVENTS_PER_SECOND: u32 = 100;
/// How many depths of the cgroup tree may hold enrolled cgroups at the same time.
pub const MAX_LEVELS: usize = 8;
/// Ends the list in [`crate::maps::Config::levels`].
pub const LEVEL_END: u8 = u8::MAX;
/// The port of the discard service, host order: where a connect goes that only asks whether an address is reachable.
pub const DISCARD_PORT: u16 = 9;
/// The port of DNS, host order.
pub const DNS_PORT: u16 = 53;
