//! Objects as written to objects that mean something.
//!
//! In: a raw object. Out: the validated value, or every rule that it breaks, and what
//! is allowed but hardly meant. Never: a look at another object, I/O or a clock.

mod cluster;
mod endpoint;
mod host;
mod http_route;
mod metadata;
mod port;
mod rules;
mod scope;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use self::endpoint::Role;
pub use self::metadata::is_namespace;
use super::{
    Accepted, Entry, Issue, Judgement, Namespace, Object, Reason, ServiceEntry, Verdict, WaypointLabel,
    Workload, WorkloadEntry,
};

/// On a WorkloadEntry whose health is checked.
const HEALTH_CHECKS: &str = "proxy.istio.io/health-checks-enabled";

/// Most hosts of one entry.
pub const MAX_HOSTS: usize = 256;
/// Most addresses of one entry.
pub const MAX_ADDRESSES: usize = 256;
/// Most ports of one entry.
pub const MAX_PORTS: usize = 256;
/// Most endpoints of one entry.
pub const MAX_ENDPOINTS: usize = 4096;

/// Validates an object of any kind.
#[must_use]
pub fn validate(raw: &Object) -> Judgement {
    match raw {
        Object::ServiceEntry(raw) => validate_service_entry(raw).into_judgement(Accepted::Entry),
        Object::WorkloadEntry(raw) => validate_workload_entry(raw).into_judgement(Accepted::Workload),
        Object::Pod(raw) => cluster::pod(raw).into_judgement(Accepted::Workload),
        Object::Service(raw) => cluster::service(raw).into_judgement(Accepted::Service),
        Object::Node(raw) => cluster::node(raw).into_judgement(Accepted::Node),
        Object::Namespace(raw) => cluster::namespace(raw).into_judgement(Accepted::Namespace),
        Object::ConfigMap(raw) => cluster::waypoint(raw).into_judgement(Accepted::Waypoint),
        Object::HttpRoute(raw) => http_route::route(raw).into_judgement(Accepted::Route),
    }
}

/// Whether there is a verdict on this object: an HTTPRoute that has no ServiceEntry for a parent is others' to judge.
#[must_use]
pub fn is_judged(raw: &Object) -> bool {
    match raw {
        Object::ServiceEntry(_) | Object::WorkloadEntry(_) => true,
        Object::HttpRoute(route) => http_route::is_ours(route),
        _ => false,
    }
}

/// Validates a ServiceEntry. All its errors are listed, in the order of the fields.
#[must_use]
pub fn validate_service_entry(raw: &ServiceEntry) -> Verdict<Entry> {
    let mut report = Report::default();
    let created = metadata::check(&raw.metadata, &mut report);
    let object = raw.object_ref();
    let spec = &raw.spec;

    let hosts = host::hosts(&spec.hosts, &mut report);
    let addresses = host::addresses(&spec.addresses, &mut report);
    let ports = port::ports(&spec.ports, &mut report);
    let location = scope::location(&spec.location, &mut report);
    let resolution = scope::resolution(&spec.resolution, &mut report);
    let roles = Role::Listed { resolution, ports: &spec.ports };
    let endpoints = endpoint::listed(&spec.endpoints, roles, &mut report);
    let workload_selector = scope::selector(spec, resolution, &mut report);
    let export_to = scope::export_to(&spec.export_to, &object.namespace, &mut report);
    if !spec.subject_alt_names.is_empty() {
        let message = "names of certificates need TLS, so they are not enforced at this layer";
        report.warn("spec.subjectAltNames", Reason::SubjectAltNamesNotEnforced, message);
    }
    let status_addresses = host::status_addresses(&raw.status.addresses, &mut report);
    let may_allocate = metadata::may_allocate(&raw.metadata.labels);
    let traffic_distribution = metadata::traffic_distribution(&raw.metadata.annotations, &mut report);

    let waypoint = metadata::waypoint(&raw.metadata.labels, &object.namespace, &mut report);

    let entry = Entry {
        object,
        created,
        labels: raw.metadata.labels.clone(),
        annotations: raw.metadata.annotations.clone(),
        hosts,
        addresses,
        status_addresses,
        may_allocate,
        ports,
        location: location.unwrap_or_default(),
        resolution: resolution.unwrap_or_default(),
        endpoints,
        workload_selector,
        export_to,
        subject_alt_names: spec.subject_alt_names.clone(),
        traffic_distribution,
        waypoint,
        warnings: Vec::new(),
    };
    if resolution.is_some() {
        rules::check(&entry, spec, &mut report);
    }
    report.into_verdict(entry, |entry, warnings| entry.warnings = warnings.to_vec())
}

/// Validates a WorkloadEntry. All its errors are listed, in the order of the fields.
#[must_use]
pub fn validate_workload_entry(raw: &WorkloadEntry) -> Verdict<Workload> {
    let mut report = Report::default();
    metadata::check(&raw.metadata, &mut report);
    let mut endpoint = endpoint::single(&raw.spec, "spec", Role::Workload, &mut report);
    // Istio merges them in this order.
    let mut labels = raw.spec.labels.clone();
    labels.extend(raw.metadata.labels.clone());
    if raw.spec.locality.is_empty() {
        endpoint.locality = cluster::locality_label(&labels).unwrap_or_default();
    }
    // With health checks, a workload is one only once a check has found it healthy.
    let is_checked = raw.metadata.annotations.get(HEALTH_CHECKS).is_some_and(|text| is_true(text));
    let is_healthy = raw.status.conditions.iter().any(|c| c.type_ == "Healthy" && c.status == "True");
    let is_ready = is_healthy || !is_checked;
    let workload = Workload { object: raw.object_ref(), labels, endpoints: vec![endpoint], is_ready };
    report.into_verdict(workload, |_, _| {})
}

/// Whether an annotation says yes, in any of Istio's spellings.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "True" | "TRUE")
}

/// What labels of an object in `namespace` say about waypoints; a name that no waypoint can have says nothing.
#[must_use]
pub fn waypoint_label(labels: &BTreeMap<String, String>, namespace: &Namespace) -> WaypointLabel {
    metadata::waypoint(labels, namespace, &mut Report::default())
}

/// What was found so far.
#[derive(Debug, Default)]
struct Report {
    errors: Vec<Issue>,
    warnings: Vec<Issue>,
}

impl Report {
    fn error(&mut self, field: impl Into<String>, reason: Reason, message: impl Into<String>) {
        self.errors.push(Issue::new(field, reason, message));
    }

    fn warn(&mut self, field: impl Into<String>, reason: Reason, message: impl Into<String>) {
        self.warnings.push(Issue::new(field, reason, message));
    }

    /// Takes the first `max` of `items`; says so if there are more, which are then not looked at.
    fn limit<'a, T>(&mut self, items: &'a [T], max: usize, field: &str, reason: Reason) -> &'a [T] {
        if items.len() <= max {
            return items;
        }
        self.error(field, reason, format!("{} are listed, at most {max} are allowed", items.len()));
        &items[..max]
    }

    /// The verdict on `value`, which takes the warnings about it as `keep` says.
    fn into_verdict<T>(mut self, mut value: T, keep: impl FnOnce(&mut T, &[Issue])) -> Verdict<T> {
        // Rules that look at several fields come last but belong to their field. The sort is stable.
        self.errors.sort_by_key(|issue| field_order(&issue.field));
        self.warnings.sort_by_key(|issue| field_order(&issue.field));
        keep(&mut value, &self.warnings);
        let accepted = self.errors.is_empty().then(|| Arc::new(value));
        Verdict { accepted, errors: self.errors, warnings: self.warnings }
    }
}

/// The place of a field in the object: the part as in the API, then the indices in the path.
fn field_order(field: &str) -> (usize, usize) {
    const ORDER: [&str; 16] = [
        "metadata",
        "spec.hosts",
        "spec.addresses",
        "spec.address",
        "spec.ports",
        "spec.labels",
        "spec.location",
        "spec.resolution",
        "spec.endpoints",
        "spec.workloadSelector",
        "spec.exportTo",
        "spec.subjectAltNames",
        "spec.parentRefs",
        "spec.hostnames",
        "spec.rules",
        "status",
    ];
    let part = ORDER.iter().position(|prefix| {
        field.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    });
    let index = field.split_once('[').and_then(|(_, rest)| rest.split_once(']')?.0.parse::<usize>().ok());
    (part.unwrap_or(ORDER.len()), index.map_or(0, |i| i + 1))
}
