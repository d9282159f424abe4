//! Who sees which entry.

use super::*;

/// What is seen; the entries; for each namespace the backend that its clients get.
type Case<'a> = (&'a str, Vec<Entry>, &'a [(&'a str, Option<&'a str>)]);

fn namespaces(list: &[&str]) -> ExportTo {
    ExportTo::Namespaces(list.iter().map(|n| Namespace::new(n)).collect())
}

/// An entry for `a.com` whose one backend tells which entry it is.
fn told_by(object: &str, age: i64, backend: &str, export_to: ExportTo) -> Entry {
    with(entry(object, age, "a.com"), |e| {
        e.endpoints = vec![endpoint(backend)];
        e.export_to = export_to;
    })
}

#[test]
fn a_client_sees_its_own_namespace_before_the_oldest_that_is_visible() {
    let all = || ExportTo::All;
    let cases: [Case<'_>; 9] = [
        (
            "everybody",
            vec![told_by("one/e", 1, "10.0.0.1", all())],
            &[("one", Some("1")), ("else", Some("1"))],
        ),
        ("nobody", vec![told_by("one/e", 1, "10.0.0.1", ExportTo::Nobody)], &[("one", None), ("else", None)]),
        (
            "its own namespace",
            vec![told_by("one/e", 1, "10.0.0.1", namespaces(&["one"]))],
            &[("one", Some("1")), ("else", None)],
        ),
        (
            "listed namespaces, of which its own is none",
            vec![told_by("one/e", 1, "10.0.0.1", namespaces(&["two", "three"]))],
            &[("one", None), ("two", Some("1")), ("three", Some("1")), ("else", None)],
        ),
        (
            "the oldest",
            vec![told_by("one/e", 2, "10.0.0.1", all()), told_by("two/e", 1, "10.0.0.2", all())],
            &[("one", Some("1")), ("two", Some("2")), ("else", Some("2"))],
        ),
        (
            "the first by name when they are of one age",
            vec![told_by("two/e", 1, "10.0.0.2", all()), told_by("one/e", 1, "10.0.0.1", all())],
            &[("two", Some("2")), ("else", Some("1"))],
        ),
        (
            "an entry without a time is the oldest",
            vec![
                told_by("one/e", 1, "10.0.0.1", all()),
                with(told_by("two/e", 1, "10.0.0.2", all()), |e| e.created = None),
            ],
            &[("else", Some("2"))],
        ),
        (
            "the oldest that it sees",
            vec![
                told_by("one/e", 1, "10.0.0.1", namespaces(&["one", "three"])),
                told_by("two/e", 2, "10.0.0.2", all()),
            ],
            &[("one", Some("1")), ("two", Some("2")), ("three", Some("1")), ("else", Some("2"))],
        ),
        (
            "its own although another is older and exported to it",
            vec![
                told_by("one/e", 1, "10.0.0.1", namespaces(&["two"])),
                told_by("two/e", 2, "10.0.0.2", namespaces(&["two"])),
            ],
            &[("two", Some("2")), ("one", None), ("else", None)],
        ),
    ];
    for (what, entries, expected) in cases {
        let desired = built(&snapshot(entries), &Resolved::new());
        for (namespace, backend) in expected {
            let wanted: Vec<_> = backend.iter().map(|b| format!("80: 10.0.0.{b}:80*1")).collect();
            for vip in ["240.240.0.1", "2001:2::1"] {
                assert_eq!(seen_at(&desired, namespace, vip), wanted, "{what}: {namespace} at {vip}");
            }
            let name = desired.names.view(&Namespace::new(namespace));
            assert_eq!(name.is_some(), backend.is_some(), "{what}: the name in {namespace}");
        }
    }
}

#[test]
fn a_namespace_has_a_view_of_its_own_only_where_it_differs() {
    let same = built(&snapshot([told_by("one/e", 1, "10.0.0.1", ExportTo::All)]), &Resolved::new());
    assert_eq!(same.names.views.keys().collect::<Vec<_>>(), [&Scope::Mesh]);
    assert!(same.tables.frontends.keys().all(|f| f.scope == Scope::Mesh));
}

#[test]
fn within_a_namespace_the_oldest_wins_a_port_and_younger_entries_add_theirs() {
    let old = with(told_by("one/old", 1, "10.0.0.1", ExportTo::All), |e| e.ports.push(port(81, "a")));
    let young = with(told_by("one/young", 2, "10.0.0.2", ExportTo::All), |e| e.ports.push(port(82, "b")));
    let desired = built(&snapshot([young.clone(), old.clone()]), &Resolved::new());
    assert_eq!(
        seen_at(&desired, "else", "240.240.0.1"),
        ["80: 10.0.0.1:80*1", "81: 10.0.0.1:81*1", "82: 10.0.0.2:82*1"]
    );

    let disagrees = with(young, |e| e.resolution = Resolution::Dns);
    let desired = built(&snapshot([old, disagrees]), &Resolved::new());
    assert_eq!(seen_at(&desired, "else", "240.240.0.1"), ["80: 10.0.0.1:80*1", "81: 10.0.0.1:81*1"]);
}

#[test]
fn a_younger_entry_of_another_namespace_adds_no_port() {
    let young = with(told_by("two/young", 2, "10.0.0.2", ExportTo::All), |e| e.ports = vec![port(82, "b")]);
    let desired =
        built(&snapshot([told_by("one/old", 1, "10.0.0.1", ExportTo::All), young]), &Resolved::new());
    assert_eq!(seen_at(&desired, "else", "240.240.0.1"), ["80: 10.0.0.1:80*1"]);
    assert_eq!(seen_at(&desired, "two", "240.240.0.1"), ["82: 10.0.0.2:82*1"]);
}
