//! Istio ServiceEntries done in the kernel: the node agent as a library.
//!
//! The rooms, in the order in which a ServiceEntry passes through them:
//! [`source`] raw input -> events, [`model`] meaning, [`desired`] what the maps and the DNS server should
//! hold.
//! [`cli`] is the command line over all of them.

pub mod cli;
pub mod desired;
pub mod model;
pub mod source;
