//! What HTTPRoutes for ServiceEntries are told in their status.
//!
//! In: such routes as they are, what each is to be told. Out: a request or two for each that is not told so. Never: a change of what other
//! controllers say of a route.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    controller::{conditions::list, election::WRITE_TIMEOUT, events::shortened, gateways},
    desired::{self, Condition, Known},
    gateway::{self, CONTROLLER, RouteParentStatus},
    model::{self, Accepted, Object, ObjectRef, validate},
    source::kube::Trouble,
};

/// How many requests are under way at one time.
const AT_ONCE: usize = 8;
/// How long a route that was just written rests, and one that somebody else wrote at the same time.
const REST: Duration = Duration::from_secs(1);
/// How long a failure is waited out.
const RETRY: Duration = Duration::from_secs(10);
/// The longest message of a condition, in bytes; the Gateway API allows 32,768 characters.
const MESSAGE: usize = 32_000;

/// What an HTTPRoute is told.
#[derive(Clone, Debug, PartialEq)]
struct Standing {
    /// The route and the version of its spec that this is about.
    uid: String,
    generation: Option<i64>,
    /// The place of each parent that is a ServiceEntry, and what is said of it.
    parents: Vec<(usize, Vec<Condition>)>,
}

/// The routes, and what was said of them.
pub(super) struct Routes {
    client: Client,
    /// Those for ServiceEntries.
    all: BTreeMap<ObjectRef, model::HttpRoute>,
    /// Those that may have to be told something else.
    touched: BTreeSet<ObjectRef>,
    /// What the API server has as far as is known.
    told: BTreeMap<ObjectRef, Standing>,
    /// Those that are not to be written before.
    resting: BTreeMap<ObjectRef, Instant>,
    busy: BTreeSet<ObjectRef>,
    writes: JoinSet<(ObjectRef, Standing, Result<(), Trouble>)>,
    trouble: Option<Trouble>,
}

impl Routes {
    /// None yet.
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            all: BTreeMap::new(),
            touched: BTreeSet::new(),
            told: BTreeMap::new(),
            resting: BTreeMap::new(),
            busy: BTreeSet::new(),
            writes: JoinSet::new(),
            trouble: None,
        }
    }

    /// A route is so, or its status is another.
    pub(super) fn apply(&mut self, route: &model::HttpRoute) {
        let object = route.object_ref();
        let was_ours = self.all.remove(&object).is_some();
        let is_ours = route.spec.parent_refs.iter().any(model::ParentRefSpec::is_service_entry);
        if is_ours {
            self.all.insert(object.clone(), route.clone());
        }
        if is_ours || was_ours {
            self.told.remove(&object);
            self.touched.insert(object);
        }
    }

    /// A route is gone.
    pub(super) fn delete(&mut self, object: &ObjectRef) {
        self.all.remove(object);
        self.touched.remove(object);
        self.told.remove(object);
        self.resting.remove(object);
    }

    /// Something has changed that these lead to or are for.
    pub(super) fn touch(&mut self, objects: impl IntoIterator<Item = ObjectRef>) {
        self.touched.extend(objects);
    }

    /// Begins the requests that are due, and takes in what became of others.
    pub(super) fn turn(&mut self, known: Known<'_>, now: Instant) {
        while let Some(ended) = self.writes.try_join_next() {
            // A write does not panic.
            let Ok((object, standing, result)) = ended else { continue };
            self.ended(object, standing, result, now);
        }
        self.resting.retain(|_, until| *until > now);
        let is_free =
            |object: &&ObjectRef| !self.busy.contains(*object) && !self.resting.contains_key(*object);
        let due: Vec<_> = self.touched.iter().filter(is_free).cloned().collect();
        for object in due {
            if self.busy.len() == AT_ONCE {
                return;
            }
            self.touched.remove(&object);
            let standing = match self.all.get(&object) {
                Some(route) => standing(known, route),
                // What was said of it is taken back.
                None => Standing { uid: String::new(), generation: None, parents: Vec::new() },
            };
            if self.told.get(&object) == Some(&standing) {
                continue;
            }
            self.busy.insert(object.clone());
            let routes =
                Api::namespaced_with(self.client.clone(), object.namespace.as_str(), &gateway::http_routes());
            self.writes.spawn(async move {
                let result = timeout(WRITE_TIMEOUT, put(&routes, &object.name, &standing)).await;
                (object, standing, result.unwrap_or_else(|_| Err(Trouble::no_answer())))
            });
        }
    }

    fn ended(&mut self, object: ObjectRef, standing: Standing, result: Result<(), Trouble>, now: Instant) {
        self.busy.remove(&object);
        match result {
            Ok(()) => {
                self.trouble = None;
                self.resting.insert(object.clone(), now + REST);
                // There may have been news of it meanwhile.
                if self.all.contains_key(&object) && !self.touched.contains(&object) {
                    self.told.insert(object, standing);
                }
            }
            // It has just gone.
            Err(Trouble::NotServed) => {}
            // Somebody else has written it at the same time.
            Err(Trouble::Unable { code: 409, .. }) => {
                self.resting.insert(object.clone(), now + REST);
                self.touched.insert(object);
            }
            Err(trouble) => {
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!(%object, error = %trouble, "a route cannot be told what became of it, and is tried again");
                    self.trouble = Some(trouble);
                }
                self.resting.insert(object.clone(), now + RETRY);
                self.touched.insert(object);
            }
        }
    }

    /// Somebody else tells them from now on.
    pub(super) fn forget(&mut self) {
        self.writes = JoinSet::new();
        self.touched.append(&mut self.busy);
        self.touched.extend(std::mem::take(&mut self.told).into_keys());
    }
}

/// What `route` is to be told of each of its parents that is a ServiceEntry.
fn standing(known: Known<'_>, route: &model::HttpRoute) -> Standing {
    let (uid, generation) = (route.metadata.uid.clone(), route.metadata.generation);
    let judged = validate(&Object::HttpRoute(Box::new(route.clone())));
    let refused = |reason, message| vec![Condition { kind: "Accepted", status: "False", reason, message }];
    let parents = route.spec.parent_refs.iter().enumerate().filter(|(_, parent)| parent.is_service_entry());
    let of = |(place, raw): (usize, &model::ParentRefSpec)| {
        let conditions = match &judged.accepted {
            Some(Accepted::Route(route)) => match route.parents.iter().find(|parent| parent.place == place) {
                Some(parent) => desired::route_conditions(known, route, parent),
                None => refused(
                    "RouteParentNotAllowed",
                    format!(
                        "ServiceEntry {}/{} is in another namespace: move the route there",
                        raw.namespace, raw.name
                    ),
                ),
            },
            _ => refused("UnsupportedValue", list(&judged.errors)),
        };
        (place, conditions)
    };
    Standing { uid, generation, parents: parents.map(of).collect() }
}

/// Has the API server say so of the route, if it does not yet.
async fn put(routes: &Api<gateway::HttpRoute>, name: &str, standing: &Standing) -> Result<(), Trouble> {
    let told = |error: kube::Error| Trouble::of(&error);
    let route = routes.get(name).await.map_err(told)?;
    let Some(parents) = merged(&route, standing, Timestamp::now()) else { return Ok(()) };
    let patch = json!({
        "metadata": {"resourceVersion": route.metadata.resource_version},
        "status": {"parents": parents},
    });
    let params = PatchParams::default();
    routes.patch_status(name, &params, &Patch::Merge(&patch)).await.map(drop).map_err(told)
}

/// What its status should say of its parents: what others say, and then what is to be said here. None if it says so, or if its spec is
/// another by now: there will be news of it.
fn merged(route: &gateway::HttpRoute, standing: &Standing, now: Timestamp) -> Option<Vec<Value>> {
    let generation = route.metadata.generation;
    let is_same =
        || route.metadata.uid.as_deref() == Some(&standing.uid) && standing.generation == generation;
    if !standing.parents.is_empty() && !is_same() {
        return None;
    }
    let had = route.status.as_ref().map_or(&[][..], |status| &status.parents);
    let is_ours = |parent: &&Value| parent["controllerName"] == CONTROLLER;
    let before: Vec<RouteParentStatus> =
        had.iter().filter(is_ours).filter_map(|parent| serde_json::from_value(parent.clone()).ok()).collect();
    let own = standing.parents.iter().filter_map(|(place, conditions)| {
        let parent_ref = route.spec.parent_refs.get(*place)?;
        let before = before.iter().find(|before| before.parent_ref == *parent_ref);
        let before = before.map_or(&[][..], |before| &before.conditions);
        let conditions = conditions.iter().map(|condition| {
            let Condition { kind, status, reason, message } = condition;
            let said = (*kind, *status == "True", *reason, shortened(message, MESSAGE));
            gateways::condition(said, before, generation, now)
        });
        let controller_name = CONTROLLER.to_owned();
        Some(RouteParentStatus {
            parent_ref: parent_ref.clone(),
            controller_name,
            conditions: conditions.collect(),
        })
    });
    let own: Vec<_> = own.collect();
    if own == before {
        return None;
    }
    let others = had.iter().filter(|parent| !is_ours(parent)).cloned();
    Some(others.chain(own.into_iter().filter_map(|parent| serde_json::to_value(parent).ok())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(parents: &Value, status: Vec<Value>) -> gateway::HttpRoute {
        let route = json!({"metadata": {"name": "r", "uid": "u", "generation": 2}, "spec": {"parentRefs": parents}, "status": {"parents": status}});
        serde_json::from_value(route).expect("a route")
    }

    fn told(generation: i64, place: usize, holds: bool) -> Standing {
        let status = if holds { "True" } else { "False" };
        let condition = Condition { kind: "Accepted", status, reason: "Accepted", message: String::new() };
        Standing {
            uid: "u".to_owned(),
            generation: Some(generation),
            parents: vec![(place, vec![condition])],
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn what_others_say_stays_and_what_is_said_already_is_not_written() {
        let parents = json!([{"name": "gateway"}, {"group": "networking.istio.io", "kind": "ServiceEntry", "name": "one"}]);
        let others = json!({"parentRef": {"name": "gateway"}, "controllerName": "example.com/other", "conditions": [], "more": 1});
        let first = merged(&route(&parents, vec![others.clone()]), &told(2, 1, true), at(10)).expect("news");
        assert_eq!((first.len(), &first[0], &first[1]["parentRef"]), (2, &others, &parents[1]));
        assert_eq!(first[1]["conditions"][0]["observedGeneration"], 2);
        let written = route(&parents, first);
        assert_eq!(merged(&written, &told(2, 1, true), at(20)), None);
        assert_eq!(merged(&written, &told(1, 1, false), at(20)), None, "of an older spec");
        let another = Standing { uid: "v".to_owned(), ..told(2, 1, false) };
        assert_eq!(merged(&written, &another, at(20)), None, "of another route of the same name");
        let second = merged(&written, &told(2, 1, false), at(20)).expect("news");
        assert_eq!(second[1]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:20Z");
        let nothing = Standing { uid: String::new(), generation: None, parents: Vec::new() };
        assert_eq!(merged(&written, &nothing, at(30)), Some(vec![others]));
    }
}
