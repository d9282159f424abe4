//! What connections meet while labels, the Envoy and the agent come and go.

use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use tests::topology::NODE;

use super::*;

const URL: &str = "http://kmesh-fake.com/status/200";

#[test]
fn the_label_comes_and_goes_under_load_and_no_request_fails() -> anyhow::Result<()> {
    let Some(stage) = stage(&[], &[])? else { return Ok(()) };
    assert!(!goes_through(&stage, URL)?);
    let load = Load::start(&stage, "kmesh-fake.com")?;
    for _ in 0..2 {
        stage.write("namespace.yaml", NAMESPACE)?;
        stage.agent.until_through(2)?;
        assert!(goes_through(&stage, URL)?);
        let ports = listener_ports(&stage)?;
        stage.remove("namespace.yaml")?;
        until("connections to go straight", || Ok(!goes_through(&stage, URL)?))?;
        for (_, port) in ports {
            let listener = SocketAddr::new(NODE, u16::try_from(port)?);
            let is_gone = || stage.topology.node.inside(|| TcpStream::connect(listener).is_err());
            until("the listener to go", is_gone)?;
        }
    }
    let answered = load.stop()?;
    println!("{answered} requests were answered");
    Ok(())
}

#[test]
fn without_its_envoy_a_bound_service_is_refused_at_once_until_it_is_back() -> anyhow::Result<()> {
    let Some(stage) = stage(&[("namespace.yaml", NAMESPACE)], &[])? else { return Ok(()) };
    stage.agent.until_through(2)?;
    let ports = listener_ports(&stage)?;
    assert!(goes_through(&stage, URL)?);
    let target = take_away(&stage)?;
    let began = Instant::now();
    until("connections to be refused", || {
        Ok(stage.ask(true, &["curl", "-sS", URL])?.status.code() == Some(7))
    })?;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    until("the agent to tell", || Ok(conditions(&stage, "kmesh-fake.com")? == ["False WaypointNotReady"]))?;
    let status = stage.agent.get("/status")?;
    assert!(tests::agent::mentions(&status["unhealthyBecause"], "the waypoint does not run"), "{status}");

    std::os::unix::fs::symlink(target, link(&stage))?;
    stage.agent.until_through(2)?;
    assert!(goes_through(&stage, URL)?);
    assert_eq!(listener_ports(&stage)?, ports, "no port has moved");
    Ok(())
}

#[test]
fn without_its_envoy_a_bound_service_goes_past_it_where_that_is_meant() -> anyhow::Result<()> {
    let flags = ["--waypoint-unavailable", "direct"];
    let Some(stage) = stage(&[("namespace.yaml", NAMESPACE)], &flags)? else { return Ok(()) };
    stage.agent.until_through(2)?;
    take_away(&stage)?;
    until("connections to go straight", || Ok(!goes_through(&stage, URL)?))?;
    assert_eq!(conditions(&stage, "kmesh-fake.com")?, ["False WaypointNotReady"]);
    Ok(())
}

#[test]
fn a_killed_envoy_is_started_anew() -> anyhow::Result<()> {
    let Some(stage) = stage(&[("namespace.yaml", NAMESPACE)], &[])? else { return Ok(()) };
    stage.agent.until_through(2)?;
    let before = pid(&stage)?;
    kill(before, Signal::SIGKILL)?;
    until("another Envoy", || Ok(pid(&stage)? != before))?;
    stage.agent.until_through(2)?;
    assert!(goes_through(&stage, URL)?);
    Ok(())
}

#[test]
fn agents_come_and_go_under_load_and_the_envoy_stays() -> anyhow::Result<()> {
    let Some(mut stage) = stage(&[("namespace.yaml", NAMESPACE)], &[])? else { return Ok(()) };
    stage.agent.until_through(2)?;
    let (before, ports) = (pid(&stage)?, listener_ports(&stage)?);
    // Its name is not asked for again while no agent runs.
    let services = stage.agent.json("services")?;
    let row = services["services"]
        .as_array()
        .and_then(|rows| rows.iter().find(|row| row["host"] == "kmesh-fake.com"));
    let address = row.and_then(|row| row["vips"][0].as_str()).context("an address")?.to_owned();
    let load = Load::start(&stage, &address)?;
    stage.restart()?;
    stage.agent.until_through(2)?;
    stage.agent.process().signal(Signal::SIGKILL)?;
    stage.agent.process().wait(LIMIT)?;
    load.goes_on()?;
    stage.resume()?;
    stage.agent.until_through(2)?;
    stage.take_over()?;
    stage.agent.until_through(2)?;
    let answered = load.stop()?;
    println!("{answered} requests were answered");
    assert_eq!((pid(&stage)?, listener_ports(&stage)?), (before, ports));
    assert!(goes_through(&stage, URL)?);
    // The last one takes everything down.
    let left = stage.end()?;
    assert_eq!(left, Vec::<String>::new());
    Ok(())
}
