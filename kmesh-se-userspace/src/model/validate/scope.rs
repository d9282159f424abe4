//! Location, resolution, selector and exportTo.
//!
//! In: those fields of the spec. Out: parsed values and issues. Never: whether a selected object exists.

use std::collections::{BTreeMap, BTreeSet};

use super::{Report, metadata};
use crate::model::{ExportTo, Location, Namespace, Reason, Resolution, ServiceEntrySpec};

const MAX_SELECTOR_LABELS: usize = 256;

pub(super) const RESOLUTIONS: [(&str, Resolution); 5] = [
    ("NONE", Resolution::None),
    ("STATIC", Resolution::Static),
    ("DNS", Resolution::Dns),
    ("DNS_ROUND_ROBIN", Resolution::DnsRoundRobin),
    ("DYNAMIC_DNS", Resolution::DynamicDns),
];

pub(super) fn location(text: &str, report: &mut Report) -> Option<Location> {
    match text {
        "" | "MESH_EXTERNAL" => Some(Location::MeshExternal),
        "MESH_INTERNAL" => Some(Location::MeshInternal),
        _ => {
            let message = format!("location {text:?} does not exist; write MESH_EXTERNAL or MESH_INTERNAL");
            report.error("spec.location", Reason::LocationUnknown, message);
            None
        }
    }
}

pub(super) fn resolution(text: &str, report: &mut Report) -> Option<Resolution> {
    if text.is_empty() {
        return Some(Resolution::default());
    }
    let found = RESOLUTIONS.iter().find(|(name, _)| *name == text).map(|(_, r)| *r);
    if found.is_none() {
        let known: Vec<_> = RESOLUTIONS.iter().map(|(name, _)| *name).collect();
        let message = format!("resolution {text:?} does not exist; write one of {}", known.join(", "));
        report.error("spec.resolution", Reason::ResolutionUnknown, message);
    }
    found
}

pub(super) fn selector(
    spec: &ServiceEntrySpec,
    resolution: Option<Resolution>,
    report: &mut Report,
) -> Option<BTreeMap<String, String>> {
    const FIELD: &str = "spec.workloadSelector";
    let labels = &spec.workload_selector.as_ref()?.labels;
    if !spec.endpoints.is_empty() {
        let message = "workloadSelector and endpoints exclude each other; keep one";
        report.error(FIELD, Reason::SelectorWithEndpoints, message);
    }
    for (key, value) in labels {
        let message = if key.is_empty() {
            "a key of the selector is empty"
        } else if key.contains('*') || value.contains('*') {
            "a selector has no wildcards; labels are compared as they are"
        } else if value.len() > 63 {
            "no label has a value of more than 63 characters"
        } else {
            continue;
        };
        report.error(format!("{FIELD}.labels.{key}"), Reason::SelectorInvalid, message);
    }
    if labels.len() > MAX_SELECTOR_LABELS {
        let message =
            format!("{} labels are listed, at most {MAX_SELECTOR_LABELS} are allowed", labels.len());
        report.error(format!("{FIELD}.labels"), Reason::SelectorInvalid, message);
    }
    if labels.is_empty() {
        let message = "an empty selector selects nothing; list labels, or remove it";
        report.warn(FIELD, Reason::SelectorEmpty, message);
    } else if resolution == Some(Resolution::None) {
        let message = "with resolution NONE the selector is not used; use resolution STATIC";
        report.warn(FIELD, Reason::SelectorWithoutResolution, message);
    }
    Some(labels.clone())
}

pub(super) fn export_to(raw: &[String], own: &Namespace, report: &mut Report) -> ExportTo {
    const FIELD: &str = "spec.exportTo";
    let mut seen = BTreeSet::new();
    let mut namespaces = Vec::new();
    for (i, text) in raw.iter().enumerate() {
        let field = format!("{FIELD}[{i}]");
        let name = if text == "." { own.as_str() } else { text };
        if !seen.insert(name) {
            let message = format!("{text:?} is listed before, perhaps as \".\"; list each namespace once");
            report.error(field, Reason::ExportToDuplicate, message);
            continue;
        }
        match name {
            "*" | "~" if raw.len() > 1 => {
                let message = format!("{text:?} stands alone; remove it or the others");
                report.error(field, Reason::ExportToConflict, message);
            }
            "*" | "~" => {}
            _ if text != "." && !metadata::is_namespace(name) => {
                let message = format!("{text:?} is none of \".\", \"*\", \"~\" and the name of a namespace");
                report.error(field, Reason::ExportToInvalid, message);
            }
            _ => namespaces.push(Namespace::new(name)),
        }
    }
    match raw {
        [] => ExportTo::All,
        [one] if one == "*" => ExportTo::All,
        [one] if one == "~" => ExportTo::Nobody,
        _ => ExportTo::Namespaces(namespaces),
    }
}
