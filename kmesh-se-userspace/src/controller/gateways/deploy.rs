//! What the leading controller makes of Gateways.
//!
//! In: Gateways, and what their objects are. Out: objects as they should be, and what each Gateway is told. Never: a change of an
//! object that is not the Gateway's.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, ValidationDirective},
    runtime::{Controller, controller, controller::Action, watcher},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    Settings,
    known::Steady,
    objects::{self, Part},
    overlay::Overlays,
    status::{self, Outcome},
    verdict,
};
use crate::{
    controller::election::{Term, WRITE_TIMEOUT},
    gateway::{self, CLASS, CLASS_LABEL, GROUP, Gateway},
    source::kube::Trouble,
};

/// By what the API server knows what is written here.
pub(super) const MANAGER: &str = "kmesh-se-waypoints";
/// Changes that come one upon the other are one.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// How many Gateways are looked at at one time.
const AT_ONCE: u16 = 8;
/// How soon a change of a ConfigMap, which nobody watches, is seen.
const PARAMETERS: Duration = Duration::from_secs(15);
/// How often a Gateway is looked at without a change.
const REST: Duration = Duration::from_secs(600);
/// In what the API server says of a field that is not in its schema, with the code of an error of its own.
const NO_SUCH_FIELD: &str = "failed to create typed patch object";
/// How long a failure is waited out.
const RETRY: Duration = Duration::from_secs(5);

/// What all of it is done with.
pub(super) struct Deployer {
    pub(super) client: Client,
    pub(super) settings: Settings,
    pub(super) terms: watch::Receiver<Term>,
}

/// Why a Gateway could not be attended to. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Another controller leads, or may.
    #[error("another controller leads")]
    NotLeading,
    /// A request failed.
    #[error("{part} {name}: {source}")]
    Request {
        /// The kind of the object.
        part: &'static str,
        /// Its name.
        name: String,
        /// What the API server says.
        source: Trouble,
    },
}

/// Makes of Gateways what they ask for, until it is dropped.
pub(super) async fn run(deployer: Arc<Deployer>) {
    let client = &deployer.client;
    let gateways: Api<Gateway> = Api::all_with(client.clone(), &gateway::gateways());
    let owned = || watcher::Config::default().labels(&format!("{CLASS_LABEL}={CLASS}"));
    Controller::new_with(gateways, watcher::Config::default(), gateway::gateways())
        .owns(Api::<Deployment>::all(client.clone()), owned())
        .owns(Api::<Service>::all(client.clone()), owned())
        .owns(Api::<ServiceAccount>::all(client.clone()), owned())
        .owns(Api::<PodDisruptionBudget>::all(client.clone()), owned())
        .with_config(controller::Config::default().debounce(DEBOUNCE).concurrency(AT_ONCE))
        .trigger_backoff(Steady)
        .run(reconcile, retry, deployer.clone())
        .for_each(|done| async {
            // Who is not found has just gone; failures of the reconciler were told.
            if let Err(controller::Error::QueueError(error)) = done {
                tracing::debug!(%error, "objects of waypoints cannot be followed");
            }
        })
        .await;
}

fn retry(gateway: Arc<Gateway>, failure: &Failure, _: Arc<Deployer>) -> Action {
    if !matches!(failure, Failure::NotLeading) {
        tracing::warn!(gateway = %format!("{}/{}", namespace(&gateway), gateway.name_any()), error = %failure, "a waypoint cannot be attended to, and is tried again");
    }
    Action::requeue(RETRY)
}

async fn reconcile(gateway: Arc<Gateway>, deployer: Arc<Deployer>) -> Result<Action, Failure> {
    if !verdict::is_ours(&gateway) {
        return Ok(Action::await_change());
    }
    let outcome = deployer.attend(&gateway).await?;
    deployer.tell(&gateway, &outcome).await?;
    let infrastructure = gateway.spec.infrastructure.as_ref();
    let has_parameters = infrastructure.is_some_and(|infra| infra.parameters_ref.is_some());
    Ok(Action::requeue(match outcome {
        Outcome::Failed { .. } => RETRY,
        _ if has_parameters => PARAMETERS,
        _ => REST,
    }))
}

impl Deployer {
    /// Whether this controller may write now.
    fn leads(&self) -> Result<(), Failure> {
        let leads = self.terms.borrow().is_some_and(|until| until > Instant::now());
        if leads { Ok(()) } else { Err(Failure::NotLeading) }
    }

    /// A write, if this controller leads, within the time for it.
    pub(super) async fn write<T>(
        &self,
        (part, name): (&'static str, &str),
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        self.leads()?;
        let failed = |source| Failure::Request { part, name: name.to_owned(), source };
        let late = || failed(Trouble::no_answer());
        let answer = timeout(WRITE_TIMEOUT, request).await.map_err(|_| late())?;
        answer.map_err(|error| failed(Trouble::of(&error)))
    }

    /// Makes the objects of a Gateway what they should be.
    async fn attend(&self, gateway: &Gateway) -> Result<Outcome, Failure> {
        if let Err(refusal) = verdict::of(gateway) {
            return Ok(refusal.into());
        }
        let overlays = match self.overlays(gateway).await? {
            Ok(overlays) => overlays,
            Err(message) => return Ok(Outcome::Refused { reason: "InvalidParameters", message }),
        };
        let wanted = objects::of(gateway, &self.settings, &overlays);
        let mut made = BTreeMap::new();
        for part in Part::ALL {
            let before = self.get(part, gateway).await?;
            if let Some(before) = &before
                && !is_owned(before, gateway)
                && wanted.contains_key(&part)
            {
                let kind = part.resource().kind;
                let name = gateway.name_any();
                return Ok(Outcome::Failed {
                    message: format!(
                        "there is a {kind} {name} already, which is not this Gateway's: delete it, or give the Gateway another name"
                    ),
                });
            }
            match wanted.get(&part) {
                Some(object) => match self.apply(part, object, before.as_ref()).await {
                    Ok(object) => {
                        made.insert(part, object);
                    }
                    Err(failure) => return refused(part, failure, &overlays),
                },
                None => self.remove(part, gateway, before).await?,
            }
        }
        let deployment = made.remove(&Part::Deployment).and_then(|object| object.try_parse().ok());
        let service = made.remove(&Part::Service).and_then(|object| object.try_parse().ok());
        Ok(match (deployment, service) {
            (Some(deployment), Some(service)) => {
                Outcome::Made { deployment: Box::new(deployment), service: Box::new(service) }
            }
            _ => Outcome::Failed {
                message: "the API server's answer is no Deployment or no Service".to_owned(),
            },
        })
    }

    /// What its author wants otherwise; the inner error is for them.
    async fn overlays(&self, gateway: &Gateway) -> Result<Result<Overlays, String>, Failure> {
        let infrastructure = gateway.spec.infrastructure.as_ref();
        let Some(named) = infrastructure.and_then(|infra| infra.parameters_ref.as_ref()) else {
            return Ok(Ok(Overlays::default()));
        };
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace(gateway));
        let failed = |error: kube::Error| Failure::Request {
            part: "ConfigMap",
            name: named.name.clone(),
            source: Trouble::of(&error),
        };
        let Some(map) = maps.get_opt(&named.name).await.map_err(failed)? else {
            return Ok(Err(format!(
                "the ConfigMap {} that spec.infrastructure.parametersRef names is not there: make it in this namespace",
                named.name
            )));
        };
        let overlays = Overlays::of(&map.data.unwrap_or_default());
        Ok(overlays.map_err(|error| {
            format!("the ConfigMap {} of its parameters is not understood: {error}", named.name)
        }))
    }

    fn api(&self, part: Part, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &part.resource())
    }

    async fn get(&self, part: Part, gateway: &Gateway) -> Result<Option<DynamicObject>, Failure> {
        let name = gateway.name_any();
        let found = self.api(part, &namespace(gateway)).get_opt(&name).await;
        let kind = part.key();
        found.map_err(|error| Failure::Request { part: kind, name, source: Trouble::of(&error) })
    }

    /// Has the API server make an object what it should be, in the fields that a waypoint sets; nothing changes where it is so already.
    async fn apply(
        &self,
        part: Part,
        object: &Value,
        before: Option<&DynamicObject>,
    ) -> Result<DynamicObject, Failure> {
        let mut object = object.clone();
        if let Some(before) = before {
            // Not another one that has taken its place.
            object["metadata"]["uid"] = before.uid().into();
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let params = PatchParams { field_validation: Some(ValidationDirective::Strict), ..params() };
        let (api, patch) = (self.api(part, &namespace), Patch::Apply(&object));
        let applied = self.write((part.key(), &name), api.patch(&name, &params, &patch)).await?;
        match before {
            None => tracing::info!(namespace, name, kind = part.key(), "an object of a waypoint was made"),
            // Also when somebody else has changed it meanwhile, as its own controller does its status.
            Some(before) if before.resource_version() != applied.resource_version() => {
                tracing::debug!(namespace, name, kind = part.key(), "an object of a waypoint has changed");
            }
            Some(_) => {}
        }
        Ok(applied)
    }

    /// Takes away an object of the Gateway that it does not have any more.
    async fn remove(
        &self,
        part: Part,
        gateway: &Gateway,
        before: Option<DynamicObject>,
    ) -> Result<(), Failure> {
        let Some(before) = before.filter(|before| is_owned(before, gateway)) else { return Ok(()) };
        let preconditions = Preconditions { uid: before.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let (api, name) = (self.api(part, &namespace(gateway)), gateway.name_any());
        match self.write((part.key(), &name), api.delete(&name, &params)).await {
            Err(Failure::Request { source: Trouble::NotServed, .. }) => Ok(()),
            result => result.map(drop),
        }
    }

    /// Tells the Gateway what became of it, if that is new.
    async fn tell(&self, gateway: &Gateway, outcome: &Outcome) -> Result<(), Failure> {
        let status = status::of(gateway, outcome, Timestamp::now());
        if gateway.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let name = gateway.name_any();
        let api: Api<Gateway> =
            Api::namespaced_with(self.client.clone(), &namespace(gateway), &gateway::gateways());
        let object = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "Gateway",
            "metadata": {"name": name, "namespace": gateway.namespace(), "uid": gateway.uid()},
            "status": status,
        });
        match self.write(("gateway", &name), api.patch_status(&name, &params(), &Patch::Apply(&object))).await
        {
            // Gone, or another one by now.
            Err(Failure::Request {
                source: Trouble::NotServed | Trouble::Unable { code: 409, .. }, ..
            }) => Ok(()),
            result => result.map(drop),
        }
    }
}

/// Whether its author has to put something right: what the API server refuses, it refuses again.
fn refused(part: Part, failure: Failure, overlays: &Overlays) -> Result<Outcome, Failure> {
    let Failure::Request { source, .. } = &failure else { return Err(failure) };
    let kind = part.resource().kind;
    let is_refusal = match source {
        Trouble::Refused { .. } => true,
        // How it refuses fields that do not exist in what is applied.
        Trouble::Unable { code: 500, message } => message.contains(NO_SUCH_FIELD),
        _ => false,
    };
    if is_refusal && !overlays.is_empty() {
        return Ok(Outcome::Refused {
            reason: "InvalidParameters",
            message: format!("with its parameters the {kind} cannot be made: {source}"),
        });
    }
    if is_refusal || matches!(source, Trouble::Forbidden { .. }) {
        return Ok(Outcome::Failed { message: format!("the {kind} cannot be made: {source}") });
    }
    Err(failure)
}

pub(super) fn params() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}

fn namespace(gateway: &Gateway) -> String {
    gateway.namespace().unwrap_or_default()
}

fn is_owned(object: &DynamicObject, gateway: &Gateway) -> bool {
    object.owner_references().iter().any(|owner| Some(&owner.uid) == gateway.meta().uid.as_ref())
}
