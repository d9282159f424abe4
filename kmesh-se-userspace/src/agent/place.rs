//! Where the programs are: the cgroup that they are attached to, and what is made for them.
//!
//! In: flags. Out: the cgroup; its end, and that of the pins, when no program uses them. Never: an enrolment.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::handover::Taken;
use crate::{
    config::AgentArgs,
    enrol::{self, Cgroup},
    health::{Health, Step},
    loader::{self, Pins},
};

/// How often a cgroup is looked for that is not there.
const LOOK: Duration = Duration::from_millis(500);

/// The cgroup that the programs are attached to, and whether it is ours to remove.
pub(super) struct AttachCgroup {
    pub(super) cgroup: Cgroup,
    pub(super) is_ours: bool,
    is_new: bool,
}

impl AttachCgroup {
    /// Opens the cgroup at `path`, made if it is not there. Unless another agent is taken over from, the empty cgroups of
    /// commands in it go.
    pub(super) fn open(args: &AgentArgs, path: &Path, taken: Option<&Taken>) -> anyhow::Result<Self> {
        loader::check_place(path)?;
        let (cgroup, created) = Cgroup::open_or_create(path)?;
        match taken {
            Some(taken) => taken.check_attach(&cgroup.path)?,
            None => drop(enrol::remove_command_cgroups(&cgroup.path)),
        }
        let is_of_pods = args.enrols_pods() && !created;
        Ok(Self { cgroup, is_ours: created || (args.attach.is_none() && !is_of_pods), is_new: created })
    }
}

/// The cgroup that the flags mean. That of all pods may not be there yet; it is waited for.
pub(super) async fn attach_path(args: &AgentArgs, health: &Health) -> anyhow::Result<PathBuf> {
    let mount = enrol::hierarchy()?;
    match &args.attach {
        Some(path) => Ok(path.clone()),
        None if args.enrols_pods() => cgroup_of_pods(&mount, health).await,
        None => Ok(mount.join("kmesh-se")),
    }
}

async fn cgroup_of_pods(mount: &Path, health: &Health) -> anyhow::Result<PathBuf> {
    let mut is_told = false;
    loop {
        match enrol::first_directories(mount).as_slice() {
            [path] => return Ok(path.clone()),
            [] => {}
            several => {
                let shown: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
                anyhow::bail!(
                    "{} cgroups of pods: {}; give --attach one of them",
                    several.len(),
                    shown.join(", ")
                );
            }
        }
        if !std::mem::replace(&mut is_told, true) {
            tracing::warn!(
                below = %mount.display(),
                "no cgroup of pods (kubepods, kubepods.slice): waiting until the kubelet makes it"
            );
        }
        health.pause(Step::Starting);
        tokio::time::sleep(LOOK).await;
    }
}

/// Maps and a cgroup that no program uses go when the agent ends, as when it could not start.
pub(super) struct Unused {
    pins: PathBuf,
    cgroup: Option<Cgroup>,
}

impl Unused {
    pub(super) fn new(args: &AgentArgs, attach: &AttachCgroup) -> Self {
        Self { pins: args.pin.clone(), cgroup: attach.is_new.then(|| attach.cgroup.clone()) }
    }
}

impl Drop for Unused {
    fn drop(&mut self) {
        if Pins::has_links(&self.pins) {
            return;
        }
        if let Err(error) = loader::remove_pins(&self.pins) {
            tracing::warn!(pins = %self.pins.display(), %error, "maps stay; `kmesh-se cleanup` removes them");
        }
        if let Some(cgroup) = &self.cgroup {
            // It stays if somebody has put a process into it meanwhile.
            drop(cgroup.remove());
        }
    }
}
