//! `metadata`, as far as something here depends on it.
//!
//! In: raw metadata. Out: the time of creation, and issues. Never: rules that only the API server needs.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Report, host};
use crate::model::{Metadata, Reason};

/// `"false"` says that no address may be allocated.
const ALLOCATE_LABEL: &str = "networking.istio.io/enable-autoallocate-ip";

pub(super) fn check(metadata: &Metadata, report: &mut Report) -> Option<Timestamp> {
    let name = &metadata.name;
    if name.is_empty() {
        report.error("metadata.name", Reason::NameMissing, "the object has no name; write metadata.name");
    } else if name.len() > 253 || !name.split('.').all(is_lower_label) {
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

/// Whether `text` can be the name of a namespace.
pub(super) fn is_namespace(text: &str) -> bool {
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
        if !is_label_part(value) {
            let message = format!(
                "label value {value:?} is not allowed by Kubernetes: at most 63 of letters, digits, '-', '_' \
                 and '.', with a letter or digit at both ends"
            );
            report.error(format!("{field}.{key}"), Reason::LabelInvalid, message);
        }
    }
}

fn is_label_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}
