//! The node agent, top to bottom.
//!
//! In: its flags. Out: a node on which enrolled processes reach virtual hosts. Never: a decision that belongs to a room.

mod commands;
mod events;
mod query;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use jiff::Timestamp;
use kmesh_se_common::{
    limits::{LAYOUT_VERSION, LEVEL_END, MAX_LEVELS},
    maps::Config as KernelConfig,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{commands::CommandCgroups, events::Refusals};
use crate::{
    admin::{AdminSocket, Query},
    config::{AgentArgs, Source},
    dns::{DnsConfig, DnsListen, DnsServer, NameTable},
    enrol::{self, Cgroup},
    loader::{self, Loaded, Unattached},
    model::Namespace,
    reconcile::{Effects, Reconciler},
    resolve::{self, ResolveConfig, Resolver},
    sink::{
        Enrolment, Sink,
        aya::{AyaMaps, Heartbeat},
    },
    source::{self, Event},
    state::StateDir,
};

/// How long the programs wait for the sources before they are attached all the same.
const SYNC_PATIENCE: Duration = Duration::from_secs(10);
/// How often the kernel is told that DNS is served.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// The kernel captures DNS until this long after the last heartbeat.
const HEARTBEAT_MAX: Duration = Duration::from_secs(2);
/// How often rows that could not be written are tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Room for events that the loop has not read yet.
const QUEUE: usize = 1024;

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// Something that the agent needs is missing; the message says what and how to get it.
pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let admin = AdminSocket::open(&args.admin).await?;
    let state = StateDir::open(&args.state)?;
    let vips = state.load_vips(args.vip_ranges())?;
    let resolvers = resolvers(&args)?;
    let names = Arc::new(NameTable::new());
    let listen = args.dns_listen()?;
    let dns = DnsServer::new(listen, resolvers.clone(), names.clone(), DnsConfig::default())?;
    let dns_port = dns.listen(Namespace::default())?;

    let attach = AttachCgroup::open(args.attach.clone())?;
    let (programs, maps) = loader::load(&attach.cgroup.path, &args.capacities())?;
    let refusals = Refusals::default();
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let mut maps = maps;
    refusals.read_from(&mut maps, &mut tasks, &shutdown)?;
    let mut maps = AyaMaps::new(maps, args.capacities())?;
    maps.write_config(kernel_config(&listen, &resolvers, dns.last_port()))?;
    maps.write_resolvers(&resolvers.iter().map(std::net::SocketAddr::ip).collect::<Vec<_>>())?;
    let heartbeat = maps.heartbeat();

    let mut agent = Agent {
        started,
        reconciler: Reconciler::new(Sink::new(maps, args.capacities()), vips, names),
        listen,
        dns: Arc::new(dns),
        dns_ports: BTreeMap::from([(Namespace::default(), dns_port)]),
        programs: Programs::Loaded(programs),
        commands: CommandCgroups::new(attach.cgroup.path.clone()),
        resolver: None,
        state,
        refusals,
        args,
        resolvers,
    };
    agent.enrol_configured().await?;
    tasks.spawn(beat(agent.dns.clone(), heartbeat, shutdown.clone()));

    let (events_out, events) = mpsc::channel(QUEUE);
    let (updates_out, updates) = mpsc::channel(QUEUE);
    let (queries_out, queries) = mpsc::channel(QUEUE);
    let resolve = ResolveConfig::new(agent.resolvers.clone());
    agent.resolver = Some(Resolver::start(resolve, updates_out, shutdown.clone()));
    let Source::File(dir) = agent.args.source.clone();
    let mut source = tokio::spawn(source::file::watch(
        dir,
        source::file::Options::default(),
        events_out,
        shutdown.clone(),
    ));
    tasks.spawn(serve_admin(admin, queries_out, shutdown.clone()));

    let result = tokio::select! {
        result = agent.run(Inputs { events, updates, queries }) => result,
        result = &mut source => flatten(result),
        result = stop_signal() => result,
    };
    tracing::info!("stopping");
    shutdown.cancel();
    // The programs go first: from here on everything is dialled as if the agent had never been.
    drop(agent);
    while tasks.join_next().await.is_some() {}
    attach.remove();
    result
}

fn flatten(
    result: Result<Result<(), source::file::FileSourceError>, tokio::task::JoinError>,
) -> anyhow::Result<()> {
    result.context("the file source stopped")?.map_err(Into::into)
}

async fn serve_admin(admin: AdminSocket, queries: mpsc::Sender<Query>, shutdown: CancellationToken) {
    if let Err(error) = admin.serve(queries, shutdown).await {
        tracing::error!(%error, "the admin socket failed");
    }
}

/// The resolvers that clients use: the flags', else those of `/etc/resolv.conf`.
fn resolvers(args: &AgentArgs) -> anyhow::Result<Vec<std::net::SocketAddr>> {
    if args.resolver.is_empty() {
        return Ok(resolve::system_servers("/etc/resolv.conf".as_ref())?);
    }
    Ok(args.resolver.iter().map(|r| r.0).collect())
}

fn kernel_config(listen: &DnsListen, resolvers: &[SocketAddr], last_port: u16) -> KernelConfig {
    // An address where nobody listens is no listener's: dialling it is nobody's business.
    let serves = |ip: std::net::IpAddr| resolvers.iter().any(|r| listen.for_resolver(r) == Some(ip));
    KernelConfig {
        layout: LAYOUT_VERSION,
        dns4: listen.v4().filter(|v4| serves((*v4).into())).map_or([0; 4], |v4| v4.octets()),
        dns6: listen.v6().filter(|v6| serves((*v6).into())).map_or([0; 16], |v6| v6.octets()),
        dns_port_first: listen.port(),
        dns_port_last: last_port,
        _pad: 0,
        levels: [LEVEL_END; MAX_LEVELS],
        heartbeat_ns: 0,
        heartbeat_max_ns: u64::try_from(HEARTBEAT_MAX.as_nanos()).unwrap_or(u64::MAX),
    }
}

/// Passes the beat of the loops that serve DNS on to the kernel; when one of them hangs, so does the beat.
async fn beat(dns: Arc<DnsServer>, heartbeat: Heartbeat, shutdown: CancellationToken) {
    let mut ticks = interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        if dns.last_beat().is_some_and(|at| at.elapsed() < HEARTBEAT_MAX / 2) {
            heartbeat.beat();
        }
    }
}

async fn stop_signal() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The cgroup that the programs are attached to, and whether it is ours to remove.
struct AttachCgroup {
    cgroup: Cgroup,
    created: bool,
}

impl AttachCgroup {
    fn open(path: Option<PathBuf>) -> anyhow::Result<Self> {
        let path = match path {
            Some(path) => path,
            None => enrol::cgroup2_mount().ok_or(enrol::CgroupError::NotMounted)?.join("kmesh-se"),
        };
        loader::check_place(&path)?;
        let (cgroup, created) = Cgroup::open_or_create(&path)?;
        let left = enrol::remove_command_cgroups(&cgroup.path);
        if left > 0 {
            tracing::info!(count = left, "removed cgroups that an earlier agent left");
        }
        Ok(Self { cgroup, created })
    }

    fn remove(&self) {
        enrol::remove_command_cgroups(&self.cgroup.path);
        if self.created
            && let Err(error) = self.cgroup.remove()
        {
            tracing::warn!(%error, "the cgroup stays: processes still live in it");
        }
    }
}

enum Programs {
    Loaded(Unattached),
    Attached(Loaded),
    /// Attaching failed; the agent stops.
    Gone,
}

struct Inputs {
    events: mpsc::Receiver<Event>,
    updates: mpsc::Receiver<resolve::Update>,
    queries: mpsc::Receiver<Query>,
}

/// The state of the loop.
struct Agent {
    started: Instant,
    args: AgentArgs,
    resolvers: Vec<std::net::SocketAddr>,
    reconciler: Reconciler<AyaMaps>,
    listen: DnsListen,
    dns: Arc<DnsServer>,
    /// The first listener port of each namespace with clients.
    dns_ports: BTreeMap<Namespace, u16>,
    programs: Programs,
    commands: CommandCgroups,
    resolver: Option<Resolver>,
    state: StateDir,
    refusals: Refusals,
}

impl Agent {
    /// Waits for the sources, programs what they say, attaches; then follows every change.
    async fn run(&mut self, mut inputs: Inputs) -> anyhow::Result<()> {
        let first = timeout(SYNC_PATIENCE, async {
            while !self.reconciler.report().synced {
                match inputs.events.recv().await {
                    Some(event) => self.reconciler.event(event),
                    None => break,
                }
            }
        });
        if first.await.is_err() {
            tracing::warn!("the source is slow: starting with what it has told so far");
        }
        self.reconcile()?;
        self.reconciler.release_unused_vips(Timestamp::now());
        self.attach()?;

        let mut retry = interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(event) = inputs.events.recv() => self.reconciler.event(event),
                Some(update) = inputs.updates.recv() => self.reconciler.resolved(update.name, update.addresses),
                Some(query) = inputs.queries.recv() => self.answer(query).await,
                Some(cgroup) = self.commands.emptied() => self.forget_command(&cgroup),
                _ = retry.tick() => self.reconciler.retry_failed(),
            }
            // What came meanwhile belongs to the same step.
            while let Ok(event) = inputs.events.try_recv() {
                self.reconciler.event(event);
            }
            while let Ok(update) = inputs.updates.try_recv() {
                self.reconciler.resolved(update.name, update.addresses);
            }
            self.reconcile()?;
        }
    }

    fn reconcile(&mut self) -> anyhow::Result<()> {
        if !self.reconciler.is_dirty() {
            return Ok(());
        }
        let Effects { want, unwant, vips_changed, hosts } = self.reconciler.program(Timestamp::now());
        if let Some(resolver) = &self.resolver {
            unwant.iter().for_each(|name| resolver.unwant(name));
            want.into_iter().for_each(|name| resolver.want(name));
        }
        if vips_changed && let Err(error) = self.state.save_vips(self.reconciler.vips()) {
            tracing::error!(%error, "virtual addresses are not saved: after a restart hosts may get others");
        }
        self.reconciler.publish(&hosts);
        Ok(())
    }

    fn attach(&mut self) -> anyhow::Result<()> {
        if let Programs::Loaded(programs) = std::mem::replace(&mut self.programs, Programs::Gone) {
            let loaded = programs.attach()?;
            tracing::info!(cgroup = %loaded.cgroup.display(), programs = loaded.programs.len(), "attached");
            self.programs = Programs::Attached(loaded);
        }
        Ok(())
    }

    /// Enrols the cgroups of the flags, and exempts the agent's own if one of them contains it.
    async fn enrol_configured(&mut self) -> anyhow::Result<()> {
        let own = Cgroup::own()?;
        for arg in self.args.enrol.clone() {
            let cgroup = Cgroup::open(&arg.cgroup)?;
            anyhow::ensure!(
                cgroup.id != own.id,
                "the agent itself runs in the cgroup {} that it is to enrol: start it from another cgroup",
                cgroup.path.display()
            );
            if own.path.starts_with(&cgroup.path) {
                let exempt = Enrolment { level: own.level, namespace: None, dns_port: 0 };
                self.reconciler.sink_mut().enrol(own.id, exempt)?;
            }
            self.enrol(&cgroup, &arg.namespace).await?;
        }
        Ok(())
    }

    /// Enrols a cgroup for a namespace, whose DNS listeners are opened with its first client.
    async fn enrol(&mut self, cgroup: &Cgroup, namespace: &Namespace) -> anyhow::Result<()> {
        let dns_port = match self.dns_ports.get(namespace) {
            Some(port) => *port,
            None => {
                let port = self.dns.listen(namespace.clone())?;
                self.dns_ports.insert(namespace.clone(), port);
                self.reconciler.sink().maps().set_dns_ports(self.listen.port(), self.dns.last_port())?;
                port
            }
        };
        let enrolment = Enrolment { level: cgroup.level, namespace: Some(namespace.clone()), dns_port };
        self.reconciler.sink_mut().enrol(cgroup.id, enrolment)?;
        tracing::info!(cgroup = %cgroup.path.display(), namespace = %namespace, "enrolled");
        Ok(())
    }
}
