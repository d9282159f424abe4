//! Follows one collection: all that is there, then every change.
//!
//! In: answers of the API server. Out: news of the collection. Never: an object that is kept.
//!
//! A streaming list asks for both at once (a watch with `sendInitialEvents`); a server that does not know it is asked for a list,
//! then for a watch. A watch that ends is begun again where it ended; only when the server does not have that any more,
//! everything is listed anew.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use kube::{Client, api::WatchEvent};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{Trouble, resource::Collection};
use crate::model::{ClusterObject, Issue, Kind, Metadata, Object, ObjectRef, read_object};

/// The annotation of a bookmark at the end of a streaming list.
const LIST_ENDS: &str = "k8s.io/initial-events-end";
/// A copy of the object that kubectl leaves in it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// In what `managedFields` says of a manager: that it wrote `status.addresses`.
const ADDRESSES_WRITTEN: &str = "/fieldsV1/f:status/f:addresses";
/// A watch is ended by the server after this long, so that connections spread over API servers again.
const WATCH_SECONDS: std::ops::Range<u32> = 240..290;
/// A server that begins a streaming list and then says nothing for this long has not understood what was asked.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);
/// The first and the longest wait after a failure.
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(10);
/// The longest wait for a resource that is not served yet.
const WAIT_SERVED: Duration = Duration::from_secs(3);
/// The same for one that many clusters never have.
const WAIT_OPTIONAL: Duration = Duration::from_secs(30);
/// What has lasted this long went well.
const SOUND: Duration = Duration::from_secs(30);

/// Which follower, of all there ever were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FollowerId(pub(super) u64);

/// What a follower has to say.
#[derive(Debug)]
pub(super) struct News {
    pub(super) from: FollowerId,
    pub(super) what: What,
}

/// What happened to a collection.
#[derive(Debug)]
pub(super) enum What {
    /// The API server answers.
    Connected,
    /// From here on everything that exists is told again.
    Listing,
    /// Everything that exists was told.
    Listed,
    /// An object exists, or has changed.
    Applied(Box<Applied>),
    /// An object is gone, or does not belong to the collection any more.
    Deleted(ObjectRef),
    /// A request failed. It is tried again.
    Failed(Verb, Trouble),
}

/// An object as the API server has it.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) reference: ObjectRef,
    /// Of two states of one object, the later has the larger.
    pub(super) version: Option<u64>,
    /// The object and the fields that the API does not have, or every field of a wrong type.
    pub(super) read: Result<(Object, Vec<Issue>), Vec<Issue>>,
}

/// What was to be done to a collection, in the word of RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    List,
    Watch,
}

impl Verb {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Watch => "watch",
        }
    }
}

/// Why a session ended before its time.
enum End {
    Failed(Verb, Trouble),
    /// The server does not know streaming lists.
    NoStreaming,
    /// Nobody listens.
    Unheard,
}

impl From<mpsc::error::SendError<News>> for End {
    fn from(_: mpsc::error::SendError<News>) -> Self {
        Self::Unheard
    }
}

/// Follows one collection until nobody listens.
pub(super) struct Follower {
    pub(super) id: FollowerId,
    pub(super) client: Client,
    pub(super) collection: Collection,
    /// Whether it matters who wrote `status.addresses`.
    pub(super) keeps_managers: bool,
    pub(super) news: mpsc::Sender<News>,
}

/// Where a follower is.
struct Position {
    api_versions: Vec<String>,
    /// The version that is tried, or used, of these.
    chosen: usize,
    /// How many of them are not served, one after the other.
    unserved: usize,
    /// The state up to which everything was told.
    at: Option<String>,
    streams: bool,
}

/// A page of a list.
#[derive(Deserialize)]
struct Page {
    metadata: PageMeta,
    /// None is how some servers write that there are none.
    items: Option<Vec<Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

impl Follower {
    pub(super) async fn run(self) {
        let api_versions = self.collection.api_versions();
        let mut position = Position { api_versions, chosen: 0, unserved: 0, at: None, streams: true };
        let (mut failures, mut expired) = (0, 0);
        loop {
            let began = Instant::now();
            let end = self.session(&mut position).await;
            if began.elapsed() > SOUND {
                (failures, expired) = (0, 0);
            }
            match end {
                Ok(()) if began.elapsed() > WAIT_MIN => continue,
                Ok(()) => {}
                Err(End::Unheard) => return,
                Err(End::NoStreaming) => {
                    tracing::debug!(collection = %self.collection, "no streaming lists here: listing");
                    position.streams = false;
                    continue;
                }
                Err(End::Failed(_, Trouble::Expired)) => {
                    tracing::info!(collection = %self.collection, "the watch has fallen behind: listing anew");
                    position.at = None;
                    // The server answers, so what came before does not count.
                    failures = expired;
                    expired += 1;
                }
                Err(End::Failed(verb, Trouble::NotServed)) => {
                    position.at = None;
                    position.chosen = (position.chosen + 1) % position.api_versions.len();
                    position.unserved += 1;
                    if position.unserved < position.api_versions.len() {
                        continue;
                    }
                    position.unserved = 0;
                    if self.tell(What::Failed(verb, Trouble::NotServed)).await.is_err() {
                        return;
                    }
                    let most = if self.collection.is_optional() { WAIT_OPTIONAL } else { WAIT_SERVED };
                    sleep(wait(failures, most)).await;
                    failures += 1;
                    continue;
                }
                Err(End::Failed(verb, trouble)) => {
                    tracing::debug!(collection = %self.collection, error = %trouble, "a request failed");
                    if self.tell(What::Failed(verb, trouble)).await.is_err() {
                        return;
                    }
                }
            }
            sleep(wait(failures, WAIT_MAX)).await;
            failures += 1;
        }
    }

    /// Lists if need be, and watches until the watch ends.
    async fn session(&self, position: &mut Position) -> Result<(), End> {
        let api_version = position.api_versions[position.chosen].clone();
        if position.at.is_none() && !position.streams {
            position.at = Some(self.list(&api_version).await?);
        }
        let is_stream = position.at.is_none();
        let mut events = self.watch(&api_version, position.at.as_deref()).await?;
        position.unserved = 0;
        self.tell(What::Connected).await?;
        if is_stream {
            self.tell(What::Listing).await?;
        }
        let mut is_listing = is_stream;
        loop {
            let event = if is_listing {
                timeout(STREAM_PATIENCE, events.try_next()).await.map_err(|_| End::NoStreaming)?
            } else {
                events.try_next().await
            };
            let event = event.map_err(|error| failed(Trouble::of(&error)))?;
            let version = match event {
                // An unfinished list is begun again.
                None => return Ok(()),
                Some(WatchEvent::Added(value) | WatchEvent::Modified(value)) => {
                    let version = text(&value, "resourceVersion");
                    self.tell_applied(&api_version, value).await?;
                    version
                }
                Some(WatchEvent::Deleted(value)) => {
                    if let Some(reference) = reference(self.collection.kind(), &value) {
                        self.tell(What::Deleted(reference)).await?;
                    }
                    text(&value, "resourceVersion")
                }
                Some(WatchEvent::Bookmark(bookmark)) => {
                    if is_listing && bookmark.metadata.annotations.contains_key(LIST_ENDS) {
                        is_listing = false;
                        self.tell(What::Listed).await?;
                    }
                    Some(bookmark.metadata.resource_version)
                }
                Some(WatchEvent::Error(status)) => {
                    let trouble = Trouble::of_status(&status);
                    return Err(if is_listing { failed_to_stream(trouble) } else { failed(trouble) });
                }
            };
            // The versions of objects within a list are in no order.
            if !is_listing && version.is_some() {
                position.at = version;
            }
        }
    }

    /// Begins a watch at `at`, or a streaming list.
    async fn watch(
        &self,
        api_version: &str,
        at: Option<&str>,
    ) -> Result<BoxStream<'static, kube::Result<WatchEvent<Value>>>, End> {
        let request = self.collection.request(api_version);
        let mut params = self.collection.watch_params(rand::random_range(WATCH_SECONDS));
        params.send_initial_events = at.is_none();
        // Without a version, a streaming list is as new as the request.
        let version = at.unwrap_or_default();
        let request = if self.collection.is_metadata() {
            request.watch_metadata(&params, version)
        } else {
            request.watch(&params, version)
        };
        let failed = |error| {
            let trouble = Trouble::of(&error);
            if at.is_none() { failed_to_stream(trouble) } else { failed(trouble) }
        };
        let request = request.map_err(kube::Error::BuildRequest).map_err(failed)?;
        let events = self.client.request_events(request).await.map_err(failed)?;
        Ok(events.boxed())
    }

    /// Tells of everything, page by page; returns the version of the list.
    async fn list(&self, api_version: &str) -> Result<String, End> {
        let failed = |error| End::Failed(Verb::List, Trouble::of(&error));
        let mut params = self.collection.list_params();
        let mut is_first = true;
        loop {
            let request = self.collection.request(api_version);
            let request = if self.collection.is_metadata() {
                request.list_metadata(&params)
            } else {
                request.list(&params)
            };
            let request = request.map_err(kube::Error::BuildRequest).map_err(failed)?;
            let page: Page = self.client.request(request).await.map_err(failed)?;
            if std::mem::take(&mut is_first) {
                self.tell(What::Connected).await?;
                self.tell(What::Listing).await?;
            }
            for item in page.items.into_iter().flatten() {
                self.tell_applied(api_version, item).await?;
            }
            if page.metadata.next.is_empty() {
                self.tell(What::Listed).await?;
                return Ok(page.metadata.resource_version);
            }
            params.continue_token = Some(page.metadata.next);
        }
    }

    async fn tell_applied(&self, api_version: &str, mut value: Value) -> Result<(), End> {
        let kind = self.collection.kind();
        let Some(reference) = reference(kind, &value) else { return Ok(()) };
        let version = text(&value, "resourceVersion").and_then(|version| version.parse().ok());
        trim(&mut value, self.keeps_managers);
        let read = read_object(kind, api_version, value);
        self.tell(What::Applied(Box::new(Applied { reference, version, read }))).await
    }

    async fn tell(&self, what: What) -> Result<(), End> {
        Ok(self.news.send(News { from: self.id, what }).await?)
    }
}

fn failed(trouble: Trouble) -> End {
    End::Failed(Verb::Watch, trouble)
}

/// An API server that does not know streaming lists refuses the parameters; one whose etcd is too old for them (before 3.4.25 and
/// 3.5.8) calls it an internal error.
fn failed_to_stream(trouble: Trouble) -> End {
    match trouble {
        Trouble::Refused { .. } | Trouble::Unable { code: 500, .. } => End::NoStreaming,
        trouble => failed(trouble),
    }
}

/// Removes what is large and never looked at.
fn trim(value: &mut Value, keeps_managers: bool) {
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if !keeps_managers {
        metadata.remove("managedFields");
    } else if let Some(managers) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) {
        managers.retain(|manager| manager.pointer(ADDRESSES_WRITTEN).is_some());
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get("metadata")?.get(field)?.as_str().map(str::to_owned)
}

fn reference(kind: Kind, value: &Value) -> Option<ObjectRef> {
    let name = text(value, "name").filter(|name| !name.is_empty())?;
    let namespace = text(value, "namespace").unwrap_or_default();
    let metadata = Metadata { name, namespace, ..Metadata::default() };
    Some(match kind {
        Kind::Node | Kind::Namespace => ClusterObject { metadata }.object_ref(kind),
        _ => metadata.object_ref(kind),
    })
}

/// How long to wait after so many failures: doubled with each, and somewhere in the upper half, so that the nodes of a cluster
/// do not come together.
fn wait(failures: u32, most: Duration) -> Duration {
    let whole = WAIT_MIN.saturating_mul(1 << failures.min(16)).min(most);
    whole.mul_f64(rand::random_range(0.5..=1.0))
}
