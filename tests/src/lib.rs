//! The harness of the end-to-end tests, of `cargo xtask demo` and of `cargo xtask run`.

pub mod cgroup;
