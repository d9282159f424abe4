//! Names behind hosts, resolved from the first client that asks until nobody uses them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tests::entries::dns_entry;
use tests::poll;
use tests::servers::Echo;
use tests::stage::Stage;
use tests::topology::{BACKEND, BACKEND_2, DNS, Options};

const LIMIT: Duration = Duration::from_secs(20);
const QUIET: Options = Options {
    httpbin: false,
    ttl_secs: 1,
    records: &[("one.net", BACKEND), ("two.net", BACKEND_2), ("always.net", BACKEND)],
};

/// `one.test`, `two.test`, and `always.test` at an address that the user wrote.
fn stage(more: &[&str]) -> anyhow::Result<Stage> {
    let entry = |name: &str| dns_entry(name, &format!("{name}.test"), Some((&format!("{name}.net"), 9000)));
    let always = entry("always").replace("spec:", "spec:\n  addresses: [198.51.100.7]");
    let files = [("one.yaml", &*entry("one")), ("two.yaml", &*entry("two")), ("always.yaml", &*always)];
    let stage = Stage::start_with(QUIET, &files, |flags| {
        flags.more.extend(more.iter().map(|word| (*word).to_owned()));
    })?;
    for address in [BACKEND, BACKEND_2] {
        Echo::start(&stage.topology.backend, (address, 9000).into())?;
    }
    Ok(stage)
}

/// How the names behind a host are resolved, as `names` says.
fn resolved(stage: &Stage, host: &str) -> anyhow::Result<String> {
    let names = stage.agent.json("names")?;
    let row = names["names"].as_array().into_iter().flatten().find(|row| row["name"] == *host);
    let row = row.with_context(|| format!("{host} is not in {names}"))?;
    Ok(row["resolved"].as_str().unwrap_or_default().to_owned())
}

fn until(stage: &Stage, host: &str, wanted: &str) -> anyhow::Result<()> {
    let is_so = || (resolved(stage, host).ok()? == wanted).then_some(());
    poll::until(&format!("{host} to be resolved {wanted}"), LIMIT, is_so)
}

/// The virtual address of a host, without a question to anybody but the agent.
fn vip(stage: &Stage, host: &str) -> anyhow::Result<IpAddr> {
    let names = stage.agent.json("names")?;
    let row = names["names"].as_array().into_iter().flatten().find(|row| row["name"] == *host);
    let address = row.and_then(|row| row["addresses"][0].as_str()).context("no address")?;
    Ok(address.parse()?)
}

/// What the server says which a client reaches at once: its own address; empty if it reaches none.
fn reached(stage: &Stage, at: &str) -> anyhow::Result<String> {
    let (_, text) = stage.says(true, &["curl", "-s", "-m", "10", &format!("http://{at}/")])?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

fn at(address: IpAddr) -> String {
    SocketAddr::new(address, 9000).to_string()
}

#[test]
fn nobody_is_asked_before_a_client_asks_and_its_first_connect_works() -> anyhow::Result<()> {
    const HOSTS: usize = 50;
    let stage = stage(&[])?;
    let names: Vec<_> = (0..HOSTS).map(|n| format!("e{n}.net")).collect();
    let records: Vec<(&str, IpAddr)> = names
        .iter()
        .zip([BACKEND, BACKEND_2].into_iter().cycle())
        .map(|(name, address)| (name.as_str(), address))
        .collect();
    stage.topology.dns.set(&[&records[..], QUIET.records].concat())?;
    let entries: Vec<_> = (0..HOSTS)
        .map(|n| dns_entry(&format!("h{n}"), &format!("h{n}.test"), Some((&names[n], 9000))))
        .collect();
    stage.write("many.yaml", &entries.join("---\n"))?;
    stage.agent.until_serves("h49.test", true)?;
    until(&stage, "h49.test", "notAskedFor")?;
    // What may be dialled without a question is resolved meanwhile.
    let asked = || (stage.topology.dns.queries("always.net") > 3).then_some(());
    poll::until("another name to be asked for", LIMIT, asked)?;
    for name in &names {
        assert_eq!(stage.topology.dns.queries(name), 0, "{name}");
    }
    let status = stage.agent.json("status")?;
    // With one.test and two.test.
    assert_eq!(status["resolve"]["notAskedFor"], HOSTS + 2, "{status}");
    let told = String::from_utf8(stage.agent.ask(&["names"])?.stdout)?;
    assert!(told.contains("when asked for"), "{told}");
    // An explanation asks as a client does.
    let told = stage.agent.ask(&["explain", "one.test"])?;
    assert!(told.status.success(), "{told:?}");
    assert_eq!(resolved(&stage, "one.test")?, "whileUsed");

    // As an init container does: asks, connects at once, and does not try again.
    let told = stage.python(
        true,
        &format!(
            "import socket, time\n\
             for n in range({HOSTS}):\n\
             \x20   began = time.monotonic()\n\
             \x20   with socket.create_connection((f'h{{n}}.test', 80), 5) as client:\n\
             \x20       client.sendall(b'\\n')\n\
             \x20       body = client.makefile().read().splitlines()[-1]\n\
             \x20   print(body.split()[0], time.monotonic() - began)\n"
        ),
    )?;
    let mut slowest = 0.0_f64;
    for (line, (_, address)) in told.lines().zip(&records) {
        let (reached, seconds) = line.split_once(' ').context("an address and a time")?;
        assert_eq!(reached, at(*address), "{told}");
        slowest = slowest.max(seconds.parse()?);
    }
    assert_eq!(told.lines().count(), HOSTS, "{told}");
    println!("{HOSTS} first connects, the slowest after {slowest:.3} s");
    for host in ["h0.test", "h49.test"] {
        assert_eq!(resolved(&stage, host)?, "whileUsed");
    }
    assert_eq!(resolved(&stage, "two.test")?, "notAskedFor");
    assert_eq!(resolved(&stage, "always.test")?, "always");
    assert_eq!(reached(&stage, "198.51.100.7")?, at(BACKEND), "without a question");
    Ok(())
}

#[test]
fn an_idle_name_is_not_asked_for_until_somebody_asks_or_connects() -> anyhow::Result<()> {
    let stage = stage(&["--dynamic-idle", "3"])?;
    assert_eq!(reached(&stage, "one.test")?, at(BACKEND));
    assert_eq!(reached(&stage, "two.test")?, at(BACKEND_2));
    let (one, dns) = (vip(&stage, "one.test")?, &stage.topology.dns);
    for host in ["one.test", "two.test"] {
        until(&stage, host, "idle")?;
    }
    let before = (dns.queries("one.net"), dns.queries("two.net"), dns.queries("always.net"));
    // So long that names which are kept fresh are asked for several times.
    poll::until("another name to be asked for", LIMIT, || {
        (dns.queries("always.net") > before.2 + 6).then_some(())
    })?;
    assert_eq!((dns.queries("one.net"), dns.queries("two.net")), (before.0, before.1));
    let status = stage.agent.json("status")?;
    assert_eq!(status["resolve"]["idle"], 2, "{status}");

    // Who kept the address still reaches what is known, and has it refreshed.
    assert_eq!(reached(&stage, &one.to_string())?, at(BACKEND));
    until(&stage, "one.test", "whileUsed")?;
    poll::until("its name to be asked for", LIMIT, || (dns.queries("one.net") > before.0).then_some(()))?;
    assert_eq!(resolved(&stage, "two.test")?, "idle");

    // Who asks is answered with what is true now.
    dns.set(&[("one.net", BACKEND), ("two.net", BACKEND), ("always.net", BACKEND)])?;
    assert_eq!(reached(&stage, "two.test")?, at(BACKEND));
    // In use it follows its records, while there are connections.
    dns.set(&[("one.net", BACKEND), ("two.net", BACKEND_2), ("always.net", BACKEND)])?;
    let two = vip(&stage, "two.test")?.to_string();
    let moved = || (reached(&stage, &two).ok()? == at(BACKEND_2)).then_some(());
    poll::until("connections to go to the new address", LIMIT, moved)
}

#[test]
fn an_address_that_is_dialled_without_a_question_works_soon() -> anyhow::Result<()> {
    let stage = stage(&[])?;
    let one = vip(&stage, "one.test")?.to_string();
    assert_eq!(stage.topology.dns.queries("one.net"), 0);
    let began = Instant::now();
    let works = || (reached(&stage, &one).ok()? == at(BACKEND)).then_some(());
    poll::until("the address to lead somewhere", LIMIT, works)?;
    println!("works after {:?}", began.elapsed());
    assert_eq!(resolved(&stage, "one.test")?, "whileUsed");
    assert_eq!(resolved(&stage, "two.test")?, "notAskedFor");
    Ok(())
}

#[test]
fn what_was_asked_for_stays_so_over_a_restart_without_dns_and_a_takeover() -> anyhow::Result<()> {
    let mut stage = stage(&[])?;
    assert_eq!(reached(&stage, "one.test")?, at(BACKEND));
    let one = vip(&stage, "one.test")?.to_string();
    stage.topology.dns.pause(true)?;
    stage.restart()?;
    assert_eq!(reached(&stage, &one)?, at(BACKEND));
    assert_eq!(reached(&stage, "one.test")?, at(BACKEND));
    assert_eq!(resolved(&stage, "one.test")?, "whileUsed");
    assert_eq!(resolved(&stage, "two.test")?, "notAskedFor");
    // Nobody knows the other one, and nobody is sent past the entry.
    let asked = Instant::now();
    let (_, told) = stage.says(true, &["dig", &format!("@{DNS}"), "+tries=1", "+time=8", "two.test", "A"])?;
    assert!(told.contains("status: SERVFAIL"), "{told}");
    assert!((1..6).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
    stage.topology.dns.pause(false)?;
    stage.take_over()?;
    assert_eq!(reached(&stage, &one)?, at(BACKEND));
    assert_eq!(resolved(&stage, "one.test")?, "whileUsed");
    // It was asked for before it had an address: the question is to be repeated, and answered at once.
    assert_eq!(reached(&stage, "two.test")?, at(BACKEND_2));
    let left = stage.end()?;
    assert_eq!(left, Vec::<String>::new());
    Ok(())
}
