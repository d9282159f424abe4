//! Resolvers that are away.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::agent::{Agent, mentions};
use tests::entries::{dns_entry, static_entry};
use tests::poll;
use tests::servers::Echo;
use tests::sockets::client::Client;
use tests::stage::Stage;
use tests::topology::{BACKEND, DNS, Options};

use crate::{client_program, vips};

const LIMIT: Duration = Duration::from_secs(20);
const RECORDS: Options = Options { httpbin: false, ttl_secs: 1, records: &[("backend.test", BACKEND)] };

fn client(stage: &Stage) -> anyhow::Result<Client> {
    let program = client_program().display().to_string();
    Ok(Client::start(&mut stage.client(true, &[&program]))?)
}

/// What the agent says of the name that it cannot resolve.
fn failing(agent: &Agent) -> anyhow::Result<Option<Value>> {
    let status = agent.get("/status")?;
    let failing = status["resolve"]["failing"].as_array().context("a list")?;
    Ok(failing.iter().find(|row| row["name"] == "backend.test").cloned())
}

#[test]
fn with_dns_dead_at_restart_the_last_addresses_are_served() -> anyhow::Result<()> {
    for (signal, is_saved) in [(Signal::SIGTERM, true), (Signal::SIGKILL, true), (Signal::SIGKILL, false)] {
        let mut stage = Stage::start(RECORDS, &[])?;
        let client = client(&stage)?;
        let _echo = Echo::start(&stage.topology.backend, (BACKEND, 9000).into())?;
        stage.write("fake.yaml", &dns_entry("fake", "fake.test", Some(("backend.test", 9000))))?;
        stage.agent.until_serves("fake.test", true)?;
        anyhow::ensure!(stage.says(true, &["getent", "ahostsv4", "fake.test"])?.0, "it is not answered");
        let resolved = || {
            let services = stage.agent.get("/services").ok()?;
            mentions(&services, &BACKEND.to_string()).then_some(())
        };
        poll::until("the name to be resolved", LIMIT, resolved)?;
        let saved = stage.agent.flags().state.join("addresses.json");
        let saved =
            || std::fs::read_to_string(&saved).is_ok_and(|text| text.contains("backend.test")).then_some(());
        if is_saved && signal == Signal::SIGKILL {
            poll::until("the addresses to be saved", LIMIT, saved)?;
        }
        let vip = vips(&stage.agent)?["fake.test"];
        if signal == Signal::SIGTERM {
            // Answered many times since the addresses changed last.
            let asked = || (stage.topology.dns.queries("backend.test") > 10).then_some(());
            poll::until("the name to be asked for again and again", LIMIT, asked)?;
        }
        stage.topology.dns.pause(true)?;
        let silent = Instant::now();
        stage.agent.process().signal(signal)?;
        stage.agent.process().wait(Duration::from_secs(5))?;
        let is_saved = saved().is_some();
        let connect = || -> anyhow::Result<()> {
            let socket = client.stream(libc::AF_INET)?;
            Ok(socket.connect(vip)?)
        };
        connect().context("without an agent")?;
        stage.resume()?;
        connect().context("with the next agent")?;
        // Until the query has failed, too, and for a while after.
        let known = || failing(&stage.agent).ok().flatten().filter(|row| !row["error"].is_null());
        let row = poll::until("the stale name to be told", LIMIT, known)?;
        if is_saved {
            assert_eq!(row["stale"], true, "{row}");
            let age = row["ageSecs"].as_u64().context("an age")?;
            // It is since the last answer, not since the last change.
            let known_for = if signal == Signal::SIGTERM { 2 } else { 20 };
            assert!(age <= silent.elapsed().as_secs() + known_for, "{row} after {:?}", silent.elapsed());
        }
        let gave_up = || {
            let row = failing(&stage.agent).ok().flatten()?;
            row["error"].as_str().filter(|error| error.contains("did not answer")).map(|_| row.clone())
        };
        let row = poll::until("a query to fail", LIMIT, gave_up)?;
        connect().with_context(|| format!("{signal}, saved {is_saved}: {row}"))?;
        let printed = stage.agent.ask(&["status"])?;
        let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
        assert!(printed.contains("backend.test"), "{printed}");
        println!("{signal}, saved {is_saved}: {row}");
        stage.topology.dns.pause(false)?;
        let recovered = || failing(&stage.agent).ok().filter(Option::is_none);
        poll::until("the name to be resolved again", Duration::from_secs(40), recovered)?;
        connect()?;
    }
    Ok(())
}

/// Asks one name over UDP or TCP; prints the response code and the time.
const ASK: &str = r"
import socket, struct, sys, time
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    for server in SERVERS:
        began = time.monotonic()
        client = socket.socket(socket.AF_INET, kind)
        client.settimeout(20)
        client.connect((server, 53))
        text = struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + b'\5other\4test\0' + struct.pack('>HH', 1, 1)
        client.sendall(text if kind == socket.SOCK_DGRAM else struct.pack('>H', len(text)) + text)
        answer = client.recv(512)
        answer = answer if kind == socket.SOCK_DGRAM else answer[2:] or client.recv(512)
        print(answer[3] & 15, time.monotonic() - began)
";

#[test]
fn nothing_hangs_when_the_source_or_resolver_is_slow() -> anyhow::Result<()> {
    let mut stage = Stage::start(RECORDS, &[])?;
    stage.agent.pause()?;
    // One resolver is silent, and packets to the other vanish.
    stage.topology.dns.pause(true)?;
    stage
        .topology
        .node
        .ip("link add hole type veth peer name end\nlink set end up\naddr add 192.0.2.254/24 dev hole\nlink set hole up\nneigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev hole\n")?;
    stage.write("fake.yaml", &dns_entry("fake", "fake.test", Some(("backend.test", 9000))))?;
    stage.write("static.yaml", &static_entry("static", "static.test", &BACKEND.to_string(), 9000))?;
    // Whoever opens it waits for a writer that never comes.
    nix::unistd::mkfifo(&stage.entries().join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU)?;
    let mut flags = stage.agent.flags().clone();
    flags.more.extend(["--resolver", "192.0.2.1"].map(str::to_owned));
    let began = Instant::now();
    stage.agent = Agent::start(&stage.run, &stage.topology, flags)?;
    let start = began.elapsed();
    let _echo = Echo::start(&stage.topology.backend, (BACKEND, 9000).into())?;
    let client = client(&stage)?;
    client.stream(libc::AF_INET)?.connect(vips(&stage.agent)?["static.test"])?;
    let connected = began.elapsed();
    assert!(connected < Duration::from_secs(8), "{connected:?}");
    let (ok, _) = stage.says(true, &["getent", "ahostsv4", "static.test"])?;
    assert!(ok, "our name is answered");
    let program = ASK.replace("SERVERS", &format!("('{DNS}', '192.0.2.1')"));
    let told = stage.python(true, &program)?;
    println!("healthy after {start:?}, connected after {connected:?}, forwards: {told}");
    assert_eq!(told.lines().count(), 4, "{told}");
    for line in told.lines() {
        let (code, seconds) = line.split_once(' ').context("a code and a time")?;
        assert_eq!(code, "2", "SERVFAIL: {told}");
        assert!(seconds.parse::<f64>()? < 7.0, "{told}");
    }
    let stopping = Instant::now();
    stage.agent.pause()?;
    assert!(stopping.elapsed() < Duration::from_secs(5), "{:?}", stopping.elapsed());
    stage.topology.dns.pause(false)?;
    stage.resume()?;
    let resolved = || failing(&stage.agent).ok().filter(Option::is_none);
    poll::until("the name to be resolved", LIMIT, resolved).with_context(|| stage.agent.log_tail())?;
    Ok(())
}
