//! The waypoint of this node: an Envoy beside the agent, told over xDS which services it serves.
//!
//! In: services that the reconciler has given ports, the flags. Out: which of their listeners take connections. Never: a decision
//! about who goes through it, which `desired` makes of that.

mod envoy;
mod listeners;
mod page;
mod supervisor;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use anyhow::Context;
use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub(crate) use self::envoy::Place;
use self::{
    envoy::{Launch, NODE},
    listeners::{Listeners, follow},
    supervisor::{Life, supervise},
};
use super::Agent;
use crate::{
    config::AgentArgs,
    desired::{ServiceKey, Waypoints},
    enrol::Cgroup,
    explain::WaypointFacts,
    model::HostName,
    state::StateDir,
    status::{ConditionStatus, WaypointStatus},
    waypoint::{Service, Settings, Xds},
};

/// A waypoint that is served here.
pub(super) struct Waypoint {
    xds: Xds,
    listeners: watch::Receiver<Listeners>,
    launch: Launch,
    life: watch::Receiver<Life>,
    /// For those who follow both, until they are started.
    outs: Option<(watch::Sender<Life>, watch::Sender<Listeners>)>,
    /// Ends the supervisor, and nothing else.
    supervision: CancellationToken,
    listen: Vec<IpAddr>,
    /// The services that the Envoy of an earlier agent listens for.
    adopted: BTreeSet<ServiceKey>,
    is_synced: bool,
}

impl Waypoint {
    /// The waypoint of the flags, if they ask for one, and what is known of it so far. It is not started yet.
    ///
    /// # Errors
    /// The flags do not say where it can listen, or the saved ports cannot be read.
    pub(super) async fn new(
        args: &AgentArgs,
        dns: &[IpAddr],
        resolvers: Vec<SocketAddr>,
        state: &StateDir,
    ) -> anyhow::Result<(Option<Self>, Waypoints)> {
        let flags = &args.waypoint;
        let unavailable = flags.waypoint_unavailable.into();
        let Some(program) = flags.waypoint_envoy.clone() else {
            let follows = flags.waypoint_namespace.is_some();
            return Ok((
                None,
                if follows { Waypoints::in_cluster(unavailable) } else { Waypoints::default() },
            ));
        };
        anyhow::ensure!(program.is_file(), "--waypoint-envoy {} is no file", program.display());
        let listen = args.waypoint_addresses(dns)?;
        let launch = Launch { program, place: Place::beside(&args.admin) };
        let ports = state.load_assignments(flags.waypoint_ports)?;
        let mut waypoints = Waypoints::at(listen.clone(), ports, unavailable);
        let adopted = listening(&launch, &waypoints).await;
        drop(waypoints.set_listeners(adopted.clone(), BTreeMap::new()));
        let xds = Xds::new(Settings { listen: listen.clone(), resolvers, access_log: false });
        let (listeners_out, listeners) = watch::channel(Listeners::default());
        let (life_out, life) = watch::channel(Life::starting(!adopted.is_empty()));
        let waypoint = Self {
            xds,
            launch,
            life,
            listeners,
            outs: Some((life_out, listeners_out)),
            supervision: CancellationToken::new(),
            listen,
            adopted,
            is_synced: false,
        };
        Ok((Some(waypoint), waypoints))
    }

    /// Returns when a service may have another standing than before.
    pub(super) async fn changed(&mut self) {
        let changed = tokio::select! {
            changed = self.listeners.changed() => changed,
            changed = self.life.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The services for which the Envoy of an earlier agent listens.
async fn listening(launch: &Launch, waypoints: &Waypoints) -> BTreeSet<ServiceKey> {
    if envoy::Envoy::find(&launch.place).is_none() || !page::is_live(&launch.place.page()).await {
        return BTreeSet::new();
    }
    let ports = page::ports(&launch.place.page()).await.unwrap_or_default();
    let assignments = waypoints
        .ports()
        .iter()
        .filter(|(_, assignment)| assignment.is_committed && ports.contains(&assignment.port));
    assignments.map(|(service, _)| service.clone()).collect()
}

/// Returns when a service of a waypoint, if there is one, may have another standing than before.
pub(super) async fn changed(waypoint: &mut Option<Waypoint>) {
    match waypoint {
        Some(waypoint) => waypoint.changed().await,
        None => std::future::pending().await,
    }
}

impl Agent {
    /// Starts the waypoint, or goes on with the one that an earlier agent started; without the flag, ends that one.
    pub(super) async fn begin_waypoint(
        &mut self,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let Some(waypoint) = &mut self.waypoint else {
            // No connection is led there any more.
            if let Err(error) = Place::beside(&self.args.admin).clear().await {
                tracing::warn!(%error, "the waypoint of an earlier agent stays");
            }
            return Ok(());
        };
        let sink = self.reconciler.sink();
        let enrolled: BTreeSet<u64> =
            sink.workloads().filter(|(_, workload)| workload.namespace.is_some()).map(|(id, _)| id).collect();
        let own = Cgroup::own()?;
        if let Some(cgroup) = own.with_ancestors().find(|cgroup| enrolled.contains(&cgroup.id)) {
            anyhow::bail!(
                "the waypoint would be enrolled itself, since {} is: start the agent in another cgroup",
                cgroup.path.display()
            );
        }
        let Some((life, listeners)) = waypoint.outs.take() else { return Ok(()) };
        let place = &waypoint.launch.place;
        place.make().with_context(|| format!("cannot make {}", place.path().display()))?;
        let (server, xds, stop) = (place.server(), waypoint.xds.clone(), shutdown.clone());
        tasks.spawn(async move {
            if let Err(error) = xds.serve_unix(&server, stop.cancelled_owned()).await {
                tracing::error!(%error, "the waypoint is told nothing");
            }
        });
        let (launch, xds) = (waypoint.launch.clone(), waypoint.xds.clone());
        let followed = follow(xds.clone(), xds.changes(), launch.place.page(), listeners);
        let supervised = supervise(launch, life, move || xds.forget(NODE));
        let (supervision, stop) = (waypoint.supervision.clone(), shutdown.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = supervised => {}
                () = supervision.cancelled() => {}
                () = stop.cancelled() => {}
            }
        });
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(followed).map(drop));
        Ok(())
    }

    /// Has nobody but the next agent start the waypoint anew.
    pub(super) fn leave_waypoint(&self) {
        if let Some(waypoint) = &self.waypoint {
            waypoint.supervision.cancel();
        }
    }

    /// Tells the waypoint what these hosts need of it.
    pub(super) fn tell_waypoint<'a>(&mut self, hosts: impl Iterator<Item = &'a HostName>) {
        let Some(waypoint) = &mut self.waypoint else { return };
        for host in hosts {
            for (service, port, bound) in self.reconciler.listeners_of(host) {
                waypoint.xds.set(service, Some(Service::of(port, bound)));
            }
        }
        if self.reconciler.report().synced && !std::mem::replace(&mut waypoint.is_synced, true) {
            waypoint.xds.synced();
        }
    }

    /// Takes in what the waypoint has become.
    pub(super) fn waypoint_changed(&mut self) {
        let Some(waypoint) = &mut self.waypoint else { return };
        let is_live = waypoint.life.borrow_and_update().is_live;
        if !is_live {
            waypoint.adopted.clear();
        }
        let listeners = waypoint.listeners.borrow_and_update();
        let mut ready = waypoint.adopted.clone();
        ready.extend(listeners.ready.iter().filter(|_| is_live).cloned());
        let rejected = listeners.rejected.clone();
        drop(listeners);
        self.reconciler.set_listeners(ready, rejected);
    }

    /// Takes down the listeners that connections were led past for long enough.
    pub(super) fn forget_listeners(&mut self) {
        for service in self.reconciler.take_left_listeners(Timestamp::now()) {
            if let Some(waypoint) = &mut self.waypoint {
                waypoint.adopted.remove(&service);
                waypoint.xds.set(&service, None);
            }
        }
    }

    /// Saves which service has which port.
    pub(super) fn save_assignments(&self) {
        if let Err(error) = self.state.save_assignments(self.reconciler.waypoints().ports()) {
            tracing::error!(%error, "state is not saved: after a restart services may have other ports at the waypoint");
        }
    }

    /// How the waypoint is; none without the flag.
    pub(super) fn waypoint_status(&self) -> Option<WaypointStatus> {
        let waypoint = self.waypoint.as_ref()?;
        let life = waypoint.life.borrow();
        let waypoints = self.reconciler.waypoints();
        let (mut services, mut through, mut conditions) = (0, 0, Vec::new());
        for (service, _) in waypoints.ports().iter() {
            services += 1;
            through += usize::from(waypoints.is_ready(service));
            let told = self.waypoint_conditions(service);
            conditions.extend(told.into_iter().filter(|condition| condition.status == "False"));
        }
        Some(WaypointStatus {
            program: waypoint.launch.program.display().to_string(),
            log: waypoint.launch.place.log().display().to_string(),
            listen: waypoint.listen.clone(),
            running: life.is_live,
            pid: life.pid,
            connected: waypoint.xds.nodes().iter().any(|node| node.connected),
            restarts: life.restarts,
            last_end: life.last_end.clone(),
            services,
            through,
            conditions,
        })
    }

    /// How a service goes through its waypoint, or why not; none when it is bound to none.
    pub(super) fn waypoint_facts(&self, service: &ServiceKey) -> Option<WaypointFacts> {
        let condition = self.reconciler.waypoint_condition(service)?;
        let mut told = self.reconciler.listeners_of(&service.host);
        let bound = told.find(|(of, ..)| *of == service).map(|(.., bound)| bound);
        let dials = bound.map(|bound| match bound.http.rules.is_empty() {
            true => bound.upstream.to_strings(),
            false => bound.http.dials(&bound.upstream),
        });
        Some(WaypointFacts {
            routes: self.reconciler.http_route_condition(service).map(|c| (c.reason.to_owned(), c.message)),
            is_through: self.reconciler.is_through(service),
            reason: condition.reason.to_owned(),
            message: condition.message,
            dials: dials.unwrap_or_default(),
        })
    }

    /// What people are told of a service that is bound to a waypoint, or that an HTTPRoute is about.
    pub(super) fn waypoint_conditions(&self, service: &ServiceKey) -> Vec<ConditionStatus> {
        let told =
            [self.reconciler.waypoint_condition(service), self.reconciler.http_route_condition(service)];
        let told = told.into_iter().flatten();
        told.map(|condition| ConditionStatus::of(&service.entry, &service.host, condition)).collect()
    }
}
