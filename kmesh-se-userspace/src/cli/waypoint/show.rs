//! `kmesh-se waypoint list` and `status`.
//!
//! In: a cluster. Out: its waypoints, and how they are. Never: a change.

use std::io::{self, Write as _};

use super::{
    Place,
    bound::bound,
    cluster::{Cluster, Found},
    rows::{WaypointRow, Waypoints},
};
use crate::cli::{Answer, Cell, Mood, Output, Table, Text, block_on};

/// So many bound entries are named; a number says how many there are.
const NAMED: usize = 10;

/// Show the waypoints of a namespace, or of the cluster.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  kmesh-se waypoint list -A")]
pub(super) struct ListArgs {
    /// In all namespaces.
    #[arg(short = 'A', long, env = "KMESH_SE_ALL_NAMESPACES", conflicts_with = "namespace")]
    all_namespaces: bool,

    #[command(flatten)]
    place: Place,
}

/// Show how waypoints are: conditions, Envoys, and what is bound to them. The answer is "no" unless all of them serve.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  kmesh-se waypoint status -n shop waypoint")]
pub(super) struct StatusArgs {
    /// The names of the waypoints. Default: all of the namespace.
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    #[command(flatten)]
    place: Place,
}

/// Runs `list`.
///
/// # Errors
/// When the cluster cannot be asked.
pub(super) fn list(args: ListArgs, output: &mut Output) -> anyhow::Result<Answer> {
    let (waypoints, namespace) = block_on(async {
        let cluster = Cluster::at(&args.place).await?;
        let gateways = cluster.waypoints(args.all_namespaces).await?;
        let deployments = cluster.deployments(args.all_namespaces).await;
        let rows = gateways.iter().map(|gateway| WaypointRow::of(gateway, deployments.as_deref(), None));
        anyhow::Ok((Waypoints { waypoints: rows.collect() }, cluster.namespace))
    })?;
    let place = if args.all_namespaces { "the cluster".to_owned() } else { namespace };
    output.print(&waypoints, |waypoints, out| list_text(waypoints, &place, out))?;
    Ok(Answer::Yes)
}

/// Runs `status`.
///
/// # Errors
/// When the cluster cannot be asked.
pub(super) fn status(args: StatusArgs, output: &mut Output) -> anyhow::Result<Answer> {
    let (waypoints, missing, namespace) = block_on(async {
        let cluster = Cluster::at(&args.place).await?;
        let (mut gateways, mut missing) = (Vec::new(), Vec::new());
        if args.names.is_empty() {
            gateways = cluster.waypoints(false).await?;
        }
        for name in args.names {
            match cluster.find(&name).await? {
                Found::Ours(gateway) => gateways.push(*gateway),
                Found::Nothing | Found::Other(_) => missing.push(name),
            }
        }
        let deployments = cluster.deployments(false).await;
        let bound = bound(&cluster.client).await;
        let rows =
            gateways.iter().map(|gateway| WaypointRow::of(gateway, deployments.as_deref(), bound.as_ref()));
        anyhow::Ok((Waypoints { waypoints: rows.collect() }, missing, cluster.namespace))
    })?;
    output.print(&waypoints, |waypoints, out| {
        for (i, waypoint) in waypoints.waypoints.iter().enumerate() {
            if i > 0 {
                writeln!(out)?;
            }
            status_text(waypoint, out)?;
        }
        for name in &missing {
            writeln!(out, "No waypoint {name} in {namespace}.")?;
        }
        if waypoints.waypoints.is_empty() && missing.is_empty() {
            writeln!(out, "No waypoint in {namespace}.")?;
        }
        Ok(())
    })?;
    let serve = missing.is_empty() && !waypoints.waypoints.is_empty();
    let serve = serve && waypoints.waypoints.iter().all(|waypoint| waypoint.programmed);
    Ok(if serve { Answer::Yes } else { Answer::No })
}

fn list_text(waypoints: &Waypoints, place: &str, out: &mut Text<'_>) -> io::Result<()> {
    if waypoints.waypoints.is_empty() {
        return writeln!(out, "No waypoint in {place}.");
    }
    let mut table = Table::new(["NAMESPACE", "NAME", "PROGRAMMED", "REPLICAS", "ADDRESSES"]);
    for waypoint in &waypoints.waypoints {
        table.row([
            waypoint.namespace.as_str().into(),
            waypoint.name.as_str().into(),
            word(waypoint.programmed),
            replicas(waypoint).into(),
            waypoint.addresses.join(", ").into(),
        ]);
    }
    table.write(out)
}

fn word(holds: bool) -> Cell {
    if holds { Cell::with_mood("True", Mood::Good) } else { Cell::with_mood("False", Mood::Bad) }
}

/// `1/2`: so many of those that are wanted are ready.
fn replicas(waypoint: &WaypointRow) -> String {
    let replicas = waypoint.replicas.as_ref();
    replicas.map(|replicas| format!("{}/{}", replicas.ready, replicas.wanted)).unwrap_or_default()
}

fn status_text(waypoint: &WaypointRow, out: &mut Text<'_>) -> io::Result<()> {
    writeln!(out, "{}/{}", waypoint.namespace, waypoint.name)?;
    let mut table = Table::new(["  CONDITION", "STATUS", "REASON", "MESSAGE"]);
    for condition in &waypoint.conditions {
        let mood = if condition.status == "True" { Mood::Good } else { Mood::Bad };
        table.row([
            format!("  {}", condition.type_).into(),
            Cell::with_mood(condition.status.as_str(), mood),
            condition.reason.as_str().into(),
            condition.message.as_str().into(),
        ]);
    }
    table.write(out)?;
    if let Some(replicas) = &waypoint.replicas {
        let (wanted, ready, updated) = (replicas.wanted, replicas.ready, replicas.updated);
        writeln!(out, "  replicas: {ready} of {wanted} are ready, {updated} up to date")?;
    }
    if !waypoint.addresses.is_empty() {
        writeln!(out, "  addresses: {}", waypoint.addresses.join(", "))?;
    }
    if let Some(bound) = &waypoint.bound {
        let list = |names: &[String]| {
            let shown = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = names.len().saturating_sub(NAMED);
            if more > 0 { format!("{shown} and {more} more") } else { shown }
        };
        let none_or = |text: String| if text.is_empty() { "none".to_owned() } else { text };
        writeln!(out, "  bound namespaces: {}", none_or(list(&bound.namespaces)))?;
        writeln!(out, "  bound ServiceEntries: {}", none_or(list(&bound.entries)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::{Format, output::Shared};

    fn row() -> WaypointRow {
        let time = "2026-01-01T00:00:00Z";
        let condition = |type_: &str, status: &str, message: &str| {
            json!({"type": type_, "status": status, "reason": type_, "message": message,
                   "observedGeneration": 1, "lastTransitionTime": time})
        };
        let gateway = serde_json::from_value(json!({
            "metadata": {"name": "waypoint", "namespace": "shop", "generation": 1},
            "spec": {"gatewayClassName": "kmesh-se-waypoint"},
            "status": {"addresses": [{"type": "IPAddress", "value": "10.96.0.9"}],
                       "conditions": [condition("Accepted", "True", ""), condition("Programmed", "False", "none yet")]},
        }))
        .expect("a Gateway");
        let deployment = serde_json::from_value(json!({
            "metadata": {"name": "waypoint", "namespace": "shop"},
            "spec": {"replicas": 2, "selector": {}, "template": {}}, "status": {"readyReplicas": 1, "updatedReplicas": 2},
        }))
        .expect("a Deployment");
        WaypointRow::of(&gateway, Some(&[deployment]), Some(&std::collections::BTreeMap::new()))
    }

    fn shown(print: impl FnOnce(&mut Text<'_>) -> io::Result<()>) -> String {
        let shared = Shared::default();
        Output::to(shared.clone(), Format::Text).print(&(), |(), out| print(out)).expect("printed");
        shared.text()
    }

    #[test]
    fn a_waypoint_is_a_row_and_all_that_is_known_of_it() {
        let waypoints = Waypoints { waypoints: vec![row()] };
        assert_eq!(
            shown(|out| list_text(&waypoints, "shop", out)),
            "NAMESPACE   NAME       PROGRAMMED   REPLICAS   ADDRESSES\n\
             shop        waypoint   False        1/2        10.96.0.9\n"
        );
        assert_eq!(
            shown(|out| status_text(&waypoints.waypoints[0], out)),
            "shop/waypoint\n  \
               CONDITION    STATUS   REASON       MESSAGE\n  \
               Accepted     True     Accepted     -\n  \
               Programmed   False    Programmed   none yet\n  \
               replicas: 1 of 2 are ready, 2 up to date\n  \
               addresses: 10.96.0.9\n  \
               bound namespaces: none\n  \
               bound ServiceEntries: none\n"
        );
        let none = Waypoints { waypoints: Vec::new() };
        assert_eq!(shown(|out| list_text(&none, "shop", out)), "No waypoint in shop.\n");
    }
}
