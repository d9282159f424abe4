//! `backendRefs`: who answers.
//!
//! In: references of a rule or a filter. Out: what each is to, and its share. Never: whether it is there.

use super::{
    super::{Report, host, metadata, port::port_number},
    filter,
};
use crate::model::{
    BackendRef, BackendRefSpec, BackendTarget, CLUSTER_DOMAIN, GROUP, HostName, Kind, Namespace, NoBackend,
    ObjectRef, Reason, WeightedRef,
};

const MAX_BACKENDS: usize = 16;
const MAX_WEIGHT: i64 = 1_000_000;

/// The backends of a rule.
pub(super) fn listed(
    raw: &[BackendRefSpec],
    namespace: &Namespace,
    rule: &str,
    report: &mut Report,
) -> Vec<WeightedRef> {
    let field = format!("{rule}.backendRefs");
    let raw = report.limit(raw, MAX_BACKENDS, &field, Reason::RouteTooLong);
    let all = raw.iter().enumerate().map(|(i, raw)| {
        let field = format!("{field}[{i}]");
        let backend = reference(raw, namespace, &field, report);
        let weight = raw.weight.unwrap_or(1);
        let share = u32::try_from(weight).ok().filter(|_| weight <= MAX_WEIGHT);
        if share.is_none() {
            let message = format!("weight {weight} is not in 0..{MAX_WEIGHT}");
            report.error(format!("{field}.weight"), Reason::RouteBackendInvalid, message);
        }
        let headers = filter::of_backend(&raw.filters, &field, report);
        WeightedRef { backend, weight: share.unwrap_or_default(), headers }
    });
    all.collect()
}

/// What a reference is to. One that is not allowed is no error: its requests are answered with 500.
pub(super) fn reference(
    raw: &BackendRefSpec,
    namespace: &Namespace,
    field: &str,
    report: &mut Report,
) -> BackendRef {
    let port = raw.port.and_then(port_number);
    if port.is_none() {
        let message = match raw.port {
            Some(number) => format!("port {number} is not in 1..65535"),
            None => "port is missing; write that of the backend".to_owned(),
        };
        report.error(format!("{field}.port"), Reason::RouteBackendInvalid, message);
    }
    let kind = raw.kind.as_deref().unwrap_or("Service");
    let target = match (raw.group.as_str(), kind) {
        (GROUP, "Hostname") if !raw.namespace.is_empty() => {
            let message = "a Hostname is in no namespace; remove the field";
            report.error(format!("{field}.namespace"), Reason::RouteBackendInvalid, message);
            Err(NoBackend::Missing)
        }
        (GROUP, "Hostname") if host::is_dns_name(&raw.name) => {
            Ok(BackendTarget::Host(HostName::new(&raw.name)))
        }
        (GROUP, "Hostname") => {
            let message = format!("{:?} is not the name of a host", raw.name);
            report.error(format!("{field}.name"), Reason::RouteBackendInvalid, message);
            Err(NoBackend::Missing)
        }
        (GROUP, "ServiceEntry") | ("", "Service") if !metadata::is_name(&raw.name) => {
            let message = format!("{:?} is not the name of a {kind}", raw.name);
            report.error(format!("{field}.name"), Reason::RouteBackendInvalid, message);
            Err(NoBackend::Missing)
        }
        (GROUP, "ServiceEntry") | ("", "Service")
            if !raw.namespace.is_empty() && raw.namespace != namespace.as_str() =>
        {
            let message = format!(
                "{kind} {}/{} is in another namespace than the route, and ReferenceGrants are not read, so its requests are \
                 answered with 500; refer to one of {namespace}",
                raw.namespace, raw.name
            );
            report.warn(format!("{field}.namespace"), Reason::RouteBackendNotAllowed, message);
            Err(NoBackend::NotPermitted)
        }
        (GROUP, "ServiceEntry") => Ok(BackendTarget::Entry(ObjectRef {
            kind: Kind::ServiceEntry,
            namespace: namespace.clone(),
            name: raw.name.as_str().into(),
        })),
        ("", "Service") => {
            let name = format!("{}.{namespace}.svc.{CLUSTER_DOMAIN}", raw.name);
            Ok(BackendTarget::Service(HostName::new(&name)))
        }
        (group, _) => {
            let message = format!(
                "kind {kind} of group {group:?} cannot answer, so its requests are answered with 500; write a Service, or a \
                 ServiceEntry or Hostname of {GROUP}"
            );
            report.warn(format!("{field}.kind"), Reason::RouteBackendNotAllowed, message);
            Err(NoBackend::InvalidKind)
        }
    };
    BackendRef { field: field.to_owned(), target, port: port.unwrap_or_default() }
}
