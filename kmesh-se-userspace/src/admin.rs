//! The admin socket: HTTP with JSON over a Unix socket that only root can open.
//!
//! In: requests of the command line. Out: answers from the agent's loop. Never: a state of its own.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixListener as StdUnixListener},
    path::{Path, PathBuf},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    model::Namespace,
    status::{ExecAnswer, ExecRequest, Services, Status},
};

/// Where the socket is unless `--admin` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/kmesh-se/admin.sock";

/// A request to the agent's loop, with the place for its answer.
#[derive(Debug)]
pub enum Query {
    /// `GET /status`
    Status(oneshot::Sender<Status>),
    /// `GET /services`
    Services(oneshot::Sender<Services>),
    /// `POST /exec`: a new enrolled cgroup for a command of this namespace.
    Exec(Namespace, oneshot::Sender<Result<ExecAnswer, String>>),
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

async fn exec(State(queries): Queries, Json(request): Json<ExecRequest>) -> Response {
    match ask(&queries, |reply| Query::Exec(Namespace::new(&request.namespace), reply)).await {
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

/// The command line's side of the socket.
#[derive(Clone, Debug)]
pub struct AdminClient {
    path: PathBuf,
}

impl AdminClient {
    /// Will ask the agent at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// `GET path`.
    ///
    /// # Errors
    /// No agent answers, or it answers with an error.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        self.send(Method::GET, path, &()).await
    }

    /// `POST path` with `body`.
    ///
    /// # Errors
    /// No agent answers, or it answers with an error.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, AdminError> {
        self.send(Method::POST, path, body).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, AdminError> {
        let body = serde_json::to_vec(body).map_err(|e| self.unexpected(e.to_string()))?;
        let mut tries = 1..TRIES;
        let (status, bytes) = loop {
            match self.try_send(method.clone(), path, &body).await? {
                Ok(answer) => break answer,
                // The agent closed the connection unread, as it does when it hands over to another, which is asked now.
                Err(error) if is_unanswered(&error) && tries.next().is_some() => {}
                Err(error) => return Err(self.unexpected(error.to_string())),
            }
        };
        if !status.is_success() {
            return Err(self.unexpected(String::from_utf8_lossy(&bytes).into_owned()));
        }
        serde_json::from_slice(&bytes).map_err(|e| self.unexpected(e.to_string()))
    }

    /// One request on a connection of its own.
    async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
    ) -> Result<hyper::Result<(StatusCode, Bytes)>, AdminError> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|error| AdminError::Connect { path: self.path.clone(), error })?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "kmesh-se")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(|e| self.unexpected(e.to_string()))?;
        let answer = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let response = sender.send_request(request).await?;
            Ok((response.status(), response.into_body().collect().await?.to_bytes()))
        };
        Ok(answer.await)
    }

    fn unexpected(&self, message: String) -> AdminError {
        AdminError::Answer { path: self.path.clone(), message }
    }
}

/// How often a request is sent to an agent that closes the connection.
const TRIES: u32 = 4;

fn is_unanswered(error: &hyper::Error) -> bool {
    let is_reset = |error: &(dyn std::error::Error + 'static)| {
        let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        error.downcast_ref::<io::Error>().is_some_and(|error| kinds.contains(&error.kind()))
    };
    error.is_canceled()
        || error.is_incomplete_message()
        || std::error::Error::source(error).is_some_and(is_reset)
}
