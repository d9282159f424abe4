//! What an explanation is made from.
//!
//! In: filled by `agent`. Out: read by the steps. Never: a type that only a kernel could fill.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::{
    desired::{AddressRange, Backend, Frontend, Scope, ServiceKey, Unlisted},
    model::{HostName, Resolution, Transport, WaypointName},
};

/// Everything that is known about one target.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// As it was written.
    pub target: String,
    /// What that means.
    pub asked: Asked,
    /// Whose view.
    pub namespace: String,
    /// How the agent is doing.
    pub agent: AgentFacts,
    /// Who asks.
    pub client: Client,
    /// The host that the target is, or whose address it is; none for an address that no host has.
    pub name: Option<NameFacts>,
    /// The address or range by which an address that was asked for is the host's.
    pub found_by: Option<AddressRange>,
    /// What clients would dial: each address with each port.
    pub dials: Vec<Dial>,
    /// The services that the dials lead to, by id, as the kernel has them.
    pub services: BTreeMap<u32, LiveService>,
    /// The names that backends are resolved from.
    pub sources: BTreeMap<String, SourceFacts>,
}

/// A host or an address, perhaps with a port.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The host; none when an address was given.
    pub host: Option<HostName>,
    /// The address, when one was given.
    pub address: Option<IpAddr>,
    /// The port; none for all that there are.
    pub port: Option<u16>,
    /// Whether only UDP was asked for.
    pub udp: bool,
}

/// A target that is neither a host nor an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no target: write HOST, HOST:PORT, an address, IPV4:PORT or [IPV6]:PORT")]
pub struct TargetError {
    text: String,
}

impl Asked {
    /// Reads `HOST`, `HOST:PORT`, an address, `IPV4:PORT` or `[IPV6]:PORT`.
    ///
    /// # Errors
    /// It is none of them.
    pub fn parse(text: &str, udp: bool) -> Result<Self, TargetError> {
        let error = || TargetError { text: text.to_owned() };
        let port = |digits: &str| digits.parse().ok().filter(|port: &u16| *port > 0).ok_or_else(error);
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self { address: Some(address.to_canonical()), udp, ..Self::default() });
        }
        if let Ok(socket) = text.parse::<SocketAddr>() {
            let port = Some(port(&socket.port().to_string())?);
            return Ok(Self { address: Some(socket.ip().to_canonical()), port, udp, host: None });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, digits)) => (name, Some(port(digits)?)),
            None => (text, None),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '*');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(error());
        }
        Ok(Self { host: Some(HostName::new(name)), port, udp, address: None })
    }

    /// The transport that a given port is for.
    pub(super) fn transport(&self) -> Transport {
        if self.udp { Transport::Udp } else { Transport::Tcp }
    }
}

/// How the agent is doing.
#[derive(Clone, Copy, Debug)]
pub struct AgentFacts {
    /// Whether the programs are attached.
    pub attached: bool,
    /// Whether the source has told all that existed at start.
    pub synced: bool,
    /// Whether names are answered now.
    pub dns_served: bool,
    /// Files, or other origins, that gave no objects.
    pub problems: usize,
}

impl Default for AgentFacts {
    fn default() -> Self {
        Self { attached: true, synced: true, dns_served: true, problems: 0 }
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Client {
    /// Anybody in the namespace, in which so many cgroups are enrolled.
    Anybody {
        /// Enrolled cgroups of this namespace.
        enrolled: usize,
    },
    /// A pod that is not enrolled.
    Pod {
        /// `namespace/name`.
        pod: String,
        /// CamelCase code.
        reason: String,
        /// Why, as a sentence without its subject's name.
        message: String,
    },
    /// The processes of one cgroup.
    Cgroup {
        /// Its path.
        path: String,
        /// The enrolment that applies, of the cgroup itself or of the nearest cgroup above it.
        enrolled: Option<EnrolledAs>,
    },
}

impl Default for Client {
    fn default() -> Self {
        Self::Anybody { enrolled: 1 }
    }
}

/// An enrolment, as the kernel has it.
#[derive(Clone, Debug)]
pub struct EnrolledAs {
    /// The enrolled cgroup.
    pub path: String,
    /// Its namespace; none when it is exempt.
    pub namespace: Option<String>,
    /// Whether the programs look at this depth of the tree.
    pub is_looked_up: bool,
}

/// A host with all that was said about it.
#[derive(Clone, Debug, Default)]
pub struct NameFacts {
    /// The host as the entries spell it; it may be a wildcard.
    pub host: String,
    /// The accepted entries that name it, the oldest first.
    pub entries: Vec<EntryFacts>,
    /// The Service of Kubernetes that has the name for clients of this namespace, as `Service namespace/name`.
    pub service: Option<String>,
    /// The rejected objects that name it.
    pub rejected: Vec<RejectedFacts>,
    /// What the DNS server answers clients of this namespace.
    pub answered: Option<Answered>,
    /// The addresses that clients of this namespace would get once the name is answered.
    pub vips: Vec<IpAddr>,
    /// What an entry that clients see waits for, if nobody has allocated an address for the host yet.
    pub pending: Option<String>,
    /// What could not be programmed.
    pub failures: Vec<FailureFacts>,
}

/// An accepted entry that names the host.
#[derive(Clone, Debug)]
pub struct EntryFacts {
    /// `ServiceEntry namespace/name`.
    pub object: String,
    /// Whether clients of the namespace see it.
    pub is_visible: bool,
    /// Who sees it, in words: `every namespace`.
    pub visible_to: String,
    /// The ports that it serves for this namespace; others may be shadowed.
    pub serves: Vec<(u16, Transport)>,
    /// All its ports.
    pub ports: Vec<(u16, Transport)>,
    /// Its resolution.
    pub resolution: Resolution,
    /// How many endpoints it has, selected workloads included.
    pub endpoints: usize,
    /// Whether its endpoints are workloads that it selects.
    pub has_selector: bool,
    /// Whether all its endpoints are Unix sockets.
    pub only_unix: bool,
    /// Its addresses that are ranges.
    pub ranges: Vec<AddressRange>,
    /// The names that its backends are resolved from.
    pub names: Vec<String>,
}

/// A rejected object that names the host.
#[derive(Clone, Debug)]
pub struct RejectedFacts {
    /// `ServiceEntry namespace/name`.
    pub object: String,
    /// Its errors.
    pub errors: Vec<String>,
}

/// What could not be programmed.
#[derive(Clone, Debug)]
pub struct FailureFacts {
    /// CamelCase code.
    pub reason: String,
    /// What happened and what to do.
    pub message: String,
}

/// What the DNS server answers.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    /// The addresses of an A query.
    pub v4: Vec<IpAddr>,
    /// The addresses of an AAAA query.
    pub v6: Vec<IpAddr>,
    /// Addresses that are not answered, because no backend can be reached through their family.
    pub withheld: Vec<IpAddr>,
    /// The entry.
    pub entry: String,
    /// Whose view.
    pub scope: String,
}

/// One address and port, as the maps have it.
#[derive(Clone, Debug)]
pub struct Dial {
    /// The virtual address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The transport.
    pub transport: Transport,
    /// What the kernel finds, in the order in which the programs look.
    pub lookups: Vec<Lookup>,
    /// The frontend that the host wants, and the service it is to lead to.
    pub own: Option<(Frontend, ServiceKey)>,
    /// The service that the frontend is to lead to; another host's when that has an older claim.
    pub winner: Option<ServiceKey>,
    /// The older host that has the address dialled straight, so that the frontend leads nowhere.
    pub straight: Option<HostName>,
}

impl Dial {
    pub(super) fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// `240.240.0.1:80/TCP`; without a port that was not asked for.
    pub(super) fn shown(&self) -> String {
        match (self.port, self.transport) {
            (0, _) => self.address.to_string(),
            (_, transport) => format!("{}/{}", self.socket(), super::causes::word(transport)),
        }
    }
}

/// One look-up in the kernel.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Whose view.
    pub scope: Scope,
    /// The service of the frontend, if it is there.
    pub service: Option<u32>,
    /// What other ports of the address get, if the address is known.
    pub unlisted: Option<Unlisted>,
    /// The range that it was found by; none if by itself.
    pub range: Option<AddressRange>,
}

/// A service as the kernel has it.
#[derive(Clone, Debug)]
pub struct LiveService {
    /// Whose it is; none when the agent has given no such id.
    pub key: Option<ServiceKey>,
    /// First slot, of its own or of the waypoint that it is led to.
    pub slot_base: u32,
    /// Number of slots.
    pub slot_count: u32,
    /// The waypoint that it is led to.
    pub through: Option<LiveWaypoint>,
    /// The backends that the slots lead to; the shares of each family add up to 1.
    pub backends: Vec<LiveBackend>,
    /// The backends that it should have.
    pub wanted: Vec<Backend>,
    /// The waypoint that it is bound to, if it is.
    pub waypoint: Option<WaypointFacts>,
}

/// The waypoint of a service, as the kernel has it.
#[derive(Clone, Debug)]
pub struct LiveWaypoint {
    /// Its id.
    pub id: u32,
    /// Which it is; none when the agent has given no such id.
    pub name: Option<WaypointName>,
    /// The service's port there.
    pub port: u16,
}

/// How a service goes through its waypoint, or why not.
#[derive(Clone, Debug)]
pub struct WaypointFacts {
    /// Whether it does.
    pub is_through: bool,
    /// CamelCase code.
    pub reason: String,
    /// The same as a sentence.
    pub message: String,
    /// Where the waypoint sends connections, as it was told.
    pub dials: Vec<String>,
    /// The HTTPRoutes that say what becomes of requests, if there are any: code and sentence.
    pub routes: Option<(String, String)>,
}

impl LiveService {
    /// The backends of who dials an address of this family: those of the family, else those of the other.
    pub fn of_family(&self, v4: bool) -> impl Iterator<Item = &LiveBackend> {
        let same = move |backend: &&LiveBackend| backend.address.is_ipv4() == v4;
        let has_same = self.backends.iter().any(|backend| same(&backend));
        self.backends.iter().filter(move |backend| same(backend) || !has_same)
    }
}

/// A backend as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveBackend {
    /// Its id.
    pub id: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its part of the connections, 0 to 1.
    pub share: f64,
}

/// A name that backends are resolved from.
#[derive(Clone, Debug, Default)]
pub struct SourceFacts {
    /// Seconds since an answer last held an address.
    pub age_secs: Option<u64>,
    /// Whether an older answer is in use.
    pub stale: bool,
    /// What is wrong with the newest query.
    pub trouble: Option<Trouble>,
}

/// What is wrong with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It does not exist (NXDOMAIN).
    NotFound,
    /// It has no address.
    NoAddress,
    /// It could not be asked.
    Failed(String),
}
