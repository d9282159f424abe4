//! Istio ServiceEntries done in the kernel: the node agent as a library.
//!
//! The rooms, in the order in which a ServiceEntry passes through them:
//! [`source`] raw input -> events, [`model`] meaning, [`desired`] what the maps and the DNS server should
//! hold, [`diff`] what to change, [`sink`] the only writer of maps, [`loader`] the programs, [`enrol`] the cgroups.

pub mod desired;
pub mod diff;
pub mod enrol;
pub mod loader;
pub mod model;
pub mod sink;
pub mod source;
