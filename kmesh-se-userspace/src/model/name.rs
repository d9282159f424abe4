//! Names of hosts, namespaces and objects.
//!
//! In: text. Out: cheap-to-clone values in one spelling. Never: a look-up of any kind.

use std::{fmt, sync::Arc};

use serde::Serialize;

/// A DNS name in lower case without a trailing dot; its first label may be `*`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct HostName(Arc<str>);

impl HostName {
    /// The one spelling of `name`: lower case, no trailing dot. Whether it is a valid DNS name is for
    /// validation to say.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name stands for many: `*.example.com`, or the partial `*example.com`, which Istio allows
    /// and which matches nothing here.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// For `*.example.com`, the part `example.com`; none for a concrete name.
    #[must_use]
    pub fn wildcard_suffix(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A Kubernetes namespace.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// The namespace called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new("default")
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kinds of objects that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// `networking.istio.io` ServiceEntry.
    ServiceEntry,
    /// `networking.istio.io` WorkloadEntry.
    WorkloadEntry,
    /// Kubernetes' Pod.
    Pod,
    /// Kubernetes' Service.
    Service,
    /// Kubernetes' Node.
    Node,
    /// Kubernetes' Namespace.
    Namespace,
    /// Kubernetes' ConfigMap, one by which the controller tells of a waypoint.
    ConfigMap,
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::ConfigMap => "ConfigMap",
            Self::HttpRoute => "HTTPRoute",
        })
    }
}

/// Which object: kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectRef {
    /// The object's kind.
    pub kind: Kind,
    /// Its namespace; empty for an object that is in none.
    pub namespace: Namespace,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}
