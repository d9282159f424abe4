//! One query and the table, to one decision.
//!
//! In: the bytes of a query. Out: the bytes of our reply, or that it is not ours. Never: I/O.

#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, str::FromStr};

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, SOA},
    },
    serialize::binary::{BinDecodable, BinDecoder},
};
use rand::seq::SliceRandom;
use serde::{Serialize, Serializer};

use super::{Client, Found, NameTable};
use crate::{desired::NameView, model::HostName};

/// How long a client may keep one of our answers, or that there is none.
pub const TTL_SECS: u32 = 30;

/// What a client without EDNS takes over UDP, in bytes.
const UDP_SIZE_MIN: u16 = 512;

/// The most that we send or say we take over UDP, in bytes.
const UDP_SIZE_MAX: u16 = 4096;

/// How a query arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: the reply is cut to what the client takes.
    Udp,
    /// In a stream.
    Tcp,
}

/// What to do with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send this.
    Reply(Vec<u8>),
    /// Ask the resolver that the client asked, and give its reply to the client; neither is changed.
    Forward,
    /// Have addresses made for this name, or its backends resolved, wait for them, and decide again.
    Ask(HostName),
    /// Say nothing: this is no query.
    Drop,
}

/// How long a client has waited for a name that gets its addresses on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Not at all.
    NotYet,
    /// Until all was known: a name that has no addresses then will have none.
    ToTheEnd,
    /// For as long as it can be made to.
    TooLong,
}

/// The record types that we answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum QueryType {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    #[serde(rename = "AAAA")]
    Aaaa,
}

impl QueryType {
    fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
        }
    }
}

impl fmt::Display for QueryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for QueryType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_uppercase().as_str() {
            "A" => Ok(Self::A),
            "AAAA" => Ok(Self::Aaaa),
            _ => Err(format!("record type {text:?} is not answered here; ask for A or AAAA")),
        }
    }
}

/// The answer to one query in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The response code. `NOERROR` also when the query is forwarded: what the resolver says is not known here.
    #[serde(serialize_with = "rcode")]
    pub rcode: ResponseCode,
    /// Whether we answer for this name.
    pub authoritative: bool,
    /// The records, in the order of the table; on the wire they are shuffled.
    pub answers: Vec<AnswerRecord>,
    /// Whether the query goes to the resolver that the client asked.
    pub forwarded: bool,
}

/// One record of an [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AnswerRecord {
    /// The name that was asked for, or the name that it is another one of.
    pub name: HostName,
    /// The record's type: `A`, `AAAA` or `CNAME`.
    #[serde(rename = "type")]
    pub record_type: &'static str,
    /// Seconds for which it may be kept.
    pub ttl: u32,
    /// The address or name.
    pub data: AnswerData,
}

/// What an [`AnswerRecord`] says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AnswerData {
    /// Of `A` and `AAAA`.
    Address(IpAddr),
    /// Of `CNAME`.
    Name(HostName),
}

impl fmt::Display for AnswerData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

fn rcode<S: Serializer>(code: &ResponseCode, serializer: S) -> Result<S::Ok, S::Error> {
    match code {
        ResponseCode::NoError => serializer.serialize_str("NOERROR"),
        other => serializer.collect_str(&format_args!("{other:?}")),
    }
}

/// What a client would be told about `name`.
#[must_use]
pub fn query(table: &NameTable, client: Client<'_>, name: &HostName, record_type: QueryType) -> Answer {
    let mut answers = Vec::new();
    let found = match table.lookup(client, name) {
        Found::OnDemand { name, so_far: Some(view), .. } => Found::Ours { name, view },
        Found::OnDemand { so_far: None, .. } => Found::NotOurs,
        found => found,
    };
    if let Found::Ours { name: canonical, view } = &found {
        let record = |name: &HostName, record_type, data| AnswerRecord {
            name: name.clone(),
            record_type,
            ttl: TTL_SECS,
            data,
        };
        if canonical != name {
            answers.push(record(name, "CNAME", AnswerData::Name(canonical.clone())));
        }
        let addresses = addresses(view, record_type).into_iter();
        answers.extend(addresses.map(|a| record(canonical, record_type.as_str(), AnswerData::Address(a))));
    }
    let is_ours = found != Found::NotOurs;
    Answer { rcode: ResponseCode::NoError, authoritative: is_ours, answers, forwarded: !is_ours }
}

/// Decides about the query of a client in `message`.
#[must_use]
pub fn answer(
    table: &NameTable,
    client: Client<'_>,
    transport: Transport,
    message: &[u8],
    waited: Waited,
) -> Decision {
    let mut decoder = BinDecoder::new(message);
    let Ok(header) = Header::read(&mut decoder) else { return Decision::Drop };
    if header.message_type == MessageType::Response {
        return Decision::Drop;
    }
    if header.op_code != OpCode::Query {
        return Decision::Forward;
    }
    match header.counts.queries {
        // Only a query for a server cookie has no question, and that has an OPT record (RFC 7873, 5.4).
        0 if header.counts.additionals > 0 => return Decision::Forward,
        1 => {}
        _ => return refuse(&header, ResponseCode::FormErr, None),
    }
    let Ok(question) = Query::read(&mut decoder) else {
        return refuse(&header, ResponseCode::FormErr, None);
    };
    let record_type = match question.query_type {
        RecordType::A => QueryType::A,
        RecordType::AAAA => QueryType::Aaaa,
        _ => return Decision::Forward,
    };
    if question.query_class != DNSClass::IN {
        return Decision::Forward;
    }
    let Some(name) = host_name(&question.name) else { return Decision::Forward };
    let (name, view) = match (table.lookup(client, &name), waited) {
        (Found::Ours { name, view }, _) => (name, view),
        (Found::OnDemand { host, .. }, Waited::NotYet) => return Decision::Ask(host),
        (Found::OnDemand { name, so_far: Some(view), .. }, _) => (name, view),
        // The resolver was too slow for us: the client asks again, and is not sent past the entry meanwhile.
        (Found::OnDemand { so_far: None, .. }, Waited::TooLong) => {
            return refuse(&header, ResponseCode::ServFail, Some(&question));
        }
        (Found::OnDemand { so_far: None, .. }, Waited::ToTheEnd) | (Found::NotOurs, _) => {
            return Decision::Forward;
        }
    };
    // Only now does the rest matter: of a name that is not ours, the resolver may judge it.
    let Ok(message) = Message::from_vec(message) else {
        return refuse(&header, ResponseCode::FormErr, Some(&question));
    };
    reply(&message, question, &name, &view, record_type, transport)
}

/// A reply to `message` that says only that we could not get an answer; none if it is no query.
#[must_use]
pub fn server_failure(message: &[u8]) -> Option<Vec<u8>> {
    only_code(message, ResponseCode::ServFail)
}

/// A reply to `message` that says only that its sender gets no answer here; none if it is no query.
#[must_use]
pub(super) fn refusal(message: &[u8]) -> Option<Vec<u8>> {
    only_code(message, ResponseCode::Refused)
}

fn only_code(message: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let mut decoder = BinDecoder::new(message);
    let header = Header::read(&mut decoder).ok()?;
    if header.message_type == MessageType::Response {
        return None;
    }
    let question = (header.counts.queries == 1).then(|| Query::read(&mut decoder).ok()).flatten();
    match refuse(&header, code, question.as_ref()) {
        Decision::Reply(reply) => Some(reply),
        Decision::Forward | Decision::Ask(_) | Decision::Drop => None,
    }
}

fn refuse(header: &Header, code: ResponseCode, question: Option<&Query>) -> Decision {
    let mut message = Message::new(header.id, MessageType::Response, header.op_code);
    message.metadata = response_to(&header.metadata);
    message.metadata.response_code = code;
    message.queries.extend(question.cloned());
    encode(&message)
}

fn response_to(query: &Metadata) -> Metadata {
    let mut metadata = Metadata::response_from_request(query);
    metadata.recursion_available = true;
    metadata
}

fn reply(
    query: &Message,
    question: Query,
    canonical: &HostName,
    view: &NameView,
    record_type: QueryType,
    transport: Transport,
) -> Decision {
    let mut message = Message::new(query.id, MessageType::Response, query.op_code);
    message.metadata = response_to(&query.metadata);
    message.metadata.authoritative = true;
    let mut limit = UDP_SIZE_MIN;
    if let Some(asked) = &query.edns {
        limit = asked.max_payload().clamp(UDP_SIZE_MIN, UDP_SIZE_MAX);
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_SIZE_MAX).set_dnssec_ok(asked.flags().dnssec_ok);
        message.set_edns(edns);
        if asked.version() > 0 {
            message.metadata.authoritative = false;
            message.metadata.response_code = ResponseCode::BADVERS;
            message.queries.push(question);
            return encode(&message);
        }
    }
    let mut addresses = addresses(view, record_type);
    addresses.shuffle(&mut rand::rng());
    let name = in_case_of(&question.name, canonical);
    if name.iter().len() != question.name.iter().len() {
        let alias = RData::CNAME(CNAME(name.clone()));
        message.answers.push(Record::from_rdata(question.name.clone(), TTL_SECS, alias));
    }
    if addresses.is_empty() {
        message.authorities.push(authority(&name));
    }
    let record = |address| {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        Record::from_rdata(name.clone(), TTL_SECS, data)
    };
    message.answers.extend(addresses.into_iter().map(record));
    message.queries.push(question);
    let decision = encode(&message);
    if transport == Transport::Tcp || fits(&decision, limit) {
        return decision;
    }
    // As many as fit: a client that does not come back over TCP uses those.
    message.metadata.truncation = true;
    let answers = std::mem::take(&mut message.answers);
    let mut first = |count: usize| {
        message.answers = answers[..count].to_vec();
        encode(&message)
    };
    let counts: Vec<_> = (1..=answers.len()).collect();
    let kept = counts.partition_point(|&count| fits(&first(count), limit));
    first(kept)
}

fn fits(decision: &Decision, limit: u16) -> bool {
    matches!(decision, Decision::Reply(reply) if reply.len() <= usize::from(limit))
}

/// The addresses of the asked family. Empty when the family cannot reach a backend, too.
fn addresses(view: &NameView, record_type: QueryType) -> Vec<IpAddr> {
    let is_asked = |address: &IpAddr| match record_type {
        QueryType::A => address.is_ipv4() && view.answers_v4,
        QueryType::Aaaa => address.is_ipv6() && view.answers_v6,
    };
    view.vips.iter().copied().filter(is_asked).collect()
}

/// What lets a client remember for a short time that the name has nothing of the asked family.
fn authority(name: &Name) -> Record {
    let ttl_secs = TTL_SECS as i32;
    let server = name.clone();
    let soa = SOA::new(server.clone(), server, 1, ttl_secs, ttl_secs, ttl_secs, TTL_SECS);
    Record::from_rdata(name.clone(), TTL_SECS, RData::SOA(soa))
}

/// The first labels of `asked`, which are those of `canonical`, as the client wrote them.
fn in_case_of(asked: &Name, canonical: &HostName) -> Name {
    let count = canonical.as_str().split('.').count();
    // They are no more and no longer than those of a name that was read.
    let mut name = Name::from_labels(asked.iter().take(count)).unwrap_or_else(|_| asked.clone());
    name.set_fqdn(true);
    name
}

/// The name as the table spells it; none for one that no host can have.
fn host_name(name: &Name) -> Option<HostName> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.') {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(*byte)));
    }
    Some(HostName::new(&text))
}

fn encode(message: &Message) -> Decision {
    match message.to_vec() {
        Ok(bytes) => Decision::Reply(bytes),
        // A name that was read can be written, and the rest is ours; the client asks again if this is wrong.
        Err(error) => {
            tracing::debug!(%error, "dns reply not written");
            Decision::Drop
        }
    }
}
