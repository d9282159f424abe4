use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use flate2::read::GzDecoder;
use oci_spec::image::{Arch, ImageConfiguration, ImageIndex, ImageManifest};

use super::*;

fn read(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut tar = tar::Archive::new(File::open(archive).expect("the archive"));
    let entries = tar.entries().expect("entries").map(|entry| {
        let mut entry = entry.expect("an entry");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its bytes");
        (entry.path().expect("a path").display().to_string(), bytes)
    });
    entries.collect()
}

/// A name in the temporary folder that no other process uses; removed with the value.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        Temporary(std::env::temp_dir().join(format!("kmesh-se-oci-{}-{name}.tar", std::process::id())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn image() -> Image {
    let mut base = Layer::default();
    base.copy(&std::env::current_exe().expect("a path"), "/usr/bin/own").expect("this program");
    base.add_libraries().expect("its libraries");
    let mut data = Layer::default();
    let nobody = Owner { user: 65534, group: 65534 };
    data.folder("/tmp", 0o1777, Owner::ROOT);
    data.file("/etc/motd", "well", 0o600, nobody);
    data.link("/etc/issue", "motd");
    // Longer than a plain tar header can hold.
    data.file(&format!("/{}/end", "long/".repeat(40)), "", 0o644, Owner::ROOT);
    Image {
        name: "example.test/own:1.0".to_owned(),
        architecture: "arm64",
        entrypoint: vec!["/usr/bin/own".to_owned()],
        env: vec!["A=b".to_owned()],
        user: "65534:65534".to_owned(),
        labels: vec![("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())],
        layers: vec![base, data],
        ..Image::default()
    }
}

#[test]
fn every_digest_is_that_of_what_it_names() {
    let archive = Temporary::new("digests");
    image().write(&archive.0).expect("an archive");
    let files = read(&archive.0);
    for (path, bytes) in &files {
        if let Some(hash) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(digest(&Sha256::digest(bytes)), format!("sha256:{hash}"));
        }
    }
    let blob = |digest: &str| files[&format!("blobs/{}", digest.replace(':', "/"))].as_slice();
    // By a reader of its own, not what wrote them.
    let index = ImageIndex::from_reader(files["index.json"].as_slice()).expect("an index");
    let entry = &index.manifests()[0];
    assert_eq!(
        entry.annotations().as_ref().expect("names")["io.containerd.image.name"],
        "example.test/own:1.0"
    );
    let manifest = ImageManifest::from_reader(blob(entry.digest().as_ref())).expect("a manifest");
    let config =
        ImageConfiguration::from_reader(blob(manifest.config().digest().as_ref())).expect("settings");
    assert_eq!(*config.architecture(), Arch::ARM64);
    let inner = config.config().as_ref().expect("settings of the container");
    assert_eq!(inner.user().as_deref(), Some("65534:65534"));
    assert_eq!(inner.entrypoint().as_deref(), Some(&["/usr/bin/own".to_owned()][..]));
    assert_eq!(*inner.cmd(), None);
    assert_eq!(manifest.layers().len(), 2);
    for (layer, unpacked) in manifest.layers().iter().zip(config.rootfs().diff_ids()) {
        let packed = blob(layer.digest().as_ref());
        assert_eq!(u64::try_from(packed.len()).ok(), Some(layer.size()));
        let mut tar = Vec::new();
        GzDecoder::new(packed).read_to_end(&mut tar).expect("gzip");
        assert_eq!(digest(&Sha256::digest(&tar)), *unpacked);
    }
    let docker: Value = serde_json::from_slice(&files["manifest.json"]).expect("JSON");
    assert_eq!(docker[0]["Layers"].as_array().map(Vec::len), Some(2));
    assert!(files.contains_key(docker[0]["Config"].as_str().expect("a path")));
}

#[test]
fn layers_hold_modes_owners_links_and_long_names() {
    let archive = Temporary::new("layers");
    image().write(&archive.0).expect("an archive");
    let files = read(&archive.0);
    let docker: Value = serde_json::from_slice(&files["manifest.json"]).expect("JSON");
    let data = &files[docker[0]["Layers"][1].as_str().expect("a path")];
    let mut tar = tar::Archive::new(GzDecoder::new(data.as_slice()));
    let mut seen = Vec::new();
    for entry in tar.entries().expect("entries") {
        let entry = entry.expect("an entry");
        let header = entry.header();
        let link = entry.link_name().expect("a link").map(|link| link.display().to_string());
        let facts = (header.mode().expect("a mode"), header.uid().expect("an owner"), link);
        assert_eq!(header.mtime().ok(), Some(0));
        seen.push((entry.path().expect("a path").display().to_string(), facts));
    }
    let long = format!("{}end", "long/".repeat(40));
    assert_eq!(seen[0], ("etc/".to_owned(), (0o755, 0, None)));
    assert_eq!(seen[1], ("etc/issue".to_owned(), (0o777, 0, Some("motd".to_owned()))));
    assert_eq!(seen[2], ("etc/motd".to_owned(), (0o600, 65534, None)));
    assert!(seen.contains(&(long, (0o644, 0, None))));
    assert_eq!(seen.last(), Some(&("tmp/".to_owned(), (0o1777, 0, None))));
}

#[test]
fn the_same_contents_make_the_same_archive() {
    let (one, other) = (Temporary::new("one"), Temporary::new("other"));
    image().write(&one.0).expect("an archive");
    image().write(&other.0).expect("an archive");
    assert!(std::fs::read(&one.0).expect("bytes") == std::fs::read(&other.0).expect("bytes"));
}

#[test]
fn a_name_without_a_tag_is_refused() {
    let image = Image { name: "localhost:5000/own".to_owned(), ..Image::default() };
    let error = image.write("/nonexistent".as_ref()).expect_err("it has no tag");
    assert!(error.to_string().contains("has no tag"), "{error}");
}
