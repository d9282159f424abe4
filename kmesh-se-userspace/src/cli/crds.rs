//! `kmesh-se crds`: the definitions of ServiceEntry and WorkloadEntry.
//!
//! In: nothing. Out: manifests for `kubectl apply`. Never: a cluster that is asked or changed.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{Answer, Output};
use crate::model::crds;

/// Print the CustomResourceDefinitions of ServiceEntry and WorkloadEntry.
///
/// For a cluster without Istio; where Istio's definitions are installed, they are the ones to keep. As text these are two YAML
/// documents, as JSON or YAML one List.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  kmesh-se crds | kubectl apply --server-side -f -")]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// When the answer cannot be written.
pub(super) fn run(_: Args, output: &mut Output) -> anyhow::Result<Answer> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": crds()});
    output.print(&list, |list, out| {
        for crd in list["items"].as_array().into_iter().flatten() {
            writeln!(out, "---")?;
            out.write_all(yaml(crd)?.as_bytes())?;
        }
        Ok(())
    })?;
    Ok(Answer::Yes)
}

fn yaml(value: &Value) -> io::Result<String> {
    serde_saphyr::to_string(value).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Format, output::Shared};

    #[test]
    fn text_is_a_document_for_each_kind() {
        let shared = Shared::default();
        run(Args {}, &mut Output::to(shared.clone(), Format::Text)).expect("printed");
        let text = shared.text();
        assert_eq!(text.matches("\n---\n").count(), 1);
        for name in ["serviceentries.networking.istio.io", "workloadentries.networking.istio.io"] {
            assert!(text.contains(&format!("name: {name}\n")), "{text}");
        }
    }
}
