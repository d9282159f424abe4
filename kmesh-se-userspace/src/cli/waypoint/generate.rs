//! `kmesh-se waypoint generate`: the Gateway of a waypoint.
//!
//! In: a name. Out: a manifest. Never: a question to a cluster.

use std::io::Write as _;

use serde_json::{Value, json};

use super::{DEFAULT_NAME, For};
use crate::{
    cli::{Answer, Output},
    gateway::{CLASS, GROUP, HBONE, HBONE_PORT},
};

/// Print the Gateway of a waypoint, for `kubectl apply`; no cluster is asked.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  kmesh-se waypoint generate -n shop | kubectl apply -f -")]
pub(super) struct Args {
    /// The name of the waypoint.
    #[arg(value_name = "NAME", default_value = DEFAULT_NAME)]
    name: String,

    /// The same.
    #[arg(long = "name", env = "KMESH_SE_WAYPOINT_NAME", value_name = "NAME", conflicts_with = "name")]
    named: Option<String>,

    /// The namespace. Default: none, so that `kubectl apply -n` says it.
    #[arg(short, long, env = "KMESH_SE_NAMESPACE", value_name = "NS")]
    namespace: Option<String>,

    /// What it is for.
    #[arg(long = "for", env = "KMESH_SE_WAYPOINT_FOR", value_enum, default_value_t, value_name = "WHAT")]
    serves: For,
}

/// Runs the command.
///
/// # Errors
/// When the answer cannot be written.
pub(super) fn run(args: Args, output: &mut Output) -> anyhow::Result<Answer> {
    let For::Service = args.serves;
    let gateway = manifest(args.namespace.as_deref(), args.named.as_deref().unwrap_or(&args.name));
    output.print(&gateway, |gateway, out| {
        let yaml = serde_saphyr::to_string(gateway).map_err(std::io::Error::other)?;
        out.write_all(yaml.as_bytes())
    })?;
    Ok(Answer::Yes)
}

/// The Gateway of a waypoint.
pub(super) fn manifest(namespace: Option<&str>, name: &str) -> Value {
    let mut metadata = json!({"name": name, "labels": {"istio.io/waypoint-for": "service"}});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "Gateway",
        "metadata": metadata,
        "spec": {
            "gatewayClassName": CLASS,
            "listeners": [{"name": "mesh", "port": HBONE_PORT, "protocol": HBONE}],
        },
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::{Cli, Format, Output, output::Shared};

    fn generated(arguments: &[&str]) -> String {
        let arguments = ["kmesh-se", "waypoint", "generate"].iter().chain(arguments);
        let shared = Shared::default();
        let cli = Cli::try_parse_from(arguments).expect("arguments");
        cli.command.run(&mut Output::to(shared.clone(), Format::Text)).expect("printed");
        shared.text()
    }

    #[test]
    fn the_manifest_is_what_istios_users_write_with_the_class_of_ours() {
        let text = generated(&[]);
        assert!(text.contains("gatewayClassName: kmesh-se-waypoint\n"), "{text}");
        assert!(text.contains("name: waypoint\n") && !text.contains("namespace"), "{text}");
        for arguments in
            [&["-n", "shop", "--name", "inner"][..], &["-n", "shop", "inner", "--for", "service"]]
        {
            let text = generated(arguments);
            assert!(text.contains("name: inner\n") && text.contains("namespace: shop\n"), "{text}");
        }
    }
}
