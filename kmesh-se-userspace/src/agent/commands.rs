//! Cgroups for the commands of `kmesh-se exec`.
//!
//! In: requests for one. Out: a cgroup, and the news that it is empty again. Never: an enrolment.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

use tokio::{io::Interest, task::JoinSet, time::timeout};

use crate::{
    enrol::{self, Cgroup, CgroupError},
    model::Namespace,
    poll,
};

/// How long the command has to enter its cgroup.
const ENTER: Duration = Duration::from_secs(30);

/// The cgroups in use.
pub(super) struct CommandCgroups {
    watched: JoinSet<Cgroup>,
}

impl CommandCgroups {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { watched: JoinSet::new() }
    }

    /// A new cgroup below `parent` for a command of `namespace`; `emptied` tells when its last process is gone.
    pub(super) fn create(&mut self, parent: &Path, namespace: &Namespace) -> Result<Cgroup, CgroupError> {
        let cgroup = enrol::create_for_command(parent, namespace)?;
        self.watch(cgroup.clone());
        Ok(cgroup)
    }

    /// Has `emptied` tell when the last process of `watched` is gone.
    pub(super) fn watch(&mut self, watched: Cgroup) {
        self.watched.spawn(async move {
            if let Err(error) = wait_until_empty(&watched).await {
                tracing::warn!(cgroup = %watched.path.display(), %error, "cannot watch a cgroup; it is given up");
            }
            watched
        });
    }

    /// The next cgroup that has become empty; never returns while there is none.
    pub(super) async fn emptied(&mut self) -> Option<Cgroup> {
        match self.watched.join_next().await {
            Some(done) => done.ok(),
            None => std::future::pending().await,
        }
    }
}

/// Returns when the cgroup's last process is gone, or when none came. The kernel says so by a priority event.
async fn wait_until_empty(cgroup: &Cgroup) -> std::io::Result<()> {
    let events = File::open(cgroup.path.join("cgroup.events"))?;
    let mut events = poll::register(events, Interest::PRIORITY)?;
    let mut was_populated = false;
    loop {
        let mut text = String::new();
        let file = &mut events.get_mut().0;
        file.seek(SeekFrom::Start(0))?;
        file.read_to_string(&mut text)?;
        let is_populated = text.lines().any(|l| l == "populated 1");
        if was_populated && !is_populated {
            return Ok(());
        }
        was_populated = is_populated;
        let changed = events.ready(Interest::PRIORITY);
        if was_populated {
            changed.await?.clear_ready();
        } else {
            match timeout(ENTER, changed).await {
                Ok(ready) => ready?.clear_ready(),
                Err(_) => return Ok(()),
            }
        }
    }
}
