//! What a test asks of a client process, and what it answers.
//!
//! In: nothing. Out: the words of both sides, as JSON lines. Never: a system call.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One system call that the client makes. `socket` is a descriptor that [`Call::Open`] answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are the arguments of the call")]
pub enum Call {
    /// `socket(2)`; what it waits for is given up after two seconds.
    Open { family: i32, kind: i32, protocol: i32 },
    /// `setsockopt(IPV6_V6ONLY)`.
    OnlyV6 { socket: i32 },
    /// `bind(2)`.
    Bind { socket: i32, to: SocketAddr },
    /// `connect(2)`.
    Connect { socket: i32, to: SocketAddr, by: By },
    /// `connect(2)` with `AF_UNSPEC`, which ends the association of a datagram socket.
    Disconnect { socket: i32 },
    /// `sendto(2)`, or `send(2)` without an address; `fast_open` is `MSG_FASTOPEN`.
    Send { socket: i32, to: Option<SocketAddr>, text: String, by: By, fast_open: bool },
    /// `sendmmsg(2)`: one datagram to each address.
    SendMany { socket: i32, to: Vec<SocketAddr>, text: String },
    /// `recvfrom(2)`, one datagram or piece.
    Receive { socket: i32, by: By },
    /// `recvmmsg(2)` of exactly this many datagrams.
    ReceiveMany { socket: i32, count: usize },
    /// `getpeername(2)`.
    PeerName { socket: i32 },
    /// `getsockname(2)`.
    SockName { socket: i32 },
    /// Threads that send through this one datagram socket at the same time, each `rounds` times to an address of its own.
    /// Answers each reply that did not come from the address that its datagram was sent to.
    Storm { socket: i32, to: Vec<SocketAddr>, rounds: usize },
    /// Each thread opens streams, connects each to several addresses in turn and asks for its peer after each; `rounds`
    /// streams a thread.
    Swarm { to: Vec<SocketAddr>, threads: usize, rounds: usize },
    /// Connects and closes a stream `count` times.
    Loop { to: SocketAddr, count: usize },
    /// Connects once to each address, one after the other; answers the backends that were reached.
    Which { to: Vec<SocketAddr> },
    /// Connects without a pause, each thread to one address after the other, and asks which backend it reached; until the
    /// file `stop` is there.
    Hammer { to: Vec<SocketAddr>, threads: usize, stop: PathBuf },
    /// `close(2)`.
    Close { socket: i32 },
}

/// How a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum By {
    /// The system call of that name.
    Call,
    /// A submission to an `io_uring`, done where it was submitted if that is possible.
    Ring,
    /// The same, done by one of the ring's worker threads.
    RingWorker,
}

/// What a call answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are what the call answers")]
pub enum Answer {
    Done,
    Socket(i32),
    Address(SocketAddr),
    /// What came, and from whom if the kernel told.
    Received {
        text: String,
        from: Option<SocketAddr>,
    },
    ReceivedMany(Vec<(String, Option<SocketAddr>)>),
    Wrong(Vec<String>),
    Backends(Vec<SocketAddr>),
    Hammered(Hammered),
    /// The call failed with this errno.
    Failed(i32),
}

/// What became of the connections of [`Call::Hammer`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hammered {
    /// Those that were answered.
    pub connects: u64,
    /// The longest that one took with its answer, microseconds.
    pub slowest_us: u64,
    /// Those that were not answered: the address dialled, how long it took and why.
    pub failures: Vec<String>,
    /// Who answered.
    pub reached: Vec<Reached>,
}

/// A backend that answered an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Which of the addresses was dialled.
    pub to: usize,
    /// The server's own address.
    pub backend: SocketAddr,
    /// When its last connection began, on the monotonic clock, nanoseconds.
    pub last_ns: u64,
}
