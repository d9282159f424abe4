//! Control groups: where cgroup2 is mounted, and a cgroup of this run's own.
//!
//! In: `/proc/self/mountinfo`. Out: paths. Never: a change to a cgroup that it did not make.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::clean::{PREFIX, Run};
use crate::poll;

/// Where the cgroup2 hierarchy is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid host.
///
/// # Errors
/// When it is not mounted; the message says how to mount it.
pub fn mount_point() -> anyhow::Result<PathBuf> {
    let mounts =
        std::fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    match mount_points(&mounts, "cgroup2").next() {
        Some(path) => Ok(path),
        None => bail!("cgroup2 is not mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"),
    }
}

/// Fields of mountinfo: id, parent, device, root, mount point, options, optional fields, `-`, type, …
fn mount_points<'a>(mounts: &'a str, kind: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    mounts.lines().filter_map(move |line| {
        let (before, after) = line.split_once(" - ")?;
        let is_it = after.split(' ').next() == Some(kind);
        is_it.then(|| before.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

/// Where the hierarchies of cgroup v1 are mounted; none where cgroup2 has all controllers.
fn old_mount_points() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mount_points(&mounts, "cgroup").collect()
}

/// The run's cgroups, in every hierarchy, whether they are there or not.
pub(crate) fn of_run(id: &str) -> Vec<PathBuf> {
    let all = mount_point().into_iter().chain(old_mount_points());
    all.map(|mount| mount.join(format!("{PREFIX}{id}"))).collect()
}

/// Makes the run's cgroup in every hierarchy, for a kubelet's pods; the answer is the one of cgroup2.
///
/// # Errors
/// When cgroup2 is not mounted, or one cannot be made.
pub fn make_everywhere(run: &Run) -> anyhow::Result<PathBuf> {
    let group = make(run)?;
    for mount in old_mount_points() {
        let path = mount.join(name(run));
        std::fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
    }
    Ok(group)
}

/// The name of the run's cgroup.
pub fn name(run: &Run) -> String {
    format!("{PREFIX}{}", run.id())
}

/// Makes the run's cgroup, to which the agent attaches its programs.
///
/// # Errors
/// When cgroup2 is not mounted or not writable.
pub fn make(run: &Run) -> anyhow::Result<PathBuf> {
    let path = mount_point()?.join(name(run));
    std::fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
    Ok(path)
}

/// Removes a cgroup and those below it, once their processes are gone.
pub(crate) fn remove(group: &Path) {
    let children = std::fs::read_dir(group).into_iter().flatten().flatten();
    for child in children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove(&child.path());
    }
    // A process that has ended leaves its cgroup a moment later.
    let gone = || (std::fs::remove_dir(group).is_ok() || !group.exists()).then_some(());
    let _ = poll::until("the cgroup to empty", Duration::from_secs(3), gone);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount_point_in(mounts: &str) -> Option<PathBuf> {
        mount_points(mounts, "cgroup2").next()
    }

    #[test]
    fn finds_cgroup2_on_unified_and_hybrid_hosts() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point_in(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mount_point_in(unified), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(mount_point_in("30 23 0:26 / /sys/fs/cgroup rw - tmpfs cgroup2 rw\n"), None);
    }
}
