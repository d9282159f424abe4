//! Keys and values of the maps.
//!
//! In: nothing. Out: `repr(C)` types of integers and byte arrays only, with their layout asserted. Ports are in host
//! order, so that `bpftool map dump` shows 80 as 80. Never: a pointer, a bool, or hidden padding.

mod addresses;

pub use self::addresses::{
    Address, AddressKey, Cidr, CidrKey, Frontend, FrontendKey, PREFIX_SINGLE, PREFIX_V4, SCOPE_MESH,
    UNLISTED_PASS, UNLISTED_REFUSE,
};
use crate::{addr::Addr16, limits::MAX_LEVELS};

/// Who a cgroup is: value of `kmse_enrol`, keyed by cgroup id (the inode number of its directory).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The scope of its namespace; see [`FrontendKey::scope`].
    pub scope: u32,
    /// Id of the workload, for events.
    pub id: u32,
    /// `WORKLOAD_…` flags.
    pub flags: u32,
    /// Listener port for its namespace and the first resolver, host order; resolver `i` is at `dns_port + i`. 0: DNS is not captured.
    pub dns_port: u16,
    #[doc(hidden)]
    pub _pad: u16,
}

/// Never handled, although an ancestor is enrolled (the agent itself).
pub const WORKLOAD_EXEMPT: u32 = 1;
/// The workload's scope has frontends of its own, which are looked up before the mesh's.
pub const WORKLOAD_PRIVATE_VIEW: u32 = 2;

/// The enrolled cgroup whose id falls on this place, so that most callers need no look-up in `kmse_enrol`: value of
/// `kmse_enrol_at`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnrolPlace {
    /// Its id; 0: none is enrolled. [`ENROL_ASK`]: look it up.
    pub cgroup: u64,
    /// As in `kmse_enrol`.
    pub workload: Workload,
    #[doc(hidden)]
    pub _pad: u64,
}

/// [`EnrolPlace::cgroup`] of a place that several share, or whose workload is being changed.
pub const ENROL_ASK: u64 = u64::MAX;

/// Where a service's slots lie: value of `kmse_service`. Read and written as one aligned 8-byte word, so a reader sees
/// the old runs or the new ones. Each family has a run of its own, IPv4 first: who dials an address of one family gets a
/// backend of that family, and one of the other only when there is none.
///
/// With [`THROUGH_WAYPOINT`] as its last count, the service has no slots of its own: `slot_base` is the id of its waypoint, which is
/// a row of this map, too, and `v4_count` the port there. The slots of a waypoint are its replicas, whose backends have port 0.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// First slot in `kmse_slot`.
    pub slot_base: u32,
    /// Number of slots with IPv4 backends, from `slot_base`.
    pub v4_count: u16,
    /// Number of slots with IPv6 backends, behind those; or [`THROUGH_WAYPOINT`].
    pub v6_count: u16,
}

/// [`Service::v6_count`] of a service that goes through a waypoint.
pub const THROUGH_WAYPOINT: u16 = u16::MAX;

impl Service {
    /// The most slots of one family.
    pub const MAX_COUNT: u16 = THROUGH_WAYPOINT - 1;

    /// A service without backends.
    pub const EMPTY: Self = Self { slot_base: 0, v4_count: 0, v6_count: 0 };

    /// A service that goes to a port of the waypoint with this id.
    #[must_use]
    pub const fn through(waypoint: u32, port: u16) -> Self {
        Self { slot_base: waypoint, v4_count: port, v6_count: THROUGH_WAYPOINT }
    }

    /// The id of the waypoint that the service goes through, and the port there; none if it has slots of its own.
    #[inline(always)]
    #[must_use]
    pub const fn waypoint(self) -> Option<(u32, u16)> {
        if self.v6_count == THROUGH_WAYPOINT { Some((self.slot_base, self.v4_count)) } else { None }
    }

    /// The number of its own slots, of both runs.
    #[must_use]
    pub const fn slot_count(self) -> u32 {
        if self.waypoint().is_some() { 0 } else { self.v4_count as u32 + self.v6_count as u32 }
    }

    /// First slot and number of slots for who dials an address of this family. Not of a service that goes through a waypoint.
    #[inline(always)]
    #[must_use]
    pub const fn run(self, v4: bool) -> (u32, u32) {
        if self.v6_count == 0 || (v4 && self.v4_count > 0) {
            (self.slot_base, self.v4_count as u32)
        } else {
            (self.slot_base + self.v4_count as u32, self.v6_count as u32)
        }
    }
}

/// One column of Vose's alias table: value of `kmse_slot`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Chosen when the fraction is below `threshold`; index into `kmse_backend`.
    pub backend: u32,
    /// Chosen otherwise; index into `kmse_backend`.
    pub alias: u32,
    /// Share of `backend` in this column, as a fraction of 2^32; `u32::MAX` with `alias == backend` is all of it.
    pub threshold: u32,
}

/// An address to dial: value of `kmse_backend`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The address.
    pub addr: Addr16,
    /// The port, host order; 0 of a waypoint's replica, whose port each service has.
    pub port: u16,
    #[doc(hidden)]
    pub _pad: u16,
}

/// A virtual address and the address that it was replaced by on one socket. All zero: none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// What the client dialled.
    pub vip: Addr16,
    /// What it was replaced by.
    pub backend: Addr16,
    /// Port that the client dialled, host order.
    pub vip_port: u16,
    /// Port that it was replaced by, host order; 0: this mapping is empty.
    pub backend_port: u16,
    /// Index into `kmse_service`, or [`NO_SERVICE`].
    pub service: u32,
    /// Where the backend was found last among the slots of its family; only of [`SockState::sent`]. A datagram socket keeps its
    /// backend while it is listed, and mostly it is found here again.
    pub column: u32,
    #[doc(hidden)]
    pub _pad: u32,
}

/// [`Mapping::service`] of a captured DNS query, and of a connect that only sorts addresses.
pub const NO_SERVICE: u32 = u32::MAX;

impl Mapping {
    /// No mapping.
    pub const EMPTY: Self = Self {
        vip: [0; 16],
        backend: [0; 16],
        vip_port: 0,
        backend_port: 0,
        service: NO_SERVICE,
        column: 0,
        _pad: 0,
    };
}

/// What the last connect of a socket was rewritten to: value of `kmse_conn`, at the socket's cookie modulo the capacity.
/// A socket whose place is taken keeps it in [`SockState::connected`] instead.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Cookie of the socket that holds this place, or was the last to do so.
    pub cookie: u64,
    /// As [`SockState::connected`].
    pub mapping: Mapping,
    #[doc(hidden)]
    pub _pad: u64,
}

/// What is remembered for a socket: value of `kmse_sk`. The kernel locks a socket around each program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockState {
    /// Made by `connect` when the socket's place in `kmse_conn` was taken.
    pub connected: Mapping,
    /// Made by the first unconnected `sendmsg` and kept, but for [`Mapping::column`]. What comes later is in `kmse_udp`,
    /// and has precedence.
    pub sent: Mapping,
    /// The newest row of this socket in `kmse_udp`; its port is 0 when there is none.
    pub newest: UdpLink,
}

/// A row of one socket in `kmse_udp`: which address, and which way.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpLink {
    /// The address.
    pub addr: Addr16,
    /// The port, host order.
    pub port: u16,
    /// [`UDP_DIALLED`] or [`UDP_BACKEND`].
    pub way: u8,
    #[doc(hidden)]
    pub _pad: [u8; 5],
}

impl UdpLink {
    /// No row.
    pub const NONE: Self = Self { addr: [0; 16], port: 0, way: 0, _pad: [0; 5] };
}

/// [`UdpLink::way`] from a virtual address to the backend that this socket keeps for it.
pub const UDP_DIALLED: u8 = 0;
/// [`UdpLink::way`] from a backend back to the address that was dialled last to reach it.
pub const UDP_BACKEND: u8 = 1;

/// An address that a datagram socket sends to or hears from: key of `kmse_udp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// The address.
    pub at: UdpLink,
}

/// Value of `kmse_udp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpPeer {
    /// The backend, or the address that was dialled.
    pub addr: Addr16,
    /// Its port, host order.
    pub port: u16,
    #[doc(hidden)]
    pub _pad: u16,
    /// As [`Mapping::service`]; only of [`UDP_DIALLED`].
    pub service: u32,
    /// As [`Mapping::column`]; only of [`UDP_DIALLED`].
    pub column: u32,
    /// The row that was made before this one, for removing them all when the socket is closed.
    pub older: UdpLink,
}

/// The one value of `kmse_config`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// [`crate::limits::LAYOUT_VERSION`] of the agent that wrote the maps.
    pub layout: u32,
    /// IPv4 address of the DNS listeners; all zero: DNS of IPv4 is not captured.
    pub dns4: [u8; 4],
    /// IPv6 address of the DNS listeners; all zero: DNS of IPv6 is not captured.
    pub dns6: Addr16,
    /// First port that a DNS listener may have, host order.
    pub dns_port_first: u16,
    /// Last port that a DNS listener may have, host order.
    pub dns_port_last: u16,
    /// `CONFIG_…` flags.
    pub flags: u32,
    /// Depths of the cgroup tree that hold enrolled cgroups, the deepest first, ended by [`crate::limits::LEVEL_END`].
    pub levels: [u8; MAX_LEVELS],
    /// When the loop that serves DNS last ran, nanoseconds of `CLOCK_MONOTONIC`.
    pub heartbeat_ns: u64,
    /// DNS is captured until this long after the heartbeat, nanoseconds.
    pub heartbeat_max_ns: u64,
    /// Number of rows of `kmse_cidr`, which is not looked into while there are none.
    pub cidrs: u64,
}

/// Somebody traces: connects that work are sent as events, too.
pub const CONFIG_TRACE: u32 = 1;

/// Value of `kmse_resolver`, keyed by the resolver's address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// Added to [`Workload::dns_port`].
    pub index: u32,
}

/// What became of a connection or datagram: index into `kmse_count`, and the kind of an [`Event`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A connect was rewritten to a backend.
    Connected = 0,
    /// An unconnected datagram was rewritten to a backend.
    Sent = 1,
    /// Refused with `EHOSTUNREACH`: the service has no backend.
    NoBackend = 2,
    /// Refused with `ECONNREFUSED`: the virtual address has no such port.
    PortNotListed = 3,
    /// Refused with `EHOSTUNREACH`: an IPv4 socket, or a datagram, cannot reach a backend of the other family.
    FamilyMismatch = 4,
    /// A DNS query went to the agent.
    DnsCaptured = 5,
    /// A DNS query went to the real resolver, because the agent's heartbeat is old.
    DnsBypassed = 6,
    /// Refused with `ECONNREFUSED`: the DNS listener was dialled straight.
    ListenerDialled = 7,
    /// The kernel could not remember the socket; it works, but shows the backend's address.
    NotRemembered = 8,
    /// An event was dropped, by the rate limit or because the ring buffer was full.
    EventLost = 9,
    /// A connect or datagram went where it was dialled, which is an address or range of an entry that leaves it alone: by
    /// resolution NONE, or because the port is not listed.
    Passed = 10,
}

impl Outcome {
    /// How many there are.
    pub const COUNT: u32 = 11;

    /// All of them with their names, in the order of their numbers.
    pub const ALL: [(Self, &'static str); Self::COUNT as usize] = [
        (Self::Connected, "connected"),
        (Self::Sent, "sent"),
        (Self::NoBackend, "noBackend"),
        (Self::PortNotListed, "portNotListed"),
        (Self::FamilyMismatch, "familyMismatch"),
        (Self::DnsCaptured, "dnsCaptured"),
        (Self::DnsBypassed, "dnsBypassed"),
        (Self::ListenerDialled, "listenerDialled"),
        (Self::NotRemembered, "notRemembered"),
        (Self::EventLost, "eventLost"),
        (Self::Passed, "passed"),
    ];
}

/// Value of `kmse_svc_count`, on each CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCount {
    /// Connects and first datagrams rewritten.
    pub connects: u64,
    /// Connects and datagrams refused.
    pub refused: u64,
}

/// What one CPU has sent of events in this second; the one value of `kmse_rate`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRate {
    /// Start of the second, nanoseconds of `CLOCK_MONOTONIC`.
    pub start_ns: u64,
    /// Events sent since.
    pub sent: u64,
}

/// A refusal, as sent through `kmse_event`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The [`Outcome`].
    pub outcome: u32,
    /// [`Workload::id`] of the client.
    pub workload: u32,
    /// [`Workload::scope`] of the client.
    pub scope: u32,
    /// Process id (thread group) of the client, in the agent's initial namespace.
    pub pid: u32,
    /// The address dialled.
    pub addr: Addr16,
    /// The port dialled, host order.
    pub port: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub proto: u8,
    #[doc(hidden)]
    pub _pad: [u8; 5],
}

/// A connect that was rewritten, as sent through `kmse_event` while [`CONFIG_TRACE`] is set.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectEvent {
    /// Who dialled what; its outcome is [`Outcome::Connected`].
    pub event: Event,
    /// What the address was replaced by.
    pub backend: Addr16,
    /// Index into `kmse_service`.
    pub service: u32,
    /// What the port was replaced by, host order.
    pub backend_port: u16,
    #[doc(hidden)]
    pub _pad: u16,
    /// The name of the calling thread, ended by a zero if it is shorter.
    pub comm: [u8; 16],
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Workload>() == 16);
    assert!(size_of::<EnrolPlace>() == 32 && offset_of!(EnrolPlace, workload) == 8);
    assert!(size_of::<Service>() == 8);
    assert!(size_of::<Slot>() == 12);
    assert!(size_of::<Backend>() == 20);
    assert!(size_of::<Mapping>() == 48 && offset_of!(Mapping, service) == 36);
    assert!(size_of::<Connection>() == 64);
    assert!(size_of::<SockState>() == 120 && offset_of!(SockState, newest) == 96);
    assert!(size_of::<UdpLink>() == 24 && offset_of!(UdpLink, way) == 18);
    assert!(size_of::<UdpKey>() == 32);
    assert!(size_of::<UdpPeer>() == 52 && offset_of!(UdpPeer, older) == 28);
    assert!(size_of::<Config>() == 64 && offset_of!(Config, heartbeat_ns) == 40);
    assert!(offset_of!(Config, flags) == 28 && offset_of!(Config, cidrs) == 56);
    assert!(size_of::<Event>() == 48 && offset_of!(Event, addr) == 24);
    assert!(size_of::<ConnectEvent>() == 88 && offset_of!(ConnectEvent, comm) == 72);
};

#[cfg(feature = "user")]
mod pod {
    use super::*;

    macro_rules! pod {
        ($($name:ident),+) => {
            // SAFETY: `repr(C)`, integers and byte arrays only, no implicit padding (asserted above).
            $(unsafe impl aya::Pod for $name {})+
        };
    }
    pod!(
        Workload,
        EnrolPlace,
        FrontendKey,
        Frontend,
        AddressKey,
        Address,
        CidrKey,
        Cidr,
        Service,
        Slot,
        Backend,
        Mapping,
        Connection,
        SockState,
        UdpLink,
        UdpKey,
        UdpPeer,
        Config,
        Resolver,
        ServiceCount,
        EventRate,
        Event,
        ConnectEvent
    );
}
