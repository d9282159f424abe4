//! Maps without room.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tests::poll;
use tests::sockets::client::Client;
use tests::topology::BACKEND;

use crate::{Changing, SERVER, arena, service, vips};

const LIMIT: Duration = Duration::from_secs(10);

fn one(number: usize) -> anyhow::Result<String> {
    let std::net::IpAddr::V4(backend) = BACKEND else { anyhow::bail!("IPv4") };
    Ok(service(&format!("changing-{number}"), [backend]))
}

fn connects(client: &Client, to: SocketAddr) -> bool {
    client.which(&[to]).is_ok_and(|reached| reached == [SocketAddr::new(BACKEND, SERVER)])
}

#[test]
fn a_full_map_says_so_and_room_made_later_is_used() -> anyhow::Result<()> {
    // Each service has two addresses, so two frontends, and one slot; a change needs one more.
    for (flag, capacity) in
        [("frontends", "6"), ("slots", "3"), ("services", "3"), ("backends", "1"), ("addresses", "6")]
    {
        let arena = arena(&one(0)?, &[&format!("--max-{flag}"), capacity])?;
        for number in 1..3 {
            arena.write(&format!("{number}.yaml"), &one(number)?, &[&Changing::host(number)])?;
        }
        let client = arena.client(true)?;
        // One that does not fit: with a backend of its own, where backends are what is scarce.
        let late = Changing::host(3);
        let text = if flag == "backends" { service("changing-3", [crate::MANY]) } else { one(3)? };
        arena.put("3.yaml", &text)?;
        let failing = || -> anyhow::Result<BTreeSet<String>> {
            let status = arena.agent.get("/status")?;
            let rows = status["failures"].as_array().context("a list")?;
            Ok(rows
                .iter()
                .map(|row| format!("{} {} {}", row["host"], row["reason"], row["message"]))
                .collect())
        };
        let named = || failing().ok().filter(|failing| !failing.is_empty());
        let named = poll::until("a failure to be named", LIMIT, named).with_context(|| flag)?;
        println!("{flag}: {named:?}");
        let says = |text: &str| named.iter().any(|row| row.contains(text));
        assert!(named.iter().all(|row| row.contains(&late)), "{flag}: {named:?}");
        assert!(says("MapFull") && says(&format!("--max-{flag}")), "{flag}: {named:?}");
        let before = vips(&arena.agent)?;
        for number in 0..3 {
            assert!(connects(&client, before[&Changing::host(number)]), "{flag}: {number}");
        }
        // Room for one.
        let gone = if flag == "backends" { 0..3 } else { 1..2 };
        for number in gone.clone() {
            let file = if number == 0 { "entries.yaml".to_owned() } else { format!("{number}.yaml") };
            arena.remove(&file, &Changing::host(number))?;
        }
        let serves = || failing().ok().filter(BTreeSet::is_empty);
        poll::until("the one that waited", LIMIT, serves)
            .with_context(|| format!("{flag} {:?}", failing()))?;
        let vip = vips(&arena.agent)?[&late];
        assert!(client.which(&[vip]).is_ok(), "{flag}");
        for number in (0..3).filter(|number| !gone.contains(number)) {
            assert!(connects(&client, before[&Changing::host(number)]), "{flag}: {number}");
        }
    }
    Ok(())
}
