//! What clients get through the waypoint, and who goes through it.

use serde_json::{Value, json};

use super::*;

#[test]
fn the_tutorial_through_the_waypoint_is_answered_as_without() -> anyhow::Result<()> {
    let Some(stage) = stage(&[("namespace.yaml", NAMESPACE)], &[])? else { return Ok(()) };
    stage.agent.until_through(2)?;
    tutorial::ask(|words| stage.says(true, words), &SLEEP.to_string())
        .with_context(|| stage.agent.log_tail())?;
    let (well, head) = head(&stage, "http://kmesh-fake.com/headers")?;
    assert!(well && tutorial::missing_headers(&head).is_empty(), "{head}");
    assert_eq!(conditions(&stage, "kmesh-fake.com")?, ["True WaypointAccepted"]);

    let explained = stage.agent.ask(&["explain", "kmesh-fake.com:80"])?;
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("waypoint default/waypoint"), "{explained}");
    assert!(explained.contains("httpbin.default.svc.cluster.local:8000"), "{explained}");

    for name in tutorial::ENTRIES {
        stage.remove(name)?;
    }
    let gone =
        || Ok(stage.ask(true, &["curl", "-sI", "http://kmesh-fake.com/headers"])?.status.code() == Some(6));
    until("kmesh-fake.com to be unknown", gone)?;
    let left = stage.end()?;
    assert_eq!(left, Vec::<String>::new());
    Ok(())
}

#[test]
fn the_entry_decides_before_its_namespace_and_a_listener_that_fails_harms_no_other() -> anyhow::Result<()> {
    let entry = |name: &str, labels: Value, port: u16, endpoint: &str| {
        let entry = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {
                "hosts": [format!("{name}.test")], "resolution": "DNS",
                "ports": [{"number": port, "name": "http", "protocol": "HTTP"}],
                "endpoints": [{"address": endpoint, "ports": {"http": if endpoint == "kmesh-fake.com" { 80 } else { 8000 }}}],
            },
        });
        entry.to_string()
    };
    let httpbin = "httpbin.default.svc.cluster.local";
    let (none, own, follows) = (
        entry("none", json!({"istio.io/use-waypoint": "none"}), 80, httpbin),
        entry("own", json!({"istio.io/use-waypoint": "other"}), 80, httpbin),
        // Its endpoint is a host that exists here only.
        entry("follows", json!({}), 80, "kmesh-fake.com"),
    );
    let files =
        [("namespace.yaml", NAMESPACE), ("none.yaml", &none), ("own.yaml", &own), ("follows.yaml", &follows)];
    let Some(stage) = stage(&files, &[])? else { return Ok(()) };
    stage.agent.until_through(4)?;
    assert!(!goes_through(&stage, "http://none.test/headers")?);
    assert_eq!(conditions(&stage, "none.test")?, Vec::<String>::new());
    assert!(goes_through(&stage, "http://own.test/headers")?);
    assert!(goes_through(&stage, "http://follows.test/headers")?);

    // Somebody has the next port, so that no listener can be there.
    let taken =
        listener_ports(&stage)?.into_iter().map(|(_, port)| port).filter(|port| *port >= 20_000).max();
    let taken = u16::try_from(taken.context("a port of a listener")? + 1)?;
    let address = std::net::SocketAddr::new(tests::topology::NODE, taken);
    let _taken = stage.topology.node.inside(|| std::net::TcpListener::bind(address))??;
    stage.write("late.yaml", &entry("late", json!({}), 80, httpbin))?;
    until("its listener to be refused", || {
        Ok(conditions(&stage, "late.test")? == ["False WaypointRejected"])
    })?;
    let (well, _) = head(&stage, "http://late.test/headers")?;
    assert!(!well, "it is bound from its start, so nobody passes the waypoint by");
    stage.write("fine.yaml", &entry("fine", json!({}), 80, httpbin))?;
    until("another one to go through", || Ok(conditions(&stage, "fine.test")? == ["True WaypointAccepted"]))?;
    assert!(goes_through(&stage, "http://fine.test/headers")?);
    assert!(goes_through(&stage, "http://kmesh-fake.com/headers")?);
    Ok(())
}
