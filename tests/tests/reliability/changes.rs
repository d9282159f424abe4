//! Backends that change, and agents that are replaced, under a client that connects without a pause.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tests::load::now_ns;
use tests::sockets::hammer::Hammer;
use tests::{agent, is_long, poll};

use crate::{Changing, arena, figures};

/// How long after a change a connect may still reach a backend that was removed.
const GRACE_NS: u64 = 1_000_000_000;
/// How long the agent may take for one change of all services.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn changes_under_connects_fail_none() -> anyhow::Result<()> {
    let changing = Changing { services: 100, kept: 4 };
    let arena = arena(&changing.text(0), &[])?;
    let dialled = changing.dialled(&arena.agent)?;
    let hammer = Hammer::start(arena.client(true)?, dialled, 2, arena.run.folder()?.join("stop"))?;
    let (least, time) = if is_long() { (10_000, 60) } else { (500, 10) };
    let began = Instant::now();
    let mut removed: BTreeMap<IpAddr, u64> = BTreeMap::new();
    let mut generation = 0;
    // No address is used twice, and the range has an end.
    while generation < 600
        && (generation * changing.services < least || began.elapsed() < Duration::from_secs(time))
    {
        generation += 1;
        arena.put("entries.yaml", &changing.text(generation))?;
        let applied = || changing.is_applied(&arena.agent, generation);
        poll::until(&format!("generation {generation}"), LIMIT, applied)
            .with_context(|| arena.agent.log_tail())?;
        let now = now_ns()?;
        removed.extend(changing.removed(generation).map(|backend| (backend.into(), now)));
    }
    let took = began.elapsed();
    let told = hammer.stop()?;
    let changes = generation * changing.services;
    println!("{changes} changes of a backend in {:.1} s; {}", took.as_secs_f64(), figures(&told));
    assert_eq!(told.failures, Vec::<String>::new());
    assert!(told.connects > 1000, "{}", figures(&told));
    assert!(told.reached.len() > changes / 20, "the client hardly saw changes: {}", told.reached.len());
    for reached in &told.reached {
        let owner = changing.owner(reached.backend.ip()).map(|(_, number)| number);
        assert_eq!(owner, Some(reached.to), "a backend of another service: {reached:?}");
        if let Some(at) = removed.get(&reached.backend.ip()) {
            assert!(reached.last_ns < at + GRACE_NS, "removed at {at}, and then {reached:?}");
        }
    }
    Ok(())
}

/// `KMSE_OTHER_BIN` makes every second agent one of another build.
#[test]
fn a_restart_and_a_takeover_under_load_fail_no_connect() -> anyhow::Result<()> {
    let changing = Changing { services: 50, kept: 2 };
    let mut arena = arena(&changing.text(0), &[])?;
    let dialled = changing.dialled(&arena.agent)?;
    let own = agent::program()?;
    let other = std::env::var_os("KMSE_OTHER_BIN").map_or_else(|| own.clone(), PathBuf::from);
    let hammer = Hammer::start(arena.client(true)?, dialled.clone(), 2, arena.run.folder()?.join("stop"))?;
    let mut generation = 0;
    for round in 0..if is_long() { 10 } else { 2 } {
        for program in [&other, &own] {
            // The next agent finds a change that its predecessor may have begun with.
            generation += 1;
            arena.put("entries.yaml", &changing.text(generation))?;
            if round % 2 == 0 {
                arena.agent.pause()?;
                arena.resume(program)?;
            } else {
                arena.take_over(program)?;
            }
            let applied = || changing.is_applied(&arena.agent, generation);
            poll::until(&format!("generation {generation}"), LIMIT, applied)
                .with_context(|| arena.agent.log_tail())?;
            assert_eq!(changing.dialled(&arena.agent)?, dialled);
        }
    }
    let told = hammer.stop()?;
    println!("{generation} agents, another build: {}; {}", own != other, figures(&told));
    assert_eq!(told.failures, Vec::<String>::new());
    assert!(told.connects > 1000, "{}", figures(&told));
    Ok(())
}
