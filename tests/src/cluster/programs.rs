//! The programs of a cluster: Kubernetes' own, CoreDNS, etcd, containerd and theirs.
//!
//! In: a name. Out: a path. Never: a program from elsewhere than these places.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::stage::tools_folder;

/// A folder with programs that are taken instead of those that `cargo xtask cluster` built.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Where `cargo xtask cluster` puts the programs that it builds.
pub fn built_folder() -> PathBuf {
    tools_folder().join("cluster")
}

/// The Go module that holds Istio's definitions of its own kinds, which tests apply beside ours.
pub const ISTIO_API: &str = "istio.io/api@v1.31.4";

/// The Go module that holds the definitions of the Gateway API.
pub const GATEWAY_API: &str = "sigs.k8s.io/gateway-api@v1.6.3";

/// The cache of Go modules that are not built but read.
pub fn modules_folder() -> PathBuf {
    tools_folder().join("go")
}

/// Istio's definitions, where `cargo xtask cluster` puts them.
pub fn istios_definitions() -> PathBuf {
    modules_folder().join(ISTIO_API).join("kubernetes/customresourcedefinitions.gen.yaml")
}

/// The Gateway API's definitions that we read, its standard ones, where `cargo xtask cluster` puts them.
pub fn gateway_definitions() -> [PathBuf; 3] {
    let folder = modules_folder().join(GATEWAY_API).join("config/crd/standard");
    ["gatewayclasses", "gateways", "httproutes"]
        .map(|kind| folder.join(format!("gateway.networking.k8s.io_{kind}.yaml")))
}

/// Where a program is: in `$KUBEBUILDER_ASSETS`, among those that were built, in PATH or where root's are.
pub fn find(name: &str) -> Option<PathBuf> {
    given(name).or_else(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::iter::once(built_folder())
            .chain(std::env::split_paths(&path))
            .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
            .map(|folder| folder.join(name))
            .find(|file| file.is_file())
    })
}

/// The program of this name in `$KUBEBUILDER_ASSETS`.
pub fn given(name: &str) -> Option<PathBuf> {
    let file = Path::new(&std::env::var_os(ASSETS)?).join(name);
    file.is_file().then_some(file)
}

/// The same as [`find`].
///
/// # Errors
/// When it is nowhere; the message says how to get it.
pub(super) fn program(name: &str) -> anyhow::Result<PathBuf> {
    find(name).with_context(|| format!("no {name}: `cargo xtask cluster` builds or installs it"))
}
