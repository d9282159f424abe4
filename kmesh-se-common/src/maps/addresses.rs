//! From an address that clients dial to a service.
//!
//! In: nothing. Out: keys and values of `kmse_frontend`, `kmse_address` and `kmse_cidr`. Never: a backend.

use crate::addr::Addr16;

/// Scope of what every namespace sees.
pub const SCOPE_MESH: u32 = 0;

/// A virtual address or a range of them, port and protocol: key of `kmse_frontend`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// [`SCOPE_MESH`], or the id of the namespace whose clients see this frontend.
    pub scope: u32,
    /// The virtual address; of a range the first.
    pub addr: Addr16,
    /// The port that the client dials, host order.
    pub port: u16,
    /// `IPPROTO_TCP` (6) or `IPPROTO_UDP` (17).
    pub proto: u8,
    /// How many bits of the address count: [`PREFIX_SINGLE`], or as [`Cidr::prefix`].
    pub prefix: u8,
}

/// The prefix of a single address.
pub const PREFIX_SINGLE: u8 = 128;
/// The prefix of all of IPv4, which is a range of v4-mapped addresses.
pub const PREFIX_V4: u8 = 96;

/// Value of `kmse_frontend`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Index into `kmse_service`.
    pub service: u32,
}

/// A single address that some entry has: key of `kmse_address`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressKey {
    /// As [`FrontendKey::scope`].
    pub scope: u32,
    /// The virtual address.
    pub addr: Addr16,
}

/// Value of `kmse_address`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// What a port without a frontend gets: [`UNLISTED_PASS`] or [`UNLISTED_REFUSE`].
    pub unlisted: u32,
    /// A service of this address, index into `kmse_service`: a datagram socket that is connected to an unlisted port, by
    /// which resolver libraries sort addresses, is led to one of its backends. [`super::NO_SERVICE`] with [`UNLISTED_PASS`].
    pub sorts_by: u32,
}

/// A scope and an address, of which the longest run of leading bits is looked for: key of `kmse_cidr`, behind the number of
/// those bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CidrKey {
    /// As [`FrontendKey::scope`], in network order: all its bits count, so no range is found in another scope.
    pub scope: [u8; 4],
    /// The address; in a row the first of the range.
    pub addr: Addr16,
}

impl CidrKey {
    /// The key of a range, or of an address to look for.
    #[inline(always)]
    #[must_use]
    pub const fn new(scope: u32, addr: Addr16) -> Self {
        Self { scope: scope.to_be_bytes(), addr }
    }

    /// How many bits count in all when so many of the address do.
    #[inline(always)]
    #[must_use]
    pub const fn bits(prefix: u8) -> u32 {
        u32::BITS + prefix as u32
    }
}

/// A range of addresses that some entry has: value of `kmse_cidr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The first address: with `prefix` the key of the range's frontends.
    pub addr: Addr16,
    /// How many bits of the address count; those in front of a v4-mapped one included.
    pub prefix: u32,
    /// As of a single address.
    pub rule: Address,
}

impl Cidr {
    /// Whether an address that lies in this range is meant by it: `::/0` holds all v4-mapped addresses, too, but is a range
    /// of IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn means(&self, is_v4: bool) -> bool {
        !is_v4 || self.prefix >= PREFIX_V4 as u32
    }
}

/// The address may be real: the connection passes unchanged.
pub const UNLISTED_PASS: u32 = 0;
/// The address is ours alone: refused at once.
pub const UNLISTED_REFUSE: u32 = 1;

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<FrontendKey>() == 24 && offset_of!(FrontendKey, port) == 20);
    assert!(size_of::<AddressKey>() == 20);
    assert!(size_of::<Address>() == 8);
    assert!(size_of::<CidrKey>() == 20 && size_of::<Cidr>() == 28);
};
