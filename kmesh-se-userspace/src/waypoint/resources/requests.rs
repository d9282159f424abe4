//! What becomes of requests: a route for each rule.
//!
//! In: a service with rules. Out: Envoy's routes, in the order of the rules. Never: a rule that is left out: what cannot be done is
//! answered with 500.

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::{
        core::v3::{
            HeaderValue, HeaderValueOption, RuntimeFractionalPercent, header_value_option::HeaderAppendAction,
        },
        route::v3::{
            Decorator, DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, Route,
            RouteAction, RouteMatch, WeightedCluster, header_matcher::HeaderMatchSpecifier,
            query_parameter_matcher::QueryParameterMatchSpecifier, redirect_action, route::Action,
            route_action, route_match::PathSpecifier, weighted_cluster::ClusterWeight,
        },
    },
    r#type::{
        matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher::MatchPattern},
        v3::{FractionalPercent, fractional_percent::DenominatorType},
    },
};

use super::{
    http::{NO_LIMIT, retries},
    part_name,
    words::{duration, number},
};
use crate::{
    desired::ServiceKey,
    model::{
        HeaderChanges, HeaderRules, PathChange, PathMatch, Redirect, RequestMatch, RoutedRule, RoutedTo,
        TextMatch,
    },
    waypoint::Service,
};

const FAILED: u32 = 500;
/// A cluster that there is not: its requests are answered as the route says.
const NOBODY: &str = "nobody";

/// The routes of a service's rules.
pub(super) fn routes(name: &str, key: &ServiceKey, service: &Service) -> Vec<Route> {
    let of = Of { name, key, service };
    service.rules.iter().map(|rule| of.route(rule)).collect()
}

#[derive(Clone, Copy)]
struct Of<'a> {
    name: &'a str,
    key: &'a ServiceKey,
    service: &'a Service,
}

impl Of<'_> {
    fn route(&self, routed: &RoutedRule) -> Route {
        let HeaderRules { request, response } = &routed.rule.headers;
        let shares: u64 = routed.rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let action = match &routed.rule.redirect {
            Some(redirect) => Action::Redirect(self.redirect(redirect, &routed.when)),
            None if shares == 0 => Action::DirectResponse(DirectResponseAction {
                status: FAILED,
                ..DirectResponseAction::default()
            }),
            None => Action::Route(self.action(routed)),
        };
        Route {
            name: routed.name.clone(),
            r#match: Some(request_match(&routed.when)),
            decorator: Some(Decorator { operation: self.operation(routed), propagate: None }),
            request_headers_to_add: to_add(request),
            request_headers_to_remove: request.remove.clone(),
            response_headers_to_add: to_add(response),
            response_headers_to_remove: response.remove.clone(),
            action: Some(action),
            ..Route::default()
        }
    }

    fn cluster(&self, to: &RoutedTo) -> String {
        match to {
            RoutedTo::Itself => self.name.to_owned(),
            RoutedTo::Other(other) => part_name(self.name, other),
            RoutedTo::Nobody => NOBODY.to_owned(),
        }
    }

    /// As Istio says it: who answers, if that is one; else the service.
    fn operation(&self, routed: &RoutedRule) -> String {
        match routed.to.as_slice() {
            [RoutedTo::Other(other)] if self.service.others.contains_key(other) => {
                let other = &self.service.others[other];
                format!("{}:{}/*", other.host, other.port)
            }
            _ => format!("{}:{}/*", self.key.host, self.key.port),
        }
    }

    fn action(&self, routed: &RoutedRule) -> RouteAction {
        let rule = &routed.rule;
        let weighted = rule.backends.iter().zip(&routed.to).map(|(backend, to)| ClusterWeight {
            name: self.cluster(to),
            weight: number(backend.weight),
            request_headers_to_add: to_add(&backend.headers.request),
            request_headers_to_remove: backend.headers.request.remove.clone(),
            response_headers_to_add: to_add(&backend.headers.response),
            response_headers_to_remove: backend.headers.response.remove.clone(),
            ..ClusterWeight::default()
        });
        let clusters = WeightedCluster { clusters: weighted.collect(), ..WeightedCluster::default() };
        let copies = rule.mirrors.iter().zip(&routed.copies).filter(|(_, to)| **to != RoutedTo::Nobody);
        let mirrors = copies.map(|((_, part), to)| route_action::RequestMirrorPolicy {
            cluster: self.cluster(to),
            runtime_fraction: Some(RuntimeFractionalPercent {
                default_value: Some(FractionalPercent {
                    numerator: *part,
                    denominator: DenominatorType::Million.into(),
                }),
                ..RuntimeFractionalPercent::default()
            }),
            ..route_action::RequestMirrorPolicy::default()
        });
        let mut policy = retries();
        policy.per_try_timeout = rule.try_timeout.filter(|limit| *limit != Duration::ZERO).and_then(duration);
        let mut action = RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::WeightedClusters(clusters)),
            cluster_not_found_response_code: route_action::ClusterNotFoundResponseCode::InternalServerError
                .into(),
            timeout: duration(rule.timeout.unwrap_or(NO_LIMIT)),
            retry_policy: Some(policy),
            request_mirror_policies: mirrors.collect(),
            host_rewrite_specifier: rule
                .host
                .clone()
                .map(route_action::HostRewriteSpecifier::HostRewriteLiteral),
            ..RouteAction::default()
        };
        match rule.path.as_ref().map(|path| path_change(path, &routed.when)) {
            Some(Changed::Prefix(prefix)) => action.prefix_rewrite = prefix,
            Some(Changed::Expression(expression)) => action.regex_rewrite = Some(expression),
            None => {}
        }
        action
    }

    /// Clients of a proxy of HTTP know no other scheme, and no other port than the one that they dialled.
    fn redirect(&self, redirect: &Redirect, when: &RequestMatch) -> RedirectAction {
        let scheme = redirect.scheme.as_deref();
        let usual = if scheme == Some("https") { 443 } else { 80 };
        let of_scheme = scheme.map(|_| usual);
        let port = redirect.port.or(of_scheme).unwrap_or(self.key.port);
        let path = match &redirect.path {
            Some(PathChange::Full(path)) => {
                Some(redirect_action::PathRewriteSpecifier::PathRedirect(path.clone()))
            }
            Some(change) => Some(match path_change(change, when) {
                Changed::Prefix(prefix) => redirect_action::PathRewriteSpecifier::PrefixRewrite(prefix),
                Changed::Expression(expression) => {
                    redirect_action::PathRewriteSpecifier::RegexRewrite(expression)
                }
            }),
            None => None,
        };
        let code = match redirect.status {
            301 => redirect_action::RedirectResponseCode::MovedPermanently,
            303 => redirect_action::RedirectResponseCode::SeeOther,
            307 => redirect_action::RedirectResponseCode::TemporaryRedirect,
            308 => redirect_action::RedirectResponseCode::PermanentRedirect,
            _ => redirect_action::RedirectResponseCode::Found,
        };
        RedirectAction {
            scheme_rewrite_specifier: redirect
                .scheme
                .clone()
                .map(redirect_action::SchemeRewriteSpecifier::SchemeRedirect),
            host_redirect: redirect.host.clone().unwrap_or_default(),
            // The usual one is not written.
            port_redirect: if port == usual { 0 } else { port.into() },
            path_rewrite_specifier: path,
            response_code: code.into(),
            ..RedirectAction::default()
        }
    }
}

fn request_match(when: &RequestMatch) -> RouteMatch {
    let path = match &when.path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::Prefix(prefix) if prefix.is_empty() => PathSpecifier::Prefix("/".to_owned()),
        PathMatch::Prefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.clone()),
        PathMatch::Regex(expression) => PathSpecifier::SafeRegex(regex(expression)),
    };
    let text = |text: &TextMatch| StringMatcher {
        match_pattern: Some(match text {
            TextMatch::Exact(text) => MatchPattern::Exact(text.clone()),
            TextMatch::Regex(expression) => MatchPattern::SafeRegex(regex(expression)),
        }),
        ..StringMatcher::default()
    };
    let header = |name: &str, value: StringMatcher| HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(value)),
        ..HeaderMatcher::default()
    };
    let method = when.method.iter().map(|method| header(":method", text(&TextMatch::Exact(method.clone()))));
    let headers = when.headers.iter().map(|(name, value)| match name.as_str() {
        "host" => header(":authority", text(value)),
        name => header(name, text(value)),
    });
    let params = when.params.iter().map(|(name, value)| QueryParameterMatcher {
        name: name.clone(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(text(value))),
    });
    RouteMatch {
        path_specifier: Some(path),
        headers: method.chain(headers).collect(),
        query_parameters: params.collect(),
        ..RouteMatch::default()
    }
}

fn regex(expression: &str) -> RegexMatcher {
    RegexMatcher { regex: expression.to_owned(), ..RegexMatcher::default() }
}

/// How Envoy changes a path.
enum Changed {
    Prefix(String),
    Expression(RegexMatchAndSubstitute),
}

fn path_change(change: &PathChange, when: &RequestMatch) -> Changed {
    let expression = |pattern: String, substitution: String| {
        Changed::Expression(RegexMatchAndSubstitute { pattern: Some(regex(&pattern)), substitution })
    };
    match (change, &when.path) {
        (PathChange::Full(path), _) => expression("^/.*$".to_owned(), literally(path)),
        // What follows the prefix begins with a slash of its own.
        (PathChange::Prefix(to), PathMatch::Prefix(prefix)) if to.is_empty() && !prefix.is_empty() => {
            expression(format!("^{}/*", regex_syntax::escape(prefix)), "/".to_owned())
        }
        (PathChange::Prefix(to), PathMatch::Prefix(prefix)) if prefix.is_empty() => {
            Changed::Prefix(format!("{to}/"))
        }
        (PathChange::Prefix(to), _) => Changed::Prefix(to.clone()),
    }
}

/// `text` where an expression's groups could be named.
fn literally(text: &str) -> String {
    text.replace('\\', "\\\\")
}

fn to_add(changes: &HeaderChanges) -> Vec<HeaderValueOption> {
    let option = |(name, value): &(String, String), action: HeaderAppendAction| HeaderValueOption {
        // A percent sign would begin a word of Envoy's.
        header: Some(HeaderValue {
            key: name.clone(),
            value: value.replace('%', "%%"),
            ..HeaderValue::default()
        }),
        append_action: action.into(),
        keep_empty_value: true,
        ..HeaderValueOption::default()
    };
    let set = changes.set.iter().map(|header| option(header, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = changes.add.iter().map(|header| option(header, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}
