//! What a supervisor asks: `/healthz`, `/readyz`, and two agents of which one lingers.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use tests::agent::Agent;
use tests::entries::dns_entry;
use tests::poll;
use tests::servers::Process;
use tests::stage::Stage;
use tests::topology::{BACKEND, NODE, Options};

const QUIET: Options = Options { httpbin: false, ttl_secs: 1, records: &[("backend.test", BACKEND)] };
/// Longer than a lingering agent needs to see that nobody serves.
const LIMIT: Duration = Duration::from_secs(30);

fn entry() -> String {
    dns_entry("fake", "fake.test", Some(("backend.test", 9000)))
}

/// The answer of `kmesh-se probe`: its exit status, and what it prints.
fn probe(mut command: Command, question: &str, health: &str) -> anyhow::Result<(Option<i32>, String)> {
    let Output { status, stdout, stderr } =
        poll::output(command.args(["probe", question, "--health", health]))?;
    let text = if stdout.is_empty() { stderr } else { stdout };
    Ok((status.code(), String::from_utf8_lossy(&text).trim().to_owned()))
}

fn at(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}

#[test]
fn an_agent_says_over_tcp_whether_it_is_alive_and_ready() -> anyhow::Result<()> {
    let address = format!("{NODE}:15021");
    let mut stage = Stage::start_with(QUIET, &[("fake.yaml", &entry())], |flags| {
        flags.more.extend(["--health".to_owned(), address.clone()]);
    })?;
    let kmesh = || stage.topology.node.command(&stage.agent.flags().program);
    let ok = (Some(0), "ok".to_owned());
    assert_eq!(probe(kmesh(), "healthz", &address)?, ok);
    assert_eq!(probe(kmesh(), "readyz", &address)?, ok);
    // What supervisors see that speak HTTP themselves.
    let mut curl = stage.topology.node.command("curl");
    curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{address}/readyz")]);
    assert_eq!(String::from_utf8(poll::output(&mut curl)?.stdout)?, "200");

    let kmesh = stage.topology.node.command(&stage.agent.flags().program);
    stage.agent.pause()?;
    let (code, text) = probe(kmesh, "healthz", &address)?;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains(&address), "{text}");
    stage.resume()
}

#[test]
fn an_agent_lingers_after_another_took_over_until_a_signal_or_until_nobody_serves() -> anyhow::Result<()> {
    let mut stage = Stage::start(QUIET, &[("fake.yaml", &entry())])?;
    let folder = stage.run.folder()?;
    let sockets: Vec<PathBuf> = (0..3).map(|number| folder.join(format!("health-{number}.sock"))).collect();
    let program = stage.agent.flags().program.clone();
    let ask = |question, number: usize| probe(Command::new(&program), question, &at(&sockets[number]));
    let next = |stage: &mut Stage, number: usize| {
        let health = at(&sockets[number]);
        let words = ["--takeover", "--linger", "--health", &health];
        let flags = stage.agent.flags().clone();
        let new = Agent::start_with(&stage.run, &stage.topology.node, flags, &words)?;
        anyhow::Ok(std::mem::replace(&mut stage.agent, new))
    };
    next(&mut stage, 0)?.process().wait(LIMIT)?;

    // A signal ends the one that lingers; the one that serves does not notice.
    let mut old = next(&mut stage, 1)?;
    let left = (Some(1), "another agent has taken over and serves".to_owned());
    poll::until("the old agent to say so", LIMIT, || (ask("readyz", 0).ok()? == left).then_some(()))?;
    assert_eq!(ask("healthz", 0)?, (Some(0), "ok".to_owned()));
    assert_eq!(ask("readyz", 1)?, (Some(0), "ok".to_owned()));
    assert_eq!(old.process().ended(), None);
    old.pause()?;
    assert!(!sockets[0].exists());
    stage.agent.until_serves("fake.test", true)?;

    // When the one that serves dies, the one that lingers ends, to be started again.
    let mut old = next(&mut stage, 2)?;
    poll::until("the old agent to say so", LIMIT, || (ask("readyz", 1).ok()? == left).then_some(()))?;
    stage.agent.process().signal(Signal::SIGKILL)?;
    let status = old.process().wait(LIMIT)?;
    assert!(status.success(), "{status}: {}", old.log_tail());
    assert!(old.log_tail().contains("no agent serves any more"), "{}", old.log_tail());
    stage.resume()?;
    stage.agent.until_serves("fake.test", true)?;
    assert_eq!(stage.end()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn an_agent_that_waits_for_its_api_server_is_alive_and_not_ready() -> anyhow::Result<()> {
    let stage = Stage::start(QUIET, &[("fake.yaml", &entry())])?;
    let folder = stage.run.folder()?;
    let kubeconfig = folder.join("nobody.kubeconfig");
    // Port 1, where nobody listens.
    let config = "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                  users: [{name: u, user: {}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n\
                  current-context: x\n";
    std::fs::write(&kubeconfig, config)?;
    let (kmesh, health) = (stage.agent.flags().program.clone(), at(&folder.join("waits.sock")));
    let mut command = stage.topology.node.command(&kmesh);
    let path = |name: &str| folder.join(name).display().to_string();
    command.args([
        "agent",
        "--source",
        "kube",
        "--node",
        "n1",
        "--kubeconfig",
        &kubeconfig.display().to_string(),
    ]);
    command.args(["--attach", &stage.agent.flags().attach.display().to_string(), "--health", &health]);
    command.args([
        "--state",
        &path("waits"),
        "--admin",
        &path("waits-admin.sock"),
        "--pin",
        &path("waits-pin"),
    ]);
    let mut waits = Process::start(stage.run.own(&mut command), &folder.join("waits.log"))?;
    let ask = |question| probe(Command::new(&kmesh), question, &health);
    let is_told = || {
        let (code, text) = ask("readyz").ok()?;
        (code == Some(1) && text.contains("waiting for the API server")).then_some(())
    };
    poll::until("the agent to say that it waits", LIMIT, is_told).with_context(|| waits.output())?;
    assert_eq!(ask("healthz")?, (Some(0), "ok".to_owned()));
    // It has made nothing yet, so it ends at once.
    waits.signal(Signal::SIGTERM)?;
    let status = waits.wait(LIMIT)?;
    assert!(status.success(), "{status}: {}", waits.output());
    drop(waits);
    assert_eq!(stage.end()?, Vec::<String>::new());
    Ok(())
}
