//! The server: it echoes, swallows and tells how much.
//!
//! In: addresses. Out: answers, one thread for each address. Never: a thread for each connection, whose
//! start would be measured as well.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

/// A client that stops half-way must not keep others from being served.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the server listens.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Listen {
    /// TCP: answers each byte with the low byte of the port, so that a client sees which server it reached
    #[arg(long)]
    pub echo: Vec<SocketAddr>,
    /// TCP: reads to the end, and answers how many bytes came
    #[arg(long)]
    pub sink: Vec<SocketAddr>,
    /// UDP: answers each datagram with one byte
    #[arg(long)]
    pub udp: Vec<SocketAddr>,
}

/// Listening sockets.
#[derive(Debug)]
pub(super) struct Server {
    echo: Vec<TcpListener>,
    sink: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

impl Server {
    pub(super) fn bind(listen: &Listen) -> anyhow::Result<Server> {
        let told = |address: &SocketAddr| format!("cannot listen on {address}");
        let tcp = |address: &SocketAddr| TcpListener::bind(address).with_context(|| told(address));
        let udp = |address: &SocketAddr| UdpSocket::bind(address).with_context(|| told(address));
        Ok(Server {
            echo: listen.echo.iter().map(tcp).collect::<Result<_, _>>()?,
            sink: listen.sink.iter().map(tcp).collect::<Result<_, _>>()?,
            udp: listen.udp.iter().map(udp).collect::<Result<_, _>>()?,
        })
    }

    /// Where it listens: echo, sink, UDP.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let tcp = self.echo.iter().chain(&self.sink).map(TcpListener::local_addr);
        tcp.chain(self.udp.iter().map(UdpSocket::local_addr)).collect()
    }

    /// Serves on threads that end with the process.
    pub(super) fn start(self) -> Vec<JoinHandle<()>> {
        let echo = self.echo.into_iter().map(|listener| {
            let mark = listener.local_addr().map_or(0, |address| address.port().to_be_bytes()[1]);
            std::thread::spawn(move || each(&listener, |stream| echo(stream, mark)))
        });
        let sink = self.sink.into_iter().map(|listener| std::thread::spawn(move || each(&listener, swallow)));
        let udp = self.udp.into_iter().map(|socket| std::thread::spawn(move || datagrams(&socket)));
        echo.chain(sink).chain(udp).collect()
    }
}

/// Serves until the process is ended.
///
/// # Errors
/// When an address cannot be had.
pub fn serve(listen: &Listen) -> anyhow::Result<()> {
    for thread in Server::bind(listen)?.start() {
        // Ends only by a panic, which has told its message.
        let _ = thread.join();
    }
    Ok(())
}

fn each(listener: &TcpListener, serve: impl Fn(TcpStream) -> io::Result<()>) {
    for stream in listener.incoming().flatten() {
        // A client that goes away is its own affair: it sees the failure.
        let _ = serve(stream);
    }
}

fn echo(mut stream: TcpStream, mark: u8) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = [0];
    while stream.read(&mut request)? > 0 {
        stream.write_all(&[mark])?;
    }
    Ok(())
}

fn swallow(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut chunk = vec![0; 256 << 10];
    let mut received = 0_u64;
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            bytes => received += bytes as u64,
        }
    }
    stream.write_all(&received.to_be_bytes())
}

fn datagrams(socket: &UdpSocket) {
    let mut request = [0; 64];
    loop {
        // An ICMP error of an earlier answer comes back here, and says nothing about the next request.
        if let Ok((_, from)) = socket.recv_from(&mut request) {
            let _ = socket.send_to(b"!", from);
        }
    }
}
