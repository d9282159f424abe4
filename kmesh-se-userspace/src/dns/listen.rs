//! Where the server listens.
//!
//! In: one address of a family, or one of each. Out: [`DnsListen`], which knows the listener of a resolver. Never: a
//! wildcard, since replies come from the address that was asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::DnsError;

/// The port at which the first block begins unless `--dns-listen` says otherwise.
const DEFAULT_PORT: u16 = 15053;

/// At most one address of each family, and the first port, which is the same for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsListen {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    port: u16,
}

impl DnsListen {
    /// Checks addresses that were written by a person.
    ///
    /// # Errors
    /// There is none, two of one family, a wildcard, or two ports; the addresses must change.
    pub fn new(addresses: &[SocketAddr]) -> Result<Self, DnsError> {
        let Some(first) = addresses.first() else { return Err(DnsError::NoAddress) };
        let mut listen = Self { v4: None, v6: None, port: first.port() };
        for address in addresses {
            let ip = address.ip().to_canonical();
            if ip.is_unspecified() || ip.is_multicast() {
                return Err(DnsError::NotOneAddress { address: *address });
            }
            if address.port() != listen.port {
                return Err(DnsError::PortsDiffer { first: *first, second: *address });
            }
            let earlier = match ip {
                IpAddr::V4(v4) => listen.v4.replace(v4).map(IpAddr::V4),
                IpAddr::V6(v6) => listen.v6.replace(v6).map(IpAddr::V6),
            };
            if let Some(earlier) = earlier {
                let first = SocketAddr::new(earlier, address.port());
                return Err(DnsError::TwoOfAFamily { first, second: *address });
            }
        }
        Ok(listen)
    }

    /// Loopback, of both families if this host has both.
    #[must_use]
    pub fn loopback() -> Self {
        let has_v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        Self { v4: Some(Ipv4Addr::LOCALHOST), v6: has_v6.then_some(Ipv6Addr::LOCALHOST), port: DEFAULT_PORT }
    }

    /// The address at which queries to `resolver` are served: of its family, if there is one.
    #[must_use]
    pub fn for_resolver(&self, resolver: &SocketAddr) -> Option<IpAddr> {
        match resolver.ip().to_canonical() {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    /// The IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.v4
    }

    /// The IPv6 address.
    #[must_use]
    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.v6
    }

    /// The first port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

impl std::fmt::Display for DnsListen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, address) in self.addresses().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", SocketAddr::new(address, self.port))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(texts: &[&str]) -> Result<String, &'static str> {
        let addresses: Vec<_> = texts.iter().map(|text| text.parse().expect("an address")).collect();
        DnsListen::new(&addresses).map(|listen| listen.to_string()).map_err(|error| error.reason())
    }

    #[test]
    fn takes_one_address_of_each_family_with_the_same_port() {
        for (given, wanted) in [
            (&["10.0.0.1:15053"][..], Ok("10.0.0.1:15053")),
            (&["[fd00::1]:15053"], Ok("[fd00::1]:15053")),
            (&["[fd00::1]:53", "10.0.0.1:53"], Ok("10.0.0.1:53, [fd00::1]:53")),
            (&["[::ffff:10.0.0.1]:53"], Ok("10.0.0.1:53")),
            (&[], Err("NoAddress")),
            (&["10.0.0.1:53", "10.0.0.2:53"], Err("TwoOfAFamily")),
            (&["[fd00::1]:53", "[fd00::2]:53"], Err("TwoOfAFamily")),
            (&["10.0.0.1:53", "[fd00::2]:54"], Err("PortsDiffer")),
            (&["0.0.0.0:53"], Err("NotOneAddress")),
            (&["[::]:53"], Err("NotOneAddress")),
        ] {
            assert_eq!(listen(given).as_deref(), wanted.as_ref().map(|text| *text), "{given:?}");
        }
    }

    #[test]
    fn a_resolver_is_served_in_its_own_family_only() {
        let both = DnsListen::new(&[
            "10.0.0.1:53".parse().expect("an address"),
            "[fd00::]:53".parse().expect("an address"),
        ])
        .expect("good addresses");
        let only_v4 = DnsListen::new(&["10.0.0.1:53".parse().expect("an address")]).expect("good addresses");
        let (v4, v6) =
            ("192.0.2.1:53".parse().expect("an address"), "[2001:db8::1]:53".parse().expect("an address"));
        assert_eq!(both.for_resolver(&v4), Some("10.0.0.1".parse().expect("an address")));
        assert_eq!(both.for_resolver(&v6), Some("fd00::".parse().expect("an address")));
        assert_eq!(only_v4.for_resolver(&v6), None);
    }
}
