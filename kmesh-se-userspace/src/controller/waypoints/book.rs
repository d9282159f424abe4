//! The ConfigMaps by which agents learn of waypoints.
//!
//! In: what each should say, and what the API server has. Out: writes. Never: two of one ConfigMap at one time.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    controller::{election::WRITE_TIMEOUT, known::MANAGER},
    model::{Kind, Namespace, ObjectRef, WAYPOINT_LISTENERS_LABEL, WaypointName, WaypointProxies},
    source::kube::Trouble,
};

/// How long a write that failed is waited out, and how long the watch may take to tell of one that did not.
const WAIT: Duration = Duration::from_secs(1);
/// The longest name of an object.
const NAME_MAX: usize = 253;

/// What is written and what is to be.
pub(super) struct Book {
    maps: Api<ConfigMap>,
    namespace: String,
    pages: BTreeMap<ObjectRef, Page>,
    /// What is to be removed, and when that was tried last.
    gone: BTreeMap<ObjectRef, Option<Instant>>,
    writes: JoinSet<(ObjectRef, Result<(), Trouble>)>,
    trouble: Option<Trouble>,
}

struct Page {
    wanted: WaypointProxies,
    /// What was written last, and when.
    written: Option<WaypointProxies>,
    at: Option<Instant>,
    is_under_way: bool,
}

impl Book {
    /// For ConfigMaps of this namespace.
    pub(super) fn new(client: Client, namespace: String) -> Self {
        Self {
            maps: Api::namespaced(client, &namespace),
            namespace,
            pages: BTreeMap::new(),
            gone: BTreeMap::new(),
            writes: JoinSet::new(),
            trouble: None,
        }
    }

    /// The ConfigMap of a waypoint that has none yet. Namespaces have no dots, so no two waypoints have the same.
    pub(super) fn object(&self, waypoint: &WaypointName) -> ObjectRef {
        let mut name = format!("waypoint.{}.{}", waypoint.namespace, waypoint.name);
        if name.len() > NAME_MAX {
            let digest = Sha256::digest(name.as_bytes());
            let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            name = format!("waypoint.{digest}");
        }
        let namespace = Namespace::new(&self.namespace);
        ObjectRef { kind: Kind::ConfigMap, namespace, name: name.as_str().into() }
    }

    /// Has it say so.
    pub(super) fn write(&mut self, wanted: WaypointProxies) {
        let object = wanted.object.clone();
        self.gone.remove(&object);
        match self.pages.get_mut(&object) {
            Some(page) => page.wanted = wanted,
            None => {
                let page = Page { wanted, written: None, at: None, is_under_way: false };
                self.pages.insert(object, page);
            }
        }
    }

    /// The API server has it so.
    pub(super) fn compare(&mut self, object: &ObjectRef, actual: Option<&WaypointProxies>, now: Instant) {
        let Some(page) = self.pages.get_mut(object) else { return };
        let is_late = page.at.is_none_or(|at| now >= at + WAIT);
        // Somebody else has written it, or removed it.
        if is_late && !page.is_under_way && actual != page.written.as_ref() {
            page.written = actual.cloned();
        }
    }

    /// The API server has these, and no others that are to be removed.
    pub(super) fn keep_to(&mut self, there: &[ObjectRef]) {
        self.gone.retain(|object, _| there.contains(object));
    }

    /// Has it removed, once no write of it is under way.
    pub(super) fn remove(&mut self, object: ObjectRef) {
        if !self.pages.get(&object).is_some_and(|page| page.is_under_way) {
            self.pages.remove(&object);
            self.gone.entry(object).or_default();
        }
    }

    /// Begins the writes that are due, and takes in what became of others.
    pub(super) fn turn(&mut self, now: Instant) {
        while let Some(ended) = self.writes.try_join_next() {
            // A write does not panic.
            let Ok((object, result)) = ended else { continue };
            let page = self.pages.get_mut(&object);
            if let Some(page) = page {
                page.is_under_way = false;
                if result.is_err() {
                    page.written = None;
                }
            }
            match result {
                Ok(()) => self.trouble = None,
                Err(trouble) if self.trouble.as_ref() != Some(&trouble) => {
                    tracing::warn!(%object, error = %trouble, "agents cannot be told of a waypoint: what they know stays in use");
                    self.trouble = Some(trouble);
                }
                Err(_) => {}
            }
        }
        for (object, page) in &mut self.pages {
            let is_late = page.at.is_none_or(|at| now >= at + WAIT);
            let may_begin = self.trouble.is_none() || is_late;
            if page.is_under_way || !may_begin || page.written.as_ref() == Some(&page.wanted) {
                continue;
            }
            (page.is_under_way, page.at) = (true, Some(now));
            page.written = Some(page.wanted.clone());
            let (maps, object, data) = (self.maps.clone(), object.clone(), page.wanted.data());
            self.writes.spawn(async move {
                let result = timeout(WRITE_TIMEOUT, put(&maps, &object, data)).await;
                (object, result.unwrap_or_else(|_| Err(Trouble::no_answer())))
            });
        }
        for (object, tried) in &mut self.gone {
            if tried.is_some_and(|at| now < at + WAIT) {
                continue;
            }
            *tried = Some(now);
            let (maps, object) = (self.maps.clone(), object.clone());
            self.writes.spawn(async move {
                let result = timeout(WRITE_TIMEOUT, delete(&maps, &object)).await;
                (object, result.unwrap_or_else(|_| Err(Trouble::no_answer())))
            });
        }
    }

    /// Somebody else writes from now on.
    pub(super) fn forget(&mut self) {
        self.pages.clear();
        self.gone.clear();
        self.writes.abort_all();
    }
}

async fn put(
    maps: &Api<ConfigMap>,
    object: &ObjectRef,
    data: BTreeMap<String, String>,
) -> Result<(), Trouble> {
    let labels = BTreeMap::from([(WAYPOINT_LISTENERS_LABEL.to_owned(), String::new())]);
    let metadata =
        ObjectMeta { name: Some(object.name.to_string()), labels: Some(labels), ..ObjectMeta::default() };
    let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
    let params = PatchParams::apply(MANAGER).force();
    let patched = maps.patch(&object.name, &params, &Patch::Apply(&map)).await;
    patched.map(drop).map_err(|error| Trouble::of(&error))
}

async fn delete(maps: &Api<ConfigMap>, object: &ObjectRef) -> Result<(), Trouble> {
    match maps.delete(&object.name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(error) => match Trouble::of(&error) {
            Trouble::NotServed => Ok(()),
            trouble => Err(trouble),
        },
    }
}
