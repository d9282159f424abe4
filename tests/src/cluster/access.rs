//! Who may use the API server, and how they reach it.
//!
//! In: a folder. Out: a file of tokens for the API server, a kubeconfig for each user. Never: a certificate: the API
//! server makes its own, which a kubeconfig names.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

/// A user of the API server.
pub(super) struct User {
    /// Of its kubeconfig.
    pub(super) file: &'static str,
    name: &'static str,
    group: &'static str,
}

/// May do everything.
pub(super) const ADMIN: User = User { file: "admin", name: "admin", group: "system:masters" };
/// May do what the kubelet of the node `node-1` may.
pub(super) const KUBELET: User = User { file: "kubelet", name: "system:node:node-1", group: "system:nodes" };
/// May do what a scheduler may.
pub(super) const SCHEDULER: User =
    User { file: "scheduler", name: "system:kube-scheduler", group: "system:authenticated" };
/// May do what kube-proxy may.
pub(super) const PROXY: User =
    User { file: "proxy", name: "system:kube-proxy", group: "system:authenticated" };

/// The files in the run's folder.
#[derive(Clone, Debug)]
pub(super) struct Access {
    folder: PathBuf,
    /// `https://127.x.y.z:6443`.
    server: String,
}

impl Access {
    /// Writes tokens and kubeconfigs.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn write(folder: &Path, server: &str) -> anyhow::Result<Access> {
        let access = Access { folder: folder.to_owned(), server: server.to_owned() };
        fs::create_dir_all(folder.join("access"))?;
        let mut tokens = String::new();
        for user in [ADMIN, KUBELET, SCHEDULER, PROXY] {
            let token = secret();
            tokens += &format!("{token},{0},{0},\"{1}\"\n", user.name, user.group);
            access.kubeconfig(user.file, &token)?;
        }
        write_secret(&access.tokens(), &tokens)?;
        Ok(access)
    }

    /// What the API server reads.
    pub(super) fn tokens(&self) -> PathBuf {
        self.folder.join("access/tokens.csv")
    }

    /// Where the API server puts its certificate and key.
    pub(super) fn certificates(&self) -> PathBuf {
        self.folder.join("access/server")
    }

    /// The certificate that clients trust.
    pub(super) fn authority(&self) -> PathBuf {
        self.certificates().join("apiserver.crt")
    }

    /// The key by which tokens of service accounts are signed: the API server's own, so that none need be made.
    pub(super) fn token_key(&self) -> PathBuf {
        self.certificates().join("apiserver.key")
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("access/{name}.kubeconfig"))
    }

    /// Writes a kubeconfig for whom this token is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn kubeconfig(&self, name: &str, token: &str) -> anyhow::Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "kmse", "cluster": {
                "server": self.server,
                "certificate-authority": self.authority(),
                // The certificate does not know the run's address.
                "tls-server-name": "kubernetes",
            }}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": "kmse", "user": name}}],
            "current-context": name,
        });
        let path = self.file(name);
        write_secret(&path, &serde_json::to_string_pretty(&config)?)?;
        Ok(path)
    }
}

/// 32 hexadecimal digits that nobody can guess: the API server can be reached by others on this machine.
fn secret() -> String {
    let random = || std::hash::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}
