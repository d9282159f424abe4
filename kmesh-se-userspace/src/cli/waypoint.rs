//! `kmesh-se waypoint`: the waypoints of a cluster.
//!
//! In: names, a cluster. Out: Gateways that are made, removed or shown. Never: a Gateway of another class, or a proxy; the controller
//! makes those.

mod apply;
mod bound;
mod cluster;
mod delete;
mod generate;
mod rows;
mod show;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::{Answer, Output};

/// The name of a waypoint that is not given one.
const DEFAULT_NAME: &str = "waypoint";

/// Make, remove and show the waypoints of a cluster.
///
/// A waypoint is a Gateway of the class kmesh-se-waypoint: `kmesh-se controller --waypoints` runs Envoys for it, and services that the
/// label istio.io/use-waypoint binds to it, on their ServiceEntry or its namespace, go through them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  kmesh-se waypoint apply -n shop --enroll-namespace --wait")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Apply(apply::Args),
    Delete(delete::Args),
    List(show::ListArgs),
    Status(show::StatusArgs),
    Generate(generate::Args),
}

/// Which cluster, and where in it.
#[derive(Debug, clap::Args)]
struct Place {
    /// The namespace. Default: that of the kubeconfig.
    #[arg(short, long, env = "KMESH_SE_NAMESPACE", value_name = "NS")]
    namespace: Option<String>,

    /// How to reach the API server. Default: the file that KUBECONFIG names, or ~/.kube/config.
    #[arg(long, env = "KMESH_SE_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// What a waypoint is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum For {
    /// The hosts of ServiceEntries, by the address of their service. Istio's `workload`, `all` and `none` are not served here.
    #[default]
    Service,
}

/// Runs the command.
///
/// # Errors
/// When the cluster cannot be asked, or does not do it.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    match args.command {
        Command::Apply(args) => apply::run(args, output),
        Command::Delete(args) => delete::run(args, output),
        Command::List(args) => show::list(args, output),
        Command::Status(args) => show::status(args, output),
        Command::Generate(args) => generate::run(args, output),
    }
}
