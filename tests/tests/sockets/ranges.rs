//! Addresses that are ranges, balanced or dialled straight.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use libc::{AF_INET, AF_INET6};
use serde_json::json;
use tests::sockets::client::Client;
use tests::sockets::{Arena, entry, mapped, servers};
use tests::topology::{BACKEND, BACKEND_2, v6};

use crate::{TCP, UDP, arena, reached, server, service};

/// Real addresses within the balanced ranges, dialled straight.
const HOLE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 247, 7, 3)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x247, 7, 0, 0, 0, 0, 3))];
/// A real address within the balanced range, which has other ports too.
pub(super) const REAL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 246, 7, 3));

/// The arena with ranges and with servers at real addresses within them.
pub(super) fn ranges() -> anyhow::Result<Arc<Arena>> {
    static READY: Mutex<bool> = Mutex::new(false);
    let arena = arena()?;
    let mut is_ready = READY.lock().unwrap_or_else(PoisonError::into_inner);
    if *is_ready {
        return Ok(arena);
    }
    let [four, six] = HOLE;
    arena
        .backend
        .ip(&format!("addr add {four} dev lo\naddr add {REAL} dev lo\naddr add {six} dev lo nodad\n"))?;
    for address in HOLE {
        servers::stream(&arena.backend, (address, TCP).into())?;
        servers::datagram(&arena.backend, (address, UDP).into())?;
    }
    servers::stream(&arena.backend, server(REAL))?;
    servers::datagram(&arena.backend, server(REAL))?;
    let at = |addresses: &[&str]| json!({ "addresses": addresses });
    let hole = json!({
        "hosts": ["hole.test"],
        "addresses": ["10.247.7.0/24", "fd00:247:7::/64"],
        "ports": [{ "name": "tcp", "number": TCP, "protocol": "TCP" }],
    });
    // What is no service is not shown as one: it comes first, so that it is there when the others are.
    let text = [
        entry("hole", &hole),
        service("wide", &[(BACKEND, 1), (v6(BACKEND), 1)], at(&["10.246.0.0/15", "fd00:246::/31"])),
        service("narrow", &[(BACKEND_2, 1)], at(&["10.247.9.0/24"])),
        service("exact", &[(BACKEND, 1)], at(&["10.247.9.9", "10.247.7.9"])),
    ];
    arena.write("ranges.yaml", &text.concat(), &["wide.test", "narrow.test", "exact.test"])?;
    *is_ready = true;
    Ok(arena)
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn family(to: SocketAddr) -> i32 {
    if to.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// Where a stream to an address arrives; its peer must be that address.
fn stream(client: &Client, to: SocketAddr) -> io::Result<SocketAddr> {
    let stream = client.stream(family(to))?;
    stream.connect(to)?;
    assert_eq!(stream.peer_name()?, to);
    stream.send("x")?;
    Ok(reached(&stream.receive()?))
}

#[test]
fn a_range_is_balanced_for_streams_and_shows_the_address_that_was_dialled() -> anyhow::Result<()> {
    let arena = ranges()?;
    let client = arena.client(true)?;
    for (to, backend) in [
        (at("10.246.0.0", TCP), BACKEND),
        (at("10.247.255.255", TCP), BACKEND),
        (mapped(at("10.246.1.1", TCP)), BACKEND),
        (at("fd00:247::1", TCP), v6(BACKEND)),
    ] {
        assert_eq!(stream(&client, to)?, server(backend), "{to}");
    }
    Ok(())
}

#[test]
fn a_range_is_balanced_for_datagrams_and_answers_come_from_the_address_that_was_dialled() -> anyhow::Result<()>
{
    let arena = ranges()?;
    let client = arena.client(true)?;
    for (to, backend) in [
        (at("10.246.1.1", UDP), BACKEND),
        (mapped(at("10.246.1.1", UDP)), BACKEND),
        (at("fd00:247::1", UDP), v6(BACKEND)),
    ] {
        let connected = client.datagram(family(to))?;
        connected.connect(to)?;
        assert_eq!(connected.peer_name()?, to);
        connected.send("x")?;
        let answer = connected.receive()?;
        assert_eq!((reached(&answer), answer.1), (server(backend), Some(to)));
        let answer = client.datagram(family(to))?.ask(to, "x")?;
        assert_eq!((reached(&answer), answer.1), (server(backend), Some(to)));
    }
    // Two addresses of one range are two names of one backend: the last one that was dialled counts.
    let socket = client.datagram(AF_INET)?;
    let (a, b) = (at("10.246.1.1", UDP), at("10.246.1.2", UDP));
    for to in [a, b, b, a] {
        assert_eq!(socket.ask(to, "x")?.1, Some(to));
    }
    Ok(())
}

#[test]
fn none_goes_to_the_address_itself_although_a_wider_range_is_balanced() -> anyhow::Result<()> {
    let arena = ranges()?;
    let client = arena.client(true)?;
    for address in HOLE {
        let to = SocketAddr::new(address, TCP);
        assert_eq!(stream(&client, to)?, to);
        let to = SocketAddr::new(address, UDP);
        let answer = client.datagram(family(to))?.ask(to, "x")?;
        assert_eq!((reached(&answer), answer.1), (to, Some(to)));
    }
    Ok(())
}

#[test]
fn an_address_is_before_a_range_and_the_narrower_range_before_the_wider() -> anyhow::Result<()> {
    let arena = ranges()?;
    let client = arena.client(true)?;
    for (to, backend) in [
        ("10.247.8.255", BACKEND),
        ("10.247.9.0", BACKEND_2),
        ("10.247.9.8", BACKEND_2),
        ("10.247.9.9", BACKEND),
        ("10.247.9.10", BACKEND_2),
        ("10.247.9.255", BACKEND_2),
        ("10.247.10.0", BACKEND),
        // In the hole.
        ("10.247.7.9", BACKEND),
    ] {
        assert_eq!(stream(&client, at(to, TCP))?, server(backend), "{to}");
    }
    Ok(())
}

#[test]
fn a_port_that_is_not_listed_passes_in_a_range() -> anyhow::Result<()> {
    let arena = ranges()?;
    let client = arena.client(true)?;
    assert_eq!(stream(&client, server(REAL))?, server(REAL));
    let answer = client.datagram(AF_INET)?.ask(server(REAL), "x")?;
    assert_eq!((reached(&answer), answer.1), (server(REAL), Some(server(REAL))));
    // The same address on a port that is listed.
    assert_eq!(stream(&client, (REAL, TCP).into())?, server(BACKEND));
    Ok(())
}

#[test]
fn a_socket_that_leaves_a_range_shows_its_new_peer() -> anyhow::Result<()> {
    let arena = ranges()?;
    let client = arena.client(true)?;
    let socket = client.datagram(AF_INET)?;
    for to in [at("10.246.1.1", UDP), (HOLE[0], UDP).into(), at("10.247.9.1", UDP), server(REAL)] {
        socket.connect(to)?;
        assert_eq!(socket.peer_name()?, to);
        socket.send("x")?;
        assert_eq!(socket.receive().with_context(|| to.to_string())?.1, Some(to));
    }
    Ok(())
}
