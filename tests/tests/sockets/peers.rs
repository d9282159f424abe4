//! UDP: what one socket remembers when it has several peers, or has had others before.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use libc::{AF_INET, AF_INET6};
use serde_json::json;
use tests::sockets::{MANY, entry, mapped, servers};
use tests::topology::{BACKEND, BACKEND_2, v6};

use crate::{SERVER, UDP, arena, reached, server, service, udp};

#[test]
fn several_peers_keep_their_names() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let ([a, _], [c, _], [_, six]) = (udp(&arena, "a")?, udp(&arena, "c")?, udp(&arena, "six")?);
    let socket = client.datagram(AF_INET6)?;
    let direct = server(v6(BACKEND_2));
    let peers = [
        (mapped(a), server(BACKEND)),
        (six, server(v6(BACKEND))),
        (mapped(c), server(BACKEND_2)),
        (direct, direct),
    ];
    for _ in 0..3 {
        for (to, _) in peers {
            socket.send_to(to, "x")?;
        }
        let mut got = BTreeSet::new();
        for _ in peers {
            let answer = socket.receive()?;
            got.insert((answer.1, reached(&answer)));
        }
        assert_eq!(got, peers.map(|(to, backend)| (Some(to), backend)).into());
    }
    Ok(())
}

#[test]
fn of_two_names_for_one_backend_the_last_that_was_dialled_counts() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let ([a, _], [b, _], [c, _]) = (udp(&arena, "a")?, udp(&arena, "b")?, udp(&arena, "c")?);
    let socket = client.datagram(AF_INET)?;
    let direct = server(BACKEND);
    for to in [a, b, a, c, b, direct, b, c, direct, a, b, b, direct, direct, a] {
        assert_eq!(socket.ask(to, "x")?.1, Some(to));
    }
    Ok(())
}

#[test]
fn a_connected_socket_that_sends_elsewhere_keeps_its_peers_name() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let ([a, _], [b, _]) = (udp(&arena, "a")?, udp(&arena, "b")?);
    let socket = client.datagram(AF_INET)?;
    socket.connect(a)?;
    assert_eq!(socket.ask(b, "x")?.1, Some(b));
    assert_eq!(socket.peer_name()?, a);
    // The last connect is the last word.
    socket.connect(a)?;
    socket.send("x")?;
    assert_eq!(socket.receive()?.1, Some(a));
    socket.connect(b)?;
    assert_eq!(socket.peer_name()?, b);
    socket.send("x")?;
    assert_eq!(socket.receive()?.1, Some(b));
    Ok(())
}

#[test]
fn a_disconnected_socket_has_only_the_names_that_it_sends_to() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let ([a, _], [b, _]) = (udp(&arena, "a")?, udp(&arena, "b")?);
    for to in [b, server(BACKEND), a] {
        let socket = client.datagram(AF_INET)?;
        socket.connect(a)?;
        socket.disconnect()?;
        assert_eq!(socket.ask(to, "x")?.1, Some(to));
    }
    Ok(())
}

#[test]
fn a_backend_dialled_by_its_own_address_shows_that_address() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let direct = server(BACKEND);
    let [a, _] = udp(&arena, "a")?;
    let socket = client.datagram(AF_INET)?;
    socket.connect(a)?;
    socket.connect(direct)?;
    assert_eq!(socket.peer_name()?, direct);
    socket.send("x")?;
    assert_eq!(socket.receive()?.1, Some(direct));
    // Also after datagrams to its name.
    let socket = client.datagram(AF_INET)?;
    assert_eq!(socket.ask(a, "x")?.1, Some(a));
    socket.connect(direct)?;
    socket.send("x")?;
    assert_eq!(socket.receive()?.1, Some(direct));
    Ok(())
}

#[test]
fn only_the_backend_that_was_dialled_is_renamed() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let [a, _] = udp(&arena, "a")?;
    // The backend's other port, and the same port elsewhere.
    let strangers = [(BACKEND, 9001), (BACKEND_2, 9002)].map(SocketAddr::from);
    let sockets =
        [servers::datagram(&arena.backend, strangers[0])?, servers::datagram(&arena.backend, strangers[1])?];
    let socket = client.datagram(AF_INET)?;
    let (text, from) = socket.ask(a, "x")?;
    assert_eq!(from, Some(a));
    let own: SocketAddr =
        text.split(' ').nth(1).and_then(|own| own.parse().ok()).expect("the client's address");
    for (stranger, address) in sockets.iter().zip(strangers) {
        stranger.send_to(b"unasked", own)?;
        assert_eq!(socket.receive()?, ("unasked".to_owned(), Some(address)));
    }
    Ok(())
}

#[test]
fn a_name_that_is_deleted_leaves_the_other_name_of_its_backend_alone() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    arena.write("short.yaml", &service("short", &[(BACKEND, 1)], json!({})), &["short.test"])?;
    let ([short, _], [b, _]) = (udp(&arena, "short")?, udp(&arena, "b")?);
    let socket = client.datagram(AF_INET)?;
    assert_eq!(socket.ask(b, "x")?.1, Some(b));
    assert_eq!(socket.ask(short, "x")?.1, Some(short));
    arena.remove("short.yaml", "short.test")?;
    let answer = socket.ask(b, "x")?;
    assert_eq!((reached(&answer), answer.1), (server(BACKEND), Some(b)));
    Ok(())
}

#[test]
fn every_peer_of_an_unconnected_socket_keeps_its_backend() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let names = [udp(&arena, "pair")?[0], udp(&arena, "pair2")?[0]];
    let mut used = BTreeSet::new();
    for _ in 0..8 {
        let socket = client.datagram(AF_INET)?;
        for name in names {
            let first = reached(&socket.ask(name, "x")?);
            used.insert(first);
            for _ in 0..8 {
                let answer = socket.ask(name, "x")?;
                assert_eq!((reached(&answer), answer.1), (first, Some(name)));
            }
        }
    }
    // By chance alone, one backend is picked 16 times in 32,768.
    assert_eq!(used.len(), 2);
    Ok(())
}

#[test]
fn a_flow_stays_with_its_backend_while_that_is_listed_and_late_answers_keep_their_name() -> anyhow::Result<()>
{
    let arena = arena()?;
    let client = arena.client(true)?;
    let many = |last: u8| IpAddr::from([10, 245, 255, last]);
    let file = |hosts: &[u8]| {
        let endpoints: Vec<_> = hosts.iter().map(|last| (many(*last), 1)).collect();
        service("moving", &endpoints, json!({}))
    };
    for address in [1, 2, 3, 4] {
        servers::datagram(&arena.backend, server(many(address)))?;
    }
    let old = servers::datagram(&arena.backend, (many(9), SERVER).into())?;
    arena.write("moving.yaml", &file(&[9]), &["moving.test"])?;
    let [vip, _] = udp(&arena, "moving")?;
    let ([a, _], socket) = (udp(&arena, "a")?, client.datagram(AF_INET)?);
    let second = client.datagram(AF_INET)?;
    second.ask(a, "x")?;
    let mut own = String::new();
    for socket in [&socket, &second] {
        let answer = socket.ask(vip, "x")?;
        assert_eq!(reached(&answer), server(many(9)));
        own = answer.0.split(' ').nth(1).expect("the client's address").to_owned();
    }
    let backends = |count: usize| {
        tests::poll::until("the change of backends", std::time::Duration::from_secs(20), || {
            let services = arena.agent.json("services").ok()?;
            let rows = services["services"].as_array()?;
            let row = rows.iter().find(|row| row["host"] == "moving.test" && row["port"] == UDP)?;
            (row["backends"].as_array()?.len() == count).then_some(())
        })
    };
    // More backends: both flows stay.
    arena.write("moving.yaml", &file(&[1, 2, 3, 4, 9]), &[])?;
    backends(5)?;
    for socket in [&socket, &second] {
        for _ in 0..8 {
            let answer = socket.ask(vip, "x")?;
            assert_eq!((reached(&answer), answer.1), (server(many(9)), Some(vip)));
        }
    }
    // Its own backend leaves: they move, and what it still answers has the name that was dialled.
    arena.write("moving.yaml", &file(&[1]), &[])?;
    backends(1)?;
    for socket in [&socket, &second] {
        let answer = socket.ask(vip, "x")?;
        assert_eq!((reached(&answer), answer.1), (server(many(1)), Some(vip)));
    }
    old.send_to(b"late", own)?;
    assert_eq!(second.receive()?, ("late".to_owned(), Some(vip)));
    Ok(())
}

/// Slots are used again: after two changes a service's lie where they lay, with other backends in them.
#[test]
fn a_flow_that_is_silent_while_backends_change_does_not_go_to_one_that_has_left() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let many = |last: u8| IpAddr::from([10, 245, 253, last]);
    let write = |last: u8| -> anyhow::Result<()> {
        arena.write("silent.yaml", &service("silent", &[(many(last), 1)], json!({})), &["silent.test"])?;
        tests::poll::until("the change of backends", std::time::Duration::from_secs(20), || {
            let services = arena.agent.json("services").ok()?;
            let rows = services["services"].as_array()?;
            let row = rows.iter().find(|row| row["host"] == "silent.test" && row["port"] == UDP)?;
            (row["backends"][0]["address"] == many(last).to_string()).then_some(())
        })
    };
    for last in 1..=9 {
        servers::datagram(&arena.backend, server(many(last)))?;
    }
    write(1)?;
    let ([vip, _], [a, _]) = (udp(&arena, "silent")?, udp(&arena, "a")?);
    // Of one it is the first peer, of the other a further one.
    let (first, further) = (client.datagram(AF_INET)?, client.datagram(AF_INET)?);
    further.ask(a, "x")?;
    for last in (1..=7).step_by(2) {
        for socket in [&first, &further] {
            let answer = socket.ask(vip, "x")?;
            assert_eq!((reached(&answer), answer.1), (server(many(last)), Some(vip)));
        }
        write(last + 1)?;
        write(last + 2)?;
    }
    Ok(())
}

#[test]
fn two_thousand_peers_of_one_socket_keep_their_names() -> anyhow::Result<()> {
    const PEERS: u16 = 2000;
    let arena = arena()?;
    let client = arena.client(true)?;
    let port = 9100;
    servers::datagram_on_all(&arena.backend, port)?;
    let place = |base: [u8; 2], n: u16| {
        let [high, low] = n.to_be_bytes();
        IpAddr::from([base[0], base[1], high, low])
    };
    let [x, y, ..] = MANY.octets();
    let text: String = (0..PEERS)
        .map(|n| {
            entry(
                &format!("peer-{n}"),
                &json!({
                    "hosts": [format!("peer-{n}.test")],
                    "addresses": [place([10, 98], n)],
                    "ports": [{ "name": "udp", "number": UDP, "protocol": "UDP", "targetPort": port }],
                    "resolution": "STATIC",
                    "endpoints": [{ "address": place([x, y], n) }],
                }),
            )
        })
        .collect();
    arena.write("peers.yaml", &text, &["peer-0.test", &format!("peer-{}.test", PEERS - 1)])?;
    let socket = client.datagram(AF_INET)?;
    let peers: Vec<SocketAddr> = (0..PEERS).map(|n| (place([10, 98], n), UDP).into()).collect();
    // All are dialled first, in parts that fit a socket's buffer; then each answers once more.
    for round in 0..2 {
        for part in peers.chunks(100) {
            socket.send_many(part, "x")?;
            let got: BTreeSet<_> = socket.receive_many(part.len())?.into_iter().map(|got| got.1).collect();
            assert_eq!(got, part.iter().copied().map(Some).collect(), "round {round}");
        }
    }
    Ok(())
}

#[test]
fn threads_that_share_a_new_socket_get_their_own_answers() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let [_, six] = udp(&arena, "six")?;
    let [a, c] = [mapped(udp(&arena, "a")?[0]), mapped(udp(&arena, "c")?[0])];
    for _ in 0..40 {
        let socket = client.datagram(AF_INET6)?;
        assert_eq!(socket.storm(&[a, c, six, server(v6(BACKEND_2))], 4)?, Vec::<String>::new());
    }
    Ok(())
}

/// The kernel turns `send` of such a socket into `sendto` its peer.
#[test]
fn send_of_a_v6_socket_with_a_v4_peer_is_not_taken_for_sendto() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let [a, b] = [mapped(udp(&arena, "a")?[0]), mapped(udp(&arena, "b")?[0])];
    // The backend of its first port is its own address at its second port, which leads elsewhere.
    let own = IpAddr::from([10, 245, 255, 20]);
    let ports = json!([
        { "name": "first", "number": UDP, "protocol": "UDP", "targetPort": UDP + 1 },
        { "name": "second", "number": UDP + 1, "protocol": "UDP", "targetPort": SERVER },
    ]);
    let text = service("chain", &[(own, 1)], json!({ "addresses": [own], "ports": ports }));
    servers::datagram(&arena.backend, (own, UDP + 1).into())?;
    arena.write("chain.yaml", &text, &["chain.test"])?;
    let chain = mapped((own, UDP).into());
    let others = [b, mapped(server(BACKEND))];
    for (to, backend, others) in [(a, server(BACKEND), &others[..]), (chain, (own, UDP + 1).into(), &[])] {
        let socket = client.datagram(AF_INET6)?;
        socket.connect(to)?;
        for other in others.iter().copied().map(Some).chain([None]) {
            if let Some(other) = other {
                socket.ask(other, "x")?;
            }
            socket.send("x")?;
            let answer = socket.receive()?;
            assert_eq!((reached(&answer), answer.1), (backend, Some(to)));
            assert_eq!(socket.peer_name()?, to);
        }
    }
    Ok(())
}
