//! A thousand entries at a waypoint.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::agent::{Agent, is_release, program};
use tests::cluster::{ApiServer, bulk::Bulk};
use tests::topology::NODE;
use tests::waypoint::Waypoint;
use tests::{is_long, poll};

use super::{BOUND, Scene, ask};
use crate::conditions::until_condition;
use crate::scale::ENTRIES_PATH;
use crate::{LIMIT, api_alone};

/// How many entries are bound at a time, and how long that may take on a machine that does nothing else.
const MANY: u16 = 1_000;
const ALL: Duration = Duration::from_secs(10);
/// How often it is looked whether all are led there: what is told of them is long, and is written and read on the same cores.
const LOOK: Duration = Duration::from_millis(250);
/// More than one change takes: a cluster and a route, in TLS.
const SMALL: u64 = 4_000;
/// A port in the midst of those of the waypoint.
const TAKEN: u16 = 20_400;
const LISTENERS: &str = "/api/v1/namespaces/default/configmaps/waypoint.default.waypoint";

/// Entry `number` of many, whose backend listens at `port`.
fn one_of_many(number: u16, port: u16) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": format!("entry-{number}"), "namespace": "default"},
        "spec": {"hosts": [format!("h{number}.test")], "addresses": [vip(number)], "resolution": "STATIC",
                 "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                 "endpoints": [{"address": NODE, "ports": {"http": port}}]},
    })
}

fn vip(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 250, high, low)
}

/// What a client of the node gets from entry `number` of many: the status, and whether Envoy answered.
fn status_of(agent: &Agent, api: &ApiServer, number: u16) -> anyhow::Result<(u16, bool)> {
    let url = format!("http://{}/", vip(number));
    let output = ask(agent, api, &["-o", "/dev/null", "-w", "%{http_code} %header{server}", &url])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (status, server) = text.split_once(' ').with_context(|| format!("{output:?}"))?;
    Ok((status.parse()?, server == "envoy"))
}

/// How many bytes an Envoy has received from the controller.
fn received(api: &ApiServer, name: &str) -> anyhow::Result<u64> {
    let socket = api.run().folder()?.join(name).join("envoy.sock");
    let url = "http://envoy/stats?filter=^cluster.kmesh-se.upstream_cx_rx_bytes_total$";
    let output = poll::output(Command::new("curl").args(["-sS", "--unix-socket"]).arg(socket).arg(url))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = text.trim().rsplit(' ').next().and_then(|count| count.parse().ok());
    count.with_context(|| format!("no number of bytes: {text}"))
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn a_thousand_entries_go_through_a_waypoint_within_seconds_and_one_that_fails_holds_none_back()
-> anyhow::Result<()> {
    if !Waypoint::is_possible() {
        return Ok(());
    }
    let (api, _alone) = api_alone()?;
    let (kubectl, bulk) = (api.kubectl(), Bulk::start(&api)?);
    let entries: Vec<_> = (0..MANY).map(|number| one_of_many(number, 8000)).collect();
    let scene = Scene::start(&api, 9462, &[], || bulk.make(ENTRIES_PATH, &entries))?;
    let waypoint = scene.waypoint()?;
    let agent = &scene.agent;
    let tail = || format!("{}\n{}", scene.tail(), waypoint.tail());
    let direct = || (status_of(agent, &api, MANY - 1).ok()? == (200, false)).then_some(());
    poll::until("the last entry to be reached", LIMIT, direct).with_context(tail)?;
    let listeners = || -> Option<Vec<Value>> {
        let map = bulk.get(LISTENERS).ok()?;
        serde_json::from_str(map["data"]["listeners"].as_str()?).ok()
    };
    poll::until("the Envoy to be known", LIMIT, || (listeners()? == [0; 0]).then_some(()))
        .with_context(tail)?;

    // All are bound at once, and one of them finds its port taken.
    let taken = api.netns().inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, TAKEN)))??;
    let began = Instant::now();
    kubectl.apply(BOUND)?;
    let through = || {
        let ready = listeners()?.iter().filter(|listener| listener["ready"] == true).count();
        (ready == usize::from(MANY) - 1).then_some(())
    };
    poll::until_every(LOOK, "all but one to have listeners", LIMIT, through).with_context(tail)?;
    let led = || {
        let rows = agent.ask(&["dump", "actual", "-o", "json"]).ok()?;
        let rows: Value = serde_json::from_slice(&rows.stdout).ok()?;
        let led = rows["services"].as_array()?.iter().filter(|row| row["waypoint"].is_object()).count();
        (led == usize::from(MANY) - 1).then_some(())
    };
    poll::until_every(LOOK, "the agent to lead all but one there", LIMIT, led).with_context(tail)?;
    let took = began.elapsed();
    println!("{MANY} entries go through the waypoint after {:.1} s", took.as_secs_f64());
    // A build without optimisation is not what the claim is about.
    assert!(!is_long() || !is_release(&program()?)? || took < poll::stretched(ALL), "{took:?}");
    let refused: Vec<_> =
        listeners().into_iter().flatten().filter(|listener| listener["ready"] != true).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0]["listener"], TAKEN);
    let entry = refused[0]["entry"].as_str().context("an entry")?;
    until_condition(kubectl, entry, "istio.io/WaypointBound", Some(("False", "WaypointRejected")))
        .with_context(tail)?;
    let bad: u16 = entry.trim_start_matches("entry-").parse()?;
    for number in [0, MANY / 2, MANY - 1].into_iter().filter(|number| *number != bad) {
        ensure!(status_of(agent, &api, number)? == (200, true), "entry {number} is not reached\n{}", tail());
    }
    ensure!(status_of(agent, &api, bad)? == (200, false), "the refused one is not reached\n{}", tail());
    drop(taken);

    // One change is one small update.
    let before = received(&api, "w1")?;
    let number = if bad == 7 { 8 } else { 7 };
    kubectl.apply(&one_of_many(number, 8001).to_string())?;
    let changed = || (status_of(agent, &api, number).ok()? == (503, true)).then_some(());
    poll::until("the change to be seen", LIMIT, changed).with_context(tail)?;
    let bytes = received(&api, "w1")? - before;
    println!("one change took {bytes} bytes");
    assert!(bytes < SMALL, "{bytes} bytes");
    drop(waypoint);
    scene.end()?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
