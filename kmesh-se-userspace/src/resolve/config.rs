//! How names are resolved, and the servers of a `resolv.conf`.
//!
//! In: flags and a file's text. Out: [`ResolveConfig`]. Never: a query.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use crate::model::HostName;

/// How names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolveConfig {
    /// The servers, in order: the next is asked when one fails or does not answer.
    pub servers: Vec<SocketAddr>,
    /// A name is not asked for again sooner than this, however short its records live.
    pub min_ttl: Duration,
    /// A name is asked for again after this, however long its records live.
    pub max_ttl: Duration,
    /// How long one server has for its answer.
    pub timeout: Duration,
    /// When to look again for a name, or a family of it, that has no addresses.
    pub negative_refresh: Duration,
    /// The wait after a first failure, and before a first "no such name" is asked about again.
    pub backoff_min: Duration,
    /// The longest wait between failures.
    pub backoff_max: Duration,
    /// How long addresses are used that could not be confirmed.
    pub stale_for: Duration,
    /// Queries under way at one time.
    pub max_lookups: usize,
}

impl ResolveConfig {
    /// How long a name that nobody uses goes without a query, at most: its addresses do not get too old to be used, and there is
    /// time to try again.
    #[must_use]
    pub(super) fn rest(&self) -> Duration {
        self.stale_for / 2
    }

    /// The documented defaults, asking `servers`.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(300),
            timeout: Duration::from_secs(3),
            negative_refresh: Duration::from_secs(30),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            stale_for: Duration::from_secs(24 * 60 * 60),
            max_lookups: 64,
        }
    }
}

/// Why the servers of a `resolv.conf` are not known.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// The file cannot be read.
    #[error("cannot read the DNS servers from {path}: {source}; name them with --resolver", path = path.display())]
    ReadServers {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file names no server.
    #[error("{path} names no DNS server: {detail}; name one with --resolver", path = path.display())]
    NoServers {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        detail: String,
    },
}

impl ResolveError {
    /// A word for labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ReadServers { .. } => "ReadServers",
            Self::NoServers { .. } => "NoServers",
        }
    }
}

/// The `nameserver` lines of a `resolv.conf`, each with port 53, in order and each once.
///
/// # Errors
/// When the file cannot be read or names no server; the servers must then be given by hand.
pub fn system_servers(path: &Path) -> Result<Vec<SocketAddr>, ResolveError> {
    let text =
        std::fs::read(path).map_err(|source| ResolveError::ReadServers { path: path.to_owned(), source })?;
    let (parsed, _) = hickory_resolver::system_conf::parse_resolv_conf(text)
        .map_err(|error| ResolveError::NoServers { path: path.to_owned(), detail: error.to_string() })?;
    let mut servers = Vec::new();
    for server in parsed.name_servers() {
        let server = SocketAddr::new(server.ip, 53);
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    Ok(servers)
}

/// The `search` list of a `resolv.conf`, or its `domain`; none if it cannot be read. Lines that are not understood are
/// skipped, as resolver libraries do.
#[must_use]
pub fn system_search(path: &Path) -> Vec<HostName> {
    let text = std::fs::read(path).unwrap_or_default();
    let (parsed, _) = resolv_conf::Config::parse_with_errors(&text);
    parsed.get_last_search_or_domain().map(|domain| HostName::new(domain)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers_of(text: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("write the file");
        system_servers(file.path())
    }

    #[test]
    fn reads_servers_in_order_and_once() {
        let servers = servers_of(
            "# a comment\nsearch a.test\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 127.0.0.53\n\
             options ndots:5\n",
        )
        .expect("servers");
        let expected: [SocketAddr; 2] =
            ["127.0.0.53:53".parse().expect("an address"), "[::1]:53".parse().expect("an address")];
        assert_eq!(servers, expected);
    }

    #[test]
    fn says_which_file_has_no_servers() {
        let error = servers_of("search a.test\n").expect_err("no servers");
        assert_eq!(error.reason(), "NoServers");
        assert!(error.to_string().contains("--resolver"), "{error}");
        let error = system_servers(Path::new("/nonexistent/resolv.conf")).expect_err("no file");
        assert_eq!(error.reason(), "ReadServers");
        assert!(error.to_string().contains("/nonexistent/resolv.conf"), "{error}");
    }

    #[test]
    fn reads_the_search_list_or_the_domain_whatever_else_is_there() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (text, wanted) in [
            ("search a.test B.test.\nnameserver 127.0.0.1\n", &["a.test", "b.test"][..]),
            ("domain c.test\n", &["c.test"]),
            ("domain c.test\nsearch a.test\n", &["a.test"]),
            ("nonsense\nsearch a.test\noptions nonsense\n", &["a.test"]),
            ("nameserver 127.0.0.1\n", &[]),
        ] {
            std::fs::write(file.path(), text).expect("write the file");
            assert_eq!(
                system_search(file.path()),
                wanted.iter().map(|d| HostName::new(d)).collect::<Vec<_>>()
            );
        }
        assert_eq!(system_search(Path::new("/nonexistent/resolv.conf")), []);
    }
}
