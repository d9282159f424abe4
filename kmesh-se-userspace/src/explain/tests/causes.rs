//! Each cause, from facts that are changed in one place.

use super::{pretty::*, *};

/// What is changed in the facts that work, the cause that follows, a word that its message must have, and the step at
/// which the way ends.
pub(super) type Row = (fn(&mut Facts), &'static str, &'static str, Option<&'static str>);

const CAUSES: &[Row] = &[
    (|f| f.agent.attached = false, "ProgramsNotAttached", "not attached", Some("programs")),
    (
        |f| f.client = Client::Cgroup { path: "/x".into(), enrolled: None },
        "NotEnrolled",
        "/x is not enrolled",
        Some("client"),
    ),
    (
        |f| {
            let (reason, message) = ("Sidecar".into(), "it has a sidecar proxy".into());
            f.client = Client::Pod { pod: "shop/a".into(), reason, message };
        },
        "Sidecar",
        "the pod shop/a is not enrolled",
        Some("client"),
    ),
    (
        |f| {
            let enrolled = EnrolledAs { path: "/".into(), namespace: None, is_looked_up: true };
            f.client = Client::Cgroup { path: "/x".into(), enrolled: Some(enrolled) };
        },
        "Exempt",
        "/x is exempt",
        Some("client"),
    ),
    (
        |f| {
            let enrolled =
                EnrolledAs { path: "/x".into(), namespace: Some("default".into()), is_looked_up: false };
            f.client = Client::Cgroup { path: "/x".into(), enrolled: Some(enrolled) };
        },
        "MapsDiffer",
        "depth",
        Some("client"),
    ),
    (
        |f| {
            f.name = None;
            f.dials.clear();
        },
        "NameUnknown",
        "no ServiceEntry names a.test",
        Some("name"),
    ),
    (
        |f| {
            f.name = None;
            f.dials.clear();
            f.agent.problems = 2;
        },
        "NameUnknown",
        "2 inputs could not be read",
        Some("name"),
    ),
    (
        |f| {
            unanswered(f);
            name(f).entries.clear();
            let errors = vec!["spec.ports[0].number: port 0".to_owned()];
            name(f).rejected = vec![RejectedFacts { object: "ServiceEntry default/a".into(), errors }];
        },
        "Rejected",
        "ServiceEntry default/a was rejected: spec.ports[0].number",
        Some("name"),
    ),
    (
        |f| {
            let entry = unanswered(f);
            (entry.is_visible, entry.visible_to) = (false, "other".to_owned());
            entry.serves.clear();
        },
        "HiddenByExportTo",
        "ServiceEntry default/a is visible to other",
        Some("name"),
    ),
    (
        |f| {
            unanswered(f).serves.clear();
            name(f).service = Some("Service shop/web".to_owned());
        },
        "KubernetesServiceWins",
        "from Service shop/web",
        Some("name"),
    ),
    (
        |f| unanswered(f).resolution = Resolution::None,
        "Passthrough",
        "ServiceEntry default/a has resolution NONE",
        Some("name"),
    ),
    (
        |f| unanswered(f).resolution = Resolution::DynamicDns,
        "NamesOnDemand",
        "when a client asks for it",
        Some("name"),
    ),
    (
        |f| {
            unanswered(f);
            name(f).vips.clear();
        },
        "NoAddress",
        "no address to dial: set spec.addresses",
        Some("name"),
    ),
    (
        |f| {
            unanswered(f);
            name(f).host = "*.test".to_owned();
            name(f).vips.clear();
        },
        "NoAddress",
        "a wildcard host is allocated none",
        Some("name"),
    ),
    (
        |f| {
            unanswered(f);
            name(f).vips.clear();
            name(f).pending = Some("ServiceEntry default/a: no address is allocated yet".to_owned());
        },
        "AddressPending",
        "pending: ServiceEntry default/a",
        Some("name"),
    ),
    (
        |f| {
            unanswered(f);
            name(f).failures =
                vec![FailureFacts { reason: "NoAddressLeft".into(), message: "used up".into() }];
        },
        "NoAddressLeft",
        "a.test: used up",
        Some("name"),
    ),
    (
        |f| {
            unanswered(f);
            f.sources.clear();
        },
        "NotResolvedYet",
        "backend.test has not been answered yet",
        Some("name"),
    ),
    (
        |f| {
            empty(f);
            trouble(f, Trouble::NotFound);
        },
        "NameNotFound",
        "backend.test does not exist (NXDOMAIN)",
        Some("service"),
    ),
    (
        |f| {
            empty(f);
            trouble(f, Trouble::NoAddress);
        },
        "NameHasNoAddress",
        "no A or AAAA record",
        Some("service"),
    ),
    (
        |f| {
            empty(f);
            trouble(f, Trouble::Failed("timeout of 10.0.0.10".into()));
        },
        "ResolverFailed",
        "timeout of 10.0.0.10",
        Some("service"),
    ),
    (
        |f| {
            let entry = empty(f);
            entry.names.clear();
            entry.endpoints = 0;
        },
        "NoEndpoints",
        "ServiceEntry default/a has no endpoints",
        Some("service"),
    ),
    (
        |f| {
            let entry = empty(f);
            entry.names.clear();
            (entry.endpoints, entry.has_selector) = (0, true);
        },
        "NoEndpoints",
        "none matches its workloadSelector",
        Some("service"),
    ),
    (
        |f| {
            let entry = empty(f);
            entry.names.clear();
            entry.only_unix = true;
        },
        "UnixEndpoint",
        "Unix sockets",
        Some("service"),
    ),
    (
        |f| {
            empty(f);
            f.services.get_mut(&0).expect("a service").wanted = vec![backend("10.0.0.1")];
        },
        "MapsDiffer",
        "kernel's map has none",
        Some("service"),
    ),
    (
        |f| {
            empty(f);
            f.services.get_mut(&0).expect("a service").wanted = vec![backend("10.0.0.1")];
            failure(f);
        },
        "MapFull",
        "kmse_frontend is full",
        Some("service"),
    ),
    (
        |f| unlisted(f, Some(Unlisted::Refuse)),
        "PortNotListed",
        "so connections are refused: it has 80/TCP",
        Some("frontend"),
    ),
    (
        |f| unlisted(f, Some(Unlisted::Pass)),
        "PortNotListed",
        "so connections are passed through: it has 80/TCP",
        Some("frontend"),
    ),
    (
        |f| {
            unlisted(f, Some(Unlisted::Refuse));
            f.dials[0].transport = Transport::Udp;
        },
        "PortNotListed",
        "81/UDP, so datagrams are refused",
        Some("frontend"),
    ),
    (
        |f| {
            f.dials.clear();
            f.asked = Asked::parse("a.test", true).expect("a target");
        },
        "PortNotListed",
        "a.test has no UDP port: it has 80/TCP",
        None,
    ),
    (
        |f| {
            unlisted(f, Some(Unlisted::Refuse));
            let mut younger = entry("younger");
            younger.serves.clear();
            younger.ports = vec![(81, Transport::Tcp)];
            name(f).entries.push(younger);
        },
        "Shadowed",
        "default/younger lists port 81/TCP of a.test, but the older ServiceEntry default/a",
        Some("frontend"),
    ),
    (
        |f| f.services.get_mut(&0).expect("a service").key = Some(key("older.test", "older")),
        "Shadowed",
        "leads to older.test of the older ServiceEntry default/older",
        Some("frontend"),
    ),
    (
        |f| {
            f.dials[0].lookups[0].service = None;
            failure(f);
        },
        "MapFull",
        "240.240.0.1:80/TCP could not be programmed: map kmse_frontend is full",
        Some("frontend"),
    ),
    (
        |f| {
            f.dials[0].lookups[0].service = None;
            f.dials[0].lookups[0].unlisted = None;
        },
        "MapsDiffer",
        "240.240.0.1:80/TCP should be a frontend",
        Some("frontend"),
    ),
    (
        |f| {
            f.services.clear();
        },
        "MapsDiffer",
        "service 0 is not in the kernel's map",
        Some("service"),
    ),
    (
        |f| {
            unlisted(f, None);
            f.name = None;
            f.asked = Asked::parse("192.0.2.1", false).expect("a target");
        },
        "NotOurs",
        "no address of a ServiceEntry that clients of default see",
        Some("frontend"),
    ),
    (
        |f| {
            let service = f.services.get_mut(&0).expect("a service");
            service.backends = vec![live("fd00::1", 1.0)];
            service.wanted = vec![backend("fd00::1")];
        },
        "FamilyMismatch",
        "all backends of 240.240.0.1:80 are IPv6",
        None,
    ),
];

#[test]
fn every_cause_is_named_at_the_step_where_the_way_ends() {
    for (change, reason, words, step) in CAUSES {
        let mut facts = working();
        change(&mut facts);
        let explanation = explain(&facts);
        let cause = explanation.cause.as_ref().unwrap_or_else(|| panic!("{reason}: no cause"));
        assert_eq!(cause.reason, *reason, "{explanation:#?}");
        assert!(cause.message.contains(words), "{reason}: `{words}` is not in: {}", cause.message);
        assert!(!explanation.reachable);
        if let Some(step) = step {
            let last = explanation.steps.last().map(|step| (step.step.as_str(), step.ok));
            assert_eq!(last, Some((*step, false)), "{reason}: {explanation:#?}");
        }
    }
}
