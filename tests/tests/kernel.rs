//! What an operator sees with `bpftool`, and what is left when the agent has gone.

use std::collections::BTreeSet;
use std::io::{BufRead as _, Write as _};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::bpf;
use tests::entries::dns_entry;
use tests::poll;
use tests::servers::Echo;
use tests::stage::{Stage, groups_in, settled};
use tests::topology::{BACKEND, Options};

const QUIET: Options = Options { httpbin: false, ttl_secs: 1, records: &[("backend.test", BACKEND)] };

fn with_one_entry() -> anyhow::Result<Stage> {
    Stage::start(QUIET, &[("fake.yaml", &dns_entry("fake", "fake.test", Some(("backend.test", 9000))))])
}

#[test]
fn bpftool_prints_frontends_with_named_fields() -> anyhow::Result<()> {
    let stage = with_one_entry()?;
    let entries = stage.objects()?.dump("kmse_frontend")?;
    assert!(!entries.is_empty());
    for entry in &entries {
        let key = &entry["formatted"]["key"];
        assert_eq!(key["port"], 80, "{entry}");
        assert_eq!(key["proto"], 6, "{entry}");
        assert_eq!(key["scope"], 0, "{entry}");
        assert_eq!(key["addr"].as_array().map(Vec::len), Some(16), "{entry}");
        assert!(entry["formatted"]["value"]["service"].is_u64(), "{entry}");
    }
    let typed = Command::new("bpftool").args(["map", "dump", "name", "kmse_frontend"]).output()?;
    assert!(typed.status.success());
    assert!(String::from_utf8_lossy(&typed.stdout).contains("\"port\": 80"));
    Ok(())
}

#[test]
fn bpftool_lists_the_programs_at_the_cgroup_by_name() -> anyhow::Result<()> {
    let stage = with_one_entry()?;
    let tree = bpf::bpftool(&["cgroup", "tree"])?;
    let group = stage.cgroup.display().to_string();
    let ours = tree.as_array().into_iter().flatten().find(|entry| entry["cgroup"] == group.as_str());
    let programs =
        ours.expect("the cgroup is in the tree")["programs"].as_array().cloned().unwrap_or_default();
    let names: BTreeSet<_> = programs.iter().filter_map(|program| program["name"].as_str()).collect();
    for hook in ["connect", "sendmsg", "recvmsg", "peer"] {
        for family in [4, 6] {
            let name = format!("kmse_{hook}{family}");
            assert!(names.contains(name.as_str()), "no {name} in {names:?}");
        }
    }
    Ok(())
}

#[test]
fn nothing_is_left_after_sigint() -> anyhow::Result<()> {
    let stage = with_one_entry()?;
    assert!(stage.says(true, &["getent", "hosts", "fake.test"])?.0);
    assert_eq!(stage.end()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn nothing_is_left_after_sigkill_and_cleanup() -> anyhow::Result<()> {
    let mut stage = with_one_entry()?;
    let objects = stage.objects()?;
    assert!(objects.programs.len() >= 8, "{objects:?}");
    stage.agent.process().signal(Signal::SIGKILL)?;
    stage.agent.process().wait(Duration::from_secs(5))?;
    let cleaned = stage.agent.cleanup()?;
    assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
    assert_eq!(settled(&objects), Vec::<String>::new());
    assert_eq!(groups_in(&stage.cgroup), Vec::<String>::new());
    assert!(!stage.agent.admin().exists());
    // Not by hand: what is left goes with the run.
    let Stage { agent, topology, run, .. } = stage;
    drop((agent, topology));
    assert_eq!(run.end(), Vec::<String>::new());
    Ok(())
}

#[test]
fn clients_keep_a_resolver_when_the_agent_is_killed() -> anyhow::Result<()> {
    let mut stage = with_one_entry()?;
    // A shell that stays enrolled while the agent dies under it. Queries are captured until two seconds after the last
    // heartbeat, and only later ones have the real resolver for sure.
    let script = "echo enrolled; until read line < \"$0\"; do sleep 0.05; done 2>/dev/null; sleep 2.1; getent hosts backend.test";
    let signal = stage.run.folder()?.join("agent-is-dead");
    let mut client = stage.client(true, &["sh", "-c", script, &signal.display().to_string()]);
    let mut client = client.stdout(std::process::Stdio::piped()).spawn()?;
    let mut lines = std::io::BufReader::new(client.stdout.take().context("stdout")?).lines();
    assert_eq!(lines.next().context("the client ended")??, "enrolled");
    stage.agent.process().signal(Signal::SIGKILL)?;
    stage.agent.process().wait(Duration::from_secs(5))?;
    std::fs::write(&signal, "go\n")?;
    let answer = lines.next().context("the name does not resolve")??;
    assert!(answer.starts_with(&BACKEND.to_string()), "{answer}");
    client.wait()?;
    Ok(())
}

#[test]
fn a_restarted_agent_gives_the_same_address() -> anyhow::Result<()> {
    let mut stage = with_one_entry()?;
    stage.write("before.yaml", &dns_entry("a-before", "before.test", Some(("backend.test", 9000))))?;
    stage.agent.until_serves("before.test", true)?;
    let address = |stage: &Stage| stage.says(true, &["getent", "ahostsv4", "fake.test"]);
    let first = address(&stage)?;
    assert!(first.0);
    stage.restart()?;
    assert_eq!(address(&stage)?, first);
    Ok(())
}

#[test]
fn status_and_services_are_json_an_operator_can_read() -> anyhow::Result<()> {
    let stage = with_one_entry()?;
    assert!(stage.says(true, &["getent", "hosts", "fake.test"])?.0);
    let services = stage.agent.json("services")?;
    let service = &services["services"][0];
    assert_eq!(service["namespace"], "default");
    assert_eq!(service["name"], "fake");
    assert_eq!(service["host"], "fake.test");
    assert_eq!(service["port"], 80);
    assert!(service["vips"].as_array().is_some_and(|vips| !vips.is_empty()), "{services}");
    let backend = || -> Option<Value> {
        let services = stage.agent.json("services").ok()?;
        let backends = services["services"][0]["backends"].as_array()?.clone();
        backends.first().cloned()
    };
    let backend = poll::until("the backend to be resolved", Duration::from_secs(5), backend)?;
    assert_eq!((backend["address"].as_str(), backend["port"].as_u64()), (Some("10.244.1.7"), Some(9000)));
    Ok(())
}

#[test]
fn connections_work_while_no_agent_runs_and_the_next_one_goes_on_with_the_same_ids() -> anyhow::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut stage = with_one_entry()?;
        let _echo = Echo::start(&stage.topology.backend, (BACKEND, 9000).into())?;
        let vip = stage.says(true, &["getent", "ahostsv4", "fake.test"])?.1;
        let vip = vip.split_whitespace().next().context("an address")?.to_owned();
        // Enrolled while the agent dies under it; connects whenever a line comes.
        let program = format!(
            "import socket, sys\n\
             for line in sys.stdin:\n\
             \x20   s = socket.create_connection(('{vip}', 80), timeout=5)\n\
             \x20   print(s.getpeername()[0], flush=True)\n\
             \x20   s.close()\n"
        );
        let python = tests::stage::tools_folder().join("httpbin/bin/python3").display().to_string();
        let mut client = stage.client(true, &[&python, "-c", &program]);
        let mut client =
            client.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn()?;
        let mut asks = client.stdin.take().context("stdin")?;
        let mut answers = std::io::BufReader::new(client.stdout.take().context("stdout")?).lines();
        let mut connect = || -> anyhow::Result<String> {
            asks.write_all(b"connect\n")?;
            Ok(answers.next().context("the client ended")??)
        };
        assert_eq!(connect()?, vip);
        let before = bpftool_frontends(&stage)?;
        stage.agent.process().signal(signal)?;
        stage.agent.process().wait(Duration::from_secs(5))?;
        for _ in 0..20 {
            assert_eq!(connect()?, vip, "without an agent after {signal}");
        }
        stage.resume()?;
        assert_eq!(connect()?, vip, "with the next agent after {signal}");
        assert_eq!(bpftool_frontends(&stage)?, before, "the ids are kept");
        assert_eq!(stage.agent.json("status")?["workloads"], 1, "the client is still enrolled");
        drop(asks);
        client.wait()?;
        assert_eq!(stage.end()?, Vec::<String>::new());
    }
    Ok(())
}

/// The frontend map of this stage's agent, as bpftool prints it.
fn bpftool_frontends(stage: &Stage) -> anyhow::Result<serde_json::Value> {
    let pin = std::fs::read_dir(&stage.agent.flags().pin)?
        .flatten()
        .map(|entry| entry.path().join("kmse_frontend"))
        .find(|path| path.exists())
        .context("no pinned frontend map")?;
    let output =
        std::process::Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(pin).output()?;
    let mut rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)?;
    rows.sort_by_key(|row| row["formatted"]["key"].to_string());
    Ok(rows.into_iter().map(|row| row["formatted"].clone()).collect())
}

#[test]
fn a_closed_socket_leaves_no_row_behind() -> anyhow::Result<()> {
    let stage = with_one_entry()?;
    let text = entries_of_datagrams();
    stage.write("udp.yaml", &text)?;
    stage.agent.until_serves("udp-4.test", true)?;
    // Each peer but the first has a row for each way.
    let rows = || stage.objects().ok()?.dump("kmse_udp").ok().map(|rows| rows.len());
    let program = "import socket, sys\n\
                   client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                   [client.sendto(b'x', (f'10.96.0.{n}', 81)) for n in range(5)]\n\
                   print('sent', flush=True)\n\
                   sys.stdin.readline()\n\
                   client.close()\n";
    let python = tests::stage::tools_folder().join("httpbin/bin/python3").display().to_string();
    let mut client = stage.client(true, &[&python, "-c", program]);
    let mut client = client.stdin(std::process::Stdio::piped()).spawn()?;
    let held = || rows().filter(|rows| *rows == 8);
    poll::until("the rows of four further peers", Duration::from_secs(5), held)?;
    drop(client.stdin.take());
    assert!(client.wait()?.success());
    assert_eq!(rows(), Some(0));
    Ok(())
}

/// Five names with addresses of their own and a UDP port.
fn entries_of_datagrams() -> String {
    let one = |n: u8| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata:\n  name: udp-{n}\n  namespace: default\n\
             spec:\n  hosts:\n  - udp-{n}.test\n  addresses:\n  - 10.96.0.{n}\n  resolution: STATIC\n\
             \x20 ports:\n  - name: udp\n    number: 81\n    protocol: UDP\n\
             \x20 endpoints:\n  - address: 10.244.1.{}\n",
            7 + n
        )
    };
    (0..5).map(one).collect::<Vec<_>>().join("---\n")
}
