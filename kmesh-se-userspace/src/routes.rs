//! `unreachable` routes for the ranges of virtual addresses, in the agent's network namespace.
//!
//! In: ranges. Out: one route for each in the main table, so that whatever the programs do not handle (MPTCP, a client that
//! is not enrolled and has a virtual address cached) fails at once. Never: a change to a route that is not ours.

use std::io;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    Handle, RouteMessageBuilder, new_connection_with_strict_check,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
    },
};

/// The protocol number of our routes, by which they are told from everybody else's: `ip route show proto 107`.
pub const PROTOCOL: u8 = 107;

/// Why a route is not as it should be. The agent works without; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The kernel's routes cannot be asked for.
    #[error("cannot read the routes of this network namespace: {error}; {}", hint(error))]
    Read {
        /// The kernel's answer.
        error: io::Error,
    },
    /// The kernel did not set or remove one.
    #[error("cannot {action} the unreachable route for {range}: {error}; {}", hint(error))]
    Refused {
        /// `set` or `remove`.
        action: &'static str,
        /// The range.
        range: IpNet,
        /// The kernel's answer.
        error: io::Error,
    },
    /// Somebody else has a route for exactly this range.
    #[error(
        "another route for {range} is there (protocol {protocol}) and is left alone: remove it, or give the agent another \
         range (--vip-v4, --vip-v6, --dynamic-v4, --dynamic-v6), or --vip-routes false"
    )]
    Foreign {
        /// The range.
        range: IpNet,
        /// The other route's protocol number.
        protocol: u8,
    },
}

impl RouteError {
    /// Code for labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "RoutesNotReadable",
            Self::Refused { .. } => "RouteRefused",
            Self::Foreign { .. } => "RouteForeign",
        }
    }

    /// The range that it is about; none for all.
    #[must_use]
    pub fn range(&self) -> Option<IpNet> {
        match self {
            Self::Read { .. } => None,
            Self::Refused { range, .. } | Self::Foreign { range, .. } => Some(*range),
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "grant CAP_NET_ADMIN in the agent's network namespace, or give --vip-routes false"
        }
        _ if is_unsupported(error) => {
            "this kernel is without that family: start one with it, or give --vip-routes false"
        }
        _ => "give --vip-routes false to do without",
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP))
}

/// Makes our routes those for `wanted`, and removes what an earlier agent set for other ranges. What is there already stays
/// as it is.
pub async fn set(wanted: &[IpNet]) -> Vec<RouteError> {
    let found = match Connection::open() {
        Ok(connection) => connection.routes().await.map(|found| (connection, found)),
        Err(error) => Err(RouteError::Read { error }),
    };
    let (connection, found) = match found {
        Ok(found) => found,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for change in plan(&found, wanted) {
        let done = match change {
            Change::Set(range) => connection.set(range).await,
            Change::Remove(range) => connection.remove(range).await,
            Change::LeaveAlone(range, protocol) => Err(RouteError::Foreign { range, protocol }),
        };
        errors.extend(done.err());
    }
    errors
}

/// The ranges that have a route of ours.
///
/// # Errors
/// [`RouteError::Read`].
pub async fn ours() -> Result<Vec<IpNet>, RouteError> {
    let connection = Connection::open().map_err(|error| RouteError::Read { error })?;
    let found = connection.routes().await?;
    Ok(found.into_iter().filter(|route| route.is_ours).map(|route| route.range).collect())
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    range: IpNet,
    is_ours: bool,
    protocol: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Set(IpNet),
    Remove(IpNet),
    /// It has a route with this protocol number.
    LeaveAlone(IpNet, u8),
}

/// What to do so that ours are those for `wanted`; the old go first.
fn plan(found: &[Found], wanted: &[IpNet]) -> Vec<Change> {
    let of = |range: IpNet| found.iter().filter(move |route| route.range == range);
    let outdated = found.iter().filter(|route| route.is_ours && !wanted.contains(&route.range));
    let mut changes: Vec<Change> = outdated.map(|route| Change::Remove(route.range)).collect();
    for range in wanted {
        if let Some(other) = of(*range).find(|route| !route.is_ours) {
            changes.push(Change::LeaveAlone(*range, other.protocol));
        } else if of(*range).next().is_none() {
            changes.push(Change::Set(*range));
        }
    }
    changes
}

/// A connection to the kernel of the namespace in which it was opened.
struct Connection(Handle);

impl Connection {
    fn open() -> io::Result<Self> {
        let (connection, handle, _messages) = new_connection_with_strict_check()?;
        // Ends with the handle.
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    async fn routes(&self) -> Result<Vec<Found>, RouteError> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            filter.header.table = RouteHeader::RT_TABLE_MAIN;
            let mut routes = self.0.route().get(filter).execute();
            loop {
                match routes.try_next().await.map_err(io) {
                    Ok(Some(route)) => found.extend(read(&route)),
                    Ok(None) => break,
                    // It has no routes.
                    Err(error) if is_unsupported(&error) => break,
                    Err(error) => return Err(RouteError::Read { error }),
                }
            }
        }
        Ok(found)
    }

    async fn set(&self, range: IpNet) -> Result<(), RouteError> {
        match self.0.route().add(message(range)).execute().await.map_err(io) {
            // Another agent was quicker.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            done => done.map_err(|error| RouteError::Refused { action: "set", range, error }),
        }
    }

    async fn remove(&self, range: IpNet) -> Result<(), RouteError> {
        match self.0.route().del(message(range)).execute().await.map_err(io) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            done => done.map_err(|error| RouteError::Refused { action: "remove", range, error }),
        }
    }
}

/// Our route for a range, which names it for setting and for removing.
fn message(range: IpNet) -> RouteMessage {
    let protocol = RouteProtocol::Other(PROTOCOL);
    let (to, length) = (range.network(), range.prefix_len());
    match to {
        std::net::IpAddr::V4(to) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(to, length)
            .protocol(protocol)
            .kind(RouteType::Unreachable)
            .build(),
        std::net::IpAddr::V6(to) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(to, length)
            .protocol(protocol)
            .kind(RouteType::Unreachable)
            .build(),
    }
}

/// What a route is to us; none if it is of another table or family.
fn read(route: &RouteMessage) -> Option<Found> {
    let header = &route.header;
    if header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let to = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(to)) => Some((*to).into()),
        RouteAttribute::Destination(RouteAddress::Inet6(to)) => Some((*to).into()),
        _ => None,
    });
    // A default route names no destination.
    let to: std::net::IpAddr = to.or(match header.address_family {
        AddressFamily::Inet => Some(std::net::Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(std::net::Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    })?;
    let range = IpNet::new(to, header.destination_prefix_length).ok()?;
    let protocol = u8::from(header.protocol);
    Some(Found { range, protocol, is_ours: protocol == PROTOCOL && header.kind == RouteType::Unreachable })
}

/// The errno in an answer of the kernel.
fn io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a range")
    }

    #[test]
    fn only_what_is_missing_is_set_and_only_ours_is_removed() {
        let ours = |range| Found { range: net(range), is_ours: true, protocol: PROTOCOL };
        let other = |range| Found { range: net(range), is_ours: false, protocol: 4 };
        let wanted = [net("240.240.0.0/16"), net("2001:2::/48")];
        let set = wanted.map(Change::Set);
        assert_eq!(plan(&[], &wanted), set);
        assert_eq!(plan(&[ours("240.240.0.0/16"), ours("2001:2::/48")], &wanted), []);
        assert_eq!(plan(&[ours("240.240.0.0/16")], &wanted), [set[1]]);
        assert_eq!(
            plan(&[ours("240.241.0.0/16"), ours("240.240.0.0/24"), other("10.0.0.0/8")], &wanted),
            [Change::Remove(net("240.241.0.0/16")), Change::Remove(net("240.240.0.0/24")), set[0], set[1]]
        );
        assert_eq!(
            plan(&[other("240.240.0.0/16"), other("240.0.0.0/8")], &wanted),
            [Change::LeaveAlone(wanted[0], 4), set[1]]
        );
        assert_eq!(plan(&[ours("2001:2::/48"), other("2001:2::/48")], &[]), [Change::Remove(wanted[1])]);
    }

    #[test]
    fn a_route_is_read_as_it_is_written() {
        for range in ["240.240.0.0/16", "2001:2::/48", "0.0.0.0/0", "::/0"].map(net) {
            let wanted = Found { range, is_ours: true, protocol: PROTOCOL };
            assert_eq!(read(&message(range)), Some(wanted));
            let mut other = message(range);
            other.header.kind = RouteType::Unicast;
            assert_eq!(read(&other), Some(Found { is_ours: false, ..wanted }));
        }
    }
}
