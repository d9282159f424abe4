//! Waiting for conditions, and for commands.
//!
//! In: a condition and how long it may take. Out: what it answered. Never: a fixed sleep, or a wait without an end.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How often a condition is tried.
const STEP: Duration = Duration::from_millis(10);
/// How long a command may take: longer than any does that works.
const COMMAND: Duration = Duration::from_secs(120);
/// The variable that says how many times as long everything may take here as on a real machine.
pub const SLOWNESS: &str = "KMSE_SLOWNESS";

/// `limit`, or [`SLOWNESS`] times that.
pub fn stretched(limit: Duration) -> Duration {
    limit * std::env::var(SLOWNESS).ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Waits until `condition` answers something.
///
/// # Errors
/// When it has not within `limit`, or [`SLOWNESS`] times that; the message names `what` was waited for.
pub fn until<T>(what: &str, limit: Duration, condition: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    until_every(STEP, what, limit, condition)
}

/// The same for a condition that costs what is measured its time: it is tried once in each `step`.
///
/// # Errors
/// As [`until`].
pub fn until_every<T>(
    step: Duration,
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let limit = stretched(limit);
    let began = Instant::now();
    loop {
        if let Some(answer) = condition() {
            return Ok(answer);
        }
        if began.elapsed() > limit {
            bail!("waited {:.1} s in vain for {what}", limit.as_secs_f64());
        }
        std::thread::sleep(step);
    }
}

/// Runs a command to its end without input, as [`Command::output`] does, but not for longer than two minutes.
///
/// # Errors
/// When it cannot be started, or has not ended by then; with what it wrote.
pub fn output(command: &mut Command) -> anyhow::Result<Output> {
    output_within(COMMAND, command)
}

/// The same with another limit.
///
/// # Errors
/// As [`output`].
pub fn output_within(limit: Duration, command: &mut Command) -> anyhow::Result<Output> {
    let limit = stretched(limit);
    // In a group of its own, so that what it started ends with it and lets go of the pipes.
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    let group = Pid::from_raw(child.id().cast_signed());
    let (ended, end) = mpsc::channel();
    let (output, is_late) = std::thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let is_late = end.recv_timeout(limit).is_err();
            if is_late {
                // It may end in this very moment.
                let _ = killpg(group, Signal::SIGKILL);
            }
            is_late
        });
        let output = child.wait_with_output();
        let _ = ended.send(());
        (output, watch.join().unwrap_or(false))
    });
    let output = output?;
    if is_late {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        bail!("{command:?} had not ended after {} s; it wrote: {out} {err}", limit.as_secs());
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_ends_with_all_that_it_started() {
        let mut hang = Command::new("sh");
        hang.args(["-c", "echo begun; sleep 1000 & wait"]);
        let error = output_within(Duration::from_millis(300), &mut hang).expect_err("late");
        let error = format!("{error:#}");
        assert!(error.contains("had not ended") && error.contains("begun"), "{error}");
        assert_eq!(output(Command::new("echo").arg("well")).expect("ends").stdout, b"well\n");
    }
}
