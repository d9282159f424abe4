//! Names below a DYNAMIC_DNS wildcard, from the first client that asks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use tests::agent::mentions;
use tests::poll;
use tests::servers::Echo;
use tests::stage::Stage;
use tests::topology::{BACKEND, BACKEND_2, DNS, Options, v6};

const LIMIT: Duration = Duration::from_secs(20);

const QUIET: Options = Options {
    httpbin: false,
    ttl_secs: 1,
    records: &[("a.lazy.test", BACKEND), ("b.lazy.test", BACKEND), ("c.lazy.test", BACKEND_2)],
};

/// Plain HTTP to the same port, and TLS to another one.
const WILDCARD: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: lazy}\n\
    spec:\n  hosts: ['*.lazy.test']\n  resolution: DYNAMIC_DNS\n  ports:\n\
    \x20 - {number: 8080, name: http, protocol: HTTP}\n\
    \x20 - {number: 443, name: tls, protocol: TLS, targetPort: 8443}\n";

fn stage(more: &[&str]) -> anyhow::Result<Stage> {
    let stage = Stage::start_with(QUIET, &[("lazy.yaml", WILDCARD)], |flags| {
        flags.more.extend(more.iter().map(|word| (*word).to_owned()));
    })?;
    for address in [BACKEND, v6(BACKEND), BACKEND_2] {
        for port in [8080, 8443] {
            Echo::start(&stage.topology.backend, (address, port).into())?;
        }
    }
    Ok(stage)
}

/// The IPv4 addresses that a client is answered, by the name service of its C library.
fn addresses(stage: &Stage, name: &str) -> anyhow::Result<Vec<String>> {
    let (_, text) = stage.says(true, &["getent", "ahostsv4", name])?;
    let stream = text.lines().filter(|line| line.contains("STREAM"));
    Ok(stream.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

fn vip(stage: &Stage, name: &str) -> anyhow::Result<String> {
    addresses(stage, name)?.pop().with_context(|| format!("{name} has no address"))
}

/// What the server says which a client reaches: its own address.
fn reached(stage: &Stage, name: &str, port: u16) -> anyhow::Result<String> {
    let (_, text) = stage.says(true, &["curl", "-s", "-m", "10", &format!("http://{name}:{port}/")])?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

fn dig(stage: &Stage, words: &[&str]) -> anyhow::Result<String> {
    let text = stage.says(true, &[&["dig", &format!("@{DNS}"), "+tries=1", "+time=8"], words].concat())?.1;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn is_in_use(stage: &Stage, name: &str) -> anyhow::Result<bool> {
    let names = stage.agent.json("names")?;
    Ok(names["names"].as_array().into_iter().flatten().any(|row| row["name"] == *name))
}

#[test]
fn a_name_that_nobody_wrote_is_reached_at_the_first_try_by_an_address_of_its_own() -> anyhow::Result<()> {
    let stage = stage(&[])?;
    assert_eq!(stage.topology.dns.queries("a.lazy.test"), 0, "nobody has asked");
    assert_eq!(reached(&stage, "a.lazy.test", 8080)?, SocketAddr::new(BACKEND, 8080).to_string());
    assert_eq!(reached(&stage, "A.Lazy.test", 443)?, SocketAddr::new(BACKEND, 8443).to_string());
    assert_eq!(reached(&stage, "b.lazy.test", 8080)?, SocketAddr::new(BACKEND, 8080).to_string());
    let (a, b) = (vip(&stage, "a.lazy.test")?, vip(&stage, "b.lazy.test")?);
    assert!(a.starts_with("240.241.") && b.starts_with("240.241.") && a != b, "{a} {b}");

    // One backend, and each client sees the name that it dialled.
    let told = stage.python(
        true,
        "import socket\n\
         for name in ['a.lazy.test', 'b.lazy.test']:\n\
         \x20   with socket.create_connection((name, 8080)) as client: print(client.getpeername()[0])\n\
         try: socket.create_connection(('a.lazy.test', 81), 5)\n\
         except ConnectionRefusedError: print('refused')\n",
    )?;
    assert_eq!(told, format!("{a}\n{b}\nrefused\n"));

    // curl asks for addresses and nothing else, so the resolver says nothing that could lead past the entry.
    let log = std::fs::read_to_string(stage.run.folder()?.join("dns.log"))?;
    assert!(!log.contains("query[HTTPS]") && !log.contains("query[type=65]"), "{log}");

    // A search domain in between, and a resolver that talks TCP.
    let told = dig(&stage, &["c.lazy.test.default.svc.cluster.local", "A", "+tcp", "+noall", "+answer"])?;
    let c = vip(&stage, "c.lazy.test")?;
    assert!(
        told.contains("IN CNAME c.lazy.test.") && told.contains(&format!("c.lazy.test. 30 IN A {c}")),
        "{told}"
    );
    assert_eq!(reached(&stage, "c.lazy.test", 8080)?, SocketAddr::new(BACKEND_2, 8080).to_string());

    // What is not there is not made up, and does not take an address.
    let told = dig(&stage, &["d.lazy.test", "A"])?;
    assert!(told.contains("status: NXDOMAIN"), "{told}");
    assert!(!is_in_use(&stage, "d.lazy.test")?);
    let explained = stage.agent.ask(&["explain", "a.lazy.test:443"])?;
    let text = String::from_utf8_lossy(&explained.stdout);
    assert!(explained.status.success() && text.contains(&a) && text.contains("default/lazy"), "{text}");
    let explained = stage.agent.ask(&["explain", "d.lazy.test"])?;
    assert!(String::from_utf8_lossy(&explained.stdout).contains("NamesOnDemand"), "{explained:?}");
    Ok(())
}

#[test]
fn a_name_follows_its_records_and_is_answered_in_the_families_that_it_has() -> anyhow::Result<()> {
    let stage = stage(&[])?;
    assert!(dig(&stage, &["a.lazy.test", "A", "+short"])?.starts_with("240.241."));
    let told = dig(&stage, &["a.lazy.test", "AAAA"])?;
    assert!(told.contains("status: NOERROR") && told.contains("ANSWER: 0, AUTHORITY: 1"), "{told}");
    stage.topology.dns.set(&[
        ("a.lazy.test", BACKEND_2),
        ("six.lazy.test", v6(BACKEND)),
        ("two.lazy.test", BACKEND),
        ("two.lazy.test", v6(BACKEND)),
    ])?;
    let moved = || {
        let reached = reached(&stage, "a.lazy.test", 8080).ok()?;
        (reached == SocketAddr::new(BACKEND_2, 8080).to_string()).then_some(())
    };
    poll::until("connections to go to the new address", LIMIT, moved)?;
    assert!(dig(&stage, &["six.lazy.test", "AAAA", "+short"])?.starts_with("100::"));
    assert_eq!(dig(&stage, &["six.lazy.test", "A", "+short"])?, "");
    assert_eq!(reached(&stage, "six.lazy.test", 8080)?, SocketAddr::new(v6(BACKEND), 8080).to_string());
    // Whichever is asked for first, both families are known then.
    assert!(dig(&stage, &["two.lazy.test", "A", "+short"])?.starts_with("240.241."));
    assert!(dig(&stage, &["two.lazy.test", "AAAA", "+short"])?.starts_with("100::"));
    // A name that loses its records is the resolver's again.
    stage.topology.dns.set(&[("two.lazy.test", BACKEND)])?;
    let gone = || dig(&stage, &["six.lazy.test", "AAAA"]).ok()?.contains("status: NXDOMAIN").then_some(());
    poll::until("the name to be gone", LIMIT, gone)
}

#[test]
fn a_slow_resolver_is_waited_for_briefly_and_nobody_is_sent_past_the_entry() -> anyhow::Result<()> {
    let stage = stage(&[])?;
    let a = vip(&stage, "a.lazy.test")?;
    stage.topology.dns.pause(true)?;
    let asked = Instant::now();
    let told = dig(&stage, &["b.lazy.test", "A"])?;
    assert!(told.contains("status: SERVFAIL"), "{told}");
    assert!((1..5).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
    assert_eq!(vip(&stage, "a.lazy.test")?, a, "a name that is known does not wait");
    stage.topology.dns.pause(false)?;
    let answered = || vip(&stage, "b.lazy.test").ok().filter(|vip| vip.starts_with("240.241."));
    poll::until("the name to be answered", LIMIT, answered)?;
    let status = stage.agent.json("status")?;
    assert!(status["dns"]["queries"]["tooSlow"].as_u64() >= Some(1), "{status}");
    Ok(())
}

#[test]
fn names_beyond_the_quota_are_the_resolvers_and_status_names_the_flag() -> anyhow::Result<()> {
    let stage = stage(&["--dynamic-names", "1"])?;
    let a = vip(&stage, "a.lazy.test")?;
    assert!(a.starts_with("240.241."));
    assert_eq!(addresses(&stage, "b.lazy.test")?, [BACKEND.to_string()]);
    assert_eq!(reached(&stage, "b.lazy.test", 8080)?, SocketAddr::new(BACKEND, 8080).to_string());
    assert_eq!(vip(&stage, "a.lazy.test")?, a);
    let output = stage.agent.ask(&["status", "-o", "json"])?;
    let status: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(status["failures"][0]["reason"], "TooManyNames", "{status}");
    assert_eq!(status["failures"][0]["host"], "*.lazy.test");
    assert!(mentions(&status["failures"], "--dynamic-names"), "{status}");

    // Another client of the same namespace has a quota of its own.
    stage.topology.sleep.ip("addr add 10.244.1.66/24 dev eth0\n")?;
    let told = dig(&stage, &["b.lazy.test", "A", "+short", "-b", "10.244.1.66"])?;
    assert!(told.starts_with("240.241."), "{told}");
    Ok(())
}

#[test]
fn an_unused_name_is_forgotten_and_one_with_connections_is_not() -> anyhow::Result<()> {
    let stage = stage(&["--dynamic-idle", "4"])?;
    let (a, b) = (vip(&stage, "a.lazy.test")?, vip(&stage, "b.lazy.test")?);
    // The client has its address cached and only connects.
    let url = format!("http://{a}:8080/");
    let forgotten = || {
        let (connects, _) = stage.says(true, &["curl", "-sf", "-m", "5", &url]).ok()?;
        assert!(connects, "a connection failed while the name is in use");
        (!is_in_use(&stage, "b.lazy.test").ok()?).then_some(())
    };
    poll::until("the unused name to be forgotten", LIMIT, forgotten)?;
    assert!(is_in_use(&stage, "a.lazy.test")?);
    assert!(!mentions(&stage.agent.json("services")?, &b));
    assert!(!mentions(&stage.agent.json("status")?["resolve"], "b.lazy.test"));
    // It comes back, at an address that nobody has in his cache.
    let again = vip(&stage, "b.lazy.test")?;
    assert!(again.starts_with("240.241.") && again != b, "{again}");
    Ok(())
}

#[test]
fn names_in_use_keep_their_addresses_over_a_restart_without_dns_and_a_takeover() -> anyhow::Result<()> {
    let mut stage = stage(&[])?;
    let (a, b) = (vip(&stage, "a.lazy.test")?, vip(&stage, "b.lazy.test")?);
    stage.topology.dns.pause(true)?;
    stage.restart()?;
    assert_eq!((vip(&stage, "a.lazy.test")?, vip(&stage, "b.lazy.test")?), (a.clone(), b.clone()));
    assert_eq!(reached(&stage, "a.lazy.test", 8080)?, SocketAddr::new(BACKEND, 8080).to_string());
    stage.topology.dns.pause(false)?;
    stage.take_over()?;
    assert_eq!((vip(&stage, "b.lazy.test")?, vip(&stage, "a.lazy.test")?), (b, a));
    let c = vip(&stage, "c.lazy.test")?;
    assert!(c.starts_with("240.241."), "{c}");
    // The wildcard goes, and all of its names.
    stage.remove("lazy.yaml")?;
    stage.agent.until_serves("lazy.test", false)?;
    assert_eq!(addresses(&stage, "a.lazy.test")?, [BACKEND.to_string()]);
    let left = stage.end()?;
    assert_eq!(left, Vec::<String>::new());
    Ok(())
}

#[test]
fn plan_and_query_show_names_of_the_hosts_file() -> anyhow::Result<()> {
    let folder = tests::clean::Run::begin()?;
    let path = |name: &str| anyhow::Ok(folder.folder()?.join(name).display().to_string());
    std::fs::write(path("lazy.yaml")?, WILDCARD)?;
    std::fs::write(path("hosts")?, "10.0.0.1 a.lazy.test b.lazy.test other.test\nfd00::1 b.lazy.test\n")?;
    let (entry, hosts) = (path("lazy.yaml")?, path("hosts")?);
    let run = |words: &[&str]| -> anyhow::Result<(Option<i32>, Value)> {
        let output = std::process::Command::new(tests::agent::program()?)
            .args(words)
            .args(["--hosts", &hosts, "-o", "json"])
            .output()?;
        Ok((output.status.code(), serde_json::from_slice(&output.stdout)?))
    };
    let (code, plan) = run(&["plan", &entry])?;
    assert_eq!(code, Some(0));
    let rows: Vec<_> = plan["services"].as_array().context("a list")?.iter().collect();
    let hosts: Vec<_> = rows.iter().map(|row| row["host"].as_str().unwrap_or_default()).collect();
    assert_eq!(hosts, ["*.lazy.test", "a.lazy.test", "b.lazy.test"]);
    assert!(rows.iter().all(|row| row["ports"][0]["mode"] == "balance"), "{plan}");
    assert_eq!(rows[0]["conditions"][1]["reason"], "NamesOnDemand", "{plan}");
    assert_eq!(rows[1]["vips"], serde_json::json!(["240.241.0.1", "100::1"]));
    assert_eq!(rows[2]["ports"][1]["backends"][1]["port"], 8443);
    assert_eq!(plan["names"][1]["name"], "b.lazy.test");

    let (code, answer) = run(&["query", "-f", &entry, "b.lazy.test", "AAAA"])?;
    assert_eq!((code, &answer["answers"][0]["data"]), (Some(0), &Value::from("100::2")));
    let (code, answer) = run(&["query", "-f", &entry, "a.lazy.test.default.svc.cluster.local"])?;
    assert_eq!((code, &answer["answers"][1]["data"]), (Some(0), &Value::from("240.241.0.1")));
    assert_eq!(answer["answers"][0]["type"], "CNAME");
    let (code, answer) = run(&["query", "-f", &entry, "c.lazy.test"])?;
    assert_eq!((code, &answer["forwarded"]), (Some(1), &Value::from(true)));
    Ok(())
}

#[test]
fn ranges_that_overlap_are_refused() -> anyhow::Result<()> {
    let words = ["agent", "--source", "file:/nonexistent", "--dynamic-v4", "240.240.0.0/17"];
    let output = poll::output(std::process::Command::new(tests::agent::program()?).args(words))?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("--dynamic-v4 240.240.0.0/17 overlap"), "{text}");
    Ok(())
}
