//! The Lease of a node.
//!
//! In: what is to be said. Out: its writes: at once when that is new, and now and then to say that the node is there. Never: more
//! than one write in five seconds, or the same trouble told twice.

use std::time::Duration;

use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    node_report::{self, NodeReport},
    source::kube::Trouble,
};

/// At most one write in this time.
const PAUSE: Duration = Duration::from_secs(5);
/// How often it is renewed, at the latest.
const RENEW: Duration = Duration::from_secs(30);
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// By what the API server knows these writes.
const MANAGER: &str = "kmesh-se-agent";

type Leases = Api<k8s_openapi::api::coordination::v1::Lease>;

/// The writer of one Lease.
pub(super) struct Writer {
    leases: Leases,
    node: String,
}

impl Writer {
    pub(super) fn new(client: Client, namespace: &str, node: String) -> Self {
        Self { leases: Api::namespaced(client, namespace), node }
    }

    /// Writes what `reports` has, until nobody reports any more.
    pub(super) async fn run(self, mut reports: watch::Receiver<Option<NodeReport>>) {
        let mut told = None;
        loop {
            let report = reports.borrow_and_update().clone();
            let began = Instant::now();
            let mut next = began + RENEW.mul_f64(rand::random_range(0.8..=1.0));
            if let Some(report) = report {
                let written = timeout(TIMEOUT, self.write(&report)).await;
                match written.unwrap_or_else(|_| Err(Trouble::no_answer())) {
                    Ok(()) => {
                        if told.take().is_some() {
                            tracing::info!("the node's Lease is written again");
                        }
                    }
                    Err(trouble) => {
                        next = began + PAUSE.mul_f64(rand::random_range(1.0..=2.0));
                        if told.as_ref() != Some(&trouble) {
                            tracing::warn!(
                                lease = node_report::lease_name(&self.node),
                                error = %trouble,
                                "the node's Lease cannot be written: the controller does not know what this node has programmed"
                            );
                            told = Some(trouble);
                        }
                    }
                }
            }
            tokio::select! {
                changed = reports.changed() => if changed.is_err() { return },
                () = sleep_until(next) => {}
            }
            sleep_until(began + PAUSE).await;
        }
    }

    async fn write(&self, report: &NodeReport) -> Result<(), Trouble> {
        let (name, now) = (node_report::lease_name(&self.node), Timestamp::now());
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(node_report::patch(&self.node, report, now));
        match self.leases.patch(&name, &params, &patch).await {
            Ok(_) => return Ok(()),
            Err(error) if Trouble::of(&error) == Trouble::NotServed => {}
            Err(error) => return Err(Trouble::of(&error)),
        }
        let lease = node_report::lease(&self.node, report, now)
            .map_err(|error| Trouble::Unreadable { cause: error.to_string() })?;
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match self.leases.create(&params, &lease).await {
            // Made meanwhile by the agent that this one takes over from.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(Trouble::of(&error)),
            Ok(_) => Ok(()),
        }
    }
}
