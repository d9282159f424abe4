//! The server over real sockets, with a real DNS server behind it; and what the room's tests share.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};

use tokio::sync::mpsc;

use super::*;
use crate::{
    desired::{Few, NameEntry, NameView, Scope},
    model::{HostName, Kind, Namespace, ObjectRef},
    testing::{Dnsmasq, PATIENCE, free_block, free_port},
};

pub(super) fn view(vips: &[&str]) -> NameView {
    let entry = ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::default(), name: "entry".into() };
    let vips = vips.iter().map(|text| text.parse().expect("an address")).collect();
    NameView {
        vips,
        answers_v4: true,
        answers_v6: true,
        entry,
        from_names: false,
        waits: false,
        on_demand: false,
    }
}

pub(super) fn entry(vips: &[&str]) -> NameEntry {
    NameEntry { views: Few::from([(Scope::Mesh, view(vips))]), is_complete: true }
}

/// The same with backends that come from names.
pub(super) fn resolved(vips: &[&str]) -> NameEntry {
    let mut entry = entry(vips);
    entry.views.values_mut().for_each(|view| view.from_names = true);
    entry
}

/// An entry that only the clients of `namespace` see.
pub(super) fn only_for(namespace: &str, vips: &[&str]) -> NameEntry {
    let views = Few::from([(Scope::Namespace(Namespace::new(namespace)), view(vips))]);
    NameEntry { views, is_complete: true }
}

pub(super) fn message(id: u16, name: &str, record_type: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    // Label by label: a query may hold what the text form of a name may not. A `~` stands for a dot.
    let labels = name.split('.').filter(|label| !label.is_empty()).map(|label| label.replace('~', "."));
    let labels: Vec<_> = labels.map(String::into_bytes).collect();
    let mut name = Name::from_labels(labels.iter().map(Vec::as_slice)).expect("a name");
    name.set_fqdn(true);
    message.add_query(Query::query(name, record_type));
    message
}

pub(super) fn question(id: u16, name: &str, record_type: RecordType) -> Vec<u8> {
    message(id, name, record_type).to_vec().expect("a query")
}

pub(super) fn addresses(reply: &Message) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = reply
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        })
        .collect();
    addresses.sort();
    addresses
}

mod bytes;
mod demand;
mod handover;
mod ports;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn listen_at(addresses: &[SocketAddr]) -> DnsListen {
    DnsListen::new(addresses).expect("good addresses")
}

/// A server for resolvers, which listens for the namespace `default`.
struct Bench {
    server: DnsServer,
    table: Arc<NameTable>,
    clients: Arc<Clients>,
    address: SocketAddr,
    asked: mpsc::Receiver<Ask>,
}

/// Where asks go that nobody reads.
fn nobody() -> mpsc::Sender<Ask> {
    mpsc::channel(1).0
}

impl Bench {
    async fn new(upstreams: Vec<SocketAddr>) -> Self {
        let config = DnsConfig { forward_timeout: Duration::from_secs(3), ..DnsConfig::default() };
        Self::with(upstreams, config).await
    }

    async fn with(upstreams: Vec<SocketAddr>, config: DnsConfig) -> Self {
        let table = Arc::new(NameTable::default());
        table.set(HostName::new("ours.test"), Some(entry(&["240.240.0.1", "2001:2::1"])));
        let address = free_block(32);
        let (asks, asked) = mpsc::channel(16);
        let clients = Arc::default();
        let server = DnsServer::new(
            listen_at(&[address]),
            upstreams,
            Arc::clone(&table),
            Arc::clone(&clients),
            asks,
            config,
        )
        .expect("a server");
        let port = server.listen(Namespace::default()).expect("listen");
        assert_eq!(port, address.port());
        Self { server, table, clients, address, asked }
    }

    async fn udp(&self, query: &[u8]) -> Vec<u8> {
        udp(self.address, query).await
    }

    async fn tcp(&self, query: &[u8]) -> Vec<u8> {
        tcp(self.address, vec![query.to_vec()]).await.remove(0)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the client ends")
}

async fn udp(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let query = query.to_vec();
    blocking(move || {
        let own: IpAddr = if server.is_ipv4() { LOOPBACK } else { Ipv6Addr::LOCALHOST.into() };
        let socket = UdpSocket::bind((own, 0)).expect("a socket");
        socket.connect(server).expect("connect");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send(&query).expect("send");
        let mut reply = vec![0; 65_535];
        let length = socket.recv(&mut reply).expect("a reply");
        reply.truncate(length);
        reply
    })
    .await
}

/// Sends all queries at once over one connection, and gives the replies in the order in which they came.
async fn tcp(server: SocketAddr, queries: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    blocking(move || {
        let mut stream = TcpStream::connect(server).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        for query in &queries {
            let length = u16::try_from(query.len()).expect("a short query");
            stream.write_all(&length.to_be_bytes()).expect("send");
            stream.write_all(query).expect("send");
        }
        let mut receive = || {
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("a length");
            let mut reply = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut reply).expect("a reply");
            reply
        };
        queries.iter().map(|_| receive()).collect()
    })
    .await
}

fn parse(reply: &[u8]) -> Message {
    Message::from_vec(reply).expect("a readable reply")
}

#[tokio::test]
async fn refuses_who_is_no_client_and_forwards_who_was_one() {
    let upstream = Dnsmasq::start("192.0.2.1 ours.test\n192.0.2.2 a.test\n");
    let bench = Bench::new(vec![upstream.address()]).await;
    let query = question(7, "ours.test.", RecordType::A);
    let own = addresses(&parse(&bench.udp(&query).await));
    assert_eq!(own, ["240.240.0.1".parse::<IpAddr>().expect("an address")]);

    let mut table = ClientTable::default();
    table.forward(LOOPBACK, &Namespace::default());
    bench.clients.set(table);
    for reply in [bench.udp(&query).await, bench.tcp(&query).await] {
        assert_eq!(addresses(&parse(&reply)), ["192.0.2.1".parse::<IpAddr>().expect("an address")]);
    }
    bench.clients.set(ClientTable::default());
    for query in [query.clone(), question(7, "a.test.", RecordType::A)] {
        for reply in [bench.udp(&query).await, bench.tcp(&query).await] {
            assert_eq!(reply[12..], query[12..], "the question as it was asked");
            let reply = parse(&reply);
            assert_eq!((reply.id, reply.response_code), (7, ResponseCode::Refused));
        }
    }
    // A search list of its own.
    let mut table = ClientTable::default();
    table.serve(LOOPBACK, &Namespace::default(), &[HostName::new("own.test")]);
    bench.clients.set(table);
    let searched = parse(&bench.udp(&question(7, "ours.test.own.test.", RecordType::A)).await);
    assert!(addresses(&searched).contains(&own[0]), "{searched:?}");
    let stats = bench.server.stats();
    assert_eq!((stats.queries, stats.answered, stats.forwarded, stats.refused), (8, 2, 2, 4));
}

#[tokio::test]
async fn answers_our_name_over_both_transports() {
    let bench = Bench::new(vec![free_port()]).await;
    let query = question(77, "Ours.Test.", RecordType::A);
    for reply in [bench.udp(&query).await, bench.tcp(&query).await] {
        let reply = parse(&reply);
        assert_eq!((reply.id, reply.authoritative), (77, true));
        assert_eq!(addresses(&reply), ["240.240.0.1".parse::<IpAddr>().expect("an address")]);
    }
    let stats = bench.server.stats();
    assert_eq!((stats.queries, stats.answered, stats.forwarded), (2, 2, 0));
}

#[tokio::test]
async fn gives_the_resolvers_replies_unchanged() {
    let many: String = (1..=60).map(|host| format!("192.0.2.{host} many.test\n")).collect();
    let text =
        format!("--txt-record=text.test,{}", ["x".repeat(250), "y".repeat(250), "z".repeat(250)].join(","));
    let upstream = Dnsmasq::start_with(
        &format!("192.0.2.1 one.test\n2001:db8::1 one.test\n{many}"),
        &[&text, "--cname=alias.test,one.test"],
    );
    let bench = Bench::new(vec![upstream.address()]).await;
    let mut with_edns = message(9, "text.test.", RecordType::TXT);
    with_edns.set_edns(Edns::new());
    let mut update = message(10, "one.test.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    let cases = [
        ("an address", question(1, "one.test.", RecordType::A)),
        ("in the client's case", question(2, "ONE.tesT.", RecordType::AAAA)),
        ("an alias", question(3, "alias.test.", RecordType::A)),
        ("no such name", question(4, "missing.test.", RecordType::A)),
        ("no such type", question(5, "one.test.", RecordType::MX)),
        ("refused", question(6, "elsewhere.example.", RecordType::A)),
        ("another type of our name", question(7, "ours.test.", RecordType::HTTPS)),
        ("too large for a datagram", question(8, "text.test.", RecordType::TXT)),
        ("EDNS", with_edns.to_vec().expect("a query")),
        ("another opcode", update.to_vec().expect("an update")),
    ];
    for (what, query) in &cases {
        assert_eq!(bench.udp(query).await, udp(upstream.address(), query).await, "{what}");
        let direct = tcp(upstream.address(), vec![query.clone()]).await;
        assert_eq!(bench.tcp(query).await, direct[0], "{what} over TCP");
    }
    assert!(parse(&bench.udp(&cases[7].1).await).truncation);
    assert_eq!(parse(&bench.tcp(&cases[7].1).await).answers.len(), 1);
    assert_eq!(parse(&bench.udp(&cases[3].1).await).response_code, ResponseCode::NXDomain);
    // The order of these rotates from query to query.
    let query = question(11, "many.test.", RecordType::A);
    assert!(parse(&bench.udp(&query).await).truncation);
    assert_eq!(parse(&bench.tcp(&query).await).answers.len(), 60);
    let stats = bench.server.stats();
    assert_eq!(stats.forwarded, stats.queries, "{stats:?}");
}

#[tokio::test]
async fn asks_the_resolver_that_the_port_stands_for() {
    let first = Dnsmasq::start("192.0.2.1 a.test\n");
    let second = Dnsmasq::start("192.0.2.2 a.test\n");
    let bench = Bench::new(vec![first.address(), second.address()]).await;
    let query = question(1, "a.test.", RecordType::A);
    for (offset, expected) in [(0, "192.0.2.1"), (1, "192.0.2.2")] {
        let port = SocketAddr::new(LOOPBACK, bench.address.port() + offset);
        let reply = parse(&udp(port, &query).await);
        assert_eq!(addresses(&reply), [expected.parse::<IpAddr>().expect("an address")]);
    }
}

#[tokio::test]
async fn takes_several_queries_over_one_connection() {
    let upstream = Dnsmasq::start("192.0.2.1 a.test\n");
    let bench = Bench::new(vec![upstream.address()]).await;
    let queries: Vec<_> = (0..40)
        .map(|id| question(id, if id % 2 == 0 { "a.test." } else { "ours.test." }, RecordType::A))
        .collect();
    let replies = tcp(bench.address, queries).await;
    let mut ids: Vec<_> = replies.iter().map(|reply| parse(reply).id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..40).collect::<Vec<_>>());
    assert!(replies.iter().all(|reply| parse(reply).answers.len() == 1));
}

#[tokio::test]
async fn says_servfail_when_the_resolver_is_silent_or_dead() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket that never answers");
    let silent_address = silent.local_addr().expect("its address");
    let _silent_stream = std::net::TcpListener::bind(silent_address);
    let timeout = Duration::from_millis(200);
    let config = DnsConfig { forward_timeout: timeout, ..DnsConfig::default() };
    let bench = Bench::with(vec![silent_address, free_port()], config).await;
    let dead = SocketAddr::new(LOOPBACK, bench.address.port() + 1);
    let query = question(5, "Away.test.", RecordType::A);
    let asked = Instant::now();
    let mut replies = vec![bench.udp(&query).await, bench.tcp(&query).await];
    assert!(asked.elapsed() >= timeout, "silence is not an error before its time");
    replies.extend([udp(dead, &query).await, tcp(dead, vec![query.clone()]).await.remove(0)]);
    for reply in replies {
        assert_eq!(reply[12..], query[12..], "the question as it was asked");
        let reply = parse(&reply);
        assert_eq!((reply.id, reply.response_code), (5, ResponseCode::ServFail));
    }
    assert_eq!(bench.server.stats().failed_upstream, 4);
    // And nothing of this keeps our own names from being answered.
    assert_eq!(parse(&bench.udp(&question(6, "ours.test.", RecordType::A)).await).answers.len(), 1);
}

#[tokio::test]
async fn says_servfail_at_once_beyond_the_limit() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket that never answers");
    let config =
        DnsConfig { max_forwards: 1, forward_timeout: Duration::from_secs(60), ..DnsConfig::default() };
    let bench = Bench::with(vec![silent.local_addr().expect("its address")], config).await;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    client.send_to(&question(1, "a.test.", RecordType::A), bench.address).expect("send");
    silent.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    blocking(move || silent.recv(&mut [0; 512]).map(|_| silent)).await.expect("the first query is under way");
    let reply = parse(&bench.udp(&question(2, "b.test.", RecordType::A)).await);
    assert_eq!((reply.id, reply.response_code), (2, ResponseCode::ServFail));
    assert_eq!(bench.server.stats().overloaded, 1);
}

#[tokio::test]
async fn ignores_replies_to_other_questions() {
    let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a resolver");
    let bench = Bench::new(vec![upstream.local_addr().expect("its address")]).await;
    let query = question(1, "a.test.", RecordType::A);
    let right = {
        let mut reply = parse(&query).into_response();
        reply.metadata.response_code = ResponseCode::NotImp;
        reply.to_vec().expect("a reply")
    };
    let sent = right.clone();
    let resolver = tokio::task::spawn_blocking(move || {
        upstream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut buffer = [0; 512];
        let (length, forwarder) = upstream.recv_from(&mut buffer).expect("the query");
        let other =
            |id, name| parse(&question(id, name, RecordType::A)).into_response().to_vec().expect("a reply");
        let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("another socket");
        stranger.send_to(&other(1, "a.test."), forwarder).expect("send");
        for wrong in [other(2, "a.test."), other(1, "b.test."), buffer[..length].to_vec(), vec![1, 2, 3]] {
            upstream.send_to(&wrong, forwarder).expect("send");
        }
        upstream.send_to(&sent, forwarder).expect("send");
        buffer[..length].to_vec()
    });
    assert_eq!(bench.udp(&query).await, right);
    assert_eq!(resolver.await.expect("the resolver ends"), query, "forwarded as it was sent");
}

#[tokio::test]
async fn answers_a_client_that_asks_again_while_the_resolver_thinks() {
    let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a resolver");
    upstream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let bench = Bench::new(vec![upstream.local_addr().expect("its address")]).await;
    let address = bench.address;
    let replies = blocking(move || {
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client.connect(address).expect("connect");
        let query = question(1, "a.test.", RecordType::A);
        let mut buffer = [0; 512];
        let mut forwarders = Vec::new();
        for _ in 0..2 {
            client.send(&query).expect("send");
            forwarders.push(upstream.recv_from(&mut buffer).expect("the query").1);
        }
        assert_ne!(forwarders[0], forwarders[1], "a source port of its own for each");
        let reply = parse(&query).into_response().to_vec().expect("a reply");
        for forwarder in forwarders {
            upstream.send_to(&reply, forwarder).expect("send");
        }
        (0..2)
            .map(|_| {
                let length = client.recv(&mut buffer).expect("a reply");
                buffer[..length] == reply
            })
            .collect::<Vec<_>>()
    })
    .await;
    assert_eq!(replies, [true, true]);
}

#[tokio::test]
async fn answers_each_namespace_by_its_own_view() {
    let upstream = Dnsmasq::start("192.0.2.9 ours.test\n");
    let bench = Bench::new(vec![upstream.address()]).await;
    bench.table.set(HostName::new("ours.test"), Some(only_for("default", &["240.240.0.1"])));
    let port = bench.server.listen(Namespace::new("outside")).expect("listen");
    assert_ne!(port, bench.address.port());
    assert_eq!(bench.server.listen(Namespace::new("outside")).expect("listen"), port);
    let query = question(1, "ours.test.", RecordType::A);
    let inside = parse(&bench.udp(&query).await);
    let outside = parse(&udp(SocketAddr::new(LOOPBACK, port), &query).await);
    assert_eq!(addresses(&inside), ["240.240.0.1".parse::<IpAddr>().expect("an address")]);
    assert_eq!(addresses(&outside), ["192.0.2.9".parse::<IpAddr>().expect("an address")]);
}

#[tokio::test]
async fn counts_garbage_and_lives_on() {
    let bench = Bench::new(vec![free_port()]).await;
    let reply = bench.udp(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\xff").await;
    assert_eq!(parse(&reply).response_code, ResponseCode::FormErr);
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    client.send_to(b"short", bench.address).expect("send");
    client
        .send_to(
            &parse(&question(1, "ours.test.", RecordType::A)).into_response().to_vec().expect("a reply"),
            bench.address,
        )
        .expect("send");
    assert_eq!(parse(&bench.udp(&question(6, "ours.test.", RecordType::A)).await).answers.len(), 1);
    let stats = bench.server.stats();
    assert_eq!((stats.queries, stats.malformed, stats.dropped, stats.answered), (4, 1, 2, 1));
}

#[tokio::test]
async fn closes_idle_connections_and_those_beyond_the_limit() {
    let config =
        DnsConfig { max_connections: 1, tcp_idle: Duration::from_millis(200), ..DnsConfig::default() };
    let bench = Bench::with(vec![free_port()], config).await;
    let address = bench.address;
    let ends = move || {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        move || stream.read(&mut [0; 16])
    };
    let first = ends();
    // They are accepted in the order in which they came.
    let second = ends();
    assert_eq!(blocking(second).await.expect("closed"), 0);
    assert_eq!(blocking(first).await.expect("closed"), 0);
    assert_eq!(bench.server.stats().refused_connections, 1);
}

#[tokio::test]
async fn beats_while_it_serves() {
    let bench = Bench::new(vec![free_port()]).await;
    let first = bench.server.last_beat().expect("a beat");
    let started = Instant::now();
    while bench.server.last_beat().is_none_or(|beat| beat <= first) {
        assert!(started.elapsed() < PATIENCE, "no second beat");
        tokio::task::yield_now().await;
    }
}
