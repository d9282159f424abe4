//! An entry as the API server has it, accepted or not, and a write of its status.
//!
//! In: the raw object. Out: what the controller goes by. Never: the spec, which the snapshot has.

use jiff::Timestamp;
use json_patch::Patch;
use serde_json::Value;

use super::{
    conditions::{PROGRAMMED, number},
    events::Tell,
};
use crate::{
    desired::Age,
    model::{Condition, Issue, ObjectRef, ServiceEntry, ServiceEntryStatus},
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
    /// The version in which its spec or its addresses changed last, and when that was heard. Of an entry of which everything was
    /// told already, the beginning.
    pub(super) since: u64,
    pub(super) since_at: Timestamp,
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
            since: 0,
            since_at: Timestamp::UNIX_EPOCH,
            status: raw.status,
            errors: Vec::new(),
            warnings: Vec::new(),
            refused: 0,
            is_ahead: false,
        }
    }

    /// Goes on from what was known of the same object `before`, if it was.
    pub(super) fn follow(&mut self, before: Option<&Self>, now: Timestamp) {
        let before = before.filter(|before| before.uid == self.uid);
        let is_same = |before: &&Self| {
            (before.generation, &before.status.addresses) == (self.generation, &self.status.addresses)
        };
        (self.since, self.since_at) = match before {
            Some(before) if is_same(&before) => (before.since, before.since_at),
            None if self.was_programmed() => (0, now),
            _ => (self.number(), now),
        };
    }

    /// Whether it was said of this spec what the nodes made of it.
    fn was_programmed(&self) -> bool {
        let generation = |c: &Condition| number(&c.observed_generation).is_none_or(|n| n == self.generation);
        self.status.conditions.iter().any(|c| c.type_ == PROGRAMMED && c.status == "True" && generation(c))
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
