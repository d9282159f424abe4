//! The images of a cluster's pods, made from programs of this machine.
//!
//! In: busybox, curl, httpbin's virtual environment, CoreDNS. Out: an archive of each, made again when what it is made of
//! changes. Never: a registry.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, bail};

use super::programs::{self, program};
use crate::bench::Envoy;
use crate::oci::{self, Image, Layer, Owner};
use crate::stage::tools_folder;

/// The images that every node has.
pub const NAMES: &[&str] = &[PAUSE.name, SLEEP.name, HTTPBIN.name, COREDNS.name];

/// How an image is made.
struct Recipe {
    name: &'static str,
    /// Files that say, by size and time, whether an archive is made of what is there now.
    made_of: fn() -> anyhow::Result<Vec<PathBuf>>,
    /// Fills the layer and says what a container starts with.
    fill: fn(&mut Layer, &mut Image) -> anyhow::Result<()>,
}

const RECIPES: &[Recipe] = &[PAUSE, SLEEP, HTTPBIN, COREDNS];

/// What holds a pod's namespaces.
const PAUSE: Recipe = Recipe {
    name: "pause",
    made_of: || Ok(vec![program("busybox")?]),
    fill: |layer, image| {
        layer.copy(&program("busybox")?, "/bin/busybox")?;
        image.entrypoint = words(&["/bin/busybox", "sleep", "infinity"]);
        Ok(())
    },
};

/// The tutorial's client: curl and a shell.
const SLEEP: Recipe = Recipe {
    name: "sleep",
    made_of: || Ok(vec![program("busybox")?, program("curl")?]),
    fill: |layer, image| {
        const APPLETS: &[&str] = &[
            "sh", "sleep", "cat", "ls", "id", "env", "ip", "nslookup", "nc", "wget", "head", "tail", "grep",
            "seq", "date",
        ];
        layer.copy(&program("busybox")?, "/bin/busybox")?;
        APPLETS.iter().for_each(|applet| layer.link(&format!("/bin/{applet}"), "busybox"));
        layer.copy(&program("curl")?, "/usr/bin/curl")?;
        layer.add_libraries()?;
        image.entrypoint = words(&["/bin/sleep", "infinity"]);
        image.env = words(&["PATH=/usr/bin:/bin"]);
        Ok(())
    },
};

/// The tutorial's server, on port 8000.
const HTTPBIN: Recipe = Recipe {
    name: "httpbin",
    made_of: || Ok(vec![httpbin().join("kmesh-se-packages"), Python::of_httpbin()?.program]),
    fill: |layer, image| {
        let python = Python::of_httpbin()?;
        python.add_to(layer)?;
        image.entrypoint = vec![python.program.to_string_lossy().into_owned()];
        image.entrypoint.extend(words(&["-m", "gunicorn"]));
        image.arguments = words(&["--no-control-socket", "--worker-tmp-dir=/tmp", "--threads=8"]);
        image.arguments.extend(words(&["--bind=0.0.0.0:8000", "httpbin:app"]));
        image.env = vec![format!("PYTHONPATH={}", python.packages.display())];
        Ok(())
    },
};

/// The cluster's DNS server.
const COREDNS: Recipe = Recipe {
    name: "coredns",
    made_of: || Ok(vec![program("coredns")?]),
    fill: |layer, image| {
        layer.copy(&program("coredns")?, "/coredns")?;
        image.entrypoint = words(&["/coredns"]);
        Ok(())
    },
};

/// What a waypoint runs. It is large, and few tests want it.
const ENVOY: Recipe = Recipe {
    name: "envoy",
    made_of: || Ok(vec![envoy()?]),
    fill: |layer, image| {
        // Where the images of its project have it.
        layer.copy(&envoy()?, "/usr/local/bin/envoy")?;
        layer.add_libraries()?;
        image.entrypoint = words(&["/usr/local/bin/envoy"]);
        Ok(())
    },
};

/// Envoy's program.
fn envoy() -> anyhow::Result<PathBuf> {
    Envoy::program().context("no Envoy: `cargo xtask setup` installs it")
}

/// The archive of the image with Envoy, made if need be; none where there is no Envoy.
///
/// # Errors
/// When it cannot be made.
pub fn envoy_archive() -> anyhow::Result<Option<PathBuf>> {
    if Envoy::program().is_none() {
        return Ok(None);
    }
    fs::create_dir_all(programs::built_folder())?;
    ENVOY.ensure()?;
    archive(ENVOY.name).map(Some)
}

/// The full name of an image, as pods have to write it.
pub fn name(image: &str) -> String {
    format!("docker.io/kmse/{image}:test")
}

/// The archive of an image.
///
/// # Errors
/// When it was not made yet.
pub(super) fn archive(image: &str) -> anyhow::Result<PathBuf> {
    let path = path_of(image);
    if !path.is_file() {
        bail!("no image {image}: `cargo xtask cluster` makes it");
    }
    Ok(path)
}

/// Whether all archives are there, and made of what is there now.
pub fn are_made() -> bool {
    RECIPES.iter().all(Recipe::is_made)
}

/// Makes the archives that are missing or old.
///
/// # Errors
/// When something that they are made of is missing.
pub fn make() -> anyhow::Result<()> {
    fs::create_dir_all(programs::built_folder())?;
    RECIPES.iter().try_for_each(Recipe::ensure)
}

fn path_of(image: &str) -> PathBuf {
    programs::built_folder().join(format!("{image}.image.tar"))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Recipe {
    /// Written when the archive was made.
    fn stamp_file(&self) -> PathBuf {
        path_of(self.name).with_extension("made-of")
    }

    /// Another one when a file changes.
    fn stamp(&self) -> anyhow::Result<String> {
        let mut stamp = String::new();
        for path in (self.made_of)()? {
            let file = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let changed = file.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            // A string takes everything.
            let _ = writeln!(stamp, "{} {} {changed}", path.display(), file.len());
        }
        Ok(stamp)
    }

    fn is_made(&self) -> bool {
        let made_of = fs::read_to_string(self.stamp_file()).unwrap_or_default();
        path_of(self.name).is_file() && self.stamp().is_ok_and(|stamp| stamp == made_of)
    }

    /// Makes the archive if it is missing or old. Who wants it meanwhile, here or in another process, waits.
    fn ensure(&self) -> anyhow::Result<()> {
        let lock = File::create(path_of(self.name).with_extension("lock"))?;
        lock.lock().context("cannot lock the archives of images")?;
        if self.is_made() {
            return Ok(());
        }
        self.make().with_context(|| format!("cannot make the image {}", self.name))
    }

    fn make(&self) -> anyhow::Result<()> {
        let stamp = self.stamp()?;
        let mut layer = Layer::default();
        layer.folder("/tmp", 0o777, Owner::ROOT);
        let architecture = oci::own_architecture()?;
        let mut image = Image { name: name(self.name), architecture, ..Image::default() };
        (self.fill)(&mut layer, &mut image)?;
        image.layers = vec![layer];
        let draft = path_of(self.name).with_extension("draft");
        image.write(&draft)?;
        fs::rename(draft, path_of(self.name))?;
        Ok(fs::write(self.stamp_file(), stamp)?)
    }
}

/// The virtual environment of httpbin.
fn httpbin() -> PathBuf {
    tools_folder().join("httpbin")
}

/// Where a Python has its parts.
struct Python {
    program: PathBuf,
    library: PathBuf,
    /// Of the virtual environment.
    packages: PathBuf,
}

impl Python {
    fn of_httpbin() -> anyhow::Result<Python> {
        const PARTS: &str = "
import os, sys, sysconfig
print(os.path.realpath(sys.executable))
print(sysconfig.get_path('stdlib'))
print(sysconfig.get_path('purelib'))
";
        let python = httpbin().join("bin/python3");
        let output = Command::new(&python).args(["-c", PARTS]).output();
        let output = output.with_context(|| format!("cannot run {}", python.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines().map(PathBuf::from);
        let parts = (lines.next(), lines.next(), lines.next());
        let (Some(program), Some(library), Some(packages)) = parts else {
            bail!("{} does not say where its parts are", python.display())
        };
        Ok(Python { program, library, packages })
    }

    /// All of it at the paths that it has here, but for what no server needs.
    fn add_to(&self, layer: &mut Layer) -> anyhow::Result<()> {
        const UNUSED: &[&str] =
            &["test", "tests", "idlelib", "ensurepip", "tkinter", "lib2to3", "__pycache__", "pip"];
        let is_used = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !UNUSED.contains(&name.as_ref()) && !name.starts_with("config-") && name != "site-packages"
        };
        for folder in [&self.library, &self.packages] {
            layer.copy_tree(folder, &folder.to_string_lossy(), &is_used)?;
        }
        layer.copy(&self.program, &self.program.to_string_lossy())?;
        layer.add_libraries()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_an_archive_at_the_same_time_waits_for_it() -> anyhow::Result<()> {
        fn file() -> PathBuf {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")
        }
        let recipe = Recipe {
            name: format!("test-{}", std::process::id()).leak(),
            made_of: || Ok(vec![file()]),
            fill: |layer, _| layer.copy(&file(), "/file"),
        };
        fs::create_dir_all(programs::built_folder())?;
        let results: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| recipe.ensure())).collect();
            all.into_iter().filter_map(|one| one.join().ok()).collect()
        });
        let is_made = recipe.is_made();
        for extension in ["tar", "made-of", "lock"] {
            fs::remove_file(path_of(recipe.name).with_extension(extension))?;
        }
        results.into_iter().collect::<anyhow::Result<()>>()?;
        assert!(is_made);
        Ok(())
    }
}
