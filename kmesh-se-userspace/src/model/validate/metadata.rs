//! `metadata`, as far as something here depends on it.
//!
//! In: raw metadata. Out: the time of creation, and issues. Never: rules that only the API server needs.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Report, host};
use crate::model::{Metadata, Namespace, Reason, TrafficDistribution, WaypointLabel, WaypointName};

/// `"false"` says that no address may be allocated.
const ALLOCATE_LABEL: &str = "networking.istio.io/enable-autoallocate-ip";
/// The waypoint that the object is bound to; `none` for no one.
const WAYPOINT_LABEL: &str = "istio.io/use-waypoint";
/// The namespace of that waypoint, if it is not the object's own.
const WAYPOINT_NAMESPACE_LABEL: &str = "istio.io/use-waypoint-namespace";
/// Which backends are near enough, on an entry or its namespace.
const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
const TRAFFIC_DISTRIBUTIONS: [(&str, TrafficDistribution); 4] = [
    ("PreferClose", TrafficDistribution::PreferSameZone),
    ("PreferSameZone", TrafficDistribution::PreferSameZone),
    ("PreferSameNode", TrafficDistribution::PreferSameNode),
    ("Any", TrafficDistribution::Any),
];

pub(super) fn check(metadata: &Metadata, report: &mut Report) -> Option<Timestamp> {
    let name = &metadata.name;
    if name.is_empty() {
        report.error("metadata.name", Reason::NameMissing, "the object has no name; write metadata.name");
    } else if !is_name(name) {
        let message = format!(
            "name {name:?} is not a name of Kubernetes: at most 253 of a-z, 0-9, '-' and '.', with a letter or \
             digit at both ends of each part"
        );
        report.error("metadata.name", Reason::NameInvalid, message);
    }
    let namespace = &metadata.namespace;
    if !namespace.is_empty() && !is_namespace(namespace) {
        let message = format!(
            "namespace {namespace:?} is not a name of a namespace: at most 63 of a-z, 0-9 and '-', with a \
             letter or digit at both ends"
        );
        report.error("metadata.namespace", Reason::NamespaceInvalid, message);
    }
    let created = metadata.creation_timestamp.as_deref()?;
    created
        .parse()
        .map_err(|_| {
            let message =
                format!("{created:?} is not a time; write it as 2026-01-31T12:00:00Z, or leave it out");
            report.error("metadata.creationTimestamp", Reason::CreationTimestampInvalid, message);
        })
        .ok()
}

pub(super) fn may_allocate(labels: &BTreeMap<String, String>) -> bool {
    !labels.get(ALLOCATE_LABEL).is_some_and(|value| value.eq_ignore_ascii_case("false"))
}

/// The waypoint that the labels of an object in `namespace` name. A name that no waypoint can have binds to nothing.
pub(super) fn waypoint(
    labels: &BTreeMap<String, String>,
    namespace: &Namespace,
    report: &mut Report,
) -> WaypointLabel {
    let Some(name) = labels.get(WAYPOINT_LABEL).filter(|name| !name.is_empty()) else {
        return WaypointLabel::Unset;
    };
    if name.eq_ignore_ascii_case("none") {
        return WaypointLabel::OptedOut;
    }
    let mut ignored = |label, text: &str, what| {
        let message = format!(
            "{text:?} is not a name of a {what}, so the object is bound to no waypoint by its labels; write a name of a-z, 0-9 and \
             '-', or `none`"
        );
        report.warn(format!("metadata.labels.{label}"), Reason::WaypointInvalid, message);
        WaypointLabel::Unset
    };
    if !is_name(name) {
        return ignored(WAYPOINT_LABEL, name, "waypoint");
    }
    let elsewhere = labels.get(WAYPOINT_NAMESPACE_LABEL).filter(|text| !text.is_empty());
    match elsewhere {
        Some(text) if !is_namespace(text) => ignored(WAYPOINT_NAMESPACE_LABEL, text, "namespace"),
        _ => WaypointLabel::Bound(WaypointName {
            namespace: elsewhere.map_or_else(|| namespace.clone(), |text| Namespace::new(text)),
            name: name.as_str().into(),
        }),
    }
}

/// What the annotation asks for; none when there is none. One that does not exist counts as any, as Istio reads it.
pub(super) fn traffic_distribution(
    annotations: &BTreeMap<String, String>,
    report: &mut Report,
) -> Option<TrafficDistribution> {
    let text = annotations.get(TRAFFIC_DISTRIBUTION).filter(|text| !text.is_empty())?;
    let found = TRAFFIC_DISTRIBUTIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    if found.is_none() {
        let known: Vec<_> = TRAFFIC_DISTRIBUTIONS.iter().map(|(name, _)| *name).collect();
        let message = format!(
            "traffic distribution {text:?} does not exist, so backends are used wherever they are; write one of {}",
            known.join(", ")
        );
        let field = format!("metadata.annotations.{TRAFFIC_DISTRIBUTION}");
        report.warn(field, Reason::TrafficDistributionUnknown, message);
    }
    Some(found.map_or(TrafficDistribution::Any, |(_, meant)| *meant))
}

/// Whether `text` can be the name of an object.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_lower_label)
}

/// Whether `text` can be the name of a namespace.
#[must_use]
pub fn is_namespace(text: &str) -> bool {
    text.len() <= 63 && is_lower_label(text)
}

fn is_lower_label(text: &str) -> bool {
    // The length of a part of a name is not limited by Kubernetes, only that of the name.
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Checks labels as Kubernetes does: `[prefix/]name` -> value.
pub(super) fn labels(labels: &BTreeMap<String, String>, field: &str, report: &mut Report) {
    for (key, value) in labels {
        let (prefix, name) = key.split_once('/').map_or((None, key.as_str()), |(p, n)| (Some(p), n));
        let prefix_is_good = prefix.is_none_or(|p| p.len() <= 253 && host::is_dns_name(p));
        if name.is_empty() || !is_label_part(name) || !prefix_is_good {
            let message = format!("label key {key:?} is not allowed by Kubernetes");
            report.error(format!("{field}.{key}"), Reason::LabelInvalid, message);
        }
        if !has_label_characters(value) {
            let message = format!(
                "label value {value:?} is not allowed by Kubernetes: letters, digits, '-', '_' and '.', with a \
                 letter or digit at both ends"
            );
            report.error(format!("{field}.{key}"), Reason::LabelInvalid, message);
        }
    }
}

fn is_label_part(text: &str) -> bool {
    text.len() <= 63 && has_label_characters(text)
}

fn has_label_characters(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}
