//! httpbin, the server that the tutorial asks, in a virtual environment of its own.
//!
//! In: a python3 with venv, PyPI. Out: `target/tools/httpbin/bin/gunicorn`. Never: a change to the
//! machine's own Python.

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use super::machine::{self, Machine};
use crate::workspace;

/// Pinned, since the tutorial's answers are compared to the letter.
const PACKAGES: &[&str] = &["httpbin==0.10.4", "gunicorn==27.0.1", "flask==3.1.3", "werkzeug==3.1.9"];

/// Asks for what the tutorial asks for, without a network.
const PROOF: &str = "
from httpbin import app
client = app.test_client()
assert set(client.get('/headers').get_json()) == {'headers'}
assert set(client.get('/get').get_json()) == {'args', 'headers', 'origin', 'url'}
assert client.get('/status/418').status_code == 418
assert client.get('/status/200').data == b''
";

fn folder() -> PathBuf {
    workspace::tools().join("httpbin")
}

/// Written when the environment was proved to work; says what it holds.
fn stamp() -> PathBuf {
    folder().join("kmesh-se-packages")
}

pub(super) fn find(_: &Machine) -> Option<String> {
    let packages = std::fs::read_to_string(stamp()).ok()?;
    // A moved checkout breaks the scripts of a virtual environment: their first line is a path.
    let script = std::fs::read_to_string(folder().join("bin/gunicorn")).ok()?;
    let interpreter = script.lines().next()?.strip_prefix("#!")?.to_owned();
    let works = packages == PACKAGES.join(" ") && PathBuf::from(interpreter).starts_with(folder());
    works.then(|| PACKAGES[0].to_owned())
}

/// A python3 that can make virtual environments; not looked for once httpbin is there.
pub(super) fn python(machine: &Machine) -> Option<String> {
    if find(machine).is_some() {
        return Some(folder().join("bin/python3").display().to_string());
    }
    candidates().into_iter().find(|python| {
        let mut command = Command::new(python);
        machine::first_line(command.args(["-c", "import ensurepip, venv; print('yes')"])).is_some()
    })
}

/// The one in PATH, then the system's, which is the one that Debian's python3-venv serves.
fn candidates() -> Vec<String> {
    vec!["python3".to_owned(), "/usr/bin/python3".to_owned()]
}

pub(super) fn install(machine: &Machine) -> anyhow::Result<String> {
    let Some(python) = python(machine) else { bail!("no python3 that can make a virtual environment") };
    if folder().exists() {
        std::fs::remove_dir_all(folder())?;
    }
    machine::run_logged(Command::new(python).args(["-m", "venv"]).arg(folder()))?;
    let own = folder().join("bin/python3");
    let mut pip = Command::new(&own);
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input"]).args(PACKAGES);
    machine::run_logged(&mut pip)?;
    machine::run_logged(Command::new(&own).args(["-c", PROOF]))?;
    std::fs::write(stamp(), PACKAGES.join(" "))?;
    Ok(format!("installed {}", PACKAGES.join(" ")))
}
