//! `kmesh-se services`: what is programmed, with counters.
//!
//! In: the admin socket's answer. Out: a row for each port of each host. Never: what should be programmed.

use std::io::{self, Write};

use super::{AdminArgs, Answer, Cell, Output, Table, Text, block_on, status};
use crate::status::Services;

/// Show the services in the maps, with their backends and connections.
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
    let services: Services = block_on(args.admin.client().get("/services"))?;
    output.print(&services, text)?;
    Ok(Answer::Yes)
}

fn text(services: &Services, out: &mut Text<'_>) -> io::Result<()> {
    if services.services.is_empty() {
        writeln!(out, "No service is programmed.")?;
        return status::pending(&services.pending, "", out);
    }
    let mut table = Table::new([
        "NAMESPACE",
        "NAME",
        "HOST",
        "VIPS",
        "PORT",
        "SEEN BY",
        "BACKENDS",
        "CONNECTS",
        "REFUSED",
    ]);
    for service in &services.services {
        let vips: Vec<_> = service.vips.iter().map(ToString::to_string).collect();
        let backends: Vec<_> = service
            .backends
            .iter()
            .map(|b| std::net::SocketAddr::new(b.address, b.port).to_string())
            .collect();
        table.row([
            Cell::from(service.namespace.as_str()),
            Cell::from(service.name.as_str()),
            Cell::from(service.host.as_str()),
            Cell::from(vips.join(", ")),
            Cell::from(format!("{}/{}", service.port, service.protocol)),
            Cell::from(service.scopes.join(", ")),
            Cell::from(if backends.is_empty() { "none".to_owned() } else { backends.join(", ") }),
            Cell::from(service.connects.to_string()),
            Cell::from(service.refused.to_string()),
        ]);
    }
    table.write(out)?;
    let conditions = services.services.iter().flat_map(|service| &service.conditions);
    let not_as_asked: Vec<_> = conditions.filter(|condition| condition.status == "False").cloned().collect();
    status::pending(&not_as_asked, "", out)?;
    status::pending(&services.pending, "", out)
}
