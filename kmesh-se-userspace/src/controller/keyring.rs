//! Certificates that all controllers use, kept in a Secret.
//!
//! In: a Secret, the time, whether this controller leads. Out: the keyring; from the leader also a new one in the Secret in time. Never:
//! another field of the Secret.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{sync::watch, time::Instant};

use super::{election::Term, known::MANAGER};
use crate::{
    certificates::{CertificateError, Keyring, Policy},
    source::kube::Trouble,
};

/// A keyring and where it is kept.
pub(super) struct KeptKeyring {
    secrets: Api<Secret>,
    name: String,
    policy: Policy,
    terms: watch::Receiver<Term>,
    /// What the Secret had when it was read last.
    known: Option<Keyring>,
}

/// Why a keyring is not as it should be. All of it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyringError {
    #[error("the Secret {name} cannot be had: {source}")]
    Secret { name: String, source: Trouble },
    #[error("the Secret {name} is not there, and whoever leads has not made it yet")]
    NotYet { name: String },
    #[error("the Secret {name} is broken, and whoever leads has not replaced it yet: {source}")]
    Broken { name: String, source: CertificateError },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl KeptKeyring {
    /// The one in the Secret `name` of `namespace`.
    pub(super) fn new(
        client: Client,
        namespace: &str,
        name: String,
        policy: Policy,
        terms: watch::Receiver<Term>,
    ) -> Self {
        Self { secrets: Api::namespaced(client, namespace), name, policy, terms, known: None }
    }

    /// What is known of it.
    pub(super) fn known(&self) -> Option<&Keyring> {
        self.known.as_ref()
    }

    /// How certificates are made.
    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The error that the API server has not answered in time.
    pub(super) fn late(&self) -> KeyringError {
        let source = Trouble::no_answer();
        KeyringError::Secret { name: self.name.clone(), source }
    }

    /// Whether this controller may write now.
    pub(super) fn leads(&self) -> bool {
        self.terms.borrow().is_some_and(|until| until > Instant::now())
    }

    /// Reads it, and replaces it if that is due and this controller leads.
    pub(super) async fn turn(&mut self) -> Result<(), KeyringError> {
        let name = || self.name.clone();
        let failed = |error: kube::Error| KeyringError::Secret { name: name(), source: Trouble::of(&error) };
        let secret = self.secrets.get_opt(&self.name).await.map_err(failed)?;
        let files = secret.as_ref().and_then(|secret| secret.data.clone()).unwrap_or_default();
        let files: BTreeMap<_, _> = files.into_iter().map(|(name, bytes)| (name, bytes.0)).collect();
        let read = Keyring::read(&files);
        if let Ok(Some(keyring)) = &read {
            self.known = Some(keyring.clone());
        }
        if !self.leads() {
            return match read {
                Ok(None) => Err(KeyringError::NotYet { name: name() }),
                Err(source) => Err(KeyringError::Broken { name: name(), source }),
                Ok(Some(_)) => Ok(()),
            };
        }
        let is_lost = !matches!(read, Ok(Some(_)));
        let next = Keyring::next(self.known.as_ref(), Timestamp::now(), &self.policy, is_lost)?;
        let Some(next) = next else { return Ok(()) };
        self.write(secret, &next).await.map_err(failed)?;
        if let Err(error) = read {
            tracing::warn!(secret = self.name, %error, "the Secret was broken, and is replaced");
        }
        let (serving, authority) = (next.serving().not_after(), next.authority_ends());
        tracing::info!(secret = self.name, %serving, %authority, "certificates were made");
        self.known = Some(next);
        Ok(())
    }

    /// Keeps it, if the Secret is as it was read.
    async fn write(&self, before: Option<Secret>, keyring: &Keyring) -> kube::Result<()> {
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let files = keyring.files().into_iter().map(|(name, bytes)| (name, ByteString(bytes)));
        match before {
            Some(mut secret) => {
                secret.data.get_or_insert_default().extend(files);
                self.secrets.replace(&self.name, &params, &secret).await.map(drop)
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let secret = Secret { metadata, data: Some(files.collect()), ..Secret::default() };
                self.secrets.create(&params, &secret).await.map(drop)
            }
        }
    }
}
