//! Which pods are handled, and what their names may stand for.
//!
//! In: Pods and Namespaces as written, the cgroups that were found, settings. Out: which cgroups to enrol, why others are
//! left alone, who asks for names. Never: I/O, or a change to a cgroup.

mod decision;
mod search;
mod table;

pub use self::{
    decision::{Decision, LeftAlone, PodSettings, RuntimeClass, decide},
    search::{NodeDns, search_list},
    table::{Asker, Pods, Wanted},
};
