//! Addresses that are found by a range, or go straight.

use super::*;
use crate::{desired::AddressRange, model::HostName};

fn range(text: &str) -> AddressRange {
    text.parse().expect("a range")
}

/// `10.1.2.3:80`, which works by the range 10.0.0.0/8 of `a.test`.
fn by_range() -> Facts {
    let mut facts = working();
    facts.target = "10.1.2.3:80".to_owned();
    facts.asked = Asked::parse(&facts.target, false).expect("a target");
    facts.found_by = Some(range("10.0.0.0/8"));
    name(&mut facts).answered = None;
    let dial = &mut facts.dials[0];
    dial.address = ip("10.1.2.3");
    dial.own.as_mut().expect("a frontend").0.address = range("10.0.0.0/8");
    (dial.lookups[0].unlisted, dial.lookups[0].range) = (Some(Unlisted::Pass), Some(range("10.0.0.0/8")));
    facts
}

fn detail<'a>(explanation: &'a Explanation, name: &str) -> &'a Step {
    explanation.steps.iter().find(|step| step.step == name).expect("the step")
}

#[test]
fn an_address_in_a_range_shows_which_range_matched() {
    let explanation = explain(&by_range());
    assert!(explanation.reachable, "{explanation:#?}");
    let (address, frontend) = (detail(&explanation, "address"), detail(&explanation, "frontend"));
    assert_eq!(address.detail, "10.1.2.3 is in 10.0.0.0/8, a.test of ServiceEntry default/a");
    assert_eq!(frontend.detail, "10.1.2.3:80/TCP in scope *, by the range 10.0.0.0/8, leads to service 0");
    assert_eq!(
        (&address.facts["range"], &frontend.facts["range"]),
        (&"10.0.0.0/8".into(), &"10.0.0.0/8".into())
    );
}

#[test]
fn a_port_that_a_range_does_not_list_passes() {
    let mut facts = by_range();
    let dial = &mut facts.dials[0];
    (dial.port, dial.own, dial.winner, dial.lookups[0].service) = (81, None, None, None);
    let explanation = explain(&facts);
    assert_eq!(
        detail(&explanation, "frontend").detail,
        "10.1.2.3:81/TCP in scope *, by the range 10.0.0.0/8, is no frontend: it is passed through unchanged"
    );
    let cause = explanation.cause.expect("a cause");
    assert_eq!(cause.reason, "PortNotListed");
    assert!(cause.message.contains("so connections are passed through"), "{}", cause.message);
}

#[test]
fn what_goes_straight_is_no_shadow_of_itself() {
    let mut facts = by_range();
    name(&mut facts).entries[0].resolution = Resolution::None;
    let dial = &mut facts.dials[0];
    (dial.own, dial.winner, dial.lookups[0].service) = (None, None, None);
    let cause = explain(&facts).cause.expect("a cause");
    assert_eq!(
        (&*cause.reason, &*cause.message),
        (
            "Passthrough",
            "ServiceEntry default/a has resolution NONE: connections to 10.1.2.3:80/TCP go straight there"
        )
    );
}

#[test]
fn an_older_host_that_goes_straight_is_named() {
    let mut facts = working();
    let dial = &mut facts.dials[0];
    (dial.winner, dial.straight) = (None, Some(HostName::new("straight.test")));
    (dial.lookups[0].service, dial.lookups[0].unlisted) = (None, Some(Unlisted::Pass));
    let cause = explain(&facts).cause.expect("a cause");
    assert_eq!(cause.reason, "Shadowed");
    assert!(
        cause.message.contains("as the older straight.test has it by resolution NONE"),
        "{}",
        cause.message
    );
}

#[test]
fn a_name_that_has_only_ranges_is_not_ours() {
    let mut facts = working();
    unanswered(&mut facts).ranges = vec![range("10.0.0.0/8")];
    name(&mut facts).vips.clear();
    let explanation = explain(&facts);
    let cause = explanation.cause.as_ref().expect("a cause");
    assert_eq!(cause.reason, "OnlyRanges");
    assert!(
        cause.message.contains("default/a has only ranges of addresses (10.0.0.0/8)"),
        "{}",
        cause.message
    );
    assert!(!detail(&explanation, "name").ok);
}
