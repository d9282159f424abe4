//! The sockets: one port for each pair of namespace and captured resolver, so that the port says both.
//!
//! In: namespaces to listen for, and sockets that another process listened with. Out: ports. Never: a port at an
//! address of another family than the resolver's, where nobody is led.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Clients, DnsConfig, DnsError, DnsListen, DnsStats, HandedBlock, HandedSocket, MAX_RESOLVERS, NameTable,
    listener::{Ending, Listener},
    stats::Counters,
};
use crate::{
    desired::User,
    model::{HostName, Namespace},
};

/// The DNS server of a node. Dropping it closes its ports soon after; `close` waits until they are.
pub struct DnsServer {
    listen: DnsListen,
    shared: Arc<Shared>,
    /// Nothing is read from any socket before this.
    begin: CancellationToken,
    blocks: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    /// The first namespace that listened: the block at the base port is kept for it.
    first: Option<Namespace>,
    listening: HashMap<Namespace, Block>,
    /// Taken over, and not yet listened for.
    handed: HashMap<Namespace, HandedBlock>,
}

/// The listeners of one namespace.
struct Block {
    base_port: u16,
    ending: Ending,
    tasks: TaskTracker,
    beats: Vec<Arc<AtomicU64>>,
    sockets: Vec<Port>,
}

impl Drop for Block {
    fn drop(&mut self) {
        self.ending.stop.cancel();
    }
}

/// The sockets of one port at one address.
#[derive(Clone)]
struct Port {
    address: SocketAddr,
    upstream: SocketAddr,
    udp: Arc<UdpSocket>,
    tcp: Arc<TcpListener>,
}

/// A client asks for a name that gets its addresses, or has its backends resolved, on demand.
#[derive(Debug)]
pub struct Ask {
    /// The name, below a wildcard, or the host of an entry.
    pub name: HostName,
    /// Who asks.
    pub user: User,
    /// To be told when the table has the name, or never will.
    pub done: oneshot::Sender<()>,
}

/// What all loops share.
pub(super) struct Shared {
    pub(super) asks: mpsc::Sender<Ask>,
    upstreams: Vec<SocketAddr>,
    pub(super) table: Arc<NameTable>,
    pub(super) clients: Arc<Clients>,
    pub(super) config: DnsConfig,
    pub(super) counters: Counters,
    pub(super) forwards: Arc<Semaphore>,
    pub(super) connections: Arc<Semaphore>,
    started: Instant,
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// No new clients are led here: serve those that were, until nothing comes any more.
    Drain,
    /// Another process reads from the same sockets: answer what was read.
    Leave,
}

impl DnsServer {
    /// A server for the captured resolvers `upstreams` that does not listen yet, with our names and who may ask for them. It sends to `asks` what clients ask for
    /// that gets its addresses on demand.
    ///
    /// # Errors
    /// When the number of resolvers or the base port is out of range, or no resolver is of a listener's family; the
    /// configuration must change.
    pub fn new(
        listen: DnsListen,
        upstreams: Vec<SocketAddr>,
        table: Arc<NameTable>,
        clients: Arc<Clients>,
        asks: mpsc::Sender<Ask>,
        config: DnsConfig,
    ) -> Result<Self, DnsError> {
        if upstreams.is_empty() || upstreams.len() > MAX_RESOLVERS {
            return Err(DnsError::ResolverCount { count: upstreams.len() });
        }
        let (base_port, count) = (listen.port(), upstreams.len() as u16);
        if base_port == 0 || base_port.checked_add(count - 1).is_none() {
            return Err(DnsError::PortRange { base_port, count });
        }
        if upstreams.iter().all(|upstream| listen.for_resolver(upstream).is_none()) {
            return Err(DnsError::NoCommonFamily { listen, resolvers: upstreams });
        }
        let shared = Shared {
            asks,
            forwards: Arc::new(Semaphore::new(config.max_forwards.min(Semaphore::MAX_PERMITS))),
            connections: Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS))),
            upstreams,
            table,
            clients,
            config,
            counters: Counters::default(),
            started: Instant::now(),
        };
        let begin = CancellationToken::new();
        begin.cancel();
        Ok(Self { listen, shared: Arc::new(shared), begin, blocks: Mutex::default() })
    }

    /// Takes over sockets with which another process listens for the same namespaces, and says where each namespace's
    /// block begins. Nothing is read from them, nor from others, before [`DnsServer::begin`].
    ///
    /// A block keeps its place as long as the sockets that it needs were handed or can be bound there; a socket that no
    /// resolver needs is closed.
    ///
    /// # Errors
    /// As [`DnsServer::listen`].
    pub fn adopt(&mut self, handed: Vec<HandedBlock>) -> Result<Vec<(Namespace, u16)>, DnsError> {
        self.begin = CancellationToken::new();
        let mut namespaces: Vec<_> = handed.iter().map(|b| (b.base_port, b.namespace.clone())).collect();
        // The lowest was the first there.
        namespaces.sort();
        self.blocks().handed.extend(handed.into_iter().map(|block| (block.namespace.clone(), block)));
        let listen = |(_, namespace): (u16, Namespace)| {
            let port = self.listen(namespace.clone())?;
            Ok((namespace, port))
        };
        namespaces.into_iter().map(listen).collect()
    }

    /// Serves what was adopted.
    pub fn begin(&self) {
        self.begin.cancel();
    }

    /// Listens for the clients of `namespace`, over UDP and TCP, and says at which port its block begins:
    /// queries for resolver `i` are served at that port + `i`, at the address of the resolver's family. The first
    /// namespace gets the server's base port, each other one the next free block. A namespace that is listened for
    /// keeps its block.
    ///
    /// # Errors
    /// When the first block is in use or no block is free; nothing is listened for then, and trying again
    /// later can help.
    pub fn listen(&self, namespace: Namespace) -> Result<u16, DnsError> {
        let mut blocks = self.blocks();
        if let Some(block) = blocks.listening.get(&namespace) {
            return Ok(block.base_port);
        }
        let is_first = blocks.first.as_ref().is_none_or(|first| *first == namespace);
        let handed = blocks.handed.remove(&namespace);
        let had_place = handed.is_some();
        let (base_port, ports) = match handed.and_then(|handed| self.keep(handed)) {
            Some(kept) => kept,
            None if is_first && !had_place => {
                (self.listen.port(), self.bind(self.listen.port(), &mut Vec::new())?)
            }
            None => self.bind_free(&namespace)?,
        };
        blocks.first.get_or_insert_with(|| namespace.clone());
        let block = self.serve(&namespace, base_port, ports);
        blocks.listening.insert(namespace, block);
        Ok(base_port)
    }

    /// Closes the ports of `namespace` once what is under way has been dropped; false if it had none.
    pub async fn unlisten(&self, namespace: &Namespace) -> bool {
        let Some(block) = self.blocks().listening.remove(namespace) else { return false };
        block.ending.stop.cancel();
        block.tasks.wait().await;
        tracing::info!(namespace = %namespace, port = block.base_port, "dns listener closed");
        true
    }

    /// Closes all ports. Queries that were read are answered first, for at most `limit`.
    pub async fn close(&self, farewell: Farewell, limit: Duration) {
        let blocks: Vec<_> = self.blocks().listening.drain().map(|(_, block)| block).collect();
        for block in &blocks {
            block.ending.drain.cancel();
            if farewell == Farewell::Leave {
                block.ending.leave.cancel();
            }
        }
        let answered = async {
            for block in &blocks {
                block.tasks.wait().await;
            }
        };
        if timeout(limit, answered).await.is_err() {
            tracing::debug!("dns queries dropped: they took too long");
        }
    }

    /// The sockets of all blocks, to be handed to another process while this one still serves.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn hand_over(&self) -> io::Result<Vec<HandedBlock>> {
        let clone = |fd: BorrowedFd<'_>| HandedSocket::from_fd(fd.try_clone_to_owned()?);
        let blocks = self.blocks();
        let handed = blocks.listening.iter().map(|(namespace, block)| {
            let sockets = block.sockets.iter().flat_map(|port| [port.udp.as_fd(), port.tcp.as_fd()]);
            let sockets = sockets.map(clone).collect::<io::Result<_>>()?;
            Ok(HandedBlock { namespace: namespace.clone(), base_port: block.base_port, sockets })
        });
        handed.collect()
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

    /// The last port of the last block, or the first port of the server while nothing listens.
    #[must_use]
    pub fn last_port(&self) -> u16 {
        let last = self.blocks().listening.values().map(|block| block.base_port + (self.count() - 1)).max();
        last.unwrap_or_else(|| self.listen.port())
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> u16 {
        // Checked when the server was made.
        self.shared.upstreams.len() as u16
    }

    fn keep(&self, handed: HandedBlock) -> Option<(u16, Vec<Port>)> {
        let HandedBlock { namespace, base_port, mut sockets } = handed;
        base_port.checked_add(self.count() - 1)?;
        match self.bind(base_port, &mut sockets) {
            Ok(ports) => Some((base_port, ports)),
            Err(error) => {
                tracing::warn!(namespace = %namespace, port = base_port, %error, "dns listeners not taken over");
                None
            }
        }
    }

    fn bind_free(&self, namespace: &Namespace) -> Result<(u16, Vec<Port>), DnsError> {
        let count = self.count();
        let mut base_port = self.listen.port();
        loop {
            let next = base_port.checked_add(count).filter(|next| next.checked_add(count - 1).is_some());
            base_port = next.ok_or_else(|| DnsError::NoFreeBlock {
                listen: self.listen,
                count,
                namespace: namespace.clone(),
            })?;
            match self.bind(base_port, &mut Vec::new()) {
                Ok(ports) => return Ok((base_port, ports)),
                Err(DnsError::PortInUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The block at `base_port`, of the `handed` sockets that fit and of new ones.
    fn bind(&self, base_port: u16, handed: &mut Vec<HandedSocket>) -> Result<Vec<Port>, DnsError> {
        let upstreams = self.shared.upstreams.iter().zip(base_port..);
        let wanted = upstreams
            .filter_map(|(upstream, port)| Some((*upstream, self.listen.for_resolver(upstream)?, port)));
        wanted
            .map(|(upstream, addr, port)| {
                open(upstream, (addr, port).into(), handed).map_err(|source| bind_error(addr, port, source))
            })
            .collect()
    }

    fn serve(&self, namespace: &Namespace, base_port: u16, sockets: Vec<Port>) -> Block {
        let ending = Ending::default();
        let tasks = TaskTracker::new();
        tasks.close();
        let mut beats = Vec::new();
        for port in &sockets {
            let mut beat = || {
                let beat = Arc::new(AtomicU64::new(self.shared.now_millis()));
                beats.push(Arc::clone(&beat));
                beat
            };
            let listener = Arc::new(Listener {
                namespace: namespace.clone(),
                upstream: port.upstream,
                shared: Arc::clone(&self.shared),
                begin: self.begin.clone(),
                ending: ending.clone(),
                tasks: tasks.clone(),
            });
            listener.spawn(Arc::clone(&listener).serve_udp(Arc::clone(&port.udp), beat()));
            listener.spawn(Arc::clone(&listener).serve_tcp(Arc::clone(&port.tcp), beat()));
            tracing::info!(
                address = %port.address,
                namespace = %namespace,
                resolver = %port.upstream,
                "dns listens"
            );
        }
        Block { base_port, ending, tasks, beats, sockets }
    }
}

fn bind_error(addr: IpAddr, port: u16, source: io::Error) -> DnsError {
    if source.kind() == io::ErrorKind::AddrInUse {
        DnsError::PortInUse { addr, port, source }
    } else {
        DnsError::Bind { addr, port, source }
    }
}

fn open(upstream: SocketAddr, address: SocketAddr, handed: &mut Vec<HandedSocket>) -> io::Result<Port> {
    let mut take = |is_wanted: fn(&HandedSocket) -> bool| {
        let fits = |socket: &HandedSocket| is_wanted(socket) && socket.address().is_ok_and(|a| a == address);
        handed.iter().position(fits).map(|index| handed.swap_remove(index))
    };
    let udp = match take(|socket| matches!(socket, HandedSocket::Udp(_))) {
        Some(HandedSocket::Udp(socket)) => socket,
        _ => StdUdpSocket::bind(address)?,
    };
    let tcp = match take(|socket| matches!(socket, HandedSocket::Tcp(_))) {
        Some(HandedSocket::Tcp(socket)) => socket,
        _ => StdTcpListener::bind(address)?,
    };
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let (udp, tcp) = (UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?);
    Ok(Port { address, upstream, udp: Arc::new(udp), tcp: Arc::new(tcp) })
}

impl Shared {
    pub(super) fn now_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
