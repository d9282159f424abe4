//! Decisions about queries, down to their bytes.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::dns::Search;
use crate::dns::tests::{addresses as sorted, entry, message as query_message, question, view};
use crate::{
    desired::{NameEntry, Scope},
    model::Namespace,
};

fn table() -> NameTable {
    let table = NameTable::default();
    table.set(HostName::new("ours.test"), Some(entry(&["240.240.0.1", "240.240.0.2", "2001:2::1"])));
    table.set(HostName::new("*.wild.test"), Some(entry(&["240.240.0.3"])));
    let many: Vec<_> = (0..256).map(|host| format!("240.240.1.{host}")).collect();
    table.set(HostName::new("many.test"), Some(entry(&many.iter().map(String::as_str).collect::<Vec<_>>())));
    table
}

fn client() -> Client<'static> {
    static CLIENT: LazyLock<(Namespace, Search)> =
        LazyLock::new(|| (Namespace::default(), Search::new(Some(HostName::new("cluster.local")), [])));
    let (namespace, search) = &*CLIENT;
    Client::of(namespace, search)
}

fn decide(transport: Transport, query: &[u8]) -> Decision {
    answer(&table(), client(), transport, query, Waited::NotYet)
}

fn reply_to(query: &[u8]) -> Message {
    match decide(Transport::Udp, query) {
        Decision::Reply(reply) => Message::from_vec(&reply).expect("a readable reply"),
        other => panic!("{other:?}"),
    }
}

fn texts(reply: &Message) -> Vec<String> {
    sorted(reply).iter().map(ToString::to_string).collect()
}

#[test]
fn answers_the_asked_family_of_our_name() {
    let reply = reply_to(&question(258, "ours.test.", RecordType::A));
    assert_eq!(texts(&reply), ["240.240.0.1", "240.240.0.2"]);
    assert_eq!((reply.id, reply.message_type), (258, MessageType::Response));
    assert!(reply.authoritative && reply.recursion_available && reply.recursion_desired && !reply.truncation);
    assert!(reply.answers.iter().all(|record| record.ttl == 30 && record.name.to_string() == "ours.test."));
    assert!(reply.edns.is_none(), "not asked for");
    assert_eq!(texts(&reply_to(&question(1, "ours.test.", RecordType::AAAA))), ["2001:2::1"]);
    let mut without_recursion = query_message(1, "a.b.wild.test.", RecordType::A);
    without_recursion.metadata.recursion_desired = false;
    let reply = reply_to(&without_recursion.to_vec().expect("a query"));
    assert!(!reply.recursion_desired && reply.recursion_available);
    assert_eq!(texts(&reply), ["240.240.0.3"]);
}

#[test]
fn repeats_the_question_byte_by_byte() {
    let query = question(1, "OuRs.TeSt.", RecordType::A);
    let Decision::Reply(reply) = decide(Transport::Udp, &query) else { panic!("not ours") };
    assert_eq!(reply[12..query.len()], query[12..]);
}

#[test]
fn says_of_which_name_a_searched_one_is_another() {
    let suffix = "default.SVC.cluster.local.";
    let asked = format!("oUrS.test.{suffix}");
    let reply = reply_to(&question(1, &asked, RecordType::A));
    assert_eq!(texts(&reply), ["240.240.0.1", "240.240.0.2"]);
    let RData::CNAME(canonical) = &reply.answers[0].data else { panic!("{reply}") };
    let alias = &reply.answers[0];
    assert_eq!(
        (alias.name.to_string(), canonical.to_string(), alias.ttl),
        (asked.clone(), "oUrS.test.".into(), 30)
    );
    assert!(reply.answers[1..].iter().all(|record| record.name.to_string() == "oUrS.test."));
    assert!(reply.authoritative && reply.authorities.is_empty());

    // No address of the family: the alias all the same, and the end is the other name's.
    let reply = reply_to(&question(1, &format!("a.wild.test.{suffix}"), RecordType::AAAA));
    assert_eq!((reply.answers.len(), reply.authorities.len()), (1, 1));
    assert_eq!(reply.authorities[0].name.to_string(), "a.wild.test.");

    for name in ["ours.test.other.svc.cluster.local.", "theirs.default.svc.cluster.local.", "cluster.local."]
    {
        assert_eq!(decide(Transport::Udp, &question(1, name, RecordType::A)), Decision::Forward, "{name}");
    }
}

#[test]
fn a_cut_answer_begins_with_the_alias() {
    let query = question(1, "many.test.cluster.local.", RecordType::A);
    let Decision::Reply(reply) = decide(Transport::Udp, &query) else { panic!("not ours") };
    assert!(reply.len() <= 512);
    let reply = Message::from_vec(&reply).expect("a reply");
    assert!(reply.truncation && reply.answers.len() > 20, "{reply}");
    assert!(matches!(reply.answers[0].data, RData::CNAME(_)));
}

#[test]
fn says_that_the_other_family_has_nothing_for_a_short_time() {
    let reply = reply_to(&question(1, "a.wild.test.", RecordType::AAAA));
    assert_eq!((reply.response_code, reply.authoritative), (ResponseCode::NoError, true));
    assert!(reply.answers.is_empty());
    let RData::SOA(soa) = &reply.authorities[0].data else { panic!("{reply}") };
    assert_eq!((reply.authorities[0].ttl, soa.minimum), (30, 30));
}

#[test]
fn keeps_an_address_to_itself_that_cannot_be_reached_in_its_family() {
    let table = NameTable::default();
    let mut v6_only = entry(&["240.240.0.1", "2001:2::1"]);
    let view = NameView { answers_v4: false, ..view(&["240.240.0.1", "2001:2::1"]) };
    v6_only.views.insert(Scope::Mesh, view);
    table.set(HostName::new("six.test"), Some(v6_only));
    let ask = |record_type| query(&table, client(), &HostName::new("six.test"), record_type);
    assert!(ask(QueryType::A).authoritative && ask(QueryType::A).answers.is_empty());
    assert_eq!(ask(QueryType::Aaaa).answers.len(), 1);
}

#[test]
fn a_name_on_demand_is_waited_for_and_then_answered_refused_or_left() {
    let (table, name) = (NameTable::default(), HostName::new("a.lazy.test"));
    let mut lazy = entry(&[]);
    lazy.views.values_mut().for_each(|view| view.on_demand = true);
    table.set(HostName::new("*.lazy.test"), Some(lazy));
    let query = question(7, "A.lazy.test.", RecordType::A);
    let decide = |waited| answer(&table, client(), Transport::Udp, &query, waited);
    let reply = |waited| match decide(waited) {
        Decision::Reply(reply) => Message::from_vec(&reply).expect("a reply"),
        other => panic!("{other:?}"),
    };
    assert_eq!(decide(Waited::NotYet), Decision::Ask(name.clone()));
    assert_eq!(decide(Waited::ToTheEnd), Decision::Forward, "there is nothing to wait for");
    let refused = reply(Waited::TooLong);
    assert_eq!(
        (refused.id, refused.response_code, refused.authoritative),
        (7, ResponseCode::ServFail, false)
    );
    // One family is known.
    table.set_concrete(&name, Some(NameEntry { is_complete: false, ..entry(&["240.241.0.1"]) }));
    assert_eq!(decide(Waited::NotYet), Decision::Ask(name.clone()));
    assert_eq!(texts(&reply(Waited::TooLong)), ["240.241.0.1"]);
    table.set_concrete(&name, Some(entry(&["240.241.0.1"])));
    assert_eq!(texts(&reply(Waited::NotYet)), ["240.241.0.1"]);
    // Other types are the resolver's, and nothing is made for them.
    let text = question(7, "b.lazy.test.", RecordType::TXT);
    assert_eq!(answer(&table, client(), Transport::Udp, &text, Waited::NotYet), Decision::Forward);
}

#[test]
fn leaves_everything_else_to_the_resolver() {
    let mut chaos = query_message(1, "ours.test.", RecordType::A);
    chaos.queries[0].query_class = DNSClass::CH;
    let mut unicast = query_message(1, "ours.test.", RecordType::A);
    unicast.queries[0].query_class = DNSClass::from(0x8001);
    let mut notify = query_message(1, "ours.test.", RecordType::A);
    notify.metadata.op_code = OpCode::Notify;
    let mut cookie = Message::query();
    cookie.set_edns(Edns::new());
    let mut cases = vec![
        ("another class", chaos.to_vec()),
        ("a class with the mDNS bit", unicast.to_vec()),
        ("another opcode", notify.to_vec()),
        ("no question but EDNS", cookie.to_vec()),
    ];
    for record_type in
        [RecordType::HTTPS, RecordType::TXT, RecordType::ANY, RecordType::SRV, RecordType::AXFR]
    {
        cases.push(("another type", Ok(question(1, "ours.test.", record_type))));
    }
    for name in
        ["theirs.test.", "test.", ".", "wild.test.", "sub.ours.test.", "a~b.wild.test.", "a b.wild.test."]
    {
        cases.push((name, Ok(question(1, name, RecordType::A))));
    }
    for (what, query) in cases {
        let decision = decide(Transport::Udp, &query.expect("a query"));
        assert_eq!(decision, Decision::Forward, "{what}");
    }
    // What follows the question of a name that is not ours is for the resolver to judge.
    let mut odd = question(1, "theirs.test.", RecordType::A);
    odd[11] = 3;
    assert_eq!(decide(Transport::Udp, &odd), Decision::Forward);
}

#[test]
fn answers_edns_with_edns() {
    let mut query = query_message(1, "ours.test.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(1232).set_dnssec_ok(true);
    query.set_edns(edns);
    let reply = reply_to(&query.to_vec().expect("a query"));
    let edns = reply.edns.as_ref().expect("EDNS");
    assert_eq!((edns.version(), edns.flags().dnssec_ok), (0, true));
    assert_eq!(texts(&reply).len(), 2);

    let mut edns = Edns::new();
    edns.set_version(1);
    query.set_edns(edns);
    let reply = reply_to(&query.to_vec().expect("a query"));
    assert_eq!(u16::from(reply.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!(reply.edns.as_ref().map(Edns::version), Some(0));
    assert!(reply.answers.is_empty());
}

#[test]
fn cuts_a_datagram_to_what_the_client_takes() {
    for (payload, limit) in [(None, 512), (Some(100), 512), (Some(1232), 1232), (Some(65_000), 4096)] {
        let mut query = query_message(1, "many.test.", RecordType::A);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            query.set_edns(edns);
        }
        let query = query.to_vec().expect("a query");
        let Decision::Reply(reply) = decide(Transport::Udp, &query) else { panic!("not ours") };
        // A record is 16 bytes, or 25 where the encoder no longer looks for the name to point back to.
        let next = if limit > 2000 { 25 } else { 16 };
        assert!(reply.len() <= limit && reply.len() + next > limit, "{} bytes of {limit}", reply.len());
        assert!(Message::from_vec(&reply).expect("a reply").truncation);
        let Decision::Reply(reply) = decide(Transport::Tcp, &query) else { panic!("not ours") };
        let reply = Message::from_vec(&reply).expect("a reply");
        assert_eq!((reply.answers.len(), reply.truncation), (256, false));
    }
}

#[test]
fn shuffles_the_addresses() {
    let query = question(1, "many.test.", RecordType::A);
    let first = |_| match decide(Transport::Tcp, &query) {
        Decision::Reply(reply) => reply,
        other => panic!("{other:?}"),
    };
    let replies: std::collections::BTreeSet<_> = (0..3).map(first).collect();
    assert_eq!(replies.len(), 3);
}

#[test]
fn says_formerr_to_what_it_cannot_read_and_nothing_to_what_is_no_query() {
    let query = question(0x1234, "ours.test.", RecordType::A);
    let cases = [
        ("a header that promises a question", query[..12].to_vec()),
        ("half a question", query[..query.len() - 3].to_vec()),
        ("no question", [&query[..4], &[0; 8]].concat()),
        ("two questions", [&query[..5], &[2], &query[6..], &query[12..]].concat()),
        ("a promised record that is not there", [&query[..11], &[1], &query[12..]].concat()),
    ];
    for (what, query) in cases {
        let reply = reply_to(&query);
        assert_eq!((reply.id, reply.response_code), (0x1234, ResponseCode::FormErr), "{what}");
    }
    assert_eq!(decide(Transport::Udp, &query[..11]), Decision::Drop);
    assert_eq!(decide(Transport::Udp, b""), Decision::Drop);
    let reply = Message::from_vec(&query).expect("a query").into_response().to_vec().expect("a reply");
    assert_eq!(decide(Transport::Udp, &reply), Decision::Drop);
}

/// A query for an A record of this name, which is given in bytes.
fn raw(name: &[u8], more: &[u8]) -> Vec<u8> {
    let head = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&head[..], name, &[0, 1, 0, 1], more].concat()
}

#[test]
fn names_that_point_to_themselves_or_onwards_are_malformed() {
    for (what, name) in [
        ("at itself", &b"\xc0\x0c"[..]),
        ("at a pointer to itself", b"\x01a\xc0\x0c"),
        ("onwards", b"\xc0\x20"),
        ("into the header", b"\x01a\xc0\x00"),
        ("behind the end", b"\xff\xff"),
        ("a label of a kind that is not known", b"\x80a\0"),
        ("a label that is too long", b"\x40a\0"),
        ("a name that is too long", &[&[63; 64][..]; 5].concat()),
    ] {
        let reply = reply_to(&raw(name, b""));
        assert_eq!((reply.id, reply.response_code), (0x1234, ResponseCode::FormErr), "{what}");
        assert!(server_failure(&raw(name, b"")).is_some(), "{what}");
    }
}

#[test]
fn what_follows_a_whole_query_changes_nothing() {
    let name = b"\x04ours\x04test\0";
    let reply = reply_to(&raw(name, b"more"));
    assert_eq!((reply.response_code, texts(&reply).len()), (ResponseCode::NoError, 2));
}

#[test]
fn one_opt_record_is_a_promise_and_two_are_malformed() {
    let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    // A client cookie, and an option that nobody knows: neither is repeated.
    let with_cookie =
        [&[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 18][..], &[0, 10, 0, 8], &[7; 8], &[0xff, 0xfe, 0, 2, 1, 2]];
    let mut query = raw(b"\x04ours\x04test\0", &with_cookie.concat());
    query[11] = 1;
    let reply = reply_to(&query);
    let edns = reply.edns.as_ref().expect("EDNS");
    assert!(edns.flags().dnssec_ok && edns.options().as_ref().is_empty(), "{edns}");
    assert_eq!(texts(&reply).len(), 2);
    let mut query = raw(b"\x04ours\x04test\0", &[opt, opt].concat());
    query[11] = 2;
    assert_eq!(reply_to(&query).response_code, ResponseCode::FormErr);
}

#[test]
fn answers_in_the_shape_that_the_command_prints() {
    let ask = |name, record_type| {
        let answer = query(&table(), client(), &HostName::new(name), record_type);
        serde_json::to_string(&answer).expect("JSON")
    };
    assert_eq!(
        ask("A.wild.test", QueryType::A),
        r#"{"rcode":"NOERROR","authoritative":true,"answers":[{"name":"a.wild.test","type":"A","ttl":30,"data":"240.240.0.3"}],"forwarded":false}"#
    );
    assert_eq!(
        ask("a.wild.test.svc.cluster.local", QueryType::A),
        r#"{"rcode":"NOERROR","authoritative":true,"answers":[{"name":"a.wild.test.svc.cluster.local","type":"CNAME","ttl":30,"data":"a.wild.test"},{"name":"a.wild.test","type":"A","ttl":30,"data":"240.240.0.3"}],"forwarded":false}"#
    );
    assert_eq!(
        ask("a.wild.test", QueryType::Aaaa),
        r#"{"rcode":"NOERROR","authoritative":true,"answers":[],"forwarded":false}"#
    );
    assert_eq!(
        ask("theirs.test", QueryType::A),
        r#"{"rcode":"NOERROR","authoritative":false,"answers":[],"forwarded":true}"#
    );
    assert_eq!("aaaa".parse(), Ok(QueryType::Aaaa));
    assert!("MX".parse::<QueryType>().expect_err("not answered").contains("MX"));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for transport in [Transport::Udp, Transport::Tcp] {
            if let Decision::Reply(reply) = decide(transport, &bytes) {
                prop_assert_eq!(&reply[..2], &bytes[..2]);
                prop_assert_eq!(reply[2] & 0x80, 0x80);
            }
        }
        let _ = server_failure(&bytes);
    }

    #[test]
    fn no_damage_to_a_query_makes_it_panic(at in 0_usize..40, bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
        let mut message = query_message(1, "ours.test.", RecordType::A);
        message.set_edns(Edns::new());
        let mut query = message.to_vec().expect("a query");
        let at = at.min(query.len());
        query.splice(at..(at + bytes.len()).min(query.len()), bytes);
        let _ = decide(Transport::Udp, &query);
        let _ = server_failure(&query);
    }

    #[test]
    fn every_query_for_an_unknown_name_is_forwarded(
        id in any::<u16>(),
        labels in proptest::collection::vec("[a-zA-Z0-9_-]{1,20}", 1..6),
        record_type in any::<u16>(),
        has_edns in any::<bool>(),
    ) {
        let name = format!("{}.unknown.", labels.join("."));
        let mut message = query_message(id, &name, RecordType::from(record_type));
        if has_edns {
            message.set_edns(Edns::new());
        }
        let query = message.to_vec().expect("a query");
        prop_assert_eq!(decide(Transport::Udp, &query), Decision::Forward);
    }

    #[test]
    fn every_reply_repeats_its_question(upper in proptest::collection::vec(any::<bool>(), 9), id in any::<u16>()) {
        let name: String = "ours.test"
            .chars()
            .zip(&upper)
            .map(|(letter, upper)| if *upper { letter.to_ascii_uppercase() } else { letter })
            .collect();
        let query = question(id, &format!("{name}."), RecordType::A);
        let Decision::Reply(reply) = decide(Transport::Udp, &query) else { panic!("not ours") };
        prop_assert_eq!(&reply[12..query.len()], &query[12..]);
        prop_assert_eq!(&reply[..2], &id.to_be_bytes());
    }
}
