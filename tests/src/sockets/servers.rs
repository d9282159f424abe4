//! Servers that tell each client which of their addresses it reached: `10.244.1.7:9000 10.244.1.6:40000 TEXT`.
//!
//! In: a namespace and an address. Out: a thread that answers until the process ends. Never: an external program.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;

use anyhow::Context as _;
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};

use crate::netns::Netns;

/// Answers each piece of a stream with both addresses and the piece.
///
/// # Errors
/// When it cannot listen.
pub fn stream(netns: &Netns, address: SocketAddr) -> anyhow::Result<()> {
    let listener = netns.inside(|| TcpListener::bind(address))?;
    let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || -> std::io::Result<()> {
                let addresses = format!("{} {} ", stream.local_addr()?, stream.peer_addr()?);
                let mut buffer = [0; 2048];
                loop {
                    let length = stream.read(&mut buffer)?;
                    if length == 0 {
                        return Ok(());
                    }
                    stream.write_all(&[addresses.as_bytes(), &buffer[..length]].concat())?;
                }
            });
        }
    });
    Ok(())
}

/// Answers each datagram with both addresses and the datagram; the socket is there to send more with.
///
/// # Errors
/// When it cannot be bound.
pub fn datagram(netns: &Netns, address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = netns.inside(|| UdpSocket::bind(address))?;
    let socket = socket.with_context(|| format!("cannot bind {address}"))?;
    let answers = socket.try_clone()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = answers.recv_from(&mut buffer) {
            let text = [format!("{address} {from} ").as_bytes(), &buffer[..length]].concat();
            // A client that is gone already.
            let _ = answers.send_to(&text, from);
        }
    });
    Ok(socket)
}

/// The same on every IPv4 address that the namespace takes for its own; each answer comes from the address asked.
///
/// # Errors
/// When it cannot be bound.
pub fn datagram_on_all(netns: &Netns, port: u16) -> anyhow::Result<()> {
    let socket = netns.inside(|| UdpSocket::bind(("0.0.0.0", port)))??;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    std::thread::spawn(move || -> nix::Result<()> {
        loop {
            let mut buffer = [0; 2048];
            let mut control = cmsg_space!(libc::in_pktinfo);
            let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
            let got =
                recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
            let (length, from) = (got.bytes, got.address);
            let Some(mut asked) = got.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
                _ => None,
            }) else {
                continue;
            };
            asked.ipi_ifindex = 0;
            asked.ipi_spec_dst = asked.ipi_addr;
            let own = std::net::Ipv4Addr::from(u32::from_be(asked.ipi_addr.s_addr));
            let client = from.map(|from| from.to_string()).unwrap_or_default();
            let text = [format!("{own}:{port} {client} ").as_bytes(), &buffer[..length]].concat();
            let control = [ControlMessage::Ipv4PacketInfo(&asked)];
            let parts = [std::io::IoSlice::new(&text)];
            let _ = sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), from.as_ref());
        }
    });
    Ok(())
}
