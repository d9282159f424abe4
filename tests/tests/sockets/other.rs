//! Protocols that are left alone, although the address, and for some the port, is an entry's.

use std::net::SocketAddr;

use libc::{
    AF_INET, EPROTONOSUPPORT, IPPROTO_ICMP, IPPROTO_MPTCP, IPPROTO_SCTP, IPPROTO_UDPLITE, SOCK_DGRAM,
    SOCK_STREAM,
};
use socket2::Socket;
use tests::sockets::{MPTCP, SET_RETVAL};
use tests::topology::BACKEND_2;

use crate::{TCP, UDP, arena, reached, server};

#[test]
fn mptcp_is_left_alone() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let to = SocketAddr::from((BACKEND_2, TCP));
    // The same by TCP is rewritten, so that this test can fail.
    let stream = client.stream(AF_INET)?;
    stream.connect(to)?;
    stream.send("x")?;
    assert_eq!(reached(&stream.receive()?), server(BACKEND_2));

    let stream = match client.open(AF_INET, SOCK_STREAM, IPPROTO_MPTCP) {
        Err(error) => {
            tests::skipped(&format!("this kernel has no MPTCP ({error})"));
            return Ok(());
        }
        Ok(stream) => stream,
    };
    stream.connect(to)?;
    stream.send("x")?;
    // Where the programs cannot tell the two apart, both are rewritten.
    let left = if arena.lacks(MPTCP) { server(BACKEND_2) } else { to };
    assert_eq!(reached(&stream.receive()?), left);
    assert_eq!(stream.peer_name()?, to);
    Ok(())
}

#[test]
fn what_the_kernel_lacks_is_named_at_the_start() -> anyhow::Result<()> {
    let log = arena()?.agent.log();
    for feature in [SET_RETVAL, MPTCP] {
        let says = log.lines().any(|line| line.contains("lacks a feature") && line.contains(feature.0));
        assert_eq!(says, arena()?.lacks(feature), "{}", feature.0);
    }
    Ok(())
}

#[test]
fn sctp_is_left_alone() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let socket = match client.open(AF_INET, SOCK_STREAM, IPPROTO_SCTP) {
        Err(error) if error.raw_os_error() == Some(EPROTONOSUPPORT) => {
            tests::skipped("this kernel has no SCTP");
            return Ok(());
        }
        socket => socket?,
    };
    let to = SocketAddr::from((BACKEND_2, TCP));
    let listener = arena.backend.inside(|| -> std::io::Result<Socket> {
        let socket = Socket::new(AF_INET.into(), SOCK_STREAM.into(), Some(IPPROTO_SCTP.into()))?;
        socket.bind(&to.into())?;
        socket.listen(1)?;
        Ok(socket)
    })??;
    socket.connect(to)?;
    assert_eq!(socket.peer_name()?, to);
    drop(listener);
    Ok(())
}

#[test]
fn icmp_is_left_alone() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    arena.sleep.set("net/ipv4/ping_group_range", "0 0")?;
    // An echo request; the kernel fills in identifier and checksum.
    let request = "\u{8}\0\0\0\0\0\0\u{1}ping";
    let to = SocketAddr::from((BACKEND_2, 0));
    let socket = client.open(AF_INET, SOCK_DGRAM, IPPROTO_ICMP)?;
    let (text, from) = socket.ask(to, request)?;
    assert!(text.ends_with("ping"), "{text:?}");
    assert_eq!(from, Some(to));
    socket.connect(SocketAddr::from((BACKEND_2, TCP)))?;
    assert_eq!(socket.peer_name()?.ip(), BACKEND_2);
    socket.send(request)?;
    assert!(socket.receive()?.0.ends_with("ping"));
    Ok(())
}

#[test]
fn udp_lite_is_left_alone() -> anyhow::Result<()> {
    let arena = arena()?;
    let client = arena.client(true)?;
    let to = SocketAddr::from((BACKEND_2, UDP));
    let socket = match client.open(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE) {
        Err(error) if error.raw_os_error() == Some(EPROTONOSUPPORT) => {
            tests::skipped("this kernel has no UDP-Lite");
            return Ok(());
        }
        socket => socket?,
    };
    let server = arena.backend.inside(|| -> std::io::Result<Socket> {
        let socket = Socket::new(AF_INET.into(), SOCK_DGRAM.into(), Some(IPPROTO_UDPLITE.into()))?;
        socket.bind(&to.into())?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
        Ok(socket)
    })??;
    for connects in [false, true] {
        if connects {
            socket.connect(to)?;
            assert_eq!(socket.peer_name()?, to);
            socket.send("x")?;
        } else {
            socket.send_to(to, "x")?;
        }
        let mut buffer = [std::mem::MaybeUninit::uninit(); 8];
        assert_eq!(server.recv_from(&mut buffer)?.0, 1);
    }
    Ok(())
}
