//! Bytes as a query of a client, and as what a resolver says to it.
//!
//! In: two bytes that choose, and a message. Out: nothing. Never: a socket.

use std::sync::LazyLock;

use hickory_proto::op::Message;
use kmesh_se::{
    desired::{Few, NameEntry, NameView, Scope},
    dns::{Client, Decision, NameTable, Search, Transport, Waited, answer, is_reply_to, server_failure},
    model::{HostName, Kind, Namespace, ObjectRef},
};

static SEARCH: LazyLock<Search> =
    LazyLock::new(|| Search::new(Some(HostName::new("cluster.local")), [HostName::new("corp.test")]));

static TABLE: LazyLock<NameTable> = LazyLock::new(|| {
    let entry = |count: u8, on_demand| {
        let view = NameView {
            vips: (0..count)
                .flat_map(|n| [[240, 240, 0, n].into(), [0x2001, 2, 0, 0, 0, 0, 0, n.into()].into()])
                .collect(),
            answers_v4: true,
            answers_v6: true,
            entry: ObjectRef {
                kind: Kind::ServiceEntry,
                namespace: Namespace::default(),
                name: "entry".into(),
            },
            from_names: on_demand,
            waits: false,
            on_demand,
        };
        NameEntry { views: Few::from([(Scope::Mesh, view)]), is_complete: true }
    };
    let table = NameTable::default();
    table.set(HostName::new("ours.test"), Some(entry(2, false)));
    table.set(HostName::new("many.test"), Some(entry(200, false)));
    table.set(HostName::new("*.wild.test"), Some(entry(1, false)));
    table.set(HostName::new("*.lazy.test"), Some(entry(0, true)));
    table.set_concrete(&HostName::new("a.lazy.test"), Some(entry(1, false)));
    table.set_concrete(
        &HostName::new("b.lazy.test"),
        Some(NameEntry { is_complete: false, ..entry(1, false) }),
    );
    table
});

/// Decides about the message in every way, and about it as a reply.
///
/// # Panics
/// When something is wrong.
pub fn dns(bytes: &[u8]) {
    let Some((&[choice, at], message)) = bytes.split_first_chunk() else { return };
    let transport = if choice & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    let waited = [Waited::NotYet, Waited::ToTheEnd, Waited::TooLong][usize::from(choice >> 1) % 3];
    let namespace = Namespace::default();
    let client = Client::of(&namespace, &SEARCH);
    match answer(&TABLE, client, transport, message, waited) {
        Decision::Reply(reply) => {
            check(message, &reply);
            assert!(transport == Transport::Tcp || reply.len() <= 4096, "{} bytes", reply.len());
        }
        Decision::Ask(name) => {
            assert!(waited == Waited::NotYet && name.as_str().ends_with(".lazy.test"), "{name}")
        }
        Decision::Forward | Decision::Drop => {}
    }
    if let Some(reply) = server_failure(message) {
        check(message, &reply);
    }
    // A reply is a query with the answer bit, and may be another one's.
    let mut reply = message.to_vec();
    if let Some(flags) = reply.get_mut(2) {
        *flags |= 0x80;
    }
    let is_reply = is_reply_to(message, &reply);
    // A name may point into the header, and is another one there.
    let is_plain = Message::from_vec(message).is_ok() && !message.iter().any(|byte| *byte >= 0xc0);
    assert!(is_reply || !is_plain || message[2] & 0x80 != 0, "the same question");
    let (query, other) = message.split_at(usize::from(at).min(message.len()));
    let _ = (is_reply_to(query, other), is_reply_to(other, query));
}

fn check(query: &[u8], reply: &[u8]) {
    assert_eq!(query[..2], reply[..2], "the id");
    assert_eq!(reply[2] & 0x80, 0x80, "an answer");
    let read = Message::from_vec(reply);
    assert!(read.is_ok(), "{read:?}: {reply:02x?}");
}
