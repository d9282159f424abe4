//! HTTPRoutes whose parents are ServiceEntries.
//!
//! In: a raw HTTPRoute. Out: its rules, or every reason why not. Never: a word about a route for other parents, which is others'.

mod backend;
mod filter;
#[cfg(test)]
pub(super) mod tests;

use std::{sync::Arc, time::Duration};

use self::filter::Filters;
use super::{Report, metadata, port::port_number};
use crate::model::{
    HttpMatchSpec, HttpRoute, HttpRuleSpec, Kind, Namespace, ObjectRef, ParentRefSpec, PathMatch, Reason,
    RequestMatch, RequestRoute, RequestRule, RouteParent, TextMatch, TextMatchSpec, TimeoutsSpec, Verdict,
};

/// As many as the Gateway API allows.
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_PARAMS: usize = 16;
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Whether some parent of `raw` is a ServiceEntry, so that the route is ours to judge.
pub(super) fn is_ours(raw: &HttpRoute) -> bool {
    raw.spec.parent_refs.iter().any(ParentRefSpec::is_service_entry)
}

/// Validates an HTTPRoute. All its errors are listed, in the order of the fields.
pub(super) fn route(raw: &HttpRoute) -> Verdict<RequestRoute> {
    let mut report = Report::default();
    let object = raw.object_ref();
    if !is_ours(raw) {
        let route = RequestRoute { object, created: None, parents: Vec::new(), rules: Vec::new() };
        return report.into_verdict(route, |_, _| {});
    }
    let created = metadata::check(&raw.metadata, &mut report);
    let namespace = &object.namespace;
    let all = raw.spec.parent_refs.iter().enumerate().filter(|(_, parent)| parent.is_service_entry());
    let parents = all.filter_map(|(i, raw)| parent(raw, namespace, i, &mut report)).collect();
    if !raw.spec.hostnames.is_empty() {
        let message = "a route for a ServiceEntry is for all of its hosts, so hostnames are ignored; match the header Host instead";
        report.warn("spec.hostnames", Reason::RouteFieldNotUsed, message);
    }
    let rules = report.limit(&raw.spec.rules, MAX_RULES, "spec.rules", Reason::RouteTooLong);
    let rules = rules.iter().enumerate();
    let rules = rules.map(|(i, raw)| Arc::new(rule(raw, namespace, i, &mut report))).collect();
    report.into_verdict(RequestRoute { object, created, parents, rules }, |_, _| {})
}

/// None for the entry of another namespace: only its own may say what becomes of requests to it.
fn parent(raw: &ParentRefSpec, namespace: &Namespace, i: usize, report: &mut Report) -> Option<RouteParent> {
    let field = format!("spec.parentRefs[{i}]");
    if raw.name.is_empty() {
        let message = "the parent has no name; write that of a ServiceEntry";
        report.error(format!("{field}.name"), Reason::RouteParentInvalid, message);
    }
    let port = raw.port.and_then(|number| {
        let port = port_number(number);
        if port.is_none() {
            let message = format!("port {number} is not in 1..65535");
            report.error(format!("{field}.port"), Reason::RouteParentInvalid, message);
        }
        port
    });
    if !raw.namespace.is_empty() && raw.namespace != namespace.as_str() {
        let message = format!(
            "ServiceEntry {}/{} is in another namespace, and a route is only for those of its own ({namespace}), so this parent is \
             ignored; move the route there",
            raw.namespace, raw.name
        );
        report.warn(format!("{field}.namespace"), Reason::RouteParentNotAllowed, message);
        return None;
    }
    let entry =
        ObjectRef { kind: Kind::ServiceEntry, namespace: namespace.clone(), name: raw.name.as_str().into() };
    let section = (!raw.section_name.is_empty()).then(|| raw.section_name.clone());
    Some(RouteParent { place: i, entry, section, port })
}

fn rule(raw: &HttpRuleSpec, namespace: &Namespace, i: usize, report: &mut Report) -> RequestRule {
    let field = format!("spec.rules[{i}]");
    let listed = report.limit(&raw.matches, MAX_MATCHES, &format!("{field}.matches"), Reason::RouteTooLong);
    let mut matches: Vec<_> = listed
        .iter()
        .enumerate()
        .map(|(i, raw)| request_match(raw, &format!("{field}.matches[{i}]"), report))
        .collect();
    if raw.matches.is_empty() {
        matches.push(request_match(&HttpMatchSpec::default(), &field, report));
    }
    let Filters { headers, redirect, host, path, mirrors } =
        filter::of_rule(&raw.filters, namespace, &matches, &field, report);
    let backends = backend::listed(&raw.backend_refs, namespace, &field, report);
    if redirect.is_some() && !raw.backend_refs.is_empty() {
        let message = "clients that are sent elsewhere are answered by no backend; remove backendRefs, or the filter RequestRedirect";
        report.error(format!("{field}.backendRefs"), Reason::RouteFilterInvalid, message);
    }
    let (timeout, try_timeout) = timeouts(&raw.timeouts, &field, report);
    for (name, value) in [("retry", &raw.retry), ("sessionPersistence", &raw.session_persistence)] {
        if !value.is_null() {
            let message = format!("{name} is not built, so it is ignored");
            report.warn(format!("{field}.{name}"), Reason::RouteFieldNotUsed, message);
        }
    }
    RequestRule { matches, headers, redirect, host, path, mirrors, backends, timeout, try_timeout }
}

fn request_match(raw: &HttpMatchSpec, field: &str, report: &mut Report) -> RequestMatch {
    let path = match &raw.path {
        Some(path) => path_match(path, &format!("{field}.path"), report),
        None => PathMatch::Prefix(String::new()),
    };
    let method = raw.method.clone().filter(|method| {
        let is_known = METHODS.contains(&method.as_str());
        if !is_known {
            let message = format!("method {method:?} is not one of {}", METHODS.join(", "));
            report.error(format!("{field}.method"), Reason::RouteMatchInvalid, message);
        }
        is_known
    });
    let headers = texts(&raw.headers, &format!("{field}.headers"), "header", report);
    let params = texts(&raw.query_params, &format!("{field}.queryParams"), "query parameter", report);
    RequestMatch { path, method, headers, params }
}

fn path_match(raw: &TextMatchSpec, field: &str, report: &mut Report) -> PathMatch {
    let value = raw.value.clone().unwrap_or_else(|| "/".to_owned());
    let mut written = |prefix: bool| {
        if let Some(why) = wrong_path(&value, prefix) {
            let message = format!("path {value:?} matches nothing: {why}");
            report.error(format!("{field}.value"), Reason::RouteMatchInvalid, message);
        }
    };
    match raw.type_.as_deref().unwrap_or("PathPrefix") {
        "Exact" => {
            written(false);
            PathMatch::Exact(value)
        }
        "PathPrefix" => {
            written(true);
            PathMatch::Prefix(value.trim_end_matches('/').to_owned())
        }
        "RegularExpression" => {
            check_expression(&value, &format!("{field}.value"), report);
            PathMatch::Regex(value)
        }
        other => {
            unknown_type(other, &["Exact", "PathPrefix", "RegularExpression"], field, report);
            PathMatch::Exact(value)
        }
    }
}

/// Why no path is like this one: those that proxies see are normal.
fn wrong_path(value: &str, prefix: bool) -> Option<&'static str> {
    if !value.starts_with('/') {
        return Some("a path begins with /");
    }
    if value.contains(['#', '?']) {
        return Some("a path ends before # and ?");
    }
    let ends_in_dots = !prefix && (value.ends_with("/..") || value.ends_with("/."));
    let odd = ["//", "/./", "/../", "%2f", "%2F"];
    (ends_in_dots || odd.iter().any(|part| value.contains(part)))
        .then_some("//, /./, /../ and %2f are in no normal path")
}

/// Header or query matches; of several with one name the first counts, as the Gateway API says.
fn texts(raw: &[TextMatchSpec], field: &str, what: &str, report: &mut Report) -> Vec<(String, TextMatch)> {
    let mut found: Vec<(String, TextMatch)> = Vec::new();
    for (i, raw) in report.limit(raw, MAX_PARAMS, field, Reason::RouteTooLong).iter().enumerate() {
        let field = format!("{field}[{i}]");
        let name = if what == "header" { raw.name.to_ascii_lowercase() } else { raw.name.clone() };
        if name.is_empty() || (what == "header" && !is_token(&name)) {
            let message = format!("{:?} is not the name of a {what}", raw.name);
            report.error(format!("{field}.name"), Reason::RouteMatchInvalid, message);
        }
        let value = raw.value.clone().unwrap_or_default();
        let text = match raw.type_.as_deref().unwrap_or("Exact") {
            "Exact" => TextMatch::Exact(value),
            "RegularExpression" => {
                check_expression(&value, &format!("{field}.value"), report);
                TextMatch::Regex(value)
            }
            other => {
                unknown_type(other, &["Exact", "RegularExpression"], &field, report);
                continue;
            }
        };
        if found.iter().all(|(known, _)| *known != name) {
            found.push((name, text));
        }
    }
    found
}

fn unknown_type(text: &str, known: &[&str], field: &str, report: &mut Report) {
    let message = format!("type {text:?} does not exist; write one of {}", known.join(", "));
    report.error(format!("{field}.type"), Reason::RouteMatchInvalid, message);
}

/// Envoy's expressions (RE2's) are those of the same family as this parser's.
fn check_expression(text: &str, field: &str, report: &mut Report) {
    if let Err(error) = regex_syntax::parse(text) {
        // The last line says what is wrong, those before where.
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let message = format!("{text:?} is not a regular expression of RE2: {why}");
        report.error(field, Reason::RouteMatchInvalid, message);
    }
}

fn timeouts(raw: &TimeoutsSpec, field: &str, report: &mut Report) -> (Option<Duration>, Option<Duration>) {
    let mut read = |text: &Option<String>, name: &str| {
        let text = text.as_deref()?;
        let parsed = duration(text);
        if parsed.is_none() {
            let message =
                format!("{text:?} is not a duration; write it in h, m, s and ms, as 1m30s or 500ms");
            report.error(format!("{field}.timeouts.{name}"), Reason::RouteTimeoutInvalid, message);
        }
        parsed
    };
    let whole = read(&raw.request, "request");
    let one = read(&raw.backend_request, "backendRequest");
    if let (Some(whole), Some(one)) = (whole, one)
        && whole != Duration::ZERO
        && one > whole
    {
        let message = "one try may not take longer than the whole request: make it at most timeouts.request";
        report.error(format!("{field}.timeouts.backendRequest"), Reason::RouteTimeoutInvalid, message);
    }
    (whole, one)
}

/// A duration as the Gateway API writes it: one to four numbers of up to five digits with their units.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut sum, mut count) = (text, Duration::ZERO, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let unit = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at(unit);
        let number: u64 = number.parse().ok().filter(|_| digits <= 5)?;
        sum += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        (rest, count) = (after, count + 1);
    }
    (1..=4).contains(&count).then_some(sum)
}

/// Whether `text` can be the name of a header.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 256
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
