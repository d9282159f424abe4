//! Files, folders and stdin as the commands take them.
//!
//! In: what was written on the command line. Out: names for people, and bytes. Never: a look at what is in them.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::Context;

use crate::source;

/// Largest input in bytes. Far above what anybody writes; it is there for `validate /dev/zero`.
const MAX_BYTES: u64 = 256 << 20;

/// The files that `input` stands for, with their names for people: a folder's own, a file, or stdin for `-`.
pub(super) fn read(input: &Path, stdin: &mut dyn Read) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let shown = input.display().to_string();
    if shown == "-" {
        return Ok(vec![(shown, read_all(stdin).context("cannot read stdin")?)]);
    }
    if !input.is_dir() {
        // A pipe is welcome here: `validate <(helm template …)`.
        let file = File::open(input);
        let bytes = file.and_then(|mut f| read_all(&mut f));
        return Ok(vec![(shown.clone(), bytes.with_context(|| format!("cannot read {shown}"))?)]);
    }
    let listing = source::file::list(input).with_context(|| format!("cannot list the folder {shown}"))?;
    if let Some(name) = listing.unreadable_names.first() {
        anyhow::bail!("cannot read {shown}/{name}: its name is not UTF-8; rename it");
    }
    let read = |name: &String| {
        let path = input.join(name);
        let bytes = source::file::read(&path, MAX_BYTES);
        let shown = path.display().to_string();
        Ok((shown.clone(), bytes.with_context(|| format!("cannot read {shown}"))?))
    };
    listing.names.iter().map(read).collect()
}

fn read_all(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_BYTES} bytes; split it")));
    }
    Ok(bytes)
}
