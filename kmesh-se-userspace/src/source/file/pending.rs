//! What was touched and is not quiet yet.
//!
//! In: signals, with the time. Out: what to read, once it is quiet. Never: reading.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{scan::Wanted, signals::Signals};

/// Files touched within this time of each other are read together: the two ends of a renaming, say.
const TOGETHER: Duration = Duration::from_millis(5);

/// When things were touched last.
#[derive(Debug, Default)]
pub(super) struct Pending {
    files: BTreeMap<String, Instant>,
    folder: Option<Instant>,
}

impl Pending {
    /// Notes `signals`, which came at `now`.
    pub(super) fn add(&mut self, signals: Signals, now: Instant) {
        if signals.folder {
            self.folder = Some(now);
        }
        self.files.extend(signals.files.into_iter().map(|name| (name, now)));
    }

    /// Waits until something has been quiet for `quiet`, and takes all that has; forever if nothing is pending.
    /// Nothing is lost when it is not waited for to the end.
    pub(super) async fn quiet_for(&mut self, quiet: Duration) -> Wanted {
        let Some(first) = self.files.values().chain(&self.folder).min() else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(*first + quiet).await;
        self.take(Instant::now(), quiet)
    }

    fn take(&mut self, now: Instant, quiet: Duration) -> Wanted {
        let is_quiet = |at: &Instant| now.duration_since(*at) + TOGETHER >= quiet;
        let due: BTreeSet<String> =
            self.files.iter().filter(|(_, at)| is_quiet(at)).map(|(name, _)| name.clone()).collect();
        self.files.retain(|name, _| !due.contains(name));
        if self.folder.as_ref().is_some_and(is_quiet) {
            self.folder = None;
            return self.all();
        }
        Wanted::Files(due)
    }

    /// Everything but the files that are still being written.
    pub(super) fn all(&self) -> Wanted {
        Wanted::All { except: self.files.keys().cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(100);

    fn touched(names: &[&str], folder: bool) -> Signals {
        Signals { files: names.iter().map(|n| (*n).to_owned()).collect(), folder }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        touched(names, false).files
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_due_only_when_it_has_been_quiet() {
        let mut pending = Pending::default();
        let start = Instant::now();
        for _ in 0..10 {
            pending.add(touched(&["busy"], false), Instant::now());
            assert!(tokio::time::timeout(QUIET / 2, pending.quiet_for(QUIET)).await.is_err());
        }
        assert_eq!(pending.quiet_for(QUIET).await, Wanted::Files(set(&["busy"])));
        assert_eq!(start.elapsed(), QUIET / 2 * 9 + QUIET);
        assert!(
            tokio::time::timeout(QUIET * 100, pending.quiet_for(QUIET)).await.is_err(),
            "nothing is left"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_file_holds_back_only_itself() {
        let mut pending = Pending::default();
        pending.add(touched(&["a", "busy"], true), Instant::now());
        tokio::time::advance(QUIET / 2).await;
        pending.add(touched(&["busy"], false), Instant::now());
        assert_eq!(pending.quiet_for(QUIET).await, Wanted::All { except: set(&["busy"]) });
        assert_eq!(pending.quiet_for(QUIET).await, Wanted::Files(set(&["busy"])));
    }
}
