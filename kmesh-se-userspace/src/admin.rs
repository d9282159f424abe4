//! The admin socket: HTTP with JSON over a Unix socket that only root can open.
//!
//! In: requests of the command line. Out: answers from the agent's loop. Never: a state of its own.

mod client;

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixListener as StdUnixListener},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{self, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::body::{Bytes, Frame};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

pub use client::AdminClient;

use crate::{
    explain::{ExplainRequest, Explanation},
    model::Namespace,
    status::{Backends, ExecAnswer, ExecRequest, Names, Services, Status, TraceEvent, Workloads},
};

/// Room for events that one client of `trace` has not read yet; further ones are lost.
const TRACED: usize = 1024;

/// How long an explanation waits for names that nobody had asked for, as a client would.
const ASK_PATIENCE: Duration = Duration::from_secs(2);

/// Where the socket is unless `--admin` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/kmesh-se/admin.sock";

/// A request to the agent's loop, with the place for its answer.
#[derive(Debug)]
pub enum Query {
    /// `GET /status`
    Status(oneshot::Sender<Status>),
    /// `GET /services`
    Services(oneshot::Sender<Services>),
    /// `GET /backends`
    Backends(oneshot::Sender<Backends>),
    /// `GET /names`
    Names(oneshot::Sender<Names>),
    /// `GET /workloads`
    Workloads(oneshot::Sender<Workloads>),
    /// Before `POST /explain`: has what is to be explained resolved, and tells when it is, or drops the place.
    AskToExplain(ExplainRequest, oneshot::Sender<()>),
    /// `POST /explain`; the error is for whoever asked.
    Explain(ExplainRequest, oneshot::Sender<Result<Explanation, String>>),
    /// `GET /dump/STATE`, and whether to read the kernel's maps.
    Dump(DumpState, bool, oneshot::Sender<Result<Value, String>>),
    /// `GET /trace`: events go there until it is closed.
    Trace(mpsc::Sender<TraceEvent>, oneshot::Sender<Result<(), String>>),
    /// `POST /exec`: a new enrolled cgroup for a command of this namespace.
    Exec(Namespace, oneshot::Sender<Result<ExecAnswer, String>>),
}

/// The states between the steps of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum DumpState {
    /// The accepted objects.
    Snapshot,
    /// What names resolve to.
    Resolved,
    /// What the maps and the DNS server should hold.
    Desired,
    /// What the maps hold.
    Actual,
    /// What has to change so that actual becomes desired.
    Diff,
}

impl DumpState {
    /// As the command line spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Resolved => "resolved",
            Self::Desired => "desired",
            Self::Actual => "actual",
            Self::Diff => "diff",
        }
    }
}

/// The query of `GET /dump/STATE`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct DumpOptions {
    #[serde(default)]
    kernel: bool,
}

/// Why the socket cannot be served or asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another agent answers on the socket.
    #[error("another agent already serves {}: stop it, start this one with --takeover, or give it its own --admin, --attach, --pin and --state", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on the admin socket {}: {error}; give --admin a path that can be written", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// No agent answers.
    #[error("no agent answers on {}: {error}; start one with `kmesh-se agent`, or name its socket with --admin", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// An agent has the socket, and does not answer.
    #[error("the agent on {} has not answered for {} s: it is stopped, or has no processor time; see its log", path.display(), patience.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        patience: Duration,
    },
    /// The agent answered something else than expected.
    #[error("the agent on {} did not answer as expected: {message}", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What it said.
        message: String,
    },
}

/// The socket, open. Dropping it removes the file, unless another agent has it.
#[derive(Debug)]
pub struct AdminSocket {
    listener: StdUnixListener,
    file: SocketFile,
}

/// The path of a socket.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    door: Door,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if *self.door.state.borrow() != DoorState::Away {
            // It may be gone already; there is nobody to tell.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Says whether sockets are served: while one agent hands over to another, who asks waits for the one that goes on.
#[derive(Clone, Debug)]
pub struct Door {
    state: watch::Sender<DoorState>,
    /// Whether a request may be under way.
    is_busy: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DoorState {
    Open,
    Closed,
    /// Another agent serves, or will.
    Away,
}

impl Door {
    /// The sockets are this agent's.
    #[must_use]
    pub fn opened() -> Self {
        Self::new(DoorState::Open)
    }

    /// The sockets are another agent's still.
    #[must_use]
    pub fn away() -> Self {
        Self::new(DoorState::Away)
    }

    fn new(state: DoorState) -> Self {
        Self { state: watch::Sender::new(state), is_busy: watch::Sender::new(false) }
    }

    /// Serves, from now on.
    pub fn open(&self) {
        self.state.send_replace(DoorState::Open);
    }

    /// Serves nobody for the moment.
    pub fn close(&self) {
        self.state.send_replace(DoorState::Closed);
    }

    /// Returns when all who came before the door was closed have their answers.
    pub async fn left(&self) {
        // This door lives as long as the call.
        drop(self.is_busy.subscribe().wait_for(|is_busy| !is_busy).await);
    }

    /// Another agent has the sockets now.
    pub fn hand_over(&self) {
        self.state.send_replace(DoorState::Away);
    }
}

impl AdminSocket {
    /// Makes the socket; one that a dead agent left is replaced.
    ///
    /// # Errors
    /// A living agent has it, or the path cannot be written.
    pub async fn open(path: &Path, door: &Door) -> Result<Self, AdminError> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(AdminError::InUse { path: path.to_owned() });
        }
        let listen = || -> io::Result<StdUnixListener> {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = StdUnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = listen().map_err(|error| AdminError::Listen { path: path.to_owned(), error })?;
        Ok(Self::adopt(listener, path, door))
    }

    /// The socket at `path`, with which another agent listens.
    #[must_use]
    pub fn adopt(listener: StdUnixListener, path: &Path, door: &Door) -> Self {
        Self { listener, file: SocketFile { path: path.to_owned(), door: door.clone() } }
    }

    /// The listening socket, once more.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn listener(&self) -> io::Result<StdUnixListener> {
        self.listener.try_clone()
    }

    /// Returns when the door is open.
    pub async fn opened(&self) {
        let mut door = self.file.door.state.subscribe();
        // The door lives as long as this socket.
        drop(door.wait_for(|state| *state == DoorState::Open).await);
    }

    /// Serves until `shutdown`, while the door is open.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn serve(self, queries: mpsc::Sender<Query>, shutdown: CancellationToken) -> io::Result<()> {
        let router = Router::new()
            .route("/status", get(status))
            .route("/services", get(services))
            .route("/backends", get(backends))
            .route("/names", get(names))
            .route("/workloads", get(workloads))
            .route("/explain", post(explain))
            .route("/dump/{state}", get(dump))
            .route("/trace", get(trace))
            .route("/exec", post(exec))
            .with_state(queries);
        loop {
            if shutdown.run_until_cancelled(self.opened()).await.is_none() {
                return Ok(());
            }
            let listener = UnixListener::from_std(self.listener()?)?;
            let (mut door, shutdown) = (self.file.door.state.subscribe(), shutdown.clone());
            let closed = async move {
                let closed = door.wait_for(|state| *state != DoorState::Open);
                drop(shutdown.run_until_cancelled(closed).await);
            };
            self.file.door.is_busy.send_replace(true);
            axum::serve(listener, router.clone()).with_graceful_shutdown(closed).await?;
            self.file.door.is_busy.send_replace(false);
        }
    }
}

type Queries = State<mpsc::Sender<Query>>;

async fn status(State(queries): Queries) -> Response {
    ask(&queries, Query::Status).await.map_or_else(stopping, |status| Json(status).into_response())
}

async fn services(State(queries): Queries) -> Response {
    ask(&queries, Query::Services).await.map_or_else(stopping, |services| Json(services).into_response())
}

async fn backends(State(queries): Queries) -> Response {
    ask(&queries, Query::Backends).await.map_or_else(stopping, |backends| Json(backends).into_response())
}

async fn names(State(queries): Queries) -> Response {
    ask(&queries, Query::Names).await.map_or_else(stopping, |names| Json(names).into_response())
}

async fn workloads(State(queries): Queries) -> Response {
    ask(&queries, Query::Workloads).await.map_or_else(stopping, |workloads| Json(workloads).into_response())
}

async fn explain(State(queries): Queries, Json(request): Json<ExplainRequest>) -> Response {
    let asked = ask(&queries, |done| Query::AskToExplain(request.clone(), done));
    // What is not known by then is explained, too.
    drop(tokio::time::timeout(ASK_PATIENCE, asked).await);
    answer(ask(&queries, |reply| Query::Explain(request, reply)).await)
}

async fn dump(
    State(queries): Queries,
    extract::Path(state): extract::Path<DumpState>,
    extract::Query(options): extract::Query<DumpOptions>,
) -> Response {
    answer(ask(&queries, |reply| Query::Dump(state, options.kernel, reply)).await)
}

async fn trace(State(queries): Queries) -> Response {
    let (out, events) = mpsc::channel(TRACED);
    match ask(&queries, |reply| Query::Trace(out, reply)).await {
        Some(Ok(())) => Response::new(Body::new(Lines { events })),
        Some(Err(message)) => (StatusCode::INTERNAL_SERVER_ERROR, message).into_response(),
        None => stopping(),
    }
}

/// A body of a JSON line for each event, which ends when the agent does.
struct Lines {
    events: mpsc::Receiver<TraceEvent>,
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = serde_json::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, serde_json::Error>>> {
        self.events.poll_recv(context).map(|event| {
            let line = serde_json::to_vec(&event?).map(|mut line| {
                line.push(b'\n');
                Frame::data(Bytes::from(line))
            });
            Some(line)
        })
    }
}

async fn exec(State(queries): Queries, Json(request): Json<ExecRequest>) -> Response {
    answer(ask(&queries, |reply| Query::Exec(Namespace::new(&request.namespace), reply)).await)
}

fn answer<T: Serialize>(answer: Option<Result<T, String>>) -> Response {
    match answer {
        Some(Ok(answer)) => Json(answer).into_response(),
        Some(Err(message)) => (StatusCode::INTERNAL_SERVER_ERROR, message).into_response(),
        None => stopping(),
    }
}

fn stopping() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping").into_response()
}

async fn ask<T>(queries: &mpsc::Sender<Query>, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    queries.send(query(reply)).await.ok()?;
    answer.await.ok()
}
