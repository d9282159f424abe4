//! Authorities and their passage, at given times.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::*;

const DAY: Duration = Duration::from_secs(86400);
const HOUR: Duration = Duration::from_secs(3600);

fn policy() -> Policy {
    Policy { hosts: vec!["hook.ns.svc".to_owned(), "127.0.0.1".to_owned()], lifetime: 90 * DAY }
}

fn start() -> Timestamp {
    "2026-11-28T12:00:00Z".parse().expect("a time")
}

fn next(before: Option<&Keyring>, now: Timestamp) -> Option<Keyring> {
    Keyring::next(before, now, &policy(), false).expect("certificates can be made")
}

fn first() -> Keyring {
    next(None, start()).expect("one is made")
}

fn authorities(keyring: &Keyring) -> usize {
    keyring.bundle().matches("BEGIN CERTIFICATE").count()
}

/// Whether a client that trusts `bundle` takes what the keyring shows, as a TLS library judges it.
fn is_trusted(keyring: &Keyring, bundle: &str, host: &str, now: Timestamp) -> bool {
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
        crypto::ring,
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    };

    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.expect("PEM")).expect("an authority");
    }
    let provider = ring::default_provider().into();
    let verifier = WebPkiServerVerifier::builder_with_provider(std::sync::Arc::new(roots), provider).build();
    let host = ServerName::try_from(host.to_owned()).expect("a name");
    let now =
        UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).expect("after 1970")));
    let verifier = verifier.expect("a verifier");
    verifier.verify_server_cert(keyring.serving().certificate(), &[], &host, &[], now).is_ok()
}

#[test]
fn what_is_made_is_trusted_by_its_names_and_for_its_time() {
    let keyring = first();
    let bundle = keyring.bundle();
    for host in ["hook.ns.svc", "127.0.0.1"] {
        assert!(is_trusted(&keyring, &bundle, host, start()), "{host}");
        // Clocks differ.
        assert!(is_trusted(&keyring, &bundle, host, start() - Duration::from_secs(290)));
        assert!(is_trusted(&keyring, &bundle, host, start() + 90 * DAY - Duration::from_secs(1)));
        assert!(!is_trusted(&keyring, &bundle, host, start() + 91 * DAY));
    }
    assert!(!is_trusted(&keyring, &bundle, "other.ns.svc", start()));
    assert!(!is_trusted(&keyring, &first().bundle(), "hook.ns.svc", start()));
    assert_eq!(keyring.serving().not_after(), start() + 90 * DAY);
    assert_eq!(keyring.authority_ends(), start() + 360 * DAY);
}

#[test]
fn what_was_kept_is_read_as_it_was() {
    let keyring = first();
    let read = Keyring::read(&keyring.files()).expect("readable").expect("something");
    assert_eq!(read.files(), keyring.files());
    assert_eq!(read.serving().made_at(), start());
    assert!(next(Some(&read), start() + DAY).is_none(), "nothing is to change");
    assert!(is_trusted(&read, &keyring.bundle(), "hook.ns.svc", start()));
    assert!(Keyring::read(&BTreeMap::new()).expect("readable").is_none());
}

#[test]
fn what_is_broken_is_told_by_its_part() {
    let (files, other) = (first().files(), first().files());
    let with = |name: &str, bytes: &[u8]| {
        let mut files = files.clone();
        files.insert(name.to_owned(), bytes.to_vec());
        Keyring::read(&files).map(drop)
    };
    let half = |name: &str| files[name][..files[name].len() / 2].to_vec();
    for (name, bytes, said) in [
        ("ca.crt", b"nonsense".to_vec(), "ca.crt is missing"),
        ("ca.crt", half("ca.crt"), "ca.crt"),
        ("ca.crt", files["tls.crt"].clone(), "ca.crt does not fit"),
        ("ca.key", other["ca.key"].clone(), "the key is of another certificate"),
        ("ca.key", [files["ca.key"].clone(), other["ca.key"].clone()].concat(), "as many keys"),
        ("tls.crt", other["tls.crt"].clone(), "the key is of another certificate"),
        (
            "tls.key",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_vec(),
            "tls.crt cannot be read",
        ),
    ] {
        let error = with(name, &bytes).expect_err(name).to_string();
        assert!(error.contains(said), "{name}: {error}");
    }
    let mut strange = files.clone();
    for name in ["tls.crt", "tls.key"] {
        strange.insert(name.to_owned(), other[name].clone());
    }
    let error = Keyring::read(&strange).expect_err("another authority's").to_string();
    assert!(error.contains("none of the authorities signed it"), "{error}");
    let mut less = files.clone();
    less.remove("tls.key");
    assert_eq!(Keyring::read(&less).expect_err("a part").to_string(), "tls.key is missing");
    // No authority: it may not sign.
    let mut leaf = files.clone();
    leaf.insert("ca.crt".to_owned(), files["tls.crt"].clone());
    leaf.insert("ca.key".to_owned(), files["tls.key"].clone());
    assert!(Keyring::read(&leaf).expect_err("a leaf").to_string().contains("may not sign"));
}

#[test]
fn a_certificate_is_replaced_when_a_third_is_left() {
    let keyring = first();
    assert!(next(Some(&keyring), start() + 60 * DAY - HOUR).is_none());
    let now = start() + 60 * DAY;
    let renewed = next(Some(&keyring), now).expect("it is due");
    assert_eq!(renewed.serving().not_after(), now + 90 * DAY);
    assert_eq!(renewed.bundle(), keyring.bundle(), "the authority stays");
    assert!(is_trusted(&renewed, &keyring.bundle(), "hook.ns.svc", now));
    assert!(next(Some(&renewed), now).is_none());
}

#[test]
fn other_names_need_another_certificate() {
    let keyring = first();
    let other = Policy { hosts: vec!["other.ns.svc".to_owned()], ..policy() };
    let renewed = Keyring::next(Some(&keyring), start(), &other, false).expect("made").expect("it is needed");
    assert!(is_trusted(&renewed, &keyring.bundle(), "other.ns.svc", start()));
    assert!(!is_trusted(&renewed, &keyring.bundle(), "hook.ns.svc", start()));
}

/// Every ten minutes of nine days: clients that were told of the authorities a while ago, and servers that show the certificate
/// of a while ago, always get on.
#[test]
fn no_passage_to_a_new_authority_breaks_trust() {
    let step = Duration::from_secs(600);
    let policy = Policy { lifetime: DAY, ..policy() };
    let late = policy.settle() - 2 * step;
    let mut history: Vec<(Timestamp, Keyring)> = Vec::new();
    let (mut now, mut made) = (start(), 0);
    let mut seen = std::collections::BTreeSet::new();
    while now < start() + 9 * DAY {
        let before = history.last().map(|(_, keyring)| keyring);
        if let Some(keyring) = Keyring::next(before, now, &policy, false).expect("made") {
            assert!(authorities(&keyring) <= 2);
            seen.insert(keyring.authority_ends());
            made += 1;
            history.push((now, keyring));
        }
        let then = history.iter().rev().find(|(at, _)| *at <= now - late).unwrap_or(&history[0]);
        let newest = &history[history.len() - 1].1;
        for (server, client) in [(newest, &then.1), (&then.1, newest), (newest, newest)] {
            assert!(is_trusted(server, &client.bundle(), "hook.ns.svc", now), "{now}");
        }
        now += step;
    }
    // An authority for each 2.67 days, a certificate for each two thirds of a day.
    assert!((3..=5).contains(&seen.len()), "{}", seen.len());
    assert!((14..=26).contains(&made), "{made}");
    assert_eq!(authorities(&history[history.len() - 1].1), 1, "old ones are forgotten");
}

#[test]
fn after_a_long_absence_everything_is_new() {
    let keyring = first();
    let now = start() + 400 * DAY;
    let renewed = next(Some(&keyring), now).expect("all of it has ended");
    assert_eq!(authorities(&renewed), 1);
    assert!(is_trusted(&renewed, &renewed.bundle(), "hook.ns.svc", now));
    // A clock that was far ahead: what it made does not count yet.
    let ahead = next(None, now).expect("made");
    let back = next(Some(&ahead), start()).expect("it does not count");
    assert!(is_trusted(&back, &back.bundle(), "hook.ns.svc", start()));
}

#[test]
fn what_was_lost_is_replaced_without_a_break() {
    let keyring = first();
    let mut now = start() + DAY;
    let lost = |before: &Keyring, now| {
        Keyring::next(Some(before), now, &policy(), true).expect("made").expect("it is to be kept again")
    };
    let replaced = lost(&keyring, now);
    assert_eq!(authorities(&replaced), 2);
    assert!(is_trusted(&replaced, &keyring.bundle(), "hook.ns.svc", now), "clients know the old one alone");
    // Again and again: no more authorities come of it.
    assert_eq!(authorities(&lost(&replaced, now)), 2);
    now += policy().settle();
    let passed = next(Some(&replaced), now).expect("the new one signs");
    assert!(is_trusted(&passed, &replaced.bundle(), "hook.ns.svc", now));
    assert!(!is_trusted(&passed, &keyring.bundle(), "hook.ns.svc", now), "by the new one");
    now += policy().settle();
    let done = next(Some(&passed), now).expect("the old one goes");
    assert_eq!(authorities(&done), 1);
    assert!(is_trusted(&passed, &done.bundle(), "hook.ns.svc", now));
    assert!(next(Some(&done), now).is_none());
}

#[test]
fn a_client_is_who_its_certificate_says_and_one_of_others_is_nobody() {
    let (keyring, other) = (first(), first());
    let issued = keyring.sign_client("spiffe://a/b", start(), HOUR).expect("one is made");
    assert_eq!(client_uri(issued.certificate()).as_deref(), Some("spiffe://a/b"));
    assert!(keyring.signed(&issued) && !other.signed(&issued));
    assert!(issued.counts(start() + HOUR / 2) && !issued.counts(start() + HOUR));
    assert_eq!(client_uri(keyring.serving().certificate()), None, "a server's");
    let (certificate, key) = (issued.pem(), issued.key_pem());
    let read = Issued::from_pem(certificate.as_bytes(), key.as_bytes()).expect("what was kept");
    assert!(keyring.signed(&read));
    let foreign = other.sign_client("spiffe://a/b", start(), HOUR).expect("one is made").key_pem();
    assert!(Issued::from_pem(certificate.as_bytes(), foreign.as_bytes()).is_err(), "another key");
}
