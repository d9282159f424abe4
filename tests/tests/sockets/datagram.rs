//! UDP: one peer at a time.

use std::time::{Duration, Instant};

use libc::{AF_INET, AF_INET6, ECONNREFUSED, EHOSTUNREACH};
use tests::poll;
use tests::sockets::call::By;
use tests::sockets::mapped;
use tests::topology::{BACKEND, BACKEND_2, v6};

use crate::{SERVER, TCP, UDP, arena, errno, reached, server, udp};

#[test]
fn a_connected_datagram_socket_sees_only_the_virtual_address() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let [vip4, vip6] = udp(&arena, "both")?;
    for (family, vip, backend) in
        [(AF_INET, vip4, BACKEND), (AF_INET6, vip6, v6(BACKEND)), (AF_INET6, mapped(vip4), BACKEND)]
    {
        for _ in 0..6 {
            let socket = client.datagram(family)?;
            socket.connect(vip)?;
            assert_eq!(socket.peer_name()?, vip);
            socket.send("x")?;
            let answer = socket.receive()?;
            assert_eq!((reached(&answer), answer.1), (server(backend), Some(vip)));
        }
    }
    Ok(())
}

#[test]
fn an_unconnected_datagram_socket_sees_only_the_virtual_address() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let [vip4, vip6] = udp(&arena, "both")?;
    for (family, vip, backend) in
        [(AF_INET, vip4, BACKEND), (AF_INET6, vip6, v6(BACKEND)), (AF_INET6, mapped(vip4), BACKEND)]
    {
        for _ in 0..6 {
            let answer = client.datagram(family)?.ask(vip, "x")?;
            assert_eq!((reached(&answer), answer.1), (server(backend), Some(vip)));
        }
    }
    // An IPv6 socket may be given an IPv4 address too; the kernel shows its senders mapped.
    let answer = client.datagram(AF_INET6)?.ask(vip4, "x")?;
    assert_eq!((reached(&answer), answer.1), (server(BACKEND), Some(mapped(vip4))));
    Ok(())
}

#[test]
fn a_v6_address_with_v4_backends_works_by_connect_and_is_refused_by_sendto() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let [_, vip6] = udp(&arena, "four")?;
    let socket = client.datagram(AF_INET6)?;
    socket.connect(vip6)?;
    assert_eq!(socket.peer_name()?, vip6);
    socket.send("x")?;
    let answer = socket.receive()?;
    assert_eq!((reached(&answer), answer.1), (server(BACKEND), Some(vip6)));

    let refused = client.datagram(AF_INET6)?.send_to(vip6, "x");
    assert_eq!(errno(refused), arena.refusal(EHOSTUNREACH));
    Ok(())
}

#[test]
fn v6_backends_are_refused_to_a_v4_datagram() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let [vip4, _] = udp(&arena, "six")?;
    assert_eq!(errno(client.datagram(AF_INET)?.connect(vip4)), arena.refusal(EHOSTUNREACH));
    assert_eq!(errno(client.datagram(AF_INET)?.send_to(vip4, "x")), arena.refusal(EHOSTUNREACH));
    assert_eq!(errno(client.datagram(AF_INET6)?.send_to(mapped(vip4), "x")), arena.refusal(EHOSTUNREACH));
    Ok(())
}

#[test]
fn no_backend_is_unreachable_by_connect_and_by_sendto() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    for (family, vip) in [AF_INET, AF_INET6].into_iter().zip(udp(&arena, "none")?) {
        let began = Instant::now();
        assert_eq!(errno(client.datagram(family)?.connect(vip)), arena.refusal(EHOSTUNREACH));
        assert_eq!(errno(client.datagram(family)?.send_to(vip, "x")), arena.refusal(EHOSTUNREACH));
        assert!(began.elapsed() < poll::stretched(Duration::from_millis(500)));
    }
    Ok(())
}

#[test]
fn a_port_or_protocol_that_is_not_listed_is_refused_by_sendto_and_sorted_by_connect() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    for (family, vip) in [AF_INET, AF_INET6].into_iter().zip(udp(&arena, "both")?) {
        for port in [SERVER, TCP] {
            let to = (vip.ip(), port).into();
            assert_eq!(errno(client.datagram(family)?.send_to(to, "x")), arena.refusal(ECONNREFUSED));
            // Resolver libraries do this to sort addresses.
            client.datagram(family)?.connect(to)?;
        }
    }
    // An address that a person wrote may be real.
    let answer = client.datagram(AF_INET)?.ask(server(BACKEND_2), "x")?;
    assert_eq!((reached(&answer), answer.1), (server(BACKEND_2), Some(server(BACKEND_2))));
    Ok(())
}

#[test]
fn a_datagram_to_an_address_that_is_the_backends_own_is_balanced() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    for (family, address) in [(AF_INET, BACKEND_2), (AF_INET6, v6(BACKEND_2))] {
        let to = (address, UDP).into();
        let answer = client.datagram(family)?.ask(to, "x")?;
        assert_eq!((reached(&answer), answer.1), (server(address), Some(to)));
    }
    Ok(())
}

#[test]
fn the_unspecified_address_is_the_loopback() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let (any6, own6): (std::net::IpAddr, std::net::IpAddr) = ("::".parse()?, "::1".parse()?);
    // Not ours: as without the agent.
    let own = tests::sockets::servers::datagram(&arena.sleep, (own6, 0).into())?.local_addr()?;
    let (text, from) = client.datagram(AF_INET6)?.ask((any6, own.port()).into(), "x")?;
    assert!(text.ends_with(" x"), "{text}");
    assert_eq!(from, Some(own));
    // Ours: found by the address that it means.
    for connects in [false, true] {
        let socket = client.datagram(AF_INET6)?;
        let to = (any6, UDP).into();
        if connects {
            socket.connect(to)?;
            socket.send("x")?;
        } else {
            socket.send_to(to, "x")?;
        }
        let answer = socket.receive()?;
        assert_eq!((reached(&answer), answer.1), (server(v6(BACKEND)), Some((own6, UDP).into())));
    }
    Ok(())
}

#[test]
fn many_at_once_and_rings_are_like_single_calls() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let ([a, _], [c, _], [_, six]) = (udp(&arena, "a")?, udp(&arena, "c")?, udp(&arena, "six")?);
    let socket = client.datagram(AF_INET)?;
    let to = [a, c, a, server(BACKEND_2), a];
    socket.send_many(&to, "x")?;
    let mut seen = socket.receive_many(to.len())?;
    seen.sort();
    let count = |backend, from| {
        let same = |got: &&_| (reached(got), got.1) == (server(backend), Some(from));
        seen.iter().filter(same).count()
    };
    // The last word on the second backend's address was its own name.
    assert_eq!((count(BACKEND, a), count(BACKEND_2, server(BACKEND_2))), (3, 2), "{seen:?}");

    for (family, vip, backend) in [(AF_INET, a, BACKEND), (AF_INET6, six, v6(BACKEND))] {
        for by in [By::Ring, By::RingWorker] {
            let socket = client.datagram(family)?;
            match socket.send_by(by, Some(vip), "x") {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    tests::skipped("this kernel forbids io_uring");
                    continue;
                }
                done => done?,
            }
            let answer = socket.receive_by(by)?;
            assert_eq!((reached(&answer), answer.1), (server(backend), Some(vip)));
        }
    }
    Ok(())
}
