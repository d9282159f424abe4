//! `kill -9` of the agent.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::agent::{Agent, program};
use tests::sockets::hammer::Hammer;
use tests::stage::Stage;
use tests::topology::{BACKEND, Options};
use tests::{is_long, poll};

use crate::{Changing, arena, figures};

const LIMIT: Duration = Duration::from_secs(20);
/// From then on after the last heartbeat, sockets are not captured.
const HEARTBEAT_MAX: Duration = Duration::from_secs(2);

fn kill(agent: &mut Agent) -> anyhow::Result<()> {
    agent.process().signal(Signal::SIGKILL)?;
    agent.process().wait(Duration::from_secs(5))?;
    Ok(())
}

/// What the frontends in the kernel lead to, with ids.
fn frontends(agent: &Agent) -> anyhow::Result<BTreeMap<String, String>> {
    let dump = agent.get("/dump/actual?kernel=true")?;
    let rows = dump["kernel"]["frontends"].as_array().context("a list of frontends")?;
    let row = |row: &Value| {
        let key = format!("{} {} {} {}", row["scopeId"], row["address"], row["port"], row["protocol"]);
        (key, format!("{} {}", row["serviceId"], row["service"]))
    };
    Ok(rows.iter().map(row).collect())
}

/// Where the kernel's maps differ from the desired state.
fn differences(agent: &Agent) -> anyhow::Result<Vec<Value>> {
    let diff = agent.get("/dump/diff?kernel=false")?["operations"].as_array().cloned();
    let kernel = agent.get("/dump/actual?kernel=true")?["kernel"]["differences"].as_array().cloned();
    Ok([diff.context("a list of operations")?, kernel.context("a list of differences")?].concat())
}

#[test]
fn kill_9_at_random_moments_fails_no_connect() -> anyhow::Result<()> {
    let changing = Changing { services: 300, kept: 1 };
    let mut arena = arena(&changing.text(0), &[])?;
    let (dialled, program) = (changing.dialled(&arena.agent)?, program()?);
    let (probe, ids) = (arena.client(true)?, frontends(&arena.agent)?);
    let some = [dialled[0], dialled[changing.services / 2], dialled[changing.services - 1]];
    let hammer = Hammer::start(arena.client(true)?, dialled.clone(), 2, arena.run.folder()?.join("stop"))?;
    let kills = std::env::var("KMSE_KILLS").ok().and_then(|number| number.parse().ok());
    let kills = kills.unwrap_or(if is_long() { 50 } else { 10 });
    let mut within_a_change = 0;
    for generation in 1..=kills {
        arena.put("entries.yaml", &changing.text(generation))?;
        let is_new = |backend: &std::net::SocketAddr| {
            changing.owner(backend.ip()).is_some_and(|(of, _)| of == generation)
        };
        if generation % 2 == 0 {
            let random = RandomState::new().build_hasher().finish() % 800;
            std::thread::sleep(Duration::from_millis(random));
        } else {
            // As soon as a part of the change is in place.
            let begun = || probe.which(&some).ok().filter(|backends| backends.iter().any(is_new));
            poll::until("the change to begin", LIMIT, begun)?;
        }
        kill(&mut arena.agent)?;
        let reached = probe.which(&dialled)?;
        let new = reached.iter().filter(|backend| is_new(backend)).count();
        within_a_change += usize::from(new > 0 && new < changing.services);
        arena.resume(&program)?;
        let applied = || changing.is_applied(&arena.agent, generation);
        poll::until("the change to be made", LIMIT, applied).with_context(|| arena.agent.log_tail())?;
        assert_eq!(differences(&arena.agent)?, Vec::<Value>::new());
        assert_eq!(frontends(&arena.agent)?, ids, "the ids are kept");
        assert_eq!(changing.dialled(&arena.agent)?, dialled, "the addresses are kept");
    }
    let told = hammer.stop()?;
    println!("{kills} kills, {within_a_change} within a change; {}", figures(&told));
    assert_eq!(told.failures, Vec::<String>::new());
    assert!(told.connects > 1000, "{}", figures(&told));
    for reached in &told.reached {
        let owner = changing.owner(reached.backend.ip()).map(|(_, number)| number);
        assert_eq!(owner, Some(reached.to), "a backend of another service: {reached:?}");
    }
    Ok(())
}

#[test]
fn real_names_resolve_for_sockets_opened_two_seconds_after() -> anyhow::Result<()> {
    let options = Options { httpbin: false, ttl_secs: 1, records: &[("real.test", BACKEND)] };
    let mut stage = Stage::start(options, &[])?;
    // Enrolled while agents die: resolves each name that comes, with new sockets.
    let script = "while read name; do getent ahostsv4 $name || echo unknown; echo end; done";
    let mut client = stage.client(true, &["sh", "-c", script]);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut names = client.stdin.take().context("stdin")?;
    let mut answers = BufReader::new(client.stdout.take().context("stdout")?).lines();
    let mut resolve = || -> anyhow::Result<(String, Duration)> {
        let began = Instant::now();
        names.write_all(b"real.test\n")?;
        let first = answers.next().context("the client ended")??;
        while answers.next().context("the client ended")?? != "end" {}
        Ok((first, began.elapsed()))
    };
    let (mut count, mut slowest) = (0, Duration::ZERO);
    for _ in 0..if is_long() { 10 } else { 3 } {
        assert!(resolve()?.0.starts_with(&BACKEND.to_string()));
        let random = RandomState::new().build_hasher().finish() % 1000;
        std::thread::sleep(Duration::from_millis(random));
        kill(&mut stage.agent)?;
        let died = Instant::now();
        let is_over = || (died.elapsed() >= HEARTBEAT_MAX).then_some(());
        poll::until("the last heartbeat to be old", HEARTBEAT_MAX * 2, is_over)?;
        while died.elapsed() < HEARTBEAT_MAX + Duration::from_secs(2) {
            let (answer, took) = resolve()?;
            assert!(answer.starts_with(&BACKEND.to_string()), "{answer} {:?} after", died.elapsed());
            // A query that got no answer is repeated after two seconds.
            assert!(took < Duration::from_secs(2), "{took:?}, {:?} after", died.elapsed());
            (count, slowest) = (count + 1, slowest.max(took));
        }
        stage.resume()?;
    }
    println!("{count} names resolved without an agent, slowest {slowest:?}");
    drop(names);
    client.wait()?;
    Ok(())
}
