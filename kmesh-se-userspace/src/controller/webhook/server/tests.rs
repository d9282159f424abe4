//! Clients of all kinds, over real connections.

use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::certificates::{Keyring, Policy};

const HOST: &str = "127.0.0.1";

/// A server, and what its clients trust.
struct Stage {
    address: std::net::SocketAddr,
    shown: Arc<Shown>,
    counts: Arc<Counts>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn stage() -> Stage {
    let listener = TcpListener::bind((HOST, 0)).await.expect("an address");
    let address = listener.local_addr().expect("an address");
    let (shown, counts) = (Arc::new(Shown::default()), Arc::new(Counts::default()));
    counts.start();
    let server = Server::new(shown.clone(), counts.clone()).expect("TLS");
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(server.run(listener, shutdown.clone()));
    Stage { address, shown, counts, shutdown, task }
}

fn keyring() -> Keyring {
    let policy = Policy { hosts: vec![HOST.to_owned()], lifetime: Duration::from_secs(3600) };
    Keyring::next(None, Timestamp::now(), &policy, false).expect("made").expect("one")
}

impl Stage {
    /// What the server says to `text`, sent by who trusts `keyring`.
    async fn ask(&self, keyring: &Keyring, text: &str) -> std::io::Result<String> {
        use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};

        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(keyring.bundle().as_bytes()) {
            roots.add(root.expect("PEM")).expect("an authority");
        }
        let config = rustls::ClientConfig::builder_with_provider(ring::default_provider().into());
        let config = config.with_safe_default_protocol_versions().expect("TLS");
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(HOST).expect("an address");
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        Ok(said)
    }

    fn count(&self, verdict: &str) -> String {
        let mut text = String::new();
        self.counts.write(&mut text);
        let line = text.lines().find_map(|line| line.split_once(&format!("\"{verdict}\"}} ")));
        line.expect("a row").1.to_owned()
    }
}

fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn review() -> String {
    let review = serde_json::json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "r-1", "operation": "CREATE", "name": "e", "namespace": "n", "userInfo": {},
            "kind": {"group": "networking.istio.io", "version": "v1", "kind": "ServiceEntry"},
            "resource": {"group": "networking.istio.io", "version": "v1", "resource": "serviceentries"},
            "object": {"metadata": {"name": "e"}, "spec": {"hosts": []}},
        },
    });
    request("POST", "/validate", &review.to_string())
}

#[tokio::test]
async fn reviews_are_answered_by_whatever_certificate_is_shown_last() {
    let stage = stage().await;
    let (one, two) = (keyring(), keyring());
    assert!(stage.ask(&one, &review()).await.is_err(), "no certificate yet");
    for (shown, other) in [(&one, &two), (&two, &one)] {
        stage.shown.show(shown.serving()).expect("shown");
        let said = stage.ask(shown, &review()).await.expect("an answer");
        assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("spec.hosts"), "{said}");
        assert!(stage.ask(other, &review()).await.is_err());
    }
    assert_eq!(stage.count("refused"), "2");
    stage.shutdown.cancel();
    stage.task.await.expect("it ends");
    assert!(TcpStream::connect(stage.address).await.is_err());
}

#[tokio::test]
async fn who_sends_something_else_is_told_and_harms_nobody() {
    let (stage, keyring) = (stage().await, keyring());
    stage.shown.show(keyring.serving()).expect("shown");
    let mut plain = TcpStream::connect(stage.address).await.expect("accepted");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let mut said = Vec::new();
    // An alert, or just the end.
    let _ = plain.read_to_end(&mut said).await;
    for (text, wanted) in [
        (request("POST", "/validate", "garbage"), ("400", "no AdmissionReview")),
        (request("GET", "/validate", ""), ("405", "by POST")),
        (request("POST", "/other", ""), ("404", "/validate")),
        ("garbage\r\n\r\n".to_owned(), ("400", "")),
        (review(), ("200", "r-1")),
    ] {
        let said = stage.ask(&keyring, &text).await.expect("an answer");
        assert!(
            said.starts_with(&format!("HTTP/1.1 {} ", wanted.0)) && said.contains(wanted.1),
            "{text}: {said}"
        );
    }
    assert_eq!(stage.count("malformed"), "1");
    let desk = Desk { counts: stage.counts.clone(), places: Arc::new(Semaphore::new(1)) };
    let Ok(said) = validate(Extract(desk), Body::from(vec![b' '; MAX_BODY + 1])).await;
    assert_eq!(said.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn who_hangs_is_cut_off_and_others_fail_at_once_when_too_many_do() {
    let (stage, keyring) = (stage().await, keyring());
    stage.shown.show(keyring.serving()).expect("shown");
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(stage.address).await.expect("accepted"));
    }
    let refused = timeout(Duration::from_secs(5), stage.ask(&keyring, &review())).await.expect("at once");
    assert!(refused.is_err());
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).await.unwrap_or_default(), 0);
    }
    let took = began.elapsed();
    assert!(took >= PATIENCE / 2 && took <= PATIENCE * 2, "{took:?}");
    tokio::time::resume();
    let said = stage.ask(&keyring, &review()).await.expect("an answer");
    assert!(said.contains("r-1"), "{said}");
}
