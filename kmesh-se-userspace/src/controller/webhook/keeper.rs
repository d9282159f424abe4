//! The webhook's certificates: shown to the API server, which is told whom to trust.
//!
//! In: a keyring, whether this controller leads. Out: the certificate that is shown; from the leader also the caBundle of the
//! ValidatingWebhookConfiguration. Never: another field of it, and never an end of the controller.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{ByteString, api::admissionregistration::v1::ValidatingWebhookConfiguration};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{counts::Counts, server::Shown};
use crate::{
    controller::{
        keyring::{KeptKeyring, KeyringError},
        known::MANAGER,
    },
    source::kube::Trouble,
};

/// How often it looks; oftener when certificates are short-lived.
const TURN: Duration = Duration::from_secs(5);
const TURN_MIN: Duration = Duration::from_millis(250);
/// For how long it looks oftener when there is no certificate.
const START: Duration = Duration::from_secs(30);
/// How long one look may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps the certificates of one webhook.
pub(super) struct Keeper {
    keyring: KeptKeyring,
    configs: Api<ValidatingWebhookConfiguration>,
    config: Option<String>,
    shown: Arc<Shown>,
    counts: Arc<Counts>,
    /// What was said last, of what is not as it should be.
    told: Option<String>,
}

/// Why certificates are not as they should be. All of it is tried again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error("the ValidatingWebhookConfiguration {name} cannot be had: {source}")]
    Config { name: String, source: Trouble },
    #[error("the certificate cannot be shown: {0}")]
    Show(#[from] rustls::Error),
}

impl Keeper {
    /// For a keyring, and a configuration if one is named.
    pub(super) fn new(
        client: Client,
        keyring: KeptKeyring,
        config: Option<String>,
        (shown, counts): (Arc<Shown>, Arc<Counts>),
    ) -> Self {
        Self { keyring, configs: Api::all(client), config, shown, counts, told: None }
    }

    /// Keeps them until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let pause = (self.keyring.policy().lifetime / 40).clamp(TURN_MIN, TURN);
        let began = Instant::now();
        loop {
            let turn = timeout(TIMEOUT, self.turn());
            let Some(turn) = shutdown.run_until_cancelled(turn).await else { return };
            let turn = turn.unwrap_or_else(|_| Err(self.keyring.late().into()));
            let trouble = turn.err().map(|failure| failure.to_string());
            if trouble != self.told {
                match &trouble {
                    Some(error) => {
                        tracing::warn!(error, "the webhook's certificates are not as they should be")
                    }
                    None => tracing::info!("the webhook's certificates are as they should be"),
                }
                self.told = trouble;
            }
            // The leader is known soon after the start, and without a certificate nothing is served.
            let is_new = self.keyring.known().is_none() && began.elapsed() < START;
            let pause = if is_new { TURN_MIN } else { pause };
            if shutdown.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Failure> {
        let kept = self.keyring.turn().await;
        self.show()?;
        kept?;
        self.tell().await
    }

    /// New connections see the certificate that is known.
    fn show(&self) -> Result<(), Failure> {
        let Some(known) = self.keyring.known() else { return Ok(()) };
        self.shown.show(known.serving())?;
        self.counts.shows(known.serving().not_after(), known.authority_ends());
        Ok(())
    }

    /// The leader has the API server trust the authorities.
    async fn tell(&self) -> Result<(), Failure> {
        let (Some(name), Some(known), true) = (&self.config, self.keyring.known(), self.keyring.leads())
        else {
            return Ok(());
        };
        let failed = |error: kube::Error| Failure::Config { name: name.clone(), source: Trouble::of(&error) };
        let config = self.configs.get(name).await.map_err(failed)?;
        let operations = trust(&config, known.bundle().as_bytes());
        if operations.is_empty() {
            return Ok(());
        }
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        // They are operations by construction.
        let patch = serde_json::from_value(Value::Array(operations)).unwrap_or_default();
        self.configs.patch(name, &params, &Patch::<()>::Json(patch)).await.map_err(failed)?;
        tracing::info!(config = name, "the API server trusts the webhook's authority");
        Ok(())
    }
}

/// Operations that have each webhook trust `bundle`, if it is still the same one.
fn trust(config: &ValidatingWebhookConfiguration, bundle: &[u8]) -> Vec<Value> {
    let webhooks = config.webhooks.iter().flatten().enumerate();
    let others = webhooks
        .filter(|(_, webhook)| webhook.client_config.ca_bundle.as_ref().is_none_or(|has| has.0 != bundle));
    others
        .flat_map(|(i, webhook)| {
            let path = format!("/webhooks/{i}");
            [
                json!({"op": "test", "path": format!("{path}/name"), "value": webhook.name}),
                json!({"op": "add", "path": format!("{path}/clientConfig/caBundle"), "value": ByteString(bundle.to_vec())}),
            ]
        })
        .collect()
}
