//! `kmesh-se controller`: the cluster's controller in the foreground.
//!
//! In: its flags. Out: nothing on stdout; logs on stderr. Never: a fork.

use super::{Answer, Output};
use crate::{config::ControllerArgs, controller};

/// Run the controller of a cluster.
///
/// Gives the hosts of ServiceEntries their virtual addresses, the same for all nodes, in `status.addresses`, and tells what became of
/// each entry in `status.conditions`: whether it is accepted, with every error, and what it does not get. Of several controllers, one
/// works at a time: it holds a Lease, and another takes over within 15 seconds when it is gone. It ends with SIGINT or SIGTERM;
/// addresses stay.
///
/// With `--webhook` each of them also tells the API server what is wrong with an entry, before it is stored.
///
/// Needs no privilege on its node; of the API server list and watch on serviceentries and services, patch on
/// serviceentries/status, create on events of events.k8s.io, and get, list, watch, create and update on leases of its
/// namespace; for the webhook also get, update, and create unless it is there, on its Secret, and get and patch on its
/// ValidatingWebhookConfiguration.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  \
    kmesh-se controller --kubeconfig FILE --lease-namespace kmesh-se --health 127.0.0.1:15022")]
pub struct Args {
    #[command(flatten)]
    controller: ControllerArgs,
}

/// Runs the command.
///
/// # Errors
/// When something that the controller needs is missing.
pub(super) fn run(args: Args, _output: &mut Output) -> anyhow::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(controller::run(args.controller))?;
    Ok(Answer::Yes)
}
