//! The kernel's side, as `bpftool` shows it.
//!
//! In: a cgroup. Out: the programs attached to it, their maps, and what is in those. Never: a program or
//! map of another run, which may have the same names.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::poll;

/// Runs `bpftool -j` and answers what it printed.
///
/// # Errors
/// When it fails; with its words.
pub fn bpftool(words: &[&str]) -> anyhow::Result<Value> {
    let output = poll::output(Command::new("bpftool").arg("-j").args(words))?;
    let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    if !output.status.success() || value.get("error").is_some() {
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("bpftool {}: {value} {told}", words.join(" "));
    }
    Ok(value)
}

/// Makes the kernel count how long programs run, as long as the answer lives: so it stops however this
/// process ends. All programs on the machine are a little slower meanwhile.
///
/// # Errors
/// When the kernel cannot (Linux 5.8).
pub fn count_run_time() -> anyhow::Result<OwnedFd> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).context("the kernel does not count BPF run time")
}

/// The programs attached to a cgroup, and the maps that they use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// (id, name), in order of id.
    pub programs: Vec<(u64, String)>,
    /// (id, name), in order of id.
    pub maps: Vec<(u64, String)>,
}

impl Objects {
    /// What is attached to a cgroup now.
    ///
    /// # Errors
    /// When bpftool fails.
    pub fn of(group: &Path) -> anyhow::Result<Objects> {
        let mut objects = Objects::default();
        let attached = bpftool(&["cgroup", "show", &group.display().to_string()])?;
        for program in attached.as_array().into_iter().flatten() {
            let id = program["id"].as_u64().context("a program without an id")?;
            let shown = bpftool(&["prog", "show", "id", &id.to_string()])?;
            objects.programs.push((id, shown["name"].as_str().unwrap_or_default().to_owned()));
            for map in shown["map_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64) {
                let shown = bpftool(&["map", "show", "id", &map.to_string()])?;
                objects.maps.push((map, shown["name"].as_str().unwrap_or_default().to_owned()));
            }
        }
        for list in [&mut objects.programs, &mut objects.maps] {
            list.sort_unstable();
            list.dedup();
        }
        Ok(objects)
    }

    /// The id of the map of this name.
    ///
    /// # Errors
    /// When no program of the cgroup uses one.
    pub fn map(&self, name: &str) -> anyhow::Result<u64> {
        let found = self.maps.iter().find(|(_, map)| map == name);
        found.map(|(id, _)| *id).with_context(|| format!("no program attached here uses a map {name}"))
    }

    /// The entries of the map of this name, as `bpftool map dump` prints them.
    ///
    /// # Errors
    /// When there is no such map.
    pub fn dump(&self, name: &str) -> anyhow::Result<Vec<Value>> {
        let dump = bpftool(&["map", "dump", "id", &self.map(name)?.to_string()])?;
        dump.as_array().cloned().context("the dump is no list")
    }

    /// Which of these objects the kernel still has, one line each. An id is not given out again for long.
    pub fn alive(&self) -> Vec<String> {
        let exists = |kind: &str, id: u64| bpftool(&[kind, "show", "id", &id.to_string()]).is_ok();
        let programs = self.programs.iter().filter(|(id, _)| exists("prog", *id));
        let maps = self.maps.iter().filter(|(id, _)| exists("map", *id));
        programs
            .map(|(id, name)| format!("BPF program {id} {name}"))
            .chain(maps.map(|(id, name)| format!("BPF map {id} {name}")))
            .collect()
    }
}
