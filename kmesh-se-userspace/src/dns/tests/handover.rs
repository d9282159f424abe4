//! Two families, endings, and a second server on the same sockets.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const LIMIT: Duration = Duration::from_secs(1);

fn table() -> Arc<NameTable> {
    let table = NameTable::default();
    table.set(HostName::new("ours.test"), Some(entry(&["240.240.0.1", "2001:2::1"])));
    Arc::new(table)
}

fn server(listen: &[SocketAddr], upstreams: &[SocketAddr]) -> DnsServer {
    DnsServer::new(
        listen_at(listen),
        upstreams.to_vec(),
        table(),
        Arc::default(),
        nobody(),
        DnsConfig::default(),
    )
    .expect("a server")
}

/// A resolver that is asked, but answers only when the test lets it.
fn slow_resolver() -> UdpSocket {
    let socket = UdpSocket::bind((LOOPBACK, 0)).expect("a resolver");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

#[tokio::test]
async fn serves_each_resolver_at_the_listener_of_its_family() {
    let block = free_block(32);
    let (v4, v6) = (block, SocketAddr::new(V6, block.port()));
    let resolver = SocketAddr::new(V6, free_port().port());
    let server = server(&[v4, v6], &[free_port(), resolver]);
    assert_eq!(server.listen(Namespace::default()).expect("listen"), block.port());
    let query = question(1, "ours.test.", RecordType::A);
    assert_eq!(parse(&udp(v4, &query).await).answers.len(), 1);
    let second = SocketAddr::new(V6, block.port() + 1);
    assert_eq!(parse(&udp(second, &query).await).answers.len(), 1);
    assert_eq!(parse(&tcp(second, vec![query]).await[0]).answers.len(), 1);
    // Where no query can be led to, nobody listens.
    for free in [SocketAddr::new(LOOPBACK, second.port()), v6] {
        UdpSocket::bind(free).expect("free");
    }
    assert_eq!(server.last_port(), second.port());
}

#[tokio::test]
async fn a_block_is_free_only_if_it_is_on_both_families() {
    let block = free_block(32);
    let (v4, v6) = (block, SocketAddr::new(V6, block.port()));
    let resolver = SocketAddr::new(V6, free_port().port());
    let server = server(&[v4, v6], &[free_port(), resolver]);
    server.listen(Namespace::default()).expect("listen");
    let _taken = UdpSocket::bind((V6, block.port() + 3)).expect("take a port of the second block");
    let port = server.listen(Namespace::new("other")).expect("listen");
    assert_eq!(port, block.port() + 4);
}

#[tokio::test]
async fn refuses_listeners_to_which_no_resolver_leads() {
    let resolvers = vec![SocketAddr::new(V6, 53)];
    let refused = DnsServer::new(
        listen_at(&[free_port()]),
        resolvers,
        table(),
        Arc::default(),
        nobody(),
        DnsConfig::default(),
    );
    let error = refused.err().expect("no resolver can be captured");
    assert_eq!(error.reason(), "NoCommonFamily");
    assert!(error.to_string().contains("[::1]:53"), "{error}");
}

#[tokio::test]
async fn answers_what_was_asked_before_it_closes() {
    let resolver = slow_resolver();
    let address = free_block(1);
    let server = server(&[address], &[resolver.local_addr().expect("its address")]);
    server.listen(Namespace::default()).expect("listen");
    let query = question(1, "away.test.", RecordType::A);
    let asked = [
        tokio::spawn({
            let query = query.clone();
            async move { udp(address, &query).await }
        }),
        // A client that has connected, and asks only while the server closes.
        tokio::task::spawn_blocking({
            let query = question(2, "ours.test.", RecordType::A);
            move || {
                let mut stream = TcpStream::connect(address).expect("connect");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let mut framed = u16::try_from(query.len()).expect("short").to_be_bytes().to_vec();
                framed.extend(query);
                stream.write_all(&framed).expect("send");
                let mut length = [0; 2];
                stream.read_exact(&mut length).expect("a length");
                let mut reply = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut reply).expect("a reply");
                reply
            }
        }),
    ];
    let reply = parse(&query).into_response().to_vec().expect("a reply");
    let (resolver, forwarder) = blocking(move || {
        let (_, forwarder) = resolver.recv_from(&mut [0; 512]).expect("the query");
        (resolver, forwarder)
    })
    .await;
    let closing = async {
        let began = Instant::now();
        server.close(Farewell::Drain, PATIENCE).await;
        assert!(began.elapsed() < PATIENCE, "it closes when all is answered");
    };
    let answering = async {
        resolver.send_to(&reply, forwarder).expect("send");
        let [first, second] = asked;
        assert_eq!(first.await.expect("the client ends"), reply);
        assert_eq!(parse(&second.await.expect("the client ends")).answers.len(), 1);
    };
    tokio::join!(closing, answering);
    assert_eq!(server.last_beat(), None);
    UdpSocket::bind(address).expect("the port is free");
}

#[tokio::test]
async fn drops_what_takes_longer_than_the_limit() {
    let resolver = slow_resolver();
    let address = free_block(1);
    let server = server(&[address], &[resolver.local_addr().expect("its address")]);
    server.listen(Namespace::default()).expect("listen");
    let client = UdpSocket::bind((LOOPBACK, 0)).expect("a client");
    client.send_to(&question(1, "away.test.", RecordType::A), address).expect("send");
    blocking(move || resolver.recv(&mut [0; 512]).map(|_| resolver)).await.expect("the query is under way");
    let began = Instant::now();
    server.close(Farewell::Drain, LIMIT).await;
    assert!((LIMIT..PATIENCE).contains(&began.elapsed()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_takes_the_sockets_over_and_no_query_is_lost() {
    let address = free_block(1);
    let old = server(&[address], &[free_port()]);
    old.listen(Namespace::default()).expect("listen");
    let other = old.listen(Namespace::new("other")).expect("listen");
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let done = Arc::clone(&done);
            tokio::spawn(async move {
                let query = question(number, "ours.test.", RecordType::A);
                let mut asked = 0;
                while !done.load(Ordering::Relaxed) || asked < 50 {
                    let reply = if number == 0 {
                        tcp(address, vec![query.clone()]).await.remove(0)
                    } else {
                        udp(address, &query).await
                    };
                    assert_eq!(parse(&reply).answers.len(), 1);
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    let mut servers = vec![old];
    for _ in 0..3 {
        let old = servers.pop().expect("a server");
        let mut new = server(&[address], &[free_port()]);
        let adopted = new.adopt(old.hand_over().expect("descriptors")).expect("adopt");
        assert_eq!(adopted, [(Namespace::default(), address.port()), (Namespace::new("other"), other)]);
        new.begin();
        old.close(Farewell::Leave, LIMIT).await;
        let before = new.stats().queries;
        let began = Instant::now();
        while new.stats().queries == before {
            assert!(began.elapsed() < PATIENCE, "the new server got no query");
            tokio::task::yield_now().await;
        }
        servers.push(new);
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.expect("every query was answered") >= 50);
    }
}

#[tokio::test]
async fn adopted_sockets_are_read_only_after_the_beginning() {
    let address = free_block(1);
    let old = server(&[address], &[free_port()]);
    old.listen(Namespace::default()).expect("listen");
    let mut new = server(&[address], &[free_port()]);
    new.adopt(old.hand_over().expect("descriptors")).expect("adopt");
    old.close(Farewell::Leave, LIMIT).await;
    drop(old);
    let query = question(1, "ours.test.", RecordType::A);
    let waiting = tokio::spawn(async move { udp(address, &query).await });
    assert_eq!(new.stats().queries, 0);
    new.begin();
    assert_eq!(parse(&waiting.await.expect("answered")).answers.len(), 1);
}

#[tokio::test]
async fn a_block_that_no_longer_fits_gets_another_place() {
    let address = free_block(32);
    let old = server(&[address], &[free_port()]);
    old.listen(Namespace::default()).expect("listen");
    let other = old.listen(Namespace::new("other")).expect("listen");
    assert_eq!(other, address.port() + 1);
    // With two resolvers a block is longer, and runs into the next one.
    let mut new = server(&[address], &[free_port(), free_port()]);
    let adopted = new.adopt(old.hand_over().expect("descriptors")).expect("adopt");
    let moved = [(Namespace::default(), address.port() + 2), (Namespace::new("other"), address.port() + 4)];
    assert_eq!(adopted, moved);
}

#[tokio::test]
async fn other_descriptors_are_not_taken_for_listeners() {
    let (one, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
    assert!(HandedSocket::from_fd(one.into()).is_err());
    let file = std::fs::File::open("/dev/null").expect("a file");
    assert!(HandedSocket::from_fd(file.into()).is_err());
}
