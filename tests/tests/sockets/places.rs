//! Sockets that want the same place in `kmse_conn`: one of them has it, the others use their own storage.

use std::path::Path;

use libc::AF_INET;
use tests::sockets::{Arena, servers};
use tests::topology::{BACKEND, BACKEND_2};

use crate::{entries, server, tcp, udp};

/// A node whose table has so few places.
fn node(places: u32) -> anyhow::Result<Arena> {
    let client = Path::new(env!("CARGO_BIN_EXE_socket-client"));
    let arena = Arena::start_with(client, &entries(), |flags| {
        flags.more.extend(["--max-connections".to_owned(), places.to_string()]);
    })?;
    for address in [BACKEND, BACKEND_2] {
        servers::stream(&arena.backend, server(address))?;
        servers::datagram(&arena.backend, server(address))?;
    }
    arena.agent.until_serves("cluster.test", true)?;
    Ok(arena)
}

#[test]
fn sockets_that_want_the_same_place_keep_their_own_peers() -> anyhow::Result<()> {
    let arena = node(1)?;
    let client = arena.client(true)?;
    let ([a, _], [c, _]) = (tcp(&arena, "a")?, tcp(&arena, "c")?);
    let (first, second, third) =
        (client.stream(AF_INET)?, client.stream(AF_INET)?, client.datagram(AF_INET)?);
    let datagrams = udp(&arena, "a")?[0];
    first.connect(a)?;
    second.connect(c)?;
    third.connect(datagrams)?;
    assert_eq!((first.peer_name()?, second.peer_name()?, third.peer_name()?), (a, c, datagrams));
    // Also when the place is free again, and when the second is used for something else.
    drop(first);
    assert_eq!(second.peer_name()?, c);
    for to in [a, server(BACKEND), c, server(BACKEND_2)] {
        second.disconnect()?;
        second.connect(to)?;
        assert_eq!(second.peer_name()?, to);
    }
    // The place goes on to the third, whose answers have the right name from either.
    drop(second);
    for _ in 0..2 {
        third.send("x")?;
        assert_eq!(third.receive()?.1, Some(datagrams));
        third.connect(datagrams)?;
    }
    third.connect(server(BACKEND))?;
    assert_eq!(third.peer_name()?, server(BACKEND));
    Ok(())
}

#[test]
fn threads_whose_sockets_fight_for_two_places_see_their_own_peers() -> anyhow::Result<()> {
    let arena = node(2)?;
    let client = arena.client(true)?;
    let to = [tcp(&arena, "a")?[0], server(BACKEND), tcp(&arena, "c")?[0], server(BACKEND_2)];
    assert_eq!(client.swarm(&to, 8, 60)?, Vec::<String>::new());
    Ok(())
}
