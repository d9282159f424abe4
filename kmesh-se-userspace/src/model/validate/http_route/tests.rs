//! What is an HTTPRoute for a ServiceEntry, and what is wrong with others.

use std::time::Duration;

use serde_json::{Value, json};

use crate::model::{
    Accepted, BackendTarget, HostName, Judgement, Object, Parsed, PathChange, PathMatch, RequestRoute,
    is_judged, parse, validate,
};

/// A spec with its errors and its warnings, as field and reason.
type Row = (Value, &'static [&'static str], &'static [&'static str]);

fn object(spec: &Value) -> Object {
    let text = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r"}, "spec": spec, "status": {"parents": []},
    });
    match parse(text.to_string().as_bytes()).remove(0) {
        Parsed::Object { object, warnings, .. } => {
            assert_eq!(warnings, [], "{spec}");
            object
        }
        other => panic!("not an object: {other:?}"),
    }
}

fn judged(spec: &Value) -> Judgement {
    validate(&object(spec))
}

fn accepted(spec: &Value) -> RequestRoute {
    let judgement = judged(spec);
    match judgement.accepted {
        Some(Accepted::Route(route)) => RequestRoute::clone(&route),
        other => panic!("{spec}: {other:?}, {:?}", judgement.errors),
    }
}

fn parent(more: Value) -> Value {
    let mut parent = json!({"group": "networking.istio.io", "kind": "ServiceEntry", "name": "e"});
    for (key, value) in more.as_object().into_iter().flatten() {
        parent[key] = value.clone();
    }
    parent
}

/// A route of `e` with this rule.
fn with(rule: Value) -> Value {
    json!({"parentRefs": [parent(json!({}))], "rules": [rule]})
}

fn matching(matched: Value) -> Value {
    with(json!({"matches": [matched]}))
}

fn filtering(filters: Value) -> Value {
    with(json!({"filters": filters, "matches": [{"path": {"type": "PathPrefix", "value": "/a"}}]}))
}

fn leading(backend: Value) -> Value {
    with(json!({"backendRefs": [backend]}))
}

/// One for each rule, and the nearest that keeps it.
pub(in crate::model::validate) fn rows() -> Vec<Row> {
    let entry = |more: Value| {
        let mut backend = parent(json!({"port": 80}));
        for (key, value) in more.as_object().into_iter().flatten() {
            backend[key] = value.clone();
        }
        leading(backend)
    };
    let header = |name: &str, value: &str| json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": name, "value": value}]}}]);
    let redirect =
        |redirect: Value| filtering(json!([{"type": "RequestRedirect", "requestRedirect": redirect}]));
    vec![
        (with(json!({})), &[], &[]),
        (
            json!({"parentRefs": [parent(json!({"name": ""}))]}),
            &["spec.parentRefs[0].name RouteParentInvalid"],
            &[],
        ),
        (
            json!({"parentRefs": [parent(json!({"port": 0}))]}),
            &["spec.parentRefs[0].port RouteParentInvalid"],
            &[],
        ),
        (
            json!({"parentRefs": [parent(json!({"port": 80, "sectionName": "http", "namespace": "default"}))]}),
            &[],
            &[],
        ),
        (
            json!({"parentRefs": [parent(json!({"namespace": "other"}))]}),
            &[],
            &["spec.parentRefs[0].namespace RouteParentNotAllowed"],
        ),
        (
            json!({"parentRefs": [parent(json!({}))], "hostnames": ["a.com"]}),
            &[],
            &["spec.hostnames RouteFieldNotUsed"],
        ),
        (with(json!({"retry": {"attempts": 1}})), &[], &["spec.rules[0].retry RouteFieldNotUsed"]),
        (
            json!({"parentRefs": [parent(json!({}))], "rules": vec![json!({}); 17]}),
            &["spec.rules RouteTooLong"],
            &[],
        ),
        (matching(json!({"path": {"type": "Exact", "value": "/a/"}, "method": "GET"})), &[], &[]),
        (
            matching(json!({"path": {"value": "a"}})),
            &["spec.rules[0].matches[0].path.value RouteMatchInvalid"],
            &[],
        ),
        (
            matching(json!({"path": {"type": "Exact", "value": "/a/../b"}})),
            &["spec.rules[0].matches[0].path.value RouteMatchInvalid"],
            &[],
        ),
        (
            matching(json!({"path": {"type": "RegularExpression", "value": "/(a"}})),
            &["spec.rules[0].matches[0].path.value RouteMatchInvalid"],
            &[],
        ),
        (
            matching(json!({"path": {"type": "Suffix", "value": "/a"}})),
            &["spec.rules[0].matches[0].path.type RouteMatchInvalid"],
            &[],
        ),
        (matching(json!({"method": "get"})), &["spec.rules[0].matches[0].method RouteMatchInvalid"], &[]),
        (
            matching(json!({"headers": [{"name": "a b", "value": "x"}]})),
            &["spec.rules[0].matches[0].headers[0].name RouteMatchInvalid"],
            &[],
        ),
        (
            matching(json!({"queryParams": [{"name": "q", "type": "RegularExpression", "value": "["}]})),
            &["spec.rules[0].matches[0].queryParams[0].value RouteMatchInvalid"],
            &[],
        ),
        (filtering(header("x-a", "1")), &[], &[]),
        (
            filtering(header("Host", "a.com")),
            &["spec.rules[0].filters[0].requestHeaderModifier.set[0].name RouteFilterInvalid"],
            &[],
        ),
        (
            filtering(header("x-a", "a\nb")),
            &["spec.rules[0].filters[0].requestHeaderModifier.set[0].value RouteFilterInvalid"],
            &[],
        ),
        (
            filtering(json!([{"type": "RequestRedirect"}])),
            &["spec.rules[0].filters[0].requestRedirect RouteFilterInvalid"],
            &[],
        ),
        (redirect(json!({"scheme": "https", "statusCode": 301, "port": 8443})), &[], &[]),
        (
            redirect(json!({"scheme": "ftp", "statusCode": 200})),
            &[
                "spec.rules[0].filters[0].requestRedirect.scheme RouteFilterInvalid",
                "spec.rules[0].filters[0].requestRedirect.statusCode RouteFilterInvalid",
            ],
            &[],
        ),
        (
            with(json!({
                "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}}],
                "matches": [{"path": {"type": "Exact", "value": "/a"}}],
            })),
            &["spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch RouteFilterInvalid"],
            &[],
        ),
        (
            filtering(json!([
                {"type": "URLRewrite", "urlRewrite": {"hostname": "b.com"}},
                {"type": "RequestRedirect", "requestRedirect": {"hostname": "b.com"}},
            ])),
            &["spec.rules[0].filters RouteFilterInvalid"],
            &[],
        ),
        (
            filtering(
                json!([{"type": "ExtensionRef", "extensionRef": {"group": "a", "kind": "B", "name": "c"}}]),
            ),
            &["spec.rules[0].filters[0].type RouteFilterUnsupported"],
            &[],
        ),
        (entry(json!({"weight": 3})), &[], &[]),
        (entry(json!({"weight": -1})), &["spec.rules[0].backendRefs[0].weight RouteBackendInvalid"], &[]),
        (entry(json!({"port": null})), &["spec.rules[0].backendRefs[0].port RouteBackendInvalid"], &[]),
        (entry(json!({"name": "a b"})), &["spec.rules[0].backendRefs[0].name RouteBackendInvalid"], &[]),
        (
            entry(json!({"filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "b.com"}}]})),
            &["spec.rules[0].backendRefs[0].filters[0].type RouteFilterUnsupported"],
            &[],
        ),
        (
            entry(json!({"namespace": "other"})),
            &[],
            &["spec.rules[0].backendRefs[0].namespace RouteBackendNotAllowed"],
        ),
        (
            entry(json!({"kind": "Secret", "group": ""})),
            &[],
            &["spec.rules[0].backendRefs[0].kind RouteBackendNotAllowed"],
        ),
        (leading(json!({"name": "s", "port": 80})), &[], &[]),
        (with(json!({"timeouts": {"request": "1m30s", "backendRequest": "500ms"}})), &[], &[]),
        (
            with(json!({"timeouts": {"request": "1d"}})),
            &["spec.rules[0].timeouts.request RouteTimeoutInvalid"],
            &[],
        ),
        (
            with(json!({"timeouts": {"request": "1s", "backendRequest": "2s"}})),
            &["spec.rules[0].timeouts.backendRequest RouteTimeoutInvalid"],
            &[],
        ),
    ]
}

#[test]
fn each_rule_rejects_what_breaks_it_and_accepts_what_keeps_it() {
    for (spec, errors, warnings) in rows() {
        let judgement = judged(&spec);
        let told = |issues: &[crate::model::Issue]| -> Vec<String> {
            issues.iter().map(|issue| format!("{} {}", issue.field, issue.reason)).collect()
        };
        assert_eq!(told(&judgement.errors), errors, "errors of {spec}");
        assert_eq!(told(&judgement.warnings), warnings, "warnings of {spec}");
        assert_eq!(judgement.accepted.is_some(), errors.is_empty(), "verdict on {spec}");
    }
}

#[test]
fn a_route_for_others_is_not_judged() {
    let odd = json!({"filters": [{"type": "Odd"}], "backendRefs": [{"name": "a b"}]});
    for parent in [json!({"name": "e"}), json!({"group": "", "kind": "Service", "name": "e"})] {
        let spec = json!({"parentRefs": [parent], "rules": [odd]});
        assert!(!is_judged(&object(&spec)));
        assert_eq!(accepted(&spec).parents, []);
    }
    assert!(is_judged(&object(&with(json!({})))));
}

#[test]
fn what_is_not_written_is_as_the_api_says() {
    let rule = &accepted(&with(json!({"backendRefs": [{"name": "s", "port": 80}]}))).rules[0];
    assert_eq!(rule.matches.len(), 1);
    assert_eq!(rule.matches[0].path, PathMatch::Prefix(String::new()));
    let service = BackendTarget::Service(HostName::new("s.default.svc.cluster.local"));
    assert_eq!((rule.backends[0].weight, &rule.backends[0].backend.target), (1, &Ok(service)));
    assert_eq!((rule.timeout, rule.try_timeout), (None, None));

    let redirect = json!([{"type": "RequestRedirect", "requestRedirect": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}]);
    let rule = &accepted(&filtering(redirect)).rules[0];
    let redirect = rule.redirect.as_ref().expect("a redirect");
    assert_eq!((redirect.status, &redirect.path), (302, &Some(PathChange::Prefix(String::new()))));
}

#[test]
fn durations_are_sums_of_their_parts() {
    for (text, duration) in [
        ("1h2m3s4ms", Some(Duration::from_millis(3_723_004))),
        ("0s", Some(Duration::ZERO)),
        ("99999ms", Some(Duration::from_millis(99_999))),
        ("100000ms", None),
        ("1.5s", None),
        ("s", None),
        ("", None),
        ("1s1s1s1s1s", None),
    ] {
        assert_eq!(super::duration(text), duration, "{text:?}");
    }
}

#[test]
fn of_all_routes_the_narrower_match_comes_first() {
    let precedence = |matched: Value| accepted(&matching(matched)).rules[0].matches[0].precedence();
    let path = |kind: &str, value: &str| json!({"type": kind, "value": value});
    let in_order = [
        json!({"path": path("Exact", "/a")}),
        json!({"path": path("RegularExpression", "/.*")}),
        json!({"path": path("PathPrefix", "/a/b")}),
        json!({"path": path("PathPrefix", "/a"), "method": "GET"}),
        json!({"path": path("PathPrefix", "/a"), "headers": [{"name": "x", "value": "1"}, {"name": "y", "value": "1"}]}),
        json!({"path": path("PathPrefix", "/a"), "headers": [{"name": "x", "value": "1"}]}),
        json!({"path": path("PathPrefix", "/a"), "queryParams": [{"name": "x", "value": "1"}]}),
        json!({"path": path("PathPrefix", "/a")}),
        json!({}),
    ];
    for pair in in_order.windows(2) {
        assert!(precedence(pair[0].clone()) < precedence(pair[1].clone()), "{} before {}", pair[0], pair[1]);
    }
}
