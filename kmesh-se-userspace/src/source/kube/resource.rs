//! What is watched, and how it is asked for.
//!
//! In: this node, the selectors of entries. Out: paths and parameters of requests. Never: a request.

use std::{collections::BTreeMap, fmt};

use kube::{
    api::{ListParams, WatchParams},
    core::Request,
};

use crate::model::{
    GATEWAY_CLASS_LABEL, GATEWAY_GROUP, GATEWAY_VERSIONS, GROUP, Kind, Namespace, VERSIONS, WAYPOINT_CLASS,
    WAYPOINT_LISTENERS_LABEL,
};

/// With more selectors than this in one namespace, all of its Pods are watched instead.
const MAX_SELECTORS: usize = 8;
/// With more namespaces with selectors than this, all Pods of the cluster are watched instead.
const MAX_NAMESPACES: usize = 32;
/// How many objects one answer to a list may hold.
const PAGE: u32 = 500;

/// A collection of objects that is watched as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Collection {
    Namespaces,
    Nodes,
    Services,
    ServiceEntries,
    WorkloadEntries,
    /// The Pods of the node with this name.
    PodsOfNode(String),
    /// The Pods that selectors may pick.
    Pods(Selection),
    /// The ConfigMaps of this namespace by which the controller tells of waypoints.
    Waypoints(String),
    /// The Pods that are replicas of waypoints.
    WaypointPods,
    /// What waypoints are to do with requests.
    HttpRoutes,
}

/// Some Pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Selection {
    /// Those of this namespace; none: of all.
    pub(super) namespace: Option<Namespace>,
    /// Those with all of these labels.
    pub(super) labels: BTreeMap<String, String>,
}

impl Collection {
    /// What the objects are.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Namespaces => Kind::Namespace,
            Self::Nodes => Kind::Node,
            Self::Services => Kind::Service,
            Self::ServiceEntries => Kind::ServiceEntry,
            Self::WorkloadEntries => Kind::WorkloadEntry,
            Self::PodsOfNode(_) | Self::Pods(_) | Self::WaypointPods => Kind::Pod,
            Self::Waypoints(_) => Kind::ConfigMap,
            Self::HttpRoutes => Kind::HttpRoute,
        }
    }

    /// Their name in paths and in RBAC.
    pub(super) fn resource(&self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::Services => "services",
            Self::ServiceEntries => "serviceentries",
            Self::WorkloadEntries => "workloadentries",
            Self::PodsOfNode(_) | Self::Pods(_) | Self::WaypointPods => "pods",
            Self::Waypoints(_) => "configmaps",
            Self::HttpRoutes => "httproutes",
        }
    }

    /// The group in RBAC; empty for Kubernetes' own.
    pub(super) fn group(&self) -> &'static str {
        match self {
            Self::ServiceEntries | Self::WorkloadEntries => GROUP,
            Self::HttpRoutes => GATEWAY_GROUP,
            _ => "",
        }
    }

    /// As `apiVersion` has them, the preferred first.
    pub(super) fn api_versions(&self) -> Vec<String> {
        match self.group() {
            "" => vec!["v1".to_owned()],
            GATEWAY_GROUP => {
                GATEWAY_VERSIONS.iter().map(|version| format!("{GATEWAY_GROUP}/{version}")).collect()
            }
            group => VERSIONS.iter().map(|version| format!("{group}/{version}")).collect(),
        }
    }

    /// Whether a cluster without the resource is whole: it is looked for now and then, and nobody is told.
    pub(super) fn is_optional(&self) -> bool {
        matches!(self, Self::HttpRoutes)
    }

    /// Whether the metadata of the objects is all that counts.
    pub(super) fn is_metadata(&self) -> bool {
        matches!(self, Self::Namespaces | Self::Nodes)
    }

    /// The request for them in `api_version`.
    pub(super) fn request(&self, api_version: &str) -> Request {
        let root = if self.group().is_empty() { "api" } else { "apis" };
        let within = match self {
            Self::Pods(Selection { namespace: Some(namespace), .. }) => format!("namespaces/{namespace}/"),
            Self::Waypoints(namespace) => format!("namespaces/{namespace}/"),
            _ => String::new(),
        };
        Request::new(format!("/{root}/{api_version}/{within}{}", self.resource()))
    }

    /// How they are watched, for about this long.
    pub(super) fn watch_params(&self, seconds: u32) -> WatchParams {
        let (field_selector, label_selector) = (self.field_selector(), self.label_selector());
        WatchParams { field_selector, label_selector, timeout: Some(seconds), ..WatchParams::default() }
    }

    /// How they are listed, page by page.
    pub(super) fn list_params(&self) -> ListParams {
        let (field_selector, label_selector) = (self.field_selector(), self.label_selector());
        ListParams { field_selector, label_selector, limit: Some(PAGE), ..ListParams::default() }
    }

    fn field_selector(&self) -> Option<String> {
        let Self::PodsOfNode(node) = self else { return None };
        Some(format!("spec.nodeName={node}"))
    }

    fn label_selector(&self) -> Option<String> {
        let labels = match self {
            Self::Pods(Selection { labels, .. }) => labels,
            Self::Waypoints(_) => return Some(WAYPOINT_LISTENERS_LABEL.to_owned()),
            Self::WaypointPods => return Some(format!("{GATEWAY_CLASS_LABEL}={WAYPOINT_CLASS}")),
            _ => return None,
        };
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        (!labels.is_empty()).then(|| labels.join(","))
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.resource())?;
        match self {
            Self::PodsOfNode(node) => write!(f, " of node {node}"),
            Self::Waypoints(namespace) => write!(f, " of waypoints in namespace {namespace}"),
            Self::WaypointPods => f.write_str(" of waypoints"),
            Self::Pods(selection) => {
                if let Some(namespace) = &selection.namespace {
                    write!(f, " of namespace {namespace}")?;
                }
                self.label_selector().map_or(Ok(()), |labels| write!(f, " with {labels}"))
            }
            _ => Ok(()),
        }
    }
}

/// What to watch so that every Pod that one of `selectors` picks is seen, with few watches.
pub(super) fn selections<'a>(
    selectors: impl Iterator<Item = &'a (Namespace, BTreeMap<String, String>)>,
) -> Vec<Selection> {
    let mut by_namespace: BTreeMap<&Namespace, Vec<&BTreeMap<String, String>>> = BTreeMap::new();
    for (namespace, labels) in selectors {
        by_namespace.entry(namespace).or_default().push(labels);
    }
    if by_namespace.len() > MAX_NAMESPACES {
        return vec![Selection { namespace: None, labels: BTreeMap::new() }];
    }
    let mut found = Vec::new();
    for (namespace, mut labels) in by_namespace {
        labels.sort_unstable();
        labels.dedup();
        let all = BTreeMap::new();
        if labels.len() > MAX_SELECTORS {
            labels = vec![&all];
        }
        let namespace = Some(namespace.clone());
        let of = |labels: &BTreeMap<_, _>| Selection { namespace: namespace.clone(), labels: labels.clone() };
        found.extend(labels.into_iter().map(of));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(namespace: &str, app: &str) -> (Namespace, BTreeMap<String, String>) {
        (Namespace::new(namespace), BTreeMap::from([("app".to_owned(), app.to_owned())]))
    }

    fn shown(selectors: &[(Namespace, BTreeMap<String, String>)]) -> Vec<String> {
        selections(selectors.iter()).into_iter().map(|s| Collection::Pods(s).to_string()).collect()
    }

    #[test]
    fn each_different_selector_is_watched_once() {
        let given = [selector("one", "a"), selector("two", "a"), selector("one", "b"), selector("one", "a")];
        let wanted = [
            "pods of namespace one with app=a",
            "pods of namespace one with app=b",
            "pods of namespace two with app=a",
        ];
        assert_eq!(shown(&given), wanted);
    }

    #[test]
    fn many_selectors_become_one_watch() {
        let many: Vec<_> = (0..=MAX_SELECTORS).map(|i| selector("one", &i.to_string())).collect();
        assert_eq!(shown(&many), ["pods of namespace one"]);
        assert_eq!(shown(&many[1..]).len(), MAX_SELECTORS);
        let many: Vec<_> = (0..=MAX_NAMESPACES).map(|i| selector(&format!("n{i}"), "a")).collect();
        assert_eq!(shown(&many), ["pods"]);
    }

    #[test]
    fn requests_say_group_namespace_and_selectors() {
        let pods = Collection::Pods(Selection {
            namespace: Some(Namespace::new("shop")),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c/d".to_owned(), String::new())]),
        });
        for (collection, path, query) in [
            (Collection::ServiceEntries, "/apis/networking.istio.io/v1/serviceentries", ""),
            (Collection::Nodes, "/api/v1/nodes", ""),
            (Collection::PodsOfNode("n1".to_owned()), "/api/v1/pods", "fieldSelector=spec.nodeName%3Dn1"),
            (pods, "/api/v1/namespaces/shop/pods", "labelSelector=a%3Db%2Cc%2Fd%3D"),
        ] {
            let request = collection.request(&collection.api_versions()[0]);
            let watch = request.watch(&collection.watch_params(60), "7").expect("a request");
            assert_eq!(watch.uri().path(), path);
            let text = watch.uri().query().unwrap_or_default();
            assert!(text.contains(query) && text.contains("watch=true"), "{text}");
            assert_eq!(text.contains("Selector"), !query.is_empty(), "{text}");
        }
    }
}
