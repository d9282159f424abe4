//! Names that get their addresses when they are asked for.

use super::*;
use crate::model::HostName;

fn on_demand(table: &NameTable) {
    let mut lazy = entry(&[]);
    lazy.views.values_mut().for_each(|view| view.on_demand = true);
    table.set(HostName::new("*.lazy.test"), Some(lazy));
}

async fn bench(upstream: &Dnsmasq, demand_timeout: Duration) -> Bench {
    let config = DnsConfig { demand_timeout, ..DnsConfig::default() };
    let bench = Bench::with(vec![upstream.address()], config).await;
    on_demand(&bench.table);
    bench
}

#[tokio::test]
async fn a_client_waits_until_its_name_has_addresses() {
    let upstream = Dnsmasq::start("192.0.2.1 a.lazy.test\n");
    let mut bench = bench(&upstream, PATIENCE).await;
    let address = bench.address;
    for name in ["a.lazy.test.", "b.lazy.test."] {
        let query = question(5, name, RecordType::A);
        let over_udp = tokio::spawn({
            let query = query.clone();
            async move { udp(address, &query).await }
        });
        let over_tcp = tokio::spawn(async move { tcp(address, vec![query]).await.remove(0) });
        let mut asks = Vec::new();
        for _ in 0..2 {
            asks.push(bench.asked.recv().await.expect("an ask"));
        }
        for ask in asks {
            assert_eq!(
                (ask.name.to_string() + ".", ask.user.namespace),
                (name.to_owned(), Namespace::default())
            );
            assert!(ask.user.address.is_loopback(), "{}", ask.user.address);
            bench.table.set_concrete(&ask.name, Some(entry(&["240.241.0.1"])));
            ask.done.send(()).expect("somebody waits");
        }
        for reply in [over_udp.await, over_tcp.await] {
            let reply = parse(&reply.expect("a reply"));
            assert_eq!(addresses(&reply), ["240.241.0.1".parse::<IpAddr>().expect("an address")]);
        }
        // Now it is there.
        assert_eq!(parse(&bench.udp(&question(6, name, RecordType::A)).await).answers.len(), 1);
    }
    let stats = bench.server.stats();
    assert_eq!((stats.answered, stats.queries), (6, 6));
}

#[tokio::test]
async fn a_name_that_gets_no_addresses_is_the_resolvers() {
    let upstream = Dnsmasq::start("192.0.2.1 a.lazy.test\n");
    let mut bench = bench(&upstream, PATIENCE).await;
    let address = bench.address;
    let told = tokio::spawn(async move { udp(address, &question(5, "a.lazy.test.", RecordType::A)).await });
    bench.asked.recv().await.expect("an ask").done.send(()).expect("somebody waits");
    let reply = parse(&told.await.expect("a reply"));
    assert_eq!(addresses(&reply), ["192.0.2.1".parse::<IpAddr>().expect("an address")]);
    assert_eq!(bench.server.stats().forwarded, 1);
}

#[tokio::test]
async fn a_client_is_not_made_to_wait_for_long_and_not_sent_past_the_entry() {
    let upstream = Dnsmasq::start("192.0.2.1 a.lazy.test\n");
    let mut bench = bench(&upstream, Duration::from_millis(100)).await;
    let query = question(5, "A.lazy.test.", RecordType::A);
    for _ in 0..2 {
        let reply = bench.udp(&query).await;
        assert_eq!(reply[12..], query[12..], "the question as it was asked");
        assert_eq!(parse(&reply).response_code, ResponseCode::ServFail);
    }
    // Nobody is there to make addresses: as when the agent hands over.
    bench.asked.close();
    assert_eq!(parse(&bench.udp(&query).await).response_code, ResponseCode::ServFail);
    let stats = bench.server.stats();
    assert_eq!((stats.too_slow, stats.forwarded, stats.queries), (3, 0, 3));
    // Our own names, and the resolver's, do not wait.
    assert_eq!(parse(&bench.udp(&question(6, "ours.test.", RecordType::A)).await).answers.len(), 1);
    assert_eq!(parse(&bench.udp(&question(6, "a.lazy.test.", RecordType::MX)).await).id, 6);
}
