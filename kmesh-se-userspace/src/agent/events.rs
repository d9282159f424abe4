//! Events, as the BPF programs report them.
//!
//! In: the ring buffer. Out: the newest refusals; all events for who traces. Never: more memory than for those.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use aya::maps::{MapData, RingBuf};
use kmesh_se_common::{
    addr,
    limits::MAP_EVENT,
    maps::{ConnectEvent, Event, Outcome},
};
use tokio::{io::Interest, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::trace::Feed;
use crate::{loader::LoadedMaps, poll};

/// How many are kept.
const KEPT: usize = 32;

/// The newest refusals.
#[derive(Clone, Debug)]
pub(super) struct Refusals {
    newest: Arc<Mutex<VecDeque<Event>>>,
    traced: Feed,
    /// Where connections that found no backend are told.
    in_vain: mpsc::Sender<Event>,
}

/// A value that the ring buffer has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reported {
    /// Something was refused.
    Refused(Event),
    /// Something was connected.
    Connected(ConnectEvent),
}

impl Refusals {
    /// None yet; what is traced goes to `traced`, and what found no backend to `in_vain`, as far as there is room.
    pub(super) fn new(traced: Feed, in_vain: mpsc::Sender<Event>) -> Self {
        Self { newest: Arc::default(), traced, in_vain }
    }

    /// Reads events from the ring buffer until `shutdown`.
    pub(super) fn read_from(
        &self,
        maps: &mut LoadedMaps,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let map = maps.take_map(MAP_EVENT).context("the BPF object has no event map")?;
        let mut ring = poll::register(RingBuf::<MapData>::try_from(map)?, Interest::READABLE)?;
        let (refusals, shutdown) = (self.clone(), shutdown.clone());
        tasks.spawn(async move {
            while let Some(Ok(mut ready)) = shutdown.run_until_cancelled(ring.readable_mut()).await {
                while let Some(item) = ready.get_inner_mut().0.next() {
                    refusals.add(&item);
                }
                ready.clear_ready();
            }
        });
        Ok(())
    }

    fn add(&self, bytes: &[u8]) {
        let Some(event) = read::<Event>(bytes) else { return };
        if event.outcome == Outcome::Connected as u32 {
            if let Some(connected) = read(bytes) {
                self.traced.send(Reported::Connected(connected));
            }
            return;
        }
        self.traced.send(Reported::Refused(event));
        if event.outcome == Outcome::NoBackend as u32 {
            // One that is lost shows in the counters, too.
            let _ = self.in_vain.try_send(event);
        }
        tracing::debug!(
            reason = reason(event.outcome),
            pid = event.pid,
            address = %addr::to_ip(event.addr),
            port = event.port,
            "refused"
        );
        let mut newest = self.lock();
        if newest.len() == KEPT {
            newest.pop_front();
        }
        newest.push_back(event);
    }

    /// The newest refusals, the newest last.
    pub(super) fn newest(&self) -> Vec<Event> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: at least as long as a `T`, which is plain old data; the read needs no alignment.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The name of an outcome.
pub(super) fn reason(outcome: u32) -> &'static str {
    Outcome::ALL.iter().find(|(o, _)| *o as u32 == outcome).map_or("unknown", |(_, name)| *name)
}
