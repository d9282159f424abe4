//! How requests are read and where they go.
//!
//! In: a service whose protocol is HTTP or built on it. Out: a connection manager and a route for every host and path.
//! Never: a header for the backend that the client did not send, except the client's address.

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::{
        common::mutation_rules::v3::{HeaderMutation, header_mutation::Action},
        core::v3::{
            HeaderValue, HeaderValueOption, Http1ProtocolOptions, header_value_option::HeaderAppendAction,
        },
        route::v3::{
            Decorator, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
            retry_policy::{RetryHostPredicate, retry_host_predicate},
            route, route_action, route_match,
        },
    },
    extensions::{
        filters::{
            http::{
                grpc_web::v3::GrpcWeb,
                header_mutation::v3::{HeaderMutation as MutationFilter, Mutations},
                router::v3::Router,
            },
            network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter, Rds,
                http_connection_manager::{CodecType, RouteSpecifier, Tracing, UpgradeConfig},
                http_filter,
            },
        },
        http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyMutation,
        retry::host::previous_hosts::v3::PreviousHostsPredicate,
    },
};
use prost::{Message, Name};

use super::{
    requests,
    words::{any, duration, extension, flag, number, same_stream},
};
use crate::{
    desired::ServiceKey,
    model::Protocol,
    waypoint::{Service, Settings},
};

/// What Istio does without a VirtualService, which since 1.24 tries no answer of 503 again.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const RETRIES: u32 = 2;
const HOST_ATTEMPTS: i64 = 5;
/// As in Istio: none, neither for a request nor for a pause in it.
pub(super) const NO_LIMIT: Duration = Duration::ZERO;
/// Where the client's own X-Forwarded-Proto waits until Envoy's is gone.
const KEPT_PROTO: &str = "x-kmesh-se-forwarded-proto";
const PROTO: &str = "x-forwarded-proto";
/// What Envoy tells its backends of the client, beside X-Forwarded-For.
const TOLD: [&str; 2] = ["x-envoy-internal", "x-envoy-external-address"];

/// What reads the requests.
pub(super) fn manager(
    name: &str,
    key: &ServiceKey,
    service: &Service,
    settings: &Settings,
) -> HttpConnectionManager {
    let rds = Rds { config_source: same_stream(), route_config_name: name.to_owned() };
    let mut filters = Vec::new();
    if service.protocol == Protocol::GrpcWeb {
        filters.push(filter("envoy.filters.http.grpc_web", &GrpcWeb::default()));
    }
    filters.push(filter("envoy.filters.http.header_mutation", &as_the_client_sent()));
    filters.push(filter("envoy.filters.http.router", &Router::default()));
    HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        stat_prefix: name.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        http_filters: filters,
        // Without a tracer: it is what has Envoy tell the route's operation.
        tracing: Some(Tracing::default()),
        http_protocol_options: Some(Http1ProtocolOptions {
            accept_http_10: true,
            default_host_for_http_10: key.host.to_string(),
            enable_trailers: true,
            allow_custom_methods: true,
            ..Http1ProtocolOptions::default()
        }),
        stream_idle_timeout: duration(NO_LIMIT),
        access_log: super::log::access_log(settings),
        use_remote_address: flag(true),
        generate_request_id: flag(false),
        early_header_mutation_extensions: vec![extension(
            "envoy.http.early_header_mutation.header_mutation",
            &EarlyMutation { mutations: vec![copy(PROTO, KEPT_PROTO)] },
        )],
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        ..HttpConnectionManager::default()
    }
}

/// Every request to the service's cluster, unless there are rules; then what they say, and 404 for what none is for.
pub(super) fn route(name: String, key: &ServiceKey, service: &Service) -> RouteConfiguration {
    let operation = match service.endpoints.first() {
        Some(endpoint) => format!("{endpoint}/*"),
        None => format!("{}:{}/*", key.host, key.port),
    };
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(name.clone())),
        timeout: duration(NO_LIMIT),
        retry_policy: Some(retries()),
        ..RouteAction::default()
    };
    let every = Route {
        name: "default".to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        decorator: Some(Decorator { operation, propagate: None }),
        action: Some(route::Action::Route(action)),
        ..Route::default()
    };
    let host = VirtualHost {
        name: name.clone(),
        domains: vec!["*".to_owned()],
        routes: if service.rules.is_empty() { vec![every] } else { requests::routes(&name, key, service) },
        ..VirtualHost::default()
    };
    RouteConfiguration {
        name,
        virtual_hosts: vec![host],
        validate_clusters: flag(false),
        ..RouteConfiguration::default()
    }
}

pub(super) fn retries() -> RetryPolicy {
    let elsewhere = RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(
            &PreviousHostsPredicate::default(),
        ))),
    };
    RetryPolicy {
        retry_on: RETRY_ON.to_owned(),
        num_retries: number(RETRIES),
        retry_host_predicate: vec![elsewhere],
        host_selection_retry_max_attempts: HOST_ATTEMPTS,
        ..RetryPolicy::default()
    }
}

/// Takes away what Envoy has added, and puts the client's own X-Forwarded-Proto back.
fn as_the_client_sent() -> MutationFilter {
    let added = TOLD.into_iter().chain([PROTO]).map(remove);
    let request = added.chain([copy(KEPT_PROTO, PROTO), remove(KEPT_PROTO)]);
    MutationFilter {
        mutations: Some(Mutations { request_mutations: request.collect(), ..Mutations::default() }),
        ..MutationFilter::default()
    }
}

fn remove(header: &str) -> HeaderMutation {
    HeaderMutation { action: Some(Action::Remove(header.to_owned())) }
}

/// Nothing, when there is no such header.
fn copy(from: &str, to: &str) -> HeaderMutation {
    let header =
        HeaderValue { key: to.to_owned(), value: format!("%REQ({from})%"), ..HeaderValue::default() };
    let option = HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    };
    HeaderMutation { action: Some(Action::Append(option)) }
}

fn filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..HttpFilter::default()
    }
}
