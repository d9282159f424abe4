//! What is asked of a cluster about its waypoints.
//!
//! In: names. Out: Gateways of ours, and what belongs to them. Never: a Gateway of another class.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Namespace};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Place;
use crate::{
    gateway::{self, CLASS, CLASS_LABEL, CONTROLLER, Gateway, GatewayClass},
    source::kube::{Trouble, connect},
};

/// By what the API server knows what this command writes.
const MANAGER: &str = "kmesh-se";
/// What binds what is in a namespace to a waypoint.
pub(super) const LABEL: &str = "istio.io/use-waypoint";
/// The namespace of that waypoint, if it is another one.
pub(super) const NAMESPACE_LABEL: &str = "istio.io/use-waypoint-namespace";

/// A cluster, and a namespace in it.
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) namespace: String,
}

/// What there is under the name of a waypoint.
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A waypoint.
    Ours(Box<Gateway>),
    /// A Gateway of this class.
    Other(String),
}

impl Cluster {
    /// The one that the flags name.
    ///
    /// # Errors
    /// It is not known how to reach one.
    pub(super) async fn at(place: &Place) -> anyhow::Result<Self> {
        let client = connect(place.kubeconfig.as_deref()).await?;
        let namespace = place.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        Ok(Self { client, namespace })
    }

    fn gateways(&self) -> Api<Gateway> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &gateway::gateways())
    }

    /// All waypoints of the namespace, or of the cluster.
    pub(super) async fn waypoints(&self, everywhere: bool) -> anyhow::Result<Vec<Gateway>> {
        let api = if everywhere {
            Api::all_with(self.client.clone(), &gateway::gateways())
        } else {
            self.gateways()
        };
        let list = api.list(&ListParams::default()).await.map_err(|error| explained(&error, "list"))?;
        Ok(list.items.into_iter().filter(|gateway| gateway.spec.gateway_class_name == CLASS).collect())
    }

    /// What is under this name.
    pub(super) async fn find(&self, name: &str) -> anyhow::Result<Found> {
        match self.gateways().get(name).await {
            Ok(found) if found.spec.gateway_class_name == CLASS => Ok(Found::Ours(Box::new(found))),
            Ok(found) => Ok(Found::Other(found.spec.gateway_class_name)),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // Of an object that is missing the API server says the kind; of one that it does not know, nothing.
                self.waypoints(false).await.map(|_| Found::Nothing)
            }
            Err(error) => Err(explained(&error, "read")),
        }
    }

    /// Makes a Gateway what `manifest` says.
    pub(super) async fn apply(&self, name: &str, manifest: &Value) -> anyhow::Result<()> {
        let params = PatchParams::apply(MANAGER);
        let applied = self.gateways().patch(name, &params, &Patch::Apply(manifest)).await;
        applied.map(drop).map_err(|error| explained(&error, "write"))
    }

    /// Deletes a Gateway.
    pub(super) async fn delete(&self, name: &str) -> anyhow::Result<()> {
        let deleted = self.gateways().delete(name, &DeleteParams::default()).await;
        deleted.map(drop).map_err(|error| explained(&error, "delete"))
    }

    /// Waits until a waypoint serves; says whether it does.
    pub(super) async fn until_programmed(&self, name: &str, limit: Duration) -> anyhow::Result<bool> {
        let programmed =
            |gateway: Option<&Gateway>| gateway.is_some_and(|gateway| holds(gateway, "Programmed"));
        match timeout(limit, await_condition(self.gateways(), name, programmed)).await {
            Ok(done) => done.map(|_| true).context("cannot wait for the waypoint"),
            Err(_) => Ok(false),
        }
    }

    /// The namespace itself; none if there is none.
    pub(super) async fn own_namespace(&self) -> anyhow::Result<Option<Namespace>> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let found = api.get_opt(&self.namespace).await;
        found
            .map_err(|error| Trouble::of(&error))
            .with_context(|| format!("cannot read the namespace {}", self.namespace))
    }

    /// Binds what is in the namespace to its waypoint `name`.
    pub(super) async fn enroll(&self, name: &str) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL: name, NAMESPACE_LABEL: null}}}));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patched = api.patch(&self.namespace, &params, &patch).await;
        let patched = patched.map(drop).map_err(|error| Trouble::of(&error));
        patched.with_context(|| format!("cannot label the namespace {}", self.namespace))
    }

    /// The Deployments of waypoints; none if they may not be read.
    pub(super) async fn deployments(&self, everywhere: bool) -> Option<Vec<Deployment>> {
        let client = self.client.clone();
        let api = if everywhere { Api::all(client) } else { Api::namespaced(client, &self.namespace) };
        let params = ListParams::default().labels(&format!("{CLASS_LABEL}={CLASS}"));
        api.list(&params).await.ok().map(|list| list.items)
    }

    /// Why nobody will make anything of a waypoint, as far as that is known.
    pub(super) async fn idle(&self) -> Option<String> {
        let api: Api<GatewayClass> = Api::all_with(self.client.clone(), &gateway::classes());
        let class = api.get_opt(CLASS).await.ok()?;
        let start =
            "a controller has to run with --waypoints (in the chart, controller.waypoints.enabled=true)";
        let Some(class) = class else {
            return Some(format!("there is no GatewayClass {CLASS} yet: {start}"));
        };
        if class.spec.controller_name != CONTROLLER {
            let owner = class.spec.controller_name;
            return Some(format!("the GatewayClass {CLASS} is {owner}'s, not kmesh-se's: delete it"));
        }
        let conditions = class.status.map(|status| status.conditions).unwrap_or_default();
        let accepted = conditions.into_iter().find(|condition| condition.type_ == "Accepted");
        match accepted {
            Some(condition) if condition.status == "True" => None,
            Some(condition) if condition.status == "False" => Some(condition.message),
            _ => Some(format!("no controller has accepted the GatewayClass {CLASS} yet: {start}")),
        }
    }
}

/// Whether a condition holds for the Gateway as it is.
pub(super) fn holds(gateway: &Gateway, type_: &str) -> bool {
    let conditions = gateway.status.iter().flat_map(|status| &status.conditions);
    conditions
        .filter(|condition| condition.type_ == type_ && condition.status == "True")
        .any(|condition| condition.observed_generation == gateway.metadata.generation)
}

/// What a failure means for who asks about Gateways.
fn explained(error: &kube::Error, verb: &str) -> anyhow::Error {
    match Trouble::of(error) {
        Trouble::NotServed => anyhow::anyhow!(
            "the API server does not serve Gateways (gateway.networking.k8s.io/v1): install the Gateway API's definitions, which are at \
             https://github.com/kubernetes-sigs/gateway-api/releases as standard-install.yaml"
        ),
        Trouble::Unable { code: 409, message } => {
            anyhow::anyhow!("somebody else sets fields of this Gateway: {message}")
        }
        trouble => anyhow::Error::new(trouble).context(format!("cannot {verb} Gateways")),
    }
}
