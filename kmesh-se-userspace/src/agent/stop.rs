//! The end of an agent: why, and what becomes of the programs.
//!
//! In: signals, and whether another agent serves. Out: a [`Stop`]. Never: a thing that is removed here.

use std::{path::Path, time::Duration};

use tokio::{
    net::UnixStream,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

use super::handover::Leaving;

/// How often an agent that lingers looks whether another one serves, and how many looks in vain make it end: longer than a
/// restart takes.
const LOOK: Duration = Duration::from_secs(2);
const SILENT_LOOKS: u32 = 5;

/// What becomes of the programs when the agent ends.
pub(super) enum Stop {
    /// Another agent has them.
    HandOver(Leaving),
    /// They stay for the next agent: connections go on, new ones too.
    Keep,
    /// Everything goes.
    Remove,
}

/// The signals that end the agent. A person at a terminal wants everything back as it was; a service manager only restarts.
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate })
    }

    pub(super) async fn wait(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Remove,
            _ = self.terminate.recv() => Stop::Keep,
        }
    }

    /// Another agent has taken over: returns at a signal, or when nobody has served the admin socket for a while, since then that
    /// one has gone for good.
    pub(super) async fn linger(&mut self, admin: &Path) {
        tracing::info!("lingering until a signal, or until no agent serves");
        let gone = async {
            let mut silent = 0;
            while silent < SILENT_LOOKS {
                sleep(LOOK).await;
                silent = if UnixStream::connect(admin).await.is_ok() { 0 } else { silent + 1 };
            }
        };
        tokio::select! {
            () = gone => tracing::warn!("no agent serves any more"),
            _ = self.wait() => (),
        }
    }
}
