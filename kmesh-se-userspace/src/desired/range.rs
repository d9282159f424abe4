//! One address, or a range of them.
//!
//! In: addresses and CIDRs. Out: one type for both, which shows a single address without a prefix. Never: a range that is not
//! masked.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A virtual address, or a range of them: `10.0.0.1`, `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AddressRange(IpNet);

impl AddressRange {
    /// The address, if it is one.
    #[must_use]
    pub fn single(&self) -> Option<IpAddr> {
        (self.0.prefix_len() == self.0.max_prefix_len()).then(|| self.0.addr())
    }

    /// The first address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.0.network()
    }

    /// How many bits are the same in all of it, of 32 or 128.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether all of `other` lies in it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Every range that holds `address`, the narrowest first, which is the address itself.
    pub fn around(address: IpAddr) -> impl Iterator<Item = Self> {
        let whole = IpNet::from(address);
        (0..=whole.max_prefix_len())
            .rev()
            .filter_map(move |prefix| Some(IpNet::new(address, prefix).ok()?.into()))
    }

    /// The same with a port: `10.0.0.1:80`, `10.0.0.0/8:80`, `[fd00::/64]:80`.
    pub fn with_port(self, port: u16) -> impl fmt::Display {
        struct WithPort(AddressRange, u16);
        impl fmt::Display for WithPort {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self(range, port) = self;
                if range.0.addr().is_ipv4() {
                    write!(f, "{range}:{port}")
                } else {
                    write!(f, "[{range}]:{port}")
                }
            }
        }
        WithPort(self, port)
    }
}

impl From<IpAddr> for AddressRange {
    fn from(address: IpAddr) -> Self {
        Self(address.into())
    }
}

impl From<IpNet> for AddressRange {
    fn from(network: IpNet) -> Self {
        Self(network.trunc())
    }
}

impl FromStr for AddressRange {
    type Err = ipnet::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<IpAddr>().map(Self::from).or_else(|_| text.parse::<IpNet>().map(Self::from))
    }
}

impl TryFrom<String> for AddressRange {
    type Error = ipnet::AddrParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(address) => address.fmt(f),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().expect("a range")
    }

    #[test]
    fn a_single_address_shows_no_prefix_and_a_range_is_masked() {
        for (written, shown, at_80, single) in [
            ("10.1.2.3", "10.1.2.3", "10.1.2.3:80", true),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.3:80", true),
            ("10.1.2.3/8", "10.0.0.0/8", "10.0.0.0/8:80", false),
            ("0.0.0.0/0", "0.0.0.0/0", "0.0.0.0/0:80", false),
            ("fd00::1", "fd00::1", "[fd00::1]:80", true),
            ("fd00::1/64", "fd00::/64", "[fd00::/64]:80", false),
        ] {
            let range = range(written);
            assert_eq!((range.to_string(), range.with_port(80).to_string()), (shown.into(), at_80.into()));
            assert_eq!(range.single().is_some(), single, "{written}");
            let json = serde_json::to_value(range).expect("JSON");
            assert_eq!((&json, serde_json::from_value(json.clone()).ok()), (&shown.into(), Some(range)));
        }
        assert!("10.0.0.0/33".parse::<AddressRange>().is_err());
    }

    #[test]
    fn the_ranges_around_an_address_come_narrowest_first_and_are_of_its_family() {
        let around: Vec<_> = AddressRange::around(IpAddr::from([10, 1, 2, 3])).collect();
        assert_eq!(around.len(), 33);
        assert_eq!(
            (around[0], around[16], around[32]),
            (range("10.1.2.3"), range("10.1.0.0/16"), range("0.0.0.0/0"))
        );
        assert!(around.is_sorted_by(|narrow, wide| wide.contains(narrow)));
        let around: Vec<_> = AddressRange::around("fd00::1".parse().expect("an address")).collect();
        assert_eq!((around.len(), around[128]), (129, range("::/0")));
    }
}
