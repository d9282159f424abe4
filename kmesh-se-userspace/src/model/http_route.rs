//! HTTPRoute of the Gateway API as written, as far as a waypoint follows it.
//!
//! In: deserialised YAML or JSON. Out: an HTTPRoute with the fields of v1 that are read here. Never: its status, or a judgement
//! about values.

use serde::Deserialize;
use serde_json::Value;

use super::{GROUP, Kind, Metadata, ObjectRef, whole_number};

/// The API group of HTTPRoute.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The versions of HTTPRoute that are read; they are one schema.
pub const GATEWAY_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// `gateway.networking.k8s.io` HTTPRoute as written.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct HttpRoute {
    pub api_version: String,
    pub metadata: Metadata,
    pub spec: HttpRouteSpec,
}

impl HttpRoute {
    /// Which object this is.
    #[must_use]
    pub fn object_ref(&self) -> ObjectRef {
        self.metadata.object_ref(Kind::HttpRoute)
    }
}

/// `spec` of an HTTPRoute.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct HttpRouteSpec {
    pub parent_refs: Vec<ParentRefSpec>,
    pub hostnames: Vec<String>,
    pub rules: Vec<HttpRuleSpec>,
    pub use_default_gateways: Value,
}

/// What a route is about.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct ParentRefSpec {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: String,
    pub name: String,
    pub section_name: String,
    #[serde(deserialize_with = "whole_number")]
    pub port: Option<i64>,
}

impl ParentRefSpec {
    /// Whether it is a ServiceEntry.
    #[must_use]
    pub fn is_service_entry(&self) -> bool {
        self.group.as_deref() == Some(GROUP) && self.kind.as_deref() == Some("ServiceEntry")
    }
}

/// One of `spec.rules`.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct HttpRuleSpec {
    pub name: String,
    pub matches: Vec<HttpMatchSpec>,
    pub filters: Vec<HttpFilterSpec>,
    pub backend_refs: Vec<BackendRefSpec>,
    pub timeouts: TimeoutsSpec,
    pub retry: Value,
    pub session_persistence: Value,
}

/// One of a rule's `matches`.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct HttpMatchSpec {
    pub path: Option<TextMatchSpec>,
    pub headers: Vec<TextMatchSpec>,
    pub query_params: Vec<TextMatchSpec>,
    pub method: Option<String>,
}

/// A match of a path, which has no name, of a header or of a query parameter.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct TextMatchSpec {
    #[serde(rename = "type")]
    pub type_: Option<String>,
    pub name: String,
    pub value: Option<String>,
}

/// A filter of a rule or of one of its backends.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct HttpFilterSpec {
    #[serde(rename = "type")]
    pub type_: String,
    pub request_header_modifier: Option<HeaderFilterSpec>,
    pub response_header_modifier: Option<HeaderFilterSpec>,
    pub request_mirror: Option<MirrorSpec>,
    pub request_redirect: Option<RedirectSpec>,
    pub url_rewrite: Option<RewriteSpec>,
    pub extension_ref: Value,
    pub cors: Value,
    pub external_auth: Value,
}

/// Headers to change.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct HeaderFilterSpec {
    pub set: Vec<HeaderSpec>,
    pub add: Vec<HeaderSpec>,
    pub remove: Vec<String>,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct HeaderSpec {
    pub name: String,
    pub value: String,
}

/// Who gets a copy of requests.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct MirrorSpec {
    pub backend_ref: BackendRefSpec,
    #[serde(deserialize_with = "whole_number")]
    pub percent: Option<i64>,
    pub fraction: Option<FractionSpec>,
}

/// A part of the requests.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct FractionSpec {
    #[serde(deserialize_with = "whole_number")]
    pub numerator: Option<i64>,
    #[serde(deserialize_with = "whole_number")]
    pub denominator: Option<i64>,
}

/// Where clients are sent.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct RedirectSpec {
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    pub path: Option<PathChangeSpec>,
    #[serde(deserialize_with = "whole_number")]
    pub port: Option<i64>,
    #[serde(deserialize_with = "whole_number")]
    pub status_code: Option<i64>,
}

/// What backends see of the URL.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct RewriteSpec {
    pub hostname: Option<String>,
    pub path: Option<PathChangeSpec>,
}

/// Another path.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct PathChangeSpec {
    #[serde(rename = "type")]
    pub type_: String,
    pub replace_full_path: Option<String>,
    pub replace_prefix_match: Option<String>,
}

/// Who answers.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct BackendRefSpec {
    pub group: String,
    pub kind: Option<String>,
    pub namespace: String,
    pub name: String,
    #[serde(deserialize_with = "whole_number")]
    pub port: Option<i64>,
    #[serde(deserialize_with = "whole_number")]
    pub weight: Option<i64>,
    pub filters: Vec<HttpFilterSpec>,
}

/// How long things may take.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are the Gateway API's own")]
pub struct TimeoutsSpec {
    pub request: Option<String>,
    pub backend_request: Option<String>,
}
