//! One layer of an image.
//!
//! In: files of this machine, or bytes, and where they are to be. Out: a compressed tar file. Never: a time, a user or an
//! order that comes from this machine.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};
use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::libraries::libraries_of;

/// Where Debian keeps the certificates of public authorities, and where curl, OpenSSL, Go and Rust look for them.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Of a folder that is only there because something is in it.
const FOLDER_MODE: u32 = 0o755;

/// Whose a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
}

impl Owner {
    /// User 0, group 0.
    pub const ROOT: Owner = Owner { user: 0, group: 0 };
}

#[derive(Debug)]
enum Kind {
    Folder,
    Bytes(Vec<u8>),
    /// A file of this machine, read when the layer is packed.
    File(PathBuf),
    /// A symbolic link, and where it leads.
    Link(PathBuf),
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    mode: u32,
    owner: Owner,
}

/// Files and folders by their path in the image. Folders on the way to something are there by themselves.
#[derive(Debug, Default)]
pub struct Layer {
    entries: BTreeMap<PathBuf, Entry>,
}

/// A compressed layer.
pub(super) struct Packed {
    pub(super) bytes: Vec<u8>,
    /// Digest of the tar file before it was compressed.
    pub(super) unpacked: String,
}

impl Layer {
    /// A folder, also an empty one.
    pub fn folder(&mut self, path: &str, mode: u32, owner: Owner) {
        self.add(path.as_ref(), Kind::Folder, mode, owner);
    }

    /// A file with these contents.
    pub fn file(&mut self, path: &str, contents: impl Into<Vec<u8>>, mode: u32, owner: Owner) {
        self.add(path.as_ref(), Kind::Bytes(contents.into()), mode, owner);
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.add(path.as_ref(), Kind::Link(target.into()), 0o777, Owner::ROOT);
    }

    /// The file `from` of this machine, root's, at `path`. A symbolic link is followed.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn copy(&mut self, from: &Path, path: &str) -> anyhow::Result<()> {
        let file = fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
        if !file.is_file() {
            bail!("{} is no file", from.display());
        }
        self.add(path.as_ref(), Kind::File(from.to_owned()), mode_of(&file), Owner::ROOT);
        Ok(())
    }

    /// The folder `from` of this machine and all that is in it, root's, at `path`. Symbolic links stay links; what `keep`
    /// refuses, by its path below `from`, is left out.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn copy_tree(&mut self, from: &Path, path: &str, keep: &dyn Fn(&Path) -> bool) -> anyhow::Result<()> {
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let whole = from.join(&folder);
            let names = fs::read_dir(&whole).with_context(|| format!("cannot read {}", whole.display()))?;
            for found in names {
                let inner = folder.join(found?.file_name());
                if !keep(&inner) {
                    continue;
                }
                let (source, target) = (from.join(&inner), Path::new(path).join(&inner));
                let file = fs::symlink_metadata(&source)?;
                let kind = if file.is_dir() {
                    folders.push(inner);
                    Kind::Folder
                } else if file.is_symlink() {
                    Kind::Link(fs::read_link(&source)?)
                } else {
                    Kind::File(source)
                };
                self.add(&target, kind, mode_of(&file), Owner::ROOT);
            }
        }
        Ok(())
    }

    /// For each program and library that was copied so far, the shared libraries that it needs, where this machine has them.
    ///
    /// # Errors
    /// When a library is missing on this machine.
    pub fn add_libraries(&mut self) -> anyhow::Result<()> {
        let mut libraries = Vec::new();
        for entry in self.entries.values() {
            if let Kind::File(from) = &entry.kind {
                libraries.extend(libraries_of(from)?);
            }
        }
        for library in libraries {
            if !self.entries.contains_key(&inside(&library)) {
                self.copy(&library, &library.to_string_lossy())?;
            }
        }
        Ok(())
    }

    /// The certificates of public authorities that this machine trusts, for clients of TLS.
    ///
    /// # Errors
    /// When this machine has none.
    pub fn add_certificates(&mut self) -> anyhow::Result<()> {
        self.copy(CERTIFICATES.as_ref(), CERTIFICATES)
    }

    fn add(&mut self, path: &Path, kind: Kind, mode: u32, owner: Owner) {
        let path = inside(path);
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            let folder = || Entry { kind: Kind::Folder, mode: FOLDER_MODE, owner: Owner::ROOT };
            self.entries.entry(parent.to_owned()).or_insert_with(folder);
        }
        self.entries.insert(path, Entry { kind, mode, owner });
    }

    pub(super) fn pack(&self) -> anyhow::Result<Packed> {
        let digested =
            Digested { inner: GzEncoder::new(Vec::new(), Compression::default()), hash: Sha256::new() };
        let mut tar = tar::Builder::new(digested);
        for (path, entry) in &self.entries {
            append(&mut tar, path, entry).with_context(|| format!("cannot pack {}", path.display()))?;
        }
        let Digested { inner, hash } = tar.into_inner()?;
        Ok(Packed { bytes: inner.finish()?, unpacked: super::digest(&hash.finalize()) })
    }
}

fn append(tar: &mut tar::Builder<Digested>, path: &Path, entry: &Entry) -> anyhow::Result<()> {
    let start = |kind| header(kind, entry.mode, entry.owner);
    match &entry.kind {
        Kind::Folder => tar.append_data(&mut start(EntryType::Directory), path.join(""), io::empty())?,
        Kind::Link(target) => tar.append_link(&mut start(EntryType::Symlink), path, target)?,
        Kind::Bytes(bytes) => {
            let mut header = start(EntryType::Regular);
            header.set_size(bytes.len().try_into()?);
            tar.append_data(&mut header, path, bytes.as_slice())?;
        }
        Kind::File(from) => {
            let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
            let mut header = start(EntryType::Regular);
            header.set_size(bytes.len().try_into()?);
            tar.append_data(&mut header, path, bytes.as_slice())?;
        }
    }
    Ok(())
}

/// The start of an entry, the same on every machine and at any time.
pub(super) fn header(kind: EntryType, mode: u32, owner: Owner) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.user.into());
    header.set_gid(owner.group.into());
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// Paths in a layer have no `/` in front, and lead nowhere above it.
fn inside(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

fn mode_of(file: &fs::Metadata) -> u32 {
    // What the umask of whoever wrote the file took away must not differ between two builds.
    let is_program = file.is_dir() || file.permissions().mode() & 0o111 != 0;
    if is_program { 0o755 } else { 0o644 }
}

/// Passes on what is written, and digests it.
struct Digested {
    inner: GzEncoder<Vec<u8>>,
    hash: Sha256,
}

impl Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
