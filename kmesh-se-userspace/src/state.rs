//! What survives a restart: which host has which VIP.
//!
//! In: a directory. Out: one JSON file, replaced as a whole. Never: a partly written file.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    desired::{VipPool, VipRanges, Vips},
    model::HostName,
};

const FILE: &str = "vips.json";
const VERSION: u32 = 1;

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    hosts: BTreeMap<String, Vips>,
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
        [path.join(FILE), path.join(format!(".{FILE}.new"))].into_iter()
    }

    /// A pool over `ranges` in which every host has the address that it had before.
    ///
    /// # Errors
    /// The file is there but cannot be used; clients may still have its addresses cached, so it is not ignored.
    pub fn load_vips(&self, ranges: VipRanges) -> Result<VipPool, StateError> {
        let path = self.path.join(FILE);
        let mut pool = VipPool::new(ranges);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pool),
            Err(error) => return Err(StateError::Io { action: "read", path, error }),
        };
        let format = |message| StateError::Format { path: path.clone(), message };
        let saved: Saved = serde_json::from_str(&text).map_err(|e| format(e.to_string()))?;
        if saved.version != VERSION {
            return Err(format(format!("version {}, not {VERSION}", saved.version)));
        }
        for (host, vips) in &saved.hosts {
            pool.restore(&HostName::new(host), *vips);
        }
        Ok(pool)
    }

    /// Writes which host has which address: to a new file, synced, then renamed.
    ///
    /// # Errors
    /// The disk is full or read-only; the previous file stays.
    pub fn save_vips(&self, pool: &VipPool) -> Result<(), StateError> {
        let path = self.path.join(FILE);
        let hosts = pool.iter().map(|(host, vips)| (host.to_string(), *vips)).collect();
        let text = serde_json::to_vec_pretty(&Saved { version: VERSION, hosts }).unwrap_or_default();
        let temporary = self.path.join(format!(".{FILE}.new"));
        let write = || -> io::Result<()> {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| StateError::Io { action: "write", path: path.clone(), error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

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
        fs::write(dir.path().join(FILE), "{")?;
        let error = state.load_vips(VipRanges::default()).expect_err("it is damaged");
        assert!(error.to_string().contains("move it away"), "{error}");
        Ok(())
    }
}
