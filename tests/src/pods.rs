//! Pods as a kubelet makes them, without Kubernetes: directories of the cgroup tree, and processes in them.
//!
//! In: a cgroup of a run. Out: the pods' cgroups, and their objects as YAML. Never: a cgroup outside of it.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// Who makes the directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `kubepods/burstable/pod<id>`
    Cgroupfs,
    /// `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<id>.slice`
    Systemd,
}

/// The class of a pod's quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub enum Class {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// What makes cgroups of pods below one.
#[derive(Clone, Debug)]
pub struct Kubelet {
    root: PathBuf,
    driver: Driver,
}

impl Kubelet {
    /// With its first directory in `root`; nothing is made yet.
    pub fn new(root: &Path, driver: Driver) -> Kubelet {
        Kubelet { root: root.to_owned(), driver }
    }

    /// Makes the directories of all classes, as a kubelet does when it starts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start(&self) -> anyhow::Result<()> {
        for class in [Class::Burstable, Class::BestEffort] {
            let directory = self.directory(class);
            fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        Ok(())
    }

    fn directory(&self, class: Class) -> PathBuf {
        match (self.driver, class) {
            (Driver::Cgroupfs, Class::Guaranteed) => self.root.join("kubepods"),
            (Driver::Cgroupfs, Class::Burstable) => self.root.join("kubepods/burstable"),
            (Driver::Cgroupfs, Class::BestEffort) => self.root.join("kubepods/besteffort"),
            (Driver::Systemd, Class::Guaranteed) => self.root.join("kubepods.slice"),
            (Driver::Systemd, Class::Burstable) => self.root.join("kubepods.slice/kubepods-burstable.slice"),
            (Driver::Systemd, Class::BestEffort) => {
                self.root.join("kubepods.slice/kubepods-besteffort.slice")
            }
        }
    }

    /// Where the cgroup of `pod` is.
    pub fn path(&self, class: Class, pod: &Pod) -> PathBuf {
        let directory = self.directory(class);
        match self.driver {
            Driver::Cgroupfs => directory.join(format!("pod{}", pod.id)),
            Driver::Systemd => {
                let before = directory.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                directory.join(format!("{before}-pod{}.slice", pod.id.replace('-', "_")))
            }
        }
    }

    /// Makes the cgroup of `pod`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make(&self, class: Class, pod: &Pod) -> anyhow::Result<Group> {
        let path = self.path(class, pod);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Group { path })
    }
}

/// The cgroup of a pod.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its directory.
    pub path: PathBuf,
}

impl Group {
    /// Has `command` begin in a container of this pod.
    ///
    /// # Errors
    /// When the container's cgroup cannot be made.
    pub fn begin(&self, command: &mut Command) -> anyhow::Result<()> {
        let container = self.path.join("container");
        if !container.is_dir() {
            fs::create_dir(&container).with_context(|| format!("cannot make {}", container.display()))?;
        }
        let processes = File::options().write(true).open(container.join("cgroup.procs"))?;
        // SAFETY: between fork and exec it makes one system call and allocates nothing.
        unsafe { command.pre_exec(move || (&processes).write_all(b"0")) };
        Ok(())
    }

    /// Removes it, as the kubelet does when the pod's processes are gone.
    pub fn remove(&self) {
        crate::cgroup::remove(&self.path);
    }
}

/// A Pod object.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Labels, as `key: value`.
    pub labels: Vec<String>,
    /// Lines of its `spec`, indented by two.
    pub spec: String,
    /// Its phase.
    pub phase: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Pod {
    /// One that has not begun, whose id is made of this number.
    pub fn new(namespace: &str, name: &str, number: u32) -> Pod {
        Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            id: format!("{number:08x}-6f0e-4a55-9d3e-5b0c2f1e7a9b"),
            labels: Vec::new(),
            spec: "  containers:\n  - name: app\n".to_owned(),
            phase: "Pending".to_owned(),
            addresses: Vec::new(),
        }
    }

    /// The object as the API server shows it.
    pub fn yaml(&self) -> String {
        let Pod { namespace, name, id, spec, phase, .. } = self;
        let labels: String = self.labels.iter().map(|label| format!("    {label}\n")).collect();
        let labels = if labels.is_empty() { labels } else { format!("  labels:\n{labels}") };
        let addresses: String = self.addresses.iter().map(|address| format!("  - ip: {address}\n")).collect();
        let addresses = if addresses.is_empty() { addresses } else { format!("  podIPs:\n{addresses}") };
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  uid: {id}\n{labels}\
             spec:\n{spec}status:\n  phase: {phase}\n{addresses}"
        )
    }
}

/// A Namespace object whose data plane is `mode`.
pub fn namespace(name: &str, mode: Option<&str>) -> String {
    let label =
        mode.map_or_else(String::new, |mode| format!("  labels:\n    istio.io/dataplane-mode: {mode}\n"));
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n{label}")
}
