//! The files of one folder.
//!
//! In: paths. Out: bytes, or why there are none. Never: waiting for a pipe or a device, or following folders
//! down.

use std::{
    ffi::OsStr,
    fs::{FileType, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

/// Names of files in a folder that are read.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// What a folder holds that is to be read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Names of files, sorted.
    pub names: Vec<String>,
    /// Names that are not UTF-8, as far as they can be shown, sorted.
    pub unreadable_names: Vec<String>,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such file.
    #[error("the file is gone")]
    Gone,
    /// A symbolic link to nothing.
    #[error("it is a symbolic link to {target}, which does not exist; restore the target or remove the link")]
    DanglingLink {
        /// Where it points.
        target: String,
    },
    /// Not a regular file.
    #[error("it is {what}, not a file; remove it or give it a name without .yaml, .yml and .json")]
    NotAFile {
        /// What it is instead.
        what: &'static str,
    },
    /// Larger than the limit.
    #[error("it has more than {max_bytes} bytes, so it is not read; split it, or raise the limit")]
    TooLarge {
        /// The limit in bytes.
        max_bytes: u64,
    },
    /// The system did not let us.
    #[error("it cannot be read: {source}; check its owner and mode")]
    Io {
        /// What the system said.
        source: io::Error,
    },
}

impl ReadError {
    /// CamelCase code for labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Gone => "FileGone",
            Self::DanglingLink { .. } => "DanglingLink",
            Self::NotAFile { .. } => "NotAFile",
            Self::TooLarge { .. } => "FileTooLarge",
            Self::Io { .. } => "FileUnreadable",
        }
    }
}

/// Whether a file of this name is read: `*.yaml`, `*.yml` or `*.json`, and not one that an editor made for
/// itself (hidden, `#…#`; its other names do not end so).
#[must_use]
pub fn is_read(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    let is_hidden = name.starts_with(['.', '#']);
    !is_hidden && extension.is_some_and(|e| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(e)))
}

/// Lists the files of `folder` that are read.
///
/// # Errors
/// When the folder cannot be listed. Tell the operator; try again later.
pub fn list(folder: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for item in std::fs::read_dir(folder)? {
        match item?.file_name().into_string() {
            Ok(name) if is_read(&name) => listing.names.push(name),
            Ok(_) => {}
            Err(name) => {
                let shown = name.to_string_lossy().into_owned();
                if is_read(&shown) {
                    listing.unreadable_names.push(shown);
                }
            }
        }
    }
    listing.names.sort_unstable();
    listing.unreadable_names.sort_unstable();
    Ok(listing)
}

/// Reads the regular file at `path`, or at the end of its symbolic links.
///
/// # Errors
/// When there is no such file, it is something else, or larger than `max_bytes`. Nothing waits.
pub fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, ReadError> {
    // Opening some devices does something, so look before.
    check(&std::fs::metadata(path).map_err(|source| absent(path, source))?, max_bytes)?;
    // It may be another file by now; without O_NONBLOCK opening a pipe would wait for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|source| absent(path, source))?;
    let metadata = file.metadata().map_err(|source| ReadError::Io { source })?;
    check(&metadata, max_bytes)?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(|source| ReadError::Io { source })?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max_bytes {
        return Err(ReadError::TooLarge { max_bytes });
    }
    Ok(bytes)
}

fn check(metadata: &Metadata, max_bytes: u64) -> Result<(), ReadError> {
    if !metadata.is_file() {
        return Err(ReadError::NotAFile { what: what(metadata.file_type()) });
    }
    if metadata.len() > max_bytes {
        return Err(ReadError::TooLarge { max_bytes });
    }
    Ok(())
}

fn what(file_type: FileType) -> &'static str {
    if file_type.is_dir() {
        "a folder"
    } else if file_type.is_fifo() {
        "a pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

fn absent(path: &Path, source: io::Error) -> ReadError {
    if source.kind() != io::ErrorKind::NotFound {
        return ReadError::Io { source };
    }
    match std::fs::read_link(path) {
        Ok(target) => ReadError::DanglingLink { target: target.display().to_string() },
        Err(_) => ReadError::Gone,
    }
}
