//! Control groups: where cgroup2 is mounted, and a cgroup of this run's own.
//!
//! In: `/proc/self/mountinfo`. Out: paths. Never: a change to a cgroup that it did not make.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

/// Where the cgroup2 hierarchy is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid host.
///
/// # Errors
/// When it is not mounted; the message says how to mount it.
pub fn mount_point() -> anyhow::Result<PathBuf> {
    let mounts =
        std::fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    match mount_point_in(&mounts) {
        Some(path) => Ok(path),
        None => bail!("cgroup2 is not mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"),
    }
}

/// Fields of mountinfo: id, parent, device, root, mount point, options, optional fields, `-`, type, …
fn mount_point_in(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let is_cgroup2 = after.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| before.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}
