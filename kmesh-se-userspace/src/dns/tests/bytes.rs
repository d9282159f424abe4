//! What is not ours passes unchanged, whatever it is, with a resolver that writes down what it gets.

use super::*;

/// A resolver that answers each query with the same bytes, but for the header's answer bit, and `tail` behind them.
fn echoing(tail: &'static [u8]) -> (SocketAddr, Arc<std::sync::Mutex<Vec<Vec<u8>>>>) {
    let address = free_port();
    let udp = UdpSocket::bind(address).expect("a socket");
    let tcp = std::net::TcpListener::bind(address).expect("a listener");
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let answer = {
        let asked = Arc::clone(&asked);
        move |query: &[u8]| {
            asked.lock().expect("a lock").push(query.to_vec());
            let mut reply = [query, tail].concat();
            reply[2] |= 0x80;
            reply
        }
    };
    let over_tcp = answer.clone();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, client)) = udp.recv_from(&mut buffer) {
            udp.send_to(&answer(&buffer[..length]), client).expect("send");
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("a length");
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query).expect("a query");
            let reply = over_tcp(&query);
            stream.write_all(&(reply.len() as u16).to_be_bytes()).expect("send");
            stream.write_all(&reply).expect("send");
        }
    });
    (address, asked)
}

/// A query of one question with these flags, numbers of records and bytes behind the question.
fn odd(flags: [u8; 2], records: [u8; 3], kind: u16, class: u16, more: &[u8]) -> Vec<u8> {
    let [answers, authorities, additionals] = records;
    let head = [0x12, 0x34, flags[0], flags[1], 0, 1, 0, answers, 0, authorities, 0, additionals];
    let question = [b"\x04ours\x04TEST\0".as_slice(), &kind.to_be_bytes(), &class.to_be_bytes()].concat();
    [&head[..], &question, more].concat()
}

#[tokio::test]
async fn passes_every_byte_that_is_not_ours_both_ways() {
    // An OPT record of version 0 with the DO bit, a cookie and an option that nobody knows.
    const OPT: &[u8] = b"\0\0\x29\x04\xd0\0\0\x80\0\0\x12\0\x0a\0\x08cookie!!\xff\xfe\0\x02ab";
    const SIGNATURE: &[u8] = b"\x03key\0\0\xfa\0\xff\0\0\0\0\0\x02xy";
    let (resolver, asked) = echoing(b"more than was promised");
    let bench = Bench::new(vec![resolver]).await;
    let cases = [
        ("HTTPS with EDNS", odd([1, 0x20], [0, 0, 1], 65, 1, OPT)),
        ("SVCB, checking disabled", odd([1, 0x10], [0, 0, 0], 64, 1, b"")),
        ("ANY", odd([1, 0], [0, 0, 0], 255, 1, b"")),
        ("PTR", odd([1, 0], [0, 0, 0], 12, 1, b"")),
        ("a type that nobody knows, without recursion", odd([0, 0], [0, 0, 0], 65_280, 1, b"")),
        ("an address of class CH, cut", odd([3, 0], [0, 0, 0], 1, 3, b"")),
        ("an address of any class", odd([1, 0], [0, 0, 0], 28, 255, b"")),
        ("STATUS", odd([0x11, 0], [0, 0, 0], 1, 1, b"")),
        ("NOTIFY with a record", odd([0x25, 0], [1, 0, 0], 6, 1, b"\xc0\x0c\0\x06\0\x01\0\0\0\0\0\0")),
        ("UPDATE with a signature", odd([0x28, 0], [0, 0, 1], 6, 1, SIGNATURE)),
        ("an opcode that nobody knows", odd([0x79, 0xff], [0, 0, 0], 1, 1, b"")),
        ("text, with a broken record", odd([1, 0], [0, 0, 9], 16, 1, b"\xc0\xff\xff")),
        ("a large one", odd([1, 0], [0, 0, 1], 16, 1, &[7; 20_000])),
    ];
    for (what, query) in &cases {
        let mut wanted = [query.as_slice(), b"more than was promised"].concat();
        wanted[2] |= 0x80;
        for reply in [bench.udp(query).await, bench.tcp(query).await] {
            assert_eq!(reply, wanted, "{what}");
            assert_eq!(asked.lock().expect("a lock").pop().as_ref(), Some(query), "{what}");
        }
    }
    assert_eq!(bench.server.stats().forwarded, 2 * cases.len() as u64);
}
