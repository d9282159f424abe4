//! Istio ServiceEntries done in the kernel: the node agent as a library.
//!
//! The rooms, in the order in which a ServiceEntry passes through them:
//! [`source`] raw input -> events, [`model`] meaning, [`resolve`] names -> addresses with expiry, [`desired`]
//! what the maps and the DNS server should hold, [`dns`] answers to the clients' queries.

pub mod desired;
pub mod dns;
pub mod model;
pub mod resolve;
pub mod source;

#[cfg(test)]
mod testing;
