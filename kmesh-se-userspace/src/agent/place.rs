//! Where the programs are: the cgroup that they are attached to, and what is made for them.
//!
//! In: flags. Out: the cgroup; its end, and that of the pins, when no program uses them. Never: an enrolment.

use std::path::PathBuf;

use super::handover::Taken;
use crate::{
    config::AgentArgs,
    enrol::{self, Cgroup},
    loader::{self, Pins},
};

/// The cgroup that the programs are attached to, and whether it is ours to remove.
pub(super) struct AttachCgroup {
    pub(super) cgroup: Cgroup,
    pub(super) is_ours: bool,
    is_new: bool,
}

impl AttachCgroup {
    /// Opens the cgroup of the flags, made if it is not there. Unless another agent is taken over from, the empty cgroups of
    /// commands in it go.
    pub(super) fn open(args: &AgentArgs, taken: Option<&Taken>) -> anyhow::Result<Self> {
        let mount = enrol::cgroup2_mount().ok_or(enrol::CgroupError::NotMounted)?;
        let path = args.attach.clone().unwrap_or_else(|| mount.join("kmesh-se"));
        loader::check_place(&path)?;
        let (cgroup, created) = Cgroup::open_or_create(&path)?;
        match taken {
            Some(taken) => taken.check_attach(&cgroup.path)?,
            None => drop(enrol::remove_command_cgroups(&cgroup.path)),
        }
        Ok(Self { cgroup, is_ours: created || args.attach.is_none(), is_new: created })
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
