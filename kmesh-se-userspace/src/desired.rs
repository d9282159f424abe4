//! What the maps and the DNS server should hold, host by host.
//!
//! In: a `Snapshot`, `Resolved` names and VIPs. Out: [`HostDesired`], joined in [`Desired`]. Never: I/O, a clock,
//! tokio or aya.

mod backends;
mod build;
mod claims;
mod concrete;
mod conditions;
mod few;
mod follow;
mod http_routes;
mod leases;
mod losers;
mod names;
mod plan;
mod policy;
mod ports;
mod range;
mod shadows;
mod tables;
mod vips;
mod waypoint;
mod winner;

#[cfg(test)]
mod tests;

pub use backends::Known;
pub use build::{
    Age, HostDesired, View, host, in_status, names_of, needs_vip, view_for, wanted_names, wants_vip,
};
pub use claims::Desired;
pub use concrete::{concrete, dynamic_view, is_dynamic, wildcards_above};
pub(crate) use conditions::first_of;
pub use conditions::{Condition, address_pending};
pub use few::Few;
pub use http_routes::{HttpRules, Other, REQUESTS_ROUTED, http_route_condition, route_conditions};
pub use leases::{DYNAMIC_RANGES, LeaseLimits, Leases, QuotaFull, User};
pub use losers::{Loser, Losers};
pub use names::{NameEntry, NameView};
pub(crate) use plan::remedy_without_address;
pub use plan::{BackendPlan, NamePlan, Plan, PortPlan, ServicePlan, entry_waypoint_conditions, plan};
pub use policy::registry_only;
pub use ports::{PortAssignment, PortPool, PortRange, PortRangeError, PortsExhausted};
pub use range::AddressRange;
pub use tables::{Address, AddressRule, Backend, Frontend, Keys, LedTo, ServiceKey, Tables, Unlisted};
pub use vips::{Exhausted, VipPool, VipRanges, Vips};
pub use waypoint::{
    ASSUMED_WAYPOINTS, Bound, NO_WAYPOINTS, Unavailable, Upstream, WAYPOINT_BOUND, WAYPOINT_NOT_READY,
    Waypoints, backends_of, is_through, replicas, waypoint_condition,
};
pub use winner::service_that_wins;

use std::fmt;

use serde::Serialize;

use crate::model::Namespace;

/// Whose view: every namespace without a view of its own, or one namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Scope {
    /// The whole mesh.
    Mesh,
    /// The clients of one namespace, where its view differs from the mesh's.
    Namespace(Namespace),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("*"),
            Self::Namespace(namespace) => namespace.fmt(f),
        }
    }
}
