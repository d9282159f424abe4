//! From a running agent to the next one, without a gap.
//!
//! In: a running agent's listening sockets, over a Unix socket beside the admin socket. Out: the same sockets in the
//! process that takes over. Never: a descriptor to or from anyone but root, or two agents that write maps at one time.
//!
//! The next agent connects. The running one stops changing anything, saves its state and offers its sockets; it serves
//! DNS on. The next one prepares: all that can fail happens now, and if it does, the running one goes on. Then it says
//! [`TAKE`], the running one can no longer go back and says [`GIVEN`], and the next one writes maps, swaps programs and
//! reads from the sockets, as the running one still does. At [`SERVED`] that one answers what it has read and ends.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixListener as StdUnixListener,
    },
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use anyhow::{Context, ensure};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Agent, Inputs};
use crate::{
    admin::{AdminSocket, Door},
    config::AgentArgs,
    dns::{Farewell, HandedBlock, HandedSocket},
    health::Step,
    model::Namespace,
};

/// Raised when the two sides would not understand each other.
const VERSION: u32 = 1;
/// How long one side waits for the other's next step, which can be the verification of programs and the sync of a source.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long queries that were read may take when this agent ends.
pub(super) const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Descriptors in one message; the kernel takes at most 253.
const DESCRIPTORS: usize = 64;
/// More of them, or a longer description, is no agent's.
const DESCRIPTORS_MAX: usize = 65_536;
const MANIFEST_MAX: u32 = 1 << 24;

/// The next agent is ready: the running one must not change anything any more.
const TAKE: u8 = b'T';
/// The running agent will not.
const GIVEN: u8 = b'G';
/// The next agent serves.
const SERVED: u8 = b'S';

/// The admin socket and the one beside it: those of the agent that is taken over, or new ones.
pub(super) async fn sockets(
    args: &AgentArgs,
    taken: Option<&mut Taken>,
) -> anyhow::Result<(AdminSocket, AdminSocket, Door)> {
    let beside = socket_path(&args.admin);
    if let Some((admin, handover)) = taken.and_then(Taken::sockets) {
        let door = Door::away();
        let admin = AdminSocket::adopt(admin, &args.admin, &door);
        return Ok((admin, AdminSocket::adopt(handover, &beside, &door), door));
    }
    let door = Door::opened();
    let admin = AdminSocket::open(&args.admin, &door).await?;
    Ok((admin, AdminSocket::open(&beside, &door).await?, door))
}

/// What the running agent gives, but for the sockets themselves.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    version: u32,
    pid: u32,
    attach: PathBuf,
    attach_is_ours: bool,
    /// The descriptors come in this order: the admin socket, this one, then those of the blocks.
    dns: Vec<Block>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Block {
    namespace: String,
    base_port: u16,
    sockets: usize,
}

/// Where an agent hands over whose admin socket is at `admin`.
pub(crate) fn socket_path(admin: &Path) -> PathBuf {
    let mut path = admin.as_os_str().to_owned();
    path.push(".handover");
    path.into()
}

/// What the loop is asked for by [`serve`].
#[derive(Debug)]
pub(super) struct Request {
    offer: oneshot::Sender<Offer>,
    /// The other agent is ready; gone when it will never be.
    taken: oneshot::Receiver<Leaving>,
}

#[derive(Debug)]
struct Offer {
    manifest: Manifest,
    descriptors: Vec<OwnedFd>,
}

/// What is left to do for an agent that is taken over.
#[derive(Debug)]
pub(super) struct Leaving {
    /// Told that this agent's loop has ended.
    given: oneshot::Sender<()>,
    /// The other agent serves; gone when it has died.
    served: oneshot::Receiver<()>,
}

/// Offers this agent to whoever connects, until `shutdown`.
pub(super) async fn serve(socket: AdminSocket, requests: mpsc::Sender<Request>, shutdown: CancellationToken) {
    if let Some(Err(error)) = shutdown.run_until_cancelled(accept(&socket, &requests)).await {
        tracing::error!(%error, "the handover socket failed");
    }
}

async fn accept(socket: &AdminSocket, requests: &mpsc::Sender<Request>) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener()?)?;
    loop {
        socket.opened().await;
        let (mut stream, _) = listener.accept().await?;
        let handed = async {
            let peer = stream.peer_cred()?;
            ensure!(peer.uid() == 0, "user {} asked for the sockets, which only root gets", peer.uid());
            hand_over(&mut stream, requests).await
        };
        match handed.await {
            // Whoever comes next asks the other agent, on the same socket.
            Ok(()) => return Ok(()),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "not taken over"),
        }
    }
}

async fn hand_over(stream: &mut UnixStream, requests: &mpsc::Sender<Request>) -> anyhow::Result<()> {
    let (offer_out, offer) = oneshot::channel();
    let (taken_out, taken) = oneshot::channel();
    requests.send(Request { offer: offer_out, taken }).await.context("the agent stops")?;
    let offer = offer.await.context("the agent has no offer")?;
    send(stream, offer).await?;
    expect(stream, TAKE).await?;
    let (given_out, given) = oneshot::channel();
    let (served_out, served) = oneshot::channel();
    if taken_out.send(Leaving { given: given_out, served }).is_err() {
        anyhow::bail!("the agent stops");
    }
    given.await.context("the agent stops")?;
    // From here on it is over in any case, also when the other side dies.
    if stream.write_all(&[GIVEN]).await.is_ok() && expect(stream, SERVED).await.is_ok() {
        let _ = served_out.send(());
    }
    Ok(())
}

async fn send(stream: &mut UnixStream, offer: Offer) -> anyhow::Result<()> {
    let manifest = serde_json::to_vec(&offer.manifest)?;
    stream.write_u32(u32::try_from(manifest.len())?).await?;
    stream.write_all(&manifest).await?;
    let descriptors: Vec<RawFd> = offer.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    for chunk in descriptors.chunks(DESCRIPTORS) {
        let send = || {
            let (data, rights) = ([IoSlice::new(&[0])], [ControlMessage::ScmRights(chunk)]);
            sendmsg::<()>(stream.as_raw_fd(), &data, &rights, MsgFlags::MSG_NOSIGNAL, None)
                .map_err(io::Error::from)
        };
        stream.async_io(Interest::WRITABLE, send).await.context("cannot send the sockets")?;
    }
    Ok(())
}

async fn expect(stream: &mut UnixStream, word: u8) -> anyhow::Result<()> {
    let said = timeout(PATIENCE, stream.read_u8()).await.context("the other agent is silent")?;
    let said = said.context("the other agent has gone")?;
    ensure!(said == word, "the other agent says {said:#x} where {word:#x} was expected");
    Ok(())
}

impl Agent {
    /// Stands still while another agent prepares; what is left to do if that one takes over.
    pub(super) async fn hand_over(&mut self, request: Request, inputs: &mut Inputs) -> Option<Leaving> {
        self.health.pause(Step::HandingOver);
        // Whoever asks from now on is answered by the agent that goes on.
        self.door.close();
        let door = self.door.clone();
        let answered = timeout(LAST_ANSWERS, async {
            let mut left = pin!(door.left());
            loop {
                tokio::select! {
                    () = &mut left => return,
                    Some(query) = inputs.queries.recv() => self.answer(query).await,
                }
            }
        });
        if answered.await.is_err() {
            tracing::debug!("a connection to the admin socket stays open");
        }
        // What the other one starts from.
        self.saving.require();
        self.save_addresses();
        let offer =
            self.offer().inspect_err(|error| tracing::warn!(error = format!("{error:#}"), "no offer"));
        let leaving = match offer.map(|offer| request.offer.send(offer)) {
            Ok(Ok(())) => request.taken.await.ok(),
            _ => None,
        };
        if leaving.is_none() {
            self.door.open();
        }
        leaving
    }

    fn offer(&self) -> anyhow::Result<Offer> {
        let blocks = self.dns.hand_over().context("cannot copy the DNS sockets")?;
        let describe = |block: &HandedBlock| Block {
            namespace: block.namespace.to_string(),
            base_port: block.base_port,
            sockets: block.sockets.len(),
        };
        let manifest = Manifest {
            version: VERSION,
            pid: std::process::id(),
            attach: self.attach.cgroup.path.clone(),
            attach_is_ours: self.attach.is_ours,
            dns: blocks.iter().map(describe).collect(),
        };
        let own = self.listeners.iter().map(|listener| listener.try_clone().map(OwnedFd::from));
        let dns = blocks.into_iter().flat_map(|block| block.sockets).map(|socket| Ok(socket.into()));
        let descriptors =
            own.chain(dns).collect::<io::Result<_>>().context("cannot copy the admin sockets")?;
        Ok(Offer { manifest, descriptors })
    }

    /// Ends in favour of the other agent, once that serves.
    pub(super) async fn leave(&self, leaving: Leaving) {
        tracing::info!("another agent takes over");
        self.leave_waypoint();
        self.health.turn(Step::Left, vec!["another agent has taken over and serves".to_owned()]);
        self.door.hand_over();
        let _ = leaving.given.send(());
        if leaving.served.await.is_err() {
            tracing::warn!(
                "the agent that took over has ended; DNS goes to the resolvers until one is started"
            );
        }
        self.dns.close(Farewell::Leave, LAST_ANSWERS).await;
    }

    /// Goes on where the agent that runs stops. The source is synced, and nothing has been changed yet.
    pub(super) async fn take_over(&mut self, inputs: &mut Inputs) -> anyhow::Result<()> {
        ensure!(
            self.reconciler.report().synced,
            "the source {} is too slow to take over: the running agent goes on",
            self.args.source
        );
        if let Some(taken) = &mut self.taken {
            taken.confirm().await.context("cannot take over: the running agent has ended, or goes on")?;
        }
        let Some(mut taken) = self.taken.take() else { return Ok(()) };
        self.door.open();
        self.attach.is_ours |= taken.manifest.attach_is_ours;
        self.enrol_pods().await;
        self.reconcile();
        self.until_resolved(inputs).await;
        self.attach().await?;
        self.dns.begin();
        // If the other one has died meanwhile, it reads from the sockets no more.
        drop(taken.stream.write_all(&[SERVED]).await);
        tracing::info!(pid = taken.manifest.pid, "taken over");
        Ok(())
    }
}

/// What an agent that still runs has offered.
#[derive(Debug)]
pub(super) struct Taken {
    stream: UnixStream,
    manifest: Manifest,
    admin: Option<StdUnixListener>,
    handover: Option<StdUnixListener>,
    blocks: Vec<HandedBlock>,
}

impl Taken {
    /// The last moment at which either side can go back.
    async fn confirm(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&[TAKE]).await?;
        expect(&mut self.stream, GIVEN).await
    }

    /// Its admin socket and the one for the next handover.
    pub(super) fn sockets(&mut self) -> Option<(StdUnixListener, StdUnixListener)> {
        self.admin.take().zip(self.handover.take())
    }

    /// Its DNS sockets.
    pub(super) fn blocks(&mut self) -> Vec<HandedBlock> {
        std::mem::take(&mut self.blocks)
    }

    /// Checks that both are attached to the same cgroup, where programs can be swapped.
    pub(super) fn check_attach(&self, attach: &Path) -> anyhow::Result<()> {
        let other = &self.manifest.attach;
        ensure!(
            other == attach,
            "the running agent is attached to {}, and this one would be to {}: give both the same --attach, or stop that \
             one first",
            other.display(),
            attach.display()
        );
        Ok(())
    }
}

/// Asks the agent at `admin` for what it has; none when no agent runs there.
pub(super) async fn ask(admin: &Path) -> anyhow::Result<Option<Taken>> {
    let path = socket_path(admin);
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(_) if UnixStream::connect(admin).await.is_err() => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| {
                format!(
                    "the agent that serves {} cannot be taken over by way of {}: stop it first",
                    admin.display(),
                    path.display()
                )
            });
        }
    };
    let peer = stream.peer_cred()?;
    ensure!(peer.uid() == 0, "{} is not root's but user {}'s: remove it", path.display(), peer.uid());
    let receive = timeout(PATIENCE, receive(stream)).await.context("the running agent is silent");
    receive.and_then(|received| received).map(Some).with_context(|| {
        format!(
            "cannot take over the agent that serves {}: stop it first, and start this one again",
            admin.display()
        )
    })
}

async fn receive(mut stream: UnixStream) -> anyhow::Result<Taken> {
    let length = stream.read_u32().await.context("it made no offer")?;
    ensure!(length <= MANIFEST_MAX, "its offer has an impossible length of {length} bytes");
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text).await.context("its offer is cut off")?;
    let manifest: Manifest = serde_json::from_slice(&text).context("its offer cannot be read")?;
    ensure!(manifest.version == VERSION, "it hands over in version {}, not {VERSION}", manifest.version);
    let count = manifest.dns.iter().map(|block| block.sockets).fold(2, usize::saturating_add);
    ensure!(count <= DESCRIPTORS_MAX, "it offers an impossible number of {count} sockets");
    let mut descriptors = Vec::new();
    while descriptors.len() < count {
        let received = stream.async_io(Interest::READABLE, || receive_some(stream.as_raw_fd())).await?;
        ensure!(!received.is_empty(), "its sockets did not come");
        descriptors.extend(received);
    }
    let mut descriptors = descriptors.into_iter();
    let admin = descriptors.next().map(StdUnixListener::from);
    let handover = descriptors.next().map(StdUnixListener::from);
    let block = |block: &Block| {
        let sockets = descriptors.by_ref().take(block.sockets).map(HandedSocket::from_fd);
        let namespace = Namespace::new(&block.namespace);
        anyhow::Ok(HandedBlock {
            namespace,
            base_port: block.base_port,
            sockets: sockets.collect::<io::Result<_>>()?,
        })
    };
    let blocks = manifest.dns.iter().map(block).collect::<anyhow::Result<_>>()?;
    Ok(Taken { stream, manifest, admin, handover, blocks })
}

/// The descriptors of one message; none at the end of the stream.
fn receive_some(stream: RawFd) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut room = nix::cmsg_space!([RawFd; DESCRIPTORS]);
    let message = recvmsg::<()>(stream, &mut data, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just made them for this process, and nothing else knows of them.
            descriptors.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(descriptors)
}
