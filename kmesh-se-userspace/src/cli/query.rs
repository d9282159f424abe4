//! `kmesh-se query`: the DNS answer that a client of one namespace would get.
//!
//! In: objects, a hosts file, a name. Out: the answer, or that the query would be forwarded. Never: a query on the wire.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
};

use super::{Answer, Output, Text, offline::Offline};
use crate::{
    config::SearchArgs,
    desired,
    dns::{self, Client, NameTable, QueryType},
    model::{HostName, Namespace, Place},
};

/// Show the DNS answer that a client would get, offline.
///
/// Exit status: 0 the name is answered here, 1 the query would be forwarded, 2 some input could not be read.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name.
    pub name: String,

    /// The type of record.
    #[arg(default_value = "A", value_name = "A|AAAA")]
    pub record_type: QueryType,

    /// A file, folder or `-` with objects. May be repeated.
    #[arg(short, long = "file", env = "KMESH_SE_FILE", value_name = "FILE", value_delimiter = ',')]
    pub files: Vec<PathBuf>,

    /// The namespace of the client.
    #[arg(short, long, env = "KMESH_SE_NAMESPACE", default_value = "default", value_name = "NS")]
    pub namespace: String,

    /// Addresses of names, as lines of a hosts file; a name may repeat.
    #[arg(long, env = "KMESH_SE_HOSTS", value_name = "FILE")]
    pub hosts: Option<PathBuf>,

    #[command(flatten)]
    search: SearchArgs,
}

/// Runs the command.
///
/// # Errors
/// When some input cannot be read.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    run_with(&args, &mut io::stdin().lock(), output)
}

fn run_with(args: &Args, stdin: &mut dyn Read, output: &mut Output) -> anyhow::Result<Answer> {
    let offline = Offline::read(&args.files, args.hosts.as_deref(), Place::default(), stdin)?;
    let vips = offline.vips();
    let table = NameTable::default();
    for host in offline.snapshot.hosts() {
        let built = desired::host(offline.known(&vips), host);
        table.set(host.clone(), Some(built.names));
    }
    let namespace = Namespace::new(&args.namespace);
    let leases = offline.leases(&namespace);
    for (host, own, _) in leases.iter() {
        let built = desired::concrete(offline.known(&vips), own, host);
        table.set_concrete(host, Some((built.concrete, true)));
    }
    let client = Client { namespace: &namespace, search: &args.search.search(Vec::new()) };
    let answer = dns::query(&table, client, &HostName::new(&args.name), args.record_type);
    output.print(&answer, text)?;
    Ok(if answer.forwarded { Answer::No } else { Answer::Yes })
}

fn text(answer: &dns::Answer, out: &mut Text<'_>) -> io::Result<()> {
    if answer.forwarded {
        return writeln!(out, "The query is forwarded to the resolver that the client asked.");
    }
    if answer.answers.is_empty() {
        return writeln!(out, "{}, without an address of this family.", answer.rcode);
    }
    for record in &answer.answers {
        writeln!(out, "{}  {}  IN  {}  {}", record.name, record.ttl, record.record_type, record.data)?;
    }
    Ok(())
}
