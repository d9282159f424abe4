//! What is fuzzed: the reader of YAML and what follows from it, and the DNS server's view of bytes.
//!
//! In: any bytes. Out: nothing. Never: a panic, unless something is wrong.

mod dns;
mod yaml;

pub use dns::dns;
pub use yaml::yaml;

/// Runs a target over the files that a command line names, for one who wants to see a crash again.
///
/// # Panics
/// When the target does, or a file cannot be read.
pub fn replay(target: fn(&[u8])) {
    for path in std::env::args_os().skip(1) {
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        target(&bytes);
        println!("{}: nothing is wrong", path.display());
    }
}
