//! The rows of the maps in words, without the ids that the kernel side needs.
//!
//! In: nothing. Out: plain values that `diff` compares. Never: an id, which is the sink's own affair.

use std::{borrow::Cow, collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use serde::Serialize;

use super::{AddressRange, Few, Scope};
use crate::model::{HostName, ObjectRef, Transport, WaypointName};

/// A virtual address and port as the clients of one scope see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Frontend {
    /// Whose view.
    pub scope: Scope,
    /// The virtual address, or a range of them.
    pub address: AddressRange,
    /// The port that clients dial.
    pub port: u16,
    /// The transport.
    pub transport: Transport,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} scope {}", self.address.with_port(self.port), self.transport, self.scope)
    }
}

/// Which service: one port of one host of one entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServiceKey {
    /// The host.
    pub host: HostName,
    /// The entry that it comes from.
    pub entry: ObjectRef,
    /// The entry's port number.
    pub port: u16,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} of {}", self.host, self.port, self.entry)
    }
}

/// One address to dial. Within a service each address and port occurs once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Backend {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Share of the connections, at least 1.
    pub weight: u32,
    /// What it was resolved from: a name, or the address itself.
    pub source: Arc<str>,
}

/// What connections to a service are led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LedTo {
    /// Its own backends, sorted.
    Backends(Vec<Backend>),
    /// A port of a waypoint, at any of its replicas.
    Waypoint(WaypointName, u16),
}

impl LedTo {
    /// The waypoint, if it is one.
    #[must_use]
    pub fn waypoint(&self) -> Option<&WaypointName> {
        match self {
            Self::Backends(_) => None,
            Self::Waypoint(waypoint, _) => Some(waypoint),
        }
    }

    /// Whether it is nothing at all. A waypoint has replicas while a service is led to it.
    #[must_use]
    pub fn is_nowhere(&self) -> bool {
        matches!(self, Self::Backends(backends) if backends.is_empty())
    }

    /// The backends that connections get, where the replicas of waypoints are these.
    #[must_use]
    pub fn backends<R: IntoIterator<Item = IpAddr>>(
        &self,
        replicas: impl FnOnce(&WaypointName) -> R,
    ) -> Cow<'_, [Backend]> {
        match self {
            Self::Backends(backends) => Cow::Borrowed(backends),
            Self::Waypoint(waypoint, port) => {
                let source: Arc<str> = format!("waypoint {waypoint}").into();
                let backend = |address| Backend { address, port: *port, weight: 1, source: source.clone() };
                Cow::Owned(replicas(waypoint).into_iter().map(backend).collect())
            }
        }
    }
}

/// A virtual address, or a range of them, in one scope.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Address {
    /// Whose view.
    pub scope: Scope,
    /// The virtual address, or a range of them.
    pub address: AddressRange,
}

/// What a port without a frontend gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Unlisted {
    /// The user wrote the address; it may be real.
    #[default]
    Pass,
    /// The address is an automatic VIP, which exists only here.
    Refuse,
}

/// What happens at an address besides its frontends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AddressRule {
    /// What a port without a frontend gets.
    pub unlisted: Unlisted,
    /// A service of this address, with a backend of its family if there is one, by which resolver libraries sort it.
    pub sorts_by: Option<ServiceKey>,
}

/// Rows of the maps: all of them, or those of some hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// What each service leads to.
    pub services: Few<ServiceKey, LedTo>,
    /// The replicas of each waypoint that services are led to. Rows of some hosts have none: see `Desired::rows`.
    pub waypoints: Few<WaypointName, BTreeSet<IpAddr>>,
    /// The service of each frontend.
    pub frontends: Few<Frontend, ServiceKey>,
    /// The addresses and ranges in use.
    pub addresses: Few<Address, AddressRule>,
}

/// Which rows: the keys of [`Tables`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `Tables`")]
pub struct Keys {
    pub services: BTreeSet<ServiceKey>,
    pub waypoints: BTreeSet<WaypointName>,
    pub frontends: BTreeSet<Frontend>,
    pub addresses: BTreeSet<Address>,
}

impl Keys {
    /// Adds all of `other`.
    pub fn extend(&mut self, other: Self) {
        self.services.extend(other.services);
        self.waypoints.extend(other.waypoints);
        self.frontends.extend(other.frontends);
        self.addresses.extend(other.addresses);
    }
}

impl Tables {
    /// The keys of all rows, and of the waypoints that its services are led to.
    #[must_use]
    pub fn into_keys(self) -> Keys {
        let mut waypoints: BTreeSet<_> = self.waypoints.into_keys().collect();
        waypoints.extend(self.services.values().filter_map(LedTo::waypoint).cloned());
        Keys {
            waypoints,
            services: self.services.into_keys().collect(),
            frontends: self.frontends.into_keys().collect(),
            addresses: self.addresses.into_keys().collect(),
        }
    }

    /// The rows `keys`, as far as they are there.
    #[must_use]
    pub fn rows(&self, keys: &Keys) -> Self {
        fn pick<K: Ord + Clone, V: Clone>(from: &Few<K, V>, keys: &BTreeSet<K>) -> Few<K, V> {
            keys.iter().filter_map(|k| Some((k.clone(), from.get(k)?.clone()))).collect()
        }
        Self {
            services: pick(&self.services, &keys.services),
            waypoints: pick(&self.waypoints, &keys.waypoints),
            frontends: pick(&self.frontends, &keys.frontends),
            addresses: pick(&self.addresses, &keys.addresses),
        }
    }

    /// The backends that connections to a service get: its own, or its waypoint's replicas.
    #[must_use]
    pub fn backends_of(&self, service: &ServiceKey) -> Cow<'_, [Backend]> {
        let Some(led_to) = self.services.get(service) else { return Cow::default() };
        led_to.backends(|waypoint| self.waypoints.get(waypoint).into_iter().flatten().copied())
    }
}
