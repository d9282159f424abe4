//! TCP.

use std::time::{Duration, Instant};

use libc::{AF_INET, AF_INET6, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH};
use tests::poll;
use tests::sockets::call::By;
use tests::sockets::mapped;
use tests::topology::{BACKEND, BACKEND_2, v6};

use crate::{SERVER, TCP, UDP, WRITTEN, arena, errno, reached, server, tcp, udp};

#[test]
fn a_stream_to_either_family_reaches_a_backend_and_names_the_virtual_address() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let [vip4, vip6] = tcp(&arena, "both")?;
    for (family, vip, backend) in [(AF_INET, vip4, BACKEND), (AF_INET6, vip6, v6(BACKEND))] {
        // Often, so that a pick among both families would show.
        for _ in 0..12 {
            let stream = client.stream(family)?;
            stream.connect(vip)?;
            assert_eq!(stream.peer_name()?, vip);
            stream.send("x")?;
            assert_eq!(reached(&stream.receive()?), server(backend));
        }
    }
    Ok(())
}

#[test]
fn a_v6_stream_reaches_a_mapped_address() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    for name in ["both", "four"] {
        let vip = mapped(tcp(&arena, name)?[0]);
        let stream = client.stream(AF_INET6)?;
        stream.connect(vip)?;
        assert_eq!(stream.peer_name()?, vip);
        stream.send("x")?;
        assert_eq!(reached(&stream.receive()?), server(BACKEND));
    }
    Ok(())
}

#[test]
fn a_v6_address_with_v4_backends_works_unless_the_socket_is_v6_only() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let [_, vip6] = tcp(&arena, "four")?;
    let stream = client.stream(AF_INET6)?;
    stream.connect(vip6)?;
    assert_eq!(stream.peer_name()?, vip6);
    stream.send("x")?;
    assert_eq!(reached(&stream.receive()?), server(BACKEND));

    let strict = client.stream(AF_INET6)?;
    strict.only_v6()?;
    assert_eq!(errno(strict.connect(vip6)), ENETUNREACH);
    Ok(())
}

#[test]
fn v6_backends_are_refused_to_a_v4_stream_at_once() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let [vip4, vip6] = tcp(&arena, "six")?;
    assert_eq!(errno(client.stream(AF_INET)?.connect(vip4)), arena.refusal(EHOSTUNREACH));
    let stream = client.stream(AF_INET6)?;
    stream.connect(vip6)?;
    stream.send("x")?;
    assert_eq!(reached(&stream.receive()?), server(v6(BACKEND)));
    Ok(())
}

#[test]
fn a_port_or_protocol_that_is_not_listed_is_refused_on_an_automatic_address() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    for vip in tcp(&arena, "both")? {
        let family = if vip.is_ipv4() { AF_INET } else { AF_INET6 };
        for port in [SERVER, UDP, 1] {
            let began = Instant::now();
            let refused = client.stream(family)?.connect((vip.ip(), port).into());
            assert_eq!(errno(refused), arena.refusal(ECONNREFUSED), "{vip} {port}");
            assert!(began.elapsed() < poll::stretched(Duration::from_millis(500)));
        }
    }
    Ok(())
}

#[test]
fn a_port_that_is_not_listed_passes_on_an_address_that_a_person_wrote() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    for address in [BACKEND_2, v6(BACKEND_2)] {
        let stream = client.stream(if address.is_ipv4() { AF_INET } else { AF_INET6 })?;
        stream.connect(server(address))?;
        stream.send("x")?;
        assert_eq!(reached(&stream.receive()?), server(address));
        assert_eq!(stream.peer_name()?, server(address));
    }
    Ok(())
}

#[test]
fn a_written_address_is_balanced_and_may_be_the_backends_own() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    for (address, backend) in [(WRITTEN, BACKEND), (BACKEND_2, BACKEND_2), (v6(BACKEND_2), v6(BACKEND_2))] {
        let stream = client.stream(if address.is_ipv4() { AF_INET } else { AF_INET6 })?;
        stream.connect((address, TCP).into())?;
        assert_eq!(stream.peer_name()?, (address, TCP).into());
        stream.send("x")?;
        assert_eq!(reached(&stream.receive()?), server(backend));
    }
    Ok(())
}

#[test]
fn no_backend_is_unreachable_at_once() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    for (family, vip) in [AF_INET, AF_INET6].into_iter().zip(tcp(&arena, "none")?) {
        let began = Instant::now();
        assert_eq!(errno(client.stream(family)?.connect(vip)), arena.refusal(EHOSTUNREACH));
        assert!(began.elapsed() < poll::stretched(Duration::from_millis(500)));
    }
    Ok(())
}

#[test]
fn a_stream_that_connects_again_shows_only_its_last_peer() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let ([a, _], [c, _]) = (tcp(&arena, "a")?, tcp(&arena, "c")?);
    let stream = client.stream(AF_INET)?;
    for to in [a, c, server(BACKEND_2), a, server(BACKEND)] {
        stream.connect(to)?;
        assert_eq!(stream.peer_name()?, to);
        stream.disconnect()?;
    }
    // A refusal in between changes nothing.
    assert_eq!(errno(stream.connect(tcp(&arena, "none")?[0])), arena.refusal(EHOSTUNREACH));
    stream.connect(a)?;
    assert_eq!(stream.peer_name()?, a);
    Ok(())
}

#[test]
fn a_ring_and_fast_open_connect_like_any_other() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    for (family, vip) in [AF_INET, AF_INET6].into_iter().zip(tcp(&arena, "both")?) {
        let backend = server(if vip.is_ipv4() { BACKEND } else { v6(BACKEND) });
        for by in [By::Ring, By::RingWorker] {
            let stream = client.stream(family)?;
            match stream.connect_by(by, vip) {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    tests::skipped("this kernel forbids io_uring");
                    continue;
                }
                done => done?,
            }
            assert_eq!(stream.peer_name()?, vip);
            stream.send_by(by, None, "x")?;
            assert_eq!(reached(&stream.receive_by(by)?), backend);
        }
        let stream = client.stream(family)?;
        stream.send_fast(vip, "x")?;
        assert_eq!(reached(&stream.receive()?), backend);
        assert_eq!(stream.peer_name()?, vip);
    }
    Ok(())
}

#[test]
fn weights_are_shares_of_the_connections() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let [vip, _] = tcp(&arena, "weighted")?;
    let mut light = 0;
    for _ in 0..2000 {
        let stream = client.stream(AF_INET)?;
        stream.connect(vip)?;
        stream.send("x")?;
        light += u32::from(reached(&stream.receive()?) == server(BACKEND));
    }
    // A quarter of 2000, within 5 standard deviations; a third would be far outside.
    assert!((403..=597).contains(&light), "{light} of 2000");
    Ok(())
}

#[test]
fn a_connection_outlives_its_entry() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let text = crate::service("gone", &[(BACKEND, 1)], serde_json::json!({}));
    arena.write("gone.yaml", &text, &["gone.test"])?;
    let [vip, _] = tcp(&arena, "gone")?;
    let [dvip, _] = udp(&arena, "gone")?;
    let (stream, datagram) = (client.stream(AF_INET)?, client.datagram(AF_INET)?);
    stream.connect(vip)?;
    datagram.connect(dvip)?;
    arena.remove("gone.yaml", "gone.test")?;
    for (socket, vip) in [(&stream, vip), (&datagram, dvip)] {
        socket.send("x")?;
        assert_eq!(reached(&socket.receive()?), server(BACKEND));
        assert_eq!(socket.peer_name()?, vip);
    }
    Ok(())
}
