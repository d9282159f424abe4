//! The webhook over TLS.
//!
//! In: connections. Out: answers. Never: a client that holds more than its time and its share: one that hangs is cut off.

use std::{
    convert::Infallible,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::State as Extract,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use hyper::service::{Service as _, service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    counts::{Counts, Verdict},
    review::{self, Unanswerable},
};
use crate::certificates::Issued;

/// The longest review: two versions of an object, which the API server itself takes up to 3 MB of, and some more.
const MAX_BODY: usize = 8 << 20;
/// How many connections there may be; an API server needs few.
const MAX_CONNECTIONS: usize = 256;
/// How many objects are judged at one time.
const AT_ONCE: usize = 4;
/// How long a client may take for the handshake and its first request, and then for each request. The API server itself waits for
/// no answer that long.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may be idle. The API server closes those that are idle for 90 s, so that it never meets one that just ends.
const IDLE: Duration = Duration::from_secs(150);
/// How long answers may take that are under way at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How long nothing is accepted after the machine has refused to.
const PAUSE: Duration = Duration::from_millis(200);

/// The certificate that is shown; clients are turned away while there is none.
#[derive(Default)]
pub(super) struct Shown(RwLock<Option<Arc<CertifiedKey>>>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl Shown {
    /// New connections see this one.
    ///
    /// # Errors
    /// The key cannot be used.
    pub(super) fn show(&self, issued: &Issued) -> Result<(), rustls::Error> {
        let chain = vec![issued.certificate().clone()];
        let key = CertifiedKey::from_der(chain, issued.key(), &ring::default_provider())?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key));
        Ok(())
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What answers.
pub(super) struct Server {
    acceptor: TlsAcceptor,
    router: Router,
}

/// What the answers need.
#[derive(Clone)]
struct Desk {
    counts: Arc<Counts>,
    places: Arc<Semaphore>,
}

impl Server {
    /// One that shows what `shown` has.
    ///
    /// # Errors
    /// The versions of TLS cannot be had.
    pub(super) fn new(shown: Arc<Shown>, counts: Arc<Counts>) -> Result<Self, rustls::Error> {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions()?;
        let mut config = config.with_no_client_auth().with_cert_resolver(shown);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let desk = Desk { counts, places: Arc::new(Semaphore::new(AT_ONCE)) };
        let nothing = || async { (StatusCode::NOT_FOUND, "only /validate is served here\n") };
        let other =
            || async { (StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is to be sent by POST\n") };
        let router = Router::new()
            .route("/validate", post(validate).fallback(other))
            .fallback(nothing)
            .with_state(desk);
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), router })
    }

    /// Serves until `shutdown`, and then what is under way.
    pub(super) async fn run(self, listener: TcpListener, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
            match accepted {
                // One that is not served fails at once, which the API server takes better than one that hangs.
                Ok(_) if connections.len() >= MAX_CONNECTIONS => {
                    tracing::debug!("the webhook has too many clients");
                }
                Ok((stream, _)) => {
                    let (acceptor, router) = (self.acceptor.clone(), self.router.clone());
                    connections.spawn(serve(stream, acceptor, router, shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the webhook accepts no connection");
                    sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
        connections.close();
        // Those that take longer are cut off with the process.
        let _ = timeout(LAST_ANSWERS, connections.wait()).await;
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, router: Router, shutdown: CancellationToken) {
    let stream = match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a client of the webhook does not come through"),
        Err(_) => return tracing::debug!("a client of the webhook hangs"),
    };
    let has_asked = Arc::new(AtomicBool::new(false));
    let service = {
        let (has_asked, router) = (has_asked.clone(), TowerToHyperService::new(router));
        service_fn(move |request| {
            has_asked.store(true, Ordering::Relaxed);
            router.call(request)
        })
    };
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let silent = async {
        sleep(PATIENCE).await;
        if has_asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silent => return tracing::debug!("a client of the webhook asks nothing"),
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the webhook ends");
    }
}

async fn validate(Extract(desk): Extract<Desk>, body: Body) -> Result<Response, Infallible> {
    let malformed = |code: StatusCode, why: String| {
        desk.counts.request(Verdict::Malformed);
        (code, format!("{why}\n")).into_response()
    };
    let judged = timeout(PATIENCE, async {
        let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| {
            let why = format!("the request cannot be read, or has more than {MAX_BODY} bytes: {error}");
            (StatusCode::PAYLOAD_TOO_LARGE, why)
        })?;
        let place = desk.places.clone().acquire_owned().await;
        let judge = move || {
            let _place = place;
            review::answer(&body)
        };
        let failed = |error| (StatusCode::INTERNAL_SERVER_ERROR, format!("no answer was found: {error}"));
        let answer = tokio::task::spawn_blocking(judge).await.map_err(failed)?;
        answer.map_err(|error: Unanswerable| (StatusCode::BAD_REQUEST, error.to_string()))
    });
    Ok(match judged.await {
        Ok(Ok((review, verdict))) => {
            desk.counts.request(verdict);
            Json(review).into_response()
        }
        Ok(Err((code, why))) => malformed(code, why),
        Err(_) => malformed(StatusCode::REQUEST_TIMEOUT, format!("no answer in {} s", PATIENCE.as_secs())),
    })
}

#[cfg(test)]
mod tests;
