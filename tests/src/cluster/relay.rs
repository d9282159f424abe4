//! A way from this machine to a port of a network namespace.
//!
//! In: an address of the machine's own loopback network, and one of a namespace. Out: bytes, as they are. Never: a
//! connection that outlives either of its ends.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use anyhow::Context as _;

use crate::netns::Netns;

/// Passes on what reaches `from` to `to` in the namespace, until the process ends.
///
/// # Errors
/// When it cannot listen.
pub(super) fn start(from: SocketAddr, netns: &Netns, to: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(from).with_context(|| format!("cannot listen on {from}"))?;
    let netns = netns.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // Without a server, or without the namespace, the client's connection just ends.
            let Ok(Ok(server)) = netns.inside(|| TcpStream::connect(to)) else { continue };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { break };
                std::thread::spawn(move || pass(&from, &to));
            }
        }
    });
    Ok(())
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
