//! Short ways to write facts.
//!
//! In: nothing. Out: facts that lead to a backend, and changes to them. Never: a cause.

use std::{net::IpAddr, sync::Arc};

use crate::{
    desired::{Backend, Frontend, Scope, ServiceKey, Unlisted},
    explain::*,
    model::{HostName, Kind, Namespace, ObjectRef, Resolution, Transport},
};

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(super) fn key(host: &str, entry: &str) -> ServiceKey {
    let object = ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::default(), name: entry.into() };
    ServiceKey { host: HostName::new(host), entry: object, port: 80 }
}

pub(super) fn entry(name: &str) -> EntryFacts {
    EntryFacts {
        object: format!("ServiceEntry default/{name}"),
        is_visible: true,
        visible_to: "every namespace".to_owned(),
        serves: vec![(80, Transport::Tcp)],
        ports: vec![(80, Transport::Tcp)],
        resolution: Resolution::Dns,
        endpoints: 1,
        has_selector: false,
        only_unix: false,
        ranges: Vec::new(),
        names: vec!["backend.test".to_owned()],
    }
}

pub(super) fn backend(address: &str) -> Backend {
    Backend { address: ip(address), port: 9000, weight: 1, source: Arc::from("backend.test") }
}

pub(super) fn live(address: &str, share: f64) -> LiveBackend {
    LiveBackend { id: 5, address: ip(address), port: 9000, share }
}

/// `a.test:80`, which works.
pub(super) fn working() -> Facts {
    let vip = ip("240.240.0.1");
    let frontend = Frontend { scope: Scope::Mesh, address: vip.into(), port: 80, transport: Transport::Tcp };
    let service = LiveService {
        waypoint: None,
        key: Some(key("a.test", "a")),
        slot_base: 7,
        slot_count: 1,
        through: None,
        backends: vec![live("10.0.0.1", 1.0)],
        wanted: vec![backend("10.0.0.1")],
    };
    let about = SourceFacts { age_secs: Some(3), ..SourceFacts::default() };
    Facts {
        target: "a.test:80".to_owned(),
        asked: Asked::parse("a.test:80", false).expect("a target"),
        namespace: "default".to_owned(),
        name: Some(NameFacts {
            host: "a.test".to_owned(),
            entries: vec![entry("a")],
            answered: Some(Answered {
                v4: vec![vip],
                entry: "ServiceEntry default/a".to_owned(),
                scope: "*".to_owned(),
                ..Answered::default()
            }),
            vips: vec![vip],
            ..NameFacts::default()
        }),
        dials: vec![Dial {
            address: vip,
            port: 80,
            transport: Transport::Tcp,
            lookups: vec![Lookup {
                scope: Scope::Mesh,
                service: Some(0),
                unlisted: Some(Unlisted::Refuse),
                range: None,
            }],
            own: Some((frontend, key("a.test", "a"))),
            winner: Some(key("a.test", "a")),
            straight: None,
        }],
        services: [(0, service)].into(),
        sources: [("backend.test".to_owned(), about)].into(),
        ..Facts::default()
    }
}

pub(super) fn name(facts: &mut Facts) -> &mut NameFacts {
    facts.name.as_mut().expect("a name")
}

/// The name waits for DNS, or has nothing to wait for.
pub(super) fn unanswered(facts: &mut Facts) -> &mut EntryFacts {
    facts.dials.clear();
    name(facts).answered = None;
    &mut name(facts).entries[0]
}

/// The service is there, but has no backend.
pub(super) fn empty(facts: &mut Facts) -> &mut EntryFacts {
    let service = facts.services.get_mut(&0).expect("a service");
    service.slot_count = 0;
    service.backends.clear();
    service.wanted.clear();
    &mut name(facts).entries[0]
}

pub(super) fn trouble(facts: &mut Facts, trouble: Trouble) {
    facts
        .sources
        .insert("backend.test".to_owned(), SourceFacts { trouble: Some(trouble), ..SourceFacts::default() });
}

/// The port is asked for, but no frontend of it is wanted or there.
pub(super) fn unlisted(facts: &mut Facts, unlisted: Option<Unlisted>) {
    let dial = &mut facts.dials[0];
    dial.port = 81;
    (dial.own, dial.winner) = (None, None);
    dial.lookups[0].service = None;
    dial.lookups[0].unlisted = unlisted;
}

pub(super) fn failure(facts: &mut Facts) {
    let (reason, message) = ("MapFull".to_owned(), "map kmse_frontend is full".to_owned());
    name(facts).failures.push(FailureFacts { reason, message });
}
