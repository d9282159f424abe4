//! Container images as OCI archives, without a daemon, a registry or root.
//!
//! In: an image's settings and its layers. Out: one tar file in the OCI image layout, which `ctr images import`, `skopeo`
//! and `docker load` read. Never: a byte that differs between two archives of the same contents.

mod agent;
mod layer;
mod libraries;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use self::agent::agent_image;
pub use self::layer::{Layer, Owner};
pub use self::libraries::libraries_of;

/// What a container of the image starts with, and what it sees.
#[derive(Debug, Default)]
pub struct Image {
    /// The full name with its registry, as Kubernetes and containerd write it: `docker.io/library/sleep:test`.
    pub name: String,
    /// As Go calls it: `amd64`, `arm64`.
    pub architecture: &'static str,
    /// The program and the arguments that are always there.
    pub entrypoint: Vec<String>,
    /// Arguments that a container may replace.
    pub arguments: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// `uid:gid`; root if empty.
    pub user: String,
    /// Where the program starts; `/` if empty.
    pub folder: String,
    /// Name and value.
    pub labels: Vec<(String, String)>,
    /// The lowest first.
    pub layers: Vec<Layer>,
}

/// A document or a layer, as it lies in the archive.
struct Blob {
    media_type: &'static str,
    bytes: Vec<u8>,
}

impl Blob {
    fn document(media_type: &'static str, value: &Value) -> anyhow::Result<Blob> {
        Ok(Blob { media_type, bytes: serde_json::to_vec(value)? })
    }

    fn digest(&self) -> String {
        digest(&Sha256::digest(&self.bytes))
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest().replace(':', "/"))
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len()})
    }
}

impl Image {
    /// Writes the archive.
    ///
    /// # Errors
    /// When the name has no tag, a file of a layer cannot be read, or `archive` cannot be written.
    pub fn write(&self, archive: &Path) -> anyhow::Result<()> {
        let Some((_, tag)) = self.name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) else {
            bail!("the image's name {} has no tag", self.name);
        };
        let mut layers = Vec::new();
        let mut unpacked = Vec::new();
        for layer in &self.layers {
            let packed = layer.pack()?;
            unpacked.push(packed.unpacked);
            let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
            layers.push(Blob { media_type, bytes: packed.bytes });
        }
        let config =
            Blob::document("application/vnd.oci.image.config.v1+json", &self.configuration(&unpacked))?;
        let manifest = Blob::document(
            "application/vnd.oci.image.manifest.v1+json",
            &json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config.descriptor(),
                "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
            }),
        )?;
        let mut entry = manifest.descriptor();
        entry["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        // The second is what containerd and docker read; without it an import has no name.
        entry["annotations"] =
            json!({"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": self.name});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });
        // For docker without containerd's image store, which knows the names of a layout by this file only.
        let docker = json!([{
            "Config": config.path(),
            "RepoTags": [self.name],
            "Layers": layers.iter().map(Blob::path).collect::<Vec<_>>(),
        }]);
        let mut files = vec![
            ("index.json".to_owned(), serde_json::to_vec(&index)?),
            ("manifest.json".to_owned(), serde_json::to_vec(&docker)?),
            ("oci-layout".to_owned(), serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?),
        ];
        files.extend([config, manifest].into_iter().chain(layers).map(|blob| (blob.path(), blob.bytes)));
        files.sort();
        // Two layers can be the same.
        files.dedup();
        write(&files, archive).with_context(|| format!("cannot write {}", archive.display()))
    }

    fn configuration(&self, unpacked: &[String]) -> Value {
        let mut config = json!({});
        let mut set = |name: &str, value: Value| {
            let is_empty = value == json!("") || value == json!([]) || value == json!({});
            if !is_empty {
                config[name] = value;
            }
        };
        set("Entrypoint", json!(self.entrypoint));
        set("Cmd", json!(self.arguments));
        set("Env", json!(self.env));
        set("User", json!(self.user));
        set("WorkingDir", json!(self.folder));
        set("Labels", self.labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect());
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": unpacked},
        })
    }
}

/// `sha256:` and hexadecimal digits.
fn digest(bytes: &[u8]) -> String {
    bytes.iter().fold("sha256:".to_owned(), |mut text, byte| {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn write(files: &[(String, Vec<u8>)], archive: &Path) -> anyhow::Result<()> {
    let mut tar = tar::Builder::new(BufWriter::new(File::create(archive)?));
    for (path, bytes) in files {
        let mut header = layer::header(tar::EntryType::Regular, 0o644, Owner::ROOT);
        header.set_size(bytes.len().try_into()?);
        tar.append_data(&mut header, path, bytes.as_slice())?;
    }
    Ok(tar.into_inner()?.flush()?)
}

/// The architecture of this machine, as images name it.
///
/// # Errors
/// When it has no name here.
pub fn own_architecture() -> anyhow::Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image is made on {other}"),
    }
}

#[cfg(test)]
mod tests;
