//! Waypoints of a cluster: what becomes of Gateways of the class `kmesh-se-waypoint`.
//!
//! In: Gateways, and who leads. Out: which of them are waypoints, on every candidate; from the leader Deployments, Services and
//! ServiceAccounts of unmodified Envoys, and what each Gateway is told. Never: a write while another controller leads.
//!
//! `known` follows Gateways, `verdict` says which of them can be what they ask for, `objects` what they consist of, with what `overlay`
//! changes of it, `status` what they are told; `deploy` writes all that, `class` has their class.

mod class;
mod deploy;
mod known;
mod objects;
mod overlay;
mod status;
mod verdict;

use std::sync::Arc;

use kube::Client;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use self::deploy::Deployer;
pub(super) use self::{
    known::{GatewayFacts, Known},
    objects::XDS_FOLDER,
    status::condition,
};
use super::election::Term;
use crate::config::GatewayArgs;

/// What waypoints are made with.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The image of their Envoys.
    pub(super) image: String,
    /// By which name they reach the controllers.
    pub(super) xds_host: String,
    /// At which port.
    pub(super) xds_port: u16,
}

impl Settings {
    /// Those of the flags, for controllers whose Lease is in `namespace`.
    pub(super) fn of(args: &GatewayArgs, namespace: &str) -> Self {
        Self {
            image: args.waypoint_image.clone(),
            xds_host: args.xds_host(namespace),
            xds_port: args.waypoint_xds_port,
        }
    }
}

/// Tells which Gateways are waypoints, and makes them that while this controller leads, for as long as it is asked.
pub(super) async fn run(
    client: Client,
    settings: Settings,
    terms: watch::Receiver<Term>,
    known: watch::Sender<Known>,
) {
    let is_served = known.subscribe();
    let deployer = Arc::new(Deployer { client: client.clone(), settings, terms });
    tokio::join!(known::follow(client, known), lead(deployer, is_served));
}

/// Deploys waypoints while this controller leads, from when Gateways are known, so that no other request is made before.
async fn lead(deployer: Arc<Deployer>, mut known: watch::Receiver<Known>) {
    let mut terms = deployer.terms.clone();
    loop {
        let leads = terms.wait_for(|term| term.is_some_and(|until| until > Instant::now()));
        if leads.await.is_err() || known.wait_for(Option::is_some).await.is_err() {
            return;
        }
        tokio::select! {
            () = deploy::run(deployer.clone()) => {}
            () = class::keep(&deployer) => {}
            () = lost(&mut terms) => {}
        }
    }
}

/// Returns when this controller leads no more.
async fn lost(terms: &mut watch::Receiver<Term>) {
    loop {
        let Some(until) = terms.borrow_and_update().filter(|until| *until > Instant::now()) else { return };
        tokio::select! {
            () = sleep_until(until) => {}
            changed = terms.changed() => if changed.is_err() { return },
        }
    }
}
