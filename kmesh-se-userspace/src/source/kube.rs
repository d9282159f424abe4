//! The API server of a Kubernetes cluster as a source.
//!
//! In: a kubeconfig, or the service account of a Pod. Out: events. Never: validation, a write, or an object that was told.
//!
//! Agents follow what their node needs to know; the controller follows entries, and Services, whose names are not an entry's.
//!
//! # What it asks for
//!
//! An agent's ClusterRole needs these rules and no others, each with the verbs `list` and `watch`; `list` is for API servers without
//! streaming lists, and for [`discover`]. (What it says of its node, if it does, is a Lease, which needs a Role: `agent/report`.) A rule that is missing becomes a problem that names it; the rest goes on.
//!
//! | group | resource | what for |
//! |---|---|---|
//! | `networking.istio.io` | `serviceentries` | what this is about |
//! | `networking.istio.io` | `workloadentries` | endpoints of entries with a selector |
//! | `gateway.networking.k8s.io` | `httproutes` | what waypoints are to do with requests to entries; a cluster may be without the resource |
//! | core | `pods` | those of this node (by field selector), to enrol them; those that selectors of entries pick (by namespace and label), as endpoints |
//! | core | `namespaces` | metadata: which are enrolled, and their traffic distribution |
//! | core | `services` | names that are a Service's before they are an entry's; the address of the cluster's DNS |
//! | core | `nodes` | metadata: localities; once at start the addresses of this node |
//!
//! Where waypoints are of interest, a Role in the namespace of the ConfigMaps that tell of them has the same for `configmaps`.

mod discover;
mod follow;
mod resource;
mod state;
mod trouble;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use kube::{
    Client, Config,
    config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::{
    follow::{Follower, FollowerId, News},
    resource::Collection,
    state::State,
};
use super::Event;

pub use self::{
    discover::{Discovered, discover},
    trouble::Trouble,
};

/// Room for news that have not been told on.
const QUEUE: usize = 256;
/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A watch that says nothing for this long hangs on a dead connection: the API server sends a bookmark every minute.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

/// Why the API server cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// The kubeconfig that was named does not say how to reach a cluster. For the operator to fix.
    #[error("the kubeconfig {} cannot be used", path.display())]
    Kubeconfig {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// No kubeconfig was named and there is none where one is looked for. For the operator to fix.
    #[error(
        "it is not known how to reach an API server: name a kubeconfig with --kubeconfig, or run in a Pod"
    )]
    NoKubeconfig {
        /// What was looked for.
        source: Box<InferConfigError>,
    },
    /// What the kubeconfig says cannot be used. For the operator to fix.
    #[error("the certificates or credentials for the API server {server} cannot be used")]
    Client {
        /// Its address.
        server: String,
        /// What is wrong with them.
        source: Box<kube::Error>,
    },
    /// A request failed; it may be tried again.
    #[error("cannot list {resource}")]
    List {
        /// What was asked for.
        resource: &'static str,
        /// Why not.
        source: Trouble,
    },
}

impl KubeError {
    /// CamelCase code for labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kubeconfig { .. } => "KubeconfigInvalid",
            Self::NoKubeconfig { .. } => "KubeconfigMissing",
            Self::Client { .. } => "CredentialsInvalid",
            Self::List { source, .. } => source.reason(),
        }
    }
}

/// A client for the cluster that the kubeconfig names; without one, that of `KUBECONFIG`, of `~/.kube/config`, or the one that
/// this Pod runs in. Nothing is asked of the API server yet, so it may be away.
///
/// # Errors
/// When it is not known how to reach one: tell the operator.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, KubeError> {
    let mut config = match kubeconfig {
        Some(path) => named(path)
            .await
            .map_err(|source| KubeError::Kubeconfig { path: path.to_owned(), source: Box::new(source) })?,
        None => {
            Config::infer().await.map_err(|source| KubeError::NoKubeconfig { source: Box::new(source) })?
        }
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    // Who asks waits by itself, and says that it does.
    config.default_retry = false;
    let server = config.cluster_url.to_string();
    Client::try_from(config).map_err(|source| KubeError::Client { server, source: Box::new(source) })
}

async fn named(path: &Path) -> Result<Config, KubeconfigError> {
    let kubeconfig = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await
}

/// What of a cluster is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// All that a node needs to know.
    Node {
        /// Its name.
        name: String,
        /// The namespace where the controller tells of waypoints, if those are of interest.
        waypoints: Option<String>,
    },
    /// All that waypoints of the cluster are told, and what the controller told of them in this namespace.
    Waypoints(String),
    /// ServiceEntries, with those of their field managers that wrote `status.addresses`; and Services.
    Entries,
}

impl Interest {
    fn collections(&self) -> Vec<Collection> {
        match self {
            Self::Node { name, waypoints } => {
                let mut all = vec![
                    Collection::Namespaces,
                    Collection::Nodes,
                    Collection::Services,
                    Collection::PodsOfNode(name.clone()),
                    Collection::WorkloadEntries,
                    Collection::ServiceEntries,
                    Collection::HttpRoutes,
                ];
                all.extend(waypoints.clone().map(Collection::Waypoints));
                all
            }
            Self::Waypoints(namespace) => vec![
                Collection::Namespaces,
                Collection::Services,
                Collection::WorkloadEntries,
                Collection::ServiceEntries,
                Collection::HttpRoutes,
                Collection::WaypointPods,
                Collection::Waypoints(namespace.clone()),
            ],
            Self::Entries => vec![Collection::Services, Collection::ServiceEntries],
        }
    }
}

/// Tells of the objects of the cluster that are of `interest`, until `shutdown`, or until nobody listens any more.
/// `Synced` comes when all that can be read has been; an API server that is away, a resource that is not served and one that may
/// not be read are problems to report, and are tried again.
pub async fn watch(client: Client, interest: Interest, tx: mpsc::Sender<Event>, shutdown: CancellationToken) {
    let (news_out, news) = mpsc::channel(QUEUE);
    let mut source = Source {
        client,
        state: State::new(&interest),
        keeps_managers: interest == Interest::Entries,
        news_out,
        followers: JoinSet::new(),
        handles: BTreeMap::new(),
        tx,
    };
    for collection in interest.collections() {
        let (id, collection) = source.state.follow(collection);
        source.start(id, collection);
    }
    // Nobody listens any more when it ends by itself; the followers end with it.
    let _ = shutdown.run_until_cancelled(source.run(news)).await;
}

struct Source {
    client: Client,
    state: State,
    keeps_managers: bool,
    news_out: mpsc::Sender<News>,
    followers: JoinSet<()>,
    handles: BTreeMap<FollowerId, AbortHandle>,
    tx: mpsc::Sender<Event>,
}

impl Source {
    fn start(&mut self, id: FollowerId, collection: Collection) {
        tracing::debug!(%collection, "following");
        let (client, news) = (self.client.clone(), self.news_out.clone());
        let follower = Follower { id, client, collection, keeps_managers: self.keeps_managers, news };
        self.handles.insert(id, self.followers.spawn(follower.run()));
    }

    async fn run(mut self, mut news: mpsc::Receiver<News>) -> Result<(), mpsc::error::SendError<Event>> {
        while let Some(News { from, what }) = news.recv().await {
            for event in self.state.take(from, what, Timestamp::now()) {
                self.tx.send(event).await?;
            }
            let (change, events) = self.state.adjust();
            for event in events {
                self.tx.send(event).await?;
            }
            for id in change.stop {
                self.handles.remove(&id).inspect(AbortHandle::abort);
            }
            for (id, collection) in change.start {
                self.start(id, collection);
            }
            if let Some(synced) = self.state.sync() {
                self.tx.send(synced).await?;
            }
            // Those that were stopped.
            while self.followers.try_join_next().is_some() {}
        }
        Ok(())
    }
}
