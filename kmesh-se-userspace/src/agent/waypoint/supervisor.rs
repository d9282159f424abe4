//! Keeps the Envoy of this node running.
//!
//! In: what to start. Out: how it is, at each turn. Never: an end of it, which is for whoever takes everything down.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{envoy::Launch, page};

/// How often an Envoy that starts is asked whether its listeners are there.
const LOOK: Duration = Duration::from_millis(20);
/// The first wait before it is started anew, which doubles; and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Who ran for so long has not failed at its start.
const STEADY: Duration = Duration::from_secs(10);

/// How the process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Life {
    /// Its id; none when it does not run.
    pub(super) pid: Option<u32>,
    /// Whether its listeners take connections, as far as it was told of them.
    pub(super) is_live: bool,
    /// How often it was started anew.
    pub(super) restarts: u32,
    /// Why it does not run, or why it was started anew.
    pub(super) last_end: Option<String>,
}

impl Life {
    /// Before anybody looks after it.
    pub(super) fn starting(is_live: bool) -> Self {
        Self { is_live, ..Self::default() }
    }
}

/// Goes on with the process of an earlier agent, or starts one, and starts one anew whenever it has ended, of which `forget` is told.
/// Dropping this leaves it running.
pub(super) async fn supervise(launch: Launch, life: watch::Sender<Life>, forget: impl Fn()) {
    let mut pause = PAUSE;
    let mut found = match launch.take_over().await {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(%error, "the waypoint of an earlier agent does not end");
            None
        }
    };
    if found.is_none() {
        life.send_modify(|life| life.is_live = false);
    }
    loop {
        let started = Instant::now();
        let end = match found.take().map_or_else(|| launch.start(), Ok) {
            Err(error) => format!("cannot start {}: {error}", launch.program.display()),
            Ok(mut envoy) => {
                let pid = envoy.pid();
                tracing::info!(pid, "the waypoint runs");
                life.send_modify(|life| life.pid = Some(pid));
                let lives = async {
                    while !page::is_live(&launch.place.page()).await {
                        sleep(LOOK).await;
                    }
                    life.send_if_modified(|life| !std::mem::replace(&mut life.is_live, true));
                    std::future::pending().await
                };
                tokio::select! {
                    end = envoy.ended() => end,
                    () = lives => unreachable!("it is pending"),
                }
            }
        };
        tracing::error!(end, log = %launch.place.log().display(), "the waypoint is away");
        forget();
        life.send_modify(|life| {
            *life = Life { pid: None, is_live: false, restarts: life.restarts + 1, last_end: Some(end) };
        });
        if started.elapsed() >= STEADY {
            pause = PAUSE;
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
