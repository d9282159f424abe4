//! `kmesh-se plan`: what a client of one namespace would get.
//!
//! In: files, folders, stdin, a hosts file. Out: services, names and rejected objects. Never: the kernel, or a query.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
};

use clap::ValueEnum;
use serde::Serialize;

use super::{
    Answer, Cell, Mood, Output, Table, Text, client_namespace,
    offline::{Offline, Rejected},
    output::visible,
};
use crate::{
    config::PlaceArgs,
    desired::{self, AddressRange, Plan, PortPlan},
    model::Namespace,
};

/// Show what a client would get, offline.
///
/// Reads the objects, builds services and names as the agent would, and prints them as the clients of one namespace see
/// them. Names resolve from the hosts file and from nowhere else; those of it that are below a DYNAMIC_DNS wildcard are shown
/// as if clients had asked for them, in the order of the names.
///
/// Exit status: 0 done, 1 some object is rejected, 2 some input could not be read.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, folders (their *.yaml, *.yml and *.json), or `-` for stdin.
    #[arg(required = true, value_name = "FILE|DIR|-")]
    pub inputs: Vec<PathBuf>,

    /// The namespace of the client.
    #[arg(short, long, env = "KMESH_SE_NAMESPACE", default_value = "default", value_name = "NS", value_parser = client_namespace)]
    pub namespace: Namespace,

    /// Where the client is.
    #[command(flatten)]
    pub place: PlaceArgs,

    /// Addresses of names, as lines of a hosts file; a name may repeat.
    #[arg(long, env = "KMESH_SE_HOSTS", value_name = "FILE")]
    pub hosts: Option<PathBuf>,

    /// What happens to connections to what no entry lists. `registry-only` shows what a client would lose if they were refused;
    /// the agent does not refuse them.
    #[arg(long, env = "KMESH_SE_OUTBOUND_POLICY", value_enum, default_value_t, value_name = "POLICY")]
    pub outbound_policy: OutboundPolicy,
}

/// See [`Args::outbound_policy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutboundPolicy {
    /// They pass unchanged.
    #[default]
    AllowAny,
    /// They are refused.
    RegistryOnly,
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    plan: Plan,
    rejected: Vec<Rejected>,
    /// Said when it is not the usual one.
    #[serde(rename = "outboundPolicy", skip_serializing_if = "Option::is_none")]
    policy: Option<OutboundPolicy>,
}

/// Runs the command.
///
/// # Errors
/// When some input cannot be read.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    run_with(&args, &mut io::stdin().lock(), output)
}

fn run_with(args: &Args, stdin: &mut dyn Read, output: &mut Output) -> anyhow::Result<Answer> {
    let offline = Offline::read(&args.inputs, args.hosts.as_deref(), args.place.place(), stdin)?;
    let vips = offline.vips();
    let leases = offline.leases(&args.namespace);
    let mut plan = desired::plan(offline.known(&vips), &leases, &args.namespace);
    let policy = Some(args.outbound_policy).filter(|policy| *policy == OutboundPolicy::RegistryOnly);
    if policy.is_some() {
        desired::registry_only(&mut plan, &offline.snapshot);
    }
    let report = Report { plan, rejected: offline.rejected, policy };
    output.print(&report, text)?;
    Ok(if report.rejected.is_empty() { Answer::Yes } else { Answer::No })
}

fn text(report: &Report, out: &mut Text<'_>) -> io::Result<()> {
    if report.plan.services.is_empty() {
        writeln!(out, "No ServiceEntry that this namespace sees.")?;
    } else {
        services(report, out)?;
    }
    if report.policy.is_some() {
        writeln!(out, "Connections to anything else would be refused; the agent lets them pass.")?;
    }
    for rejected in &report.rejected {
        let named = |text: &str| if text.is_empty() { "-".to_owned() } else { visible(text) };
        let [kind, name] = [&rejected.kind, &rejected.name].map(|text| named(text));
        for issue in &rejected.errors {
            let told = visible(&issue.to_string());
            let place = format!("{}:{}", visible(&rejected.file), rejected.line);
            let word = out.paint.mood(Mood::Bad, "rejected");
            writeln!(out, "{word}: {kind} {}/{name} at {place}: {told}", visible(&rejected.namespace))?;
        }
    }
    Ok(())
}

fn services(report: &Report, out: &mut Text<'_>) -> io::Result<()> {
    let mut table =
        Table::new(["NAMESPACE", "NAME", "HOST", "RESOLUTION", "VIPS", "PORT", "MODE", "BACKENDS"]);
    for service in &report.plan.services {
        let vips = join(&service.vips);
        let resolution = serde_json::to_value(service.resolution).unwrap_or_default();
        let row = |port: Option<&PortPlan>| {
            [
                Cell::from(service.namespace.as_str()),
                Cell::from(service.name.as_str()),
                Cell::from(service.host.as_str()),
                Cell::from(resolution.as_str().unwrap_or_default()),
                Cell::from(vips.as_str()),
                Cell::from(port.map_or_else(|| "-".to_owned(), |p| p.number.to_string())),
                Cell::from(port.map_or("-", |p| p.mode)),
                Cell::from(port.map_or_else(|| "-".to_owned(), backends)),
            ]
        };
        if service.ports.is_empty() {
            table.row(row(None));
        }
        for port in &service.ports {
            table.row(row(Some(port)));
        }
        for condition in service.conditions.iter().filter(|c| c.kind != "Accepted") {
            let is_well = condition.kind == "Programmed" && condition.status == "True";
            let mood = if is_well { Mood::Good } else { Mood::Warning };
            table.note(mood, condition.reason, &condition.message);
        }
    }
    table.write(out)
}

fn backends(port: &PortPlan) -> String {
    let list: Vec<_> = port
        .backends
        .iter()
        .map(|b| {
            let address = std::net::SocketAddr::new(b.address, b.port);
            if b.weight == 1 { address.to_string() } else { format!("{address} (weight {})", b.weight) }
        })
        .collect();
    if list.is_empty() { "-".to_owned() } else { list.join(", ") }
}

fn join(addresses: &[AddressRange]) -> String {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    if list.is_empty() { "-".to_owned() } else { list.join(", ") }
}

#[cfg(test)]
mod tests;
