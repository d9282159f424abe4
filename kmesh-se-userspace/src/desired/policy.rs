//! What a client loses when connections to what no entry lists are refused (`REGISTRY_ONLY`, as Istio calls it).
//!
//! In: a plan, and the entries that it was made from. Out: the same with conditions. Never: a refusal; nothing here is enforced.

use super::{Condition, Plan, conditions};
use crate::model::{Kind, ObjectRef, Resolution, Snapshot};

/// Says in `plan` what the policy would refuse although an entry names it. Connections are known by their address and port alone:
/// a host without an address cannot be told from one that no entry names, and of addresses that pass on every port the listed
/// ports are left.
pub fn registry_only(plan: &mut Plan, snapshot: &Snapshot) {
    for service in &mut plan.services {
        // A wildcard's names have addresses of their own when they are asked for.
        let is_on_demand = service.resolution == Resolution::DynamicDns && service.host.is_wildcard();
        if service.vips.is_empty() && !is_on_demand {
            service.ports.iter_mut().for_each(|port| port.mode = "unsupported");
            service.conditions.push(Condition {
                kind: "Programmed",
                status: "False",
                reason: "RefusedByPolicy",
                message: format!(
                    "connections to {} are refused: it has no address by which they could be told from those to hosts that no \
                     entry names; list its addresses",
                    service.host
                ),
            });
        }
        let (namespace, name) = (service.namespace.clone(), service.name.as_str().into());
        let entry = snapshot.entry(&ObjectRef { kind: Kind::ServiceEntry, namespace, name });
        let is_written = entry.is_some_and(|entry| !entry.addresses.is_empty());
        if is_written && !service.vips.is_empty() {
            let ports: Vec<_> = service.ports.iter().map(|port| port.number.to_string()).collect();
            let message = format!("at these addresses only listed ports are left: {}", ports.join(", "));
            conditions::add(&mut service.conditions, "OtherPortsRefused", message);
        }
    }
}
