//! What an entry's conditions should say.
//!
//! In: what is true of an entry. Out: conditions of the types that are ours, in the order in which people read them. Never: a
//! condition of another type.

use jiff::{Timestamp, Unit};
use serde_json::{Value, json};

use crate::{
    desired::{Condition, Loser, REQUESTS_ROUTED, WAYPOINT_BOUND, first_of},
    model::{self, HostName, Issue},
};

/// The types that this program writes, in the order in which people read them; whoever writes another, it is left alone.
pub(super) const OWN: [&str; 9] = [
    "Accepted",
    "Programmed",
    WAYPOINT_BOUND,
    REQUESTS_ROUTED,
    "Shadowed",
    "AddressPending",
    "AddressExhausted",
    "AddressConflict",
    "Warned",
];
/// What the nodes made of an entry.
pub(super) const PROGRAMMED: &str = "Programmed";
/// A message holds no more bytes of what is listed than this.
const LISTED: usize = 16 << 10;

/// What is true of one entry.
#[derive(Debug, Default)]
pub(super) struct Facts<'a> {
    /// Why it is rejected.
    pub(super) errors: &'a [Issue],
    /// What is allowed, but hardly meant.
    pub(super) warnings: &'a [Issue],
    /// To whom it loses hosts.
    pub(super) losers: Vec<Loser>,
    /// Hosts that wait for an address, and for whom.
    pub(super) pending: Vec<&'a HostName>,
    pub(super) left: Option<Left>,
    /// Hosts without any address, without one of IPv4 and without one of IPv6, since none is left.
    pub(super) exhausted: [Vec<&'a HostName>; 3],
    /// The ranges, for people.
    pub(super) ranges: [String; 2],
    /// Addresses that others have.
    pub(super) conflicts: Vec<String>,
    /// What the nodes made of it, if that is to be said.
    pub(super) programmed: Option<Condition>,
    /// How it goes through a waypoint, if it is bound to one, and what HTTPRoutes come to there.
    pub(super) waypoint: Vec<Condition>,
}

/// Why addresses are not allocated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Istio's control plane does.
    ToIstio,
    /// A flag says so.
    ByFlag,
}

/// The conditions of an entry of which this is true.
pub(super) fn wanted(facts: &Facts<'_>) -> Vec<Condition> {
    if let Some(first) = facts.errors.first() {
        return std::iter::once(condition("Accepted", "False", first.reason, list(facts.errors)))
            .chain(warned(facts.warnings))
            .collect();
    }
    let accepted = condition("Accepted", "True", "Accepted", "the entry is valid".to_owned());
    let shadowed = facts.losers.first().map(|first| {
        condition("Shadowed", "True", first.reason, list(facts.losers.iter().map(|loser| &loser.message)))
    });
    let pending = (!facts.pending.is_empty()).then(|| {
        let why = match facts.left {
            Some(Left::ToIstio) => {
                "Istio's control plane allocates addresses in this cluster, and has not come to it"
            }
            Some(Left::ByFlag) => {
                "the controller runs with --allocate never, and nobody else has written it to status.addresses"
            }
            None => "the controller has not come to it",
        };
        let message = format!("no address is allocated yet for {}: {why}", first_of(&facts.pending));
        condition("AddressPending", "True", "NotAllocated", message)
    });
    let conflict = facts
        .conflicts
        .first()
        .map(|_| condition("AddressConflict", "True", "OlderEntryHasAddress", list(&facts.conflicts)));
    let programmed = facts.programmed.clone();
    let first = [Some(accepted), programmed].into_iter().flatten();
    let last = [shadowed, pending, exhausted(facts), conflict, warned(facts.warnings)];
    first.chain(facts.waypoint.iter().cloned()).chain(last.into_iter().flatten()).collect()
}

fn warned(warnings: &[Issue]) -> Option<Condition> {
    let first = warnings.first()?;
    Some(condition("Warned", "True", first.reason, list(warnings)))
}

fn exhausted(facts: &Facts<'_>) -> Option<Condition> {
    let [v4, v6] = &facts.ranges;
    let both = format!("{v4} and {v6} are");
    let what = [
        ("RangesExhausted", "virtual", both.as_str(), "--vip-v4 and --vip-v6"),
        ("Ipv4RangeExhausted", "IPv4", &format!("{v4} is"), "--vip-v4"),
        ("Ipv6RangeExhausted", "IPv6", &format!("{v6} is"), "--vip-v6"),
    ];
    let lacking = what.iter().zip(&facts.exhausted).filter(|(_, hosts)| !hosts.is_empty());
    let told: Vec<_> = lacking
        .map(|((reason, kind, are, flag), hosts)| {
            let hosts = first_of(hosts);
            let message = format!(
                "no {kind} address is left for {hosts}: {are} used up; give the controller and the agents a larger range ({flag})"
            );
            (*reason, message)
        })
        .collect();
    let (reason, _) = told.first()?;
    Some(condition("AddressExhausted", "True", reason, list(told.iter().map(|(_, message)| message))))
}

pub(super) fn condition(
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
) -> Condition {
    Condition { kind, status, reason, message }
}

/// All of them, one after the other, as far as they are not too many for a message.
pub(super) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let (mut text, mut more) = (String::new(), 0);
    for item in items {
        let item = item.to_string();
        if more > 0 || (!text.is_empty() && text.len() + item.len() > LISTED) {
            more += 1;
            continue;
        }
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&item);
    }
    if more > 0 {
        text.push_str(&format!("; and {more} more, which kmesh-se validate lists"));
    }
    text
}

/// Where a type has its place among ours; none if it is not ours.
pub(super) fn place(kind: &str) -> Option<usize> {
    OWN.iter().position(|own| *own == kind)
}

/// Whether `had` says what `wanted` says, for this generation of the spec. A schema without `observedGeneration` drops it.
pub(super) fn says(had: &model::Condition, wanted: &Condition, generation: i64) -> bool {
    let observed = number(&had.observed_generation);
    is_told(had, wanted)
        && had.message == wanted.message
        && observed.is_none_or(|observed| observed == generation)
}

/// Whether `had` is of the same kind, status and reason: people know then.
pub(super) fn is_told(had: &model::Condition, wanted: &Condition) -> bool {
    (had.type_.as_str(), had.status.as_str(), had.reason.as_str())
        == (wanted.kind, wanted.status, wanted.reason)
}

/// A number, or one in a string.
pub(super) fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// Whether all of ours in `had` are as `wanted` says, and no others of ours are there but what is to be `kept` as it is.
pub(super) fn are_as_wanted(
    had: &[model::Condition],
    wanted: &[Condition],
    kept: &[&str],
    generation: i64,
) -> bool {
    let is_ours = |kind: &str| place(kind).is_some() && !kept.contains(&kind);
    let own = || had.iter().filter(|condition| is_ours(&condition.type_));
    own().count() == wanted.len()
        && wanted.iter().all(|wanted| own().any(|had| says(had, wanted, generation)))
}

/// `wanted` as JSON, whose status has been so since `had` says, or since `now`.
pub(super) fn written(
    had: &[model::Condition],
    wanted: &Condition,
    generation: i64,
    now: Timestamp,
) -> Value {
    let before = had.iter().find(|had| had.type_ == wanted.kind && had.status == wanted.status);
    let since = before.map(|had| had.last_transition_time.clone()).filter(|since| !since.is_empty());
    let now = || now.round(Unit::Second).unwrap_or(now).to_string();
    json!({
        "type": wanted.kind,
        "status": wanted.status,
        "reason": wanted.reason,
        "message": wanted.message,
        "lastTransitionTime": since.unwrap_or_else(now),
        "observedGeneration": generation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Reason;

    fn shown(facts: &Facts<'_>) -> Vec<String> {
        let shown = |c: &Condition| format!("{} {} {}: {}", c.kind, c.status, c.reason, c.message);
        wanted(facts).iter().map(shown).collect()
    }

    #[test]
    fn a_rejected_entry_lists_every_error_in_the_words_of_validate() {
        let errors = [
            Issue::new("spec.hosts[0]", Reason::HostInvalid, "is no name"),
            Issue::new("spec.ports[1].number", Reason::PortOutOfRange, "70000 is no port"),
        ];
        let warnings = [Issue::new("spec.hosts[1]", Reason::HostDuplicate, "is listed twice")];
        let facts = Facts { errors: &errors, warnings: &warnings, ..Facts::default() };
        assert_eq!(
            shown(&facts),
            [
                "Accepted False HostInvalid: spec.hosts[0]: is no name (HostInvalid); spec.ports[1].number: 70000 is no port (PortOutOfRange)",
                "Warned True HostDuplicate: spec.hosts[1]: is listed twice (HostDuplicate)",
            ]
        );
    }

    #[test]
    fn what_an_accepted_entry_does_not_get_is_told_in_the_order_of_the_types() {
        let (one, two) = (HostName::new("one.test"), HostName::new("two.test"));
        let loser = Loser { reason: "OlderEntryWins", message: "clients get it elsewhere".to_owned() };
        let facts = Facts {
            losers: vec![loser],
            pending: vec![&one],
            left: Some(Left::ToIstio),
            exhausted: [vec![], vec![&one, &two], vec![]],
            ranges: ["10.0.0.0/30".to_owned(), "fd00::/126".to_owned()],
            conflicts: vec!["192.0.2.1 is that of another".to_owned()],
            ..Facts::default()
        };
        let kinds: Vec<_> = wanted(&facts).iter().map(|condition| condition.kind).collect();
        assert!(kinds.is_sorted_by_key(|kind| place(kind)), "{kinds:?}");
        let shown = shown(&facts);
        assert_eq!(shown[0], "Accepted True Accepted: the entry is valid");
        assert_eq!(
            shown[3],
            "AddressExhausted True Ipv4RangeExhausted: no IPv4 address is left for one.test, two.test: 10.0.0.0/30 is used up; \
             give the controller and the agents a larger range (--vip-v4)"
        );
    }

    #[test]
    fn a_message_has_an_end_and_says_how_much_is_missing() {
        let errors: Vec<_> = (0..4096)
            .map(|i| Issue::new(format!("spec.endpoints[{i}]"), Reason::EndpointNotAnIp, "is not an address"))
            .collect();
        let wanted = wanted(&Facts { errors: &errors, ..Facts::default() });
        assert!(wanted[0].message.len() < LISTED + 100);
        assert!(wanted[0].message.ends_with(" more, which kmesh-se validate lists"), "{}", wanted[0].message);
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays_and_a_schema_may_drop_the_generation() {
        let wanted = condition("Accepted", "False", "HostInvalid", "a".to_owned());
        let at = |second| Timestamp::from_second(second).expect("a time");
        let had: model::Condition =
            serde_json::from_value(written(&[], &wanted, 1, at(100))).expect("a condition");
        let had = [had];
        assert!(are_as_wanted(&had, std::slice::from_ref(&wanted), &[], 1));
        assert!(!are_as_wanted(&had, std::slice::from_ref(&wanted), &[], 2));
        let other = Condition { reason: "HostTooLong", ..wanted.clone() };
        assert!(!are_as_wanted(&had, std::slice::from_ref(&other), &[], 1));
        assert_eq!(written(&had, &other, 2, at(200))["lastTransitionTime"], "1970-01-01T00:01:40Z");
        let good = Condition { status: "True", ..wanted.clone() };
        assert_eq!(written(&had, &good, 2, at(200))["lastTransitionTime"], "1970-01-01T00:03:20Z");
        let dropped = [model::Condition { observed_generation: Value::Null, ..had[0].clone() }];
        assert!(are_as_wanted(&dropped, &[wanted], &[], 7));
    }
}
