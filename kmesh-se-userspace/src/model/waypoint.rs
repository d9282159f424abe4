//! Waypoints: the proxies that labels bind services to.
//!
//! In: nothing by itself; `validate` makes these. Out: which waypoint an object names, or that it wants none. Never: whether
//! the waypoint exists.

use std::{fmt, sync::Arc};

use serde::Serialize;

use super::Namespace;

/// The class of the Gateways that are waypoints of ours.
pub const WAYPOINT_CLASS: &str = "kmesh-se-waypoint";
/// The label of a Gateway's Pods that names its class.
pub const GATEWAY_CLASS_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";
/// The label of a Gateway's Pods that names it.
pub const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// A waypoint by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct WaypointName {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name there.
    pub name: Arc<str>,
}

impl fmt::Display for WaypointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the labels `istio.io/use-waypoint` and `istio.io/use-waypoint-namespace` of one object say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WaypointLabel {
    /// Nothing: for an entry, its namespace decides.
    #[default]
    Unset,
    /// `none`: no waypoint, whatever the namespace says.
    OptedOut,
    /// This waypoint.
    Bound(WaypointName),
}

impl WaypointLabel {
    /// The waypoint, if there is one.
    #[must_use]
    pub fn bound(&self) -> Option<&WaypointName> {
        match self {
            Self::Bound(waypoint) => Some(waypoint),
            Self::Unset | Self::OptedOut => None,
        }
    }
}
