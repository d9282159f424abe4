mod causes;
mod pretty;
mod ranges;

use kmesh_se_common::maps::Slot;

use self::{causes::Row, pretty::*};
use super::*;
use crate::{
    desired::{Scope, Unlisted},
    model::{Namespace, Resolution, Transport, WaypointName},
};

#[test]
fn a_way_that_works_has_every_step_and_no_cause() {
    let explanation = explain(&working());
    assert!(explanation.reachable, "{explanation:#?}");
    let steps: Vec<_> = explanation.steps.iter().map(|step| step.step.as_str()).collect();
    assert_eq!(steps, ["client", "name", "frontend", "service", "backend"]);
    assert!(explanation.steps.iter().all(|step| step.ok));
    assert_eq!(explanation.warnings, []);
    let backend = &explanation.backends[0];
    assert_eq!((backend.address, backend.port, backend.for_port), (ip("10.0.0.1"), 9000, 80));
    assert_eq!(
        (backend.source.as_str(), backend.age_secs, backend.share_percent),
        ("backend.test", Some(3), 100.0)
    );
}

#[test]
fn what_surprises_but_works_is_a_warning() {
    let rows: &[Row] = &[
        (
            |f| f.client = Client::Anybody { enrolled: 0 },
            "NothingEnrolled",
            "no cgroup is enrolled for namespace default",
            None,
        ),
        (|f| f.agent.synced = false, "NotSynced", "not read all objects", None),
        (|f| f.agent.dns_served = false, "DnsNotServed", "does not answer", None),
        (
            |f| {
                trouble(f, Trouble::Failed("refused".into()));
                let about = f.sources.get_mut("backend.test").expect("a source");
                (about.age_secs, about.stale) = (Some(90), true);
            },
            "StaleDns",
            "backend.test are 90 s old and could not be refreshed: refused",
            None,
        ),
        (
            |f| {
                let errors = vec!["spec.hosts: missing".to_owned()];
                name(f).rejected = vec![RejectedFacts { object: "ServiceEntry b/b".into(), errors }];
            },
            "Rejected",
            "ServiceEntry b/b was rejected",
            None,
        ),
        (
            |f| {
                let mut younger = entry("younger");
                younger.serves.clear();
                name(f).entries.push(younger);
            },
            "Shadowed",
            "default/younger names a.test, too",
            None,
        ),
        (
            |f| f.services.get_mut(&0).expect("a service").wanted.push(backend("10.0.0.2")),
            "MapsDiffer",
            "should also lead to 10.0.0.2:9000",
            None,
        ),
        (
            |f| f.services.get_mut(&0).expect("a service").wanted.clear(),
            "MapsDiffer",
            "should no longer lead to 10.0.0.1:9000",
            None,
        ),
    ];
    for (change, reason, words, _) in rows {
        let mut facts = working();
        change(&mut facts);
        let explanation = explain(&facts);
        assert!(explanation.reachable, "{reason}: {explanation:#?}");
        let warning = explanation.warnings.iter().find(|warning| warning.reason == *reason);
        let warning = warning.unwrap_or_else(|| panic!("{reason}: {explanation:#?}"));
        assert!(warning.message.contains(words), "{reason}: `{words}` is not in: {}", warning.message);
    }
}

#[test]
fn one_address_that_works_is_enough_and_the_other_is_told() {
    let mut facts = working();
    let mut second = facts.dials[0].clone();
    second.address = ip("2001:2::1");
    second.lookups[0].service = None;
    facts.dials.push(second);
    let explanation = explain(&facts);
    assert!(explanation.reachable, "{explanation:#?}");
    assert_eq!(explanation.warnings[0].reason, "MapsDiffer");
}

#[test]
fn a_port_that_fails_does_not_hide_one_that_works() {
    let mut facts = working();
    unlisted(&mut facts, Some(Unlisted::Refuse));
    let works = working().dials.remove(0);
    facts.dials.push(works);
    let explanation = explain(&facts);
    assert_eq!(explanation.cause.map(|cause| cause.reason).as_deref(), Some("PortNotListed"));
    assert_eq!(explanation.backends.len(), 1);
}

#[test]
fn a_namespaces_own_view_is_looked_up_before_the_meshs() {
    let mut facts = working();
    let own = Lookup {
        scope: Scope::Namespace(Namespace::new("shop")),
        service: None,
        unlisted: None,
        range: None,
    };
    facts.dials[0].lookups.insert(0, own);
    assert!(explain(&facts).reachable);
    // An address that the own view knows hides the mesh's frontends.
    facts.dials[0].lookups[0].unlisted = Some(Unlisted::Refuse);
    (facts.dials[0].own, facts.dials[0].winner) = (None, None);
    assert!(!explain(&facts).reachable);
}

#[test]
fn shares_follow_the_alias_table() {
    let slots = [
        Slot { backend: 1, alias: 2, threshold: 1 << 31 },
        Slot { backend: 2, alias: 2, threshold: u32::MAX },
    ];
    let shares = shares(&slots);
    assert_eq!(shares, [(1, 0.25), (2, 0.75)].into());
    assert_eq!(super::shares(&[]), BTreeMap::new());
}

#[test]
fn a_target_is_a_host_or_an_address_with_or_without_a_port() {
    for (text, wanted) in [
        ("a.test", Some((Some("a.test"), None, None))),
        ("A.Test.:80", Some((Some("a.test"), None, Some(80)))),
        ("*.a.test", Some((Some("*.a.test"), None, None))),
        ("10.0.0.1", Some((None, Some("10.0.0.1"), None))),
        ("10.0.0.1:53", Some((None, Some("10.0.0.1"), Some(53)))),
        ("::1", Some((None, Some("::1"), None))),
        ("[::1]", Some((None, Some("::1"), None))),
        ("[::1]:53", Some((None, Some("::1"), Some(53)))),
        ("::ffff:10.0.0.1", Some((None, Some("10.0.0.1"), None))),
        ("http://a.test/", None),
        ("a.test:0", None),
        ("10.0.0.1:0", None),
        ("a.test:http", None),
        (":80", None),
        ("", None),
    ] {
        let parsed = Asked::parse(text, false).ok();
        let parsed = parsed.map(|asked| {
            (asked.host.map(|host| host.to_string()), asked.address.map(|a| a.to_string()), asked.port)
        });
        let wanted =
            wanted.map(|(host, address, port)| (host.map(str::to_owned), address.map(str::to_owned), port));
        assert_eq!(parsed, wanted, "{text}");
    }
}

#[test]
fn each_family_has_backends_of_its_own() {
    let mut facts = working();
    let service = facts.services.get_mut(&0).expect("a service");
    service.backends = vec![live("10.0.0.1", 1.0), live("fd00::1", 1.0)];
    service.wanted = vec![backend("10.0.0.1"), backend("fd00::1")];
    let explanation = explain(&facts);
    assert!(explanation.reachable, "{explanation:?}");
    let shown: Vec<_> = explanation.backends.iter().map(|b| (b.address, b.share_percent)).collect();
    assert_eq!(shown, [(ip("10.0.0.1"), 100.0)]);
}

#[test]
fn a_service_that_goes_through_a_waypoint_says_which_and_where() {
    let mut facts = working();
    let service = facts.services.get_mut(&0).expect("a service");
    let name = WaypointName { namespace: Namespace::default(), name: "way".into() };
    service.through = Some(LiveWaypoint { id: 9, name: Some(name), port: 20_001 });
    let explanation = explain(&facts);
    let step = explanation.steps.iter().find(|step| step.step == "service").expect("a step");
    assert!(step.ok, "{step:?}");
    let way = "goes to port 20001 of waypoint 9 (default/way), which has 1 slot from slot 7";
    assert!(step.detail.ends_with(way), "{}", step.detail);
    assert_eq!((&step.facts["waypointId"], &step.facts["waypointPort"]), (&9.into(), &20_001.into()));
}
