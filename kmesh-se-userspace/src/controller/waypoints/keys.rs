//! The certificates of waypoints and of the controllers that serve them.
//!
//! In: the keyring of the controllers, which Gateways are waypoints. Out: what `door` shows and trusts; from the leader a Secret beside
//! each Gateway, by which its Envoys show who they are. Never: a key of the authority outside the controllers' own Secret.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams},
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::door::{self, Keys, KeysError};
use crate::{
    certificates::{CertificateError, Issued, Keyring, client_uri, is_due},
    controller::{
        gateways::{GatewayFacts, Known as Gateways, XDS_FOLDER},
        keyring::{KeptKeyring, KeyringError},
        known::MANAGER,
    },
    gateway,
    model::WaypointName,
    source::kube::Trouble,
    waypoint::{CERTIFICATE_FILES, secret_files},
};

/// How often it is looked at; oftener while there is no certificate.
const TURN: Duration = Duration::from_secs(5);
const TURN_MIN: Duration = Duration::from_millis(250);
/// For how long it is looked at oftener.
const START: Duration = Duration::from_secs(30);
/// How long one look may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why certificates are not as they should be. All of it is tried again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("the Secret {secret} of waypoint {waypoint} cannot be had: {source}")]
    Secret { waypoint: WaypointName, secret: String, source: Trouble },
}

/// Keeps certificates for as long as it is asked.
pub(super) async fn keep(
    client: Client,
    mut keyring: KeptKeyring,
    keys: Arc<Keys>,
    mut gateways: watch::Receiver<Gateways>,
) {
    let began = Instant::now();
    let mut given = BTreeMap::new();
    let mut told = None;
    loop {
        let known = gateways.borrow_and_update().clone();
        let result = match timeout(TIMEOUT, turn(&client, &mut keyring, &keys, &known, &mut given)).await {
            Ok(result) => result,
            Err(_) => Err(keyring.late().into()),
        };
        let trouble = result.err().map(|failure| failure.to_string());
        if trouble != told {
            match &trouble {
                Some(error) => {
                    tracing::warn!(error, "the certificates of waypoints are not as they should be");
                }
                None => tracing::info!("the certificates of waypoints are as they should be"),
            }
            told = trouble;
        }
        let is_new = keyring.known().is_none() && began.elapsed() < START;
        let pause = (keyring.policy().lifetime / 40).clamp(TURN_MIN, TURN);
        tokio::select! {
            () = sleep(if is_new { TURN_MIN } else { pause }) => {}
            changed = gateways.changed() => if changed.is_err() { return },
        }
    }
}

async fn turn(
    client: &Client,
    keyring: &mut KeptKeyring,
    keys: &Keys,
    gateways: &Gateways,
    given: &mut BTreeMap<WaypointName, Given>,
) -> Result<(), Failure> {
    let kept = keyring.turn().await;
    let Some(ring) = keyring.known() else { return kept.map_err(Failure::from) };
    keys.set(ring)?;
    kept?;
    if !keyring.leads() {
        given.clear();
        return Ok(());
    }
    let (now, lifetime) = (Timestamp::now(), keyring.policy().lifetime);
    let gateways = gateways.iter().flat_map(|gateways| gateways.iter());
    let mut result = Ok(());
    for (waypoint, facts) in gateways {
        if given.get(waypoint).is_some_and(|given| given.lasts(ring, facts, now, lifetime)) {
            continue;
        }
        // One that fails keeps no other from its own.
        match give(client, ring, waypoint, facts, (now, lifetime)).await {
            Ok(new) => drop(given.insert(waypoint.clone(), new)),
            Err(failure) => result = Err(failure),
        }
    }
    result
}

/// What a waypoint was given.
struct Given {
    uid: String,
    bundle: String,
    not_after: Timestamp,
    looked_at: Instant,
}

/// After how long it is looked at again whether a Secret is still there.
const LOOK: Duration = Duration::from_secs(30);

impl Given {
    fn lasts(&self, ring: &Keyring, facts: &GatewayFacts, now: Timestamp, lifetime: Duration) -> bool {
        self.uid == facts.uid
            && !is_due(self.not_after, now, lifetime)
            && self.bundle == ring.bundle()
            && self.looked_at.elapsed() < LOOK
    }
}

/// Has the Secret of a waypoint hold a certificate that lasts.
async fn give(
    client: &Client,
    ring: &Keyring,
    waypoint: &WaypointName,
    facts: &GatewayFacts,
    (now, lifetime): (Timestamp, Duration),
) -> Result<Given, Failure> {
    let name = gateway::xds_secret(&waypoint.name);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), waypoint.namespace.as_str());
    let failed = |error: kube::Error| {
        let (waypoint, secret) = (waypoint.clone(), name.clone());
        Failure::Secret { waypoint, secret, source: Trouble::of(&error) }
    };
    let bundle = ring.bundle();
    let given = |not_after| Given {
        uid: facts.uid.clone(),
        bundle: bundle.clone(),
        not_after,
        looked_at: Instant::now(),
    };
    let before = secrets.get_opt(&name).await.map_err(failed)?;
    let [certificate, key, authority] = CERTIFICATE_FILES;
    let owners = before.as_ref().and_then(|secret| secret.metadata.owner_references.as_ref());
    let is_own = owners.is_some_and(|owners| owners.iter().any(|owner| owner.uid == facts.uid));
    let has = before.and_then(|secret| secret.data).unwrap_or_default();
    let file = |name: &str| has.get(name).map(|bytes| bytes.0.as_slice()).unwrap_or_default();
    let not_after = expires(file(certificate), file(key), ring, waypoint);
    let has_bundle = file(authority) == bundle.as_bytes();
    let files = secret_files(Path::new(XDS_FOLDER));
    let has_others = files.iter().all(|(name, text)| file(name) == text.as_bytes());
    if let Some(not_after) = not_after.filter(|until| !is_due(*until, now, lifetime))
        && has_bundle
        && has_others
        && is_own
    {
        return Ok(given(not_after));
    }
    let issued = ring.sign_client(&door::uri(waypoint), now, lifetime)?;
    let mut data: BTreeMap<String, ByteString> = BTreeMap::new();
    let mut put =
        |name: &str, text: String| drop(data.insert(name.to_owned(), ByteString(text.into_bytes())));
    put(certificate, issued.pem());
    put(key, issued.key_pem());
    put(authority, bundle.clone());
    files.into_iter().for_each(|(name, text)| put(name, text));
    let owner = OwnerReference {
        api_version: format!("{}/v1", gateway::GROUP),
        kind: "Gateway".to_owned(),
        name: waypoint.name.to_string(),
        uid: facts.uid.clone(),
        ..OwnerReference::default()
    };
    let metadata =
        ObjectMeta { name: Some(name.clone()), owner_references: Some(vec![owner]), ..ObjectMeta::default() };
    let secret = Secret { metadata, data: Some(data), ..Secret::default() };
    let params = PatchParams::apply(MANAGER).force();
    secrets.patch(&name, &params, &Patch::Apply(&secret)).await.map_err(failed)?;
    tracing::info!(%waypoint, secret = name, until = %issued.not_after(), "a waypoint has a certificate");
    Ok(given(issued.not_after()))
}

/// Until when a certificate of ours for this waypoint counts; none if it is none.
fn expires(certificate: &[u8], key: &[u8], ring: &Keyring, waypoint: &WaypointName) -> Option<Timestamp> {
    let der = CertificateDer::from_pem_slice(certificate).ok()?;
    let is_for = client_uri(&der)? == door::uri(waypoint);
    let issued = Issued::from_pem(certificate, key).ok()?;
    (is_for && ring.signed(&issued)).then(|| issued.not_after())
}
