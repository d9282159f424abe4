//! What an Envoy says of itself.
//!
//! In: its admin page, at a Unix socket. Out: whether its workers run, at which ports it listens, what it prepares. Never: a change of it.

use std::{collections::BTreeSet, io, path::Path, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, body::Bytes};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether all that it was told at first listens: before, its ports are bound but refuse connections.
pub(super) async fn is_live(page: &Path) -> bool {
    get(page, "/ready").await.is_ok_and(|(status, _)| status == StatusCode::OK)
}

/// The ports of its listeners.
pub(super) async fn ports(page: &Path) -> io::Result<BTreeSet<u16>> {
    let (_, body) = get(page, "/listeners?format=json").await?;
    let listeners: Value = serde_json::from_slice(&body)?;
    let listeners = listeners["listener_statuses"].as_array().into_iter().flatten();
    let port = |listener: &Value| listener["local_address"]["socket_address"]["port_value"].as_u64();
    Ok(listeners.filter_map(port).filter_map(|port| u16::try_from(port).ok()).collect())
}

/// The names of the clusters that it prepares before it uses them, such as by a first resolution of their names.
pub(super) async fn warming(page: &Path) -> io::Result<BTreeSet<String>> {
    let (status, body) =
        get(page, "/config_dump?resource=dynamic_warming_clusters&mask=cluster.name").await?;
    if status != StatusCode::OK {
        return Err(io::Error::other(format!("it answers {status}")));
    }
    let dump: Value = serde_json::from_slice(&body)?;
    let clusters = dump["configs"].as_array().into_iter().flatten();
    let names = clusters.filter_map(|cluster| Some(cluster["cluster"]["name"].as_str()?.to_owned()));
    Ok(names.collect())
}

async fn get(page: &Path, path: &str) -> io::Result<(StatusCode, Bytes)> {
    let answer = async {
        let stream = UnixStream::connect(page).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let request = Request::get(path).header("host", "envoy").body(Empty::<Bytes>::new());
        let request = request.map_err(io::Error::other)?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.collect().await?.to_bytes()))
        };
        tokio::select! {
            answer = exchange => answer.map_err(io::Error::other),
            end = connection => Err(end.err().map_or_else(|| io::ErrorKind::UnexpectedEof.into(), io::Error::other)),
        }
    };
    timeout(PATIENCE, answer).await?
}
