//! `kmesh-se names`: the names that the DNS server answers.
//!
//! In: the admin socket's answer. Out: a row for each host and scope. Never: a query.

use std::io::{self, Write};

use super::{AdminArgs, Answer, Cell, Mood, Output, Table, Text, block_on, seconds};
use crate::{
    reconcile::HostUse,
    status::{NameRow, Names},
};

/// Show the names that are answered, to whom, and how old the addresses behind them are.
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
    let names: Names = block_on(args.admin.client().get("/names"))?;
    output.print(&names, text)?;
    Ok(Answer::Yes)
}

fn text(names: &Names, out: &mut Text<'_>) -> io::Result<()> {
    if names.names.is_empty() {
        return writeln!(out, "No name is known.");
    }
    let mut table = Table::new(["NAME", "SEEN BY", "ADDRESSES", "ANSWERED", "ENTRY", "RESOLVED FROM", "AGE"]);
    for name in &names.names {
        let addresses: Vec<_> = name.addresses.iter().map(ToString::to_string).collect();
        let sources: Vec<_> = name.resolved_from.iter().map(|source| source.name.as_str()).collect();
        let age = seconds(name.age_secs);
        table.row([
            Cell::from(name.name.as_str()),
            Cell::from(name.scope.as_str()),
            Cell::from(addresses.join(", ")),
            answered(name),
            Cell::from(name.entry.as_str()),
            Cell::from(sources.join(", ")),
            if name.stale { Cell::with_mood(format!("{age} stale"), Mood::Warning) } else { Cell::from(age) },
        ]);
        for source in &name.resolved_from {
            if let Some(error) = &source.error {
                table.note(Mood::Warning, "failing", &format!("{}: {error}", source.name));
            }
        }
    }
    table.write(out)
}

fn answered(name: &NameRow) -> Cell {
    if name.on_demand {
        return Cell::from("names on demand");
    }
    if !name.answered {
        let why = if name.addresses.is_empty() { "no: no address" } else { "no: waits for DNS" };
        return Cell::with_mood(why, Mood::Warning);
    }
    match name.resolved {
        Some(HostUse::NotAskedFor) => return Cell::from("when asked for"),
        Some(HostUse::Idle) => return Cell::from("idle, until asked for"),
        Some(HostUse::Always | HostUse::Used) | None => {}
    }
    let has = |is_v4: bool| name.addresses.iter().any(|address| address.is_ipv4() == is_v4);
    Cell::from(match (name.answers_v4 && has(true), name.answers_v6 && has(false)) {
        (true, true) => "A, AAAA",
        (true, false) => "A",
        (false, true) => "AAAA",
        (false, false) => "no family",
    })
}
