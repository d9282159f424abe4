//! DNS as clients ask it: either family, either transport, any kind of socket.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;
use tests::entries::dns_entry;
use tests::stage::Stage;
use tests::topology::{BACKEND, BACKEND_2, DNS, NODE, Options, v6};

const QUIET: Options =
    Options { httpbin: false, ttl_secs: 1, records: &[("backend.test", BACKEND), ("plain.test", BACKEND_2)] };

/// Asks in all ways that a resolver library has, and prints what came back, from whom.
const ASK: &str = r"
import socket, struct, sys
resolver, names = sys.argv[1], sys.argv[2:]
family = socket.AF_INET6 if ':' in resolver else socket.AF_INET

def question(name):
    labels = b''.join(bytes([len(part)]) + part.encode() for part in name.split('.'))
    return struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + labels + b'\0' + struct.pack('>HH', 1, 1)

def shown(answer):
    count = struct.unpack('>H', answer[6:8])[0]
    return socket.inet_ntoa(answer[-4:]) if count else 'rcode %d' % (answer[3] & 15)

for name in names:
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(question(name), (resolver, 53))
        answer, sender = client.recvfrom(512)
        print(name, 'unconnected', shown(answer), sender[0], sender[1])
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((resolver, 53))
        client.send(question(name))
        print(name, 'connected', shown(client.recv(512)), *client.getpeername()[:2])
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect((resolver, 53))
        text = question(name)
        client.sendall(struct.pack('>H', len(text)) + text)
        stream = client.makefile('rb')
        answer = stream.read(struct.unpack('>H', stream.read(2))[0])
        print(name, 'stream', shown(answer), *client.getpeername()[:2])
";

fn ask(stage: &Stage, enrolled: bool, resolver: IpAddr, names: &[&str]) -> anyhow::Result<String> {
    let mut program = format!("import sys\nsys.argv = ['ask', '{resolver}'");
    names.iter().for_each(|name| program += &format!(", '{name}'"));
    stage.python(enrolled, &format!("{program}]\n{ASK}"))
}

fn with_fake(more: &[&str]) -> anyhow::Result<Stage> {
    let entry = dns_entry("fake", "fake.test", Some(("backend.test", 9000)));
    Stage::start_with(QUIET, &[("fake.yaml", &entry)], |flags| {
        flags.more.extend(more.iter().map(|word| (*word).to_owned()));
    })
}

fn both_families() -> anyhow::Result<Stage> {
    let listen = format!("[{}]:15053", v6(NODE));
    with_fake(&["--dns-listen", &listen, "--resolver", &v6(DNS).to_string()])
}

fn vip(stage: &Stage) -> anyhow::Result<Ipv4Addr> {
    let (_, text) = stage.says(true, &["getent", "ahostsv4", "fake.test"])?;
    Ok(text.split_whitespace().next().unwrap_or_default().parse()?)
}

/// What [`ASK`] prints when every way gives this.
fn in_every_way(name: &str, answer: &str, resolver: IpAddr) -> String {
    ["unconnected", "connected", "stream"]
        .map(|way| format!("{name} {way} {answer} {resolver} 53\n"))
        .concat()
}

#[test]
fn every_kind_of_socket_is_answered_over_either_family() -> anyhow::Result<()> {
    let stage = both_families()?;
    let vip = vip(&stage)?;
    assert_eq!(vip.octets()[..2], [240, 240]);
    for resolver in [DNS, v6(DNS)] {
        let told = ask(&stage, true, resolver, &["fake.test", "plain.test", "nowhere.test"])?;
        let wanted = in_every_way("fake.test", &vip.to_string(), resolver)
            + &in_every_way("plain.test", &BACKEND_2.to_string(), resolver)
            + &in_every_way("nowhere.test", "rcode 3", resolver);
        assert_eq!(told, wanted);
        let plain = ask(&stage, false, resolver, &["plain.test", "nowhere.test", "fake.test"])?;
        assert!(told.ends_with(&plain[..plain.len() - in_every_way("fake.test", "rcode 3", resolver).len()]));
    }
    // Ours never went to the resolver, but for the client that is not enrolled: three ways, two families.
    assert_eq!(stage.topology.dns.queries("fake.test"), 6);
    Ok(())
}

#[test]
fn what_is_forwarded_goes_to_the_resolver_that_was_asked_in_its_family() -> anyhow::Result<()> {
    let stage = both_families()?;
    let asked_over = |family: &str| {
        let log = std::fs::read_to_string(stage.run.folder()?.join("dns.log"))?;
        let lines = log.lines().filter(|line| line.contains(" plain.test from "));
        anyhow::Ok(lines.filter(|line| line.ends_with(family)).count())
    };
    ask(&stage, true, v6(DNS), &["plain.test"])?;
    assert_eq!((asked_over(&NODE.to_string())?, asked_over(&v6(NODE).to_string())?), (0, 3));
    ask(&stage, true, DNS, &["plain.test"])?;
    assert_eq!((asked_over(&NODE.to_string())?, asked_over(&v6(NODE).to_string())?), (3, 3));
    Ok(())
}

#[test]
fn a_resolver_is_left_alone_when_no_listener_is_of_its_family() -> anyhow::Result<()> {
    let stage = with_fake(&["--resolver", &v6(DNS).to_string()])?;
    assert_eq!(ask(&stage, true, v6(DNS), &["fake.test"])?, in_every_way("fake.test", "rcode 3", v6(DNS)));
    assert_eq!(
        ask(&stage, true, DNS, &["fake.test"])?,
        in_every_way("fake.test", &vip(&stage)?.to_string(), DNS)
    );
    Ok(())
}

#[test]
fn a_v6_socket_asks_a_v4_resolver_by_its_mapped_address() -> anyhow::Result<()> {
    let stage = both_families()?;
    let resolver: IpAddr = format!("::ffff:{DNS}").parse()?;
    let told = ask(&stage, true, resolver, &["fake.test"])?;
    assert_eq!(told, in_every_way("fake.test", &vip(&stage)?.to_string(), resolver));
    Ok(())
}

#[test]
fn an_answer_that_is_too_large_is_cut_and_comes_whole_over_tcp() -> anyhow::Result<()> {
    let stage = both_families()?;
    let own: Vec<_> = (1..=80).map(|last| format!("'198.51.100.{last}'")).collect();
    let entry = dns_entry("large", "large.test", Some(("backend.test", 9000)));
    let entry = entry.replace("spec:", &format!("spec:\n  addresses: [{}]", own.join(", ")));
    stage.write("large.yaml", &entry)?;
    stage.agent.until_serves("large.test", true)?;
    let many: Vec<(&str, IpAddr)> =
        (1..=80).map(|last| ("many.test", IpAddr::from([192, 0, 2, last]))).collect();
    let records = [&[("backend.test", BACKEND)], many.as_slice()].concat();
    stage.topology.dns.set(&records)?;

    for resolver in [DNS, v6(DNS)] {
        let server = format!("@{resolver}");
        for name in ["large.test", "many.test"] {
            let dig = |more: &[&str]| -> anyhow::Result<String> {
                let words = [&["dig", &server, name, "A", "+noedns", "+tries=1"], more].concat();
                Ok(stage.says(true, &words)?.1)
            };
            let records = |text: &str| text.lines().filter(|line| line.contains("\tIN\tA\t")).count();
            let cut = dig(&["+ignore"])?;
            assert!(cut.contains("flags: qr") && cut.contains(" tc"), "{cut}");
            assert!(records(&cut) < 80, "{cut}");
            for whole in [dig(&[])?, dig(&["+tcp"])?] {
                assert_eq!(records(&whole), 80, "{whole}");
                assert!(
                    whole.contains(&format!("SERVER: {resolver}#53")) && whole.contains("(TCP)"),
                    "{whole}"
                );
            }
        }
    }
    let status = stage.agent.json("status")?;
    assert_eq!(status["dns"]["listen"], Value::from(format!("{NODE}:15053, [{}]:15053", v6(NODE))));
    Ok(())
}

/// Resolves as musl does: both families at once from one socket, each search domain in turn, no look at EDNS.
const LIKE_MUSL: &str = r"
import select, socket, struct, sys
resolver, ndots, domains = sys.argv[1], int(sys.argv[2]), sys.argv[3].split()

def question(number, name, kind):
    labels = b''.join(bytes([len(part)]) + part.encode() for part in name.split('.'))
    return struct.pack('>HHHHHH', number, 0x100, 1, 0, 0, 0) + labels + b'\0' + struct.pack('>HH', kind, 1)

def skip(answer, at):
    while True:
        length = answer[at]
        if length >= 192: return at + 2
        at += length + 1
        if not length: return at

def read(answer):
    found, at = [], skip(answer, 12) + 4
    for _ in range(struct.unpack('>H', answer[6:8])[0]):
        at = skip(answer, at)
        kind, _, _, length = struct.unpack('>HHIH', answer[at:at + 10])
        data = answer[at + 10:at + 10 + length]
        at += 10 + length
        if kind == 1: found.append(socket.inet_ntop(socket.AF_INET, data))
        if kind == 28: found.append(socket.inet_ntop(socket.AF_INET6, data))
        if kind == 5: found.append('alias')
    return answer[3] & 15, found

def ask(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for number, kind in [(1, 1), (2, 28)]:
            client.sendto(question(number, name, kind), (resolver, 53))
        answers = {}
        while len(answers) < 2:
            assert select.select([client], [], [], 5)[0], 'no answer to ' + name
            answer, sender = client.recvfrom(512)
            assert sender == (resolver, 53), sender
            answers[answer[1]] = read(answer)
        return answers[1], answers[2]

for name in sys.argv[4:]:
    tried = [name + '.' + domain for domain in domains] if name.count('.') < ndots else []
    for candidate in tried + [name]:
        (code4, found4), (code6, found6) = ask(candidate)
        if found4 or found6 or code4 == code6 == 0:
            print(name, 'as', candidate, *found4, *found6)
            break
    else:
        print(name, 'unknown')
";

#[test]
fn a_name_is_found_through_the_search_list_by_every_resolver_library() -> anyhow::Result<()> {
    let stage = with_fake(&["--search", "corp.test"])?;
    let real = "real.default.svc.cluster.local";
    stage.topology.dns.set(&[
        ("backend.test", BACKEND),
        (real, BACKEND_2),
        ("corp.test.corp.test", BACKEND),
    ])?;
    let domains = "default.svc.cluster.local svc.cluster.local cluster.local corp.test";
    let text = format!("nameserver {DNS}\nsearch {domains}\noptions ndots:5 timeout:2\n");
    stage.topology.sleep.resolv_conf(&text)?;
    let vip = vip(&stage)?;

    // glibc, by its own words and through Python.
    let (found, text) = stage.says(true, &["getent", "ahostsv4", "fake.test"])?;
    assert!(found && text.starts_with(&vip.to_string()), "{text}");
    let (found, text) = stage.says(true, &["getent", "hosts", "real"])?;
    assert!(found && text.contains(&BACKEND_2.to_string()), "{text}");
    let told = stage.python(
        true,
        "import socket\nprint(*{a[4][0] for a in socket.getaddrinfo('FAKE.test', 80, socket.AF_INET)})\n\
         print(socket.gethostbyname_ex('fake.test')[0])",
    )?;
    assert_eq!(told, format!("{vip}\nfake.test\n"));

    let program = |names: &str| {
        format!("import sys\nsys.argv = ['ask', '{DNS}', '5', '{domains}', {names}]\n{LIKE_MUSL}")
    };
    let told = stage.python(true, &program("'fake.test', 'real', 'nowhere.test'"))?;
    let wanted = format!(
        "fake.test as fake.test.default.svc.cluster.local alias {vip} alias\n\
         real as {real} {BACKEND_2}\n\
         nowhere.test unknown\n"
    );
    assert_eq!(told, wanted);

    // The search of another namespace is not this one's, and what is not enrolled has neither.
    let dig = |enrolled, name: &str| -> anyhow::Result<String> {
        let words = ["dig", &format!("@{DNS}"), name, "A", "+noall", "+answer", "+comments"];
        Ok(stage.says(enrolled, &words)?.1.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let told = dig(true, "Fake.Test.default.svc.cluster.local")?;
    assert!(told.contains("Fake.Test.default.svc.cluster.local. 30 IN CNAME Fake.Test."), "{told}");
    assert!(told.contains(&format!("Fake.Test. 30 IN A {vip}")) && told.contains(" aa "), "{told}");
    assert!(dig(true, "fake.test.corp.test")?.contains(&vip.to_string()));
    assert!(dig(true, "fake.test.other.svc.cluster.local")?.contains("NXDOMAIN"));
    assert!(dig(false, "fake.test.default.svc.cluster.local")?.contains("NXDOMAIN"));
    Ok(())
}

#[test]
fn listeners_are_not_dialled_and_their_neighbours_are_left_alone() -> anyhow::Result<()> {
    let stage = both_families()?;
    let program = format!(
        "import errno, socket\n\
         for address in ['{NODE}', '{}']:\n\
         \x20   family = socket.AF_INET6 if ':' in address else socket.AF_INET\n\
         \x20   for kind in [socket.SOCK_STREAM, socket.SOCK_DGRAM]:\n\
         \x20       for port in [15053, 15055]:\n\
         \x20           code = socket.socket(family, kind).connect_ex((address, port))\n\
         \x20           print(port, kind == socket.SOCK_DGRAM, errno.errorcode.get(code, 'none'))\n",
        v6(NODE)
    );
    // Nobody listens at port 15055: TCP is refused by the node itself, and a datagram socket can be connected.
    let told = stage.python(true, &program)?;
    let wanted =
        "15053 False ECONNREFUSED\n15055 False ECONNREFUSED\n15053 True ECONNREFUSED\n15055 True none\n";
    assert_eq!(told, wanted.repeat(2));
    let count = stage.agent.json("status")?["counters"]["listenerDialled"].as_u64();
    assert_eq!(count, Some(4));
    Ok(())
}
