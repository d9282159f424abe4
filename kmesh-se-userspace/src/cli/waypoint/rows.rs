//! Waypoints as people and programs see them.
//!
//! In: Gateways, their Deployments, who is bound to them. Out: rows. Never: a request.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use serde::Serialize;

use super::{bound::Bound, cluster::holds};
use crate::{
    gateway::Gateway,
    model::{Namespace, WaypointName},
};

/// All that is shown.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Waypoints {
    pub(super) waypoints: Vec<WaypointRow>,
}

/// One waypoint.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WaypointRow {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Whether it can be what it asks for.
    pub(super) accepted: bool,
    /// Whether one of its Envoys serves.
    pub(super) programmed: bool,
    /// None when there is no Deployment, or it may not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replicas: Option<Replicas>,
    pub(super) addresses: Vec<String>,
    pub(super) conditions: Vec<Row>,
    /// Who is bound to it; none when that was not asked, or may not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bound: Option<Bound>,
}

/// The Envoys of a waypoint.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Replicas {
    pub(super) wanted: i32,
    pub(super) ready: i32,
    pub(super) updated: i32,
}

/// One condition.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    #[serde(rename = "type")]
    pub(super) type_: String,
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) message: String,
}

impl WaypointRow {
    pub(super) fn of(
        gateway: &Gateway,
        deployments: Option<&[Deployment]>,
        bound: Option<&BTreeMap<WaypointName, Bound>>,
    ) -> Self {
        let (namespace, name) = (gateway.namespace().unwrap_or_default(), gateway.name_any());
        let status = gateway.status.clone().unwrap_or_default();
        let is_its = |deployment: &&Deployment| {
            deployment.namespace().as_ref() == Some(&namespace) && deployment.name_any() == name
        };
        let deployment = deployments.into_iter().flatten().find(is_its);
        let waypoint = WaypointName { namespace: Namespace::new(&namespace), name: name.as_str().into() };
        let condition = |condition: k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| Row {
            type_: condition.type_,
            status: condition.status,
            reason: condition.reason,
            message: condition.message,
        };
        Self {
            accepted: holds(gateway, "Accepted"),
            programmed: holds(gateway, "Programmed"),
            replicas: deployment.map(Replicas::of),
            addresses: status.addresses.into_iter().filter_map(|address| address.value).collect(),
            conditions: status.conditions.into_iter().map(condition).collect(),
            bound: bound.map(|bound| bound.get(&waypoint).cloned().unwrap_or_default()),
            namespace,
            name,
        }
    }
}

impl Replicas {
    fn of(deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        Self {
            wanted: deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            ready: status.ready_replicas.unwrap_or_default(),
            updated: status.updated_replicas.unwrap_or_default(),
        }
    }
}
