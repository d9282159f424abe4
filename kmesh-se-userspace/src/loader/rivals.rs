//! Who else handles the connections of the same processes.
//!
//! In: a cgroup, and the programs that are ours there. Out: other programs at the same hooks, and who among them, or among
//! what is pinned, does the same as this agent. Never: a change to any of them.

use std::{collections::BTreeMap, fs, os::fd::AsFd, path::Path};

use aya::programs::loaded_programs;

use super::Loaded;
use crate::{enrol::Cgroup, sys};

/// The BPF file system where Kmesh pins what it has.
const BPF_FS: &str = "/sys/fs/bpf";
/// How the directories of Kmesh there begin.
const KMESH_PINS: &str = "bpf_kmesh";
/// What Kmesh calls its programs of connect, as far as the kernel keeps it.
const KMESH_PROGRAMS: [&str; 2] = ["cgroup_connect4", "cgroup_connect6"];
/// What this project's programs are called.
const OWN_PROGRAMS: &str = "kmse_";

/// The programs of others at the hooks of connect, at the cgroup or above: id and name.
#[must_use]
pub fn others_at(cgroup: &Cgroup, ours: &Loaded) -> BTreeMap<u32, String> {
    let Ok(directory) = fs::File::open(&cgroup.path) else { return BTreeMap::new() };
    let ids = [sys::CGROUP_INET4_CONNECT, sys::CGROUP_INET6_CONNECT]
        .into_iter()
        .flat_map(|hook| sys::effective_programs(directory.as_fd(), hook).unwrap_or_default());
    let mut others: BTreeMap<u32, String> = ids.map(|id| (id, String::new())).collect();
    others.retain(|id, _| ours.programs.iter().all(|program| program.id != *id));
    if !others.is_empty() {
        for program in loaded_programs().filter_map(Result::ok) {
            if let Some(name) = others.get_mut(&program.id()) {
                *name = program.name_as_str().unwrap_or_default().to_owned();
            }
        }
    }
    others
}

/// What else does the same on this node, and what comes of it, one sentence each.
#[must_use]
pub fn rivals(cgroup: &Cgroup, ours: &Loaded, pin: &Path) -> Vec<String> {
    let mut rivals = Vec::new();
    let others = others_at(cgroup, ours);
    let is_any = |names: &[&str]| others.values().any(|name| names.contains(&name.as_str()));
    if is_any(&KMESH_PROGRAMS) {
        rivals.push(
            "programs of Kmesh are attached to the same cgroup or one above: both would choose endpoints for the same \
             connections; let only one of them have a namespace"
                .to_owned(),
        );
    }
    if others.values().any(|name| name.starts_with(OWN_PROGRAMS)) {
        rivals.push(
            "programs of another kmesh-se agent are attached to the same cgroup or one above: both rewrite; stop one, and \
             run `kmesh-se cleanup` for it"
                .to_owned(),
        );
    }
    let pins = fs::read_dir(BPF_FS).into_iter().flatten().filter_map(Result::ok);
    let of_kmesh = pins.filter(|entry| {
        entry.file_name().to_string_lossy().starts_with(KMESH_PINS) && !pin.starts_with(entry.path())
    });
    rivals.extend(of_kmesh.map(|entry| {
        format!(
            "Kmesh has pinned maps or programs at {}: if it runs, label each namespace for one of the two only",
            entry.path().display()
        )
    }));
    rivals
}
