//! The routes that refuse what the programs do not handle.
//!
//! In: the flags' ranges. Out: routes, and what is said of them. Never: a failure that ends the agent.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Agent;
use crate::{
    desired::VipRanges,
    routes::{self, RouteError},
    status::RouteStatus,
};

impl Agent {
    /// Sets the routes for the flags' ranges, and removes those of other ranges.
    pub(super) async fn set_routes(&mut self) {
        self.route_errors = routes::set(&self.routed_ranges()).await;
        for error in &self.route_errors {
            let consequence = "connections that the programs do not handle wait for their own time-out";
            tracing::warn!(%error, reason = error.reason(), consequence, "no unreachable route");
        }
    }

    /// As the kernel has them now.
    pub(super) async fn routes_status(&self) -> Vec<RouteStatus> {
        let ours = routes::ours().await;
        let problem = |range: &IpNet| match &ours {
            Ok(ours) if ours.contains(range) => None,
            Ok(_) => {
                let about = |error: &&RouteError| error.range().is_none_or(|of| of == *range);
                let told = self.route_errors.iter().find(about).map(ToString::to_string);
                Some(
                    told.unwrap_or_else(|| "it was removed; a restart of the agent sets it again".to_owned()),
                )
            }
            Err(error) => Some(error.to_string()),
        };
        let ranges = self.routed_ranges().into_iter();
        ranges.map(|range| RouteStatus { range: range.to_string(), problem: problem(&range) }).collect()
    }

    fn routed_ranges(&self) -> Vec<IpNet> {
        let of_names = VipRanges { v4: self.args.dynamic_v4, v6: self.args.dynamic_v6 };
        let both = |of: VipRanges| [IpNet::from(of.v4.trunc()), IpNet::from(of.v6.trunc())];
        let all: BTreeSet<_> = [self.args.vip_ranges(), of_names].into_iter().flat_map(both).collect();
        all.into_iter().filter(|_| self.args.vip_routes).collect()
    }
}
