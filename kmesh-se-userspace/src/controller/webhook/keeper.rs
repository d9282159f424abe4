//! The webhook's certificates: where they are kept, and who is told of them.
//!
//! In: a Secret, the time, whether this controller leads. Out: the certificate that is shown; from the leader also new ones in the
//! Secret, and the caBundle of the ValidatingWebhookConfiguration. Never: another field of either, and never an end of the controller.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::ValidatingWebhookConfiguration, core::v1::Secret},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{counts::Counts, server::Shown};
use crate::{
    certificates::{CertificateError, Keyring, Policy},
    controller::{election::Term, known::MANAGER},
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
    secrets: Api<Secret>,
    configs: Api<ValidatingWebhookConfiguration>,
    secret: String,
    config: Option<String>,
    policy: Policy,
    terms: watch::Receiver<Term>,
    shown: Arc<Shown>,
    counts: Arc<Counts>,
    /// What the Secret had when it was read last.
    known: Option<Keyring>,
    /// What was said last, of what is not as it should be.
    told: Option<String>,
}

/// Why certificates are not as they should be. All of it is tried again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the Secret {name} cannot be had: {source}")]
    Secret { name: String, source: Trouble },
    #[error("the Secret {name} is not there, and whoever leads has not made it yet")]
    NotYet { name: String },
    #[error("the Secret {name} is broken, and whoever leads has not replaced it yet: {source}")]
    Broken { name: String, source: CertificateError },
    #[error("the ValidatingWebhookConfiguration {name} cannot be had: {source}")]
    Config { name: String, source: Trouble },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("the certificate cannot be shown: {0}")]
    Show(#[from] rustls::Error),
}

impl Keeper {
    /// For a Secret of `namespace`, and a configuration if one is named.
    pub(super) fn new(
        client: Client,
        namespace: &str,
        (secret, config): (String, Option<String>),
        policy: Policy,
        (terms, shown, counts): (watch::Receiver<Term>, Arc<Shown>, Arc<Counts>),
    ) -> Self {
        let (secrets, configs) = (Api::namespaced(client.clone(), namespace), Api::all(client));
        Self { secrets, configs, secret, config, policy, terms, shown, counts, known: None, told: None }
    }

    /// Keeps them until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let pause = (self.policy.lifetime / 40).clamp(TURN_MIN, TURN);
        let began = Instant::now();
        loop {
            let turn = timeout(TIMEOUT, self.turn());
            let Some(turn) = shutdown.run_until_cancelled(turn).await else { return };
            let late = |_| {
                let source = Trouble::Unreachable { cause: "no answer".to_owned() };
                Err(Failure::Secret { name: self.secret.clone(), source })
            };
            let trouble = turn.unwrap_or_else(late).err().map(|failure| failure.to_string());
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
            let is_new = self.known.is_none() && began.elapsed() < START;
            let pause = if is_new { TURN_MIN } else { pause };
            if shutdown.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Whether this controller may write now.
    fn leads(&self) -> bool {
        self.terms.borrow().is_some_and(|until| until > Instant::now())
    }

    async fn turn(&mut self) -> Result<(), Failure> {
        let name = || self.secret.clone();
        let failed = |error: kube::Error| Failure::Secret { name: name(), source: Trouble::of(&error) };
        let secret = self.secrets.get_opt(&self.secret).await.map_err(failed)?;
        let files = secret.as_ref().and_then(|secret| secret.data.clone()).unwrap_or_default();
        let files: BTreeMap<_, _> = files.into_iter().map(|(name, bytes)| (name, bytes.0)).collect();
        let read = Keyring::read(&files);
        if let Ok(Some(keyring)) = &read {
            self.known = Some(keyring.clone());
        }
        let is_lost = !matches!(read, Ok(Some(_)));
        let now = Timestamp::now();
        let next = if self.leads() {
            Keyring::next(self.known.as_ref(), now, &self.policy, is_lost)?
        } else {
            match read {
                Ok(None) => return self.show().and(Err(Failure::NotYet { name: name() })),
                Err(source) => return self.show().and(Err(Failure::Broken { name: name(), source })),
                Ok(Some(_)) => None,
            }
        };
        if let Some(next) = next {
            self.write(secret, &next).await.map_err(failed)?;
            if let Err(error) = read {
                tracing::warn!(secret = self.secret, %error, "the Secret was broken, and is replaced");
            }
            let (serving, authority) = (next.serving().not_after(), next.authority_ends());
            tracing::info!(secret = self.secret, %serving, %authority, "certificates were made");
            self.known = Some(next);
        }
        self.show()?;
        self.tell().await
    }

    /// New connections see the certificate that is known.
    fn show(&self) -> Result<(), Failure> {
        let Some(known) = &self.known else { return Ok(()) };
        self.shown.show(known.serving())?;
        self.counts.shows(known.serving().not_after(), known.authority_ends());
        Ok(())
    }

    /// Keeps it, if the Secret is as it was read.
    async fn write(&self, before: Option<Secret>, keyring: &Keyring) -> kube::Result<()> {
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let files = keyring.files().into_iter().map(|(name, bytes)| (name, ByteString(bytes)));
        match before {
            Some(mut secret) => {
                secret.data.get_or_insert_default().extend(files);
                self.secrets.replace(&self.secret, &params, &secret).await.map(drop)
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.secret.clone()), ..ObjectMeta::default() };
                let secret = Secret { metadata, data: Some(files.collect()), ..Secret::default() };
                self.secrets.create(&params, &secret).await.map(drop)
            }
        }
    }

    /// The leader has the API server trust the authorities.
    async fn tell(&self) -> Result<(), Failure> {
        let (Some(name), Some(known), true) = (&self.config, &self.known, self.leads()) else {
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
