//! The server that Envoys hear their configuration from: incremental ADS over gRPC.
//!
//! In: connections. Out: a stream for each Envoy. Never: a choice of what is sent, which is `client`'s.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
    aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
};
use futures_util::{Stream, stream};
use prost::Message as _;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Server, server::Connected},
};

use super::{
    Shared, Xds, book,
    client::{Answer, Client, Heard, version_text},
};
use crate::waypoint::resources::Kind;

/// An Envoy that comes back names each resource that it has, with its version.
const REQUEST_BYTES_MAX: usize = 64 << 20;

/// Why the server ended.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The socket cannot be made.
    #[error("cannot listen at {}: is its folder there, and is it writable?", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Connections cannot be served.
    #[error("cannot serve the connections of waypoints")]
    Serve(#[source] tonic::transport::Error),
}

/// How often a connection is tried, and how long an answer may take: an Envoy whose machine is gone is noticed.
const KEEPALIVE: Duration = Duration::from_secs(5);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Service {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl Xds {
    /// Serves Envoys at a Unix socket that only this user may open, until `shutdown`; a socket that is there already is
    /// replaced, and this one stays there. Envoys then go on with what they have.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn serve_unix(
        &self,
        path: &Path,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let cannot = |source| ServeError::Listen { path: path.to_owned(), source };
        if fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
            fs::remove_file(path).map_err(cannot)?;
        }
        let listener = UnixListener::bind(path).map_err(cannot)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(cannot)?;
        let accept = move |context: &mut std::task::Context<'_>| {
            listener.poll_accept(context).map(|accepted| Some(accepted.map(|(stream, _)| stream)))
        };
        self.serve(stream::poll_fn(accept), shutdown).await
    }

    /// Serves Envoys on these connections, until `shutdown`.
    ///
    /// # Errors
    /// When they cannot be served.
    pub async fn serve<C>(
        &self,
        connections: impl Stream<Item = io::Result<C>>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError>
    where
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let stop = CancellationToken::new();
        let service = Service { shared: Arc::clone(&self.shared), stop: stop.clone() };
        let service =
            AggregatedDiscoveryServiceServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX);
        let end = async move {
            shutdown.await;
            stop.cancel();
        };
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(service);
        server.serve_with_incoming_shutdown(connections, end).await.map_err(ServeError::Serve)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("only the incremental protocol is spoken: set api_type to DELTA_GRPC"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        // One of each kind is under way at most.
        let (answers, mut receiver) = mpsc::channel(Kind::ALL.len());
        let (shared, stop) = (Arc::clone(&self.shared), self.stop.clone());
        tokio::spawn(async move {
            let talk = talk(&shared, request.into_inner(), &answers);
            let ended = tokio::select! {
                ended = talk => ended,
                () = stop.cancelled() => Ok(()),
                () = answers.closed() => Ok(()),
            };
            if let Err(status) = ended {
                match status.code() {
                    Code::InvalidArgument => {
                        tracing::warn!(
                            error = status.message(),
                            "a client of the waypoints' server is sent away"
                        );
                    }
                    // It has ended, or its connection has.
                    _ => tracing::debug!(error = status.message(), "the stream of a waypoint has broken off"),
                }
                // It may have gone by itself.
                let _ = answers.send(Err(status)).await;
            }
        });
        let answers = stream::poll_fn(move |context| receiver.poll_recv(context));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// One Envoy, for as long as its stream lasts.
async fn talk(
    shared: &Shared,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    answers: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) -> Result<(), Status> {
    let Some(first) = requests.message().await? else { return Ok(()) };
    let id = first.node.as_ref().map(|node| node.id.as_str()).unwrap_or_default();
    if id.is_empty() {
        return Err(Status::invalid_argument(
            "the first request has no node id: set node.id in the bootstrap",
        ));
    }
    let mut session = Session::begin(shared, id.into());
    let mut orders = shared.orders.listen();
    session.hear(first)?;
    loop {
        while let Some(response) = session.next() {
            if answers.send(Ok(response)).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            request = requests.message() => match request? {
                Some(request) => session.hear(request)?,
                None => return Ok(()),
            },
            () = orders.woken() => session.obey(orders.now()),
        }
    }
}

/// The state of a stream, which is noted as ended when it is dropped.
struct Session<'a> {
    shared: &'a Shared,
    id: Arc<str>,
    stream: u64,
    client: Client,
}

impl<'a> Session<'a> {
    fn begin(shared: &'a Shared, id: Arc<str>) -> Self {
        let stream = shared.state().nodes.connect(&id);
        tracing::info!(node = &*id, "a waypoint has connected");
        Self { shared, id, stream, client: Client::default() }
    }

    /// A request.
    fn hear(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let mut state = self.shared.state();
        let heard = self.client.request(request, &state.book);
        let Heard { names, is_fresh } = heard.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let reset = if is_fresh { state.nodes.start(&self.id, self.stream) } else { Vec::new() };
        let reset = state.keys(&reset);
        drop(state);
        self.shared.news.tell(reset);
        self.restate(&names);
        Ok(())
    }

    /// Services that were set.
    fn obey(&mut self, names: BTreeSet<Arc<str>>) {
        for name in &names {
            self.client.touch(name);
        }
        self.restate(&names);
    }

    /// What is to be sent now, if anything.
    fn next(&mut self) -> Option<DeltaDiscoveryResponse> {
        let state = self.shared.state();
        let answer = if state.is_synced { self.client.next(&state.book) } else { None };
        drop(state);
        let Answer { kind, nonce, records, removed } = answer?;
        let resource = |record: &Arc<super::book::Record>| Resource {
            name: record.name.to_string(),
            version: version_text(record, kind),
            resource: record.resource(kind, &self.shared.settings),
            ..Resource::default()
        };
        let response = DeltaDiscoveryResponse {
            type_url: kind.url(),
            nonce: nonce.to_string(),
            resources: records.iter().map(resource).collect(),
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        let count = records.len() + removed.len();
        self.shared.state().nodes.sent(&self.id, self.stream, count, response.encoded_len());
        Some(response)
    }

    fn restate(&self, names: &BTreeSet<Arc<str>>) {
        let mut state = self.shared.state();
        let state = &mut *state;
        let mut changed = Vec::new();
        for record in book::wholes(&state.book, names) {
            let restated = state.nodes.restate((&self.id, self.stream), &record.name, |before| {
                self.client.standing(record, before)
            });
            if restated {
                changed.push(record.key.clone());
            }
        }
        self.shared.news.tell(changed);
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.shared.state().nodes.disconnect(&self.id, self.stream);
        tracing::info!(node = &*self.id, "a waypoint has gone");
    }
}
