//! Listening sockets on their way from one process to the next.
//!
//! In: descriptors. Out: the same with what they are: transport and address, as the kernel says. Never: trust in what
//! the giver says of them.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{SockType, getsockopt, sockopt};

use crate::model::Namespace;

/// The listeners of one namespace.
#[derive(Debug)]
pub struct HandedBlock {
    /// Whose clients are led to them.
    pub namespace: Namespace,
    /// The first port.
    pub base_port: u16,
    /// The sockets, in any order.
    pub sockets: Vec<HandedSocket>,
}

/// A socket that listens already.
#[derive(Debug)]
pub enum HandedSocket {
    /// Takes datagrams.
    Udp(UdpSocket),
    /// Takes connections.
    Tcp(TcpListener),
}

impl HandedSocket {
    /// Looks at what a descriptor is.
    ///
    /// # Errors
    /// It is no socket of UDP or listening TCP; it cannot serve DNS.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let socket = match getsockopt(&fd, sockopt::SockType)? {
            SockType::Datagram => Self::Udp(fd.into()),
            SockType::Stream if getsockopt(&fd, sockopt::AcceptConn)? => Self::Tcp(fd.into()),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a listening socket")),
        };
        // An address that is not of the internet families is an error here.
        socket.address()?;
        Ok(socket)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The kernel does not say, or it is of another family than IPv4 and IPv6.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Udp(socket) => socket.local_addr(),
            Self::Tcp(socket) => socket.local_addr(),
        }
    }
}

impl AsFd for HandedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl From<HandedSocket> for OwnedFd {
    fn from(socket: HandedSocket) -> Self {
        match socket {
            HandedSocket::Udp(socket) => socket.into(),
            HandedSocket::Tcp(socket) => socket.into(),
        }
    }
}
