//! An HTTPRoute after validation: which requests to which entries go where, and changed how.
//!
//! In: nothing by itself; `validate` makes these. Out: values that `desired` finds backends for, and rules with theirs. Never:
//! whether a backend exists.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::{HostName, ObjectRef, Port};

/// A validated HTTPRoute. One that is about no ServiceEntry has no parents, and nothing else of it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRoute {
    /// Which object this is.
    pub object: ObjectRef,
    /// `metadata.creationTimestamp`; files have none. The oldest wins a conflict.
    pub created: Option<Timestamp>,
    /// The entries whose requests it is about.
    pub parents: Vec<RouteParent>,
    /// What becomes of them.
    pub rules: Vec<Arc<RequestRule>>,
}

/// An entry, or some of its ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteParent {
    /// Its place in `spec.parentRefs`, from 0.
    pub place: usize,
    /// The entry.
    pub entry: ObjectRef,
    /// Only the port of this name.
    pub section: Option<String>,
    /// Only the port of this number.
    pub port: Option<u16>,
}

impl RouteParent {
    /// Whether it means `port` of `entry`.
    #[must_use]
    pub fn means(&self, entry: &ObjectRef, port: &Port) -> bool {
        self.entry == *entry
            && self.section.as_ref().is_none_or(|name| *name == port.name)
            && self.port.is_none_or(|number| number == port.number)
    }
}

/// One of `spec.rules`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRule {
    /// The requests that it is for: those that one of these matches. Never empty.
    pub matches: Vec<RequestMatch>,
    /// What is changed on both ways.
    pub headers: HeaderRules,
    /// Where clients are sent instead of an answer.
    pub redirect: Option<Redirect>,
    /// The `Host` that backends see.
    pub host: Option<String>,
    /// The path that backends see.
    pub path: Option<PathChange>,
    /// Who gets a copy, and of how many requests in a million.
    pub mirrors: Vec<(BackendRef, u32)>,
    /// Who answers.
    pub backends: Vec<WeightedRef>,
    /// How long a request may take in all; none, and zero: as long as it likes.
    pub timeout: Option<Duration>,
    /// How long one try may take.
    pub try_timeout: Option<Duration>,
}

/// What requests have to be like: all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMatch {
    /// The path, without its query.
    pub path: PathMatch,
    /// The method.
    pub method: Option<String>,
    /// Headers, by name; each name once.
    pub headers: Vec<(String, TextMatch)>,
    /// Query parameters, by name; each name once.
    pub params: Vec<(String, TextMatch)>,
}

impl RequestMatch {
    /// Sorts matches: those that are looked at first, whatever route they are of, are the least. The Gateway API leaves it open where
    /// expressions come: here between exact paths and prefixes.
    #[must_use]
    pub fn precedence(&self) -> impl Ord + use<> {
        let (kind, length) = match &self.path {
            PathMatch::Exact(_) => (0, 0),
            PathMatch::Regex(text) => (1, text.chars().count()),
            PathMatch::Prefix(text) => (2, text.chars().count()),
        };
        let counts = (self.headers.len(), self.params.len());
        (kind, Reverse(length), self.method.is_none(), Reverse(counts))
    }
}

/// What a path has to be like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// This one.
    Exact(String),
    /// This one, or one below it; without a `/` at the end, and empty for every path.
    Prefix(String),
    /// One that this expression matches as a whole.
    Regex(String),
}

/// What a text has to be like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TextMatch {
    /// This one.
    Exact(String),
    /// One that this expression matches as a whole.
    Regex(String),
}

/// Headers to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderChanges {
    /// Name and value, in place of others of the name.
    pub set: Vec<(String, String)>,
    /// Name and value, beside others of the name.
    pub add: Vec<(String, String)>,
    /// Names.
    pub remove: Vec<String>,
}

/// Headers to change on both ways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderRules {
    /// Of requests.
    pub request: HeaderChanges,
    /// Of answers.
    pub response: HeaderChanges,
}

/// Where clients are sent; what is not given stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub host: Option<String>,
    /// Path.
    pub path: Option<PathChange>,
    /// Port.
    pub port: Option<u16>,
    /// The status.
    pub status: u16,
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathChange {
    /// This one as a whole.
    Full(String),
    /// This one instead of the prefix that matched; without a `/` at the end.
    Prefix(String),
}

/// A backend with its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightedRef {
    /// Which.
    pub backend: BackendRef,
    /// Its share, in proportion to the others'.
    pub weight: u32,
    /// What is changed for it alone.
    pub headers: HeaderRules,
}

/// Who answers, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// Its place in the object, for messages.
    pub field: String,
    /// What the name is of, or why it may not be referred to, of which validation has warned.
    pub target: Result<BackendTarget, NoBackend>,
    /// The port.
    pub port: u16,
}

/// Why nobody answers as a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum NoBackend {
    /// It is not there.
    Missing,
    /// It is in another namespace.
    NotPermitted,
    /// It is of a kind that does not answer.
    InvalidKind,
}

/// What the name of a backend is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum BackendTarget {
    /// A ServiceEntry.
    Entry(ObjectRef),
    /// A host of an entry or of a Service, as clients of the route's namespace see it.
    Host(HostName),
    /// A Service of the cluster.
    Service(HostName),
}

impl RequestRoute {
    /// All that its rules refer to.
    pub fn targets(&self) -> impl Iterator<Item = &BackendTarget> {
        let rules = self.rules.iter();
        let refs = rules.flat_map(|rule| {
            rule.backends.iter().map(|b| &b.backend).chain(rule.mirrors.iter().map(|(to, _)| to))
        });
        refs.filter_map(|backend| backend.target.as_ref().ok())
    }

    /// Sorts routes as the Gateway API does: the oldest first, then by namespace and name.
    #[must_use]
    pub fn age_order(&self) -> (Option<Timestamp>, &ObjectRef) {
        (self.created, &self.object)
    }
}

/// One match of one rule, with the backends as they were found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutedRule {
    /// `NAMESPACE/NAME` of the route and the place of rule and match in it.
    pub name: String,
    /// The requests.
    pub when: RequestMatch,
    /// What becomes of them.
    pub rule: Arc<RequestRule>,
    /// Who answers instead of `rule.backends`, in their order.
    pub to: Vec<RoutedTo>,
    /// Who gets a copy instead of `rule.mirrors`, in their order.
    pub copies: Vec<RoutedTo>,
}

/// A backend as it was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RoutedTo {
    /// The service itself.
    Itself,
    /// Another, by the name that it has beside the rules.
    Other(Arc<str>),
    /// Nobody, so requests are answered with 500.
    Nobody,
}

/// By a name that says who: others who answer for a service.
pub type Others<T> = BTreeMap<Arc<str>, T>;
