//! Istio ServiceEntries done in the kernel: the node agent as a library.
//!
//! The rooms, in the order in which a ServiceEntry passes through them:
//! [`source`] raw input -> events, [`model`] meaning, [`resolve`] names -> addresses with expiry, [`desired`] what the
//! maps and the DNS server should hold, [`diff`] what to change, [`sink`] the only writer of maps, [`dns`] answers to
//! the clients' queries. [`reconcile`] joins them, [`agent`] runs them on a node; [`controller`] gives a cluster's hosts their addresses, and has [`certificates`] of its own making; [`waypoint`] is what an Envoy is told over xDS, [`gateway`] the objects that ask for waypoints; [`loader`] has the BPF programs, [`enrol`] the
//! cgroups, [`pods`] says which of them are pods to handle, [`routes`] what refuses the rest, [`state`] what survives a restart, [`admin`], [`status`] and [`explain`] what people ask, [`health`] what supervisors ask, [`cli`] and
//! [`config`] the command line.

pub mod admin;
pub mod agent;
pub mod certificates;
pub mod cli;
pub mod config;
pub mod controller;
pub mod desired;
pub mod diff;
pub mod dns;
pub mod enrol;
pub mod explain;
pub mod gateway;
pub mod health;
pub mod loader;
pub mod model;
pub mod node_report;
pub mod pods;
mod poll;
pub mod reconcile;
pub mod resolve;
pub mod routes;
pub mod sink;
pub mod source;
pub mod state;
pub mod status;
mod sys;
pub mod waypoint;

#[cfg(test)]
mod testing;
