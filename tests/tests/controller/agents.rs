//! Two nodes, one truth.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use tests::agent::{Agent, Flags, mentions};
use tests::cluster::ApiServer;
use tests::topology::{DNS, NODE};
use tests::{cgroup, poll};

use super::{Controller, LIMIT, api, entry, until_addresses};

/// The second node's address.
pub(crate) const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 2, 1));

/// Starts the agent of one of two nodes, each with a cgroup of its own.
fn node(api: &ApiServer, cgroup: &Path, name: &str, address: IpAddr) -> anyhow::Result<Agent> {
    node_with(api, cgroup, name, address, &[])
}

/// The same with further flags.
pub(crate) fn node_with(
    api: &ApiServer,
    cgroup: &Path,
    name: &str,
    address: IpAddr,
    more: &[&str],
) -> anyhow::Result<Agent> {
    let (run, folder) = (api.run(), api.run().folder()?);
    let mut flags = Flags::new(run, &cgroup.join(name))?;
    flags.cluster = Some((api.kubectl().kubeconfig().to_owned(), name.to_owned()));
    flags.listen = address;
    flags.pin = run.pins().join(name);
    (flags.state, flags.admin) = (folder.join(name), folder.join(format!("{name}.sock")));
    flags.more.push("--enrol-pods=false".to_owned());
    flags.more.extend(more.iter().map(|&flag| flag.to_owned()));
    Agent::start_with(run, api.netns(), flags, &[])
}

/// What a client of the node is answered for a name, sorted.
fn answer(api: &ApiServer, agent: &Agent, name: &str, kind: &str) -> anyhow::Result<Vec<String>> {
    let words = agent.exec();
    let mut command = api.netns().command(&words[0]);
    command.args(&words[1..]).args(["dig", &format!("@{DNS}"), name, kind, "+short", "+tries=1", "+time=2"]);
    let output = poll::output(&mut command)?;
    let mut lines: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

/// Waits until both nodes answer this for a name.
fn until_answered(api: &ApiServer, nodes: &[&Agent], name: &str, v4: &str, v6: &str) -> anyhow::Result<()> {
    for agent in nodes {
        for (kind, wanted) in [("A", v4), ("AAAA", v6)] {
            let is_so = || (answer(api, agent, name, kind).ok()? == [wanted]).then_some(());
            poll::until(&format!("{name} {kind} to be {wanted}"), LIMIT, is_so)
                .map_err(|error| error.context(agent.log_tail()))?;
        }
    }
    Ok(())
}

/// An endpoint of each family, so that both are answered.
fn both_families(name: &str, hosts: &[&str]) -> String {
    entry(name, hosts, "").replace("[{address: 10.0.0.1}]", "[{address: 10.0.0.1}, {address: \"fd00::1\"}]")
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn two_nodes_answer_the_same_addresses_whoever_restarts() -> anyhow::Result<()> {
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    api.netns().ip(&format!("addr add {NODE}/32 dev lo\naddr add {OTHER}/32 dev lo\n"))?;
    let cgroup = cgroup::make(api.run())?;
    kubectl.apply(&both_families("one", &["one.test"]))?;
    let controller = Controller::start(&api, 9401, &[])?;
    controller.until_it_leads()?;
    let (mut one, mut two) = (node(&api, &cgroup, "n1", NODE)?, node(&api, &cgroup, "n2", OTHER)?);
    until_answered(&api, &[&one, &two], "one.test", "240.240.0.1", "2001:2::1")?;

    kubectl.apply(&both_families("two", &["two.test", "three.test"]))?;
    // Of one entry, in the order of their names.
    let all = [
        ("one.test", "240.240.0.1", "2001:2::1"),
        ("two.test", "240.240.0.3", "2001:2::3"),
        ("three.test", "240.240.0.2", "2001:2::2"),
    ];
    let all_are_answered = |one: &Agent, two: &Agent| {
        all.iter().try_for_each(|(name, v4, v6)| until_answered(&api, &[one, two], name, v4, v6))
    };
    all_are_answered(&one, &two)?;

    // A node restarts, then the controller, then the other node without one.
    one.pause()?;
    one = node(&api, &cgroup, "n1", NODE)?;
    all_are_answered(&one, &two)?;
    controller.stop()?;
    let controller = Controller::start(&api, 9401, &[])?;
    controller.until_it_leads()?;
    kubectl.apply(&both_families("four", &["four.test"]))?;
    until_answered(&api, &[&one, &two], "four.test", "240.240.0.4", "2001:2::4")?;
    all_are_answered(&one, &two)?;
    controller.kill()?;
    two.pause()?;
    two = node(&api, &cgroup, "n2", OTHER)?;
    all_are_answered(&one, &two)?;

    // A new entry waits, and says so wherever one would look.
    kubectl.apply(&both_families("late", &["late.test"]))?;
    for agent in [&one, &two] {
        let is_pending = || {
            let status = agent.get("/status").ok()?;
            mentions(&status["pending"], "late.test").then_some(status)
        };
        let status = poll::until("late.test to be pending", LIMIT, is_pending)?;
        assert_eq!(status["pending"][0]["reason"], "AddressPending", "{status:#}");
        assert_eq!(status["healthy"], true, "{status:#}");
        for words in [&["status"][..], &["services"]] {
            let text = String::from_utf8(agent.ask(words)?.stdout)?;
            let line = "pending ServiceEntry default/late: late.test: no address is allocated yet";
            assert!(text.contains(line), "{words:?}: {text}");
        }
        let explained = agent.ask(&["explain", "late.test:80"])?;
        let text = String::from_utf8(explained.stdout)?;
        assert_eq!(explained.status.code(), Some(1), "{text}");
        assert!(text.contains("AddressPending") && text.contains("no address is allocated yet"), "{text}");
    }
    assert_eq!(answer(&api, &one, "late.test", "A")?, Vec::<String>::new());
    all_are_answered(&one, &two)?;

    let controller = Controller::start(&api, 9401, &[])?;
    until_answered(&api, &[&one, &two], "late.test", "240.240.0.5", "2001:2::5")?;
    until_addresses(kubectl, "one", &["one.test=240.240.0.1", "one.test=2001:2::1"])?;
    controller.stop()?;
    one.stop()?;
    two.stop()?;
    drop((one, two));
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
