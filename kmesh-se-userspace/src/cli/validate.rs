//! `kmesh-se validate`: which objects would be accepted, and why not.
//!
//! In: files, folders, stdin. Out: a result for each ServiceEntry, WorkloadEntry and HTTPRoute for ServiceEntries. Never: a privilege, the
//! network, or a look at what runs.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    path::PathBuf,
};

use serde::Serialize;

use super::{Answer, Cell, Mood, Output, Table, Text, input};
use crate::model::{
    Issue, Judgement, Kind, Object, ObjectRef, ParseFailure, Parsed, Reason, is_judged, parse, validate,
};

/// The kinds that a verdict is given on.
const OWN_KINDS: [Kind; 3] = [Kind::ServiceEntry, Kind::WorkloadEntry, Kind::HttpRoute];

/// Check ServiceEntries, WorkloadEntries and HTTPRoutes, offline.
///
/// Reads multi-document YAML or JSON and says of each ServiceEntry and WorkloadEntry, and of each HTTPRoute that has a
/// ServiceEntry for a parent, whether it would be accepted, with every error, the path of its field and a stable reason code. Objects of other kinds are skipped.
///
/// Exit status: 0 all are accepted, 1 some object is rejected, 2 some input could not be read.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:\n  \
    kmesh-se validate entry.yaml\n  \
    kmesh-se validate examples/ -o json\n  \
    kubectl get serviceentries -A -o yaml | kmesh-se validate -")]
pub struct Args {
    /// Files, folders (their *.yaml, *.yml and *.json, not those of folders within), or `-` for stdin.
    #[arg(required = true, value_name = "FILE|DIR|-")]
    pub inputs: Vec<PathBuf>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    results: Vec<ObjectResult>,
}

/// What is said of one object. A text that could not be told has empty names.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectResult {
    kind: String,
    namespace: String,
    name: String,
    accepted: bool,
    errors: Vec<Issue>,
    warnings: Vec<Issue>,
    /// Where it is from; `-` is stdin.
    file: String,
    /// Line in the file, from 1.
    line: usize,
}

/// Runs the command.
///
/// # Errors
/// When some input cannot be read. What could be read is printed first.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    run_with(args, &mut io::stdin().lock(), output)
}

fn run_with(args: Args, stdin: &mut dyn Read, output: &mut Output) -> anyhow::Result<Answer> {
    let mut checked = Checked::default();
    let mut unread = Vec::new();
    for input in args.inputs {
        match input::read(&input, stdin) {
            Ok(files) => files.iter().for_each(|(name, bytes)| checked.file(name, bytes)),
            Err(error) => unread.push(error),
        }
    }
    let report = checked.report;
    output.print(&report, text)?;
    if let Some(first) = unread.into_iter().reduce(|first, next| anyhow::anyhow!("{first:#}\n{next:#}")) {
        return Err(first);
    }
    Ok(if report.results.iter().all(|r| r.accepted) { Answer::Yes } else { Answer::No })
}

/// Results so far, and where each object was first.
#[derive(Default)]
struct Checked {
    report: Report,
    first: BTreeMap<ObjectRef, String>,
}

impl Checked {
    fn file(&mut self, file: &str, bytes: &[u8]) {
        for item in parse(bytes) {
            match item {
                Parsed::Object { line, object, warnings } => self.object(file, line, &object, warnings),
                Parsed::Failed(failure) => self.failure(file, failure),
                Parsed::Skipped { .. } => {}
            }
        }
    }

    fn object(&mut self, file: &str, line: usize, object: &Object, unknown: Vec<Issue>) {
        let reference = object.object_ref();
        if !is_judged(object) {
            return;
        }
        let Judgement { errors, mut warnings, .. } = validate(object);
        warnings.extend(unknown);
        let here = format!("{file}:{line}");
        if !reference.name.is_empty()
            && let Some(first) = self.first.get(&reference)
        {
            let message = format!("the same object is at {first}; only one of them can be used");
            warnings.push(Issue::new("metadata.name", Reason::ObjectDuplicate, message));
        } else {
            self.first.insert(reference.clone(), here);
        }
        self.report.results.push(ObjectResult {
            kind: reference.kind.to_string(),
            namespace: reference.namespace.to_string(),
            name: reference.name.to_string(),
            accepted: errors.is_empty(),
            errors,
            warnings,
            file: file.to_owned(),
            line,
        });
    }

    fn failure(&mut self, file: &str, failure: ParseFailure) {
        let is_known = failure.kind.as_deref().is_none_or(|kind| {
            // A broken object of another kind is as little our business as a good one.
            OWN_KINDS.iter().any(|k| k.to_string() == kind)
        });
        if !is_known {
            return;
        }
        let namespace = failure.namespace.or_else(|| failure.name.is_some().then(|| "default".to_owned()));
        self.report.results.push(ObjectResult {
            kind: failure.kind.unwrap_or_default(),
            namespace: namespace.unwrap_or_default(),
            name: failure.name.unwrap_or_default(),
            accepted: false,
            errors: failure.issues,
            warnings: Vec::new(),
            file: file.to_owned(),
            line: failure.line,
        });
    }
}

fn text(report: &Report, out: &mut Text<'_>) -> io::Result<()> {
    if report.results.is_empty() {
        return writeln!(out, "No ServiceEntry, WorkloadEntry or HTTPRoute for a ServiceEntry found.");
    }
    let mut table = Table::new(["KIND", "NAMESPACE", "NAME", "RESULT", "WHERE"]);
    for result in &report.results {
        let (word, mood) = if result.accepted { ("accepted", Mood::Good) } else { ("rejected", Mood::Bad) };
        table.row([
            result.kind.as_str().into(),
            result.namespace.as_str().into(),
            result.name.as_str().into(),
            Cell::with_mood(word, mood),
            format!("{}:{}", result.file, result.line).into(),
        ]);
        for (mood, word, issues) in
            [(Mood::Bad, "error", &result.errors), (Mood::Warning, "warning", &result.warnings)]
        {
            for issue in issues {
                table.note(mood, word, &issue.to_string());
            }
        }
    }
    table.write(out)
}

#[cfg(test)]
mod tests;
