//! Five thousand entries.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::agent::{Agent, Flags, is_release};
use tests::cgroup;
use tests::cluster::{ApiServer, bulk::Bulk};
use tests::poll;
use tests::topology::NODE;

use super::{CRDS, NAME, admin};

const ENTRIES: u16 = 5_000;
const PODS: u16 = 200;
/// How soon the agent is to be ready, and how many bytes may be resident then.
const BAR: Bar = Bar { ready: Duration::from_secs(10), bytes: 100_000_000 };
/// The same for a build without optimisation: the program alone is 45 MB of it.
const DEBUG_BAR: Bar = Bar { ready: Duration::from_secs(30), bytes: 180_000_000 };
/// How long anything else may take.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
struct Bar {
    ready: Duration,
    bytes: u64,
}

/// What a process takes, in bytes.
#[derive(Clone, Copy, Debug)]
struct Memory {
    resident: u64,
    /// Of it, what is not a part of a file.
    anonymous: u64,
}

impl Memory {
    fn of(agent: &mut Agent) -> anyhow::Result<Memory> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", agent.process().pid()))?;
        let bytes = |name: &str| -> anyhow::Result<u64> {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.with_context(|| format!("no {name}"))?.trim().trim_end_matches(" kB");
            Ok(kib.parse::<u64>()? << 10)
        };
        Ok(Memory { resident: bytes("Rss:")?, anonymous: bytes("Anonymous:")? })
    }
}

fn entry(number: u16) -> Value {
    let [high, low] = number.to_be_bytes();
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": { "name": format!("entry-{number}") },
        "spec": {
            "hosts": [format!("host-{number}.test")],
            "ports": [{ "number": 80, "name": "http", "protocol": "HTTP" }, { "number": 443, "name": "tls", "protocol": "TLS" }],
            "addresses": [Ipv4Addr::new(240, 240, high, low)],
            "resolution": "STATIC",
            "endpoints": [{ "address": Ipv4Addr::new(10, 1, high, low) }, { "address": Ipv4Addr::new(10, 2, high, low) }],
        },
    })
}

fn pod(number: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": format!("pod-{number}"), "labels": { "app": "shop" } },
        "spec": { "nodeName": NAME, "containers": [{ "name": "c", "image": "none" }] },
    })
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn five_thousand_entries_are_ready_soon_and_take_little_memory() -> anyhow::Result<()> {
    let api = ApiServer::start()?;
    api.netns().ip(&format!("addr add {NODE}/32 dev lo\n"))?;
    api.kubectl().install_crds(CRDS)?;
    api.kubectl().apply("{apiVersion: v1, kind: Node, metadata: {name: n1}}")?;
    let bulk = Bulk::start(&api)?;
    let entries: Vec<_> = (1..=ENTRIES).map(entry).collect();
    bulk.make("/apis/networking.istio.io/v1/namespaces/default/serviceentries", &entries)?;
    let pods: Vec<_> = (1..=PODS).map(pod).collect();
    bulk.make("/api/v1/namespaces/default/pods", &pods)?;

    let mut flags = Flags::new(api.run(), &cgroup::make(api.run())?)?;
    let bar = if is_release(&flags.program)? { BAR } else { DEBUG_BAR };
    flags.cluster = Some((admin(&api), NAME.to_owned()));
    flags.more.push("--enrol-pods=false".to_owned());
    let began = Instant::now();
    let mut agent = Agent::start_with(api.run(), api.netns(), flags, &[])?;
    let took = began.elapsed();
    let is_complete = || {
        let status = agent.get("/status").ok()?;
        let rows = agent.get("/services").ok()?["services"].as_array().map(Vec::len)?;
        (status["source"]["entries"] == ENTRIES && rows == 2 * usize::from(ENTRIES)).then_some(())
    };
    poll::until("all entries to be served", LIMIT, is_complete)?;
    let memory = Memory::of(&mut agent)?;
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{ENTRIES} entries, {PODS} Pods: ready after {:.1} s with {:.1} MB, {:.1} MB of it anonymous",
        took.as_secs_f64(),
        mb(memory.resident),
        mb(memory.anonymous),
    );
    assert!(took < poll::stretched(bar.ready), "ready after {took:?}");
    assert!(memory.resident < bar.bytes, "{memory:?}");
    agent.stop()?;
    drop((agent, bulk));
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
