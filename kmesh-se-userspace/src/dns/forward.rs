//! One query to the resolver that the client asked, and its reply back.
//!
//! In: the bytes of a query. Out: the bytes of the reply. Never: a change to either.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Header, MessageType, Query, ResponseCode},
    serialize::binary::{BinDecodable, BinDecoder},
};
use thiserror::Error;
use tokio::net::{TcpStream, UdpSocket};

use super::{Transport, tcp};

/// Why there is no reply.
#[derive(Debug, Error)]
pub(super) enum ForwardError {
    #[error("resolver {upstream} did not answer within {timeout:?}")]
    Timeout { upstream: SocketAddr, timeout: Duration },
    #[error("resolver {upstream} cannot be asked: {source}")]
    Io { upstream: SocketAddr, source: io::Error },
    #[error("resolver {upstream} closed the connection without an answer")]
    Closed { upstream: SocketAddr },
}

impl ForwardError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "Timeout",
            Self::Io { .. } => "Io",
            Self::Closed { .. } => "Closed",
        }
    }
}

/// Asks `upstream` over the transport that the client used.
pub(super) async fn forward(
    transport: Transport,
    upstream: SocketAddr,
    query: &[u8],
    timeout: Duration,
) -> Result<Vec<u8>, ForwardError> {
    match transport {
        Transport::Udp => within(timeout, upstream, udp(upstream, query)).await,
        Transport::Tcp => within(timeout, upstream, stream(upstream, query)).await,
    }?
    .ok_or(ForwardError::Closed { upstream })
}

async fn within(
    timeout: Duration,
    upstream: SocketAddr,
    work: impl Future<Output = io::Result<Option<Vec<u8>>>>,
) -> Result<Option<Vec<u8>>, ForwardError> {
    match tokio::time::timeout(timeout, work).await {
        Ok(done) => done.map_err(|source| ForwardError::Io { upstream, source }),
        Err(_) => Err(ForwardError::Timeout { upstream, timeout }),
    }
}

/// Over a socket of its own: a source port that is hard to guess, and only the resolver can answer to it.
async fn udp(upstream: SocketAddr, query: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let asked = Asked::new(query);
    loop {
        // The large buffer exists only while there is something to read.
        socket.readable().await?;
        let mut reply = vec![0; usize::from(u16::MAX)];
        match socket.try_recv(&mut reply) {
            Ok(length) => {
                reply.truncate(length);
                if asked.is_answered_by(&reply) {
                    reply.shrink_to_fit();
                    return Ok(Some(reply));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn stream(upstream: SocketAddr, query: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut stream = TcpStream::connect(upstream).await?;
    tcp::write(&mut stream, query).await?;
    let asked = Asked::new(query);
    while let Some(reply) = tcp::read(&mut stream).await? {
        if asked.is_answered_by(&reply) {
            return Ok(Some(reply));
        }
    }
    Ok(None)
}

/// Whether `reply` is taken for the answer to `query`, both as they came.
#[must_use]
pub fn is_reply_to(query: &[u8], reply: &[u8]) -> bool {
    Asked::new(query).is_answered_by(reply)
}

/// What a reply must repeat.
struct Asked {
    id: u16,
    /// None when the question cannot be read: then it is for the resolver to judge, and the id must do.
    questions: Option<Vec<Query>>,
}

impl Asked {
    fn new(query: &[u8]) -> Self {
        match head(query) {
            Some((header, questions)) => Self { id: header.id, questions },
            None => Self { id: 0, questions: None },
        }
    }

    fn is_answered_by(&self, reply: &[u8]) -> bool {
        let Some((header, questions)) = head(reply) else { return false };
        if header.id != self.id || header.message_type != MessageType::Response {
            return false;
        }
        match (&self.questions, &questions) {
            (Some(asked), Some(repeated)) if asked == repeated => true,
            // A server that cannot or will not read the question need not repeat it.
            (Some(_), Some(repeated)) => {
                let is_refusal =
                    !matches!(header.response_code, ResponseCode::NoError | ResponseCode::NXDomain);
                repeated.is_empty() && is_refusal && header.counts.answers == 0
            }
            (Some(_), None) => false,
            (None, _) => true,
        }
    }
}

fn head(message: &[u8]) -> Option<(Header, Option<Vec<Query>>)> {
    let mut decoder = BinDecoder::new(message);
    let header = Header::read(&mut decoder).ok()?;
    let questions = (0..header.counts.queries).map(|_| Query::read(&mut decoder)).collect::<Result<_, _>>();
    Some((header, questions.ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::tests::question;
    use hickory_proto::{op::Message, rr::RecordType};

    fn reply(change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message =
            Message::from_vec(&question(7, "a.test.", RecordType::A)).expect("a query").into_response();
        change(&mut message);
        message.to_vec().expect("a reply")
    }

    #[test]
    fn takes_only_a_reply_to_what_was_asked() {
        let asked = Asked::new(&question(7, "a.test.", RecordType::A));
        assert!(asked.is_answered_by(&reply(|_| {})));
        assert!(!asked.is_answered_by(&reply(|message| message.metadata.id = 8)));
        assert!(!asked.is_answered_by(&question(7, "a.test.", RecordType::A)), "a query");
        assert!(!asked.is_answered_by(&reply(|message| message.queries[0].query_type = RecordType::AAAA)));
        assert!(!asked.is_answered_by(&reply(|message| message.queries.clear())));
        let refusal = |message: &mut Message| {
            message.queries.clear();
            message.metadata.response_code = ResponseCode::FormErr;
        };
        assert!(asked.is_answered_by(&reply(refusal)));
        assert!(!asked.is_answered_by(b"\0\x07"));
        let other = question(7, "b.test.", RecordType::A);
        assert!(!Asked::new(&other).is_answered_by(&reply(|_| {})));
    }
}
