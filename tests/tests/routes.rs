//! The routes for what the programs do not handle, and how resolver libraries sort addresses in spite of them.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use libc::{AF_INET, AF_INET6, EHOSTUNREACH, EINPROGRESS, ENETUNREACH, IPPROTO_MPTCP, SOCK_STREAM};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::agent::{Agent, Flags, program};
use tests::netns::Netns;
use tests::poll;
use tests::servers::Echo;
use tests::sockets::client::Client;
use tests::sockets::{Arena, entry, mapped};
use tests::stage::{Stage, VIP_ROUTES, tools_folder};
use tests::topology::{BACKEND, DNS, Options, v6};

const QUIET: Options = Options { httpbin: false, ttl_secs: 1, records: &[] };
const ALL: [&str; 4] = [
    "unreachable 240.240.0.0/16",
    "unreachable 240.241.0.0/16",
    "unreachable 100::/64",
    "unreachable 2001:2::/48",
];
/// Nothing that waits for an answer is so quick.
const AT_ONCE: Duration = Duration::from_millis(100);
/// TCP sends its first packet again after a second.
const RESENT: Duration = Duration::from_millis(1500);
/// A port that no entry lists.
const UNLISTED: u16 = 9;

fn service(name: &str, backends: &[IpAddr]) -> String {
    let endpoints: Vec<Value> = backends.iter().map(|address| json!({ "address": address })).collect();
    let ports = json!([{ "name": "http", "number": 80, "protocol": "HTTP", "targetPort": 9000 }]);
    let host = format!("{name}.test");
    entry(name, &json!({ "hosts": [host], "ports": ports, "resolution": "STATIC", "endpoints": endpoints }))
}

fn entries() -> String {
    let (v4, v6) = (BACKEND, v6(BACKEND));
    [service("four", &[v4]), service("six", &[v6]), service("both", &[v4, v6]), service("none", &[])].concat()
}

/// A node that has a default route, as nodes do, behind which nobody answers. All backends work.
fn stage(more: &[&str]) -> anyhow::Result<Stage> {
    let stage = Stage::start_with(QUIET, &[("entries.yaml", &entries())], |flags| {
        flags.more.extend(more.iter().map(|word| (*word).to_owned()));
    })?;
    let dead: IpAddr = [10, 244, 1, 99].into();
    stage.topology.node.ip(&format!("route add default via {dead}\nroute add default via {}\n", v6(dead)))?;
    for address in [BACKEND, v6(BACKEND)] {
        Echo::start(&stage.topology.backend, (address, 9000).into())?;
    }
    Ok(stage)
}

/// The virtual addresses of a host, IPv4 first.
fn vips(agent: &Agent, host: &str) -> anyhow::Result<[IpAddr; 2]> {
    let services = agent.json("services")?;
    let row = services["services"].as_array().into_iter().flatten().find(|row| row["host"] == host);
    let vips = row.with_context(|| format!("{host} is not served: {services}"))?["vips"].clone();
    let mut vips: Vec<IpAddr> = serde_json::from_value(vips)?;
    vips.sort_unstable();
    vips.try_into().ok().with_context(|| format!("{host} has not two addresses"))
}

/// A client program in a namespace.
fn client(stage: &Stage, netns: &Netns, enrolled: bool) -> anyhow::Result<Client> {
    let words = [if enrolled { stage.agent.exec() } else { vec![] }, vec![socket_client()]].concat();
    Client::start(netns.command(&words[0]).args(&words[1..])).context("cannot start the client")
}

fn socket_client() -> String {
    env!("CARGO_BIN_EXE_socket-client").to_owned()
}

fn family(address: IpAddr) -> i32 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// How a connect fails, and how long that takes.
fn refused(client: &Client, protocol: i32, to: SocketAddr) -> anyhow::Result<(i32, Duration)> {
    let socket = client.open(family(to.ip()), SOCK_STREAM, protocol)?;
    let began = Instant::now();
    let error = socket.connect(to).err().with_context(|| format!("{to} is reachable"))?;
    Ok((error.raw_os_error().context("an errno")?, began.elapsed()))
}

#[test]
fn what_the_programs_do_not_handle_fails_at_once() -> anyhow::Result<()> {
    let stage = stage(&[])?;
    let topology = &stage.topology;
    for netns in [&topology.node, &topology.sleep] {
        // Few, since the kernel limits how often it tells one host of another namespace.
        for (enrolled, protocol) in [(false, 0), (true, IPPROTO_MPTCP)] {
            let client = client(&stage, netns, enrolled)?;
            for vip in vips(&stage.agent, "both.test")? {
                let (errno, took) = refused(&client, protocol, (vip, 80).into())?;
                let what = format!("{} enrolled: {enrolled} protocol {protocol} {vip}", netns.name());
                assert!([EHOSTUNREACH, ENETUNREACH].contains(&errno), "{what}: errno {errno}");
                // In another namespace the node's answer may come while the socket is still in the call, and counts only
                // when the first packet is sent again.
                let limit = if netns.name() == topology.node.name() { AT_ONCE } else { RESENT };
                assert!(took < limit, "{what}: {took:?}");
            }
        }
        // What they do handle is not concerned.
        let client = client(&stage, netns, true)?;
        for vip in vips(&stage.agent, "both.test")? {
            client.stream(family(vip))?.connect((vip, 80).into())?;
        }
    }
    Ok(())
}

#[test]
fn without_the_routes_it_waits() -> anyhow::Result<()> {
    let stage = stage(&["--vip-routes", "false"])?;
    assert_eq!(stage.topology.node.routes(VIP_ROUTES)?, Vec::<String>::new());
    assert_eq!(stage.agent.json("status")?["routes"], json!([]));
    let client = client(&stage, &stage.topology.sleep, false)?;
    for vip in vips(&stage.agent, "both.test")? {
        let (errno, took) = refused(&client, 0, (vip, 80).into())?;
        assert_eq!(errno, EINPROGRESS, "{vip} after {took:?}");
    }
    Ok(())
}

#[test]
fn a_datagram_socket_that_sorts_addresses_is_led_to_a_backend_of_the_family() -> anyhow::Result<()> {
    let stage = stage(&[])?;
    for netns in [&stage.topology.node, &stage.topology.sleep] {
        let client = client(&stage, netns, true)?;
        for (host, reachable) in [
            ("four", [true, false]),
            ("six", [false, true]),
            ("both", [true, true]),
            ("none", [false, false]),
        ] {
            for (vip, reachable) in vips(&stage.agent, &format!("{host}.test"))?.into_iter().zip(reachable) {
                // By a socket of its own family, and as Go, Java and Node write an IPv4 address.
                let to = SocketAddr::new(vip, UNLISTED);
                for (family, to) in [(family(vip), to), (AF_INET6, mapped(to))] {
                    let socket = client.datagram(family)?;
                    let connected = socket.connect(to);
                    let what = format!("{} {host} {to}: {connected:?}", netns.name());
                    assert_eq!(connected.is_ok(), reachable, "{what}");
                    if reachable {
                        assert_eq!(socket.peer_name()?, to, "{what}");
                        // The source address by which libraries sort is the one that a connection would have.
                        let own = mapped(socket.sock_name()?);
                        let stream = client.stream(family)?;
                        stream.connect(SocketAddr::new(to.ip(), 80))?;
                        assert_eq!(own.ip(), mapped(stream.sock_name()?).ip(), "{what}");
                    }
                }
            }
        }
    }
    let status = stage.agent.json("status")?;
    assert_eq!(status["refusals"], json!([]));
    assert_eq!(status["counters"]["noBackend"], 0);
    Ok(())
}

/// Nobody listens where a socket is led that only sorts: who sends on it all the same is told.
#[test]
fn what_is_sent_to_an_unlisted_port_is_refused() -> anyhow::Result<()> {
    let stage = stage(&[])?;
    let client = client(&stage, &stage.topology.sleep, true)?;
    let [vip, _] = vips(&stage.agent, "four.test")?;
    let socket = client.datagram(AF_INET)?;
    socket.connect((vip, 443).into())?;
    socket.send("x")?;
    let began = Instant::now();
    let error = socket.receive().err().context("somebody answered")?;
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    assert!(began.elapsed() < AT_ONCE);
    Ok(())
}

#[test]
fn getaddrinfo_prefers_the_family_that_works() -> anyhow::Result<()> {
    let stage = stage(&[])?;
    let node = &stage.topology.node;
    node.resolv_conf(&format!("nameserver {DNS}\n"))?;
    // A name with an address of the other family, as a hosts file or a cache has it.
    let mut hosts = "127.0.0.1 localhost\n".to_owned();
    for name in ["four.test", "six.test"] {
        for vip in vips(&stage.agent, name)?.iter().rev() {
            hosts += &format!("{vip} {name}\n");
        }
    }
    std::fs::write(Path::new("/etc/netns").join(node.name()).join("hosts"), hosts)?;
    let python = tools_folder().join("httpbin/bin/python3").display().to_string();
    let ask = |words: &[&str]| -> anyhow::Result<String> {
        let in_node = ["ip", "netns", "exec", node.name()];
        let words: Vec<_> = stage
            .agent
            .exec()
            .into_iter()
            .chain(in_node.iter().chain(words).map(|w| (*w).to_owned()))
            .collect();
        let output = poll::output(node.command(&words[0]).args(&words[1..]))?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(output.status.success(), "{words:?}: {error}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let program = "import socket, sys\n\
                   for row in socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM):\n\
                   \x20   print(row[4][0])\n";
    for (name, first) in [("four.test", 0), ("six.test", 1)] {
        let vips = vips(&stage.agent, name)?;
        let told = ask(&[&python, "-c", program, name])?;
        let wanted = [vips[first], vips[1 - first]].map(|vip| vip.to_string());
        assert_eq!(told.lines().collect::<Vec<_>>(), wanted, "{name}");
    }
    for name in ["four.test", "six.test", "both.test"] {
        let url = format!("http://{name}/");
        assert!(ask(&["curl", "-s", "-m", "3", &url])?.contains(":9000 "), "{name}");
    }
    Ok(())
}

fn arena(more: &[&str]) -> anyhow::Result<Arena> {
    Arena::start_with(Path::new(&socket_client()), &entries(), |flags| {
        flags.more.extend(more.iter().map(|word| (*word).to_owned()));
    })
}

#[test]
fn they_stay_for_the_next_agent_and_go_with_the_last() -> anyhow::Result<()> {
    let mut arena = arena(&[])?;
    let routes = |arena: &Arena| arena.node.routes(VIP_ROUTES);
    assert_eq!(routes(&arena)?, ALL);
    let problems = ALL.map(|route| json!({ "range": route.replace("unreachable ", ""), "problem": null }));
    assert_eq!(arena.agent.json("status")?["routes"], json!(problems));
    arena.agent.pause()?;
    assert_eq!(routes(&arena)?, ALL);
    arena.resume(&program()?)?;
    arena.take_over(&program()?)?;
    arena.agent.process().signal(Signal::SIGKILL)?;
    arena.agent.process().wait(Duration::from_secs(5))?;
    assert_eq!(routes(&arena)?, ALL);
    arena.resume(&program()?)?;
    assert_eq!(routes(&arena)?, ALL);
    arena.agent.stop()?;
    assert_eq!(routes(&arena)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn cleanup_removes_them_and_nobody_elses() -> anyhow::Result<()> {
    let mut arena = arena(&[])?;
    let other = "unreachable 192.0.2.0/24";
    arena.node.ip(&format!("route add {other} proto 4\n"))?;
    arena.agent.process().signal(Signal::SIGKILL)?;
    arena.agent.process().wait(Duration::from_secs(5))?;
    let told = arena.agent.cleanup()?;
    let told = String::from_utf8(told.stdout)?;
    for route in ALL {
        assert!(told.contains(&format!("removed route {route}")), "{told}");
    }
    assert_eq!(arena.node.routes(VIP_ROUTES)?, Vec::<String>::new());
    assert_eq!(arena.node.routes(4)?, [other]);
    Ok(())
}

#[test]
fn other_ranges_and_no_routes_remove_the_old_ones() -> anyhow::Result<()> {
    let mut arena = arena(&[])?;
    let flags = arena.agent.flags().clone();
    for (words, wanted) in [
        // As a person writes it: the host bits do not count.
        (&["--vip-v4", "240.7.1.1/20"][..], &["unreachable 240.7.0.0/20", ALL[1], ALL[2], ALL[3]][..]),
        (
            &["--vip-v4", "240.7.0.0/16", "--vip-v6", "2001:2:3::/64", "--dynamic-v4", "240.8.0.0/16"],
            &["unreachable 240.7.0.0/16", "unreachable 240.8.0.0/16", ALL[2], "unreachable 2001:2:3::/64"],
        ),
        (&["--vip-routes", "false"], &[]),
        (&["--vip-routes=true"], &ALL),
    ] {
        arena.agent.pause()?;
        arena.agent = Agent::start_with(&arena.run, &arena.node, flags.clone(), words)?;
        assert_eq!(arena.node.routes(VIP_ROUTES)?, wanted, "{words:?}");
    }
    Ok(())
}

/// The problem that `status` tells of each range.
fn problems(agent: &Agent) -> anyhow::Result<Vec<Option<String>>> {
    let status = agent.json("status")?;
    assert_eq!(status["healthy"], true, "{status}");
    let routes = status["routes"].as_array().context("a list")?;
    Ok(routes.iter().map(|route| route["problem"].as_str().map(str::to_owned)).collect())
}

#[test]
fn somebody_elses_route_for_a_range_is_left_alone_and_named() -> anyhow::Result<()> {
    let mut arena = arena(&["--vip-routes", "false"])?;
    arena.node.ip("route add 240.240.0.0/16 dev lo proto 4 metric 7\n")?;
    let flags = Flags { more: Vec::new(), ..arena.agent.flags().clone() };
    arena.agent.pause()?;
    arena.agent = Agent::start_with(&arena.run, &arena.node, flags, &[])?;
    assert_eq!(arena.node.routes(VIP_ROUTES)?, ALL[1..]);
    assert!(arena.node.routes(4)?[0].starts_with("240.240.0.0/16 dev lo"), "{:?}", arena.node.routes(4)?);
    let named = problems(&arena.agent)?;
    let problem = named[0].as_deref().context("no problem is told")?;
    for part in ["240.240.0.0/16", "protocol 4", "left alone", "--vip-v4"] {
        assert!(problem.contains(part), "{problem}");
    }
    assert_eq!(named[1..], [None, None, None]);
    assert!(arena.agent.log_tail().contains("left alone"), "{}", arena.agent.log_tail());
    arena.agent.stop()?;
    assert_eq!(arena.node.routes(VIP_ROUTES)?, Vec::<String>::new());
    assert_eq!(arena.node.routes(4)?.len(), 1);
    Ok(())
}

#[test]
fn a_route_that_somebody_removed_is_missed() -> anyhow::Result<()> {
    let mut arena = arena(&[])?;
    arena.node.ip("route del unreachable 240.240.0.0/16\n")?;
    let named = problems(&arena.agent)?;
    assert!(named[0].as_deref().is_some_and(|problem| problem.contains("restart")), "{named:?}");
    assert_eq!(named[1..], [None, None, None]);
    let text = arena.agent.ask(&["status"])?;
    let text = String::from_utf8(text.stdout)?;
    assert!(text.contains("missing unreachable 240.240.0.0/16"), "{text}");
    assert!(text.contains("route     unreachable 2001:2::/48"), "{text}");
    arena.agent.pause()?;
    arena.resume(&program()?)?;
    assert_eq!(arena.node.routes(VIP_ROUTES)?, ALL);
    Ok(())
}

/// A program that runs another without a capability.
fn without(capability: &str, folder: &Path, program: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("without");
    let program = program.display();
    std::fs::write(
        &path,
        format!("#!/bin/sh\nexec setpriv --bounding-set=-{capability} {program} \"$@\"\n"),
    )?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[test]
fn an_agent_that_may_not_set_them_works_and_says_so() -> anyhow::Result<()> {
    let mut arena = arena(&["--vip-routes", "false"])?;
    arena.agent.pause()?;
    let mut flags = Flags { more: Vec::new(), ..arena.agent.flags().clone() };
    flags.program = without("net_admin", &arena.run.folder()?, &flags.program)?;
    arena.agent = Agent::start_with(&arena.run, &arena.node, flags, &[])?;
    assert_eq!(arena.node.routes(VIP_ROUTES)?, Vec::<String>::new());
    for (problem, route) in problems(&arena.agent)?.into_iter().zip(ALL) {
        let problem = problem.context("no problem is told")?;
        for part in
            [route.strip_prefix("unreachable ").unwrap_or(route), "CAP_NET_ADMIN", "--vip-routes false"]
        {
            assert!(problem.contains(part), "{problem}");
        }
        assert!(arena.agent.log_tail().contains(&problem), "{}", arena.agent.log_tail());
    }
    arena.agent.stop()
}

#[test]
fn agents_of_two_namespaces_have_routes_of_their_own() -> anyhow::Result<()> {
    let (one, mut other) = (arena(&[])?, arena(&[])?);
    other.agent.stop()?;
    assert_eq!(other.node.routes(VIP_ROUTES)?, Vec::<String>::new());
    assert_eq!(one.node.routes(VIP_ROUTES)?, ALL);
    Ok(())
}
