//! The harness itself, without the agent: what it makes works, and goes.

use std::path::PathBuf;
use std::process::{Child, Command};

use serde_json::Value;
use tests::clean::{Run, leftovers};
use tests::poll;
use tests::servers::Echo;
use tests::topology::{BACKEND, BACKEND_2, Options, SLEEP, Topology};

fn output(topology: &Topology, command: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = poll::output(&mut topology.plain_client(command))?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[test]
fn real_httpbin_answers_with_the_clients_own_address_in_two_topologies_at_once() -> anyhow::Result<()> {
    for (run, topology) in [start()?, start()?] {
        let (_, body) = output(&topology, &["curl", "-s", "http://httpbin.org/get"])?;
        let body: Value = serde_json::from_str(&body)?;
        assert_eq!(body["origin"], SLEEP.to_string());
        assert_eq!(body["url"], "http://httpbin.org/get");
        let url = "http://httpbin.default.svc.cluster.local:8000/status/418";
        let (_, code) = output(&topology, &["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url])?;
        assert_eq!(code, "418");
        let clients = topology.httpbin.as_ref().expect("it was started").clients(2)?;
        assert_eq!(clients, [SLEEP.to_string(), SLEEP.to_string()]);
        drop(topology);
        assert_eq!(run.end(), Vec::<String>::new());
    }
    Ok(())
}

fn start() -> anyhow::Result<(Run, Topology)> {
    let run = Run::begin()?;
    let topology = Topology::start(&run, Options::default())?;
    Ok((run, topology))
}

#[test]
fn dns_knows_what_it_was_told_and_nothing_else() -> anyhow::Result<()> {
    let run = Run::begin()?;
    let topology = Topology::start(&run, Options { httpbin: false, ..Options::default() })?;
    let resolve = |name: &str| output(&topology, &["getent", "ahostsv4", name]);
    assert!(resolve("httpbin.org")?.1.starts_with("10.244.1.8 "));
    assert!(!resolve("kmesh-fake.com")?.0);
    assert!(topology.dns.queries("kmesh-fake.com") > 0);

    topology.dns.set(&[("kmesh-fake.com", BACKEND), ("kmesh-fake.com", BACKEND_2)])?;
    let both = resolve("kmesh-fake.com")?.1;
    assert!(both.contains("10.244.1.7 ") && both.contains("10.244.1.8 "), "{both}");
    assert!(!resolve("httpbin.org")?.0);
    Ok(())
}

#[test]
fn the_echo_server_tells_both_addresses() -> anyhow::Result<()> {
    let run = Run::begin()?;
    let topology = Topology::start(&run, Options { httpbin: false, ..Options::default() })?;
    let echo = Echo::start(&topology.backend, (BACKEND, 9000).into())?;
    let (_, body) = output(&topology, &["curl", "-s", "http://10.244.1.7:9000/"])?;
    assert!(body.starts_with("10.244.1.7:9000 10.244.1.6:"), "{body}");
    assert_eq!(echo.connections(), 1);
    Ok(())
}

#[test]
fn a_killed_run_is_swept_by_the_next_and_a_live_one_is_not() -> anyhow::Result<()> {
    let live = Run::begin()?;
    let topology = Topology::start(&live, Options { httpbin: false, ..Options::default() })?;

    // What a run that was killed leaves: names that carry an id, and a lock that nobody holds. What has none may be of another
    // container with a /run of its own. Another run of this test has other ids.
    let id = |high: u32| format!("{:08x}", high ^ std::process::id());
    let (dead, foreign) = (id(0xdead_0000), id(0xfade_0000));
    let groups = tests::cgroup::mount_point()?;
    let group = |id: &str| groups.join(format!("kmse-{id}"));
    for id in [&dead, &foreign] {
        std::fs::create_dir_all(group(id))?;
    }
    let _foreign = Remove(group(&foreign));
    let name = format!("kmse-{dead}-node");
    assert!(Command::new("ip").args(["netns", "add", &name]).status()?.success());
    std::fs::write(format!("/run/kmse-{dead}.lock"), "")?;
    let mut orphan = Orphan(Command::new("ip").args(["netns", "exec", &name, "sleep", "1000"]).spawn()?);

    drop(Run::begin()?);
    assert_eq!(leftovers(&dead), Vec::<String>::new());
    assert!(!orphan.0.wait()?.success());
    assert!(group(&foreign).is_dir(), "what another one owns is left alone");
    assert!(output(&topology, &["getent", "ahostsv4", "httpbin.org"])?.0);
    Ok(())
}

/// A cgroup that goes with the test.
struct Remove(PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A process that ends with the test, whatever becomes of that.
struct Orphan(Child);

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
