//! The resolver against a real DNS server on loopback.

use std::{net::Ipv4Addr, time::Duration};

use super::*;
use crate::testing::{Dnsmasq, PATIENCE, free_port};

struct Bench {
    resolver: Resolver,
    updates: mpsc::Receiver<Update>,
    said: HashMap<HostName, Addresses>,
    _shutdown: tokio_util::sync::DropGuard,
}

impl Bench {
    fn new(servers: Vec<std::net::SocketAddr>) -> Self {
        let mut config = ResolveConfig::new(servers);
        config.timeout = Duration::from_millis(500);
        config.negative_refresh = Duration::from_secs(1);
        config.backoff_min = Duration::from_millis(100);
        config.backoff_max = Duration::from_millis(400);
        let (sender, updates) = mpsc::channel(16);
        let shutdown = CancellationToken::new();
        let resolver = Resolver::start(config, sender, shutdown.clone());
        Self { resolver, updates, said: HashMap::new(), _shutdown: shutdown.drop_guard() }
    }

    /// The next update that says other addresses of a name than the one before.
    async fn update(&mut self) -> Update {
        loop {
            let update = tokio::time::timeout(PATIENCE, self.updates.recv())
                .await
                .expect("an update in time")
                .expect("the resolver runs");
            if self.said.insert(update.name.clone(), update.addresses.clone()).as_ref()
                != Some(&update.addresses)
            {
                return update;
            }
        }
    }

    /// Reads updates until one says exactly `addresses` of `name`.
    async fn until(&mut self, name: &str, addresses: &[&str]) {
        let mut expected: Vec<std::net::IpAddr> =
            addresses.iter().map(|text| text.parse().expect("an address")).collect();
        expected.sort();
        loop {
            let update = self.update().await;
            let mut got: Vec<_> = update.addresses.iter().collect();
            got.sort();
            if update.name.as_str() == name && got == expected {
                return;
            }
        }
    }

    async fn status_until(&self, what: &str, is_met: impl Fn(&NameStatus) -> bool) -> NameStatus {
        let started = Instant::now();
        loop {
            let status = self.resolver.status();
            if let Some(status) = status.iter().find(|status| is_met(status)) {
                return status.clone();
            }
            assert!(started.elapsed() < PATIENCE, "{what} did not happen: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn resolves_both_families_and_sees_a_change_within_two_seconds() {
    let server = Dnsmasq::start("192.0.2.1 a.test\n2001:db8::1 a.test\n");
    let mut bench = Bench::new(vec![server.address()]);
    bench.resolver.want(HostName::new("A.test."), None);
    bench.until("a.test", &["192.0.2.1", "2001:db8::1"]).await;

    server.set_hosts("192.0.2.7 a.test\n2001:db8::1 a.test\n");
    let changed = Instant::now();
    bench.until("a.test", &["192.0.2.7", "2001:db8::1"]).await;
    assert!(changed.elapsed() < Duration::from_secs(2), "took {:?}", changed.elapsed());
    let status = &bench.resolver.status()[0];
    assert_eq!((status.stale, &status.last_error), (false, &None), "{status:?}");
}

#[tokio::test]
async fn follows_aliases_and_large_answers() {
    let hosts: Vec<_> = (1..=120).map(|host| format!("192.0.2.{host} many.test\n")).collect();
    let addresses: Vec<_> = (1..=120).map(|host| format!("192.0.2.{host}")).collect();
    let server = Dnsmasq::start_with(
        &format!("{}192.0.2.200 real.test\n", hosts.concat()),
        &["--cname=alias.test,middle.test,real.test"],
    );
    let mut bench = Bench::new(vec![server.address()]);
    bench.resolver.want(HostName::new("alias.test"), None);
    bench.until("alias.test", &["192.0.2.200"]).await;
    // 120 records are more than a datagram of 1232 bytes: this comes over TCP.
    bench.resolver.want(HostName::new("many.test"), None);
    bench.until("many.test", &addresses.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn keeps_the_last_addresses_when_dns_fails() {
    let mut server = Dnsmasq::start("192.0.2.1 a.test\n");
    let mut bench = Bench::new(vec![server.address()]);
    bench.resolver.want(HostName::new("a.test"), None);
    bench.until("a.test", &["192.0.2.1"]).await;

    server.stop();
    let status = bench.status_until("staleness", |status| status.stale).await;
    assert_eq!(status.addresses.v4, [Ipv4Addr::new(192, 0, 2, 1)]);
    assert!(status.last_error.is_some_and(|error| error.contains(&server.address().to_string())));

    server.set_hosts("192.0.2.2 a.test\n");
    server.start_again();
    assert_eq!(bench.update().await.addresses.v4, [Ipv4Addr::new(192, 0, 2, 2)], "nothing in between");
    bench.status_until("recovery", |status| !status.stale && status.last_error.is_none()).await;
}

#[tokio::test]
async fn keeps_the_last_addresses_of_a_name_that_is_refused() {
    // Outside of its own zone, dnsmasq without servers refuses what its hosts file does not hold.
    let server = Dnsmasq::start("192.0.2.1 a.example\n");
    let mut bench = Bench::new(vec![server.address()]);
    bench.resolver.want(HostName::new("a.example"), None);
    bench.until("a.example", &["192.0.2.1"]).await;
    server.set_hosts("");
    let status = bench.status_until("staleness", |status| status.stale).await;
    assert!(status.last_error.is_some_and(|error| error.to_lowercase().contains("refused")));
    assert_eq!(status.addresses.v4, [Ipv4Addr::new(192, 0, 2, 1)]);
}

#[tokio::test]
async fn drops_the_family_that_is_gone_and_then_the_name() {
    let server = Dnsmasq::start("192.0.2.1 a.test\n2001:db8::1 a.test\n");
    let mut bench = Bench::new(vec![server.address()]);
    bench.resolver.want(HostName::new("a.test"), None);
    bench.until("a.test", &["192.0.2.1", "2001:db8::1"]).await;
    server.set_hosts("192.0.2.1 a.test\n");
    bench.until("a.test", &["192.0.2.1"]).await;
    server.set_hosts("");
    bench.until("a.test", &[]).await;
    bench.status_until("an error", |status| status.last_error.as_deref() == Some("no such name")).await;
}

#[tokio::test]
async fn says_at_once_that_a_name_is_not_there() {
    let server = Dnsmasq::start("");
    let mut bench = Bench::new(vec![server.address()]);
    bench.resolver.want(HostName::new("missing.test"), None);
    assert!(bench.update().await.addresses.is_empty());
    server.set_hosts("192.0.2.1 missing.test\n");
    bench.until("missing.test", &["192.0.2.1"]).await;
}

#[tokio::test]
async fn goes_to_the_next_server_when_one_is_dead_silent_or_refuses() {
    let server = Dnsmasq::start("192.0.2.1 a.example\n");
    let refusing = Dnsmasq::start("");
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket that never answers");
    let silent = silent.local_addr().map(|address| (silent, address)).expect("its address");
    let mut bench = Bench::new(vec![free_port(), silent.1, refusing.address(), server.address()]);
    bench.resolver.want(HostName::new("a.example"), None);
    bench.until("a.example", &["192.0.2.1"]).await;
}

#[tokio::test]
async fn says_that_no_server_can_be_asked() {
    let mut bench = Bench::new(Vec::new());
    bench.resolver.want(HostName::new("a.test"), None);
    assert!(bench.update().await.addresses.is_empty());
    let error = bench.resolver.status().remove(0).last_error.expect("an error");
    assert!(error.contains("--resolver"), "{error}");
}

#[tokio::test]
async fn forgets_a_name_that_is_no_longer_wanted() {
    let server = Dnsmasq::start("192.0.2.1 a.test\n192.0.2.2 b.test\n");
    let mut bench = Bench::new(vec![server.address()]);
    let name = HostName::new("a.test");
    bench.resolver.want(name.clone(), None);
    bench.until("a.test", &["192.0.2.1"]).await;
    bench.resolver.unwant(&name);
    assert!(bench.resolver.status().is_empty());
    // Whatever was under way for it is over once another name has come through and been refreshed.
    server.set_hosts("192.0.2.3 a.test\n192.0.2.2 b.test\n");
    bench.resolver.want(HostName::new("b.test"), None);
    assert_eq!(bench.update().await.name.as_str(), "b.test");
    server.set_hosts("192.0.2.3 a.test\n192.0.2.4 b.test\n");
    assert_eq!(bench.update().await.name.as_str(), "b.test");
}

#[tokio::test]
async fn resolves_many_names_side_by_side() {
    let hosts: Vec<_> =
        (0..300).map(|host| format!("10.0.{}.{} n{host}.test\n", host / 200, host % 200)).collect();
    let server = Dnsmasq::start(&hosts.concat());
    let mut bench = Bench::new(vec![server.address()]);
    for host in 0..300 {
        bench.resolver.want(HostName::new(&format!("n{host}.test")), None);
    }
    let mut names = std::collections::BTreeSet::new();
    while names.len() < 300 {
        let update = bench.update().await;
        if !update.addresses.is_empty() {
            names.insert(update.name);
        }
    }
}
