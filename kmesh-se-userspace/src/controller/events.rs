//! Kubernetes Events: what `kubectl describe` and `kubectl events` show of an entry beside its conditions.
//!
//! In: conditions that were just written for the first time. Out: an Event each. Never: one twice for the same entry, spec and
//! reason: its name follows from these, so that the API server refuses a second one, whoever sends it.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    time::{Duration, Instant as StdInstant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};

use super::{election::WRITE_TIMEOUT, known::MANAGER, pace::Pace};
use crate::{desired::Condition, model::ObjectRef, source::kube::Trouble};

/// How many Events there may be in a second.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("is not zero");
/// How many wait at most; the conditions say the same.
const WAITING: usize = 1000;
/// The longest note that the API server takes.
const NOTE: usize = 1024;
/// How often a send that failed is told.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tell {
    /// Of the object.
    uid: String,
    generation: i64,
    /// The condition's type.
    kind: &'static str,
    reason: &'static str,
    note: String,
}

impl Tell {
    /// What people are to be told when `condition` becomes true of the object with this uid, at this generation of its spec.
    pub(super) fn of(condition: &Condition, uid: &str, generation: i64) -> Option<Self> {
        let is_trouble = matches!(
            (condition.kind, condition.status),
            ("Accepted", "False") | ("Shadowed" | "AddressExhausted" | "AddressConflict", "True")
        );
        is_trouble.then(|| Self {
            uid: uid.to_owned(),
            generation,
            kind: condition.kind,
            reason: condition.reason,
            note: shortened(&condition.message, NOTE),
        })
    }

    /// The same for the same object, spec and reason.
    fn name(&self, object: &ObjectRef) -> String {
        const OBJECT: usize = 200;
        let told = format!("{}/{}/{}/{}", self.uid, self.generation, self.kind, self.reason);
        let hash: String = Sha256::digest(told).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let name = &object.name[..object.name.len().min(OBJECT)];
        format!("{}.{hash}", name.trim_end_matches(['.', '-']))
    }
}

/// `text`, or its beginning: `limit` bytes at most.
pub(super) fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    const MORE: &str = " …";
    format!("{}{MORE}", &text[..text.floor_char_boundary(limit - MORE.len())])
}

/// Events that wait to be sent.
#[derive(Debug)]
pub(super) struct Events {
    waiting: VecDeque<(ObjectRef, String, Tell)>,
    pace: Pace,
    /// How many were left out since the last that was.
    dropped: u64,
    told: Option<StdInstant>,
    instance: String,
}

/// How one went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is there now.
    New,
    /// It was there: another controller, or this one earlier, has told it.
    Known,
    /// It is not; the condition says the same.
    Not,
}

impl Events {
    /// None wait yet.
    pub(super) fn new() -> Self {
        let host = nix::sys::utsname::uname();
        let host = host.map(|host| host.nodename().to_string_lossy().into_owned()).unwrap_or_default();
        let instance = if host.is_empty() { MANAGER.to_owned() } else { host };
        Self { waiting: VecDeque::new(), pace: Pace::new(PER_SECOND), dropped: 0, told: None, instance }
    }

    /// These were written for `object`.
    pub(super) fn add(&mut self, object: &ObjectRef, api_version: &str, tells: Vec<Tell>) {
        for tell in tells {
            if self.waiting.len() < WAITING {
                self.waiting.push_back((object.clone(), api_version.to_owned(), tell));
            } else {
                if self.dropped == 0 {
                    tracing::warn!("too many Events at once: the rest is told by conditions alone");
                }
                self.dropped += 1;
            }
        }
    }

    /// When the next one may be sent, if one waits.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.waiting.is_empty() { None } else { self.pace.ready_at() }
    }

    /// The next one, which is sent now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(ObjectRef, Event)> {
        self.next().filter(|at| *at <= now)?;
        let (object, api_version, tell) = self.waiting.pop_front()?;
        if self.waiting.is_empty() {
            self.dropped = 0;
        }
        self.pace.start(now);
        let event = self.event(&object, &api_version, tell);
        Some((object, event))
    }

    fn event(&self, object: &ObjectRef, api_version: &str, tell: Tell) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(tell.name(object)),
                namespace: Some(object.namespace.to_string()),
                ..ObjectMeta::default()
            },
            action: Some(tell.kind.to_owned()),
            event_time: Some(MicroTime(Timestamp::now())),
            note: Some(tell.note),
            reason: Some(tell.reason.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(api_version.to_owned()),
                kind: Some(object.kind.to_string()),
                name: Some(object.name.to_string()),
                namespace: Some(object.namespace.to_string()),
                uid: Some(tell.uid),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(MANAGER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some("Warning".to_owned()),
            ..Event::default()
        }
    }

    /// One was sent, or was not.
    pub(super) fn sent(&mut self, object: &ObjectRef, result: &Result<Sent, Trouble>) {
        self.pace.end(Instant::now());
        let Err(trouble) = result else { return };
        if self.told.is_none_or(|told| told.elapsed() > TOLD_EVERY) {
            self.told = Some(StdInstant::now());
            tracing::warn!(entry = %object, error = %trouble, "an Event cannot be written; the condition says the same");
        }
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

/// Sends one.
pub(super) async fn send(client: &Client, event: Event) -> Result<Sent, Trouble> {
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match timeout(WRITE_TIMEOUT, events.create(&params, &event)).await {
        Ok(Ok(_)) => Ok(Sent::New),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(Sent::Known),
        Ok(Err(error)) => match Trouble::of(&error) {
            // Its namespace is about to go.
            Trouble::NotServed => Ok(Sent::Not),
            trouble => Err(trouble),
        },
        Err(_) => Err(Trouble::no_answer()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, Namespace};

    fn object(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::new("shop"), name: name.into() }
    }

    fn tell(generation: i64, reason: &'static str) -> Tell {
        let condition = Condition { kind: "Accepted", status: "False", reason, message: "ü".repeat(1000) };
        Tell::of(&condition, "some-uid", generation).expect("is told")
    }

    #[test]
    fn one_name_for_each_object_spec_and_reason() {
        let name = |tell: &Tell, object: &ObjectRef| tell.name(object);
        let first = name(&tell(1, "HostInvalid"), &object("a"));
        assert_eq!(first, name(&tell(1, "HostInvalid"), &object("a")));
        for other in [tell(2, "HostInvalid"), tell(1, "HostTooLong")] {
            assert_ne!(first, name(&other, &object("a")));
        }
        let long = name(&tell(1, "HostInvalid"), &object(&"a.".repeat(126)));
        assert!(long.len() <= 253 && !long.contains(".."), "{long}");
    }

    #[test]
    fn a_note_is_cut_where_a_letter_ends_and_good_news_are_none() {
        let note = tell(1, "HostInvalid").note;
        assert!(note.len() <= NOTE && note.ends_with("ü …"), "{note}");
        let good = Condition { kind: "Accepted", status: "True", reason: "Accepted", message: String::new() };
        assert_eq!(Tell::of(&good, "u", 1), None);
    }

    #[test]
    fn there_are_never_more_than_fit() {
        let mut events = Events::new();
        for _ in 0..WAITING + 5 {
            events.add(&object("a"), "networking.istio.io/v1", vec![tell(1, "HostInvalid")]);
        }
        assert_eq!((events.waiting.len(), events.dropped), (WAITING, 5));
        let now = Instant::now();
        let sent = std::iter::from_fn(|| events.pop(now + Duration::from_millis(900))).count();
        assert!((1..=10).contains(&sent), "{sent}");
    }
}
