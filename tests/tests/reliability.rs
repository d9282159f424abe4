//! Whatever happens to the agent, what it reads or the resolvers, connects to known addresses do not fail.
//!
//! The figures are smaller than what the targets ask for, unless `KMSE_LONG=1` is in the environment; `KMSE_KILLS` is how often
//! the agent is killed.

mod reliability {
    mod changes;
    mod full;
    mod kills;
    mod resolvers;
    mod upgrades;
}

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::agent::Agent;
use tests::sockets::call::Hammered;
use tests::sockets::{Arena, MANY, entry, servers};

/// Where all backends listen.
const SERVER: u16 = 9000;
/// The port of all services.
const PORT: u16 = 80;

fn client_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_socket-client"))
}

/// An entry with one TCP port and these backends.
fn service(name: &str, backends: impl IntoIterator<Item = Ipv4Addr>) -> String {
    let endpoints: Vec<Value> = backends.into_iter().map(|a| json!({ "address": a })).collect();
    let ports = json!([{ "name": "tcp", "number": PORT, "protocol": "TCP", "targetPort": SERVER }]);
    let host = format!("{name}.test");
    entry(name, &json!({ "hosts": [host], "ports": ports, "resolution": "STATIC", "endpoints": endpoints }))
}

/// Services whose backends change from one generation to the next; no backend is used twice.
#[derive(Clone, Copy, Debug)]
struct Changing {
    services: usize,
    /// Service `i` has `1 + i % kept` backends, of which each generation replaces the oldest.
    kept: usize,
}

impl Changing {
    fn host(number: usize) -> String {
        format!("changing-{number}.test")
    }

    fn backend(self, generation: usize, number: usize) -> Ipv4Addr {
        let offset = 256 + generation * self.services + number;
        Ipv4Addr::from(u32::from(MANY) + u32::try_from(offset).expect("an address of the range"))
    }

    /// Generation and service of a backend.
    fn owner(self, backend: IpAddr) -> Option<(usize, usize)> {
        let IpAddr::V4(backend) = backend else { return None };
        let offset = u32::from(backend).checked_sub(u32::from(MANY) + 256)? as usize;
        Some((offset / self.services, offset % self.services))
    }

    fn backends(self, generation: usize, number: usize) -> BTreeSet<Ipv4Addr> {
        let oldest = (generation + 1).saturating_sub(1 + number % self.kept);
        (oldest..=generation).map(|generation| self.backend(generation, number)).collect()
    }

    /// The backends that this generation has no more.
    fn removed(self, generation: usize) -> impl Iterator<Item = Ipv4Addr> {
        (0..self.services).filter_map(move |number| {
            Some(self.backend(generation.checked_sub(1 + number % self.kept)?, number))
        })
    }

    fn text(self, generation: usize) -> String {
        let services = 0..self.services;
        services.map(|i| service(&format!("changing-{i}"), self.backends(generation, i))).collect()
    }

    /// Whether the agent has written all of this generation.
    fn is_applied(self, agent: &Agent, generation: usize) -> Option<()> {
        let rows = backends(agent).ok()?;
        let same = |i| rows.get(&Self::host(i)) == Some(&self.backends(generation, i));
        (0..self.services).all(same).then_some(())
    }

    /// The address of each service, in order.
    fn dialled(self, agent: &Agent) -> anyhow::Result<Vec<SocketAddr>> {
        let vips = vips(agent)?;
        let vip = |i| vips.get(&Self::host(i)).copied().with_context(|| format!("no address of {i}"));
        (0..self.services).map(vip).collect()
    }
}

fn rows(agent: &Agent) -> anyhow::Result<Vec<Value>> {
    Ok(agent.get("/services")?["services"].as_array().context("a list")?.clone())
}

/// The IPv4 address and port of each host.
fn vips(agent: &Agent) -> anyhow::Result<BTreeMap<String, SocketAddr>> {
    let mut vips = BTreeMap::new();
    for row in rows(agent)? {
        let texts = row["vips"].as_array().into_iter().flatten().filter_map(Value::as_str);
        // One that does not fit has none.
        let Some(vip) = texts.filter_map(|text| text.parse::<Ipv4Addr>().ok()).next() else { continue };
        vips.insert(row["host"].as_str().context("a host")?.to_owned(), (vip, PORT).into());
    }
    Ok(vips)
}

/// The backends that the agent has written for each host.
fn backends(agent: &Agent) -> anyhow::Result<BTreeMap<String, BTreeSet<Ipv4Addr>>> {
    let rows = rows(agent)?.into_iter().map(|row| {
        let backends = row["backends"].as_array().into_iter().flatten();
        let addresses = backends.filter_map(|b| b["address"].as_str()?.parse().ok()).collect();
        (row["host"].as_str().unwrap_or_default().to_owned(), addresses)
    });
    Ok(rows.collect())
}

/// An arena whose backend namespace answers at each of its addresses.
fn arena(entries: &str, more: &[&str]) -> anyhow::Result<Arena> {
    let arena = Arena::start_with(client_program(), entries, |flags| {
        flags.more.extend(more.iter().map(|word| (*word).to_owned()));
    })?;
    servers::stream(&arena.backend, (Ipv4Addr::UNSPECIFIED, SERVER).into())?;
    Ok(arena)
}

/// What a client tells, with everything that must not be asserted; for the log.
fn figures(told: &Hammered) -> String {
    let slowest = told.slowest_us as f64 / 1000.0;
    format!("{} connects, {} failures, slowest {slowest:.1} ms", told.connects, told.failures.len())
}
