//! The node agent, top to bottom.
//!
//! In: its flags. Out: a node on which enrolled processes reach virtual hosts. Never: a decision that belongs to a room.

mod commands;
mod demand;
mod dump;
mod enrolling;
mod events;
mod explain;
mod handover;
mod heartbeat;
mod input;
mod inventory;
mod place;
mod pods;
mod query;
mod report;
mod routes;
mod saving;
mod steps;
mod stop;
mod surroundings;
mod trace;
mod waypoint;

use std::{
    collections::BTreeMap, os::unix::net::UnixListener as StdUnixListener, path::PathBuf, sync::Arc,
    time::Duration,
};

use anyhow::Context;
use jiff::Timestamp;
use kmesh_se_common::maps::Event;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    commands::CommandCgroups,
    demand::Waiting,
    events::Refusals,
    handover::{Leaving, Taken},
    input::{Input, why_stopped},
    place::{AttachCgroup, Unused},
    pods::PodEnrolments,
    report::Reporting,
    saving::Saving,
    stop::{Stop, StopSignals},
    surroundings::Surroundings,
    trace::Tracers,
    waypoint::Waypoint,
};
pub(crate) use self::{handover::socket_path as handover_socket, waypoint::Place as WaypointPlace};
use crate::{
    admin::{Door, Query},
    config::AgentArgs,
    dns::{Ask, Clients, DnsConfig, DnsListen, DnsServer, Farewell, NameTable},
    enrol::{self, Change},
    health::{Health, HealthServer, Step},
    loader::{self, Loaded, Pins, Unattached},
    model::{HostName, Namespace},
    pods::Pods,
    reconcile::Reconciler,
    resolve::{self, Resolver},
    routes::{self as vip_routes, RouteError},
    sink::{Sink, aya::AyaMaps},
    source::Event as SourceEvent,
    state::{KnownAddresses, StateDir},
};

/// Where the host's resolvers and search list are.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How long the programs wait for the sources before they are attached all the same.
const SYNC_PATIENCE: Duration = Duration::from_secs(10);
/// How often rows that could not be written are tried again, and new addresses saved.
const UPKEEP: Duration = Duration::from_secs(2);
/// Room for events that the loop has not read yet.
const QUEUE: usize = 1024;

/// Runs until SIGINT or SIGTERM. SIGTERM leaves programs, maps and enrolments in place for the next agent; SIGINT removes
/// them.
///
/// # Errors
/// Something that the agent needs is missing; the message says what and how to get it.
pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    // Before anything is made: a signal that comes early waits for its turn instead of ending the process where it stands.
    let mut stop = StopSignals::new()?;
    // Whoever supervises the agent sees that it lives while it waits for the cluster.
    let health = Arc::new(Health::of("agent"));
    let _health_server = match &args.health {
        Some(address) => Some(HealthServer::start(address, health.clone(), args.takeover).await?),
        None => None,
    };
    let (attach_path, input, around) = tokio::select! {
        places = wait_for_places(&args, &health) => places?,
        _ = stop.wait() => return Ok(()),
    };
    health.turn(Step::Starting, vec!["the agent is starting".to_owned()]);
    let dynamic_ranges = args.dynamic_ranges()?;
    let mut taken = if args.takeover { handover::ask(&args.admin).await? } else { None };
    let (admin, handover, door) = handover::sockets(&args, taken.as_mut()).await?;
    let state = StateDir::open(&args.state)?;
    let (listen, resolvers) = (around.listen, around.captured.clone());
    let searches = resolve::system_search(RESOLV_CONF.as_ref());
    let clients = Arc::new(Clients::everybody(args.search.search(searches.clone())));
    let names = Arc::new(NameTable::default());
    let (asks_out, asks) = mpsc::channel(QUEUE);
    let mut dns = DnsServer::new(
        listen,
        resolvers.clone(),
        names.clone(),
        clients.clone(),
        asks_out,
        DnsConfig::default(),
    )?;
    let mut dns_ports = BTreeMap::new();
    if let Some(taken) = &mut taken {
        dns_ports.extend(dns.adopt(taken.blocks())?);
    }
    dns_ports.insert(Namespace::default(), dns.listen(Namespace::default())?);

    let (tracers, traced) = Tracers::new(QUEUE);
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (in_vain_out, in_vain) = mpsc::channel(QUEUE);
    let refusals = Refusals::new(traced, in_vain_out);
    let attach = AttachCgroup::open(&args, &attach_path, taken.as_ref())?;
    let _unused = Unused::new(&args, &attach);
    let pins = Pins::open(&args.pin, &args.capacities())?;
    let replaces_others = !pins.are_in_use() && Pins::has_links(&args.pin);
    for missing in loader::missing_features() {
        let (feature, (major, minor)) = (missing.name, missing.since);
        let since = format!("{major}.{minor}");
        tracing::warn!(feature, %since, consequence = missing.without, "the kernel lacks a feature");
    }
    let (programs, mut maps) = loader::load(pins, &args.capacities())?;
    refusals.read_from(&mut maps, &mut tasks, &shutdown)?;
    let mut maps = AyaMaps::new(maps, args.capacities())?;
    maps.write_config(heartbeat::kernel_config(&listen, &resolvers, dns.last_port()))?;
    maps.write_resolvers(&resolvers.iter().map(std::net::SocketAddr::ip).collect::<Vec<_>>())?;
    let heartbeat = maps.heartbeat();

    let cgroups = attach.cgroup.tree();
    let levels = cgroups.iter().map(|(id, cgroup)| (*id, cgroup.level)).collect();
    let sink = Sink::restore(maps, args.capacities(), &state.load_scopes()?, &levels)?;
    let known = state.load_addresses()?;
    let remembered = known.iter().map(|(name, known)| (name.clone(), known.addresses.clone())).collect();
    let vips = state.load_vips(args.vip_ranges())?;
    let leases = state.load_leases(dynamic_ranges, args.lease_limits(), Timestamp::now())?;
    let (updates_out, updates) = mpsc::channel(QUEUE);
    let (waypoint, waypoints) =
        Waypoint::new(&args, &listen.addresses().collect::<Vec<_>>(), around.asked.clone(), &state).await?;
    let resolver = Resolver::start(args.resolve.config(around.asked.clone()), updates_out, shutdown.clone());
    let node_dns = args.search.node_dns(searches);
    let pods = args.enrols_pods().then(|| {
        let node = args.place().node;
        PodEnrolments::new(Pods::new(args.pods.settings(), node_dns.clone(), &node), node_dns, clients)
    });
    let mut agent = Agent {
        started: Instant::now(),
        reconciler: Reconciler::new(sink, vips, leases, names)
            .at(args.place())
            .allocating(args.allocates_vips())
            .through(waypoints)
            .taking_over(remembered, replaces_others),
        listen,
        dns: Arc::new(dns),
        dns_ports,
        health,
        door,
        listeners: [admin.listener()?, handover.listener()?],
        replaces_others,
        taken,
        programs: Programs::Loaded(programs),
        attach,
        saving: Saving::of(&known),
        has_new_namespaces: false,
        known,
        resolver,
        state,
        refusals,
        tracers,
        resolvers,
        commands: CommandCgroups::new(),
        pods,
        route_errors: Vec::new(),
        waiting: Waiting::default(),
        reporting: Reporting::off(),
        waypoint,
        args,
    };
    agent.start_reporting(&input, &mut tasks, &shutdown);
    let pod_cgroups = agent.watch_pods(&mut tasks, &shutdown)?;
    agent.enrol_again(&cgroups).await?;
    agent.enrol_configured().await?;
    tasks.spawn(heartbeat::beat(agent.dns.clone(), heartbeat.clone(), shutdown.clone()));

    let (events_out, events) = mpsc::channel(QUEUE);
    let (queries_out, queries) = mpsc::channel(QUEUE);
    let source = tokio::spawn(input.tell(events_out, shutdown.clone()));
    tasks.spawn(query::serve_admin(admin, queries_out, shutdown.clone()));
    let (handovers_out, handovers) = mpsc::channel(1);
    tasks.spawn(handover::serve(handover, handovers_out, shutdown.clone()));

    let result = tokio::select! {
        result = agent.run(Inputs { events, pod_cgroups, updates, asks, in_vain, queries, handovers }, &mut tasks, &shutdown) => result.map(Stop::HandOver),
        result = source => Err(why_stopped(result)),
        error = around.outdated() => Err(error),
        stop = stop.wait() => Ok(stop),
    };
    tracing::info!("stopping");
    // Until an agent that takes over is in place, nothing here is its own.
    let owns = agent.taken.is_none();
    let lingers = agent.args.linger && matches!(result, Ok(Stop::HandOver(_)));
    let (leaving, removes, result) = match result {
        Ok(Stop::HandOver(leaving)) => (Some(leaving), false, Ok(())),
        Ok(Stop::Keep) => (None, false, Ok(())),
        Ok(Stop::Remove) => (None, owns, Ok(())),
        Err(error) => (None, false, Err(error)),
    };
    if let Some(leaving) = leaving {
        agent.leave(leaving).await;
    } else if owns {
        // New queries go to the resolvers at once; those that came are answered.
        heartbeat.stop();
        agent.dns.close(Farewell::Drain, handover::LAST_ANSWERS).await;
        agent.saving.require();
        agent.save_addresses();
    }
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    if removes {
        agent.remove_all().await?;
    }
    if lingers {
        // With its copies of the sockets, which would outlive the agent that serves on them.
        let admin = agent.args.admin.clone();
        drop(agent);
        stop.linger(&admin).await;
    }
    result
}

/// What has to be there before an agent can begin, each waited for if need be.
async fn wait_for_places(
    args: &AgentArgs,
    health: &Health,
) -> anyhow::Result<(PathBuf, Input, Surroundings)> {
    let attach_path = place::attach_path(args, health).await?;
    let input = Input::open(args).await?;
    let around = Surroundings::find(args, &input, health).await?;
    Ok((attach_path, input, around))
}

enum Programs {
    Loaded(Unattached),
    Attached(Loaded),
    /// Attaching failed; the agent stops.
    Gone,
}

struct Inputs {
    events: mpsc::Receiver<SourceEvent>,
    /// Closed when pods are not enrolled.
    pod_cgroups: mpsc::Receiver<Vec<Change>>,
    updates: mpsc::Receiver<resolve::Update>,
    asks: mpsc::Receiver<Ask>,
    /// Connections that found no backend.
    in_vain: mpsc::Receiver<Event>,
    queries: mpsc::Receiver<Query>,
    handovers: mpsc::Receiver<handover::Request>,
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
    /// The admin socket and the one beside it, for the agent that takes over.
    listeners: [StdUnixListener; 2],
    health: Arc<Health>,
    door: Door,
    /// Programs of an earlier agent are at work on maps of another layout or size.
    replaces_others: bool,
    /// The agent that this one is to take over from, until it has.
    taken: Option<Taken>,
    programs: Programs,
    attach: AttachCgroup,
    commands: CommandCgroups,
    /// None when pods are not enrolled.
    pods: Option<PodEnrolments>,
    waiting: Waiting,
    reporting: Reporting,
    /// None when no waypoint is served here.
    waypoint: Option<Waypoint>,
    resolver: Resolver,
    /// Addresses that an earlier agent saved.
    known: BTreeMap<HostName, KnownAddresses>,
    saving: Saving,
    /// Ids of namespaces are to be saved before a row of theirs is written.
    has_new_namespaces: bool,
    state: StateDir,
    refusals: Refusals,
    tracers: Tracers,
    /// Why routes are not as they should be.
    route_errors: Vec<RouteError>,
}

impl Agent {
    /// Waits for the sources, programs what they say, attaches; then follows every change until another agent takes over.
    async fn run(
        &mut self,
        mut inputs: Inputs,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Leaving> {
        let first = timeout(SYNC_PATIENCE, async {
            while !self.reconciler.report().synced {
                match inputs.events.recv().await {
                    Some(event) => self.event(event),
                    // The source has ended, and says why elsewhere.
                    None => std::future::pending().await,
                }
            }
        });
        let is_slow = first.await.is_err();
        if self.taken.is_some() {
            self.take_over(&mut inputs).await?;
        } else {
            if is_slow && self.replaces_others {
                self.until_synced(&mut inputs).await;
            } else if is_slow {
                tracing::warn!("the source is slow: starting with what it has told so far");
            }
            self.enrol_pods().await;
            self.reconcile();
            if self.replaces_others {
                self.until_resolved(&mut inputs).await;
            }
            self.attach().await?;
        }
        self.begin_waypoint(tasks, shutdown).await?;

        let mut upkeep = interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(event) = inputs.events.recv() => self.event(event),
                Some(changes) = inputs.pod_cgroups.recv() => self.pod_cgroups(changes),
                Some(update) = inputs.updates.recv() => self.resolved(update),
                Some(ask) = inputs.asks.recv() => self.demand(ask),
                Some(event) = inputs.in_vain.recv() => self.dialled_in_vain(&event),
                Some(query) = inputs.queries.recv() => self.answer(query).await,
                Some(request) = inputs.handovers.recv() => {
                    if let Some(leaving) = self.hand_over(request, &mut inputs).await {
                        return Ok(leaving);
                    }
                }
                () = waypoint::changed(&mut self.waypoint) => self.waypoint_changed(),
                Some(cgroup) = self.commands.emptied() => self.forget_command(&cgroup),
                Some(event) = self.tracers.next() => self.trace(&event),
                _ = upkeep.tick() => {
                    self.reconciler.retry_failed();
                    self.retry_pods();
                    self.forget_unused_names();
                    self.save_addresses();
                    self.forget_tracers();
                    self.report();
                    self.forget_listeners();
                }
            }
            // What came meanwhile belongs to the same step.
            while let Ok(event) = inputs.events.try_recv() {
                self.event(event);
            }
            while let Ok(changes) = inputs.pod_cgroups.try_recv() {
                self.pod_cgroups(changes);
            }
            while let Ok(update) = inputs.updates.try_recv() {
                self.resolved(update);
            }
            while let Ok(ask) = inputs.asks.try_recv() {
                self.demand(ask);
            }
            while let Ok(event) = inputs.in_vain.try_recv() {
                self.dialled_in_vain(&event);
            }
            // A pod's first process may be near.
            self.enrol_pods().await;
            self.reconcile();
            self.tell_waiting();
            self.health.turn(Step::Serving, self.missing());
        }
    }

    async fn attach(&mut self) -> anyhow::Result<()> {
        if let Programs::Loaded(programs) = std::mem::replace(&mut self.programs, Programs::Gone) {
            let loaded = programs.attach(&self.attach.cgroup)?;
            tracing::info!(cgroup = %loaded.cgroup.display(), programs = loaded.programs.len(), "attached");
            for rival in loader::rivals(&self.attach.cgroup, &loaded, &self.args.pin) {
                tracing::warn!(rival, "something else does the same on this node");
            }
            self.programs = Programs::Attached(loaded);
            self.set_routes().await;
        }
        Ok(())
    }

    /// Takes everything out of the kernel again. From here on everything is dialled as if the agent had never been.
    async fn remove_all(&self) -> anyhow::Result<()> {
        let pins = &self.args.pin;
        loader::remove_pins(pins)
            .with_context(|| format!("cannot remove the pins below {}", pins.display()))?;
        for error in vip_routes::set(&[]).await {
            tracing::warn!(%error, "a route stays");
        }
        if let Err(error) = WaypointPlace::beside(&self.args.admin).clear().await {
            tracing::warn!(%error, "the waypoint stays");
        }
        enrol::remove_command_cgroups(&self.attach.cgroup.path);
        if self.attach.is_ours
            && let Err(error) = self.attach.cgroup.remove()
        {
            tracing::warn!(%error, "the cgroup stays: processes still live in it");
        }
        Ok(())
    }
}
