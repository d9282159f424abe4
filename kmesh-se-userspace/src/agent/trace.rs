//! Connections as they happen, for who traces.
//!
//! In: events of the BPF programs. Out: the same in words, to each client of `trace`. Never: work while nobody traces;
//! the programs send connects that work only then.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::{SignedDuration, Timestamp};
use kmesh_se_common::{addr, maps::Event};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    Agent,
    events::{self, Reported},
};
use crate::{
    desired::{Address, AddressRange, Frontend, Scope, ServiceKey},
    model::Transport,
    sink::MapError,
    status::TraceEvent,
};

/// Where the reader of the ring buffer leaves what is traced.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    is_on: Arc<AtomicBool>,
    out: mpsc::Sender<Reported>,
}

impl Feed {
    /// Passes an event on while somebody traces; what does not fit is lost.
    pub(super) fn send(&self, event: Reported) {
        if self.is_on.load(Ordering::Relaxed)
            && let Err(TrySendError::Full(_)) = self.out.try_send(event)
        {
            tracing::debug!("a traced event is lost: the agent is busy");
        }
    }
}

/// Who traces.
#[derive(Debug)]
pub(super) struct Tracers {
    is_on: Arc<AtomicBool>,
    events: mpsc::Receiver<Reported>,
    clients: Vec<mpsc::Sender<TraceEvent>>,
}

impl Tracers {
    /// Nobody yet.
    pub(super) fn new(queue: usize) -> (Self, Feed) {
        let (out, events) = mpsc::channel(queue);
        let is_on = Arc::new(AtomicBool::new(false));
        (Self { is_on: is_on.clone(), events, clients: Vec::new() }, Feed { is_on, out })
    }

    /// The next event that is traced.
    pub(super) async fn next(&mut self) -> Option<Reported> {
        self.events.recv().await
    }
}

impl Agent {
    /// Tells `client` of every connection from now on.
    pub(super) fn add_tracer(&mut self, client: mpsc::Sender<TraceEvent>) -> Result<(), MapError> {
        self.reconciler.sink_mut().maps_mut().set_trace(true)?;
        self.tracers.is_on.store(true, Ordering::Relaxed);
        self.tracers.clients.push(client);
        Ok(())
    }

    /// Forgets the clients that have gone; with the last of them tracing ends.
    pub(super) fn forget_tracers(&mut self) {
        self.tracers.clients.retain(|client| !client.is_closed());
        if self.tracers.clients.is_empty()
            && self.tracers.is_on.swap(false, Ordering::Relaxed)
            && let Err(error) = self.reconciler.sink_mut().maps_mut().set_trace(false)
        {
            tracing::warn!(%error, "connections are still traced, although nobody reads them");
        }
    }

    pub(super) fn trace(&mut self, event: &Reported) {
        let event = self.in_words(event);
        // A client that is slow misses events; it does not hold up the others.
        self.tracers.clients.iter().for_each(|client| drop(client.try_send(event.clone())));
        self.forget_tracers();
    }

    fn in_words(&self, event: &Reported) -> TraceEvent {
        let (event, connected) = match event {
            Reported::Refused(event) => (event, None),
            Reported::Connected(connected) => (&connected.event, Some(connected)),
        };
        let sink = self.reconciler.sink();
        let key = connected.and_then(|connected| sink.service_of(connected.service).cloned());
        let key = key.or_else(|| self.dialled(event));
        TraceEvent {
            time: wall_clock(event.time_ns),
            outcome: events::reason(event.outcome).to_owned(),
            pid: event.pid,
            comm: connected.map(|connected| until_zero(&connected.comm)),
            pod: sink.cgroup_of(event.workload).and_then(|cgroup| self.pod_of(cgroup)),
            namespace: sink.namespace_of(event.scope).map(ToString::to_string).unwrap_or_default(),
            address: addr::to_ip(event.addr),
            port: event.port,
            protocol: if event.proto == 6 { "TCP" } else { "UDP" }.to_owned(),
            host: key.as_ref().map(|key| key.host.to_string()).or_else(|| self.host_of(event)),
            entry: key.as_ref().map(|key| format!("{}/{}", key.entry.namespace, key.entry.name)),
            backend_address: connected.map(|connected| addr::to_ip(connected.backend)),
            backend_port: connected.map(|connected| connected.backend_port),
        }
    }

    /// The scopes in which a client looks.
    fn scopes_of(&self, event: &Event) -> impl Iterator<Item = Scope> + use<> {
        let namespace = self.reconciler.sink().namespace_of(event.scope).cloned();
        namespace.map(Scope::Namespace).into_iter().chain([Scope::Mesh])
    }

    /// The service that was dialled.
    fn dialled(&self, event: &Event) -> Option<ServiceKey> {
        let transport = if event.proto == 6 { Transport::Tcp } else { Transport::Udp };
        let actual = self.reconciler.sink().actual();
        let scopes: Vec<_> = self.scopes_of(event).collect();
        let places = AddressRange::around(addr::to_ip(event.addr));
        let places = places.flat_map(|address| scopes.iter().map(move |scope| (scope.clone(), address)));
        // The narrowest range that is known decides, even if it does not list the port.
        let mut found = places.filter_map(|(scope, address)| {
            let frontend = Frontend { scope: scope.clone(), address, port: event.port, transport };
            let key = actual.frontends.get(&frontend);
            (key.is_some() || actual.addresses.contains_key(&Address { scope, address }))
                .then(|| key.cloned())
        });
        found.next().flatten()
    }

    /// The host whose address was dialled, with a port that it does not list.
    fn host_of(&self, event: &Event) -> Option<String> {
        let address: IpAddr = addr::to_ip(event.addr);
        let desired = self.reconciler.desired();
        let scopes: Vec<_> = self.scopes_of(event).collect();
        desired.user_at(scopes.iter(), address).map(|(host, _)| host.to_string())
    }
}

/// The time of a moment of `CLOCK_MONOTONIC` that has just passed.
fn wall_clock(monotonic_ns: u64) -> Timestamp {
    let now = Timestamp::now();
    let Ok(monotonic_now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return now };
    let now_ns = i128::from(monotonic_now.tv_sec()) * 1_000_000_000 + i128::from(monotonic_now.tv_nsec());
    let ago =
        SignedDuration::from_nanos(i64::try_from(now_ns - i128::from(monotonic_ns)).unwrap_or_default());
    now.checked_sub(ago).unwrap_or(now)
}

fn until_zero(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monotonic_moment_becomes_a_time_of_day() {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
        let secs = u64::try_from(now.tv_sec()).expect("positive");
        let ago = Timestamp::now().duration_since(wall_clock((secs - 10) * 1_000_000_000));
        assert!((10..12).contains(&ago.as_secs()), "{ago:?}");
    }

    #[test]
    fn a_comm_ends_at_its_zero() {
        assert_eq!(until_zero(b"curl\0\0\0\0"), "curl");
        assert_eq!(until_zero(b"exactly-sixteen!"), "exactly-sixteen!");
    }

    #[tokio::test]
    async fn nothing_is_queued_while_nobody_traces() {
        let (mut tracers, feed) = Tracers::new(1);
        let event = Event {
            time_ns: 0,
            outcome: 2,
            workload: 1,
            scope: 0,
            pid: 1,
            addr: [0; 16],
            port: 80,
            proto: 6,
            _pad: [0; 5],
        };
        feed.send(Reported::Refused(event));
        assert!(tracers.events.try_recv().is_err());
        tracers.is_on.store(true, Ordering::Relaxed);
        feed.send(Reported::Refused(event));
        // The queue is full: the second is lost, and nobody waits.
        feed.send(Reported::Refused(event));
        assert!(tracers.next().await.is_some());
        assert!(tracers.events.try_recv().is_err());
    }
}
