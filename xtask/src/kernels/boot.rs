//! An emulated machine.
//!
//! In: a kernel and the archive that it starts with. Out: the lines that the tests print, and their exit code. Never: a
//! network, a disk, or a machine that outlives its limit.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// Before the exit code of the tests.
pub(super) const MARKER: &str = "kmesh-se-kernels: the tests ended with";
/// What the tests printed.
pub(super) const TESTS_LOG: &str = "tests.log";
/// What the kernel printed.
const CONSOLE_LOG: &str = "console.log";

/// Boots, hands on each line of the tests, and answers their exit code.
///
/// # Errors
/// When the machine ends, or the time does, before the tests have; with the end of the kernel's messages.
pub(super) fn boot(
    kernel: &Path,
    initrd: &Path,
    folder: &Path,
    limit: Duration,
    mut each: impl FnMut(&str),
) -> anyhow::Result<i32> {
    let console = folder.join(CONSOLE_LOG);
    let mut log = File::create(folder.join(TESTS_LOG)).context("cannot write the tests' log")?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "2048"]);
    qemu.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    qemu.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    qemu.args(["-append", "console=ttyS0 panic=-1"]);
    let child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut machine = Machine(child.context("cannot start qemu-system-x86_64")?);
    let output = machine.0.stdout.take().context("no output")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });

    let ends = Instant::now() + limit;
    let why = loop {
        match lines.recv_timeout(ends.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                writeln!(log, "{line}").context("cannot write the tests' log")?;
                if let Some(code) = exit_code(&line) {
                    return Ok(code);
                }
                each(&line);
            }
            Err(RecvTimeoutError::Timeout) => break format!("not done after {} s", limit.as_secs()),
            Err(RecvTimeoutError::Disconnected) => break machine.last_words(),
        }
    };
    let text = std::fs::read(&console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(12)..].join("\n");
    bail!("{why}; the end of {}:\n{tail}", console.display());
}

/// What the marker's line says.
fn exit_code(line: &str) -> Option<i32> {
    line.strip_prefix(MARKER)?.trim().parse().ok()
}

/// Ended when dropped.
struct Machine(Child);

impl Machine {
    fn last_words(&mut self) -> String {
        let status = self.0.wait();
        let mut said = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut stderr, &mut said);
        }
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        format!("the machine ended before the tests did ({status}) {}", said.trim())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_markers_line_ends_the_tests() {
        assert_eq!(exit_code(&format!("{MARKER} 101")), Some(101));
        assert_eq!(exit_code(&format!("{MARKER} ")), None);
        assert_eq!(exit_code("test result: ok. 3 passed"), None);
    }
}
