//! Which listeners of the Envoy of this node can be used.
//!
//! In: what the Envoy has taken and refused, as the server hears of it, and what it still prepares, as it says itself. Out: the services
//! that connections may be led to. Never: one whose names it has not resolved once.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use super::page;
use crate::{
    desired::ServiceKey,
    waypoint::{Changes, Xds, resource_name},
};

/// How often an Envoy is asked again that still prepares something.
const LOOK: Duration = Duration::from_millis(50);

/// What the listeners of services are.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// They take connections, and lead somewhere.
    pub(super) ready: BTreeSet<ServiceKey>,
    /// They are not there; why, in the Envoy's words.
    pub(super) rejected: BTreeMap<ServiceKey, String>,
}

/// Follows the listeners of the Envoy whose page is there, for as long as somebody wants to know.
pub(super) async fn follow(
    xds: Xds,
    mut changes: Changes<ServiceKey>,
    page: PathBuf,
    listeners: watch::Sender<Listeners>,
) {
    let mut waiting = BTreeSet::new();
    while !listeners.is_closed() {
        let news = match waiting.is_empty() {
            true => changes.next().await,
            false => timeout(LOOK, changes.next()).await.unwrap_or_default(),
        };
        for service in news {
            let standings = xds.standing(&service);
            let serves = standings.iter().any(|(_, standing)| standing.serves);
            let rejected = standings.into_iter().find_map(|(_, standing)| standing.rejected);
            if serves && !listeners.borrow().ready.contains(&service) {
                waiting.insert(service.clone());
            } else if !serves {
                waiting.remove(&service);
            }
            listeners.send_if_modified(|listeners| {
                let is_gone = !serves && listeners.ready.remove(&service);
                let before = match rejected {
                    Some(why) => {
                        listeners.rejected.insert(service.clone(), why.clone()).as_ref() != Some(&why)
                    }
                    None => listeners.rejected.remove(&service).is_some(),
                };
                is_gone || before
            });
        }
        if waiting.is_empty() {
            continue;
        }
        // While it prepares a cluster for the first time, it has none.
        if let Ok(prepared) = page::warming(&page).await {
            let (still, ready): (BTreeSet<_>, BTreeSet<_>) =
                waiting.into_iter().partition(|service| prepared.contains(&resource_name(service)));
            waiting = still;
            if !ready.is_empty() {
                listeners.send_modify(|listeners| listeners.ready.extend(ready));
            }
        }
    }
}
