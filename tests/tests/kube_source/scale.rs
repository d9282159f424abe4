//! Five thousand entries.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::agent::{Agent, Flags};
use tests::cgroup;
use tests::cluster::ApiServer;
use tests::netns::Netns;
use tests::poll;
use tests::servers::Process;
use tests::topology::NODE;

use super::{NAME, admin, install_crds};

const ENTRIES: u16 = 5_000;
const PODS: u16 = 200;
/// Of a build without optimisation, on a machine that has other work to do.
const READY: Duration = Duration::from_secs(30);
const MEMORY_KIB: u64 = 200 << 10;

/// Makes objects, many at a time, by a proxy that leaves out what takes kubectl its time.
fn make(netns: &Netns, path: &str, objects: &[Value]) -> anyhow::Result<()> {
    let url = format!("http://127.0.0.1:8001{path}");
    let part = |objects: &[Value]| -> anyhow::Result<()> {
        let client = ureq::Agent::new_with_defaults();
        objects.iter().try_for_each(|object| {
            let body = serde_json::to_string(object)?;
            client.post(&url).content_type("application/json").send(&body).map(drop).context(url.clone())
        })
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = objects
            .chunks(objects.len().div_ceil(8))
            .map(|objects| scope.spawn(move || netns.inside(|| part(objects))?))
            .collect();
        parts.into_iter().try_for_each(|part| part.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
    })
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

fn resident_kib(agent: &mut Agent) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.process().pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS is a number")
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn five_thousand_entries_are_ready_soon_and_take_little_memory() -> anyhow::Result<()> {
    let api = ApiServer::start()?;
    api.netns().ip(&format!("addr add {NODE}/32 dev lo\n"))?;
    install_crds(api.kubectl())?;
    api.kubectl().apply("{apiVersion: v1, kind: Node, metadata: {name: n1}}")?;
    let mut proxy = api.kubectl().command(&["proxy", "--port=8001"]);
    let mut proxy = Process::start(proxy.stdin(Stdio::null()), &api.run().folder()?.join("proxy.log"))?;
    let listens = || {
        let connect = || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, 8001)).is_ok();
        api.netns().inside(connect).unwrap_or(false)
    };
    proxy.ready("the proxy to listen", READY, listens)?;
    let entries: Vec<_> = (1..=ENTRIES).map(entry).collect();
    make(api.netns(), "/apis/networking.istio.io/v1/namespaces/default/serviceentries", &entries)?;
    let pods: Vec<_> = (1..=PODS).map(pod).collect();
    make(api.netns(), "/api/v1/namespaces/default/pods", &pods)?;

    let mut flags = Flags::new(api.run(), &cgroup::make(api.run())?)?;
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
    poll::until("all entries to be served", READY, is_complete)?;
    let resident = resident_kib(&mut agent)?;
    println!(
        "{ENTRIES} entries, {PODS} Pods: ready after {:.1} s with {} MiB",
        took.as_secs_f64(),
        resident >> 10
    );
    assert!(took < READY, "ready after {took:?}");
    assert!(resident < MEMORY_KIB, "{resident} KiB are resident");
    agent.stop()?;
    drop((agent, proxy));
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
