//! Ranges of addresses over the life of an agent: who sees them, what is counted, shown, kept and removed. What sockets see of
//! them is in `sockets/ranges.rs`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use libc::{AF_INET, AF_INET6};
use serde_json::{Value, json};
use tests::agent::Agent;
use tests::bpf::Objects;
use tests::entries::dns_entry;
use tests::poll;
use tests::sockets::client::{Client, Received};
use tests::sockets::{Arena, MANY, entry, entry_in, servers};
use tests::stage::Stage;
use tests::topology::{BACKEND, BACKEND_2, Options, v6};

const SERVER: u16 = 9000;
const TCP: u16 = 80;
const UDP: u16 = 81;
const LIMIT: Duration = Duration::from_secs(5);

/// A STATIC entry with a TCP and a UDP port, in the namespace `default` unless `more` says otherwise.
fn balanced(name: &str, addresses: &[&str], backends: &[IpAddr]) -> Value {
    let endpoints: Vec<Value> = backends.iter().map(|address| json!({ "address": address })).collect();
    json!({
        "hosts": [format!("{name}.test")],
        "addresses": addresses,
        "ports": [
            { "name": "tcp", "number": TCP, "protocol": "TCP", "targetPort": SERVER },
            { "name": "udp", "number": UDP, "protocol": "UDP", "targetPort": SERVER },
        ],
        "resolution": "STATIC",
        "endpoints": endpoints,
    })
}

fn straight(name: &str, addresses: &[&str]) -> Value {
    json!({
        "hosts": [format!("{name}.test")],
        "addresses": addresses,
        "ports": [{ "name": "tcp", "number": TCP, "protocol": "TCP" }],
        "resolution": "NONE",
    })
}

fn in_namespace(namespace: &str, name: &str, mut spec: Value) -> String {
    spec["exportTo"] = json!(["."]);
    entry_in(namespace, name, &spec)
}

/// The real range, of which every address is the backend namespace's own, and a hole for it in a balanced one.
const HOLE: &str = "10.245.0.0/16";
const HOLE_6: &str = "fd00:245::/64";

fn entries() -> String {
    [
        entry("wide", &balanced("wide", &["10.244.0.0/14", "fd00:240::/28"], &[BACKEND, v6(BACKEND)])),
        entry("hole", &straight("hole", &[HOLE, HOLE_6])),
        entry("narrow", &balanced("narrow", &["10.247.9.0/24"], &[BACKEND_2])),
        entry("exact", &balanced("exact", &["10.247.9.9", "10.245.9.9"], &[BACKEND])),
        entry("auto", &balanced("auto", &[], &[BACKEND, v6(BACKEND)])),
    ]
    .concat()
}

/// An arena with these entries, and servers at both backends, where the entries' ports are real, too, and in the hole.
fn arena(entries: &str) -> anyhow::Result<Arena> {
    let arena = Arena::start(Path::new(env!("CARGO_BIN_EXE_socket-client")), entries)?;
    arena.backend.ip("addr add fd00:245::3/128 dev lo nodad\n")?;
    for address in [BACKEND, BACKEND_2, v6(BACKEND), v6(BACKEND_2)] {
        servers::stream(&arena.backend, (address, SERVER).into())?;
        servers::datagram(&arena.backend, (address, SERVER).into())?;
    }
    for address in [many(3), IpAddr::V6("fd00:245::3".parse()?)] {
        servers::stream(&arena.backend, (address, TCP).into())?;
        servers::datagram(&arena.backend, (address, UDP).into())?;
    }
    Ok(arena)
}

fn many(last: u8) -> IpAddr {
    let [a, b, ..] = MANY.octets();
    IpAddr::from([a, b, 7, last])
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn family(to: SocketAddr) -> i32 {
    if to.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// The address at which a server says that it was reached.
fn reached((text, _): &Received) -> SocketAddr {
    text.split(' ').next().and_then(|own| own.parse().ok()).expect("an answer of a server")
}

/// Where a stream to an address arrives; its peer must be that address.
fn stream(client: &Client, to: SocketAddr) -> io::Result<SocketAddr> {
    let stream = client.stream(family(to))?;
    stream.connect(to)?;
    assert_eq!(stream.peer_name()?, to);
    stream.send("x")?;
    Ok(reached(&stream.receive()?))
}

fn counter(agent: &Agent, name: &str) -> anyhow::Result<u64> {
    agent.get("/status")?["counters"][name].as_u64().with_context(|| format!("no counter {name}"))
}

#[test]
fn none_goes_to_the_address_itself_and_is_counted_as_passed() -> anyhow::Result<()> {
    let arena = arena(&entries())?;
    let client = arena.client(true)?;
    let before = (counter(&arena.agent, "passed")?, counter(&arena.agent, "connected")?);
    // The port is one that the wider range balances.
    for to in [SocketAddr::new(many(3), TCP), at("fd00:245::3", TCP)] {
        assert_eq!(stream(&client, to)?, to);
        let to = SocketAddr::new(to.ip(), UDP);
        assert_eq!(reached(&client.datagram(family(to))?.ask(to, "x")?), to);
    }
    let after = (counter(&arena.agent, "passed")?, counter(&arena.agent, "connected")?);
    assert_eq!(after, (before.0 + 4, before.1));
    Ok(())
}

#[test]
fn a_range_of_one_namespace_is_seen_by_its_clients_alone() -> anyhow::Result<()> {
    let text = [
        in_namespace("one", "own", balanced("own", &["10.246.0.0/16"], &[BACKEND])),
        in_namespace("two", "own", balanced("own", &["10.246.0.0/16"], &[BACKEND_2])),
        entry("all", &straight("all", &[HOLE])),
    ]
    .concat();
    let arena = arena(&text)?;
    let to = at("10.246.1.1", TCP);
    for (namespace, backend) in [("one", BACKEND), ("two", BACKEND_2)] {
        let client = arena.client_of(namespace)?;
        assert_eq!(stream(&client, to)?, (backend, SERVER).into());
        // What it has no view of its own of is the mesh's.
        let before = counter(&arena.agent, "passed")?;
        assert_eq!(stream(&client, SocketAddr::new(many(3), TCP))?, SocketAddr::new(many(3), TCP));
        assert_eq!(counter(&arena.agent, "passed")?, before + 1);
    }
    // To others it is an address like any other, where nobody is.
    let client = arena.client(true)?;
    let before = counter(&arena.agent, "passed")?;
    assert!(stream(&client, to).is_err());
    assert_eq!(counter(&arena.agent, "passed")?, before);
    Ok(())
}

#[test]
fn ranges_outlive_the_agent_and_the_next_one_keeps_their_rows() -> anyhow::Result<()> {
    let mut arena = arena(&entries())?;
    let client = arena.client(true)?;
    let rows = |arena: &Arena| -> anyhow::Result<Value> {
        let objects = Objects::of(&arena.parent.join("pods"))?;
        let mut rows: Vec<_> =
            objects.dump("kmse_cidr")?.into_iter().chain(objects.dump("kmse_frontend")?).collect();
        rows.sort_by_key(ToString::to_string);
        Ok(rows.into())
    };
    let works = || -> io::Result<[SocketAddr; 2]> {
        Ok([stream(&client, at("10.246.1.1", TCP))?, stream(&client, SocketAddr::new(many(3), TCP))?])
    };
    let (before, expected) = (rows(&arena)?, [(BACKEND, SERVER).into(), (many(3), TCP).into()]);
    assert_eq!(works()?, expected);
    arena.agent.pause()?;
    assert_eq!(works()?, expected, "without an agent");
    let program = tests::agent::program()?;
    arena.resume(&program)?;
    assert_eq!(works()?, expected, "with the next agent");
    assert_eq!(rows(&arena)?, before);
    arena.take_over(&program)?;
    assert_eq!((works()?, rows(&arena)?), (expected, before));
    let output = arena.agent.ask(&["dump", "actual", "--kernel", "-o", "json"])?;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

#[test]
fn a_range_that_is_removed_leaves_no_row() -> anyhow::Result<()> {
    let arena = arena(&entry("auto", &balanced("auto", &[], &[BACKEND, v6(BACKEND)])))?;
    let client = arena.client(true)?;
    let objects = Objects::of(&arena.parent.join("pods"))?;
    let rows = || -> anyhow::Result<(usize, usize, Value)> {
        let config = objects.dump("kmse_config")?[0]["formatted"]["value"]["cidrs"].clone();
        Ok((objects.dump("kmse_cidr")?.len(), objects.dump("kmse_frontend")?.len(), config))
    };
    let empty = rows()?;
    assert_eq!((empty.0, &empty.2), (0, &json!(0)));
    let spec = balanced("ranges", &["10.246.0.0/16", "fd00:247::/64", "10.247.1.1"], &[BACKEND, v6(BACKEND)]);
    arena.write("ranges.yaml", &entry("ranges", &spec), &["ranges.test"])?;
    assert_eq!(rows()?, (2, empty.1 + 6, json!(2)));
    assert_eq!(stream(&client, at("10.246.1.1", TCP))?, (BACKEND, SERVER).into());
    arena.write("ranges.yaml", &entry("ranges", &balanced("ranges", &["10.246.0.0/16"], &[BACKEND])), &[])?;
    let fewer = || rows().ok().filter(|rows| *rows == (1, empty.1 + 2, json!(1)));
    poll::until("one range of two to go", LIMIT, fewer)?;
    assert_eq!(stream(&client, at("10.246.1.1", TCP))?, (BACKEND, SERVER).into());
    arena.remove("ranges.yaml", "ranges.test")?;
    poll::until("all rows to go", LIMIT, || rows().ok().filter(|rows| *rows == empty))?;
    assert!(stream(&client, at("10.246.1.1", TCP)).is_err());
    Ok(())
}

#[test]
fn bpftool_status_services_and_explain_show_ranges() -> anyhow::Result<()> {
    let arena = arena(&entries())?;
    let rows = Objects::of(&arena.parent.join("pods"))?.dump("kmse_cidr")?;
    let narrow =
        rows.iter().map(|row| &row["formatted"]).find(|row| row["key"]["prefix_len"] == 32 + 96 + 24);
    let narrow = narrow.with_context(|| format!("10.247.9.0/24 is not there: {rows:?}"))?;
    let (key, value) = (&narrow["key"]["data"], &narrow["value"]);
    let first = json!([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 247, 9, 0]);
    assert_eq!((&key["scope"], &key["addr"], &value["addr"]), (&json!([0, 0, 0, 0]), &first, &first));
    assert_eq!((&value["prefix"], &value["rule"]["unlisted"]), (&json!(120), &json!(0)), "{narrow}");

    let status = arena.agent.get("/status")?;
    let map = status["maps"].as_array().into_iter().flatten().find(|map| map["name"] == "kmse_cidr");
    let map = map.context("status does not show the map")?;
    assert_eq!((&map["used"], &map["capacity"]), (&json!(5), &json!(65_536)));
    let services = arena.agent.get("/services")?;
    let wide = services["services"].as_array().into_iter().flatten().find(|row| row["host"] == "wide.test");
    assert_eq!(wide.context("no wide.test")?["vips"], json!(["10.244.0.0/14", "fd00:240::/28"]));

    let explain = |target: &str| -> anyhow::Result<Value> {
        let output = arena.agent.ask(&["explain", target, "-o", "json"])?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
    };
    let step = |json: &Value, name: &str| {
        let steps = json["steps"].as_array().into_iter().flatten();
        steps.into_iter().find(|step| step["step"] == name).cloned().unwrap_or_default()
    };
    for (target, range, backend) in [
        ("10.246.1.1:80", json!("10.244.0.0/14"), BACKEND),
        ("[fd00:247::1]:80", json!("fd00:240::/28"), v6(BACKEND)),
        ("10.247.9.1:80", json!("10.247.9.0/24"), BACKEND_2),
        ("10.247.9.9:80", Value::Null, BACKEND),
    ] {
        let json = explain(target)?;
        assert_eq!(
            (&json["reachable"], &step(&json, "frontend")["range"]),
            (&json!(true), &range),
            "{json:#}"
        );
        assert_eq!(json["backends"][0]["address"], backend.to_string(), "{json:#}");
    }
    let json = explain("10.245.1.1:80")?;
    assert_eq!(json["cause"]["reason"], "Passthrough", "{json:#}");
    assert_eq!(step(&json, "address")["range"], HOLE, "{json:#}");
    let json = explain("10.246.1.1:443")?;
    assert_eq!(json["cause"]["reason"], "PortNotListed", "{json:#}");
    let json = explain("wide.test")?;
    assert_eq!(json["cause"]["reason"], "OnlyRanges", "{json:#}");
    Ok(())
}

#[test]
fn a_full_map_of_ranges_is_told_and_the_others_work() -> anyhow::Result<()> {
    let text = entry("a", &balanced("a", &["10.246.0.0/16"], &[BACKEND]));
    let small = |flags: &mut tests::agent::Flags| flags.more = vec!["--max-cidrs=1".to_owned()];
    let client = Path::new(env!("CARGO_BIN_EXE_socket-client"));
    let arena = Arena::start_with(client, &text, small)?;
    servers::stream(&arena.backend, (BACKEND, SERVER).into())?;
    arena.put("b.yaml", &entry("b", &balanced("b", &["10.247.0.0/16"], &[BACKEND])))?;
    let told = || -> Option<Value> {
        let failures = arena.agent.get("/status").ok()?["failures"].clone();
        failures.as_array()?.iter().find(|failure| failure["reason"] == "MapFull").cloned()
    };
    let failure = poll::until("the full map to be told", LIMIT, told)?;
    let message = "map kmse_cidr is full (1 elements): start the agent with a larger --max-cidrs";
    assert_eq!((&failure["host"], &failure["message"]), (&json!("b.test"), &json!(message)));
    let client = arena.client(true)?;
    assert_eq!(stream(&client, at("10.246.1.1", TCP))?, (BACKEND, SERVER).into());
    // It fits when the other goes.
    std::fs::remove_file(arena.agent.flags().source.join("entries.yaml"))?;
    let works = || stream(&client, at("10.247.1.1", TCP)).ok();
    assert_eq!(poll::until("the second range to work", LIMIT, works)?, (BACKEND, SERVER).into());
    Ok(())
}

#[test]
fn a_name_that_has_only_ranges_is_left_to_the_resolver() -> anyhow::Result<()> {
    const RECORDS: &[(&str, IpAddr)] = &[("ranges.test", BACKEND_2), ("backend.test", BACKEND)];
    let options = Options { httpbin: false, ttl_secs: 1, records: RECORDS };
    let ranges = entry("ranges", &balanced("ranges", &["10.246.0.0/16"], &[BACKEND]));
    let ours = dns_entry("ours", "ours.test", Some(("backend.test", 9000)));
    let stage = Stage::start(options, &[("ranges.yaml", &ranges), ("ours.yaml", &ours)])?;
    stage.agent.until_serves("ranges.test", true)?;
    // Names are answered here, but this one is not.
    assert!(stage.says(true, &["getent", "ahostsv4", "ours.test"])?.1.starts_with("240.240."));
    let (_, text) = stage.says(true, &["getent", "ahostsv4", "ranges.test"])?;
    assert!(text.starts_with(&BACKEND_2.to_string()), "{text}");
    let names = stage.agent.json("names")?;
    let name = names["names"].as_array().into_iter().flatten().find(|name| name["name"] == "ranges.test");
    let name = name.context("the name is not listed")?;
    assert_eq!((&name["answered"], &name["addresses"]), (&json!(false), &json!([])));
    Ok(())
}
