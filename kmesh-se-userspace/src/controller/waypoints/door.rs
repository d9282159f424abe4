//! Where the Envoys of waypoints come in.
//!
//! In: connections, certificates. Out: each connection with the waypoint that its certificate is for. Never: one that shows no certificate of
//! ours.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

use crate::{
    certificates::{Keyring, client_uri},
    model::{Namespace, WaypointName, is_namespace},
};

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many handshakes are under way at one time.
const AT_ONCE: usize = 64;
/// How long nothing is accepted after the machine has refused to.
const PAUSE: Duration = Duration::from_millis(200);
/// What the URI of a client's certificate begins with.
const SCHEME: &str = "spiffe://kmesh-se/ns/";
/// What is between the namespace and the name.
const INFIX: &str = "/waypoint/";

/// The URI of the certificate that is for this waypoint's Envoys.
pub(super) fn uri(waypoint: &WaypointName) -> String {
    format!("{SCHEME}{}{INFIX}{}", waypoint.namespace, waypoint.name)
}

/// The waypoint that the URI of a certificate is for.
fn waypoint(uri: &str) -> Option<WaypointName> {
    let (namespace, name) = uri.strip_prefix(SCHEME)?.split_once(INFIX)?;
    let is_name = is_namespace(namespace) && !name.is_empty() && !name.contains('/');
    is_name.then(|| WaypointName { namespace: Namespace::new(namespace), name: name.into() })
}

/// Which certificates are shown and trusted; nobody comes in while there are none.
#[derive(Default)]
pub(super) struct Keys(RwLock<Option<Arc<ServerConfig>>>);

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    #[error("the controller's certificate cannot be shown: {0}")]
    Show(#[from] rustls::Error),
    #[error("the authorities of waypoints' certificates cannot be trusted: {0}")]
    Trust(#[from] VerifierBuilderError),
}

impl Keys {
    /// New connections are served with these.
    ///
    /// # Errors
    /// They cannot be used.
    pub(super) fn set(&self, keyring: &Keyring) -> Result<(), KeysError> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in keyring.authorities() {
            roots.add(authority.certificate().clone())?;
        }
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let serving = keyring.serving();
        let chain = vec![serving.certificate().clone()];
        let mut config = config.with_client_cert_verifier(clients).with_single_cert(chain, serving.key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
        Ok(())
    }

    fn acceptor(&self) -> Option<TlsAcceptor> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone().map(TlsAcceptor::from)
    }
}

/// The connection of an Envoy.
pub(super) struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Lets Envoys in for as long as somebody takes them.
pub(super) async fn keep(listener: &TcpListener, keys: &Keys, out: mpsc::Sender<(WaypointName, Connection)>) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = handshakes.join_next() => {}
            () = out.closed() => return,
            accepted = listener.accept(), if handshakes.len() < AT_ONCE => match accepted {
                Ok((stream, from)) => {
                    // Without a certificate of ours, it is turned away at once.
                    let Some(acceptor) = keys.acceptor() else { continue };
                    handshakes.spawn(come_in(acceptor, stream, from, out.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection of a waypoint cannot be accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn come_in(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    from: SocketAddr,
    out: mpsc::Sender<(WaypointName, Connection)>,
) {
    // Small answers are not held back.
    drop(stream.set_nodelay(true));
    let stream = match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::warn!(%from, %error, "a client of the waypoints' server is turned away");
            return;
        }
        Err(_) => return,
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let uri = certificates.and_then(|all| all.first()).and_then(client_uri);
    match uri.as_deref().and_then(waypoint) {
        // Nobody takes it when this controller leads no more.
        Some(waypoint) => drop(out.send((waypoint, Connection(stream))).await),
        None => {
            tracing::warn!(%from, ?uri, "a client of the waypoints' server has a certificate for no waypoint")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_for_one_waypoint() {
        let name = WaypointName { namespace: Namespace::new("shop"), name: "way".into() };
        assert_eq!(waypoint(&uri(&name)), Some(name));
        for other in [
            "",
            "spiffe://kmesh-se/ns/shop",
            "spiffe://kmesh-se/ns/shop/waypoint/",
            "spiffe://kmesh-se/ns//waypoint/a",
            "spiffe://other/ns/shop/waypoint/way",
            "spiffe://kmesh-se/ns/shop/sa/way",
            "spiffe://kmesh-se/ns/shop/waypoint/a/b",
        ] {
            assert_eq!(waypoint(other), None, "{other}");
        }
    }
}
