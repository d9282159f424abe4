//! Waiting for conditions.
//!
//! In: a condition and how long it may take. Out: what it answered. Never: a fixed sleep.

use std::time::{Duration, Instant};

use anyhow::bail;

/// How often a condition is tried.
const STEP: Duration = Duration::from_millis(10);
/// The variable that says how many times as long everything may take here as on a real machine.
pub const SLOWNESS: &str = "KMSE_SLOWNESS";

/// `limit`, or [`SLOWNESS`] times that.
pub fn stretched(limit: Duration) -> Duration {
    limit * std::env::var(SLOWNESS).ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Waits until `condition` answers something.
///
/// # Errors
/// When it has not within `limit`, or [`SLOWNESS`] times that; the message names `what` was waited for.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let limit = stretched(limit);
    let began = Instant::now();
    loop {
        if let Some(answer) = condition() {
            return Ok(answer);
        }
        if began.elapsed() > limit {
            bail!("waited {:.1} s in vain for {what}", limit.as_secs_f64());
        }
        std::thread::sleep(STEP);
    }
}
