//! Whether the agent, or the controller, is alive and ready, for whoever supervises it.
//!
//! In: what the loop says at each of its turns. Out: `/healthz` and `/readyz` over HTTP. Never: a question to the loop: one
//! that hangs would not answer.

use std::{
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, extract::State as Extract, http::StatusCode, routing::get, serve::Listener};
use tokio::{
    net::{TcpListener, UnixListener},
    time::{Instant, sleep},
};

use crate::admin::{AdminError, AdminSocket, Door};

/// How often the address is tried again while the agent that is taken over has it.
const RETRY: Duration = Duration::from_millis(200);

/// What the loop does, which decides how long it may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Loads, waits for the source and for resolvers, takes over.
    Starting,
    /// Follows every change.
    Serving,
    /// Stands still while another agent prepares.
    HandingOver,
    /// Another agent serves.
    Left,
}

impl Step {
    /// The longest silence; none when silence is all there is to come. The limits of what can be waited for within a step are
    /// the agent's own, and sum up to less.
    fn patience(self) -> Option<Duration> {
        match self {
            Self::Starting | Self::HandingOver => Some(Duration::from_secs(180)),
            Self::Serving => Some(Duration::from_secs(30)),
            Self::Left => None,
        }
    }
}

/// What the loop said last.
#[derive(Debug)]
pub struct Health {
    who: &'static str,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    step: Step,
    at: Instant,
    /// What is missing until it is ready, one sentence each.
    missing: Vec<String>,
}

impl Health {
    /// Of `who`, the agent or the controller, which is starting.
    #[must_use]
    pub fn of(who: &'static str) -> Self {
        let missing = vec![format!("the {who} is starting")];
        Self { who, state: Mutex::new(State { step: Step::Starting, at: Instant::now(), missing }) }
    }

    /// The loop has come to this step, or takes another turn in it.
    pub fn turn(&self, step: Step, missing: Vec<String>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) =
            State { step, at: Instant::now(), missing };
    }

    /// The loop stands still for `step`; what is missing stays as it is.
    pub fn pause(&self, step: Step) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.step, state.at) = (step, Instant::now());
    }

    /// Whether the loop runs; else why not.
    ///
    /// # Errors
    /// It has been silent for too long: the agent is to be killed.
    pub fn alive(&self) -> Result<(), String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = state.at.elapsed();
        match state.step.patience() {
            Some(patience) if silent > patience => Err(format!(
                "the {}'s loop has not turned for {} s (step: {:?})",
                self.who,
                silent.as_secs(),
                state.step
            )),
            _ => Ok(()),
        }
    }

    /// Whether connections and names are served as the source says; else what is missing.
    ///
    /// # Errors
    /// Something is missing, or the loop hangs.
    pub fn ready(&self) -> Result<(), String> {
        self.alive()?;
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.missing.is_empty() { Ok(()) } else { Err(state.missing.join("\n")) }
    }
}

/// Where `/healthz` and `/readyz` are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthAddr {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for HealthAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for HealthAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(format!("`{text}` is not a socket: write unix:/PATH")),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| format!("`{text}` is not an address: write 127.0.0.1:15021 or unix:/PATH")),
        }
    }
}

/// Why health cannot be served. For the operator to fix.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address cannot be had.
    #[error("cannot serve /healthz and /readyz on {address}: choose another --health")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The socket cannot be had.
    #[error("cannot serve /healthz and /readyz on a Unix socket")]
    Socket {
        /// Why not.
        source: AdminError,
    },
}

impl HealthError {
    /// CamelCase code for labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "HealthAddressUnusable",
            Self::Socket { .. } => "HealthSocketUnusable",
        }
    }
}

/// A listener that serves as long as the process lives.
#[derive(Debug)]
pub struct HealthServer {
    /// Removes the socket's file.
    _socket: Option<AdminSocket>,
}

impl HealthServer {
    /// Serves from now on. If `waits`, an address that another one has, which is to be taken over from, is waited for.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn start(address: &HealthAddr, health: Arc<Health>, waits: bool) -> Result<Self, HealthError> {
        match address {
            HealthAddr::Unix(path) => {
                let open = async {
                    let socket = AdminSocket::open(path, &Door::opened()).await?;
                    let listen = socket.listener().and_then(UnixListener::from_std);
                    let listener =
                        listen.map_err(|error| AdminError::Listen { path: path.clone(), error })?;
                    Ok((socket, listener))
                };
                let (socket, listener) = open.await.map_err(|source| HealthError::Socket { source })?;
                tokio::spawn(serve(listener, health));
                Ok(Self { _socket: Some(socket) })
            }
            HealthAddr::Tcp(address) => {
                let address = *address;
                match TcpListener::bind(address).await {
                    Ok(listener) => drop(tokio::spawn(serve(listener, health))),
                    Err(error) if waits && error.kind() == io::ErrorKind::AddrInUse => {
                        tracing::info!(%address, "health is served when the address is free");
                        drop(tokio::spawn(async move {
                            loop {
                                if let Ok(listener) = TcpListener::bind(address).await {
                                    return serve(listener, health).await;
                                }
                                sleep(RETRY).await;
                            }
                        }));
                    }
                    Err(source) => return Err(HealthError::Listen { address, source }),
                }
                Ok(Self { _socket: None })
            }
        }
    }
}

async fn serve<L: Listener>(listener: L, health: Arc<Health>)
where
    L::Addr: fmt::Debug,
{
    let router = Router::new()
        .route("/healthz", get(|Extract(health): Extract<Arc<Health>>| async move { answer(health.alive()) }))
        .route("/readyz", get(|Extract(health): Extract<Arc<Health>>| async move { answer(health.ready()) }))
        .with_state(health);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "health is not served any more");
    }
}

fn answer(said: Result<(), String>) -> (StatusCode, String) {
    match said {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_not_alive() {
        let health = Health::of("agent");
        assert_eq!((health.alive(), health.ready()), (Ok(()), Err("the agent is starting".to_owned())));
        health.turn(Step::Serving, Vec::new());
        advance(Duration::from_secs(29)).await;
        assert_eq!(health.ready(), Ok(()));
        advance(Duration::from_secs(2)).await;
        let why = "the agent's loop has not turned for 31 s (step: Serving)".to_owned();
        assert_eq!((health.alive(), health.ready()), (Err(why.clone()), Err(why)));
        // A handover takes longer, and clients are served meanwhile.
        health.turn(Step::Serving, Vec::new());
        health.pause(Step::HandingOver);
        advance(Duration::from_secs(100)).await;
        assert_eq!(health.ready(), Ok(()));
        health.turn(Step::Left, vec!["another agent serves".to_owned()]);
        advance(Duration::from_secs(100_000)).await;
        assert_eq!((health.alive(), health.ready()), (Ok(()), Err("another agent serves".to_owned())));
    }

    #[test]
    fn an_address_is_of_tcp_or_a_unix_socket() {
        for (text, good) in [
            ("127.0.0.1:15021", true),
            ("[::]:15021", true),
            ("unix:/run/health.sock", true),
            ("unix:health.sock", false),
            ("15021", false),
            ("localhost:15021", false),
        ] {
            let parsed = text.parse::<HealthAddr>();
            assert_eq!(parsed.is_ok(), good, "{text}");
            assert!(parsed.is_err() || parsed.is_ok_and(|address| address.to_string() == text), "{text}");
        }
    }
}
