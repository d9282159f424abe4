//! What a Gateway is told of itself.
//!
//! In: a Gateway, what became of it. Out: its status. Never: a time of its own, or a condition that has not changed anew.

use jiff::Timestamp;
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Service},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::ResourceExt as _;

use super::verdict::{Refusal, is_mesh};
use crate::gateway::{Address, Gateway, GatewayStatus, ListenerStatus, NAME_LABEL};

/// The one that says whether it can be what it asks for.
pub(super) const ACCEPTED: &str = "Accepted";
/// The one that says whether it is.
pub(super) const PROGRAMMED: &str = "Programmed";

/// What became of a Gateway.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It cannot be what it asks for: the reason, and what its author is told.
    Refused { reason: &'static str, message: String },
    /// It can, but what it needs could not be made.
    Failed { message: String },
    /// Its objects are as they should be.
    Made { deployment: Box<Deployment>, service: Box<Service> },
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { reason: refusal.reason(), message: refusal.to_string() }
    }
}

/// One condition before it has a time: its type, whether it holds, why, and what people read.
pub(in crate::controller) type Said = (&'static str, bool, &'static str, String);

/// The status that a Gateway should have.
pub(super) fn of(gateway: &Gateway, outcome: &Outcome, now: Timestamp) -> GatewayStatus {
    let before = gateway.status.clone().unwrap_or_default();
    let generation = gateway.metadata.generation;
    let with_time = |said: Vec<Said>, before: &[Condition]| -> Vec<Condition> {
        said.into_iter().map(|said| condition(said, before, generation, now)).collect()
    };
    let (accepted, programmed) = said(outcome);
    let listeners = gateway.spec.listeners.iter().map(|listener| {
        let has = before.listeners.iter().find(|status| status.name == listener.name);
        let has = has.map(|status| status.conditions.clone()).unwrap_or_default();
        let said = if is_mesh(listener) {
            vec![
                (ACCEPTED, true, "Accepted", String::new()),
                (PROGRAMMED, programmed.1, programmed.2, String::new()),
                ("ResolvedRefs", true, "ResolvedRefs", String::new()),
            ]
        } else {
            vec![
                (ACCEPTED, false, "UnsupportedProtocol", "not a listener of a waypoint".to_owned()),
                (PROGRAMMED, false, "Invalid", String::new()),
                ("ResolvedRefs", true, "ResolvedRefs", String::new()),
            ]
        };
        ListenerStatus {
            name: listener.name.clone(),
            conditions: with_time(said, &has),
            ..ListenerStatus::default()
        }
    });
    GatewayStatus {
        listeners: listeners.collect(),
        addresses: match outcome {
            Outcome::Made { service, .. } => addresses(service),
            // What was made of it before stays.
            Outcome::Refused { .. } | Outcome::Failed { .. } if is_known(&before) => before.addresses.clone(),
            _ => Vec::new(),
        },
        conditions: with_time(vec![accepted, programmed], &before.conditions),
    }
}

fn is_known(before: &GatewayStatus) -> bool {
    before.addresses.iter().all(|address| address.value.is_some())
}

fn said(outcome: &Outcome) -> (Said, Said) {
    let accepted = || (ACCEPTED, true, "Accepted", "it is a waypoint of kmesh-se".to_owned());
    match outcome {
        Outcome::Refused { reason, message } => (
            (ACCEPTED, false, *reason, message.clone()),
            (
                PROGRAMMED,
                false,
                "Invalid",
                "it is not accepted; what was made of it before, if it was, stays as it is".to_owned(),
            ),
        ),
        Outcome::Failed { message } => (accepted(), (PROGRAMMED, false, "Pending", message.clone())),
        Outcome::Made { deployment, .. } => (accepted(), programmed(deployment)),
    }
}

fn programmed(deployment: &Deployment) -> Said {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let available = status.available_replicas.unwrap_or_default();
    if available > 0 {
        return (PROGRAMMED, true, "Programmed", format!("{available} of {wanted} replicas are available"));
    }
    // Why Pods cannot even be made: a quota, a policy.
    let failure = status.conditions.into_iter().flatten();
    let mut failure =
        failure.filter(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
    let message = match failure.next_back().and_then(|condition| condition.message) {
        Some(message) => format!("no Pod can be made: {message}"),
        None if wanted == 0 => "it has no replicas: its Deployment is scaled to 0".to_owned(),
        None => {
            let name = deployment.name_any();
            let namespace = deployment.namespace().unwrap_or_default();
            format!(
                "none of {wanted} replicas is available yet: see `kubectl -n {namespace} get pods -l {NAME_LABEL}={name}`"
            )
        }
    };
    (PROGRAMMED, false, "Pending", message)
}

fn addresses(service: &Service) -> Vec<Address> {
    let spec = service.spec.clone().unwrap_or_default();
    let addresses = spec.cluster_ips.unwrap_or_default().into_iter().filter(|address| address != "None");
    let address = |value| Address { type_: Some("IPAddress".to_owned()), value: Some(value) };
    addresses.map(address).collect()
}

/// With the time of before, if its status is that of before.
pub(in crate::controller) fn condition(
    (type_, holds, reason, message): Said,
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let status = if holds { "True" } else { "False" };
    let same = before.iter().find(|condition| condition.type_ == type_ && condition.status == status);
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: same
            .map_or_else(|| Time(now), |condition| condition.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::gateway::CLASS;

    fn gateway(generation: i64, status: Option<GatewayStatus>) -> Gateway {
        let mut gateway: Gateway = serde_json::from_value(json!({
            "metadata": {"name": "waypoint", "namespace": "shop", "generation": generation},
            "spec": {"gatewayClassName": CLASS, "listeners": [
                {"name": "mesh", "port": 15008, "protocol": "HBONE"}, {"name": "web", "port": 80, "protocol": "HTTP"}]},
        }))
        .expect("a Gateway");
        gateway.status = status;
        gateway
    }

    fn made(status: Value) -> Outcome {
        let deployment = json!({"metadata": {}, "spec": {"replicas": 2, "selector": {}, "template": {}}, "status": status});
        let service = json!({"metadata": {}, "spec": {"clusterIPs": ["10.0.0.1", "fd00::1"]}});
        Outcome::Made {
            deployment: serde_json::from_value(deployment).expect("a Deployment"),
            service: serde_json::from_value(service).expect("a Service"),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn read(status: &GatewayStatus) -> Vec<(&str, &str, &str, i64)> {
        let conditions = status.conditions.iter();
        conditions
            .map(|c| {
                (c.type_.as_str(), c.status.as_str(), c.reason.as_str(), c.last_transition_time.0.as_second())
            })
            .collect()
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let first = of(&gateway(1, None), &made(json!({})), at(10));
        assert_eq!(
            read(&first),
            [("Accepted", "True", "Accepted", 10), ("Programmed", "False", "Pending", 10)]
        );
        let up = made(json!({"availableReplicas": 1}));
        let second = of(&gateway(2, Some(first)), &up, at(20));
        assert_eq!(
            read(&second),
            [("Accepted", "True", "Accepted", 10), ("Programmed", "True", "Programmed", 20)]
        );
        assert_eq!(second.conditions[0].observed_generation, Some(2));
        assert_eq!(of(&gateway(2, Some(second.clone())), &up, at(30)), second, "nothing to write");
        let values = second.addresses.iter().map(|a| a.value.as_deref()).collect::<Vec<_>>();
        assert_eq!(values, [Some("10.0.0.1"), Some("fd00::1")]);
    }

    #[test]
    fn who_is_refused_is_told_why_and_keeps_its_address() {
        let up = of(&gateway(1, None), &made(json!({"availableReplicas": 2})), at(10));
        let refused = Outcome::from(Refusal::NoListener);
        let status = of(&gateway(2, Some(up.clone())), &refused, at(20));
        assert_eq!(
            read(&status),
            [("Accepted", "False", "ListenersNotValid", 20), ("Programmed", "False", "Invalid", 20)]
        );
        assert_eq!(status.addresses, up.addresses);
        assert!(status.conditions[0].message.contains("HBONE"));
        let web = &status.listeners[1].conditions[0];
        assert_eq!((web.status.as_str(), web.reason.as_str()), ("False", "UnsupportedProtocol"));
    }

    #[test]
    fn a_quota_that_leaves_no_room_is_passed_on() {
        let failure = json!({"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]});
        let status = of(&gateway(1, None), &made(failure), at(10));
        assert_eq!(status.conditions[1].message, "no Pod can be made: exceeded quota");
    }
}
