//! Filters of rules and of backends.
//!
//! In: filters as written. Out: what each changes, joined. Never: one that is left out because it is not known.

use super::{
    super::{Report, host, port::port_number},
    backend, is_token,
};
use crate::model::{
    BackendRef, HeaderChanges, HeaderFilterSpec, HeaderRules, HeaderSpec, HttpFilterSpec, MirrorSpec,
    Namespace, PathChange, PathChangeSpec, PathMatch, Reason, Redirect, RedirectSpec, RequestMatch,
};

const MAX_FILTERS: usize = 16;
const MILLION: u32 = 1_000_000;
/// What a redirect may answer.
const STATUSES: [i64; 5] = [301, 302, 303, 307, 308];

/// What the filters of a rule come to.
#[derive(Debug, Default)]
pub(super) struct Filters {
    pub(super) headers: HeaderRules,
    pub(super) redirect: Option<Redirect>,
    pub(super) host: Option<String>,
    pub(super) path: Option<PathChange>,
    pub(super) mirrors: Vec<(BackendRef, u32)>,
}

/// The filters of a rule for these requests.
pub(super) fn of_rule(
    raw: &[HttpFilterSpec],
    namespace: &Namespace,
    matches: &[RequestMatch],
    rule: &str,
    report: &mut Report,
) -> Filters {
    let mut found = Filters::default();
    let mut seen: Vec<&str> = Vec::new();
    let list = format!("{rule}.filters");
    for (i, raw) in report.limit(raw, MAX_FILTERS, &list, Reason::RouteTooLong).iter().enumerate() {
        let field = format!("{list}[{i}]");
        let kind = raw.type_.as_str();
        if seen.contains(&kind) && kind != "RequestMirror" {
            let message = format!("{kind} is there already; join both in one filter");
            report.error(format!("{field}.type"), Reason::RouteFilterInvalid, message);
        }
        seen.push(kind);
        match kind {
            "RequestRedirect" => {
                if let Some(raw) = given(raw.request_redirect.as_ref(), &field, "requestRedirect", report) {
                    found.redirect =
                        Some(redirect(raw, matches, &format!("{field}.requestRedirect"), report));
                }
            }
            "URLRewrite" => {
                if let Some(raw) = given(raw.url_rewrite.as_ref(), &field, "urlRewrite", report) {
                    let field = format!("{field}.urlRewrite");
                    found.host = hostname(raw.hostname.as_ref(), &field, report);
                    found.path = path(raw.path.as_ref(), matches, &format!("{field}.path"), report);
                }
            }
            "RequestMirror" => {
                if let Some(raw) = given(raw.request_mirror.as_ref(), &field, "requestMirror", report) {
                    let field = format!("{field}.requestMirror");
                    let part = part(raw, &field, report);
                    let to = backend::reference(
                        &raw.backend_ref,
                        namespace,
                        &format!("{field}.backendRef"),
                        report,
                    );
                    found.mirrors.push((to, part));
                }
            }
            _ => headers(raw, &mut found.headers, &field, report),
        }
    }
    if seen.contains(&"RequestRedirect") && seen.contains(&"URLRewrite") {
        let message = "who is sent elsewhere reaches no backend, so nothing can be rewritten for it; remove RequestRedirect or \
                       URLRewrite";
        report.error(list, Reason::RouteFilterInvalid, message);
    }
    found
}

/// The filters of a backend, which can change headers only.
pub(super) fn of_backend(raw: &[HttpFilterSpec], backend: &str, report: &mut Report) -> HeaderRules {
    let mut found = HeaderRules::default();
    let list = format!("{backend}.filters");
    for (i, raw) in report.limit(raw, MAX_FILTERS, &list, Reason::RouteTooLong).iter().enumerate() {
        headers(raw, &mut found, &format!("{list}[{i}]"), report);
    }
    found
}

fn headers(raw: &HttpFilterSpec, found: &mut HeaderRules, field: &str, report: &mut Report) {
    match raw.type_.as_str() {
        "RequestHeaderModifier" => {
            let name = "requestHeaderModifier";
            if let Some(raw) = given(raw.request_header_modifier.as_ref(), field, name, report) {
                found.request = changes(raw, &format!("{field}.{name}"), report);
            }
        }
        "ResponseHeaderModifier" => {
            let name = "responseHeaderModifier";
            if let Some(raw) = given(raw.response_header_modifier.as_ref(), field, name, report) {
                found.response = changes(raw, &format!("{field}.{name}"), report);
            }
        }
        other => {
            let message = format!(
                "filter {other:?} is not built here, and may not be left out, so the route is not followed; there are \
                 RequestHeaderModifier and ResponseHeaderModifier, and for rules RequestRedirect, URLRewrite and RequestMirror"
            );
            report.error(format!("{field}.type"), Reason::RouteFilterUnsupported, message);
        }
    }
}

/// What a filter of this type has to have.
fn given<'a, T>(value: Option<&'a T>, field: &str, name: &str, report: &mut Report) -> Option<&'a T> {
    if value.is_none() {
        let message = format!("a filter of this type needs {name}");
        report.error(format!("{field}.{name}"), Reason::RouteFilterInvalid, message);
    }
    value
}

fn changes(raw: &HeaderFilterSpec, field: &str, report: &mut Report) -> HeaderChanges {
    let mut pairs = |raw: &[HeaderSpec], list: &str| {
        let mut found: Vec<(String, String)> = Vec::new();
        for (i, raw) in raw.iter().enumerate() {
            let field = format!("{field}.{list}[{i}]");
            let name = name(&raw.name, &format!("{field}.name"), report);
            if raw.value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
                let message = format!("the value of {} has control characters", raw.name);
                report.error(format!("{field}.value"), Reason::RouteFilterInvalid, message);
            }
            // As the Gateway API says, of several with one name the first counts.
            if found.iter().all(|(known, _)| *known != name) {
                found.push((name, raw.value.clone()));
            }
        }
        found
    };
    let (set, add) = (pairs(&raw.set, "set"), pairs(&raw.add, "add"));
    let remove = raw.remove.iter().enumerate();
    let remove = remove.map(|(i, text)| name(text, &format!("{field}.remove[{i}]"), report)).collect();
    HeaderChanges { set, add, remove }
}

/// The name of a header that may be changed; names are compared without case.
fn name(text: &str, field: &str, report: &mut Report) -> String {
    let name = text.to_ascii_lowercase();
    if !is_token(&name) {
        let message = format!("{text:?} is not the name of a header");
        report.error(field, Reason::RouteFilterInvalid, message);
    } else if name == "host" {
        let message = "Host is not changed as a header; write a filter URLRewrite with hostname";
        report.error(field, Reason::RouteFilterInvalid, message);
    }
    name
}

fn redirect(raw: &RedirectSpec, matches: &[RequestMatch], field: &str, report: &mut Report) -> Redirect {
    let scheme = raw.scheme.clone();
    if scheme.as_deref().is_some_and(|scheme| !["http", "https"].contains(&scheme)) {
        let message = "scheme is neither http nor https";
        report.error(format!("{field}.scheme"), Reason::RouteFilterInvalid, message);
    }
    let port = raw.port.and_then(port_number);
    if port.is_none() && raw.port.is_some() {
        report.error(format!("{field}.port"), Reason::RouteFilterInvalid, "port is not in 1..65535");
    }
    let status = raw.status_code.unwrap_or(302);
    if !STATUSES.contains(&status) {
        let message = format!("status {status} sends nobody elsewhere; write 301, 302, 303, 307 or 308");
        report.error(format!("{field}.statusCode"), Reason::RouteFilterInvalid, message);
    }
    let host = hostname(raw.hostname.as_ref(), field, report);
    let path = path(raw.path.as_ref(), matches, &format!("{field}.path"), report);
    Redirect { scheme, host, path, port, status: u16::try_from(status).unwrap_or_default() }
}

fn hostname(raw: Option<&String>, field: &str, report: &mut Report) -> Option<String> {
    let raw = raw?;
    if !host::is_dns_name(raw) {
        let message = format!("{raw:?} is not the name of a host");
        report.error(format!("{field}.hostname"), Reason::RouteFilterInvalid, message);
    }
    Some(raw.clone())
}

fn path(
    raw: Option<&PathChangeSpec>,
    matches: &[RequestMatch],
    field: &str,
    report: &mut Report,
) -> Option<PathChange> {
    let raw = raw?;
    let (name, value, is_full) = match raw.type_.as_str() {
        "ReplaceFullPath" => ("replaceFullPath", &raw.replace_full_path, true),
        "ReplacePrefixMatch" => ("replacePrefixMatch", &raw.replace_prefix_match, false),
        other => {
            let message = format!("type {other:?} is neither ReplaceFullPath nor ReplacePrefixMatch");
            report.error(format!("{field}.type"), Reason::RouteFilterInvalid, message);
            return None;
        }
    };
    let value = given(value.as_ref(), field, name, report)?;
    let is_path = value.starts_with('/') || (value.is_empty() && !is_full);
    if !is_path || value.contains(['?', '#']) || value.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        let message = format!("{value:?} is not a path; write one that begins with /, without ? and #");
        report.error(format!("{field}.{name}"), Reason::RouteFilterInvalid, message);
    }
    if is_full {
        return Some(PathChange::Full(value.clone()));
    }
    if !matches!(matches, [RequestMatch { path: PathMatch::Prefix(_), .. }]) {
        let message = "it is not known which prefix is replaced: give the rule one match, of type PathPrefix";
        report.error(format!("{field}.{name}"), Reason::RouteFilterInvalid, message);
    }
    Some(PathChange::Prefix(value.trim_end_matches('/').to_owned()))
}

/// Of how many requests in a million.
fn part(raw: &MirrorSpec, field: &str, report: &mut Report) -> u32 {
    let part = match (raw.percent, &raw.fraction) {
        (None, None) => return MILLION,
        (Some(_), Some(_)) => None,
        (Some(percent), None) => {
            u32::try_from(percent).ok().filter(|p| *p <= 100).map(|p| p * (MILLION / 100))
        }
        (None, Some(fraction)) => {
            let (numerator, denominator) =
                (fraction.numerator.unwrap_or(-1), fraction.denominator.unwrap_or(100));
            let is_part = denominator > 0 && (0..=denominator).contains(&numerator);
            let part = || i128::from(numerator) * i128::from(MILLION) / i128::from(denominator);
            is_part.then(part).and_then(|part| u32::try_from(part).ok())
        }
    };
    part.unwrap_or_else(|| {
        let message = "write percent, in 0..100, or fraction, which is at most one, or neither";
        report.error(field, Reason::RouteFilterInvalid, message);
        MILLION
    })
}
