//! The source that the flags name.
//!
//! In: flags. Out: its events. Never: what they mean.

use std::path::PathBuf;

use tokio::{sync::mpsc, task::JoinError};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{AgentArgs, Source},
    source::{Event, file, kube},
};

/// A source that can be read.
pub(super) enum Input {
    /// A folder of files.
    Folder(PathBuf),
    /// A cluster, as the node of this name sees it, and the namespace where it is told of waypoints.
    Cluster(::kube::Client, String, Option<String>),
}

impl Input {
    /// Finds out how to reach it.
    pub(super) async fn open(args: &AgentArgs) -> anyhow::Result<Self> {
        Ok(match &args.source {
            Source::File(dir) => Self::Folder(dir.clone()),
            Source::Kube => {
                let client = kube::connect(args.kubeconfig.as_deref()).await?;
                Self::Cluster(client, args.place().node, args.waypoint.waypoint_namespace.clone())
            }
        })
    }

    /// The cluster that it is, if it is one.
    pub(super) fn cluster(&self) -> Option<(::kube::Client, String)> {
        match self {
            Self::Folder(_) => None,
            Self::Cluster(client, node, _) => Some((client.clone(), node.clone())),
        }
    }

    /// Tells of what it has and of every change, until `shutdown` or until it cannot go on.
    pub(super) async fn tell(
        self,
        events: mpsc::Sender<Event>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        match self {
            Self::Folder(dir) => file::watch(dir, file::Options::default(), events, shutdown).await?,
            Self::Cluster(client, name, waypoints) => {
                kube::watch(client, kube::Interest::Node { name, waypoints }, events, shutdown).await;
            }
        }
        Ok(())
    }
}

/// Why the source stopped, which it does only when it cannot go on.
pub(super) fn why_stopped(result: Result<anyhow::Result<()>, JoinError>) -> anyhow::Error {
    match result {
        Ok(Ok(())) => anyhow::anyhow!("the source stopped"),
        Ok(Err(error)) => error,
        Err(error) => anyhow::Error::new(error).context("the source stopped"),
    }
}
