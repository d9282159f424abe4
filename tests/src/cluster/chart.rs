//! kmesh-se on a cluster as its users have it: an image of the agent, brought, changed and taken away by the Helm chart.
//!
//! In: a cluster. Out: releases of the chart, and what they leave on the node. Never: an agent that is started by other means.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{ApiServer, Cluster, Kubectl, programs};
use crate::bpf::Objects;
use crate::{agent, oci, poll};

/// The image that the chart's values name, without a tag.
const REPOSITORY: &str = "localhost/kmesh-se";
/// The tag that the chart's values mean.
pub const TAG: &str = env!("CARGO_PKG_VERSION");
/// An archive of that image, to take instead of one that is packed of the program under test.
pub const IMAGE_VARIABLE: &str = "KMSE_IMAGE";
/// The release, and the namespace where it is.
const RELEASE: &str = "kmesh-se";
/// Where the chart mounts what is below `/sys/fs/cgroup` on the node.
const CGROUPS: [&str; 2] = ["/sys/fs/cgroup", "/host/cgroup"];
/// How long a command of Helm may take: `--wait` gives up after 300 s.
const HELM: Duration = Duration::from_secs(360);
/// How long pods may need to go.
const GONE: Duration = Duration::from_secs(180);

/// Helm, on the cluster of an API server.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    folder: PathBuf,
}

impl Helm {
    /// With settings of its own.
    ///
    /// # Errors
    /// When it was not built.
    pub fn of(api: &ApiServer) -> anyhow::Result<Helm> {
        let program = programs::program("helm")?;
        let kubeconfig = api.kubectl().kubeconfig().to_owned();
        Ok(Helm { program, kubeconfig, folder: api.run().folder()?.join("helm") })
    }

    /// Runs it to its end, which may be bad.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, words: &[&str]) -> anyhow::Result<Output> {
        let mut helm = Command::new(&self.program);
        helm.args(words).env("KUBECONFIG", &self.kubeconfig);
        for (variable, folder) in [("CACHE", "cache"), ("CONFIG", "config"), ("DATA", "data")] {
            helm.env(format!("HELM_{variable}_HOME"), self.folder.join(folder));
        }
        // It waits for five minutes at most.
        poll::output_within(HELM, &mut helm)
    }

    /// What it prints, if it ends well.
    ///
    /// # Errors
    /// When it does not; with what it wrote.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.output(words)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {}: {}", words.join(" "), error.trim());
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The chart's folder.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/charts/kmesh-se")
}

/// Gives the node the agent's image with this tag.
///
/// # Errors
/// When it cannot be made, or containerd refuses it.
pub fn import_image(cluster: &Cluster, tag: &str) -> anyhow::Result<()> {
    if tag == TAG
        && let Some(archive) = std::env::var_os(IMAGE_VARIABLE)
    {
        return cluster.import(Path::new(&archive));
    }
    let archive = cluster.run().folder()?.join(format!("kmesh-se-{tag}.tar"));
    let name = format!("{REPOSITORY}:{tag}");
    oci::agent_image(&name, oci::own_architecture()?, &agent::program()?)?.write(&archive)?;
    cluster.import(&archive)
}

/// The chart, installed.
#[derive(Debug)]
pub struct Release {
    helm: Helm,
    kubectl: Kubectl,
}

impl Release {
    /// Brings the image and installs the chart; the agent is ready afterwards.
    ///
    /// # Errors
    /// When it is not; with what the agent says.
    pub fn install(cluster: &Cluster) -> anyhow::Result<Release> {
        Release::install_with(cluster, &[])
    }

    /// The same with more values, as `--set` takes them.
    ///
    /// # Errors
    /// As [`Release::install`].
    pub fn install_with(cluster: &Cluster, more: &[&str]) -> anyhow::Result<Release> {
        import_image(cluster, TAG)?;
        let release = Release { helm: Helm::of(cluster)?, kubectl: cluster.kubectl().clone() };
        let pods = cluster.cgroup().display().to_string().replace(CGROUPS[0], CGROUPS[1]);
        let values = format!("extraArgs={{--attach={pods}}},controller.webhook.enabled=true");
        let values = [&[values.as_str()], more].concat().join(",");
        let began = Instant::now();
        release.helm("install", &["--create-namespace", "--wait", "--set", &values])?;
        println!("installed after {:.1?}", began.elapsed());
        Ok(release)
    }

    /// `helm upgrade` with another value, until it is everywhere.
    ///
    /// # Errors
    /// When it does not come so far; with what the agent says.
    pub fn upgrade(&self, value: &str) -> anyhow::Result<()> {
        self.helm("upgrade", &["--reuse-values", "--wait", "--set", value])
    }

    fn helm(&self, verb: &str, words: &[&str]) -> anyhow::Result<()> {
        let chart = chart().display().to_string();
        let words = [&[verb, RELEASE, &chart, "-n", RELEASE], words].concat();
        self.helm.run(&words).map(drop).with_context(|| self.agents())
    }

    /// What the agents' pods say, for the message of a failure.
    pub fn agents(&self) -> String {
        let about = |words: &[&str]| {
            self.kubectl.run(&[&["-n", RELEASE], words].concat()).unwrap_or_else(|error| format!("{error:#}"))
        };
        let pods = about(&["describe", "pods"]);
        let logs = about(&[
            "logs",
            "-l",
            "app.kubernetes.io/name=kmesh-se",
            "--all-containers",
            "--prefix",
            "--tail=40",
        ]);
        format!("{pods}\n{logs}")
    }

    /// The names of the agents' pods, and the image of each.
    ///
    /// # Errors
    /// When the API server does not say.
    pub fn pods(&self) -> anyhow::Result<Vec<(String, String)>> {
        let of_agents = "app.kubernetes.io/component!=controller";
        let pods = self.kubectl.json(&["-n", RELEASE, "get", "pods", "-l", of_agents])?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pod =
            |pod: &Value| (text(&pod["metadata"]["name"]), text(&pod["spec"]["containers"][0]["image"]));
        Ok(pods["items"].as_array().into_iter().flatten().map(pod).collect())
    }

    /// What the running agent answers to a command, asked from the node: the way of kubectl takes longer.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn ask(&self, cluster: &Cluster, command: &str) -> anyhow::Result<Value> {
        let program = agent::program()?.display().to_string();
        let output = poll::output(&mut cluster.on_node(&program, &[command, "-o", "json"]))?;
        let error = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).with_context(|| format!("kmesh-se {command}: {error}"))
    }

    /// Cleans the node and uninstalls the chart, as `docs/operations.md` says it; nothing may be left.
    ///
    /// # Errors
    /// When something is.
    pub fn remove(self, cluster: &Cluster) -> anyhow::Result<()> {
        let objects = Objects::of(cluster.cgroup())?;
        ensure!(!objects.programs.is_empty() && !files(cluster)?.is_empty(), "the agent is not at work");
        self.upgrade("mode=cleanup")?;
        let left = files(cluster)?;
        ensure!(left.is_empty(), "left on the node: {left}");
        // The kernel frees them a moment after the last that refers to them.
        let freed = || objects.alive().is_empty().then_some(());
        poll::until("the programs and maps to be gone", GONE, freed)
            .with_context(|| objects.alive().join("\n"))?;
        self.helm.run(&["uninstall", RELEASE, "-n", RELEASE, "--wait"])?;
        poll::until("the agents' pods to be gone", GONE, || self.pods().ok()?.is_empty().then_some(()))
    }
}

/// Pins, files and routes of an agent, as the node sees them.
///
/// # Errors
/// When nobody can look.
fn files(cluster: &Cluster) -> anyhow::Result<String> {
    let look = "ls -d /sys/fs/bpf/kmesh-se /run/kmesh-se /var/lib/kmesh-se 2>/dev/null; ip route show proto 107; \
                ip -6 route show proto 107; true";
    let output = poll::output(&mut cluster.on_node("sh", &["-c", look]))?;
    Ok(String::from_utf8(output.stdout)?)
}
