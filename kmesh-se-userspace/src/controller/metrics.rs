//! What the controller counts, for Prometheus.
//!
//! In: what the loop does. Out: `/metrics` over HTTP. Never: a question to the loop.

use std::{
    fmt::Write as _,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, extract::State as Extract, http::header, routing::get};
use tokio::net::TcpListener;

use super::{allocation::Counts, webhook};

/// All counts.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    counts: Mutex<Numbers>,
    /// What the webhook counts.
    pub(super) webhook: Arc<webhook::Counts>,
}

/// The numbers themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    /// Whether this controller writes.
    pub(super) leads: bool,
    /// Whether it leaves the allocation to others.
    pub(super) leaves_allocation: bool,
    /// Writes that were made, refused because the entry had changed, and that failed.
    pub(super) written: u64,
    pub(super) conflicts: u64,
    pub(super) failed: u64,
    /// Events that were sent, and that could not be.
    pub(super) events: u64,
    pub(super) events_failed: u64,
    /// How many entries wait to be written.
    pub(super) queue: usize,
    pub(super) counts: Counts,
}

impl Metrics {
    /// Changes some.
    pub(super) fn update(&self, change: impl FnOnce(&mut Numbers)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// As Prometheus reads them.
    fn text(&self) -> String {
        let now = *self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, rows: &[(&str, u64)]| {
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "# HELP kmesh_se_controller_{name} {help}\n# TYPE kmesh_se_controller_{name} {kind}\n"
            );
            for (labels, value) in rows {
                let _ = writeln!(text, "kmesh_se_controller_{name}{labels} {value}");
            }
        };
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        family("leader", "gauge", "Whether this controller holds the Lease.", &[("", now.leads.into())]);
        let about = "Whether the allocation is left to Istio, or off.";
        family("allocation_left", "gauge", about, &[("", now.leaves_allocation.into())]);
        let writes = [
            (r#"{result="written"}"#, now.written),
            (r#"{result="conflict"}"#, now.conflicts),
            (r#"{result="failed"}"#, now.failed),
        ];
        family("writes_total", "counter", "Writes of entries' status.", &writes);
        let events = [(r#"{result="sent"}"#, now.events), (r#"{result="failed"}"#, now.events_failed)];
        family("events_total", "counter", "Kubernetes Events about entries.", &events);
        family("queue", "gauge", "Entries that wait to be written.", &[("", number(now.queue))]);
        family("entries", "gauge", "Entries that are known.", &[("", number(now.counts.entries))]);
        let hosts =
            [(r#"{family="ipv4"}"#, number(now.counts.v4)), (r#"{family="ipv6"}"#, number(now.counts.v6))];
        family("allocated_hosts", "gauge", "Hosts with an address from the ranges.", &hosts);
        let exhausted = [("", number(now.counts.exhausted))];
        family("exhausted_hosts", "gauge", "Hosts for which no address is left.", &exhausted);
        self.webhook.write(&mut text);
        text
    }
}

/// Serves `/metrics` from now on.
///
/// # Errors
/// The address cannot be had.
pub(super) async fn serve(address: SocketAddr, metrics: Arc<Metrics>) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let text = |Extract(metrics): Extract<Arc<Metrics>>| async move {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.text())
    };
    let router = Router::new().route("/metrics", get(text)).with_state(metrics);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_its_type_and_labels() {
        let metrics = Metrics::default();
        metrics.update(|now| (now.leads, now.written, now.queue) = (true, 7, 3));
        let text = metrics.text();
        for line in [
            "kmesh_se_controller_leader 1",
            "kmesh_se_controller_writes_total{result=\"written\"} 7",
            "kmesh_se_controller_queue 3",
            "# TYPE kmesh_se_controller_writes_total counter",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in:\n{text}");
        }
    }
}
