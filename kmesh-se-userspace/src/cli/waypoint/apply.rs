//! `kmesh-se waypoint apply`: a waypoint that is there.
//!
//! In: a name, a cluster. Out: a Gateway, and a label on its namespace. Never: another one's Gateway, or a label that says something
//! else, unless that is asked for.

use std::{io::Write as _, time::Duration};

use kube::ResourceExt as _;
use serde::Serialize;

use super::{
    DEFAULT_NAME, For, Place,
    cluster::{Cluster, Found, LABEL, NAMESPACE_LABEL},
    generate::manifest,
};
use crate::cli::{Answer, Mood, Output, block_on, visible};

/// Make a waypoint: a Gateway, of which the controller makes Envoys.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  kmesh-se waypoint apply -n shop --enroll-namespace --wait")]
pub(super) struct Args {
    /// The name of the waypoint.
    #[arg(value_name = "NAME", default_value = DEFAULT_NAME)]
    name: String,

    /// The same.
    #[arg(long = "name", env = "KMESH_SE_WAYPOINT_NAME", value_name = "NAME", conflicts_with = "name")]
    named: Option<String>,

    #[command(flatten)]
    place: Place,

    /// What it is for.
    #[arg(long = "for", env = "KMESH_SE_WAYPOINT_FOR", value_enum, default_value_t, value_name = "WHAT")]
    serves: For,

    /// Bind the ServiceEntries of the namespace to it, by the namespace's label istio.io/use-waypoint.
    #[arg(long, env = "KMESH_SE_ENROLL_NAMESPACE")]
    enroll_namespace: bool,

    /// With --enroll-namespace: also where the namespace is bound to another waypoint.
    #[arg(long, env = "KMESH_SE_OVERWRITE", requires = "enroll_namespace")]
    overwrite: bool,

    /// Wait until one of its Envoys serves.
    #[arg(short, long, env = "KMESH_SE_WAIT")]
    wait: bool,

    /// For how long to wait.
    #[arg(long, env = "KMESH_SE_WAIT_SECONDS", value_name = "SECONDS", default_value_t = 120)]
    wait_seconds: u32,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Applied {
    namespace: String,
    name: String,
    applied: bool,
    enrolled: bool,
    /// Whether it serves, if that was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    programmed: Option<bool>,
    /// Why something was not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// What its user should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When the cluster cannot be asked, or does not do it.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    let applied = block_on(apply(args))?;
    output.print(&applied, |applied, out| {
        let Applied { namespace, name, .. } = applied;
        if applied.applied {
            writeln!(out, "waypoint {namespace}/{name} applied")?;
        }
        if applied.enrolled {
            writeln!(out, "namespace {namespace} labeled with {LABEL}={name}")?;
        }
        if applied.programmed == Some(true) {
            writeln!(out, "waypoint {namespace}/{name} {}", out.paint.mood(Mood::Good, "serves"))?;
        }
        for warning in &applied.warnings {
            writeln!(out, "{}: {}", out.paint.mood(Mood::Warning, "warning"), visible(warning))?;
        }
        match &applied.refused {
            Some(why) => writeln!(out, "{}: {}", out.paint.mood(Mood::Bad, "not done"), visible(why)),
            None => Ok(()),
        }
    })?;
    Ok(if applied.refused.is_none() { Answer::Yes } else { Answer::No })
}

async fn apply(args: Args) -> anyhow::Result<Applied> {
    let For::Service = args.serves;
    let cluster = Cluster::at(&args.place).await?;
    let name = args.named.unwrap_or(args.name);
    let mut applied =
        Applied { namespace: cluster.namespace.clone(), name: name.clone(), ..Applied::default() };
    if let Found::Other(class) = cluster.find(&name).await? {
        applied.refused = Some(format!(
            "there is a Gateway {name} of the class {class} in {}: give this one another name, or delete that one",
            cluster.namespace
        ));
        return Ok(applied);
    }
    if args.enroll_namespace && !args.overwrite {
        applied.refused = bound_elsewhere(&cluster, &name).await?;
        if applied.refused.is_some() {
            return Ok(applied);
        }
    }
    cluster.apply(&name, &manifest(Some(&cluster.namespace), &name)).await?;
    applied.applied = true;
    if args.enroll_namespace {
        cluster.enroll(&name).await?;
        applied.enrolled = true;
    }
    applied.warnings.extend(cluster.idle().await);
    if args.wait {
        let limit = Duration::from_secs(args.wait_seconds.into());
        let programmed = cluster.until_programmed(&name, limit).await?;
        applied.programmed = Some(programmed);
        if !programmed {
            applied.refused = Some(format!(
                "it does not serve after {} s; see `kmesh-se waypoint status {name} -n {}`",
                args.wait_seconds, cluster.namespace
            ));
        }
    }
    Ok(applied)
}

/// Why the namespace cannot be bound to the waypoint `name`, if it is bound to another.
async fn bound_elsewhere(cluster: &Cluster, name: &str) -> anyhow::Result<Option<String>> {
    let Some(namespace) = cluster.own_namespace().await? else {
        return Ok(Some(format!("there is no namespace {}", cluster.namespace)));
    };
    let label = |key: &str| namespace.labels().get(key).filter(|value| !value.is_empty());
    let elsewhere = label(NAMESPACE_LABEL).filter(|other| **other != cluster.namespace);
    let other = label(LABEL).filter(|other| *other != name || elsewhere.is_some());
    Ok(other.map(|other| {
        let place = elsewhere.map(|place| format!(" of {place}")).unwrap_or_default();
        format!(
            "the namespace {} has the label {LABEL}={other}{place} already: --overwrite replaces it",
            cluster.namespace
        )
    }))
}
