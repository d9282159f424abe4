//! The API server goes away and comes back: after a minute when `KMSE_LONG=1` is in the environment, else after a moment.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tests::is_long;
use tests::servers::Echo;
use tests::topology::BACKEND;

use super::{CRDS, Scene, admin, entry};

/// Clients that dial an address again and again until they are ended.
struct Load {
    client: Child,
    log: std::path::PathBuf,
}

impl Load {
    fn start(scene: &Scene, address: &str) -> anyhow::Result<Load> {
        let log = scene.api.run().folder()?.join("load.log");
        let words = scene.agent.exec();
        let mut command: Command = scene.api.netns().command(&words[0]);
        let curl = format!(
            "while :; do curl -s -o /dev/null --max-time 5 http://{address}/ && echo good || echo failed; done"
        );
        command.args(&words[1..]).args(["sh", "-c", &curl]).stdin(Stdio::null());
        command.stdout(std::fs::File::create(&log)?).stderr(Stdio::null());
        let client = scene.api.run().own(&mut command).spawn()?;
        Ok(Load { client, log })
    }

    fn count(&self, word: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| *line == word).count()
    }

    /// Waits until more connections have been made.
    fn goes_on(&self) -> anyhow::Result<()> {
        let before = self.count("good");
        let more = || (self.count("good") > before + 20).then_some(());
        tests::poll::until("more connections", super::LIMIT, more)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn connections_go_on_without_the_api_server_and_changes_arrive_when_it_is_back() -> anyhow::Result<()> {
    let mut scene = Scene::start(|api| {
        api.kubectl().install_crds(CRDS)?;
        api.kubectl().apply(&entry("v1", "stays", "192.0.2.1"))?;
        api.kubectl().apply(&entry("v1", "goes", "192.0.2.2"))?;
        Ok(admin(api))
    })?;
    let _backend = Echo::start(scene.api.netns(), (BACKEND, 9000).into())?;
    scene.until_serves(&["stays.test"])?;
    scene.until_serves(&["goes.test"])?;
    let load = Load::start(&scene, "192.0.2.1")?;
    load.goes_on()?;

    let stopped = Instant::now();
    let absence = Duration::from_secs(if is_long() { 60 } else { 3 });
    scene.api.stop_apiserver();
    let message = scene.until_problem("kube", Some("ApiServerUnreachable"))?;
    assert!(message.contains("since") && message.contains("stays in use"), "{message}");
    while stopped.elapsed() < absence {
        load.goes_on()?;
    }
    scene.until_serves(&["stays.test"])?;

    // Changes that the agent cannot see happen. The server has forgotten what was before, so that every watch is refused
    // with 410 and begins anew.
    scene.agent.process().signal(Signal::SIGSTOP)?;
    scene.api.start_apiserver()?;
    let kubectl = scene.api.kubectl();
    kubectl.apply(&entry("v1", "comes", "192.0.2.3"))?;
    kubectl.run(&["delete", "serviceentry", "goes"])?;
    load.goes_on()?;
    scene.agent.process().signal(Signal::SIGCONT)?;
    scene.until_serves(&["comes.test"])?;
    scene.agent.until_serves("goes.test", false)?;
    scene.until_problem("kube", None)?;
    load.goes_on()?;
    assert_eq!(load.count("failed"), 0);
    println!("no API server for {absence:?}: {} connections, none failed", load.count("good"));
    let log = scene.agent.process().output();
    assert!(log.contains("the watch has fallen behind"), "{log}");
    drop(load);
    scene.end()
}
