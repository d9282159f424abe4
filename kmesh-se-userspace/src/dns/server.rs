//! The sockets: one port for each pair of namespace and captured resolver, so that the port says both.
//!
//! In: queries on loopback or node-local addresses. Out: replies from the port that was asked. Never: a
//! namespace guessed from a source address.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Decision, DnsConfig, DnsError, DnsStats, MAX_RESOLVERS, NameTable, Transport, answer,
    answer::server_failure,
    forward::forward,
    stats::{Counters, count},
    tcp,
};
use crate::model::Namespace;

/// The largest query taken over UDP, in bytes; more is cut, and then malformed.
const QUERY_SIZE_MAX: usize = 4096;

/// Queries of one TCP connection that are under way at one time; the next is read when one is done.
const PIPELINE: usize = 16;

/// How often a loop without queries says that it is there.
const BEAT: Duration = Duration::from_millis(250);

/// The DNS server of a node. Dropping it closes its ports soon after; `unlisten` waits until they are.
pub struct DnsServer {
    addr: IpAddr,
    base_port: u16,
    shared: Arc<Shared>,
    blocks: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    /// The first namespace that listened: the block at the base port is kept for it.
    first: Option<Namespace>,
    listening: HashMap<Namespace, Block>,
}

/// The listeners of one namespace.
struct Block {
    base_port: u16,
    stop: CancellationToken,
    tasks: TaskTracker,
    beats: Vec<Arc<AtomicU64>>,
}

impl Drop for Block {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Shared {
    upstreams: Vec<SocketAddr>,
    table: Arc<NameTable>,
    config: DnsConfig,
    counters: Counters,
    forwards: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    started: Instant,
}

impl DnsServer {
    /// A server for the captured resolvers `upstreams` that does not listen yet. `listen_addr` must be one
    /// address, not a wildcard: replies come from it.
    ///
    /// # Errors
    /// When the number of resolvers or the base port is out of range; the configuration must change.
    pub fn new(
        listen_addr: IpAddr,
        base_port: u16,
        upstreams: Vec<SocketAddr>,
        table: Arc<NameTable>,
        config: DnsConfig,
    ) -> Result<Self, DnsError> {
        if upstreams.is_empty() || upstreams.len() > MAX_RESOLVERS {
            return Err(DnsError::ResolverCount { count: upstreams.len() });
        }
        let count = upstreams.len() as u16;
        if base_port == 0 || base_port.checked_add(count - 1).is_none() {
            return Err(DnsError::PortRange { base_port, count });
        }
        let shared = Shared {
            forwards: Arc::new(Semaphore::new(config.max_forwards.min(Semaphore::MAX_PERMITS))),
            connections: Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS))),
            upstreams,
            table,
            config,
            counters: Counters::default(),
            started: Instant::now(),
        };
        Ok(Self { addr: listen_addr, base_port, shared: Arc::new(shared), blocks: Mutex::default() })
    }

    /// Listens for the clients of `namespace`, over UDP and TCP, and says at which port its block begins:
    /// queries for resolver `i` are served at that port + `i`. The first namespace gets the server's base
    /// port, each other one the next free block. A namespace that is listened for keeps its block.
    ///
    /// # Errors
    /// When the first block is in use or no block is free; nothing is listened for then, and trying again
    /// later can help.
    pub async fn listen(&self, namespace: Namespace) -> Result<u16, DnsError> {
        let mut blocks = self.blocks();
        if let Some(block) = blocks.listening.get(&namespace) {
            return Ok(block.base_port);
        }
        let is_first = blocks.first.as_ref().is_none_or(|first| *first == namespace);
        let (base_port, sockets) =
            if is_first { (self.base_port, self.bind(self.base_port)?) } else { self.bind_free(&namespace)? };
        blocks.first.get_or_insert_with(|| namespace.clone());
        let block = self.serve(&namespace, base_port, sockets);
        blocks.listening.insert(namespace, block);
        Ok(base_port)
    }

    /// Closes the ports of `namespace` once what is under way has been dropped; false if it had none.
    pub async fn unlisten(&self, namespace: &Namespace) -> bool {
        let Some(block) = self.blocks().listening.remove(namespace) else { return false };
        block.stop.cancel();
        block.tasks.wait().await;
        tracing::info!(namespace = %namespace, port = block.base_port, "dns listener closed");
        true
    }

    /// What the server did so far.
    #[must_use]
    pub fn stats(&self) -> DnsStats {
        self.shared.counters.snapshot()
    }

    /// When the loop that has been silent for longest last said that it serves; none while nothing listens.
    /// The heartbeat that the kernel looks at is to be taken from here, so that it stops when serving stops.
    #[must_use]
    pub fn last_beat(&self) -> Option<Instant> {
        let blocks = self.blocks();
        let beats = blocks.listening.values().flat_map(|block| &block.beats);
        let oldest = beats.map(|beat| beat.load(Ordering::Relaxed)).min()?;
        Some(self.shared.started + Duration::from_millis(oldest))
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> u16 {
        // Checked when the server was made.
        self.shared.upstreams.len() as u16
    }

    fn bind_free(&self, namespace: &Namespace) -> Result<(u16, Vec<(UdpSocket, TcpListener)>), DnsError> {
        let count = self.count();
        let mut base_port = self.base_port;
        loop {
            let next = base_port.checked_add(count).filter(|next| next.checked_add(count - 1).is_some());
            base_port = next.ok_or_else(|| DnsError::NoFreeBlock {
                addr: self.addr,
                base_port: self.base_port,
                count,
                namespace: namespace.clone(),
            })?;
            match self.bind(base_port) {
                Ok(sockets) => return Ok((base_port, sockets)),
                Err(DnsError::PortInUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn bind(&self, base_port: u16) -> Result<Vec<(UdpSocket, TcpListener)>, DnsError> {
        let addr = self.addr;
        (base_port..=base_port + (self.count() - 1))
            .map(|port| {
                bind((addr, port).into()).map_err(|source| {
                    if source.kind() == io::ErrorKind::AddrInUse {
                        DnsError::PortInUse { addr, port, source }
                    } else {
                        DnsError::Bind { addr, port, source }
                    }
                })
            })
            .collect()
    }

    fn serve(&self, namespace: &Namespace, base_port: u16, sockets: Vec<(UdpSocket, TcpListener)>) -> Block {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.close();
        let mut beats = Vec::new();
        for ((udp, tcp), port, upstream) in sockets
            .into_iter()
            .zip(base_port..)
            .zip(&self.shared.upstreams)
            .map(|((sockets, port), upstream)| (sockets, port, *upstream))
        {
            let mut beat = || {
                let beat = Arc::new(AtomicU64::new(self.shared.now_millis()));
                beats.push(Arc::clone(&beat));
                beat
            };
            let listener = Arc::new(Listener {
                namespace: namespace.clone(),
                upstream,
                shared: Arc::clone(&self.shared),
                stop: stop.clone(),
                tasks: tasks.clone(),
            });
            listener.spawn(Arc::clone(&listener).serve_udp(Arc::new(udp), beat()));
            listener.spawn(Arc::clone(&listener).serve_tcp(tcp, beat()));
            tracing::info!(addr = %self.addr, port, namespace = %namespace, resolver = %upstream, "dns listens");
        }
        Block { base_port, stop, tasks, beats }
    }
}

fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = StdUdpSocket::bind(address)?;
    let tcp = StdTcpListener::bind(address)?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
}

impl Shared {
    fn now_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// One port: what its clients see, and whom they asked.
struct Listener {
    namespace: Namespace,
    upstream: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What is left to do for a query that our table did not settle.
enum Next {
    Reply(Vec<u8>),
    Forward(OwnedSemaphorePermit),
    Nothing,
}

impl Listener {
    /// Runs `work` until it is done or the listener closes.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>, beat: Arc<AtomicU64>) {
        let mut buffer = vec![0; QUERY_SIZE_MAX];
        loop {
            beat.store(self.shared.now_millis(), Ordering::Relaxed);
            let received = tokio::select! {
                // A busy loop needs no timer.
                biased;
                received = socket.recv_from(&mut buffer) => received,
                () = tokio::time::sleep(BEAT) => continue,
            };
            let (length, client) = match received {
                Ok(received) => received,
                Err(error) => {
                    // An ICMP error about an earlier reply is reported here, and concerns nobody else.
                    tracing::debug!(%error, namespace = %self.namespace, "dns query not received");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let query = &buffer[..length];
            match self.decide(Transport::Udp, query) {
                Next::Reply(reply) => send(&socket, &reply, client).await,
                Next::Forward(permit) => {
                    let (listener, socket, query) = (Arc::clone(&self), Arc::clone(&socket), query.to_vec());
                    self.spawn(async move {
                        let reply = listener.forward(Transport::Udp, &query).await;
                        drop(permit);
                        if let Some(reply) = reply {
                            send(&socket, &reply, client).await;
                        }
                    });
                }
                Next::Nothing => {}
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, socket: TcpListener, beat: Arc<AtomicU64>) {
        loop {
            beat.store(self.shared.now_millis(), Ordering::Relaxed);
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = tokio::time::sleep(BEAT) => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    if let Ok(permit) = Arc::clone(&self.shared.connections).try_acquire_owned() {
                        let listener = Arc::clone(&self);
                        self.spawn(async move {
                            listener.serve_connection(stream).await;
                            drop(permit);
                        });
                    } else {
                        count(&self.shared.counters.refused_connections);
                    }
                }
                Err(error) => {
                    // Out of files, most likely: the next try would fail the same way at once.
                    tracing::warn!(%error, namespace = %self.namespace, "dns connection not accepted");
                    tokio::time::sleep(BEAT).await;
                }
            }
        }
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream) {
        let (mut reader, mut writer) = stream.into_split();
        let (replies, mut unsent) = mpsc::channel::<Vec<u8>>(PIPELINE);
        let idle = self.shared.config.tcp_idle;
        self.spawn(async move {
            while let Some(reply) = unsent.recv().await {
                // A client that does not read loses its connection: dropping `unsent` ends the reader.
                let written = tokio::time::timeout(idle, tcp::write(&mut writer, &reply)).await;
                if !matches!(written, Ok(Ok(()))) {
                    return;
                }
            }
        });
        let pipeline = Arc::new(Semaphore::new(PIPELINE));
        loop {
            let Ok(slot) = Arc::clone(&pipeline).acquire_owned().await else { return };
            let query = tokio::select! {
                () = replies.closed() => return,
                query = tokio::time::timeout(idle, tcp::read(&mut reader)) => query,
            };
            let Ok(Ok(Some(query))) = query else { return };
            match self.decide(Transport::Tcp, &query) {
                Next::Reply(reply) => {
                    if replies.send(reply).await.is_err() {
                        return;
                    }
                }
                Next::Forward(permit) => {
                    let (listener, replies) = (Arc::clone(&self), replies.clone());
                    self.spawn(async move {
                        let reply = listener.forward(Transport::Tcp, &query).await;
                        // A client that does not read holds up nobody but itself.
                        drop(permit);
                        if let Some(reply) = reply {
                            // A client that is gone needs no reply.
                            let _ = replies.send(reply).await;
                        }
                        drop(slot);
                    });
                }
                Next::Nothing => {}
            }
        }
    }

    fn decide(&self, transport: Transport, query: &[u8]) -> Next {
        let counters = &self.shared.counters;
        count(&counters.queries);
        match answer(&self.shared.table, &self.namespace, transport, query) {
            Decision::Reply(reply) => {
                // The low bits of the fourth byte are the response code, and 1 is FORMERR.
                let is_malformed = reply.get(3).is_some_and(|byte| byte & 0xf == 1);
                count(if is_malformed { &counters.malformed } else { &counters.answered });
                Next::Reply(reply)
            }
            Decision::Forward => match Arc::clone(&self.shared.forwards).try_acquire_owned() {
                Ok(permit) => Next::Forward(permit),
                Err(_) => {
                    count(&counters.overloaded);
                    server_failure(query).map_or(Next::Nothing, Next::Reply)
                }
            },
            Decision::Drop => {
                count(&counters.dropped);
                Next::Nothing
            }
        }
    }

    async fn forward(&self, transport: Transport, query: &[u8]) -> Option<Vec<u8>> {
        match forward(transport, self.upstream, query, self.shared.config.forward_timeout).await {
            Ok(reply) => {
                count(&self.shared.counters.forwarded);
                Some(reply)
            }
            Err(error) => {
                count(&self.shared.counters.failed_upstream);
                tracing::debug!(%error, reason = error.reason(), "dns query not forwarded");
                server_failure(query)
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        // The client asks again.
        tracing::debug!(%error, %client, "dns reply not sent");
    }
}
