//! An entry as the API server has it, accepted or not, and a write of its status.
//!
//! In: the raw object. Out: what the controller goes by. Never: the spec, which the snapshot has.

use jiff::Timestamp;
use json_patch::Patch;
use serde_json::Value;

use super::events::Tell;
use crate::{
    desired::Age,
    model::{Issue, ObjectRef, ServiceEntry, ServiceEntryStatus},
};

/// By what the API server knows the writes of this program.
pub(super) const MANAGER: &str = "kmesh-se-controller";
/// By what it knows those of Istio's control plane.
pub(super) const ISTIO: &str = "pilot-discovery";

/// An entry as the API server has it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) api_version: String,
    pub(super) uid: String,
    pub(super) version: String,
    /// Counts the changes of its spec.
    pub(super) generation: i64,
    pub(super) created: Option<Timestamp>,
    pub(super) status: ServiceEntryStatus,
    /// Why it is rejected, if it is.
    pub(super) errors: Vec<Issue>,
    pub(super) warnings: Vec<Issue>,
    /// Whether this program wrote `status.addresses`.
    pub(super) is_ours: bool,
    /// How often a patch of this version was refused.
    pub(super) refused: u32,
    /// Whether this is what a write of our own was answered, which the watch has not told yet.
    pub(super) is_ahead: bool,
}

impl Known {
    pub(super) fn of(raw: ServiceEntry) -> Self {
        Self {
            is_ours: is_written_by(&raw, MANAGER),
            api_version: raw.api_version,
            uid: raw.metadata.uid,
            version: raw.metadata.resource_version,
            generation: raw.metadata.generation.unwrap_or_default(),
            created: raw.metadata.creation_timestamp.and_then(|at| at.parse().ok()),
            status: raw.status,
            errors: Vec::new(),
            warnings: Vec::new(),
            refused: 0,
            is_ahead: false,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.version.parse().unwrap_or_default()
    }

    /// Its age, accepted or not.
    pub(super) fn age(&self, object: &ObjectRef) -> Age {
        (self.created, object.clone())
    }
}

/// Whether the manager `name` wrote `status.addresses`.
pub(super) fn is_written_by(raw: &ServiceEntry, name: &str) -> bool {
    let wrote = |manager: &Value| manager.pointer("/fieldsV1/f:status/f:addresses").is_some();
    raw.metadata.managed_fields.iter().any(|manager| manager["manager"] == name && wrote(manager))
}

/// A write that makes an entry what it should be.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) object: ObjectRef,
    pub(super) api_version: String,
    /// The version of the object that it was made for.
    pub(super) version: String,
    pub(super) patch: Patch,
    /// Whether addresses are all that it writes, or conditions.
    pub(super) rank: Rank,
    /// What becomes true by it that people are to be told.
    pub(super) tells: Vec<Tell>,
}

/// What comes first: connections wait for addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Addresses, perhaps with conditions.
    Addresses,
    /// Conditions alone.
    Conditions,
}
