//! What decides in a cluster: etcd, the API server, and what acts for it.
//!
//! In: a network namespace. Out: servers in it that are ready, and a way to them from this machine. Never: an object of a
//! test.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;

use super::access::{self, Access};
use super::kubectl::Kubectl;
use super::{NODE_ADDRESS, SERVICES, audit, programs, relay};
use crate::clean::Run;
use crate::netns::Netns;
use crate::servers::{self, Process};

const READY: Duration = Duration::from_secs(60);
const ETCD_PORT: u16 = 2379;
const PORT: u16 = 6443;

/// etcd and the API server; later also the controllers and the scheduler.
#[derive(Debug)]
pub(super) struct ControlPlane {
    /// Dropped before what they use.
    actors: Vec<Process>,
    apiserver: Option<Process>,
    _etcd: Process,
    /// Admission plugins that are off.
    without: Vec<String>,
    netns: Netns,
    folder: PathBuf,
    pub(super) access: Access,
    pub(super) kubectl: Kubectl,
}

impl ControlPlane {
    /// Starts etcd and the API server and waits until it is ready.
    ///
    /// # Errors
    /// When one does not come up; with the end of its log.
    pub(super) fn start(run: &Run, netns: &Netns, without: &[&str]) -> anyhow::Result<ControlPlane> {
        let folder = run.folder()?;
        let etcd = start_etcd(netns, &folder)?;
        let here = SocketAddr::from((loopback_of(run)?, PORT));
        let access = Access::write(&folder, &format!("https://{here}"))?;
        let kubectl = Kubectl::new(netns, &folder, access.file(access::ADMIN.file))?;
        // The API server listens on all addresses of the namespace, so this one works there too.
        relay::start(here, netns, here)?;
        let mut control = ControlPlane {
            actors: Vec::new(),
            apiserver: None,
            _etcd: etcd,
            without: without.iter().map(|name| (*name).to_owned()).collect(),
            netns: netns.clone(),
            folder,
            access,
            kubectl,
        };
        control.start_apiserver()?;
        Ok(control)
    }

    /// Starts the API server if it does not run, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up; with the end of its log.
    pub(super) fn start_apiserver(&mut self) -> anyhow::Result<()> {
        let mut command = self.netns.command(programs::program("kube-apiserver")?);
        // It shares its cores with all that is tested, and a third of its time would go into collecting garbage.
        command.env("GOGC", "400");
        let path = |path: PathBuf| path.display().to_string();
        let key = path(self.access.token_key());
        command.args([
            format!("--etcd-servers=http://127.0.0.1:{ETCD_PORT}"),
            format!("--secure-port={PORT}"),
            format!("--advertise-address={NODE_ADDRESS}"),
            format!("--cert-dir={}", path(self.access.certificates())),
            format!("--token-auth-file={}", path(self.access.tokens())),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--disable-admission-plugins={}", self.without.join(",")),
        ]);
        command.args(audit::flags(&self.folder)?);
        let mut process = Process::start(&mut command, &self.folder.join("kube-apiserver.log"))?;
        let accepts = || servers::accepts(&self.netns, (Ipv4Addr::LOCALHOST, PORT).into());
        process.ready("the API server to listen", READY, accepts)?;
        let ready = || self.kubectl.run(&["get", "--raw", "/readyz"]).is_ok();
        process.ready("the API server to be ready", READY, ready)?;
        self.apiserver = Some(process);
        Ok(())
    }

    /// Ends the API server, as a crash does: connections to it break, and new ones are refused.
    pub(super) fn kill_apiserver(&mut self) {
        if let Some(server) = self.apiserver.take() {
            let _ = server.signal(Signal::SIGKILL);
        }
    }

    /// Starts the controllers and the scheduler.
    ///
    /// # Errors
    /// When they cannot be started.
    pub(super) fn start_actors(&mut self) -> anyhow::Result<()> {
        let kubeconfig =
            |user: &access::User| format!("--kubeconfig={}", self.access.file(user.file).display());
        let mut controllers = self.netns.command(programs::program("kube-controller-manager")?);
        controllers.arg(kubeconfig(&access::ADMIN));
        controllers.arg(format!("--root-ca-file={}", self.access.authority().display()));
        controllers.arg(format!("--service-account-private-key-file={}", self.access.token_key().display()));
        // After an absence of the API server, an old lease is not the node's fault.
        controllers.arg("--node-monitor-grace-period=10m");
        // It makes the folder, and its own choice is not in the run's.
        controllers.arg(format!("--flex-volume-plugin-dir={}", self.folder.join("plugins").display()));
        let mut scheduler = self.netns.command(programs::program("kube-scheduler")?);
        scheduler.arg(kubeconfig(&access::SCHEDULER));
        for (command, log) in [(&mut controllers, "controllers.log"), (&mut scheduler, "scheduler.log")] {
            command.arg("--leader-elect=false");
            let process = self.spawn(command, log)?;
            self.actors.push(process);
        }
        Ok(())
    }

    /// A kubeconfig with a token of a service account.
    ///
    /// # Errors
    /// When the account is not there.
    pub(super) fn kubeconfig_of(&self, namespace: &str, account: &str) -> anyhow::Result<PathBuf> {
        let token = self.kubectl.run(&["-n", namespace, "create", "token", account, "--duration=24h"])?;
        self.access.kubeconfig(&format!("{namespace}-{account}"), token.trim())
    }

    fn spawn(&self, command: &mut Command, log: &str) -> anyhow::Result<Process> {
        Process::start(command, &self.folder.join(log))
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Asked to end, it would wait for an etcd that may be gone.
        self.kill_apiserver();
    }
}

fn start_etcd(netns: &Netns, folder: &std::path::Path) -> anyhow::Result<Process> {
    let mut command = netns.command(programs::program("etcd")?);
    let (clients, peers) = (format!("http://127.0.0.1:{ETCD_PORT}"), "http://127.0.0.1:2380");
    command.arg("--data-dir").arg(folder.join("etcd"));
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]);
    command.args(["--initial-cluster", &format!("default={peers}")]);
    let mut process = Process::start(&mut command, &folder.join("etcd.log"))?;
    let accepts = || servers::accepts(netns, (Ipv4Addr::LOCALHOST, ETCD_PORT).into());
    process.ready("etcd", READY, accepts)?;
    Ok(process)
}

/// An address of the machine's loopback network that no other run has.
fn loopback_of(run: &Run) -> anyhow::Result<Ipv4Addr> {
    let id = u32::from_str_radix(run.id(), 16).context("a run's id is a number")?;
    let [_, second, third, fourth] = id.to_be_bytes();
    // 127.0.x.y is what others use.
    Ok(Ipv4Addr::new(127, second | 1, third, fourth.clamp(1, 254)))
}
