//! ServiceEntries in numbers.
//!
//! In: how many. Out: YAML files, and what they will need in the maps. Never: a name that needs DNS.

use std::path::Path;

use super::way::{MOVED, PORTS, VIP};
use crate::load::Kind;
use crate::topology::BACKEND;

/// Entries in one file.
const PER_FILE: u32 = 1000;
/// What the agent allocates by default has room for this many hosts, with some to spare.
const DEFAULT_VIPS: u32 = 60_000;

/// How many entries fill a frontend map to about `frontends`: each has an IPv4 and an IPv6 address.
pub fn entries_of(frontends: u32) -> u32 {
    frontends.div_ceil(2).saturating_sub(2).max(1)
}

/// Flags for an agent with so many entries, beyond its defaults: with room for as much again.
pub(super) fn flags(entries: u32) -> Vec<String> {
    let mut words = Vec::new();
    let mut flag = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    if entries > DEFAULT_VIPS {
        flag("vip-v4", "240.0.0.0/8".to_owned());
        let frontends = entries.saturating_mul(4).min(16_777_216);
        for map in ["frontends", "addresses", "services", "slots", "backends"] {
            flag(&format!("max-{map}"), frontends.to_string());
        }
    }
    words
}

/// Writes the entry that the clients dial, bound to a waypoint or not, the one whose backend is changed, and `entries` others.
pub(super) fn write(folder: &Path, entries: u32, is_bound: bool) -> std::io::Result<()> {
    let label = "  labels: {istio.io/use-waypoint: waypoint}\nspec:\n";
    let bench = if is_bound { bench().replacen("spec:\n", label, 1) } else { bench() };
    std::fs::write(folder.join("bench.yaml"), bench)?;
    std::fs::write(folder.join("moved.yaml"), moved(super::ECHO[0]))?;
    for first in (0..entries).step_by(PER_FILE as usize) {
        let last = entries.min(first + PER_FILE);
        let text: String = (first..last).map(filler).collect();
        std::fs::write(folder.join(format!("filler-{first:07}.yaml")), text)?;
    }
    Ok(())
}

fn head(name: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: {name}\n  namespace: default\n\
         spec:\n  hosts: [{name}.bench.test]\n  resolution: STATIC\n{rest}"
    )
}

/// A port for each kind of traffic at [`VIP`].
fn bench() -> String {
    let name = |kind: Kind| format!("{kind:?}").to_lowercase();
    let ports = PORTS.map(|(kind, port, _)| {
        let protocol = if kind == Kind::Udp { "UDP" } else { "TCP" };
        format!("  - {{name: {}, number: {port}, protocol: {protocol}}}\n", name(kind))
    });
    let targets = PORTS.map(|(kind, _, target)| format!("{}: {target}", name(kind)));
    head(
        "bench",
        &format!(
            "  addresses: [{VIP}]\n  ports:\n{}  endpoints:\n  - address: {BACKEND}\n    ports: {{{}}}\n",
            ports.concat(),
            targets.join(", ")
        ),
    )
}

/// The entry at [`MOVED`], which leads to this port of the backend.
pub(super) fn moved(port: u16) -> String {
    head(
        "moved",
        &format!(
            "  addresses: [{}]\n  ports:\n  - {{name: tcp, number: {}, protocol: TCP}}\n  endpoints:\n  \
             - address: {BACKEND}\n    ports: {{tcp: {port}}}\n",
            MOVED.ip(),
            MOVED.port()
        ),
    )
}

/// An entry with an endpoint of its own, at an address that nobody has.
fn filler(number: u32) -> String {
    let [_, high, middle, low] = number.to_be_bytes();
    head(
        &format!("filler-{number}"),
        &format!(
            "  ports:\n  - {{name: tcp, number: 80, protocol: TCP}}\n  endpoints:\n  \
             - address: 172.{}.{middle}.{low}\n    ports: {{tcp: 8000}}\n",
            16 + high
        ),
    )
}
