//! The machine that a benchmark ran on.
//!
//! In: `/proc`, and what programs say of themselves. Out: what a reader needs to judge the numbers. Never:
//! names of hosts, users or folders.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::workspace;

/// What the numbers depend on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    /// Whether a hypervisor is below.
    pub(crate) virtual_machine: bool,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// Whether the kernel compiles BPF programs.
    pub(crate) bpf_jit: bool,
}

impl Machine {
    pub(crate) fn look() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kilobytes = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        Machine {
            cpu: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            virtual_machine: field("flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory_mib: kilobytes.unwrap_or(0) / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            bpf_jit: fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").is_ok_and(|on| on.trim() != "0"),
        }
    }
}

/// Over one minute.
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// The commit that is checked out, and whether more than that was built.
pub(crate) fn commit() -> String {
    let mut git = Command::new("git");
    git.current_dir(workspace::root()).args(["describe", "--always", "--dirty"]);
    let commit = said(&mut git).unwrap_or_else(|| "unknown".to_owned());
    // Then nobody knows what was measured but who set it.
    let other = std::env::var_os("KMESH_SE_BIN").map_or("", |_| " with another agent (KMESH_SE_BIN)");
    commit + other
}

/// `nftables v1.0.6 (Lester Gooch #5)`.
pub(crate) fn nftables() -> Option<String> {
    let line = said(Command::new("nft").arg("--version"))?;
    line.split_whitespace().nth(1).map(|version| version.trim_start_matches('v').to_owned())
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The scheduler's group of this session. Where there are such groups, niceness counts only within one, so
/// the group must be made nicer or less nice as well; dropping it gives the group back what it had.
pub(crate) struct Session {
    before: Option<String>,
}

const AUTOGROUP: &str = "/proc/self/autogroup";

impl Session {
    pub(crate) fn with_nice(nice: i8) -> Session {
        // `/autogroup-37 nice 0`.
        let text = fs::read_to_string(AUTOGROUP).unwrap_or_default();
        let before = text.split_once("nice ").map(|(_, before)| before.trim().to_owned());
        let set = before.filter(|_| nice != 0 && fs::write(AUTOGROUP, nice.to_string()).is_ok());
        Session { before: set }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = fs::write(AUTOGROUP, before);
        }
    }
}
