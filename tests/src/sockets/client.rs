//! A client process and its sockets, to use as if they were the test's own.
//!
//! In: a command line for `socket-client`. Out: sockets whose calls are made there. Never: a socket of this process.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::call::{Answer, By, Call};
use crate::poll;

/// How long a client may take to end.
const END: Duration = Duration::from_secs(10);

/// A process that makes system calls for a test.
#[derive(Debug)]
pub struct Client {
    child: Child,
    pipes: Mutex<(Option<ChildStdin>, BufReader<ChildStdout>)>,
}

/// What came in a datagram or a piece of a stream.
pub type Received = (String, Option<SocketAddr>);

impl Client {
    /// Starts it, and returns when it makes calls: a command that enrols it first needs its agent until then.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Client> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let missing = || io::Error::other("a pipe is missing");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        let client = Client { child, pipes: Mutex::new((Some(input), BufReader::new(output))) };
        drop(client.stream(libc::AF_INET)?);
        Ok(client)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Makes one call.
    ///
    /// # Errors
    /// The call's own errno; an error without one when the process is gone.
    pub fn call(&self, call: &Call) -> io::Result<Answer> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let (input, output) = &mut *pipes;
        let mut line = serde_json::to_string(call)?;
        line.push('\n');
        input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write_all(line.as_bytes())?;
        line.clear();
        output.read_line(&mut line)?;
        match serde_json::from_str(&line)? {
            Answer::Failed(errno) => Err(io::Error::from_raw_os_error(errno)),
            answer => Ok(answer),
        }
    }

    /// See [`Call::Swarm`]; answers the peers that were not those dialled.
    ///
    /// # Errors
    /// That of the first call that fails.
    pub fn swarm(&self, to: &[SocketAddr], threads: usize, rounds: usize) -> io::Result<Vec<String>> {
        match self.call(&Call::Swarm { to: to.to_vec(), threads, rounds })? {
            Answer::Wrong(wrong) => Ok(wrong),
            other => Err(unexpected(&other)),
        }
    }

    /// The backends that these addresses lead to now.
    ///
    /// # Errors
    /// That of the first connection that fails.
    pub fn which(&self, to: &[SocketAddr]) -> io::Result<Vec<SocketAddr>> {
        match self.call(&Call::Which { to: to.to_vec() })? {
            Answer::Backends(backends) => Ok(backends),
            other => Err(unexpected(&other)),
        }
    }

    /// A socket of this family, kind and protocol.
    ///
    /// # Errors
    /// As the call.
    pub fn open(&self, family: i32, kind: i32, protocol: i32) -> io::Result<Remote<'_>> {
        match self.call(&Call::Open { family, kind, protocol })? {
            Answer::Socket(socket) => Ok(Remote { client: self, socket }),
            other => Err(unexpected(&other)),
        }
    }

    /// A stream socket of the family of `AF_…`.
    ///
    /// # Errors
    /// As the call.
    pub fn stream(&self, family: i32) -> io::Result<Remote<'_>> {
        self.open(family, libc::SOCK_STREAM, 0)
    }

    /// A datagram socket of the family of `AF_…`.
    ///
    /// # Errors
    /// As the call.
    pub fn datagram(&self, family: i32) -> io::Result<Remote<'_>> {
        self.open(family, libc::SOCK_DGRAM, 0)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The end of its input ends it, unless a call hangs.
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner).0 = None;
        let ended = || self.child.try_wait().ok().flatten();
        if poll::until("the client to end", END, ended).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn unexpected(answer: &Answer) -> io::Error {
    io::Error::other(format!("the client answered {answer:?}"))
}

/// A socket of a client process; dropping it closes it.
#[derive(Debug)]
pub struct Remote<'a> {
    client: &'a Client,
    socket: i32,
}

#[expect(missing_docs, reason = "each is the system call of that name")]
#[expect(clippy::missing_errors_doc, reason = "the errno of the call")]
impl Remote<'_> {
    fn done(&self, call: &Call) -> io::Result<()> {
        match self.client.call(call)? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    pub fn only_v6(&self) -> io::Result<()> {
        self.done(&Call::OnlyV6 { socket: self.socket })
    }

    pub fn bind(&self, to: SocketAddr) -> io::Result<()> {
        self.done(&Call::Bind { socket: self.socket, to })
    }

    pub fn connect(&self, to: SocketAddr) -> io::Result<()> {
        self.connect_by(By::Call, to)
    }

    pub fn connect_by(&self, by: By, to: SocketAddr) -> io::Result<()> {
        self.done(&Call::Connect { socket: self.socket, to, by })
    }

    pub fn disconnect(&self) -> io::Result<()> {
        self.done(&Call::Disconnect { socket: self.socket })
    }

    pub fn send(&self, text: &str) -> io::Result<()> {
        self.send_by(By::Call, None, text)
    }

    pub fn send_to(&self, to: SocketAddr, text: &str) -> io::Result<()> {
        self.send_by(By::Call, Some(to), text)
    }

    pub fn send_by(&self, by: By, to: Option<SocketAddr>, text: &str) -> io::Result<()> {
        let text = text.to_owned();
        self.done(&Call::Send { socket: self.socket, to, text, by, fast_open: false })
    }

    /// Connects by sending.
    pub fn send_fast(&self, to: SocketAddr, text: &str) -> io::Result<()> {
        let text = text.to_owned();
        self.done(&Call::Send { socket: self.socket, to: Some(to), text, by: By::Call, fast_open: true })
    }

    pub fn send_many(&self, to: &[SocketAddr], text: &str) -> io::Result<()> {
        self.done(&Call::SendMany { socket: self.socket, to: to.to_vec(), text: text.to_owned() })
    }

    pub fn receive(&self) -> io::Result<Received> {
        self.receive_by(By::Call)
    }

    pub fn receive_by(&self, by: By) -> io::Result<Received> {
        match self.client.call(&Call::Receive { socket: self.socket, by })? {
            Answer::Received { text, from } => Ok((text, from)),
            other => Err(unexpected(&other)),
        }
    }

    pub fn receive_many(&self, count: usize) -> io::Result<Vec<Received>> {
        match self.client.call(&Call::ReceiveMany { socket: self.socket, count })? {
            Answer::ReceivedMany(all) => Ok(all),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends and receives the answer.
    pub fn ask(&self, to: SocketAddr, text: &str) -> io::Result<Received> {
        self.send_to(to, text)?;
        self.receive()
    }

    pub fn peer_name(&self) -> io::Result<SocketAddr> {
        self.address(&Call::PeerName { socket: self.socket })
    }

    pub fn sock_name(&self) -> io::Result<SocketAddr> {
        self.address(&Call::SockName { socket: self.socket })
    }

    fn address(&self, call: &Call) -> io::Result<SocketAddr> {
        match self.client.call(call)? {
            Answer::Address(address) => Ok(address),
            other => Err(unexpected(&other)),
        }
    }

    /// See [`Call::Storm`].
    pub fn storm(&self, to: &[SocketAddr], rounds: usize) -> io::Result<Vec<String>> {
        match self.client.call(&Call::Storm { socket: self.socket, to: to.to_vec(), rounds })? {
            Answer::Wrong(wrong) => Ok(wrong),
            other => Err(unexpected(&other)),
        }
    }
}

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        let _ = self.client.call(&Call::Close { socket: self.socket });
    }
}
