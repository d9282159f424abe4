//! `kmse-load`: the load generator of `cargo xtask bench`, a process of its own so that it can be in a
//! cgroup, a network namespace and on a CPU.

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    tests::load::Args::parse().run()
}
