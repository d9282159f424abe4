//! Which ports listeners take, and what they do about those that are in use.

use super::*;

#[tokio::test]
async fn says_which_port_is_in_use() {
    let address = free_block(2);
    let second = SocketAddr::new(LOOPBACK, address.port() + 1);
    let taken = UdpSocket::bind(second).expect("take a port");
    let table = Arc::new(NameTable::default());
    let resolvers = vec![free_port(), free_port()];
    let server = DnsServer::new(
        listen_at(&[address]),
        resolvers,
        table,
        Arc::default(),
        nobody(),
        DnsConfig::default(),
    )
    .expect("a server");
    let error = server.listen(Namespace::default()).expect_err("the port is taken");
    let DnsError::PortInUse { addr, port, source } = &error else { panic!("{error}") };
    assert_eq!((*addr, *port, source.kind()), (LOOPBACK, second.port(), std::io::ErrorKind::AddrInUse));
    assert_eq!(server.last_beat(), None);
    drop(taken);
    assert_eq!(server.listen(Namespace::default()).expect("free now"), address.port());
    // The first port was given back when the second failed, and is with the server now.
    assert!(UdpSocket::bind(address).is_err());
}

#[tokio::test]
async fn passes_over_blocks_that_are_in_use_and_gives_ports_back() {
    let bench = Bench::new(vec![free_port(), free_port()]).await;
    let base = bench.address.port();
    let _taken = std::net::TcpListener::bind((LOOPBACK, base + 3)).expect("take a port of the second block");
    let other = Namespace::new("other");
    assert_eq!(bench.server.listen(other.clone()).expect("listen"), base + 4);
    assert!(bench.server.unlisten(&other).await);
    assert!(!bench.server.unlisten(&other).await);
    UdpSocket::bind((LOOPBACK, base + 4)).expect("the port is free again");
    // The base port stays with the first namespace, also while that does not listen.
    assert!(bench.server.unlisten(&Namespace::default()).await);
    assert_eq!(bench.server.listen(other).expect("listen"), base + 4);
    assert_eq!(bench.server.listen(Namespace::default()).expect("listen"), base);
}

#[tokio::test]
async fn refuses_impossible_configurations() {
    let new = |port, count| {
        let upstreams = vec![SocketAddr::new(LOOPBACK, 53); count];
        let listen = listen_at(&[SocketAddr::new(LOOPBACK, port)]);
        DnsServer::new(listen, upstreams, Arc::default(), Arc::default(), nobody(), DnsConfig::default())
            .err()
            .map(|error| error.reason())
    };
    assert_eq!(new(5353, 0), Some("ResolverCount"));
    assert_eq!(new(5353, 9), Some("ResolverCount"));
    assert_eq!(new(0, 1), Some("PortRange"));
    assert_eq!(new(65_535, 2), Some("PortRange"));
    assert_eq!(new(65_535, 1), None);
    assert_eq!(new(5353, 8), None);
}
