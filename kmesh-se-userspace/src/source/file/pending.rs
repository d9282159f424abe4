//! What was touched and is not whole yet.
//!
//! In: signals, with the time. Out: what to read, once it may be. Never: reading.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Options,
    look::Wanted,
    signals::{Signals, Touch},
};

/// Files that are due within this time of each other are read together.
const TOGETHER: Duration = Duration::from_millis(5);

/// When things may be read.
#[derive(Debug, Default)]
pub(super) struct Pending {
    files: BTreeMap<String, Instant>,
    folder: Option<Instant>,
}

impl Pending {
    /// Notes `signals`, which came at `now`.
    pub(super) fn add(&mut self, signals: Signals, now: Instant, options: &Options) {
        let due = |touch| match touch {
            Touch::Changed => now + options.quiet,
            Touch::Closed => now + options.quiet_closed,
            Touch::Moved => now,
        };
        if let Some(touch) = signals.folder {
            self.folder = Some(due(touch));
        }
        self.files.extend(signals.files.into_iter().map(|(name, touch)| (name, due(touch))));
    }

    /// Has these files read, whatever is known of them.
    pub(super) fn add_due(&mut self, names: BTreeSet<String>, now: Instant) {
        self.files.extend(names.into_iter().map(|name| (name, now)));
    }

    /// Waits until something is due, and takes all that is; forever if nothing is pending. Nothing is lost when it is not
    /// waited for to the end.
    pub(super) async fn due(&mut self) -> Wanted {
        let Some(first) = self.files.values().chain(&self.folder).min() else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(*first).await;
        self.take(Instant::now() + TOGETHER)
    }

    fn take(&mut self, until: Instant) -> Wanted {
        let due: BTreeSet<String> =
            self.files.iter().filter(|(_, at)| **at <= until).map(|(name, _)| name.clone()).collect();
        self.files.retain(|name, _| !due.contains(name));
        if self.folder.is_some_and(|at| at <= until) {
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

    fn options() -> Options {
        Options { quiet: QUIET, ..Options::default() }
    }

    fn touched(names: &[&str], touch: Touch) -> Signals {
        Signals { files: names.iter().map(|n| ((*n).to_owned(), touch)).collect(), ..Signals::default() }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    async fn none_within(pending: &mut Pending, time: Duration) {
        assert!(tokio::time::timeout(time, pending.due()).await.is_err(), "something was due");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_being_written_is_due_only_when_it_has_been_quiet() {
        let mut pending = Pending::default();
        let start = Instant::now();
        for _ in 0..10 {
            pending.add(touched(&["busy"], Touch::Changed), Instant::now(), &options());
            none_within(&mut pending, QUIET / 2).await;
        }
        assert_eq!(pending.due().await, Wanted::Files(set(&["busy"])));
        assert_eq!(start.elapsed(), QUIET / 2 * 9 + QUIET);
        none_within(&mut pending, QUIET * 100).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_was_moved_into_place_is_due_at_once() {
        let mut pending = Pending::default();
        let start = Instant::now();
        pending.add(touched(&["busy"], Touch::Changed), start, &options());
        pending.add(touched(&["new"], Touch::Moved), start, &options());
        assert_eq!(pending.due().await, Wanted::Files(set(&["new"])));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(pending.due().await, Wanted::Files(set(&["busy"])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_closed_and_written_again_is_not_whole() {
        let mut pending = Pending::default();
        let closed = options().quiet_closed;
        for _ in 0..10 {
            pending.add(touched(&["lines"], Touch::Changed), Instant::now(), &options());
            pending.add(touched(&["lines"], Touch::Closed), Instant::now(), &options());
            none_within(&mut pending, closed / 2).await;
        }
        let last = Instant::now() - closed / 2;
        assert_eq!(pending.due().await, Wanted::Files(set(&["lines"])));
        assert_eq!(last.elapsed(), closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_file_holds_back_only_itself() {
        let mut pending = Pending::default();
        let now = Instant::now();
        let folder = Some(Touch::Changed);
        pending.add(Signals { folder, ..touched(&["a", "busy"], Touch::Changed) }, now, &options());
        tokio::time::advance(QUIET / 2).await;
        pending.add(touched(&["busy"], Touch::Changed), Instant::now(), &options());
        assert_eq!(pending.due().await, Wanted::All { except: set(&["busy"]) });
        assert_eq!(pending.due().await, Wanted::Files(set(&["busy"])));
    }
}
