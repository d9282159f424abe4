//! `kmesh-se waypoint delete`: a waypoint that is not there any more.
//!
//! In: names, a cluster. Out: Gateways that are deleted, and with them all that the controller made of them. Never: another one's
//! Gateway, or a label.

use std::io::Write as _;

use kube::ResourceExt as _;
use serde::Serialize;

use super::{
    Place,
    cluster::{Cluster, Found, LABEL},
};
use crate::cli::{Answer, Mood, Output, block_on, visible};

/// Remove waypoints, and with them their Envoys. Labels that bind services to them stay.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  kmesh-se waypoint delete -n shop waypoint")]
pub(super) struct Args {
    /// The names of the waypoints.
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    names: Vec<String>,

    /// All waypoints of the namespace.
    #[arg(long, env = "KMESH_SE_ALL")]
    all: bool,

    #[command(flatten)]
    place: Place,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Deleted {
    namespace: String,
    deleted: Vec<String>,
    /// Why others were not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused: Vec<String>,
    /// What is still bound to them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When the cluster cannot be asked, or does not do it.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    let deleted = block_on(delete(args))?;
    output.print(&deleted, |deleted, out| {
        let namespace = &deleted.namespace;
        for name in &deleted.deleted {
            writeln!(out, "waypoint {namespace}/{name} deleted")?;
        }
        for warning in &deleted.warnings {
            writeln!(out, "{}: {}", out.paint.mood(Mood::Warning, "warning"), visible(warning))?;
        }
        for why in &deleted.refused {
            writeln!(out, "{}: {}", out.paint.mood(Mood::Bad, "not done"), visible(why))?;
        }
        if deleted.deleted.is_empty() && deleted.refused.is_empty() {
            writeln!(out, "No waypoint in {namespace}.")?;
        }
        Ok(())
    })?;
    Ok(if deleted.refused.is_empty() { Answer::Yes } else { Answer::No })
}

async fn delete(args: Args) -> anyhow::Result<Deleted> {
    let cluster = Cluster::at(&args.place).await?;
    let mut done = Deleted { namespace: cluster.namespace.clone(), ..Deleted::default() };
    let names = if args.all {
        cluster.waypoints(false).await?.iter().map(kube::ResourceExt::name_any).collect()
    } else {
        args.names
    };
    for name in names {
        match cluster.find(&name).await? {
            Found::Ours(_) => {
                cluster.delete(&name).await?;
                done.deleted.push(name);
            }
            Found::Nothing => {
                done.refused.push(format!("there is no waypoint {name} in {}", cluster.namespace));
            }
            Found::Other(class) => done.refused.push(format!(
                "the Gateway {name} in {} is of the class {class}, not a waypoint of kmesh-se",
                cluster.namespace
            )),
        }
    }
    // Who may not read namespaces may delete all the same.
    if let Ok(Some(namespace)) = cluster.own_namespace().await
        && let Some(name) = namespace.labels().get(LABEL).filter(|name| done.deleted.contains(name))
    {
        let namespace = &cluster.namespace;
        done.warnings.push(format!(
            "the namespace {namespace} still has the label {LABEL}={name}, by which its services are bound to no waypoint that exists; \
             `kubectl label namespace {namespace} {LABEL}-` takes it off"
        ));
    }
    Ok(done)
}
