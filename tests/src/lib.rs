//! The harness of the end-to-end tests, of `cargo xtask demo` and of `cargo xtask run`.
//!
//! In: nothing but this machine. Out: a node made of network namespaces and a cgroup, with real servers
//! and the agent. Never: traffic that leaves the namespaces, or anything left behind.
//!
//! The rooms, from the ground up: [`poll`] waits on conditions, [`clean`] owns what a run makes and removes
//! it, [`netns`] and [`cgroup`] make it, [`servers`] answer in it, [`topology`] puts it together,
//! [`pods`] makes what a kubelet makes, [`agent`] runs the program under test, [`bpf`] reads the kernel's side, [`stage`] is
//! all of it, and [`tutorial`] asks there. [`sockets`] is a smaller stage, for tests of single system calls. [`oci`] makes container images, and [`cluster`]
//! is a real Kubernetes cluster that runs them. [`waypoint`] is a real Envoy.
//! Beside them, for `cargo xtask bench`: [`load`] makes traffic and measures it, [`bench`] is where that happens.

pub mod agent;
pub mod bench;
pub mod bpf;
pub mod cgroup;
pub mod clean;
pub mod cluster;
pub mod entries;
pub mod load;
pub mod netns;
pub mod oci;
pub mod pods;
pub mod poll;
pub mod servers;
pub mod sockets;
pub mod stage;
pub mod topology;
pub mod tutorial;
pub mod waypoint;

/// Says that a part of a test is left out on this machine, on a line that the test executable does not keep to itself.
pub fn skipped(why: &str) {
    use std::io::Write as _;
    let thread = std::thread::current();
    // Nobody reads it if it cannot be written.
    drop(writeln!(std::io::stdout(), "skipped: {}: {why}", thread.name().unwrap_or("a test")));
}

/// Whether there is time for the full figures: `KMSE_LONG=1` in the environment.
pub fn is_long() -> bool {
    std::env::var_os("KMSE_LONG").is_some_and(|value| value == "1")
}
