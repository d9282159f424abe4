//! The validating admission webhook.
//!
//! In: AdmissionReviews of the API server. Out: what `kmesh-se validate` says of the object. Never: a change of an object, and
//! nothing that the rest of the controller waits for: without it, entries are applied unchecked.
//!
//! `review` judges, `server` serves, `keeper` has the certificates.

mod counts;
mod keeper;
mod review;
mod server;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use kube::Client;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub(super) use self::counts::Counts;
use self::{
    keeper::Keeper,
    server::{Server, Shown},
};
use super::{bind, election::Term, keyring::KeptKeyring};
use crate::{certificates::Policy, config::WebhookArgs};

/// For how long it is served after the controller was asked to end: others learn a moment later that it does.
const FAREWELL: Duration = Duration::from_secs(3);

/// A webhook that is served.
pub(super) struct Webhook {
    tasks: [JoinHandle<()>; 2],
    keeping: CancellationToken,
    serving: CancellationToken,
}

impl Webhook {
    /// Serves at `address` from now on. Until there is a certificate, clients are turned away.
    ///
    /// # Errors
    /// The address cannot be had.
    pub(super) async fn start(
        address: SocketAddr,
        args: &WebhookArgs,
        client: Client,
        namespace: &str,
        terms: watch::Receiver<Term>,
        counts: Arc<Counts>,
    ) -> anyhow::Result<Self> {
        let listener = bind(address).await;
        let listener = listener
            .with_context(|| format!("cannot serve the webhook on {address}: choose another --webhook"))?;
        counts.start();
        let shown = Arc::new(Shown::default());
        let server = Server::new(shown.clone(), counts.clone()).context("TLS cannot be served")?;
        let hosts = match &args.webhook_hosts {
            hosts if hosts.is_empty() => vec![format!("kmesh-se-webhook.{namespace}.svc")],
            hosts => hosts.clone(),
        };
        let policy = Policy { hosts, lifetime: Duration::from_secs(args.webhook_lifetime.into()) };
        let secret = args.webhook_secret.clone();
        let keyring = KeptKeyring::new(client.clone(), namespace, secret, policy, terms);
        let keeper = Keeper::new(client, keyring, args.webhook_config.clone(), (shown, counts));
        let (keeping, serving) = (CancellationToken::new(), CancellationToken::new());
        let tasks =
            [tokio::spawn(keeper.run(keeping.clone())), tokio::spawn(server.run(listener, serving.clone()))];
        Ok(Self { tasks, keeping, serving })
    }

    /// Serves for a moment, then no more.
    pub(super) async fn end(self) {
        self.keeping.cancel();
        tokio::time::sleep(FAREWELL).await;
        self.serving.cancel();
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "the webhook failed");
            }
        }
    }
}
