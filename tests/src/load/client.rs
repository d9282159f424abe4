//! The clients.
//!
//! In: a kind of traffic, an address, how long. Out: what it took. Never: a failure that is left out of the
//! count: any ends the measurement, but for datagrams that got lost.

use std::hint::black_box;
use std::io::{self, Error, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::{Kind, Summary};

/// What one system call writes in a bulk transfer.
const CHUNK_BYTES: usize = 128 << 10;
/// After this long an answer is late enough to be lost.
const LOST: Duration = Duration::from_millis(200);
/// After so many lost datagrams in a row, nobody answers.
const LOST_IN_A_ROW: u64 = 10;

/// Warms up for a tenth of the time, then measures for all of it.
///
/// # Errors
/// The first connection, write or read that fails.
pub fn measure(kind: Kind, to: SocketAddr, time: Duration) -> io::Result<Summary> {
    match kind {
        Kind::Crr => repeat(time, || {
            let mut stream = TcpStream::connect(to)?;
            ask(&mut stream)?;
            drop(stream);
            Ok(true)
        }),
        Kind::Rr => {
            let mut stream = TcpStream::connect(to)?;
            stream.set_nodelay(true)?;
            repeat(time, || ask(&mut stream).map(|()| true))
        }
        Kind::Stream => stream(to, time),
        Kind::Udp => datagrams(to, time),
    }
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"?")?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    black_box(answer);
    Ok(())
}

/// Measures each call of `request`, which says whether there was an answer.
fn repeat(time: Duration, mut request: impl FnMut() -> io::Result<bool>) -> io::Result<Summary> {
    // Room for a request each two microseconds, so that it need not grow.
    let mut samples = Vec::with_capacity(usize::try_from(time.as_micros() / 2).unwrap_or(0));
    let mut lost = 0;
    let warm = Instant::now();
    while warm.elapsed() < time / 10 {
        request()?;
    }
    let began = Instant::now();
    let mut last = began;
    while last.duration_since(began) < time {
        let answered = request()?;
        let now = Instant::now();
        if answered {
            let nanos = now.duration_since(last).as_nanos();
            samples.push(u64::try_from(nanos).unwrap_or(u64::MAX));
        } else {
            lost += 1;
        }
        last = now;
    }
    Ok(Summary::of(&mut samples, last.duration_since(began), lost))
}

fn stream(to: SocketAddr, time: Duration) -> io::Result<Summary> {
    let mut stream = TcpStream::connect(to)?;
    let chunk = vec![0_u8; CHUNK_BYTES];
    let began = Instant::now();
    while began.elapsed() < time {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    // What the server counted, so that bytes in buffers on the way do not count.
    let mut received = [0; 8];
    stream.read_exact(&mut received)?;
    let secs = began.elapsed().as_secs_f64();
    Ok(Summary { secs, bytes: u64::from_be_bytes(received), ..Summary::default() })
}

fn datagrams(to: SocketAddr, time: Duration) -> io::Result<Summary> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(LOST))?;
    let mut in_a_row = 0;
    repeat(time, || {
        socket.send_to(b"?", to)?;
        let mut answer = [0];
        match socket.recv_from(&mut answer) {
            Ok((_, from)) if from != to => {
                Err(Error::new(ErrorKind::InvalidData, format!("the answer came from {from}")))
            }
            Ok(_) => {
                in_a_row = 0;
                Ok(true)
            }
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                in_a_row += 1;
                if in_a_row < LOST_IN_A_ROW { Ok(false) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    })
}
