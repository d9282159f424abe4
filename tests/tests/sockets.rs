//! What each call of the socket interface does to an enrolled process: streams, datagrams, and what must be left alone.
//!
//! All cases share one node. They need no program but `kmesh-se` and `ip`, and no DNS.

mod sockets {
    mod cost;
    mod datagram;
    mod other;
    mod peers;
    mod places;
    mod ranges;
    mod stream;
    mod translated;
}

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tests::sockets::{Arena, entry, servers, shared};
use tests::topology::{BACKEND, BACKEND_2, v6};

/// Where all servers listen.
const SERVER: u16 = 9000;
/// The port of the entries that is TCP.
const TCP: u16 = 80;
/// The port of the entries that is UDP.
const UDP: u16 = 81;
/// An address that a person wrote and nobody has.
const WRITTEN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
/// The ClusterIP of the stand-in translator.
const CLUSTER: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);

/// An entry with a TCP and a UDP port and these endpoints, and more fields.
fn service(name: &str, endpoints: &[(IpAddr, u32)], more: Value) -> String {
    let endpoints: Vec<Value> = endpoints.iter().map(|(a, w)| json!({ "address": a, "weight": w })).collect();
    let mut spec = json!({
        "hosts": [format!("{name}.test")],
        "ports": [
            { "name": "tcp", "number": TCP, "protocol": "TCP", "targetPort": SERVER },
            { "name": "udp", "number": UDP, "protocol": "UDP", "targetPort": SERVER },
        ],
        "resolution": "STATIC",
        "endpoints": endpoints,
    });
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    entry(name, &spec)
}

fn entries() -> String {
    let (b4, b6, c4) = ((BACKEND, 1), (v6(BACKEND), 1), (BACKEND_2, 1));
    let at = |addresses: &[IpAddr]| json!({ "addresses": addresses });
    [
        service("both", &[b4, b6], json!({})),
        service("four", &[b4], json!({})),
        service("six", &[b6], json!({})),
        service("none", &[], json!({})),
        service("a", &[b4], json!({})),
        service("b", &[b4], json!({})),
        service("c", &[c4], json!({})),
        service("pair", &[b4, c4], json!({})),
        service("pair2", &[b4, c4], json!({})),
        service("weighted", &[b4, (BACKEND_2, 3)], json!({})),
        // Its address is its backend's, which has other ports too.
        service("real", &[c4, (v6(BACKEND_2), 1)], at(&[BACKEND_2, v6(BACKEND_2)])),
        service("written", &[b4], at(&[WRITTEN])),
        service("loopback", &[b6], at(&[IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)])),
        service("cluster", &[(CLUSTER.into(), 1)], json!({})),
    ]
    .concat()
}

fn arena() -> anyhow::Result<Arc<Arena>> {
    shared(|| {
        let arena = Arena::start(Path::new(env!("CARGO_BIN_EXE_socket-client")), &entries())?;
        for address in [BACKEND, BACKEND_2, v6(BACKEND), v6(BACKEND_2)] {
            servers::stream(&arena.backend, (address, SERVER).into())?;
            servers::datagram(&arena.backend, (address, SERVER).into())?;
        }
        // What a connection finds that was left alone.
        servers::stream(&arena.backend, (BACKEND_2, TCP).into())?;
        servers::datagram(&arena.backend, (BACKEND_2, UDP).into())?;
        arena.agent.until_serves("cluster.test", true)?;
        Ok(arena)
    })
}

/// The TCP ports of a host's IPv4 and IPv6 address.
fn tcp(arena: &Arena, name: &str) -> anyhow::Result<[SocketAddr; 2]> {
    Ok(arena.vips(&format!("{name}.test"))?.map(|ip| SocketAddr::new(ip, TCP)))
}

/// The UDP ports of a host's IPv4 and IPv6 address.
fn udp(arena: &Arena, name: &str) -> anyhow::Result<[SocketAddr; 2]> {
    Ok(arena.vips(&format!("{name}.test"))?.map(|ip| SocketAddr::new(ip, UDP)))
}

fn server(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, SERVER)
}

/// The errno of a call that must fail.
fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.expect_err("the call must fail").raw_os_error().expect("an errno")
}

/// Which address a server says that it was reached at.
fn reached((text, _): &(String, Option<SocketAddr>)) -> SocketAddr {
    text.split(' ').next().and_then(|own| own.parse().ok()).expect("an answer of a server")
}
