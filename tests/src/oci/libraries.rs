//! What a program needs beside itself.
//!
//! In: an ELF file of this machine. Out: the shared libraries that the dynamic loader would map for it. Never: a guess
//! where the loader looks: it is asked.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use object::Endianness;
use object::elf::{DT_NEEDED, PT_INTERP};
use object::read::elf::{Dyn as _, ElfFile64, ProgramHeader as _};

/// The shared libraries that a program or library needs, and the loader itself; none for a static one, or for what is no
/// ELF file.
///
/// # Errors
/// When the file cannot be read, or this machine lacks a library that it needs.
pub fn libraries_of(file: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !is_elf(file)? {
        return Ok(Vec::new());
    }
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    // What is of another class or broken is of no use here, but may lie in a folder of data.
    let Ok(elf) = ElfFile64::<Endianness>::parse(bytes.as_slice()) else { return Ok(Vec::new()) };
    if !needs_libraries(&elf) {
        return Ok(Vec::new());
    }
    let loader = loader_of(&elf).map_or_else(own_loader, Ok)?;
    let mut command = Command::new(&loader);
    let output = command.arg("--list").arg(file).env("LC_ALL", "C").output();
    let output = output.with_context(|| format!("cannot run {}", loader.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "{} cannot load {}: {}",
            loader.display(),
            file.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    listed(&text).with_context(|| format!("{} cannot start on this machine", file.display()))
}

fn is_elf(file: &Path) -> anyhow::Result<bool> {
    let mut start = Vec::new();
    let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    opened.take(4).read_to_end(&mut start)?;
    Ok(start == *b"\x7fELF")
}

fn needs_libraries(elf: &ElfFile64<'_>) -> bool {
    let (endian, data) = (elf.endian(), elf.data());
    let tables = elf.elf_program_headers().iter().filter_map(|part| part.dynamic(endian, data).ok()?);
    tables.flatten().any(|entry| entry.tag32(endian).map(i64::from) == Some(DT_NEEDED))
}

/// The loader that the program names; libraries name none.
fn loader_of(elf: &ElfFile64<'_>) -> Option<PathBuf> {
    let (endian, data) = (elf.endian(), elf.data());
    let part = elf.elf_program_headers().iter().find(|part| part.p_type(endian) == PT_INTERP)?;
    let name = part.interpreter(endian, data).ok()??;
    Some(PathBuf::from(String::from_utf8_lossy(name).into_owned()))
}

/// The loader of this very program, which loads this machine's libraries as well.
fn own_loader() -> anyhow::Result<PathBuf> {
    let bytes = std::fs::read("/proc/self/exe").context("cannot read /proc/self/exe")?;
    let elf = ElfFile64::<Endianness>::parse(bytes.as_slice())?;
    loader_of(&elf).context("this program is static, so this machine's loader is not known")
}

/// Reads `name => /path (0x…)` and `/path (0x…)`; what has no path is the kernel's.
fn listed(text: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in text.lines() {
        let (name, path) = line.split_once("=>").unwrap_or((line, line));
        let path = path.trim();
        if path == "not found" {
            bail!("the library {} is missing", name.trim());
        }
        let path = path.split(" (0x").next().unwrap_or_default();
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_loader_lists() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tstatically linked\n";
        let libraries = listed(text).expect("a list");
        assert_eq!(
            libraries,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        let error = listed("\tlibx.so.1 => not found\n").expect_err("it is missing");
        assert!(error.to_string().contains("libx.so.1"), "{error}");
    }

    #[test]
    fn finds_the_libraries_of_this_very_program() {
        let own = std::env::current_exe().expect("a path");
        let libraries = libraries_of(&own).expect("a list");
        let has = |name: &str| libraries.iter().any(|path| path.to_string_lossy().contains(name));
        assert!(has("libc.so") && has("/ld-"), "{libraries:?}");
        // A library names no loader.
        let libc = libraries.iter().find(|path| path.to_string_lossy().contains("libc.so")).expect("libc");
        assert!(!libraries_of(libc).expect("a list").is_empty());
        assert!(libraries_of("/etc/passwd".as_ref()).expect("no program").is_empty());
    }
}
