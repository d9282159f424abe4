//! Agents of another build, whose maps have another layout, or of other sizes, in place of a running one.
//!
//! Only the names of the pinned directories tell of which layout maps are. So maps that were renamed are to the next agent
//! what those of another build would be: programs are at work on maps that it cannot use.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use libc::AF_INET;
use nix::sys::signal::Signal;
use tests::agent::{Agent, Flags};
use tests::entries::dns_entry;
use tests::sockets::client::Client;
use tests::sockets::hammer::Hammer;
use tests::sockets::{Arena, servers};
use tests::stage::Stage;
use tests::topology::{BACKEND, Options};
use tests::{is_long, poll};

use crate::{Changing, SERVER, arena, client_program, figures};

const LIMIT: Duration = Duration::from_secs(20);

/// The directories of maps, of all layouts.
fn places(pins: &Path) -> anyhow::Result<Vec<String>> {
    let names = std::fs::read_dir(pins)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Makes what is pinned look like that of a build with other layouts.
fn become_another_build(pins: &Path) -> anyhow::Result<()> {
    for name in places(pins)? {
        let (kind, rest) = name.split_once('-').unwrap_or((&name, ""));
        let rest = rest.split_once('-').map_or(String::new(), |(_, sizes)| format!("-{sizes}"));
        if kind != "links" {
            std::fs::rename(pins.join(&name), pins.join(format!("{kind}-9999{rest}")))?;
        }
    }
    Ok(())
}

/// Replaces the agent: by a restart, or while it runs.
fn replace(arena: &mut Arena, takes_over: bool, words: &[String]) -> anyhow::Result<()> {
    let flags = Flags { more: words.to_vec(), ..arena.agent.flags().clone() };
    if !takes_over {
        arena.agent.pause()?;
        arena.agent = Agent::start_with(&arena.run, &arena.node, flags, &[])?;
        return Ok(());
    }
    let new = Agent::start_with(&arena.run, &arena.node, flags, &["--takeover"])?;
    let mut old = std::mem::replace(&mut arena.agent, new);
    let status = old.process().wait(LIMIT)?;
    anyhow::ensure!(status.success(), "the old agent ended with {status}\n{}", old.log_tail());
    Ok(())
}

#[test]
fn an_upgrade_to_other_layouts_under_load_fails_no_connect() -> anyhow::Result<()> {
    let changing = Changing { services: 50, kept: 2 };
    let mut arena = arena(&changing.text(0), &[])?;
    let dialled = changing.dialled(&arena.agent)?;
    let pins = arena.agent.flags().pin.clone();
    let own = places(&pins)?;
    assert_eq!(own.len(), 3, "{own:?}");
    let hammer = Hammer::start(arena.client(true)?, dialled.clone(), 2, arena.run.folder()?.join("stop"))?;
    let rounds = if is_long() { 20 } else { 4 };
    for generation in 1..=rounds {
        let client = arena.client(true)?;
        let stream = client.stream(AF_INET)?;
        stream.connect(dialled[0])?;
        become_another_build(&pins)?;
        assert_ne!(places(&pins)?, own);
        arena.put("entries.yaml", &changing.text(generation))?;
        replace(&mut arena, generation % 2 == 0, &[])?;
        let applied = || changing.is_applied(&arena.agent, generation);
        poll::until(&format!("generation {generation}"), LIMIT, applied)
            .with_context(|| arena.agent.log_tail())?;
        assert_eq!(changing.dialled(&arena.agent)?, dialled, "the addresses are kept");
        assert_eq!(places(&pins)?, own, "what the old programs used is gone");
        // The connection of before goes on; what was remembered for it is lost, and that is said.
        stream.send("?")?;
        let (text, _) = stream.receive()?;
        let backend = stream.peer_name()?;
        assert!(text.starts_with(&backend.to_string()), "{text} of {backend}");
        assert_ne!(backend, dialled[0]);
        let log = arena.agent.log_tail();
        assert!(log.contains("removing the state of sockets of another layout"), "{log}");
        // A client of before is enrolled as it was.
        assert_eq!(client.which(&dialled)?.len(), dialled.len());
    }
    let told = hammer.stop()?;
    println!("{rounds} upgrades to other layouts; {}", figures(&told));
    assert_eq!(told.failures, Vec::<String>::new());
    assert!(told.connects > 1000, "{}", figures(&told));
    Ok(())
}

#[test]
fn other_sizes_under_load_fail_no_connect_and_sockets_are_remembered() -> anyhow::Result<()> {
    let changing = Changing { services: 50, kept: 2 };
    let mut arena = arena(&changing.text(0), &[])?;
    let dialled = changing.dialled(&arena.agent)?;
    let pins = arena.agent.flags().pin.clone();
    let hammer = Hammer::start(arena.client(true)?, dialled.clone(), 2, arena.run.folder()?.join("stop"))?;
    let client = arena.client(true)?;
    let stream = client.stream(AF_INET)?;
    stream.connect(dialled[0])?;
    let mut before = places(&pins)?;
    for (generation, size) in [(1, "1000"), (2, "2000"), (3, "1000"), (4, "2000")] {
        arena.put("entries.yaml", &changing.text(generation))?;
        let words = ["--max-frontends".to_owned(), size.to_owned()];
        replace(&mut arena, generation > 2, &words)?;
        let applied = || changing.is_applied(&arena.agent, generation);
        poll::until(&format!("generation {generation}"), LIMIT, applied)
            .with_context(|| arena.agent.log_tail())?;
        assert_eq!(changing.dialled(&arena.agent)?, dialled, "the addresses are kept");
        let now = places(&pins)?;
        assert!(now.len() == 3 && now != before, "{now:?} after {before:?}");
        before = now;
        assert_eq!(stream.peer_name()?, dialled[0]);
        assert_eq!(client.which(&dialled)?.len(), dialled.len());
    }
    let told = hammer.stop()?;
    println!("{}", figures(&told));
    assert_eq!(told.failures, Vec::<String>::new());
    assert!(told.connects > 1000, "{}", figures(&told));
    Ok(())
}

#[test]
fn programs_on_new_maps_wait_for_names_that_nobody_remembers() -> anyhow::Result<()> {
    wait_for_names(false)
}

#[test]
fn an_upgrade_after_one_that_was_killed_waits_as_well() -> anyhow::Result<()> {
    wait_for_names(true)
}

fn wait_for_names(interrupts: bool) -> anyhow::Result<()> {
    let options = Options { httpbin: false, ttl_secs: 1, records: &[("backend.test", BACKEND)] };
    let entry = dns_entry("fake", "fake.test", Some(("backend.test", SERVER)));
    let mut stage = Stage::start(options, &[("fake.yaml", &entry)])?;
    servers::stream(&stage.topology.backend, (BACKEND, SERVER).into())?;
    let vip = *crate::vips(&stage.agent)?.get("fake.test").context("no address")?;
    let words = [stage.agent.exec(), vec![client_program().display().to_string()]].concat();
    let client = Client::start(stage.topology.sleep.command(&words[0]).args(&words[1..]))?;
    let reached = || client.which(&[vip]).ok();
    poll::until("the backend to be known", LIMIT, reached)?;
    let hammer = Hammer::start(client, vec![vip], 1, stage.run.folder()?.join("stop"))?;
    let flags = stage.agent.flags().clone();
    stage.agent.pause()?;
    become_another_build(&flags.pin)?;
    std::fs::remove_file(flags.state.join("addresses.json"))?;
    if interrupts {
        // One that dies while it waits for the name leaves maps that are not filled.
        stage.topology.dns.pause(true)?;
        let mut dies = Agent::spawn(&stage.run, &stage.topology.node, flags.clone(), &[])?;
        let waits = || dies.log_tail().contains("maps written").then_some(());
        poll::until("new maps to be made", LIMIT, waits)?;
        assert_eq!(places(&flags.pin)?.len(), 5, "both agents' maps");
        dies.process().signal(Signal::SIGKILL)?;
        dies.process().wait(LIMIT)?;
        stage.topology.dns.pause(false)?;
    }
    stage.agent = Agent::start_with(&stage.run, &stage.topology.node, flags, &[])?;
    let told = hammer.stop()?;
    println!("{}", figures(&told));
    assert_eq!(told.failures, Vec::<String>::new());
    assert!(told.connects > 100, "{}", figures(&told));
    Ok(())
}
