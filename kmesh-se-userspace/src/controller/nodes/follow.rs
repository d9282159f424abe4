//! The Leases of the nodes, as the API server has them.
//!
//! In: a client. Out: [`News`]. Never: a Lease of somebody else.

use std::{pin::pin, time::Duration};

use futures_util::TryStreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{sync::mpsc, time::sleep};

use super::News;
use crate::{node_report::LABEL, source::kube::Trouble};

/// How long a failure is waited out.
const WAIT: Duration = Duration::from_secs(5);
/// A watch is ended by the server after this long.
const WATCH_SECS: u32 = 280;

/// Tells of the Leases of `namespace` until nobody listens.
pub(in crate::controller) async fn follow(client: Client, namespace: String, tx: mpsc::Sender<News>) {
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let mut told = None;
    loop {
        let Err(end) = session(&leases, &tx, &mut told).await else { continue };
        let Some(trouble) = end else { return };
        if tx.send(News::Lost).await.is_err() {
            return;
        }
        if told.as_ref() != Some(&trouble) && trouble != Trouble::Expired {
            tracing::warn!(namespace, error = %trouble, "the Leases of the nodes cannot be read: nothing is said of what they have programmed");
            told = Some(trouble);
        }
        sleep(WAIT.mul_f64(rand::random_range(0.5..=1.0))).await;
    }
}

/// Lists and watches until the watch ends, or fails; without a trouble nobody listens any more.
async fn session(
    leases: &Api<Lease>,
    tx: &mpsc::Sender<News>,
    told: &mut Option<Trouble>,
) -> Result<(), Option<Trouble>> {
    let label = format!("{}={}", LABEL.0, LABEL.1);
    let failed = |error: kube::Error| Some(Trouble::of(&error));
    let gone = |_| None;
    let list = leases.list(&ListParams::default().labels(&label)).await.map_err(failed)?;
    let mut version = list.metadata.resource_version.clone().unwrap_or_default();
    tx.send(News::All(list.items)).await.map_err(gone)?;
    let params = WatchParams::default().labels(&label).timeout(WATCH_SECS);
    loop {
        let events = leases.watch(&params, &version).await.map_err(failed)?;
        if told.take().is_some() {
            tracing::info!("the Leases of the nodes are read again");
        }
        let mut events = pin!(events);
        while let Some(event) = events.try_next().await.map_err(failed)? {
            let news = match event {
                WatchEvent::Added(lease) | WatchEvent::Modified(lease) => {
                    version = lease.metadata.resource_version.clone().unwrap_or(version);
                    News::One(Box::new(lease))
                }
                WatchEvent::Deleted(lease) => {
                    version = lease.metadata.resource_version.clone().unwrap_or(version);
                    News::Gone(lease.metadata.name.unwrap_or_default())
                }
                WatchEvent::Bookmark(bookmark) => {
                    version = bookmark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(status) => return Err(Some(Trouble::of_status(&status))),
            };
            tx.send(news).await.map_err(gone)?;
        }
    }
}
