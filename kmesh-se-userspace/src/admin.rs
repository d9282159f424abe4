//! The admin socket: HTTP with JSON over a Unix socket that only root can open.
//!
//! In: requests of the command line. Out: answers from the agent's loop. Never: a state of its own.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
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
    sync::{mpsc, oneshot},
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
    #[error("another agent already serves {}: stop it, or give this one its own --admin, --attach and --state", path.display())]
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

/// The socket, open. Dropping it removes the file.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    _file: SocketFile,
}

/// The path of a socket that is ours.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; there is nobody to tell.
        drop(fs::remove_file(&self.0));
    }
}

impl AdminSocket {
    /// Makes the socket; one that a dead agent left is replaced.
    ///
    /// # Errors
    /// A living agent has it, or the path cannot be written.
    pub async fn open(path: &Path) -> Result<Self, AdminError> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(AdminError::InUse { path: path.to_owned() });
        }
        let listen = || -> io::Result<UnixListener> {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = listen().map_err(|error| AdminError::Listen { path: path.to_owned(), error })?;
        Ok(Self { listener, _file: SocketFile(path.to_owned()) })
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn serve(self, queries: mpsc::Sender<Query>, shutdown: CancellationToken) -> io::Result<()> {
        let router = Router::new()
            .route("/status", get(status))
            .route("/services", get(services))
            .route("/exec", post(exec))
            .with_state(queries);
        // The file goes when serving ends.
        let Self { listener, _file } = self;
        axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
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
        let answer_error = |message: String| AdminError::Answer { path: self.path.clone(), message };
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|error| AdminError::Connect { path: self.path.clone(), error })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| answer_error(e.to_string()))?;
        tokio::spawn(connection);
        let body = serde_json::to_vec(body).map_err(|e| answer_error(e.to_string()))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "kmesh-se")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| answer_error(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(|e| answer_error(e.to_string()))?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|e| answer_error(e.to_string()))?.to_bytes();
        if !status.is_success() {
            return Err(answer_error(String::from_utf8_lossy(&bytes).into_owned()));
        }
        serde_json::from_slice(&bytes).map_err(|e| answer_error(e.to_string()))
    }
}
