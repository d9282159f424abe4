//! `kmesh-se backends`: the addresses that connections go to.
//!
//! In: the admin socket's answer. Out: a row for each backend and service. Never: what should be programmed.

use std::io::{self, Write};

use super::{AdminArgs, Answer, Cell, Mood, Output, Table, Text, block_on, seconds};
use crate::status::Backends;

/// Show the backends in the maps, with the services that use them and how old their addresses are.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,
}

/// Runs the command.
///
/// # Errors
/// When no agent answers.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    let backends: Backends = block_on(args.admin.client().get("/backends"))?;
    output.print(&backends, text)?;
    Ok(Answer::Yes)
}

fn text(backends: &Backends, out: &mut Text<'_>) -> io::Result<()> {
    if backends.backends.is_empty() {
        return writeln!(out, "No backend is programmed.");
    }
    let mut table =
        Table::new(["ADDRESS", "SERVICE", "ENTRY", "WEIGHT", "SHARE", "SOURCE", "AGE", "SERVICE CONNECTS"]);
    for backend in &backends.backends {
        let address = std::net::SocketAddr::new(backend.address, backend.port).to_string();
        for service in &backend.services {
            let age = seconds(service.age_secs);
            let age = if service.stale {
                Cell::with_mood(format!("{age} stale"), Mood::Warning)
            } else {
                Cell::from(age)
            };
            table.row([
                Cell::from(address.as_str()),
                Cell::from(format!("{}:{}", service.host, service.service_port)),
                Cell::from(format!("{}/{}", service.namespace, service.name)),
                Cell::from(service.weight.to_string()),
                Cell::from(format!("{} %", service.share_percent)),
                Cell::from(service.source.as_str()),
                age,
                Cell::from(service.service_connects.to_string()),
            ]);
        }
    }
    table.write(out)
}
