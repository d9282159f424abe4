//! Where facts enter: folders of files, or Kubernetes.
//!
//! In: raw input. Out: [`Event`]s. Never: validation, or an import of `resolve`, `sink` or `dns`.

pub mod file;
pub mod kube;

use serde::Serialize;

use crate::model::{Object, ObjectRef};

/// What a source tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An object appeared or changed.
    Apply(Object),
    /// An object is gone.
    Delete(ObjectRef),
    /// All that is wrong with one origin now (a file, say); replaces what was said of it before, and an
    /// empty list says that all is well.
    Problems {
        /// Where: a path, or a resource.
        origin: String,
        /// One message each.
        problems: Vec<Problem>,
    },
    /// Everything that existed at start has been told.
    Synced,
}

/// Input that a source could not turn into objects. The rest goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// CamelCase code from a closed set, for labels.
    pub reason: &'static str,
    /// What happened and what to do, in one sentence.
    pub message: String,
}
