//! What survives a restart: VIPs of hosts and of names below wildcards, ports at waypoints, ids of namespaces, addresses of names.
//!
//! In: a directory. Out: one JSON file for each, replaced as a whole. Never: a partly written file.

mod assignments;

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    desired::{LeaseLimits, Leases, User, VipPool, VipRanges, Vips},
    model::{Addresses, HostName, Namespace},
};

const VIPS: &str = "vips.json";
const SCOPES: &str = "scopes.json";
const ADDRESSES: &str = "addresses.json";
const LEASES: &str = "leases.json";
const WAYPOINT: &str = "waypoint.json";
const CLUSTER: &str = "cluster.json";
const VERSION: u32 = 1;

/// The content of each file.
#[derive(Serialize, Deserialize)]
struct Saved<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Serialize, Deserialize, Default)]
struct SavedVips {
    hosts: BTreeMap<String, Vips>,
}

#[derive(Serialize, Deserialize, Default)]
struct SavedScopes {
    namespaces: BTreeMap<String, u32>,
}

#[derive(Serialize, Deserialize, Default)]
struct SavedAddresses {
    names: BTreeMap<String, KnownAddresses>,
}

#[derive(Serialize, Deserialize, Default)]
struct SavedLeases {
    names: BTreeMap<String, SavedLease>,
}

#[derive(Serialize, Deserialize)]
struct SavedLease {
    #[serde(flatten)]
    vips: Vips,
    clients: Vec<SavedClient>,
}

#[derive(Serialize, Deserialize)]
struct SavedClient {
    namespace: String,
    address: IpAddr,
}

/// What a cluster said of itself and of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownCluster {
    /// The addresses of its DNS.
    pub dns: Vec<IpAddr>,
    /// The addresses of this node.
    pub node: Vec<IpAddr>,
}

/// The addresses that a name had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownAddresses {
    /// The addresses.
    pub addresses: Addresses,
    /// When an answer last held them.
    pub answered_at: Timestamp,
}

/// The state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file operation failed.
    #[error("cannot {action} {}: {error}; give --state a directory that can be written", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The file holds something else.
    #[error("{} is not a state file of this version: {message}; move it away to start with new addresses", path.display())]
    Format {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// The state directory.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory, made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let io = |error| StateError::Io { action: "create", path: path.to_owned(), error };
        fs::create_dir_all(path).map_err(io)?;
        Ok(Self { path: path.to_owned() })
    }

    /// The files that an agent leaves in the directory `path`.
    pub fn files(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
        let path = path.to_owned();
        [VIPS, SCOPES, ADDRESSES, LEASES, WAYPOINT, CLUSTER]
            .into_iter()
            .flat_map(move |file| [path.join(file), path.join(temporary(file))])
    }

    /// A pool over `ranges` in which every host has the address that it had before.
    ///
    /// # Errors
    /// The file is there but cannot be used; clients may still have its addresses cached, so it is not ignored.
    pub fn load_vips(&self, ranges: VipRanges) -> Result<VipPool, StateError> {
        let mut pool = VipPool::new(ranges);
        for (host, vips) in self.load::<SavedVips>(VIPS)?.hosts {
            pool.restore(&HostName::new(&host), vips);
        }
        Ok(pool)
    }

    /// Saves which host has which address.
    ///
    /// # Errors
    /// The disk is full or read-only; the previous file stays.
    pub fn save_vips(&self, pool: &VipPool) -> Result<(), StateError> {
        let hosts = pool.iter().map(|(host, vips)| (host.to_string(), *vips)).collect();
        self.save(VIPS, SavedVips { hosts })
    }

    /// The names below wildcards that were in use, with the addresses that they had, as far as those are in `ranges`. `now`
    /// they are in use again.
    ///
    /// # Errors
    /// As [`StateDir::load_vips`].
    pub fn load_leases(
        &self,
        ranges: VipRanges,
        limits: LeaseLimits,
        now: Timestamp,
    ) -> Result<Leases, StateError> {
        let mut leases = Leases::new(ranges, limits);
        for (name, SavedLease { vips, clients }) in self.load::<SavedLeases>(LEASES)?.names {
            let users = clients.iter().map(|c| User::new(Namespace::new(&c.namespace), c.address));
            if !leases.restore(&HostName::new(&name), vips, users, now) {
                tracing::warn!(host = name, "a name has lost an address that is not in the ranges any more");
            }
        }
        Ok(leases)
    }

    /// Saves which names below wildcards are in use, and have addresses.
    ///
    /// # Errors
    /// As [`StateDir::save_vips`].
    pub fn save_leases(&self, leases: &Leases) -> Result<(), StateError> {
        let names = leases.iter().filter_map(|(host, vips, users)| {
            let saved = |c: &User| SavedClient { namespace: c.namespace.to_string(), address: c.address };
            let clients = users.map(saved).collect();
            Some((host.to_string(), SavedLease { vips: *vips?, clients }))
        });
        self.save(LEASES, SavedLeases { names: names.collect() })
    }

    /// The ids that namespaces have in the maps.
    ///
    /// # Errors
    /// As [`StateDir::load_vips`].
    pub fn load_scopes(&self) -> Result<BTreeMap<Namespace, u32>, StateError> {
        let saved = self.load::<SavedScopes>(SCOPES)?;
        Ok(saved.namespaces.into_iter().map(|(name, id)| (Namespace::new(&name), id)).collect())
    }

    /// Saves the ids that namespaces have in the maps.
    ///
    /// # Errors
    /// As [`StateDir::save_vips`].
    pub fn save_scopes(&self, scopes: &BTreeMap<Namespace, u32>) -> Result<(), StateError> {
        let namespaces = scopes.iter().map(|(name, id)| (name.to_string(), *id)).collect();
        self.save(SCOPES, SavedScopes { namespaces })
    }

    /// The addresses that names had.
    ///
    /// # Errors
    /// As [`StateDir::load_vips`].
    pub fn load_addresses(&self) -> Result<BTreeMap<HostName, KnownAddresses>, StateError> {
        let saved = self.load::<SavedAddresses>(ADDRESSES)?;
        Ok(saved.names.into_iter().map(|(name, known)| (HostName::new(&name), known)).collect())
    }

    /// Saves the addresses that names have.
    ///
    /// # Errors
    /// As [`StateDir::save_vips`].
    pub fn save_addresses(&self, names: &BTreeMap<HostName, KnownAddresses>) -> Result<(), StateError> {
        let names = names.iter().map(|(name, known)| (name.to_string(), known.clone())).collect();
        self.save(ADDRESSES, SavedAddresses { names })
    }

    /// What the cluster said last; none if it never did.
    ///
    /// # Errors
    /// As [`StateDir::load_vips`].
    pub fn load_cluster(&self) -> Result<Option<KnownCluster>, StateError> {
        let known: KnownCluster = self.load(CLUSTER)?;
        Ok((known != KnownCluster::default()).then_some(known))
    }

    /// Saves the same.
    ///
    /// # Errors
    /// As [`StateDir::save_vips`].
    pub fn save_cluster(&self, known: &KnownCluster) -> Result<(), StateError> {
        self.save(CLUSTER, known)
    }

    fn load<T: Default + for<'a> Deserialize<'a>>(&self, file: &str) -> Result<T, StateError> {
        let path = self.path.join(file);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
            Err(error) => return Err(StateError::Io { action: "read", path, error }),
        };
        let format = |message| StateError::Format { path: path.clone(), message };
        let saved: Saved<T> = serde_json::from_str(&text).map_err(|e| format(e.to_string()))?;
        if saved.version != VERSION {
            return Err(format(format!("version {}, not {VERSION}", saved.version)));
        }
        Ok(saved.content)
    }

    /// Writes to a new file, synced, then renamed.
    fn save<T: Serialize>(&self, file: &str, content: T) -> Result<(), StateError> {
        let path = self.path.join(file);
        let new = self.path.join(temporary(file));
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec_pretty(&Saved { version: VERSION, content })?;
            let mut file = fs::File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| StateError::Io { action: "write", path: path.clone(), error })
    }
}

fn temporary(file: &str) -> String {
    format!(".{file}.new")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_keeps_its_address_over_a_restart() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let state = StateDir::open(dir.path())?;
        let (a, b, c) = (HostName::new("a.com"), HostName::new("b.com"), HostName::new("c.com"));
        let mut pool = state.load_vips(VipRanges::default())?;
        pool.ensure(&a, Timestamp::UNIX_EPOCH, |_| false)?;
        let second = pool.ensure(&b, Timestamp::UNIX_EPOCH, |_| false)?;
        state.save_vips(&pool)?;

        let mut again = state.load_vips(VipRanges::default())?;
        assert_ne!(again.ensure(&c, Timestamp::UNIX_EPOCH, |_| false)?, second);
        assert_eq!(again.ensure(&b, Timestamp::UNIX_EPOCH, |_| false)?, second);
        Ok(())
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_a_new_start() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let state = StateDir::open(dir.path())?;
        fs::write(dir.path().join(VIPS), "{")?;
        let error = state.load_vips(VipRanges::default()).expect_err("it is damaged");
        assert!(error.to_string().contains("move it away"), "{error}");
        Ok(())
    }

    #[test]
    fn a_name_below_a_wildcard_keeps_its_address_over_a_restart() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let state = StateDir::open(dir.path())?;
        let load = |ranges| state.load_leases(ranges, LeaseLimits::default(), Timestamp::UNIX_EPOCH);
        let (a, b, shop) = (
            HostName::new("a.w.com"),
            HostName::new("b.w.com"),
            User::new(Namespace::new("shop"), [10, 0, 0, 7].into()),
        );
        let mut leases = load(VipRanges::default())?;
        leases.ask(&a, &shop, Timestamp::UNIX_EPOCH)?;
        leases.ask(&b, &shop, Timestamp::UNIX_EPOCH)?;
        let vips = leases.ensure_vips(&b, Timestamp::UNIX_EPOCH, |_| false)?;
        assert!(leases.take_changed());
        state.save_leases(&leases)?;

        let again = load(VipRanges::default())?;
        assert_eq!(again.vips(&b), Some(&vips));
        assert_eq!(
            again.iter().map(|(_, _, users)| users.cloned().collect::<Vec<_>>()).collect::<Vec<_>>(),
            [[shop]]
        );
        assert!(!again.contains(&a), "it had no address");
        // In other ranges it is in use, and gets an address when it is resolved.
        let elsewhere = load(VipRanges { v4: "10.0.0.0/24".parse()?, v6: "fd00::/64".parse()? })?;
        assert!(elsewhere.contains(&b) && elsewhere.vips(&b).is_none());
        Ok(())
    }
}
