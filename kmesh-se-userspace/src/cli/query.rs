//! `kmesh-se query`: the DNS answer that a client of one namespace would get.
//!
//! In: objects, a hosts file, a name. Out: the answer, or that the query would be forwarded. Never: a query on the wire.

use std::{
    io::{self, Read, Write},
    path::PathBuf,
};

use super::{Answer, Output, Text, client_namespace, offline::Offline};
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
    #[arg(value_parser = dns_name)]
    pub name: HostName,

    /// The type of record.
    #[arg(default_value = "A", value_name = "A|AAAA")]
    pub record_type: QueryType,

    /// A file, folder or `-` with objects. May be repeated.
    #[arg(short, long = "file", env = "KMESH_SE_FILE", value_name = "FILE", value_delimiter = ',')]
    pub files: Vec<PathBuf>,

    /// The namespace of the client.
    #[arg(short, long, env = "KMESH_SE_NAMESPACE", default_value = "default", value_name = "NS", value_parser = client_namespace)]
    pub namespace: Namespace,

    /// Addresses of names, as lines of a hosts file; a name may repeat.
    #[arg(long, env = "KMESH_SE_HOSTS", value_name = "FILE")]
    pub hosts: Option<PathBuf>,

    #[command(flatten)]
    search: SearchArgs,
}

/// A name that a query can hold.
fn dns_name(text: &str) -> Result<HostName, String> {
    let name = HostName::new(text);
    let is_label =
        |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_graphic());
    // The root is written as one dot. A name takes two bytes more on the wire than in text.
    let is_name = text == "." || (name.as_str().len() <= 253 && name.as_str().split('.').all(is_label));
    if is_name {
        return Ok(name);
    }
    Err(if text.is_ascii() {
        "it is no name that a query can hold: labels of 1 to 63 characters, 253 in all".to_owned()
    } else {
        "it is not ASCII: write it as DNS has it, as in xn--bcher-kva.example".to_owned()
    })
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
        table.set(host.clone(), Some(built.names.known()));
    }
    let leases = offline.leases(&args.namespace);
    for (host, own, _) in leases.iter() {
        let built = desired::concrete(offline.known(&vips), own, host);
        table.set_concrete(host, Some(built.concrete.known()));
    }
    let search = args.search.search(Vec::new());
    let client = Client::of(&args.namespace, &search);
    let answer = dns::query(&table, client, &args.name, args.record_type);
    output.print(&answer, text)?;
    Ok(if answer.forwarded { Answer::No } else { Answer::Yes })
}

fn text(answer: &dns::Answer, out: &mut Text<'_>) -> io::Result<()> {
    if answer.forwarded {
        return writeln!(out, "The query is forwarded to the resolver that the client asked.");
    }
    if answer.answers.is_empty() {
        return writeln!(out, "NOERROR, without an address of this family.");
    }
    for record in &answer.answers {
        writeln!(out, "{}  {}  IN  {}  {}", record.name, record.ttl, record.record_type, record.data)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_a_query_can_hold_is_asked_for() {
        for (text, name) in [
            ("A.Com.", "a.com"),
            (".", ""),
            ("_srv._tcp.a.com", "_srv._tcp.a.com"),
            ("*.a.com", "*.a.com"),
            (&*format!("{}.com", "a".repeat(63)), &*format!("{}.com", "a".repeat(63))),
        ] {
            assert_eq!(dns_name(text).as_ref().map(HostName::as_str), Ok(name), "{text}");
        }
        let long = vec!["a".repeat(63); 4].join(".");
        for text in ["", "..", "a..b", "a.com..", "a b.com", "a\0.com", &"a".repeat(64), &long] {
            let refused = dns_name(text).expect_err("refused");
            assert!(refused.contains("no name that a query can hold"), "{text}: {refused}");
        }
        assert!(dns_name("b\u{fc}cher.example").expect_err("refused").contains("xn--bcher-kva.example"));
    }
}
