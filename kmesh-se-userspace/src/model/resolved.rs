//! What names resolve to.
//!
//! In: answers of a resolver, or a hosts file. Out: addresses by name. Never: a query.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use super::HostName;

/// The addresses of one name, each family in the order of the newest answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// From A records.
    pub v4: Vec<Ipv4Addr>,
    /// From AAAA records.
    pub v6: Vec<Ipv6Addr>,
}

impl Addresses {
    /// All addresses, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.v4.iter().copied().map(IpAddr::V4).chain(self.v6.iter().copied().map(IpAddr::V6))
    }

    /// Whether neither family has an address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// name -> addresses. A name that is absent was never answered.
pub type Resolved = BTreeMap<HostName, Addresses>;
