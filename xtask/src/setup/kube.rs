//! Kubernetes' own programs, CoreDNS and helm, built from their Go modules.
//!
//! In: a module below `tests/cluster`, a Go compiler. Out: a program in `target/tools/cluster`, built again when the module
//! changes. Never: a version that the module does not name.

use std::path::{Path, PathBuf};
use std::process::Command;

use ::tests::cluster::programs;
use anyhow::{Context as _, bail};

use super::machine::{self, Machine};
use crate::workspace;

/// The oldest Go that fetches the one that a module asks for.
const GO: (u32, u32) = (1, 21);
/// What an older one fetches here.
const TOOLCHAIN: &str = "golang.org/toolchain@v0.0.1-go1.26.8.linux-";

/// All that runs in a control plane and on a node, and kubectl, in one file.
pub(super) const KUBERNETES: GoProgram = GoProgram {
    name: "kube",
    package: ".",
    links: &[
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        "kubelet",
        "kubectl",
    ],
    version: Some("k8s.io/kubernetes"),
};

/// The cluster's DNS server.
pub(super) const COREDNS: GoProgram = GoProgram { name: "coredns", package: ".", links: &[], version: None };

/// What installs charts.
pub(super) const HELM: GoProgram =
    GoProgram { name: "helm", package: "helm.sh/helm/v3/cmd/helm", links: &[], version: None };

/// A program that Go builds.
pub(super) struct GoProgram {
    /// Of the program, and of its module's folder below `tests/cluster`.
    name: &'static str,
    /// What is built, as seen from that folder.
    package: &'static str,
    /// Names by which the program is started as something else.
    links: &'static [&'static str],
    /// The module whose version Kubernetes' programs say they have.
    version: Option<&'static str>,
}

impl GoProgram {
    fn module(&self) -> PathBuf {
        workspace::root().join("tests/cluster").join(self.name)
    }

    fn target(&self) -> PathBuf {
        programs::built_folder().join(self.name)
    }

    /// Written when the program was built; holds what it was built from.
    fn stamp(&self) -> PathBuf {
        self.target().with_extension("built-from")
    }

    fn sources(&self) -> anyhow::Result<String> {
        let mut sources = String::new();
        for name in ["go.mod", "go.sum", "main.go"] {
            let path = self.module().join(name);
            // A program that needs no main of ours has none.
            if path.exists() {
                sources += &std::fs::read_to_string(path)?;
            }
        }
        Ok(sources)
    }

    pub(super) fn find(&self) -> Option<String> {
        let names = if self.links.is_empty() { &[self.name][..] } else { self.links };
        if names.iter().all(|name| programs::given(name).is_some()) {
            return Some("as given".to_owned());
        }
        let is_built = self.target().is_file()
            && std::fs::read_to_string(self.stamp()).ok()? == self.sources().ok()?
            && names.iter().all(|name| programs::built_folder().join(name).is_file());
        is_built.then(|| self.target().display().to_string())
    }

    pub(super) fn build(&self, _: &Machine) -> anyhow::Result<String> {
        std::fs::create_dir_all(programs::built_folder())?;
        let mut flags = "-s -w".to_owned();
        let mut what = self.name.to_owned();
        if let Some(module) = self.version {
            let version = self.version_of(module)?;
            for package in ["k8s.io/client-go/pkg/version", "k8s.io/component-base/version"] {
                let (major, minor) = major_and_minor(&version)?;
                flags += &format!(" -X {package}.gitVersion={version} -X {package}.gitMajor={major}");
                flags += &format!(" -X {package}.gitMinor={minor}");
            }
            what = format!("{what} {version}");
        }
        let mut go = self.go();
        go.args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &flags, "-o"]).arg(self.target());
        machine::run_logged(go.arg(self.package))?;
        for link in self.links {
            let link = programs::built_folder().join(link);
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(self.name, link)?;
        }
        std::fs::write(self.stamp(), self.sources()?)?;
        Ok(format!("built {what}"))
    }

    fn version_of(&self, module: &str) -> anyhow::Result<String> {
        let mut go = self.go();
        go.args(["list", "-m", "-f", "{{.Version}}", module]);
        machine::first_line(&mut go).with_context(|| format!("go does not know the version of {module}"))
    }

    fn go(&self) -> Command {
        let mut go = Command::new(find_go().unwrap_or_else(|| "go".into()));
        go.current_dir(self.module())
            .env("CGO_ENABLED", "0")
            .env("GOTOOLCHAIN", "auto")
            .env_remove("GOFLAGS");
        go
    }
}

/// `("1", "36")` of `v1.36.3`.
fn major_and_minor(version: &str) -> anyhow::Result<(&str, &str)> {
    let mut parts = version.trim_start_matches('v').split('.');
    let (Some(major), Some(minor)) = (parts.next(), parts.next()) else { bail!("{version} is no version") };
    Ok((major, minor))
}

/// A Go that can build the modules: the one in PATH if it is not too old, or the one that was fetched.
pub(super) fn find_go() -> Option<PathBuf> {
    ["go".into(), fetched_go().ok()?].into_iter().find(|go| is_new_enough(go))
}

fn is_new_enough(go: &Path) -> bool {
    let version = || {
        // `go version go1.26.8 linux/amd64`
        let line = machine::first_line(Command::new(go).arg("version"))?;
        let (major, minor) = major_and_minor(line.split(' ').nth(2)?.strip_prefix("go")?).ok()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    version().is_some_and(|version: (u32, u32)| version >= GO)
}

fn toolchain() -> anyhow::Result<String> {
    Ok(format!("{TOOLCHAIN}{}", ::tests::oci::own_architecture()?))
}

fn fetched_go() -> anyhow::Result<PathBuf> {
    Ok(workspace::tools().join("go").join(toolchain()?).join("bin/go"))
}

/// Has an old Go fetch a newer one, as a module: what newer ones do by themselves.
pub(super) fn fetch_go(_: &Machine) -> anyhow::Result<String> {
    let toolchain = toolchain()?;
    let mut go = Command::new("go");
    go.args(["mod", "download", &toolchain]).env("GOFLAGS", "-modcacherw");
    machine::run_logged(go.env("GOMODCACHE", workspace::tools().join("go")))?;
    // A module has no programs, only files.
    let program = fetched_go()?;
    let root = program.ancestors().nth(2).context("a toolchain has folders")?;
    let mut chmod = Command::new("chmod");
    machine::run_logged(chmod.args(["-R", "+x"]).args([root.join("bin"), root.join("pkg/tool")]))?;
    Ok(format!("fetched {toolchain}"))
}

/// A Go module that is read, not built: definitions of kinds.
pub(super) struct Definitions {
    module: &'static str,
    file: fn() -> PathBuf,
}

/// Istio's own kinds.
pub(super) const ISTIO: Definitions =
    Definitions { module: programs::ISTIO_API, file: programs::istios_definitions };

/// Those of the Gateway API.
pub(super) const GATEWAYS: Definitions =
    Definitions { module: programs::GATEWAY_API, file: || programs::gateway_definitions()[0].clone() };

impl Definitions {
    pub(super) fn find(&self) -> Option<String> {
        (self.file)().is_file().then(|| self.module.to_owned())
    }

    /// Fetches the module, by the module proxy and into a cache of our own.
    pub(super) fn fetch(&self, _: &Machine) -> anyhow::Result<String> {
        let mut go = Command::new(find_go().unwrap_or_else(|| "go".into()));
        go.args(["mod", "download", self.module]).env("GOFLAGS", "-modcacherw");
        machine::run_logged(go.env("GOMODCACHE", programs::modules_folder()))?;
        Ok(format!("fetched {}", self.module))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_two_first_parts_of_a_version() {
        assert_eq!(major_and_minor("v1.36.3").expect("a version"), ("1", "36"));
        assert_eq!(major_and_minor("1.21").expect("a version"), ("1", "21"));
        assert!(major_and_minor("devel").is_err());
    }
}
