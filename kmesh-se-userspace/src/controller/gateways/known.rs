//! Which Gateways there are that are waypoints.
//!
//! In: Gateways as the API server has them. Out: [`Known`]. Never: a Gateway of another class, or one that cannot be a waypoint.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, utils::Backoff, watcher},
};
use tokio::sync::watch;

use super::verdict;
use crate::{
    gateway::{self, Gateway},
    model::{Namespace, WaypointName},
    source::kube::Trouble,
};

/// How long a failure is waited out; so long, too, until a Gateway API is found that comes later.
const WAIT: Duration = Duration::from_secs(3);

/// The waypoints of the cluster; nothing is known until the API server has told all of them, and then it stays while it is away.
pub(in crate::controller) type Known = Option<Arc<BTreeMap<WaypointName, GatewayFacts>>>;

/// What counts of a Gateway that is a waypoint, whatever has become of it so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) struct GatewayFacts {
    /// Its uid: another Gateway of the same name is another waypoint.
    pub(in crate::controller) uid: String,
}

/// Follows Gateways for as long as it is asked.
pub(super) async fn follow(client: Client, known: watch::Sender<Known>) {
    let gateways: Api<Gateway> = Api::all_with(client, &gateway::gateways());
    let mut events = pin!(watcher(gateways, watcher::Config::default()).backoff(Steady));
    let (mut all, mut listed) = (BTreeMap::new(), BTreeMap::new());
    let mut told = None;
    let mut is_synced = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(gateway)) => take(&mut listed, &gateway),
            Ok(watcher::Event::InitDone) => {
                if told.take().is_some() {
                    tracing::info!("Gateways can be read");
                }
                all = std::mem::take(&mut listed);
                is_synced = true;
            }
            Ok(watcher::Event::Apply(gateway)) => take(&mut all, &gateway),
            Ok(watcher::Event::Delete(gateway)) => {
                all.remove(&name(&gateway));
            }
            Err(error) => {
                let trouble = trouble(&error);
                if trouble != Trouble::Expired && told.as_ref() != Some(&trouble) {
                    tell(&trouble);
                    told = Some(trouble);
                }
            }
        }
        let is_new = is_synced && known.borrow().as_deref() != Some(&all);
        if is_new {
            tracing::debug!(waypoints = ?all, "the waypoints change");
            known.send_replace(Some(Arc::new(all.clone())));
        }
    }
}

fn take(all: &mut BTreeMap<WaypointName, GatewayFacts>, gateway: &Gateway) {
    if verdict::is_ours(gateway) && verdict::of(gateway).is_ok() {
        all.insert(name(gateway), GatewayFacts { uid: gateway.uid().unwrap_or_default() });
    } else {
        all.remove(&name(gateway));
    }
}

fn name(gateway: &Gateway) -> WaypointName {
    let namespace = gateway.namespace().unwrap_or_default();
    WaypointName { namespace: Namespace::new(&namespace), name: gateway.name_any().into() }
}

fn tell(trouble: &Trouble) {
    match trouble {
        Trouble::NotServed => tracing::info!(
            "the Gateway API is not installed: there are no waypoints until it is (see docs/operations.md)"
        ),
        trouble => tracing::warn!(error = %trouble, "Gateways cannot be read: waypoints stay as they are"),
    }
}

fn trouble(error: &watcher::Error) -> Trouble {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => Trouble::of(error),
        watcher::Error::WatchError(status) => Trouble::of_status(status),
        watcher::Error::NoResourceVersion => Trouble::Unreadable { cause: error.to_string() },
    }
}

/// About the same wait each time.
pub(super) struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(WAIT.mul_f64(rand::random_range(0.5..=1.0)))
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}
