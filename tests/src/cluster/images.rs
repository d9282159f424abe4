//! The images of a cluster's pods, made from programs of this machine.
//!
//! In: busybox, curl, httpbin's virtual environment, CoreDNS. Out: an archive of each, made again when what it is made of
//! changes. Never: a registry.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context as _, bail};

use super::programs;
use crate::oci::{self, Image, Layer, Owner};
use crate::stage::tools_folder;

/// The images that every node has.
pub const NAMES: &[&str] = &["pause", "sleep", "httpbin", "coredns"];

/// What of busybox `sleep` offers.
const APPLETS: &[&str] = &[
    "sh", "sleep", "cat", "ls", "id", "env", "ip", "nslookup", "nc", "wget", "head", "tail", "grep", "seq",
    "date",
];

/// Asks a Python where its parts are: its program, its own library, and that of the virtual environment.
const PARTS_OF_PYTHON: &str = "
import os, sys, sysconfig
print(os.path.realpath(sys.executable))
print(sysconfig.get_path('stdlib'))
print(sysconfig.get_path('purelib'))
";

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

fn path_of(image: &str) -> PathBuf {
    programs::built_folder().join(format!("{image}.image.tar"))
}

/// Whether all archives are there, and made of what is there now.
pub fn are_made() -> bool {
    NAMES.iter().all(|image| {
        let made_of = fs::read_to_string(stamp_of(image)).unwrap_or_default();
        path_of(image).is_file() && ingredients(image).is_ok_and(|ingredients| ingredients.stamp() == made_of)
    })
}

/// Makes the archives that are missing or old.
///
/// # Errors
/// When something that they are made of is missing.
pub fn make() -> anyhow::Result<()> {
    fs::create_dir_all(programs::built_folder())?;
    for image in NAMES {
        let ingredients = ingredients(image)?;
        let stamp = ingredients.stamp();
        if path_of(image).is_file()
            && fs::read_to_string(stamp_of(image)).is_ok_and(|made_of| made_of == stamp)
        {
            continue;
        }
        let draft = path_of(image).with_extension("draft");
        let made = ingredients.image(image).and_then(|image| image.write(&draft));
        made.with_context(|| format!("cannot make the image {image}"))?;
        fs::rename(draft, path_of(image))?;
        fs::write(stamp_of(image), stamp)?;
    }
    Ok(())
}

fn stamp_of(image: &str) -> PathBuf {
    programs::built_folder().join(format!("{image}.image.made-of"))
}

/// What an image is made of.
#[derive(Debug, Default)]
struct Ingredients {
    /// Files of this machine.
    files: Vec<PathBuf>,
    python: Option<Python>,
}

#[derive(Debug)]
struct Python {
    program: PathBuf,
    library: PathBuf,
    packages: PathBuf,
}

fn ingredients(image: &str) -> anyhow::Result<Ingredients> {
    let busybox = || programs::program("busybox");
    let mut made_of = Ingredients::default();
    match image {
        "pause" => made_of.files = vec![busybox()?],
        "sleep" => made_of.files = vec![busybox()?, programs::program("curl")?],
        "coredns" => made_of.files = vec![programs::program("coredns")?],
        "httpbin" => {
            let venv = tools_folder().join("httpbin");
            made_of.files = vec![venv.join("kmesh-se-packages")];
            made_of.python = Some(Python::of(&venv.join("bin/python3"))?);
        }
        other => bail!("no image is called {other}"),
    }
    Ok(made_of)
}

impl Python {
    fn of(program: &Path) -> anyhow::Result<Python> {
        let output = Command::new(program).args(["-c", PARTS_OF_PYTHON]).output();
        let output = output.with_context(|| format!("cannot run {}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines().map(PathBuf::from);
        let parts = (lines.next(), lines.next(), lines.next());
        let (Some(program), Some(library), Some(packages)) = parts else {
            bail!("{} does not say where its parts are", program.display())
        };
        Ok(Python { program, library, packages })
    }
}

impl Ingredients {
    /// Another one when a file changes.
    fn stamp(&self) -> String {
        let mut stamp = String::new();
        let program = self.python.as_ref().map(|python| &python.program);
        for path in self.files.iter().chain(program) {
            let file = fs::metadata(path).ok();
            let size = file.as_ref().map_or(0, fs::Metadata::len);
            let changed = file.and_then(|file| file.modified().ok()?.duration_since(UNIX_EPOCH).ok());
            // A string takes everything.
            let _ = writeln!(stamp, "{} {size} {}", path.display(), changed.unwrap_or_default().as_nanos());
        }
        stamp
    }

    fn image(&self, image: &str) -> anyhow::Result<Image> {
        let mut layer = Layer::default();
        layer.folder("/tmp", 0o777, Owner::ROOT);
        let mut env = Vec::new();
        let entrypoint = match image {
            "pause" => {
                layer.copy(&self.files[0], "/bin/busybox")?;
                vec!["/bin/busybox", "sleep", "infinity"]
            }
            "sleep" => {
                layer.copy(&self.files[0], "/bin/busybox")?;
                APPLETS.iter().for_each(|applet| layer.link(&format!("/bin/{applet}"), "busybox"));
                layer.copy(&self.files[1], "/usr/bin/curl")?;
                layer.add_libraries()?;
                vec!["/bin/sleep", "infinity"]
            }
            "coredns" => {
                layer.copy(&self.files[0], "/coredns")?;
                vec!["/coredns"]
            }
            _ => {
                let python = self.python.as_ref().context("httpbin needs a Python")?;
                python.add_to(&mut layer)?;
                env.push(format!("PYTHONPATH={}", python.packages.display()));
                let program = python.program.to_string_lossy().into_owned();
                return Ok(Image {
                    name: name(image),
                    architecture: oci::own_architecture()?,
                    entrypoint: [&program, "-m", "gunicorn"].map(str::to_owned).to_vec(),
                    arguments: gunicorn_words(),
                    env,
                    layers: vec![layer],
                    ..Image::default()
                });
            }
        };
        env.push("PATH=/usr/bin:/bin".to_owned());
        Ok(Image {
            name: name(image),
            architecture: oci::own_architecture()?,
            entrypoint: entrypoint.into_iter().map(str::to_owned).collect(),
            env,
            layers: vec![layer],
            ..Image::default()
        })
    }
}

fn gunicorn_words() -> Vec<String> {
    let words =
        ["--no-control-socket", "--worker-tmp-dir=/tmp", "--threads=8", "--bind=0.0.0.0:8000", "httpbin:app"];
    words.map(str::to_owned).to_vec()
}

impl Python {
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
