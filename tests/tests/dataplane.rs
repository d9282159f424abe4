//! What a connection looks like: to the client, on the wire, and to who is not concerned.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::entries::{dns_entry, static_entry};
use tests::poll;
use tests::servers::{Echo, Process};
use tests::stage::Stage;
use tests::topology::{BACKEND, BACKEND_2, DNS, Options};

const QUIET: Options = Options {
    httpbin: false,
    ttl_secs: 1,
    records: &[
        ("backend.test", BACKEND),
        ("plain.test", BACKEND_2),
        ("two.test", BACKEND),
        ("two.test", BACKEND_2),
    ],
};

/// `fake.test` port 80 leads to an echo server on port 9000 of the first backend address.
fn with_echo() -> anyhow::Result<(Stage, Echo)> {
    let stage =
        Stage::start(QUIET, &[("fake.yaml", &dns_entry("fake", "fake.test", Some(("backend.test", 9000))))])?;
    let echo = Echo::start(&stage.topology.backend, (BACKEND, 9000).into())?;
    Ok((stage, echo))
}

/// The IPv4 address that an enrolled client gets for a name.
fn vip(stage: &Stage, name: &str) -> anyhow::Result<Ipv4Addr> {
    let (_, text) = stage.says(true, &["getent", "ahostsv4", name])?;
    let first = text.split_whitespace().next().with_context(|| format!("{name} does not resolve"))?;
    Ok(first.parse()?)
}

fn is_virtual(address: Ipv4Addr) -> bool {
    address.octets()[..2] == [240, 240]
}

#[test]
fn no_packet_goes_to_a_virtual_address() -> anyhow::Result<()> {
    let (stage, echo) = with_echo()?;
    let log = stage.run.folder()?.join("tcpdump.log");
    let mut tcpdump = stage.topology.sleep.command("tcpdump");
    // DNS answers name virtual addresses; what counts is where packets go.
    tcpdump.args([
        "-n",
        "-l",
        "--immediate-mode",
        "-i",
        "any",
        "(tcp or udp) and not port 53 and not port 15053",
    ]);
    let mut tcpdump = Process::start(&mut tcpdump, &log)?;
    tcpdump.ready("tcpdump", Duration::from_secs(10), || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("listening on"))
    })?;

    assert!(stage.says(true, &["curl", "-s", "http://fake.test/"])?.0);
    assert_eq!(echo.connections(), 1);
    let seen = || tcpdump.output().contains("10.244.1.7.9000").then_some(());
    poll::until("the connection in tcpdump", Duration::from_secs(10), seen)?;
    tcpdump.signal(Signal::SIGINT)?;
    tcpdump.wait(Duration::from_secs(10))?;
    let packets = tcpdump.output();
    assert!(!packets.contains("240.240."), "{packets}");
    assert!(!packets.contains("2001:2:"), "{packets}");
    Ok(())
}

#[test]
fn getpeername_shows_the_address_that_was_dialled() -> anyhow::Result<()> {
    let (stage, _echo) = with_echo()?;
    let vip = vip(&stage, "fake.test")?;
    assert!(is_virtual(vip), "{vip}");
    let program = "import socket\n\
                   connection = socket.create_connection(('fake.test', 80), 5)\n\
                   print(*connection.getpeername()[:2])\n\
                   connection.sendall(b'\\n')\n\
                   print(connection.makefile().read().splitlines()[-1])\n";
    let text = stage.python(true, program)?;
    let (peer, told) = text.split_once('\n').context("two lines")?;
    assert_eq!(peer, format!("{vip} 80"));
    assert!(told.starts_with("10.244.1.7:9000 10.244.1.6:"), "{told}");
    Ok(())
}

#[test]
fn a_v6_socket_reaches_a_v4_backend_by_a_mapped_address() -> anyhow::Result<()> {
    let (stage, _echo) = with_echo()?;
    let vip = vip(&stage, "fake.test")?;
    let program = format!(
        "import socket\n\
         connection = socket.socket(socket.AF_INET6)\n\
         connection.settimeout(5)\n\
         connection.connect(('::ffff:{vip}', 80))\n\
         print(connection.getpeername()[0])\n"
    );
    assert_eq!(stage.python(true, &program)?.trim(), format!("::ffff:{vip}"));
    Ok(())
}

#[test]
fn a_name_with_two_addresses_uses_both() -> anyhow::Result<()> {
    let stage =
        Stage::start(QUIET, &[("two.yaml", &dns_entry("two", "fake.test", Some(("two.test", 9000))))])?;
    let first = Echo::start(&stage.topology.backend, (BACKEND, 9000).into())?;
    let second = Echo::start(&stage.topology.backend, (BACKEND_2, 9000).into())?;
    let program = "import socket\n\
                   for _ in range(60):\n\
                   \x20   socket.create_connection(('fake.test', 80), 5).close()\n";
    stage.python(true, program)?;
    poll::until("60 connections", Duration::from_secs(5), || {
        (first.connections() + second.connections() == 60).then_some(())
    })?;
    // By chance alone, fewer than 10 of 60 happens once in ten million runs.
    assert!(first.connections() >= 10 && second.connections() >= 10, "{first:?} {second:?}");
    Ok(())
}

#[test]
fn new_connections_follow_a_changed_address_within_three_seconds() -> anyhow::Result<()> {
    let (stage, old) = with_echo()?;
    let new = Echo::start(&stage.topology.backend, (BACKEND_2, 9000).into())?;
    let reached = || -> anyhow::Result<String> {
        let (_, body) = stage.says(true, &["curl", "-s", "-m", "3", "http://fake.test/"])?;
        Ok(body.split(' ').next().unwrap_or_default().to_owned())
    };
    assert_eq!(reached()?, "10.244.1.7:9000");

    stage.topology.dns.set(&[("backend.test", BACKEND_2)])?;
    let moved = || reached().is_ok_and(|address| address == "10.244.1.8:9000").then_some(());
    poll::until("connections to move to 10.244.1.8", Duration::from_secs(3), moved)?;
    let (before, moved) = (old.connections(), new.connections());
    for _ in 0..20 {
        assert_eq!(reached()?, "10.244.1.8:9000");
    }
    assert_eq!((old.connections(), new.connections()), (before, moved + 20));
    Ok(())
}

#[test]
fn a_removed_entry_is_gone_and_the_other_is_untouched() -> anyhow::Result<()> {
    let (stage, echo) = with_echo()?;
    stage.write("other.yaml", &dns_entry("other", "other.test", Some(("two.test", 9000))))?;
    stage.agent.until_serves("other.test", true)?;
    Echo::start(&stage.topology.backend, (BACKEND_2, 9000).into())?;
    assert!(stage.says(true, &["curl", "-s", "http://fake.test/"])?.0);
    assert!(stage.says(true, &["curl", "-s", "http://other.test/"])?.0);
    let objects = stage.objects()?;
    let (gone, stays) = (vip(&stage, "fake.test")?, vip(&stage, "other.test")?);
    let of = |vip: Ipv4Addr| -> anyhow::Result<Vec<Value>> {
        let entries = objects.dump("kmse_frontend")?;
        Ok(entries.into_iter().filter(|entry| frontend_address(entry) == Some(vip)).collect())
    };
    let untouched = of(stays)?;
    assert!(!of(gone)?.is_empty() && !untouched.is_empty());

    stage.remove("fake.yaml")?;
    let asked = stage.topology.dns.queries("fake.test");
    let limit = Duration::from_secs(5);
    poll::until("fake.test to be unknown", limit, || {
        stage.says(true, &["getent", "hosts", "fake.test"]).ok()?.1.is_empty().then_some(())
    })?;
    assert!(stage.topology.dns.queries("fake.test") > asked, "the query did not go upstream");
    // The name goes first, then the rows.
    poll::until("its rows to go", limit, || of(gone).ok().filter(Vec::is_empty))?;
    assert_eq!(of(stays)?, untouched);

    // Nothing rewrites a client that remembers the address.
    let connections = echo.connections();
    assert!(!stage.says(true, &["curl", "-s", "-m", "1", &format!("http://{gone}/")])?.0);
    assert_eq!(echo.connections(), connections);
    assert!(stage.says(true, &["curl", "-s", "http://other.test/"])?.0);
    assert_eq!(vip(&stage, "other.test")?, stays);
    Ok(())
}

/// The address of a frontend map's entry, as bpftool prints it: 16 bytes, IPv4 in the last four.
fn frontend_address(entry: &Value) -> Option<Ipv4Addr> {
    let bytes = entry["formatted"]["key"]["addr"].as_array()?;
    let bytes: Vec<u8> =
        bytes.iter().filter_map(Value::as_u64).filter_map(|byte| byte.try_into().ok()).collect();
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    match IpAddr::from(bytes).to_canonical() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[test]
fn a_name_without_an_entry_is_as_without_the_agent() -> anyhow::Result<()> {
    let (stage, _echo) = with_echo()?;
    let server = Echo::start(&stage.topology.backend, (BACKEND_2, 9000).into())?;
    for command in [
        ["getent", "ahosts", "plain.test"].as_slice(),
        &["getent", "ahosts", "nowhere.test"],
        &[
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{remote_ip} %{remote_port} %{exitcode}",
            "http://plain.test:9000/",
        ],
        &[
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{remote_ip} %{remote_port} %{exitcode}",
            "http://nowhere.test/",
        ],
    ] {
        assert_eq!(stage.says(true, command)?, stage.says(false, command)?, "{command:?}");
    }
    assert_eq!(server.connections(), 2);
    Ok(())
}

#[test]
fn who_is_not_enrolled_is_not_affected() -> anyhow::Result<()> {
    let (stage, echo) = with_echo()?;
    let vip = vip(&stage, "fake.test")?;
    assert!(!stage.says(false, &["getent", "hosts", "fake.test"])?.0);
    assert!(stage.topology.dns.queries("fake.test") > 0);
    assert!(!stage.says(false, &["curl", "-s", "-m", "1", &format!("http://{vip}/")])?.0);
    assert_eq!(echo.connections(), 0);
    assert!(stage.says(true, &["curl", "-s", "-m", "3", &format!("http://{vip}/")])?.0);
    assert_eq!(echo.connections(), 1);
    Ok(())
}

/// How often an outcome was counted, over all CPUs; see `kmesh_se_common::maps::Outcome`.
fn counted(stage: &Stage, outcome: u64) -> anyhow::Result<u64> {
    let entries = stage.objects()?.dump("kmse_count")?;
    let entry = entries.iter().find(|entry| entry["formatted"]["key"].as_u64() == Some(outcome));
    let values =
        entry.context("no such counter")?["formatted"]["values"].as_array().cloned().unwrap_or_default();
    Ok(values.iter().filter_map(|value| value["value"].as_u64()).sum())
}

const PORT_NOT_LISTED: u64 = 3;

#[test]
fn address_sorting_by_connected_udp_sockets_is_not_refused_or_counted() -> anyhow::Result<()> {
    let (stage, _echo) = with_echo()?;
    let vip = vip(&stage, "fake.test")?;
    let sorting = format!(
        "import socket\n\
         for family, address in [(socket.AF_INET, '{vip}'), (socket.AF_INET6, '::ffff:{vip}')]:\n\
         \x20   socket.socket(family, socket.SOCK_DGRAM).connect((address, 9))\n"
    );
    stage.python(true, &sorting)?;
    assert_eq!(counted(&stage, PORT_NOT_LISTED)?, 0);
    assert_eq!(refusals(&stage)?, Vec::<Value>::new());

    // The same port by TCP is refused, at once, and counted: so the counter above would have moved.
    let refused = format!(
        "import socket\n\
         try:\n\
         \x20   socket.create_connection(('{vip}', 9), 5)\n\
         except ConnectionRefusedError:\n\
         \x20   print('refused')\n"
    );
    assert_eq!(stage.python(true, &refused)?.trim(), "refused");
    assert_eq!(counted(&stage, PORT_NOT_LISTED)?, 1);
    let told = || refusals(&stage).ok().filter(|refusals| refusals.len() == 1);
    let told = poll::until("the refusal's event", Duration::from_secs(5), told)?;
    assert_eq!((told[0]["address"].as_str(), told[0]["port"].as_u64()), (Some(&*vip.to_string()), Some(9)));
    Ok(())
}

/// The events of refused connections that the agent tells of.
fn refusals(stage: &Stage) -> anyhow::Result<Vec<Value>> {
    stage.agent.json("status")?["refusals"].as_array().cloned().context("no refusals in status")
}

#[test]
fn a_host_without_backends_is_refused_at_once() -> anyhow::Result<()> {
    let stage =
        Stage::start(QUIET, &[("none.yaml", &dns_entry("none", "fake.test", Some(("nowhere.test", 9000))))])?;
    let vip = vip(&stage, "fake.test")?;
    let program = format!(
        "import errno, socket, time\n\
         began = time.monotonic()\n\
         code = socket.socket().connect_ex(('{vip}', 80))\n\
         print(errno.errorcode[code], time.monotonic() - began < 0.5)\n"
    );
    assert_eq!(stage.python(true, &program)?.trim(), "EHOSTUNREACH True");
    Ok(())
}

#[test]
fn a_static_entry_needs_no_dns() -> anyhow::Result<()> {
    let text = static_entry("static", "fake.test", &BACKEND.to_string(), 9000);
    let stage = Stage::start(QUIET, &[("static.yaml", &text)])?;
    let echo = Echo::start(&stage.topology.backend, (BACKEND, 9000).into())?;
    assert!(stage.says(true, &["curl", "-s", "http://fake.test/"])?.0);
    assert_eq!(echo.connections(), 1);
    Ok(())
}

#[test]
fn the_dns_reply_comes_from_the_resolver_that_was_asked() -> anyhow::Result<()> {
    let (stage, _echo) = with_echo()?;
    // An unconnected socket, as many resolver libraries use: the reply's sender must be whom it asked.
    let program = format!(
        "import socket, struct\n\
         question = struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + b'\\x04fake\\x04test\\0' + struct.pack('>HH', 1, 1)\n\
         client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         client.settimeout(5)\n\
         client.sendto(question, ('{DNS}', 53))\n\
         answer, sender = client.recvfrom(512)\n\
         print(sender[0], sender[1], socket.inet_ntoa(answer[-4:]))\n"
    );
    let text = stage.python(true, &program)?;
    assert_eq!(text.trim(), format!("{DNS} 53 {}", vip(&stage, "fake.test")?));
    assert_eq!(stage.topology.dns.queries("fake.test"), 0);
    Ok(())
}
