//! The command line's side of the admin socket.
//!
//! In: a path and what to ask for. Out: the agent's answer. Never: a wait without an end for an agent that hangs.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    body::{Bytes, Incoming},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time};

use super::AdminError;

/// How long an agent may take for an answer: it may be starting, or be handing over to another.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a request is sent to an agent that closes the connection.
const TRIES: u32 = 4;

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

    /// `GET path`, whose answer is a JSON line after the other, until `take` says that it is enough or the agent stops.
    ///
    /// # Errors
    /// No agent answers, or it answers with an error.
    pub async fn lines<T: DeserializeOwned>(
        &self,
        path: &str,
        mut take: impl FnMut(T) -> bool,
    ) -> Result<(), AdminError> {
        let mut body = self.in_time(self.request(Method::GET, path, &())).await?;
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame.map_err(|e| self.unexpected(e))?.into_data() else { continue };
            text.extend_from_slice(&frame);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let value = serde_json::from_slice(&line).map_err(|e| self.unexpected(e))?;
                if !take(value) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, AdminError> {
        let bytes = self.in_time(async {
            let body = self.request(method, path, body).await?;
            Ok(body.collect().await.map_err(|e| self.unexpected(e))?.to_bytes())
        });
        serde_json::from_slice(&bytes.await?).map_err(|e| self.unexpected(e))
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, AdminError>>) -> Result<T, AdminError> {
        let silent = |_| AdminError::Silent { path: self.path.clone(), patience: PATIENCE };
        time::timeout(PATIENCE, answer).await.map_err(silent)?
    }

    /// The body of an answer that is no error.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Incoming, AdminError> {
        let body = serde_json::to_vec(body).map_err(|e| self.unexpected(e))?;
        let mut tries = 1..TRIES;
        let response = loop {
            match self.try_send(method.clone(), path, &body).await? {
                Ok(response) => break response,
                // The agent closed the connection unread, as it does when it hands over to another, which is asked now.
                Err(error) if is_unanswered(&error) && tries.next().is_some() => {}
                Err(error) => return Err(self.unexpected(error)),
            }
        };
        let status = response.status();
        let body = response.into_body();
        if status.is_success() {
            return Ok(body);
        }
        let bytes = body.collect().await.map_err(|e| self.unexpected(e))?.to_bytes();
        Err(self.unexpected(String::from_utf8_lossy(&bytes)))
    }

    /// One request on a connection of its own.
    async fn try_send(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
    ) -> Result<hyper::Result<hyper::Response<Incoming>>, AdminError> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|error| AdminError::Connect { path: self.path.clone(), error })?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "kmesh-se")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(|e| self.unexpected(e))?;
        let answer = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        Ok(answer.await)
    }

    fn unexpected(&self, error: impl ToString) -> AdminError {
        AdminError::Answer { path: self.path.clone(), message: error.to_string() }
    }
}

fn is_unanswered(error: &hyper::Error) -> bool {
    let is_reset = |error: &(dyn std::error::Error + 'static)| {
        let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        error.downcast_ref::<io::Error>().is_some_and(|error| kinds.contains(&error.kind()))
    };
    error.is_canceled()
        || error.is_incomplete_message()
        || std::error::Error::source(error).is_some_and(is_reset)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_takes_the_connection_and_hangs_is_told_of() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let _listener = UnixListener::bind(&path).expect("a socket");
        let client = AdminClient::new(&path);
        for answer in
            [client.get::<Value>("/status").await.map(drop), client.lines("/trace", |_: Value| true).await]
        {
            let error = answer.expect_err("nobody answers");
            assert!(matches!(error, AdminError::Silent { .. }), "{error}");
            assert!(error.to_string().contains("has not answered for 30 s"), "{error}");
        }
    }
}
