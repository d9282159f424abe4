//! One address format for both families.
//!
//! In: IPv4 and IPv6 addresses. Out: 16 bytes in network order, IPv4 as v4-mapped IPv6 (`::ffff:a.b.c.d`).
//! Never: a port or a scope.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::FILTER_BITS;

/// An address as 16 bytes in network order; IPv4 is stored v4-mapped, so that a socket of either family
/// finds it by one look-up. A byte array, so that `bpftool map dump` shows it as a person would write it.
pub type Addr16 = [u8; 16];

/// The third 32-bit word of every v4-mapped address, as it lies in memory.
pub const V4_MAPPED_WORD: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// `address` in the shared format.
#[must_use]
pub const fn from_ip(address: IpAddr) -> Addr16 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address that `bytes` holds; a v4-mapped one comes back as IPv4.
#[must_use]
pub const fn to_ip(bytes: Addr16) -> IpAddr {
    match bytes {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        other => IpAddr::V6(Ipv6Addr::from_octets(other)),
    }
}

/// The four 32-bit words of `bytes` as they lie in memory, which is how `bpf_sock_addr.user_ip6` has them.
#[inline(always)]
#[must_use]
pub const fn words(bytes: &Addr16) -> [u32; 4] {
    let b = bytes;
    [
        u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
        u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
        u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
    ]
}

/// The bytes of four words, the inverse of [`words`].
#[inline(always)]
#[must_use]
pub const fn from_words(words: [u32; 4]) -> Addr16 {
    // SAFETY: both are 16 plain bytes without padding.
    unsafe { core::mem::transmute(words) }
}

/// The bit of an address in `kmse_filter`, below [`FILTER_BITS`]: the high bits of a product spread neighbours.
#[inline(always)]
#[must_use]
pub const fn filter_bit(words: [u32; 4]) -> u32 {
    (words[0] ^ words[1] ^ words[2] ^ words[3]).wrapping_mul(0x9e37_79b1)
        >> (u32::BITS - FILTER_BITS.trailing_zeros())
}

/// Whether `words` hold a v4-mapped address.
#[inline(always)]
#[must_use]
pub const fn is_v4_mapped(words: &[u32; 4]) -> bool {
    words[0] == 0 && words[1] == 0 && words[2] == V4_MAPPED_WORD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_shared_format() {
        for text in ["240.240.0.1", "2001:2::1", "::", "::1", "0.0.0.0"] {
            let ip: IpAddr = text.parse().expect("an address");
            assert_eq!(to_ip(from_ip(ip)), ip);
            assert_eq!(from_words(words(&from_ip(ip))), from_ip(ip));
            assert_eq!(is_v4_mapped(&words(&from_ip(ip))), ip.is_ipv4(), "{text}");
        }
    }

    #[test]
    fn a_v4_mapped_address_is_the_ipv4_address() {
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().expect("an address");
        assert_eq!(from_ip(mapped), from_ip("10.0.0.1".parse().expect("an address")));
    }
}
