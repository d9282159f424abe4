//! Bad input hurts only itself, and a start that cannot work says so in one sentence.

use std::fs::File;
use std::net::UdpSocket;
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::agent::{Agent, Flags};
use tests::clean::Run;
use tests::entries::{entry_with_port, static_entry};
use tests::poll;
use tests::servers::Echo;
use tests::stage::Stage;
use tests::topology::{BACKEND, NODE, Options, Topology};
use tests::{agent, cgroup};

const QUIET: Options = Options { httpbin: false, ttl_secs: 1, records: &[] };

/// The innermost objects or strings of a status that name a file, or the object in it: a message each.
fn messages(status: &Value, file: &str) -> Vec<Value> {
    let file = file.trim_end_matches(".yaml");
    match status {
        Value::String(text) if text.contains(file) => vec![status.clone()],
        Value::Array(items) => items.iter().flat_map(|item| messages(item, file)).collect(),
        Value::Object(fields) => {
            let inner: Vec<_> = fields.values().flat_map(|item| messages(item, file)).collect();
            // An object whose own fields name the file, however often, is one message.
            let own = fields.values().any(|item| item.as_str().is_some_and(|text| text.contains(file)));
            if own { vec![status.clone()] } else { inner }
        }
        _ => Vec::new(),
    }
}

#[test]
fn each_bad_file_is_one_message_and_the_good_one_works() -> anyhow::Result<()> {
    let good = static_entry("good", "good.test", &BACKEND.to_string(), 9000);
    let stage = Stage::start(QUIET, &[("good.yaml", &good)])?;
    Echo::start(&stage.topology.backend, (BACKEND, 9000).into())?;
    let folder = stage.entries();
    let bad = [
        ("bad-syntax.yaml", "kind: [ServiceEntry\n  spec: }".to_owned()),
        (
            "bad-kind.yaml",
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntri\nmetadata:\n  name: x\n".to_owned(),
        ),
        ("bad-port.yaml", entry_with_port("bad-port", "port.test", 70_000)),
        ("bad-empty.yaml", String::new()),
    ];
    for (name, text) in &bad {
        stage.write(name, text)?;
    }
    std::fs::create_dir(folder.join("bad-folder.yaml"))?;
    nix::unistd::mkfifo(&folder.join("bad-fifo.yaml"), nix::sys::stat::Mode::S_IRWXU)?;
    File::create(folder.join("bad-huge.yaml"))?.set_len(50 * 1024 * 1024)?;

    let names: Vec<_> = bad
        .iter()
        .map(|(name, _)| *name)
        .chain(["bad-folder.yaml", "bad-fifo.yaml", "bad-huge.yaml"])
        .collect();
    let told = || {
        let status = stage.agent.json("status").ok()?;
        names.iter().all(|name| !messages(&status, name).is_empty()).then_some(())
    };
    let limit = Duration::from_secs(10);
    if let Err(error) = poll::until("a message about each bad file", limit, told) {
        let status = stage.agent.json("status")?;
        let silent: Vec<_> = names.iter().filter(|name| messages(&status, name).is_empty()).collect();
        anyhow::bail!("{error}; none about {silent:?}: {status:#}");
    }
    let status = stage.agent.json("status")?;
    for name in names {
        assert_eq!(messages(&status, name).len(), 1, "{name}: {:#?}", messages(&status, name));
    }
    assert!(stage.says(true, &["curl", "-s", "http://good.test/"])?.0);

    // A file that is made good is no longer complained about, and works.
    stage.write("bad-syntax.yaml", &static_entry("mended", "mended.test", &BACKEND.to_string(), 9000))?;
    stage.agent.until_serves("mended.test", true)?;
    assert_eq!(messages(&stage.agent.json("status")?, "bad-syntax.yaml"), Vec::<Value>::new());
    assert!(stage.says(true, &["curl", "-s", "http://mended.test/"])?.0);
    Ok(())
}

/// The node without an agent, and the flags that one would have.
fn without_agent() -> anyhow::Result<(Topology, Flags, Run)> {
    let run = Run::begin()?;
    let group = cgroup::make(&run)?;
    let flags = Flags::new(&run, &group)?;
    Ok((Topology::start(&run, QUIET)?, flags, run))
}

/// It ended with 2, and what it wrote besides its log is one line that names all of `words`.
fn assert_refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    let lines: Vec<_> =
        text.lines().filter(|line| !line.trim().is_empty() && !line.contains(" INFO ")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    for word in words {
        assert!(text.to_lowercase().contains(&word.to_lowercase()), "`{word}` is not in: {text}");
    }
}

/// Nothing is left of a start that did not succeed.
fn assert_nothing_left(flags: &Flags) {
    assert!(!flags.pin.exists(), "pins are left");
    assert!(!flags.admin.exists(), "a socket is left");
}

/// Runs to its end, or for 10 seconds: an agent that starts after all must not hold up the test.
fn run(command: &mut Command) -> anyhow::Result<Output> {
    poll::output_within(Duration::from_secs(10), command)
}

#[test]
fn without_capabilities_it_says_which_are_missing() -> anyhow::Result<()> {
    let (topology, flags, _run) = without_agent()?;
    let mut command = topology.node.command("setpriv");
    command.arg("--bounding-set=-bpf,-sys_admin").arg(&flags.program).args(flags.arguments());
    assert_refused(&run(&mut command)?, &["CAP_BPF", "root"]);
    assert_nothing_left(&flags);
    Ok(())
}

#[test]
fn without_cgroup2_it_says_how_to_mount_it() -> anyhow::Result<()> {
    let (topology, flags, _run) = without_agent()?;
    let mut command = topology.node.command("unshare");
    // In a mount namespace of its own.
    command.args(["--mount", "sh", "-c", "umount -R /sys/fs/cgroup && exec \"$@\"", "sh"]);
    command.arg(&flags.program).args(flags.arguments());
    assert_refused(&run(&mut command)?, &["no cgroup2", "mount -t cgroup2"]);
    assert_nothing_left(&flags);
    Ok(())
}

#[test]
fn a_stop_that_comes_during_the_start_waits_and_leaves_nothing() -> anyhow::Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (topology, flags, run) = without_agent()?;
        let mut agent = Agent::spawn(&run, &topology.node, flags.clone(), &[])?;
        let begun = || agent.log_tail().contains("dns listens").then_some(());
        poll::until("the agent to begin", Duration::from_secs(10), begun)?;
        agent.process().signal(signal)?;
        let status = agent.process().wait(Duration::from_secs(20))?;
        assert!(status.success(), "{signal}: {status}\n{}", agent.log_tail());
        // What SIGTERM leaves, if the programs were attached by then, is whole.
        if signal == Signal::SIGTERM {
            assert!(agent.cleanup()?.status.success());
        }
        assert_nothing_left(&flags);
    }
    Ok(())
}

#[test]
fn a_path_that_is_no_cgroup_is_refused() -> anyhow::Result<()> {
    let (topology, mut flags, run_) = without_agent()?;
    flags.attach = run_.folder()?;
    let path = flags.attach.display().to_string();
    assert_refused(
        &run(topology.node.command(&flags.program).args(flags.arguments()))?,
        &[&path, "cgroup", "--attach"],
    );
    flags.attach = flags.attach.join("nowhere");
    assert_refused(
        &run(topology.node.command(&flags.program).args(flags.arguments()))?,
        &["nowhere", "cgroup"],
    );
    Ok(())
}

#[test]
fn a_port_in_use_is_named() -> anyhow::Result<()> {
    let (topology, flags, _run) = without_agent()?;
    let _taken = topology.node.inside(|| UdpSocket::bind((NODE, 15053)))??;
    let output = run(topology.node.command(&flags.program).args(flags.arguments()))?;
    assert_refused(&output, &["10.244.1.1", "15053", "in use", "--dns-listen"]);
    assert_nothing_left(&flags);
    // It had attached nothing, or detached it.
    let objects = tests::bpf::Objects::of(&flags.attach)?;
    assert_eq!(objects, tests::bpf::Objects::default());
    Ok(())
}

#[test]
fn a_folder_that_is_not_there_is_named() -> anyhow::Result<()> {
    let (topology, mut flags, _run) = without_agent()?;
    flags.source = flags.source.join("nowhere");
    let output = run(topology.node.command(&flags.program).args(flags.arguments()))?;
    assert_refused(&output, &["nowhere"]);
    assert_nothing_left(&flags);
    Ok(())
}

#[test]
fn asking_an_agent_that_is_not_there_ends_with_2() -> anyhow::Result<()> {
    let mut status = Command::new(agent::program()?);
    let output = poll::output(status.args(["status", "--admin", "/nowhere/admin.sock"]))?;
    assert_refused(&output, &["/nowhere/admin.sock"]);
    Ok(())
}
