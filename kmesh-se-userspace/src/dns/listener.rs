//! The loops behind one port.
//!
//! In: queries to that port. Out: replies from it. Never: a namespace guessed from a source address, which can only refuse.

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Access, Ask, Client, Decision, Search, Transport, Waited, answer,
    answer::{refusal, server_failure},
    forward::forward,
    server::Shared,
    stats::{Counters, count},
    tcp,
};
use crate::{
    desired::User,
    model::{HostName, Namespace},
};

/// The largest query taken over UDP, in bytes: what a datagram can be, since what is not ours is to go on unchanged.
const QUERY_SIZE_MAX: usize = 65_535;

/// Queries of one TCP connection that are under way at one time; the next is read when one is done.
const PIPELINE: usize = 16;

/// How often a loop without queries says that it is there.
const BEAT: Duration = Duration::from_millis(250);

/// A loop that is to end does so when nothing has come for this long.
const DRAINED: Duration = Duration::from_millis(100);

/// How far the end of a block's loops has come. Each token implies the ones before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending {
    /// Serve what still comes, until nothing does for a moment.
    pub(super) drain: CancellationToken,
    /// Read no more from shared sockets: another process does.
    pub(super) leave: CancellationToken,
    /// Drop what is under way.
    pub(super) stop: CancellationToken,
}

/// One port: what its clients see, and whom they asked.
pub(super) struct Listener {
    pub(super) namespace: Namespace,
    pub(super) upstream: SocketAddr,
    pub(super) shared: Arc<Shared>,
    /// Nothing is read before this.
    pub(super) begin: CancellationToken,
    pub(super) ending: Ending,
    pub(super) tasks: TaskTracker,
}

/// What is left to do for a query that our table did not settle.
enum Next {
    Reply(Vec<u8>),
    /// Have addresses made for the name, if there is one, and forward what is not ours then.
    Later(OwnedSemaphorePermit, Option<Demanded>),
    Nothing,
}

/// A name on demand, and who asks for it.
struct Demanded {
    name: HostName,
    client: IpAddr,
    search: Arc<Search>,
}

impl Listener {
    /// Runs `work` until it is done or the listener closes.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.ending.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }

    /// What `work` gives; none when the loop is to end.
    async fn next<T>(&self, beat: &AtomicU64, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            beat.store(self.shared.now_millis(), Ordering::Relaxed);
            let drains = self.ending.drain.is_cancelled();
            tokio::select! {
                // A busy loop needs no timer, and leaves also while it is busy.
                biased;
                () = self.ending.leave.cancelled() => return None,
                done = &mut work => return Some(done),
                () = sleep(if drains { DRAINED } else { BEAT }) => {}
            }
            if drains {
                return None;
            }
        }
    }

    pub(super) async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>, beat: Arc<AtomicU64>) {
        self.begin.cancelled().await;
        let mut buffer = vec![0; QUERY_SIZE_MAX];
        while let Some(received) = self.next(&beat, socket.recv_from(&mut buffer)).await {
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
            match self.decide(Transport::Udp, client.ip(), query) {
                Next::Reply(reply) => send(&socket, &reply, client).await,
                Next::Later(permit, name) => {
                    let (listener, socket, query) = (Arc::clone(&self), Arc::clone(&socket), query.to_vec());
                    self.spawn(async move {
                        let reply = listener.later(Transport::Udp, &query, name).await;
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

    pub(super) async fn serve_tcp(self: Arc<Self>, socket: Arc<TcpListener>, beat: Arc<AtomicU64>) {
        self.begin.cancelled().await;
        while let Some(accepted) = self.next(&beat, socket.accept()).await {
            match accepted {
                Ok((stream, client)) => {
                    if let Ok(permit) = Arc::clone(&self.shared.connections).try_acquire_owned() {
                        let listener = Arc::clone(&self);
                        self.spawn(async move {
                            listener.serve_connection(stream, client.ip()).await;
                            drop(permit);
                        });
                    } else {
                        count(&self.shared.counters.refused_connections);
                    }
                }
                Err(error) => {
                    // Out of files, most likely: the next try would fail the same way at once.
                    tracing::warn!(%error, namespace = %self.namespace, "dns connection not accepted");
                    sleep(BEAT).await;
                }
            }
        }
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream, client: IpAddr) {
        let (mut reader, mut writer) = stream.into_split();
        let (replies, mut unsent) = mpsc::channel::<Vec<u8>>(PIPELINE);
        let idle = self.shared.config.tcp_idle;
        self.spawn(async move {
            while let Some(reply) = unsent.recv().await {
                // A client that does not read loses its connection: dropping `unsent` ends the reader.
                let written = timeout(idle, tcp::write(&mut writer, &reply)).await;
                if !matches!(written, Ok(Ok(()))) {
                    return;
                }
            }
        });
        let pipeline = Arc::new(Semaphore::new(PIPELINE));
        loop {
            let Ok(slot) = Arc::clone(&pipeline).acquire_owned().await else { return };
            let mut read = pin!(tcp::read(&mut reader));
            let query = tokio::select! {
                () = replies.closed() => return,
                query = timeout(idle, &mut read) => query,
                () = self.ending.drain.cancelled() => timeout(DRAINED, &mut read).await,
            };
            let Ok(Ok(Some(query))) = query else { return };
            match self.decide(Transport::Tcp, client, &query) {
                Next::Reply(reply) => {
                    if replies.send(reply).await.is_err() {
                        return;
                    }
                }
                Next::Later(permit, name) => {
                    let (listener, replies) = (Arc::clone(&self), replies.clone());
                    self.spawn(async move {
                        let reply = listener.later(Transport::Tcp, &query, name).await;
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

    fn decide(&self, transport: Transport, client: IpAddr, query: &[u8]) -> Next {
        let counters = &self.shared.counters;
        count(&counters.queries);
        let name = match self.shared.clients.access(&self.namespace, client) {
            Access::Answer(search) => {
                match self.answer(transport, query, self.client(client, &search), Waited::NotYet) {
                    Decision::Reply(reply) => {
                        count(counter_of(counters, &reply));
                        return Next::Reply(reply);
                    }
                    Decision::Drop => {
                        count(&counters.dropped);
                        return Next::Nothing;
                    }
                    Decision::Forward => None,
                    Decision::Ask(name) => Some(Demanded { name, client, search }),
                }
            }
            Access::Forward => None,
            Access::Refuse => {
                let reply = refusal(query);
                count(if reply.is_some() { &counters.refused } else { &counters.dropped });
                return reply.map_or(Next::Nothing, Next::Reply);
            }
        };
        match Arc::clone(&self.shared.forwards).try_acquire_owned() {
            Ok(permit) => Next::Later(permit, name),
            Err(_) => {
                count(&counters.overloaded);
                server_failure(query).map_or(Next::Nothing, Next::Reply)
            }
        }
    }

    fn client<'a>(&'a self, address: IpAddr, search: &'a Search) -> Client<'a> {
        Client { namespace: &self.namespace, address, search }
    }

    fn answer(&self, transport: Transport, query: &[u8], client: Client<'_>, waited: Waited) -> Decision {
        answer(&self.shared.table, client, transport, query, waited)
    }

    /// The reply to a query for which something is to be waited for.
    async fn later(&self, transport: Transport, query: &[u8], demanded: Option<Demanded>) -> Option<Vec<u8>> {
        if let Some(Demanded { name, client, search }) = demanded {
            let client = self.client(client, &search);
            let waited = self.demand(name, client.user()).await;
            match self.answer(transport, query, client, waited) {
                Decision::Reply(reply) => {
                    count(counter_of(&self.shared.counters, &reply));
                    return Some(reply);
                }
                Decision::Forward | Decision::Ask(_) | Decision::Drop => {}
            }
        }
        self.forward(transport, query).await
    }

    /// Has addresses made for a name, and waits for them.
    async fn demand(&self, name: HostName, user: User) -> Waited {
        let asked = async {
            let (done, told) = oneshot::channel();
            let ask = Ask { name, user, done };
            self.shared.asks.send(ask).await.ok()?;
            told.await.ok()
        };
        match timeout(self.shared.config.demand_timeout, asked).await {
            Ok(Some(())) => Waited::ToTheEnd,
            Ok(None) | Err(_) => Waited::TooLong,
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

/// What a reply of our own counts as, by the response code in the low bits of its fourth byte.
fn counter_of<'a>(counters: &'a Counters, reply: &[u8]) -> &'a AtomicU64 {
    match reply.get(3).map(|byte| byte & 0xf) {
        Some(1) => &counters.malformed,
        Some(2) => &counters.too_slow,
        _ => &counters.answered,
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        // The client asks again.
        tracing::debug!(%error, %client, "dns reply not sent");
    }
}
