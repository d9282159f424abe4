//! Pods of a real kubelet: enrolled before their first process, by labels, with DNS as the cluster has it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tests::agent::{mentions, program};
use tests::cluster::{Cluster, DNS_SERVICE, NODE, NODE_ADDRESS, OUTSIDE_ADDRESS, images};
use tests::entries::static_entry;
use tests::poll;
use tests::servers::Process;

const LIMIT: Duration = Duration::from_secs(120);

/// A pod whose init container connects as soon as it runs.
fn pod(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  restartPolicy: Never\n  \
         terminationGracePeriodSeconds: 0\n  initContainers:\n  - name: first\n    image: {image}\n    imagePullPolicy: Never\n    \
         command: [curl, -sf, --max-time, '10', -o, /dev/null, -w, '%{{http_code}}', 'http://virtual.test/status/200']\n  \
         containers:\n  - name: app\n    image: {image}\n    imagePullPolicy: Never\n",
        image = images::name("sleep")
    )
}

#[test]
#[ignore = "needs programs that `cargo xtask cluster` builds"]
fn pods_of_a_real_kubelet_are_enrolled_before_their_first_process() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&[])?;
    cluster.start_outside_httpbin(&[8000])?;
    let (kubectl, run) = (cluster.kubectl(), cluster.run());
    let folder = run.folder()?;
    let kmesh = program()?;
    let crds = std::process::Command::new(&kmesh).arg("crds").output()?;
    kubectl.feed(&["apply", "--server-side", "-f", "-"], &String::from_utf8(crds.stdout)?)?;
    kubectl.run(&["wait", "--for=condition=Established", "crd/serviceentries.networking.istio.io"])?;
    kubectl.apply(&static_entry("virtual", "virtual.test", &OUTSIDE_ADDRESS.to_string(), 8000))?;

    let path = |name: &str| folder.join(name).display().to_string();
    let (admin, pin) = (path("agent.sock"), format!("/sys/fs/bpf/kmse-{}", run.id()));
    let (config, cgroup) =
        (kubectl.kubeconfig().display().to_string(), cluster.cgroup().display().to_string());
    let words = [
        "agent",
        "--source",
        "kube",
        "--kubeconfig",
        &config,
        "--node",
        NODE,
        "--attach",
        &cgroup,
        "--pin",
        &pin,
        "--state",
        &path("agent-state"),
        "--admin",
        &admin,
        "--allocate-vips",
        "true",
    ];
    let mut command = cluster.on_node(&kmesh.display().to_string(), &words);
    let mut agent = Process::start(run.own(&mut command), &folder.join("agent.log"))?;
    let ask = |words: &[&str]| -> Option<Value> {
        let output = std::process::Command::new(&kmesh)
            .args(words)
            .args(["-o", "json", "--admin", &admin])
            .output()
            .ok()?;
        serde_json::from_slice(&output.stdout).ok()
    };
    agent.ready("the agent to answer the name", LIMIT, || {
        ask(&["names"]).is_some_and(|names| mentions(&names, "virtual.test"))
    })?;
    let status = ask(&["status"]).context("no status")?;
    assert!(mentions(&status["dns"], &NODE_ADDRESS.to_string()), "{status:#}");
    assert!(mentions(&status["dns"]["resolvers"], DNS_SERVICE), "{status:#}");

    kubectl.run(&["create", "namespace", "shop"])?;
    kubectl.run(&["label", "namespace", "shop", "istio.io/dataplane-mode=Kmesh"])?;
    cluster.start_workloads("default")?;
    let check = |names: &[String]| -> anyhow::Result<()> {
        for name in names {
            kubectl
                .run(&[
                    "-n",
                    "shop",
                    "wait",
                    "--for=condition=Initialized",
                    "--timeout=120s",
                    &format!("pod/{name}"),
                ])
                .with_context(|| agent.output())?;
            let code = kubectl.run(&["-n", "shop", "logs", name, "-c", "first"])?;
            ensure!(code.trim() == "200", "{name}: {code:?}\n{}", agent.output());
        }
        Ok(())
    };
    for number in 0..5 {
        let name = format!("one-{number}");
        kubectl.apply(&pod(&name))?;
        check(&[name])?;
    }
    let names: Vec<_> = (0..10).map(|number| format!("many-{number}")).collect();
    kubectl.apply(&names.iter().map(|name| pod(name)).collect::<String>())?;
    check(&names)?;

    // A pod that runs: labels take effect both ways without a restart; one that is not labelled is untouched.
    let reaches = || -> anyhow::Result<bool> {
        let curl = ["curl", "-s", "--max-time", "3", "-o", "/dev/null", "http://virtual.test/status/200"];
        Ok(kubectl.exec("deploy/sleep", &curl)?.status.success())
    };
    assert!(!reaches()?);
    for (label, wanted) in [("istio.io/dataplane-mode=Kmesh", true), ("istio.io/dataplane-mode-", false)] {
        kubectl.run(&["label", "namespace", "default", label])?;
        let labelled = Instant::now();
        poll::until("the label to take effect", LIMIT, || {
            let rows = ask(&["workloads"])?;
            let is_enrolled = mentions(&rows["workloads"], "default/sleep");
            (is_enrolled == wanted).then_some(())
        })?;
        println!("{label} took effect after {:?}", labelled.elapsed());
        assert_eq!(reaches()?, wanted);
    }
    println!("{:#}", ask(&["status"]).context("no status")?["pods"]);
    drop(agent);
    assert_eq!(cluster.end(), Vec::<String>::new());
    Ok(())
}
