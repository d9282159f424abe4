//! Services that labels bind to the waypoint of a node: a real agent, a real Envoy, the tutorial's servers.

#[path = "waypoint/changes.rs"]
mod changes;
#[path = "waypoint/requests.rs"]
mod requests;
#[path = "waypoint/through.rs"]
mod through;

use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::bench::Envoy;
use tests::poll;
use tests::stage::{Stage, tools_folder};
use tests::topology::{Options, SLEEP};
use tests::tutorial;
use tests::waypoint::Waypoint;

/// How long something may take that is meant to be at once.
const LIMIT: Duration = Duration::from_secs(10);
/// The label that binds all services of the tutorial's namespace.
const NAMESPACE: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio.io/use-waypoint: waypoint}}\n";

/// The tutorial's entries, and these files besides, on a node with a waypoint, whose Envoy is called by a link that a test can take
/// away. None where there is no Envoy; that is told.
fn stage(files: &[(&str, &str)], more: &[&str]) -> anyhow::Result<Option<Stage>> {
    if !Waypoint::is_possible() {
        return Ok(None);
    }
    let envoy = Envoy::program().context("Envoy is not installed")?;
    let entries = tutorial::entries()?;
    let mut all: Vec<_> = entries.iter().map(|(name, text)| (*name, text.as_str())).collect();
    all.extend_from_slice(files);
    let mut linked = Ok(());
    let stage = Stage::start_with(Options::default(), &all, |flags| {
        let link = flags.state.with_file_name("envoy");
        linked = std::os::unix::fs::symlink(&envoy, &link);
        flags.more.extend(["--waypoint-envoy".to_owned(), link.display().to_string()]);
        flags.more.extend(more.iter().map(|word| (*word).to_owned()));
    })?;
    linked?;
    Ok(Some(stage))
}

/// Where the link to the Envoy is.
fn link(stage: &Stage) -> PathBuf {
    stage.agent.flags().state.with_file_name("envoy")
}

fn waypoint(stage: &Stage) -> anyhow::Result<Value> {
    Ok(stage.agent.get("/status")?["waypoint"].clone())
}

fn pid(stage: &Stage) -> anyhow::Result<Pid> {
    let pid = waypoint(stage)?["pid"].as_i64().context("the waypoint does not run")?;
    Ok(Pid::from_raw(i32::try_from(pid)?))
}

/// The head of what curl is answered.
fn head(stage: &Stage, url: &str) -> anyhow::Result<(bool, String)> {
    stage.says(true, &["curl", "-IsS", "--max-time", "5", url])
}

fn goes_through(stage: &Stage, url: &str) -> anyhow::Result<bool> {
    let (well, head) = head(stage, url)?;
    anyhow::ensure!(well, "curl {url} failed\n{}", stage.agent.log_tail());
    Ok(head.lines().any(|line| line.trim_end() == "server: envoy"))
}

/// `TYPE REASON` of each condition of a host's services.
fn conditions(stage: &Stage, host: &str) -> anyhow::Result<Vec<String>> {
    let services = stage.agent.get("/services")?;
    let rows = services["services"].as_array().into_iter().flatten().filter(|row| row["host"] == host);
    let conditions = rows.flat_map(|row| row["conditions"].as_array().into_iter().flatten());
    Ok(conditions
        .filter_map(|c| Some(format!("{} {}", c["status"].as_str()?, c["reason"].as_str()?)))
        .collect())
}

/// The port of each service's listener, by host.
fn listener_ports(stage: &Stage) -> anyhow::Result<Vec<(String, u64)>> {
    let services = stage.agent.get("/services")?;
    let rows = services["services"].as_array().into_iter().flatten();
    let port = |row: &Value| Some((row["host"].as_str()?.to_owned(), row["backends"][0]["port"].as_u64()?));
    Ok(rows.filter_map(port).collect())
}

/// A client that asks without a pause, each time by a new connection.
struct Load {
    child: Child,
    stop: PathBuf,
    /// Has a byte for each answer.
    answers: PathBuf,
}

/// Asks for a host until a file is there, and notes each answer in another; prints how often it was answered, and each failure.
const ASKS: &str = r#"
import http.client, os, sys, threading
host, stop, answers = sys.argv[1:]
answers = os.open(answers, os.O_WRONLY | os.O_APPEND)
answered, failed = [0] * 4, []
def ask(i):
    while not os.path.exists(stop):
        try:
            connection = http.client.HTTPConnection(host, timeout=5)
            connection.request("GET", "/status/200")
            status = connection.getresponse().status
            connection.close()
            if status == 200:
                answered[i] += 1
                os.write(answers, b".")
            else: failed.append(f"status {status}")
        except Exception as error:
            failed.append(repr(error))
threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sum(answered), len(failed), *sorted(set(failed))[:5])
"#;

impl Load {
    fn start(stage: &Stage, host: &str) -> anyhow::Result<Load> {
        let (stop, answers) = (stage.run.folder()?.join("stop-load"), stage.run.folder()?.join("answers"));
        std::fs::write(&answers, "")?;
        let python = tools_folder().join("httpbin/bin/python3").display().to_string();
        let (told, noted) = (stop.display().to_string(), answers.display().to_string());
        let mut client = stage.client(true, &[&python, "-c", ASKS, host, &told, &noted]);
        let child = client.stdout(std::process::Stdio::piped()).spawn()?;
        let load = Load { child, stop, answers };
        // It is at work before anything changes.
        load.goes_on()?;
        Ok(load)
    }

    /// Waits for a hundred more answers.
    fn goes_on(&self) -> anyhow::Result<()> {
        let count = || Ok::<_, std::io::Error>(self.answers.metadata()?.len());
        let before = count()?;
        until("a hundred answers", || Ok(count()? >= before + 100))
    }

    /// How many were answered; all of them must have been.
    fn stop(self) -> anyhow::Result<u32> {
        std::fs::write(&self.stop, "")?;
        let output = self.child.wait_with_output()?;
        std::fs::remove_file(&self.stop)?;
        std::fs::remove_file(&self.answers)?;
        let told = String::from_utf8(output.stdout)?;
        let mut words = told.split_whitespace();
        let answered = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        anyhow::ensure!(answered > 0 && words.next() == Some("0"), "answered and failed: {told}");
        Ok(answered)
    }
}

/// Takes the Envoy away for good: nobody can start it, and the one that runs is killed.
fn take_away(stage: &Stage) -> anyhow::Result<PathBuf> {
    let link = link(stage);
    let target = std::fs::read_link(&link)?;
    std::fs::remove_file(&link)?;
    kill(pid(stage)?, Signal::SIGKILL)?;
    Ok(target)
}

fn until(what: &str, condition: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    poll::until(what, LIMIT, || condition().ok().filter(|so| *so).map(|_| ()))
}
