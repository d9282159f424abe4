//! Whether a Gateway can be what it asks for.
//!
//! In: a Gateway. Out: nothing, or why not. Never: a look at another object.

use crate::gateway::{CLASS, Gateway, HBONE, HBONE_PORT, Listener};

/// Why a Gateway is not accepted: for its author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Listeners that a waypoint does not have.
    #[error(
        "listener {name:?} is {protocol} at port {port}: a waypoint of kmesh-se has one listener, protocol {HBONE} at port \
         {HBONE_PORT}, by which Istio's are written; agents lead connections to ports of its own. Remove the other ones"
    )]
    Listener {
        /// Which.
        name: String,
        /// Its protocol.
        protocol: String,
        /// Its port.
        port: i32,
    },
    /// None at all.
    #[error(
        "no listener: write one with protocol {HBONE} at port {HBONE_PORT}, as `kmesh-se waypoint generate` does"
    )]
    NoListener,
    /// Addresses that it asks for.
    #[error("spec.addresses cannot be had: a waypoint has the address of its Service. Remove them")]
    Addresses,
    /// Parameters that are no ConfigMap.
    #[error(
        "spec.infrastructure.parametersRef names a {kind} of the group {group:?}: it must be a ConfigMap of the group \"\""
    )]
    Parameters {
        /// The group.
        group: String,
        /// The kind.
        kind: String,
    },
}

impl Refusal {
    /// The reason of its condition, in the Gateway API's words.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Listener { .. } | Self::NoListener => "ListenersNotValid",
            Self::Addresses => "UnsupportedAddress",
            Self::Parameters { .. } => "InvalidParameters",
        }
    }
}

/// Whether it is of the class that is ours, and stays.
pub(super) fn is_ours(gateway: &Gateway) -> bool {
    gateway.spec.gateway_class_name == CLASS && gateway.metadata.deletion_timestamp.is_none()
}

/// What its own spec says.
///
/// # Errors
/// It cannot be a waypoint: tell its author.
pub(super) fn of(gateway: &Gateway) -> Result<(), Refusal> {
    let spec = &gateway.spec;
    if spec.listeners.is_empty() {
        return Err(Refusal::NoListener);
    }
    if let Some(other) = spec.listeners.iter().find(|listener| !is_mesh(listener)) {
        let Listener { name, protocol, port } = other.clone();
        return Err(Refusal::Listener { name, protocol, port });
    }
    if !spec.addresses.is_empty() {
        return Err(Refusal::Addresses);
    }
    let parameters = spec.infrastructure.as_ref().and_then(|infra| infra.parameters_ref.as_ref());
    match parameters {
        Some(named) if !(named.group.is_empty() && named.kind == "ConfigMap") => {
            Err(Refusal::Parameters { group: named.group.clone(), kind: named.kind.clone() })
        }
        _ => Ok(()),
    }
}

/// Whether a listener is the one that waypoints are written with.
pub(super) fn is_mesh(listener: &Listener) -> bool {
    listener.protocol == HBONE && listener.port == HBONE_PORT
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn gateway(spec: Value) -> Gateway {
        let spec = json!({"metadata": {"name": "waypoint", "namespace": "default"}, "spec": spec});
        serde_json::from_value(spec).expect("a Gateway")
    }

    #[test]
    fn the_listener_of_a_mesh_is_taken_and_what_else_is_asked_for_is_refused_by_name() {
        let mesh = json!({"name": "mesh", "port": 15008, "protocol": "HBONE"});
        let ours = |extra: Value| {
            let mut spec = json!({"gatewayClassName": CLASS, "listeners": [mesh]});
            json_patch::merge(&mut spec, &extra);
            of(&gateway(spec)).map_err(|refusal| (refusal.reason(), refusal.to_string()))
        };
        assert_eq!(ours(json!({})), Ok(()));
        assert_eq!(ours(json!({"infrastructure": {"labels": {"team": "a"}}})), Ok(()));
        let map = json!({"group": "", "kind": "ConfigMap", "name": "options"});
        assert_eq!(ours(json!({"infrastructure": {"parametersRef": map}})), Ok(()));

        let secret = json!({"group": "example.com", "kind": "Options", "name": "options"});
        let web = json!({"name": "web", "port": 80, "protocol": "HTTP"});
        for (extra, reason, says) in [
            (json!({"listeners": []}), "ListenersNotValid", "no listener"),
            (json!({"listeners": [mesh, web]}), "ListenersNotValid", "listener \"web\" is HTTP at port 80"),
            (json!({"addresses": [{"value": "192.0.2.1"}]}), "UnsupportedAddress", "spec.addresses"),
            (json!({"infrastructure": {"parametersRef": secret}}), "InvalidParameters", "names a Options"),
        ] {
            let (told, message) = ours(extra).expect_err("refused");
            assert_eq!(told, reason, "{message}");
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn another_class_and_a_gateway_that_is_being_deleted_are_not_ours() {
        assert!(is_ours(&gateway(json!({"gatewayClassName": CLASS}))));
        assert!(!is_ours(&gateway(json!({"gatewayClassName": "istio-waypoint"}))));
        let mut going = gateway(json!({"gatewayClassName": CLASS}));
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
        assert!(!is_ours(&going));
    }
}
