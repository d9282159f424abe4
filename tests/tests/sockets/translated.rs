//! Backends that somebody else, at a cgroup above, turns into other addresses: ClusterIPs.

use std::net::{Ipv4Addr, SocketAddrV4};

use libc::{AF_INET, AF_INET6};
use tests::sockets::translator::Translator;
use tests::sockets::{mapped, servers};

use crate::{CLUSTER, SERVER, arena, reached, tcp, udp};

/// Nobody else's peer: all sockets of the node whose peer it is show the ClusterIP instead while the translator is there.
const POD: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 245, 254, 1), SERVER);

/// The programs of a descendant run first: ours make the ClusterIP, the translator makes the pod.
#[test]
fn a_backend_that_is_a_cluster_ip_works_and_the_virtual_address_is_shown() -> anyhow::Result<()> {
    let arena = arena()?;
    servers::stream(&arena.backend, POD.into())?;
    servers::datagram(&arena.backend, POD.into())?;
    let cluster = SocketAddrV4::new(CLUSTER, SERVER);
    let _translator = Translator::attach(&arena.parent, cluster, POD)?;
    let client = arena.client(true)?;
    // The translator is at work, for those who dial the ClusterIP themselves too.
    let stream = client.stream(AF_INET)?;
    stream.connect(cluster.into())?;
    assert_eq!(stream.peer_name()?, cluster.into());
    stream.send("x")?;
    assert_eq!(reached(&stream.receive()?), POD.into());

    let ([vip, _], [dvip, _]) = (tcp(&arena, "cluster")?, udp(&arena, "cluster")?);
    let stream = client.stream(AF_INET)?;
    stream.connect(vip)?;
    stream.send("x")?;
    assert_eq!(reached(&stream.receive()?), POD.into());
    assert_eq!(stream.peer_name()?, vip);

    let socket = client.datagram(AF_INET)?;
    socket.connect(dvip)?;
    socket.send("x")?;
    let answer = socket.receive()?;
    assert_eq!((reached(&answer), answer.1), (POD.into(), Some(dvip)));
    assert_eq!(socket.peer_name()?, dvip);

    // Reply hooks run in the same order as the others, so here ours cannot undo what it did: the limit.
    let answer = client.datagram(AF_INET)?.ask(dvip, "x")?;
    assert_eq!((reached(&answer), answer.1), (POD.into(), Some(cluster.into())));
    // A mapped address is no case of its own.
    let answer = client.datagram(AF_INET6)?.ask(mapped(dvip), "x")?;
    assert_eq!(reached(&answer), POD.into());
    Ok(())
}
