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
    extract::{self, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use crate::{
    explain::{ExplainRequest, Explanation},
    model::Namespace,
    status::{Backends, ExecAnswer, ExecRequest, Names, Services, Status, Workloads},
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
    /// `GET /backends`
    Backends(oneshot::Sender<Backends>),
    /// `GET /names`
    Names(oneshot::Sender<Names>),
    /// `GET /workloads`
    Workloads(oneshot::Sender<Workloads>),
    /// `POST /explain`; the error is for whoever asked.
    Explain(ExplainRequest, oneshot::Sender<Result<Explanation, String>>),
    /// `GET /dump/STATE`, and whether to read the kernel's maps.
    Dump(DumpState, bool, oneshot::Sender<Result<Value, String>>),
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
    path: PathBuf,
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
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until `shutdown`.
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
            .route("/exec", post(exec))
            .with_state(queries);
        let served =
            axum::serve(self.listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        // Another agent may have taken the path over only after this one stopped answering.
        fs::remove_file(&self.path).ok();
        served
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
    answer(ask(&queries, |reply| Query::Explain(request, reply)).await)
}

async fn dump(
    State(queries): Queries,
    extract::Path(state): extract::Path<DumpState>,
    extract::Query(options): extract::Query<DumpOptions>,
) -> Response {
    answer(ask(&queries, |reply| Query::Dump(state, options.kernel, reply)).await)
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
