//! Gateways of Kubernetes' Gateway API, as far as they stand for waypoints.
//!
//! In: objects of the API server. Out: types that have what counts here, and the names that all who deal with waypoints share.
//! Never: a request.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::{ApiResource, GroupVersionKind, Object};
use serde::{Deserialize, Serialize};

pub use crate::model::{
    GATEWAY_CLASS_LABEL as CLASS_LABEL, GATEWAY_NAME_LABEL as NAME_LABEL, WAYPOINT_CLASS as CLASS,
};

/// Who a GatewayClass must name for its Gateways to be ours.
pub const CONTROLLER: &str = "kmesh-se.io/waypoint";
/// The group of the Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// The protocol of a waypoint's listener, as Istio's users write it.
pub const HBONE: &str = "HBONE";
/// Its port.
pub const HBONE_PORT: i32 = 15008;

/// A Gateway.
pub type Gateway = Object<GatewaySpec, GatewayStatus>;
/// A GatewayClass.
pub type GatewayClass = Object<GatewayClassSpec, GatewayClassStatus>;
/// An HTTPRoute, as far as its status says what became of it.
pub type HttpRoute = Object<HttpRouteSpec, HttpRouteStatus>;

/// What a Gateway asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Which class it is of.
    pub gateway_class_name: String,
    /// Where it should take connections.
    pub listeners: Vec<Listener>,
    /// Addresses that it asks for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// How what is made of it should look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub infrastructure: Option<Infrastructure>,
}

/// Where a Gateway should take connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: i32,
    /// What clients speak there.
    pub protocol: String,
}

/// An address of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Address {
    /// `IPAddress`, `Hostname` or another.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// The address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// How what is made of a Gateway should look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Infrastructure {
    /// Labels of all of it.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Annotations of all of it.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
    /// An object that says more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters_ref: Option<ParametersRef>,
}

/// An object in the namespace of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ParametersRef {
    /// Its group; empty for Kubernetes' core.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// What became of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayStatus {
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// `Accepted` and `Programmed`.
    pub conditions: Vec<Condition>,
    /// The same of each listener.
    pub listeners: Vec<ListenerStatus>,
}

/// What became of a listener of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Kinds of routes that it takes: none.
    pub supported_kinds: Vec<serde_json::Value>,
    /// How many routes are attached: none.
    pub attached_routes: i32,
    /// `Accepted`, `Programmed` and `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// Whose a GatewayClass is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassSpec {
    /// Who makes something of its Gateways.
    pub controller_name: String,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Settings of all its Gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters_ref: Option<serde_json::Value>,
}

/// What became of a GatewayClass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatewayClassStatus {
    /// `Accepted`.
    pub conditions: Vec<Condition>,
}

/// What an HTTPRoute is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteSpec {
    /// What it is attached to.
    pub parent_refs: Vec<serde_json::Value>,
}

/// What became of an HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpRouteStatus {
    /// A [`RouteParentStatus`] for each parent and each controller that has something to say of it.
    pub parents: Vec<serde_json::Value>,
}

/// What a controller made of an HTTPRoute at one of its parents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteParentStatus {
    /// The parent, as the route has it.
    pub parent_ref: serde_json::Value,
    /// The controller.
    pub controller_name: String,
    /// `Accepted` and `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// How the API server is asked for Gateways.
#[must_use]
pub fn gateways() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1", "Gateway"), "gateways")
}

/// How it is asked for GatewayClasses.
#[must_use]
pub fn classes() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1", "GatewayClass"), "gatewayclasses")
}

/// How it is asked for HTTPRoutes.
#[must_use]
pub fn http_routes() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1", "HTTPRoute"), "httproutes")
}

/// The name of the Secret, in the namespace of the Gateway `name`, by which its Envoys and the controllers know each other.
#[must_use]
pub fn xds_secret(name: &str) -> String {
    format!("{name}-kmesh-se-xds")
}
