//! What an entry says, as real connections see it: who sees it, and where it leads.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::poll;
use tests::servers::Echo;
use tests::sockets::{entry, entry_in};
use tests::stage::Stage;
use tests::topology::{BACKEND, BACKEND_2, Options};

const LIMIT: Duration = Duration::from_secs(30);
const PORT: u16 = 9000;

const QUIET: Options =
    Options { httpbin: false, ttl_secs: 1, records: &[("two.test", BACKEND), ("two.test", BACKEND_2)] };

/// An entry for `host` with port 80, with this resolution and these endpoints.
fn spec(host: &str, resolution: &str, endpoints: Value) -> Value {
    json!({
        "hosts": [host],
        "ports": [{ "name": "http", "number": 80, "protocol": "HTTP", "targetPort": PORT }],
        "resolution": resolution,
        "endpoints": endpoints,
    })
}

fn stage(entries: &[String]) -> anyhow::Result<Stage> {
    let stage = Stage::start(QUIET, &[("entries.yaml", &entries.concat())])?;
    for address in [BACKEND, BACKEND_2] {
        Echo::start(&stage.topology.backend, (address, PORT).into())?;
    }
    Ok(stage)
}

/// Where a client of `namespace` arrives that dials `to`.
fn reached(stage: &Stage, namespace: &str, to: &str) -> anyhow::Result<Option<SocketAddr>> {
    let (_, text) = stage.says_in(namespace, &["curl", "-s", "-m", "2", &format!("http://{to}/")])?;
    text.split_whitespace().next().map(str::parse).transpose().with_context(|| text.clone())
}

fn vip(stage: &Stage, namespace: &str, name: &str) -> anyhow::Result<Option<String>> {
    let (_, text) = stage.says_in(namespace, &["getent", "ahostsv4", name])?;
    Ok(text.split_whitespace().next().map(str::to_owned))
}

fn at(address: IpAddr) -> SocketAddr {
    (address, PORT).into()
}

#[test]
fn an_entry_of_one_namespace_does_not_exist_for_another() -> anyhow::Result<()> {
    let mut own = spec("own.test", "STATIC", json!([{ "address": BACKEND }]));
    own["exportTo"] = json!(["."]);
    let stage = stage(&[entry_in("one", "own", &own)])?;
    assert_eq!(reached(&stage, "one", "own.test")?, Some(at(BACKEND)));
    let address = vip(&stage, "one", "own.test")?.context("it is answered")?;
    assert!(address.starts_with("240.240."), "{address}");
    // Neither the name nor the address; the resolver is asked, which does not know it.
    let asked = stage.topology.dns.queries("own.test");
    assert_eq!(vip(&stage, "two", "own.test")?, None);
    assert!(stage.topology.dns.queries("own.test") > asked, "the resolver was not asked");
    assert_eq!(reached(&stage, "two", &address)?, None);
    assert_eq!(reached(&stage, "one", &address)?, Some(at(BACKEND)));
    Ok(())
}

#[test]
fn two_namespaces_have_one_host_with_backends_of_their_own() -> anyhow::Result<()> {
    let text = |namespace, backend: IpAddr| {
        entry_in(namespace, "same", &spec("same.test", "STATIC", json!([{ "address": backend }])))
    };
    let stage = stage(&[text("one", BACKEND), text("two", BACKEND_2)])?;
    let address = vip(&stage, "one", "same.test")?;
    for (namespace, backend) in [("one", BACKEND), ("two", BACKEND_2)] {
        for _ in 0..10 {
            assert_eq!(reached(&stage, namespace, "same.test")?, Some(at(backend)), "{namespace}");
        }
        assert_eq!(vip(&stage, namespace, "same.test")?, address, "one host has one address");
    }
    // Everybody else gets that of the oldest, here the first by name.
    assert_eq!(reached(&stage, "three", "same.test")?, Some(at(BACKEND)));
    Ok(())
}

#[test]
fn round_robin_dials_one_address_at_a_time() -> anyhow::Result<()> {
    let endpoints = json!([{ "address": "two.test" }]);
    let stage = stage(&[entry("robin", &spec("robin.test", "DNS_ROUND_ROBIN", endpoints))])?;
    let program = "import socket\n\
         for _ in range(40):\n\
         \x20   client = socket.create_connection(('robin.test', 80), 5)\n\
         \x20   client.sendall(b'\\n')\n\
         \x20   print(client.makefile().read().split()[-2])\n";
    // The server turns the order of its answers around, so in the end both are the first.
    let mut seen = std::collections::BTreeSet::new();
    poll::until("both addresses to be the first", LIMIT, || {
        let told = stage.python(true, program).ok()?;
        let reached: Vec<SocketAddr> = told.lines().filter_map(|line| line.parse().ok()).collect();
        assert_eq!(reached.len(), 40, "{told}");
        let changes = reached.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 1, "{changes} changes: {told}");
        seen.extend(reached);
        (seen == [at(BACKEND), at(BACKEND_2)].into()).then_some(())
    })
}

#[test]
fn an_endpoints_own_port_is_before_the_target_port() -> anyhow::Result<()> {
    let own = json!([{ "address": BACKEND, "ports": { "http": 9001 } }, { "address": BACKEND_2 }]);
    let stage = stage(&[entry("ports", &spec("ports.test", "STATIC", own))])?;
    let own = SocketAddr::new(BACKEND, 9001);
    Echo::start(&stage.topology.backend, own)?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        seen.extend(reached(&stage, "default", "ports.test")?);
    }
    assert_eq!(seen, [own, at(BACKEND_2)].into());
    Ok(())
}
