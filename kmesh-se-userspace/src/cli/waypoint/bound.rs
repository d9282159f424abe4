//! What is bound to waypoints.
//!
//! In: labels of namespaces and ServiceEntries. Out: for each waypoint, who names it. Never: whether it is served.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, ObjectMeta},
    core::{ApiResource, GroupVersionKind, PartialObjectMeta},
};
use serde::Serialize;

use crate::{
    model::{Namespace, WaypointLabel, WaypointName, waypoint_label},
    source::kube::Trouble,
};

/// The versions of ServiceEntries, the newest first.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];

/// Who is bound to one waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Bound {
    /// Namespaces, by their label.
    pub(super) namespaces: Vec<String>,
    /// ServiceEntries, by their own label or that of their namespace: `namespace/name`.
    pub(super) entries: Vec<String>,
}

/// Who is bound to which waypoint; none if that may not be read.
pub(super) async fn bound(client: &Client) -> Option<BTreeMap<WaypointName, Bound>> {
    let params = ListParams::default();
    let namespaces: Api<v1::Namespace> = Api::all(client.clone());
    let namespaces = namespaces.list_metadata(&params).await.ok()?.items;
    let mut entries = Vec::new();
    for version in VERSIONS {
        let kind = GroupVersionKind::gvk("networking.istio.io", version, "ServiceEntry");
        let resource = ApiResource::from_gvk_with_plural(&kind, "serviceentries");
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        match api.list_metadata(&params).await.map_err(|error| Trouble::of(&error)) {
            Ok(list) => {
                entries = list.items.iter().map(labelled).collect();
                break;
            }
            Err(Trouble::NotServed) => {}
            Err(_) => return None,
        }
    }
    Some(count(namespaces.iter().map(labelled).collect(), entries))
}

/// An object's namespace, name and labels.
type Labelled = (String, String, BTreeMap<String, String>);

fn labelled<K>(object: &PartialObjectMeta<K>) -> Labelled {
    let ObjectMeta { namespace, name, labels, .. } = &object.metadata;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (text(namespace), text(name), labels.clone().unwrap_or_default())
}

fn count(namespaces: Vec<Labelled>, entries: Vec<Labelled>) -> BTreeMap<WaypointName, Bound> {
    let mut bound: BTreeMap<WaypointName, Bound> = BTreeMap::new();
    let mut by_namespace = BTreeMap::new();
    for (_, name, labels) in namespaces {
        if let WaypointLabel::Bound(waypoint) = waypoint_label(&labels, &Namespace::new(&name)) {
            bound.entry(waypoint.clone()).or_default().namespaces.push(name.clone());
            by_namespace.insert(name, waypoint);
        }
    }
    for (namespace, name, labels) in entries {
        let waypoint = match waypoint_label(&labels, &Namespace::new(&namespace)) {
            WaypointLabel::Bound(waypoint) => Some(waypoint),
            WaypointLabel::OptedOut => None,
            WaypointLabel::Unset => by_namespace.get(&namespace).cloned(),
        };
        if let Some(waypoint) = waypoint {
            bound.entry(waypoint).or_default().entries.push(format!("{namespace}/{name}"));
        }
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Labelled {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        (namespace.to_owned(), name.to_owned(), labels)
    }

    #[test]
    fn an_entrys_own_label_comes_before_its_namespaces() {
        let name = "istio.io/use-waypoint";
        let namespaces = vec![
            object("", "shop", &[(name, "waypoint")]),
            object("", "far", &[(name, "waypoint"), ("istio.io/use-waypoint-namespace", "shop")]),
            object("", "free", &[]),
        ];
        let entries = vec![
            object("shop", "inherits", &[]),
            object("shop", "out", &[(name, "none")]),
            object("shop", "own", &[(name, "inner")]),
            object("far", "inherits", &[]),
            object("free", "unbound", &[]),
        ];
        let bound = count(namespaces, entries);
        let of = |name: &str| {
            let waypoint = WaypointName { namespace: Namespace::new("shop"), name: name.into() };
            bound.get(&waypoint).cloned().unwrap_or_default()
        };
        assert_eq!(of("waypoint").namespaces, ["shop", "far"]);
        assert_eq!(of("waypoint").entries, ["shop/inherits", "far/inherits"]);
        assert_eq!(of("inner").entries, ["shop/own"]);
        assert_eq!(bound.len(), 2);
    }
}
