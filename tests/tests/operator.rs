//! What an operator asks a running agent: lists, `explain`, `dump`, `trace`.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tests::agent;
use tests::entries::{dns_entry, entry_with_port, static_entry};
use tests::poll;
use tests::servers::Echo;
use tests::stage::Stage;
use tests::topology::{BACKEND, Options};

const QUIET: Options = Options { httpbin: false, ttl_secs: 1, records: &[("backend.test", BACKEND)] };
const LIMIT: Duration = Duration::from_secs(10);

fn fake() -> String {
    dns_entry("fake", "fake.test", Some(("backend.test", 9000)))
}

/// One entry whose backend is resolved.
fn with_one_entry() -> anyhow::Result<Stage> {
    with_entries(&[])
}

fn with_entries(more: &[(&str, &str)]) -> anyhow::Result<Stage> {
    let fake = fake();
    let entries: Vec<_> = std::iter::once(("fake.yaml", fake.as_str())).chain(more.iter().copied()).collect();
    let stage = Stage::start(QUIET, &entries)?;
    explained(&stage, &["fake.test:80"], None)?;
    Ok(stage)
}

/// What `explain` answers as JSON, and its exit code.
fn explain(stage: &Stage, words: &[&str]) -> anyhow::Result<(Option<i32>, Value)> {
    let output = stage.agent.ask(&[&["explain", "-o", "json"], words].concat())?;
    let text = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_slice(&output.stdout).with_context(|| format!("{words:?}: {text}"))?;
    Ok((output.status.code(), json))
}

/// Waits until the cause is this one, and checks what every explanation must be.
fn explained(stage: &Stage, words: &[&str], cause: Option<&str>) -> anyhow::Result<Value> {
    let mut last = Value::Null;
    let told = || {
        let (code, json) = explain(stage, words).ok()?;
        assert_eq!(code, Some(i32::from(json["reachable"] == false)), "{json:#}");
        assert_eq!(json["reachable"].as_bool(), Some(json["cause"].is_null()), "{json:#}");
        last = json;
        (last["cause"]["reason"].as_str() == cause).then(|| last.clone())
    };
    poll::until(&format!("{words:?} to be explained by {cause:?}"), LIMIT, told)
        .with_context(|| format!("{last:#}"))
}

fn message(json: &Value) -> &str {
    json["cause"]["message"].as_str().unwrap_or_default()
}

/// The step of this name.
fn step<'a>(json: &'a Value, name: &str) -> &'a Value {
    json["steps"].as_array().into_iter().flatten().find(|step| step["step"] == name).unwrap_or(&Value::Null)
}

fn warnings(json: &Value) -> Vec<&str> {
    json["warnings"].as_array().into_iter().flatten().filter_map(|w| w["reason"].as_str()).collect()
}

#[test]
fn explain_shows_each_step_of_a_name_that_works() -> anyhow::Result<()> {
    let stage = with_one_entry()?;
    let json = explained(&stage, &["fake.test:80"], None)?;
    assert_eq!(json["target"], "fake.test:80");
    assert_eq!(json["namespace"], "default");
    let steps: Vec<_> = json["steps"].as_array().into_iter().flatten().map(|s| &s["step"]).collect();
    assert_eq!(steps, ["client", "name", "frontend", "service", "backend"], "{json:#}");
    assert_eq!(step(&json, "name")["entry"], "ServiceEntry default/fake");
    assert_eq!(step(&json, "frontend")["scope"], "*");
    assert_eq!(step(&json, "service")["slotCount"], 1);
    let backend = &json["backends"][0];
    assert_eq!((backend["address"].as_str(), backend["port"].as_u64()), (Some("10.244.1.7"), Some(9000)));
    assert_eq!(
        (backend["sharePercent"].as_f64(), backend["source"].as_str()),
        (Some(100.0), Some("backend.test"))
    );
    assert!(backend["ageSecs"].is_u64(), "{backend}");
    assert_eq!(warnings(&json), ["NothingEnrolled"]);

    // By its address the same service is found, with and without the port.
    let vip = step(&json, "frontend")["address"].as_str().context("a virtual address")?;
    for target in [vip.to_owned(), format!("{vip}:80")] {
        let json = explained(&stage, &[&target], None)?;
        assert_eq!(step(&json, "address")["host"], "fake.test", "{json:#}");
        assert_eq!(json["backends"][0]["address"], "10.244.1.7");
    }
    let text = stage.agent.ask(&["explain", "fake.test"])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("10.244.1.7:9000 gets 100 %, from backend.test, resolved "), "{text}");
    assert!(text.contains("fake.test is reachable for clients of default"), "{text}");
    Ok(())
}

#[test]
fn explain_names_the_cause_of_each_entry_that_does_not_work() -> anyhow::Result<()> {
    let with = |text: String, line: &str| text.replace("spec:\n", &format!("spec:\n{line}\n"));
    let hidden =
        with(dns_entry("hidden", "hidden.test", Some(("backend.test", 9000))), "  exportTo: [other]");
    let gone = dns_entry("gone", "gone.test", Some(("nowhere.test", 9000)));
    let none = static_entry("straight", "straight.test", "10.244.1.7", 80).replace("STATIC", "NONE");
    let none = none.split("  endpoints:").next().unwrap_or_default().to_owned();
    let empty = static_entry("empty", "empty.test", "10.244.1.7", 80);
    let empty = empty.split("  endpoints:").next().unwrap_or_default().to_owned();
    let younger =
        with(static_entry("younger", "fake.test", "10.244.1.8", 9000), "  addresses: [203.0.113.9]")
            .replace("number: 80", "number: 81");
    let taken = with(static_entry("one", "one.test", "10.244.1.8", 9000), "  addresses: [203.0.113.7]");
    let taker = with(static_entry("two", "two.test", "10.244.1.8", 9000), "  addresses: [203.0.113.7]");
    let bad = entry_with_port("bad", "bad.test", 70_000);
    let stage = with_entries(&[
        ("hidden.yaml", &hidden),
        ("gone.yaml", &gone),
        ("none.yaml", &none),
        ("empty.yaml", &empty),
        ("younger.yaml", &younger),
        ("one.yaml", &taken),
        ("two.yaml", &taker),
        ("bad.yaml", &bad),
        ("broken.yaml", "kind: ["),
    ])?;
    for (words, cause, says) in [
        (&["unknown.test"][..], "NameUnknown", "1 input could not be read"),
        (&["bad.test"], "Rejected", "ServiceEntry default/bad was rejected: spec.ports[0].number"),
        (&["hidden.test"], "HiddenByExportTo", "ServiceEntry default/hidden is visible to other"),
        (&["gone.test"], "NameNotFound", "nowhere.test does not exist (NXDOMAIN)"),
        (&["straight.test"], "Passthrough", "ServiceEntry default/straight has resolution NONE"),
        (&["empty.test"], "NoEndpoints", "ServiceEntry default/empty has no endpoints"),
        (&["fake.test:81"], "Shadowed", "the older ServiceEntry default/fake decides"),
        (&["fake.test:82"], "PortNotListed", "it has 80/TCP"),
        (&["fake.test:80", "--udp"], "PortNotListed", "80/UDP"),
        (&["fake.test", "--udp"], "PortNotListed", "no UDP port"),
        (&["two.test:80"], "Shadowed", "leads to one.test of the older ServiceEntry default/one"),
        (&["192.0.2.77"], "NotOurs", "192.0.2.77 is no address of a ServiceEntry"),
        (&["203.0.113.7:99"], "PortNotListed", "passed through"),
    ] {
        let json = explained(&stage, words, Some(cause))?;
        assert!(message(&json).contains(says), "{words:?}: `{says}` is not in: {}", message(&json));
    }
    // Whoever may see the hidden entry does.
    explained(&stage, &["hidden.test:80", "--namespace", "other"], None)?;
    let json = explained(&stage, &["fake.test:80"], None)?;
    assert!(warnings(&json).contains(&"Shadowed"), "{json:#}");
    Ok(())
}

#[test]
fn explain_follows_the_resolver() -> anyhow::Result<()> {
    let stage = with_one_entry()?;
    // It is away: what it said last is used, and that is told.
    stage.topology.dns.pause(true)?;
    let stale = || {
        let (code, json) = explain(&stage, &["fake.test:80"]).ok()?;
        let is_told = warnings(&json).contains(&"StaleDns") && json["backends"][0]["stale"] == true;
        (code == Some(0) && is_told).then_some(json)
    };
    poll::until("the address to be stale", Duration::from_secs(40), stale)?;
    // A name that was never answered says why.
    stage.write("late.yaml", &dns_entry("late", "late.test", Some(("late-backend.test", 9000))))?;
    let failed = || {
        let (_, json) = explain(&stage, &["late.test:80"]).ok()?;
        (json["cause"]["reason"] == "ResolverFailed").then_some(json)
    };
    let json = poll::until("the resolver's error", Duration::from_secs(40), failed)?;
    assert!(message(&json).contains("late-backend.test could not be resolved: "), "{json:#}");
    stage.topology.dns.pause(false)?;
    stage.topology.dns.set(&[("backend.test", BACKEND), ("late-backend.test", BACKEND)])?;
    let works = || explain(&stage, &["late.test:80"]).ok().filter(|(code, _)| *code == Some(0));
    poll::until("the name to be resolved", Duration::from_secs(40), works)?;
    Ok(())
}

/// An enrolled client that stays until it is told to go, and its process id.
fn lasting_client(stage: &Stage) -> anyhow::Result<(std::process::Child, u32)> {
    let folder = stage.run.folder()?;
    let (pid, end) = (folder.join("client.pid"), folder.join("client.end"));
    let script = "echo $$ > \"$0\"; until read line < \"$1\"; do sleep 0.05; done 2>/dev/null";
    let words = ["sh", "-c", script, &pid.display().to_string(), &end.display().to_string()];
    let client = stage.client(true, &words).spawn()?;
    let number = || std::fs::read_to_string(&pid).ok()?.trim().parse().ok();
    let number = poll::until("the client's process id", LIMIT, number)?;
    Ok((client, number))
}

fn end_client(stage: &Stage, mut client: std::process::Child) -> anyhow::Result<()> {
    std::fs::write(stage.run.folder()?.join("client.end"), "go\n")?;
    client.wait()?;
    Ok(())
}

#[test]
fn explain_and_workloads_know_who_is_enrolled() -> anyhow::Result<()> {
    let stage = with_one_entry()?;
    let (client, pid) = lasting_client(&stage)?;
    let json = explained(&stage, &["fake.test:80", "--pid", &pid.to_string()], None)?;
    let group = step(&json, "client")["cgroup"].as_str().context("the client's cgroup")?.to_owned();
    assert!(group.starts_with(&stage.cgroup.display().to_string()), "{group}");
    assert_eq!(warnings(&json), Vec::<&str>::new());
    explained(&stage, &["fake.test:80", "--cgroup", &group], None)?;
    let own = std::process::id().to_string();
    let json = explained(&stage, &["fake.test:80", "--pid", &own], Some("NotEnrolled"))?;
    assert!(message(&json).contains("is not enrolled"), "{json:#}");

    let workloads = stage.agent.json("workloads")?;
    let workload = &workloads["workloads"][0];
    assert_eq!(workload["cgroup"], group.as_str(), "{workloads:#}");
    assert_eq!(
        (workload["namespace"].as_str(), workload["exempt"].as_bool()),
        (Some("default"), Some(false))
    );
    assert!(
        workload["id"].is_u64() && workload["level"].is_u64() && workload["dnsPort"].is_u64(),
        "{workload}"
    );
    assert_eq!(step(&explained(&stage, &["fake.test"], None)?, "client")["enrolled"], 1);

    let wrong = stage.agent.ask(&["explain", "fake.test", "--cgroup", "/nowhere"])?;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("/nowhere"), "{wrong:?}");
    end_client(&stage, client)
}

#[test]
fn explain_without_an_agent_ends_with_2() -> anyhow::Result<()> {
    let program = agent::program()?;
    let output =
        Command::new(&program).args(["explain", "a.test", "--admin", "/nowhere/admin.sock"]).output()?;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("start one with `kmesh-se agent`"),
        "{output:?}"
    );
    let output = Command::new(&program).args(["explain", "http://a.test/"]).output()?;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no target: write HOST"), "{output:?}");
    Ok(())
}

#[test]
fn explain_reads_the_kernel_and_not_what_the_agent_believes() -> anyhow::Result<()> {
    let stage = with_one_entry()?;
    let actual = || -> anyhow::Result<(Option<i32>, Value)> {
        let output = stage.agent.ask(&["dump", "actual", "--kernel", "-o", "json"])?;
        Ok((output.status.code(), serde_json::from_slice(&output.stdout)?))
    };
    let (code, json) = actual()?;
    assert_eq!((code, &json["kernel"]["differs"]), (Some(0), &Value::Bool(false)), "{json:#}");

    // Somebody removes every frontend by hand.
    let objects = stage.objects()?;
    let map = objects.map("kmse_frontend")?.to_string();
    for element in objects.dump("kmse_frontend")? {
        let bytes: Vec<_> =
            element["key"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        tests::bpf::bpftool(&[&["map", "delete", "id", &map, "key", "hex"], &*hex(&bytes)].concat())?;
    }
    let json = explained(&stage, &["fake.test:80"], Some("MapsDiffer"))?;
    assert!(message(&json).contains("should be a frontend"), "{json:#}");
    assert_eq!(step(&json, "frontend")["ok"], false);
    let (code, json) = actual()?;
    assert_eq!((code, &json["kernel"]["differs"]), (Some(1), &Value::Bool(true)), "{json:#}");
    let told = json["kernel"]["differences"][0].as_str().unwrap_or_default();
    assert!(told.contains(":80") && told.contains("is missing in the kernel"), "{json:#}");
    Ok(())
}

/// `0xa4` as bpftool prints it, `a4` as it reads it after the word `hex`.
fn hex<'a>(bytes: &[&'a str]) -> Vec<&'a str> {
    bytes.iter().map(|byte| byte.trim_start_matches("0x")).collect()
}

#[test]
fn explain_says_when_a_map_is_full() -> anyhow::Result<()> {
    let fake = fake();
    let small = |flags: &mut tests::agent::Flags| flags.more = vec!["--max-services=1".to_owned()];
    let stage = Stage::start_with(QUIET, &[("fake.yaml", &fake)], small)?;
    stage.write("more.yaml", &static_entry("more", "more.test", "10.244.1.8", 9000))?;
    let json = explained(&stage, &["more.test:80"], Some("MapFull"))?;
    assert!(message(&json).contains("--max-services"), "{json:#}");
    explained(&stage, &["fake.test:80"], None)?;
    Ok(())
}

#[test]
fn backends_and_names_say_where_they_come_from_and_how_old_they_are() -> anyhow::Result<()> {
    let stage = with_one_entry()?;
    let _echo = Echo::start(&stage.topology.backend, (BACKEND, 9000).into())?;
    assert!(stage.says(true, &["curl", "-s", "http://fake.test/"])?.0);
    let backends = stage.agent.json("backends")?;
    let backend = &backends["backends"][0];
    assert_eq!(backend["address"].as_str().map(str::parse::<IpAddr>), Some(Ok(BACKEND)), "{backends:#}");
    assert_eq!((backend["port"].as_u64(), backend["stale"].as_bool()), (Some(9000), Some(false)));
    assert!(backend["ageSecs"].is_u64(), "{backend}");
    let user = &backend["services"][0];
    assert_eq!((user["host"].as_str(), user["servicePort"].as_u64()), (Some("fake.test"), Some(80)));
    assert_eq!((user["weight"].as_u64(), user["sharePercent"].as_f64()), (Some(1), Some(100.0)));
    assert_eq!((user["source"].as_str(), user["serviceConnects"].as_u64()), (Some("backend.test"), Some(1)));
    assert!(user["ageSecs"].is_u64(), "{user}");

    // Another service has the same address, as it is written: that has no age, whatever the name has.
    stage.write("more.yaml", &static_entry("more", "more.test", &BACKEND.to_string(), 9000))?;
    stage.agent.until_serves("more.test", true)?;
    let backends = stage.agent.json("backends")?;
    let users = backends["backends"][0]["services"].as_array().context("a list")?;
    let ages: Vec<_> = users.iter().map(|user| (user["host"].as_str(), user["ageSecs"].is_u64())).collect();
    assert_eq!(ages, [(Some("fake.test"), true), (Some("more.test"), false)], "{backends:#}");

    let names = stage.agent.json("names")?;
    let name = &names["names"][0];
    assert_eq!((name["name"].as_str(), name["scope"].as_str()), (Some("fake.test"), Some("*")), "{names:#}");
    assert_eq!((name["answered"].as_bool(), name["answersV4"].as_bool()), (Some(true), Some(true)));
    assert_eq!((name["entry"].as_str(), name["stale"].as_bool()), (Some("default/fake"), Some(false)));
    assert_eq!(name["resolvedFrom"][0]["name"], "backend.test");
    assert!(name["ageSecs"].is_u64(), "{name}");
    for command in ["backends", "names", "workloads"] {
        let text = stage.agent.ask(&[command])?;
        assert!(text.status.success());
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert!(command == "workloads" || text.contains("fake.test"), "{text}");
    }
    Ok(())
}

#[test]
fn dump_shows_the_state_between_any_two_steps() -> anyhow::Result<()> {
    let stage = with_one_entry()?;
    let dump = |state: &str| -> anyhow::Result<Value> {
        let output = stage.agent.ask(&["dump", state, "-o", "json"])?;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let snapshot = dump("snapshot")?;
    assert_eq!(snapshot["serviceEntries"][0]["hosts"][0], "fake.test", "{snapshot:#}");
    let resolved = dump("resolved")?;
    let name = &resolved["names"][0];
    assert_eq!(
        (name["name"].as_str(), name["addresses"][0].as_str()),
        (Some("backend.test"), Some("10.244.1.7"))
    );
    assert_eq!(
        (&name["usedBy"][0], &name["inUse"][0]),
        (&"fake.test".into(), &"10.244.1.7".into()),
        "{name:#}"
    );
    let (desired, actual) = (dump("desired")?, dump("actual")?);
    for key in ["services", "frontends", "addresses"] {
        assert!(desired[key].as_array().is_some_and(|rows| !rows.is_empty()), "{desired:#}");
        assert_eq!(desired[key], actual[key]);
    }
    assert_eq!(desired["names"][0]["name"], "fake.test");
    assert_eq!(dump("diff")?["operations"], Value::Array(Vec::new()));

    let yaml = stage.agent.ask(&["dump", "snapshot"])?;
    assert!(String::from_utf8_lossy(&yaml.stdout).contains("\nrevision: "), "{yaml:?}");
    let wrong = stage.agent.ask(&["dump", "desired", "--kernel"])?;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("dump actual"), "{wrong:?}");
    Ok(())
}

/// A `trace` that ends by itself after so many lines; clients dial until it has them.
fn traced(stage: &Stage, words: &[&str], url: &str) -> anyhow::Result<Vec<Value>> {
    let flags = stage.agent.flags();
    let mut command = Command::new(&flags.program);
    command.args(["trace", "-o", "json", "--admin"]).arg(&flags.admin).args(words);
    let mut trace = stage.run.own(&mut command).stdout(std::process::Stdio::piped()).spawn()?;
    // It sees what happens once the agent knows of it.
    let ended = || {
        let _ = stage.says(true, &["curl", "-s", "-m", "3", url]);
        trace.try_wait().ok().flatten()
    };
    let status = poll::until(&format!("trace {words:?}"), LIMIT, ended)?;
    assert!(status.success(), "{status}");
    let text = std::io::read_to_string(trace.stdout.take().context("its output")?)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

#[test]
fn trace_shows_connections_and_refusals_as_they_happen() -> anyhow::Result<()> {
    let stage = with_entries(&[("other.yaml", &static_entry("other", "other.test", "10.244.1.7", 9000))])?;
    let _echo = Echo::start(&stage.topology.backend, (BACKEND, 9000).into())?;
    for event in traced(&stage, &["--host", "fake.test", "--count", "2"], "http://fake.test/")? {
        assert_eq!(
            (event["outcome"].as_str(), event["host"].as_str()),
            (Some("connected"), Some("fake.test"))
        );
        assert_eq!(
            (event["entry"].as_str(), event["namespace"].as_str()),
            (Some("default/fake"), Some("default"))
        );
        assert_eq!(
            (event["comm"].as_str(), event["protocol"].as_str()),
            (Some("curl"), Some("TCP")),
            "{event}"
        );
        assert_eq!((event["port"].as_u64(), event["backendPort"].as_u64()), (Some(80), Some(9000)));
        assert_eq!(event["backendAddress"], "10.244.1.7");
        assert!(event["pid"].is_u64() && event["time"].is_string(), "{event}");
    }
    for event in traced(&stage, &["--failures", "--count", "1"], "http://fake.test:81/")? {
        assert_eq!(
            (event["outcome"].as_str(), event["host"].as_str()),
            (Some("portNotListed"), Some("fake.test"))
        );
        assert_eq!((event["port"].as_u64(), &event["backendAddress"]), (Some(81), &Value::Null), "{event}");
    }
    // Once nobody traces, the programs send no more connects.
    let flags = || {
        let config = stage.objects().ok()?.dump("kmse_config").ok()?;
        (config[0]["formatted"]["value"]["flags"] == 0).then_some(())
    };
    poll::until("tracing to end", LIMIT, flags)
}

#[test]
fn exec_refuses_what_is_no_namespace() -> anyhow::Result<()> {
    let stage = with_one_entry()?;
    for namespace in ["../elsewhere", "Shop", ""] {
        let output = stage.agent.ask(&["exec", &format!("--namespace={namespace}"), "--", "true"])?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(&format!("`{namespace}` is not a name of a namespace")), "{told}");
    }
    assert_eq!(stage.end()?, Vec::<String>::new());
    Ok(())
}
