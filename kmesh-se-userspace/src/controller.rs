//! The controller of a cluster, top to bottom.
//!
//! In: its flags. Out: addresses and conditions in the status of ServiceEntries, one truth for all nodes, and Events about them.
//! Never: a write while another controller leads.
//!
//! Every candidate follows the entries, so that the one that takes over knows them already.

mod allocation;
mod conditions;
mod election;
mod events;
mod gateways;
mod keyring;
mod known;
mod metrics;
mod nodes;
mod pace;
mod patch;
mod queue;
mod waypoints;
mod webhook;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use kube::{
    Client,
    api::{Patch, PatchParams, ValidationDirective},
    core::Request,
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    allocation::Allocation,
    conditions::Left,
    election::{Election, Term, WRITE_TIMEOUT},
    events::{Events, Sent},
    known::{MANAGER, Write},
    metrics::Metrics,
    pace::Pace,
    queue::{Outcome, Queue},
    webhook::Webhook,
};
use crate::{
    config::{Allocates, ControllerArgs},
    health::{Health, HealthServer, Step},
    model::{Kind, Object, ObjectRef, read_object},
    source::{
        Event,
        kube::{self as cluster, Interest, Trouble},
    },
};

/// Room for events that the loop has not read yet.
const QUEUE: usize = 1024;
/// How many writes are under way at one time: enough to keep an API server at work. Where that is what takes the time, more would
/// only wait there, and for as long each keeps its place of [`Pace`].
const AT_ONCE: usize = 32;
/// A new leader waits so long: the last writes of the one before count for the limit of a second, and the watch tells of them.
const PAUSE: Duration = Duration::from_secs(1);
/// After how many refusals of one version of an entry it is told: both kinds of test have failed, and it is not for others that write.
const REFUSALS_TOLD: u32 = 4;
/// How often hosts without an address are tried again, and what is counted is told.
const UPKEEP: Duration = Duration::from_secs(1);

/// Runs until SIGINT or SIGTERM; then the Lease is given up, and nothing else changes.
///
/// # Errors
/// Something that the controller needs is missing; the message says what.
pub async fn run(args: ControllerArgs) -> anyhow::Result<()> {
    let client = cluster::connect(args.kubeconfig.as_deref()).await?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let health = Arc::new(Health::of("controller"));
    let _health_server = match &args.health {
        Some(address) => Some(HealthServer::start(address, health.clone(), false).await?),
        None => None,
    };
    let metrics = Arc::new(Metrics::default());
    if let Some(address) = args.metrics {
        let served = metrics::serve(address, metrics.clone()).await;
        served.with_context(|| format!("cannot serve /metrics on {address}: choose another --metrics"))?;
    }

    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (events_out, events) = mpsc::channel(QUEUE);
    tasks.spawn(cluster::watch(client.clone(), Interest::Entries, events_out, shutdown.clone()));
    let namespace = args.lease_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let (terms_out, terms) = watch::channel(None);
    // It ends after the last write.
    let election_over = CancellationToken::new();
    let election = Election::new(client.clone(), &namespace, &args.lease);
    let webhook = match args.webhook.webhook {
        Some(address) => {
            let (client, counts) = (client.clone(), metrics.webhook.clone());
            let webhook = Webhook::start(address, &args.webhook, client, &namespace, terms.clone(), counts);
            Some(webhook.await?)
        }
        None => None,
    };
    let (waypoints_out, waypoints) = mpsc::channel(QUEUE);
    if args.gateways.waypoints {
        let settings = gateways::Settings::of(&args.gateways, &namespace);
        let (gateways_out, gateways) = watch::channel(None);
        let run = gateways::run(client.clone(), settings, terms.clone(), gateways_out);
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(run).map(drop));
        let (events_out, events) = mpsc::channel(QUEUE);
        let interest = Interest::Waypoints(namespace.clone());
        tasks.spawn(cluster::watch(client.clone(), interest, events_out, shutdown.clone()));
        let keyring = waypoints::keyring(client.clone(), &args, &namespace, terms.clone());
        let settings = waypoints::Settings::of(&args.waypoint_server, &namespace);
        let links = (terms.clone(), gateways, events, waypoints_out);
        let run = waypoints::run(client.clone(), settings, keyring, links);
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(run).map(drop));
    }
    let (nodes_out, nodes) = mpsc::channel(QUEUE);
    // It ends with its receiver.
    tokio::spawn(nodes::follow(client.clone(), namespace.clone(), nodes_out));
    let election = tokio::spawn(election.run(terms_out, election_over.clone()));

    let mut controller = Controller {
        client,
        allocation: Allocation::new(args.vips.ranges()).serving_waypoints(args.gateways.waypoints),
        allocates: args.allocate,
        is_synced: false,
        begins_at: None,
        left: None,
        trouble: None,
        refused: BTreeMap::new(),
        events: Events::new(),
        sends: JoinSet::new(),
        queue: Queue::default(),
        pace: Pace::new(args.writes_per_second),
        writes: JoinSet::new(),
        health,
        metrics,
    };
    let result = tokio::select! {
        result = controller.run(events, (nodes, waypoints), terms) => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    tracing::info!("stopping");
    while controller.writes.join_next().await.is_some() {}
    while controller.sends.join_next().await.is_some() {}
    election_over.cancel();
    election.await.context("the election failed")?;
    if let Some(webhook) = webhook {
        webhook.end().await;
    }
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    result
}

/// The state of the loop.
struct Controller {
    client: Client,
    allocation: Allocation,
    allocates: Allocates,
    is_synced: bool,
    /// When this one writes, if it leads.
    begins_at: Option<Instant>,
    /// Why addresses are left to others, if they are.
    left: Option<Left>,
    /// Why writes fail, if they do.
    trouble: Option<Trouble>,
    /// What the API server said of the writes that it has refused since the last that it took: one thing for each kind of test.
    refused: BTreeMap<ObjectRef, Refused>,
    events: Events,
    sends: JoinSet<(ObjectRef, Result<Sent, Trouble>)>,
    queue: Queue,
    pace: Pace,
    writes: JoinSet<(Write, Result<Object, Refusal>)>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// Writes of one entry that were refused.
#[derive(Default)]
struct Refused {
    messages: BTreeSet<String>,
    is_told: bool,
}

/// Why a write was not made.
enum Refusal {
    /// The entry is not as it was thought to be, or may not be written so.
    Changed {
        /// What the API server says.
        message: String,
    },
    /// Something else.
    Failed(Trouble),
}

impl Controller {
    async fn run(
        &mut self,
        mut events: mpsc::Receiver<Event>,
        (mut nodes, mut waypoints): (mpsc::Receiver<nodes::News>, mpsc::Receiver<waypoints::News>),
        mut terms: watch::Receiver<Term>,
    ) -> anyhow::Result<()> {
        let mut upkeep = interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.due();
            tokio::select! {
                event = events.recv() => self.event(event.context("the source stopped")?),
                Some(news) = nodes.recv() => self.allocation.hear(news),
                Some((object, conditions)) = waypoints.recv() => self.allocation.hear_waypoint(object, conditions),
                Some(written) = self.writes.join_next() => {
                    let (write, result) = written.context("a write failed")?;
                    self.written(write, result);
                }
                Some(sent) = self.sends.join_next() => {
                    let (object, result) = sent.context("a send of an Event failed")?;
                    self.sent(&object, &result);
                }
                changed = terms.changed() => changed.context("the election stopped")?,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                _ = upkeep.tick() => self.keep_up(),
            }
            let term = *terms.borrow_and_update();
            self.lead(term.is_some_and(|until| until > Instant::now()));
            if self.works() {
                if self.left.is_none() {
                    self.allocation.allocate(Timestamp::now());
                }
                self.note_changes();
                self.start_writes(term);
                self.send_events(term);
            }
            let missing = (!self.is_synced).then(|| "the API server has not told all entries yet".to_owned());
            self.health.turn(Step::Serving, missing.into_iter().collect());
        }
    }

    /// Whether it is this controller's turn to write, and there is something that it should.
    fn works(&self) -> bool {
        let begins = self.begins_at.is_some_and(|at| at <= Instant::now());
        begins && self.is_synced
    }

    /// When the next write can start, if one waits and may be begun.
    fn due(&self) -> Option<Instant> {
        let write = self.queue.next().filter(|_| self.writes.len() < AT_ONCE);
        let next = write.into_iter().chain(self.events.next()).min().filter(|_| self.works())?;
        Some(next.max(self.pace.ready_at()?))
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Apply(Object::ServiceEntry(raw)) => self.allocation.apply(*raw, Timestamp::now()),
            Event::Delete(object) => {
                self.allocation.delete(&object, Timestamp::now());
                self.refused.remove(&object);
            }
            Event::Problems { origin, problems } => {
                for problem in problems {
                    tracing::warn!(
                        source = origin,
                        reason = problem.reason,
                        message = problem.message,
                        "bad input"
                    );
                }
            }
            Event::Synced => self.is_synced = true,
            Event::Apply(other) => self.allocation.apply_other(&other, Timestamp::now()),
        }
        let istios = self.allocation.istios().filter(|_| self.allocates == Allocates::Auto);
        let left = match self.allocates {
            Allocates::Never => Some(Left::ByFlag),
            Allocates::Auto | Allocates::Always => istios.map(|_| Left::ToIstio),
        };
        if left == self.left {
            return;
        }
        match istios {
            Some(entry) => tracing::warn!(
                %entry,
                "Istio's allocator is at work: addresses are left to it, unless --allocate always is given"
            ),
            None if left.is_none() => tracing::info!("no address of Istio's allocator is left: allocating"),
            None => {}
        }
        self.left = left;
        self.allocation.leave(left);
    }

    fn lead(&mut self, leads: bool) {
        if leads != self.begins_at.is_some() {
            self.begins_at = leads.then(|| Instant::now() + PAUSE);
            self.queue.clear();
            self.events.clear();
            self.allocation.look_again();
            self.metrics.update(|now| now.leads = leads);
        }
    }

    fn note_changes(&mut self) {
        let now = Instant::now();
        for (object, item) in self.allocation.take_changed() {
            match item {
                Some(item) => self.queue.add(item, now),
                None => self.queue.remove(&object),
            }
        }
    }

    fn start_writes(&mut self, term: Term) {
        while self.writes.len() < AT_ONCE {
            let now = Instant::now();
            let is_time = self.pace.ready_at().is_some_and(|at| at <= now);
            if term.is_none_or(|until| until <= now) || !is_time {
                return;
            }
            let Some((object, has_failed)) = self.queue.pop(now) else { return };
            let Some(write) = self.allocation.write(&object, has_failed, Timestamp::now()) else {
                self.queue.end(&object, Outcome::Nothing, now);
                continue;
            };
            self.pace.start(now);
            let client = self.client.clone();
            self.writes.spawn(async move {
                let result = timeout(WRITE_TIMEOUT, send(&client, &write)).await;
                let late = || Refusal::Failed(Trouble::no_answer());
                let result = result.unwrap_or_else(|_| Err(late()));
                (write, result)
            });
        }
    }

    /// What else there is room for: connections do not wait for it.
    fn send_events(&mut self, term: Term) {
        while self.sends.len() < AT_ONCE {
            let now = Instant::now();
            let is_time = self.pace.ready_at().is_some_and(|at| at <= now);
            if term.is_none_or(|until| until <= now) || !is_time {
                return;
            }
            let Some((object, event)) = self.events.pop(now) else { return };
            self.pace.start(now);
            let client = self.client.clone();
            self.sends.spawn(async move { (object, events::send(&client, event).await) });
        }
    }

    fn sent(&mut self, object: &ObjectRef, result: &Result<Sent, Trouble>) {
        self.pace.end(Instant::now());
        self.events.sent(object, result);
        self.metrics.update(|now| match result {
            Ok(Sent::New) => now.events += 1,
            Ok(Sent::Known | Sent::Not) => {}
            Err(_) => now.events_failed += 1,
        });
    }

    fn written(&mut self, write: Write, result: Result<Object, Refusal>) {
        self.pace.end(Instant::now());
        let object = &write.object;
        let outcome = match result {
            Ok(written) => {
                if self.trouble.take().is_some() {
                    tracing::info!("the API server takes writes again");
                }
                self.metrics.update(|now| now.written += 1);
                // The watch tells the same, but later.
                if let Object::ServiceEntry(raw) = written {
                    self.allocation.wrote(*raw, Timestamp::now());
                }
                self.refused.remove(object);
                self.events.add(object, &write.api_version, write.tells);
                Outcome::Done(write.rank)
            }
            Err(Refusal::Changed { message }) => {
                tracing::debug!(entry = %object, "somebody else writes too: trying again");
                self.metrics.update(|now| now.conflicts += 1);
                let times = self.allocation.refused(object, &write.version);
                let refused = self.refused.entry(object.clone()).or_default();
                refused.messages.insert(message);
                if times >= REFUSALS_TOLD && !refused.is_told {
                    refused.is_told = true;
                    let messages = refused.messages.iter().map(String::as_str).collect::<Vec<_>>().join("; ");
                    tracing::warn!(
                        entry = %object,
                        messages,
                        "the API server refuses to have the status written, although nobody changes the entry: trying on, more rarely"
                    );
                }
                if refused.is_told || times == 0 {
                    // Not one for each version of an entry that others write all the time.
                    refused.messages.clear();
                }
                Outcome::Failed
            }
            Err(Refusal::Failed(trouble)) => {
                if trouble == Trouble::NotServed {
                    // Usually gone, which the watch tells, too; else it is tried again.
                    tracing::debug!(entry = %object, "a write found no such entry");
                } else if self.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!(entry = %object, error = %trouble, "a write failed, and is tried again");
                    self.trouble = Some(trouble);
                }
                self.metrics.update(|now| now.failed += 1);
                self.allocation.look_again_at(object);
                Outcome::Failed
            }
        };
        self.queue.end(object, outcome, Instant::now());
    }

    fn keep_up(&mut self) {
        self.allocation.tick(Timestamp::now());
        self.allocation.retry();
        self.queue.forget(Instant::now());
        let (queue, counts) = (self.queue.len(), self.allocation.counts());
        let leaves_allocation = self.left.is_some();
        self.metrics.update(|now| {
            (now.queue, now.counts, now.leaves_allocation) = (queue, counts, leaves_allocation);
        });
    }
}

/// Sends one write, and answers what the entry is then.
async fn send(client: &Client, write: &Write) -> Result<Object, Refusal> {
    let ObjectRef { namespace, name, .. } = &write.object;
    let path = format!("/apis/{}/namespaces/{namespace}/serviceentries", write.api_version);
    // The API server need not look for fields that it does not know: the patch has none, and nobody reads its warnings.
    let field_validation = Some(ValidationDirective::Ignore);
    let params =
        PatchParams { field_manager: Some(MANAGER.to_owned()), field_validation, ..PatchParams::default() };
    let patch = Patch::<()>::Json(write.patch.clone());
    let failed = |error: kube::Error| match Trouble::of(&error) {
        // A test of the patch that fails is an invalid request to the API server.
        Trouble::Refused { message } | Trouble::Unable { code: 409, message } => Refusal::Changed { message },
        trouble => Refusal::Failed(trouble),
    };
    let request = Request::new(path).patch_subresource("status", name, &params, &patch);
    let request = request.map_err(kube::Error::BuildRequest).map_err(failed)?;
    let value: Value = client.request(request).await.map_err(failed)?;
    let read = read_object(Kind::ServiceEntry, &write.api_version, value);
    read.map(|(object, _)| object)
        .map_err(|_| Refusal::Changed { message: "the answer is no ServiceEntry".to_owned() })
}

/// All addresses are those of one family where the machine has no other.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && error.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}
