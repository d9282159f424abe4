//! `cargo xtask cluster`: a real Kubernetes cluster of one node, and the tests on it.
//!
//! In: Kubernetes' programs, or the Go modules that they are built from. Out: the tests' output and their number, or a
//! cluster to play with. Never: anything left behind.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tests::clean;
use tests::cluster::chart::IMAGE_VARIABLE;
use tests::cluster::{Cluster, OUTSIDE_ADDRESS};

use crate::image;
use crate::setup::{self, Verbosity};
use crate::test::{self, Count};
use crate::workspace;

/// How soon Ctrl-C is seen.
const TICK: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Bring the cluster up with the tutorial's workloads, say how to use it, and stay until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Test the image of `cargo xtask image`: what a release is, not what builds fast
    #[arg(long, conflicts_with = "keep")]
    release: bool,
    /// A folder with kube-apiserver, etcd, kubelet …: what is in it is not built [env: KUBEBUILDER_ASSETS]
    #[arg(long, value_name = "DIR")]
    assets: Option<PathBuf>,
    /// Passed on to the tests: a part of a name, `--nocapture`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the cluster tests, or a cluster to play with; the answer is whether all went well.
///
/// # Errors
/// When the machine lacks something, or something does not build or come up.
pub(crate) fn cluster(options: &Options) -> anyhow::Result<bool> {
    clean::need_root()?;
    if let Some(assets) = &options.assets {
        return start_again_with(assets.canonicalize()?, options);
    }
    // What Pods run is made of what the other tests run.
    setup::setup(Verbosity::Changes)?;
    if options.keep {
        setup::cluster()?;
        return keep();
    }
    let mut cargo = test::cargo();
    if options.release {
        let image = image::image(&image::Options::default())?;
        cargo.env("KMESH_SE_BIN", image.program).env(IMAGE_VARIABLE, image.archive);
    } else {
        cargo.env("KMESH_SE_BIN", workspace::build_agent(false)?);
    }
    setup::cluster()?;
    // Tests of waypoints say that they are skipped.
    if let Err(error) = setup::waypoints(Verbosity::Changes) {
        println!("{error:#}");
    }
    for tests in [
        "cluster",
        "cluster_pods",
        "cluster_tutorial",
        "cluster_upgrade",
        "cluster_waypoints",
        "controller",
        "kube_source",
        "manifests",
    ] {
        cargo.args(["--test", tests]);
    }
    cargo.args(["--", "--include-ignored"]).args(&options.arguments);
    test::run(&mut cargo, Count::default())
}

/// Everything that looks for programs knows a folder of them by the environment.
fn start_again_with(assets: PathBuf, options: &Options) -> anyhow::Result<bool> {
    let mut own = std::process::Command::new(std::env::current_exe()?);
    let switches = [(options.keep, "--keep"), (options.release, "--release")];
    let switches = switches.into_iter().filter_map(|(is_given, switch)| is_given.then_some(switch));
    own.arg("cluster").args(switches).args(&options.arguments);
    Err(own.env("KUBEBUILDER_ASSETS", assets).exec()).context("cannot start xtask again")
}

fn keep() -> anyhow::Result<bool> {
    let began = Instant::now();
    let mut cluster = Cluster::start(&[("httpbin.org", OUTSIDE_ADDRESS)])?;
    cluster.start_outside_httpbin(&[80])?;
    cluster.start_workloads("default")?;
    clean::expect_signal();
    println!("cluster: up after {:.1} s\n{}", began.elapsed().as_secs_f64(), hints(&cluster));
    while !clean::interrupted() {
        std::thread::sleep(TICK);
    }
    println!("\ncluster: stopping");
    let left = cluster.end();
    left.iter().for_each(|what| println!("cluster: left behind: {what}"));
    if left.is_empty() {
        println!("cluster: nothing is left behind");
    }
    Ok(left.is_empty())
}

/// What to type in another terminal, as it must be typed.
fn hints(cluster: &Cluster) -> String {
    let kubectl = cluster.kubectl();
    let program = kubectl.program().display();
    let node = cluster.on_node("sh", &[]);
    let node = node.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let lines = [
        ("this cluster", format!("export KUBECONFIG={}", kubectl.kubeconfig().display())),
        ("what runs", format!("{program} get pods -A -o wide")),
        ("a client", format!("{program} exec deploy/sleep -- curl -s http://httpbin:8000/headers")),
        ("a shell on the node", format!("nsenter {node}")),
        ("its cgroup", cluster.cgroup().display().to_string()),
    ];
    let width = lines.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let lines = lines.map(|(what, line)| format!("  {what:<width$}  {line}\n"));
    format!("\nIn another terminal (Ctrl-C here ends all of it):\n{}", lines.concat())
}
