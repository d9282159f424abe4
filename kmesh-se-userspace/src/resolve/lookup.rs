//! One query for one family of one name, over UDP and then TCP.
//!
//! In: a name and a family. Out: an [`Outcome`]. Never: a cache, a hosts file or a search domain.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType},
    },
};
use thiserror::Error;

use super::{
    config::ResolveConfig,
    state::{Family, Outcome},
};
use crate::model::HostName;

/// Why a query said nothing about the name.
#[derive(Debug, Error)]
pub(crate) enum LookupError {
    #[error("there is no DNS server to ask; name one with --resolver")]
    NoServer,
    #[error("{name} is not a DNS name: {detail}")]
    BadName { name: HostName, detail: String },
    #[error("DNS server {server} did not answer within {timeout:?}")]
    Timeout { server: SocketAddr, timeout: Duration },
    #[error("DNS server {server} answered {code}")]
    Refused { server: SocketAddr, code: ResponseCode },
    #[error("DNS server {server} does not resolve names, it only refers to others")]
    Referral { server: SocketAddr },
    #[error("DNS server {server} cannot be asked: {error}")]
    Transport { server: SocketAddr, error: NetError },
    #[error("the query failed within this program; please report it")]
    Panicked,
}

/// The servers, one resolver each. hickory's own pool is not used over several servers: it asks two at a time
/// and takes whichever is first, which flaps between servers that differ, as those of a `resolv.conf` may.
pub(super) struct Upstreams {
    servers: Vec<(SocketAddr, TokioResolver)>,
    timeout: Duration,
    /// The server that answered last, so that a dead one costs its timeout only once.
    preferred: AtomicUsize,
}

impl Upstreams {
    pub(super) fn new(config: &ResolveConfig) -> Self {
        let servers = config.servers.iter().filter_map(|&server| match resolver(server, config.timeout) {
            Ok(resolver) => Some((server, resolver)),
            Err(error) => {
                tracing::error!(%server, %error, "dns server left out");
                None
            }
        });
        Self { servers: servers.collect(), timeout: config.timeout, preferred: AtomicUsize::new(0) }
    }

    /// Asks the servers in turn until one says something about the name.
    pub(super) async fn ask(&self, name: &HostName, family: Family) -> Outcome {
        let query = match Name::from_ascii(name.as_str()) {
            Ok(mut query) => {
                query.set_fqdn(true);
                query
            }
            Err(error) => {
                let error = LookupError::BadName { name: name.clone(), detail: error.to_string() };
                return Outcome::Failed(error);
            }
        };
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failure = LookupError::NoServer;
        for turn in 0..self.servers.len() {
            let index = (first + turn) % self.servers.len();
            let (server, resolver) = &self.servers[index];
            match self.ask_one(*server, resolver, query.clone(), family).await {
                Outcome::Failed(error) => failure = error,
                outcome => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return outcome;
                }
            }
        }
        Outcome::Failed(failure)
    }

    async fn ask_one(
        &self,
        server: SocketAddr,
        resolver: &TokioResolver,
        query: Name,
        family: Family,
    ) -> Outcome {
        let record_type = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        // hickory has its own limits, and each retry over TCP has another: this is the one that is promised.
        let Ok(answer) = tokio::time::timeout(self.timeout, resolver.lookup(query, record_type)).await else {
            return Outcome::Failed(LookupError::Timeout { server, timeout: self.timeout });
        };
        match answer {
            Ok(lookup) => {
                let mut addresses: Vec<IpAddr> = Vec::new();
                let mut ttl_secs = u32::MAX;
                for record in lookup.answers() {
                    let address = match &record.data {
                        RData::A(address) if family == Family::V4 => IpAddr::V4(address.0),
                        RData::AAAA(address) if family == Family::V6 => IpAddr::V6(address.0),
                        RData::CNAME(_) => {
                            ttl_secs = ttl_secs.min(record.ttl);
                            continue;
                        }
                        _ => continue,
                    };
                    ttl_secs = ttl_secs.min(record.ttl);
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                let ttl = Duration::from_secs(ttl_secs.into());
                if addresses.is_empty() {
                    return Outcome::Nothing { exists: true, ttl: None };
                }
                Outcome::Records { addresses, ttl }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                let is_referral = nothing.ns.is_some() && nothing.soa.is_none();
                let ttl = nothing.negative_ttl.map(|ttl_secs| Duration::from_secs(ttl_secs.into()));
                match nothing.response_code {
                    ResponseCode::NXDomain => Outcome::Nothing { exists: false, ttl },
                    ResponseCode::NoError if is_referral => Outcome::Failed(LookupError::Referral { server }),
                    ResponseCode::NoError => Outcome::Nothing { exists: true, ttl },
                    code => Outcome::Failed(LookupError::Refused { server, code }),
                }
            }
            Err(NetError::Dns(DnsError::ResponseCode(code))) => {
                Outcome::Failed(LookupError::Refused { server, code })
            }
            Err(NetError::Timeout) => Outcome::Failed(LookupError::Timeout { server, timeout: self.timeout }),
            Err(NetError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => {
                Outcome::Failed(LookupError::Timeout { server, timeout: self.timeout })
            }
            Err(error) => Outcome::Failed(LookupError::Transport { server, error }),
        }
    }
}

fn resolver(server: SocketAddr, timeout: Duration) -> Result<TokioResolver, NetError> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    let mut options = ResolverOpts::default();
    options.timeout = timeout;
    // The schedule retries, with its own backoff.
    options.attempts = 0;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    // The TTL of a chain is the smallest of its links.
    options.preserve_intermediates = true;
    let config = ResolverConfig::from_name_servers(vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()
}
