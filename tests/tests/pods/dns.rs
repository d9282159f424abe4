//! Whose queries the DNS server answers.

use std::net::IpAddr;

use anyhow::Context as _;
use tests::netns::Netns;
use tests::pods::{Driver, Pod};
use tests::poll;
use tests::topology::{BACKEND, DNS, NODE, SLEEP};

use crate::{Node, one_pod, shop};

/// `dig` of a name at a listener that is dialled straight.
fn dig(netns: &Netns, port: u64, name: &str, from: IpAddr) -> anyhow::Result<String> {
    let mut dig = netns.command("dig");
    dig.args([&format!("@{NODE}"), "-p", &port.to_string(), "-b", &from.to_string()]);
    dig.args([name, "A", "+tries=1", "+time=3", "+noall", "+comments", "+answer"]);
    Ok(String::from_utf8_lossy(&poll::output(&mut dig)?.stdout).into_owned())
}

#[test]
fn the_dns_server_serves_the_pods_of_its_namespaces_and_nobody_else() -> anyhow::Result<()> {
    let node = Node::start(Driver::Cgroupfs, &[], &[("shop.yaml", &shop())])?;
    let topology = &node.stage.topology;
    let second: IpAddr = "10.244.1.61".parse()?;
    topology.sleep.ip(&format!("addr add {second}/24 dev eth0\n"))?;
    let (mut pod, group) = one_pod(&node, "web", 1)?;
    let mut other = Pod::new("other", "plain", 2);
    other.addresses = vec![second];
    node.write(&other)?;
    node.reason(&other)?;
    node.until_enrolled(&pod, true)?;
    // A process of the pod is led there; what dials the listener from outside of any enrolled cgroup is judged by its address.
    assert!(node.reaches(&group)?);
    let rows = node.workloads()?;
    let port = rows["workloads"][0]["dnsPort"].as_u64().context("no port")?;
    let vip = |text: &str| text.contains("\t240.240.");
    let refused = |text: &str| text.contains("status: REFUSED");
    let served = dig(&topology.sleep, port, "fake.test", SLEEP)?;
    assert!(vip(&served), "{served}");
    for (netns, from) in [(&topology.sleep, second), (&topology.backend, BACKEND), (&topology.node, NODE)] {
        let answer = dig(netns, port, "fake.test", from)?;
        assert!(refused(&answer), "{from}: {answer}");
    }
    // The port of another namespace, at which the pod has no business.
    let answer = dig(&topology.sleep, 15053, "fake.test", SLEEP)?;
    assert!(refused(&answer), "{answer}");

    // While a pod has no address yet, one that nobody has is its.
    let mut early = Pod::new("shop", "early", 3);
    node.write(&early)?;
    node.until("an early query to be answered", || {
        vip(&dig(&topology.backend, port, "fake.test", BACKEND).ok()?).then_some(())
    })?;
    assert!(refused(&dig(&topology.sleep, port, "fake.test", second)?), "another pod's");
    early.addresses = vec!["10.244.1.62".parse()?];
    node.write(&early)?;
    node.until("a stranger to be refused again", || {
        refused(&dig(&topology.backend, port, "fake.test", BACKEND).ok()?).then_some(())
    })?;

    // Each pod's own search list.
    let searched = dig(&topology.sleep, port, "fake.test.shop.svc.cluster.local", SLEEP)?;
    assert!(vip(&searched), "{searched}");
    pod.spec += "  dnsPolicy: None\n  dnsConfig:\n    searches: [own.test]\n";
    node.write(&pod)?;
    node.until("its own domain to be searched", || {
        vip(&dig(&topology.sleep, port, "fake.test.own.test", SLEEP).ok()?).then_some(())
    })?;
    let searched = dig(&topology.sleep, port, "fake.test.shop.svc.cluster.local", SLEEP)?;
    assert!(searched.contains("status: NXDOMAIN"), "{searched}");

    // A command on the node is served from the node's address as long as it runs.
    let words = node.stage.agent.exec();
    let mut command = topology.node.command(&words[0]);
    command.args(&words[1..]).args(["dig", &format!("@{DNS}"), "fake.test", "+tries=1", "+time=3"]);
    let output = poll::output(&mut command)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(vip(&said), "{said} {}", String::from_utf8_lossy(&output.stderr));

    // One that is not handled any more, and still asks, hears what the resolver says.
    pod.labels = vec!["istio.io/dataplane-mode: none".to_owned()];
    node.write(&pod)?;
    node.until_enrolled(&pod, false)?;
    let left = dig(&topology.sleep, port, "plain.test", SLEEP)?;
    assert!(left.contains("\t10.244.1.8"), "{left}");
    let left = dig(&topology.sleep, port, "fake.test", SLEEP)?;
    assert!(left.contains("status: NXDOMAIN"), "{left}");
    assert!(node.stage.agent.get("/status")?["dns"]["queries"]["refused"].as_u64() >= Some(5));
    Ok(())
}
