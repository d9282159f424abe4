//! Builds the BPF object with the toolchain that `cargo xtask setup` found, for the binary to embed.
//!
//! In: `target/tools/bpf-toolchain.json` (command, arguments and environment). Out: `$OUT_DIR/kmesh-se.bpf.o`. Never: an
//! installation.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const PACKAGE: &str = "kmesh-se-ebpf";
const TARGET: &str = "bpfel-unknown-none";
/// What cargo sets for a build script, and what a developer's shell may set, is not for the other toolchain.
const NOT_INHERITED: [&str; 8] = [
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
    "CARGO",
];

fn main() {
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("..");
    let out_dir = PathBuf::from(variable("OUT_DIR"));
    let recipe = workspace.join("target/tools/bpf-toolchain.json");
    for input in ["kmesh-se-ebpf", "kmesh-se-common", "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    println!("cargo::rerun-if-changed={}", recipe.display());
    match build(&workspace, &recipe, &out_dir) {
        Ok(object) => println!("cargo::rustc-env=KMESH_SE_BPF_OBJECT={}", object.display()),
        Err(message) => println!("cargo::error={message}"),
    }
}

fn build(workspace: &Path, recipe: &Path, out_dir: &Path) -> Result<PathBuf, String> {
    let text = fs::read_to_string(recipe)
        .map_err(|_| "no toolchain for BPF is set up: run `cargo xtask setup`".to_owned())?;
    let recipe: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| format!("{}: {e}; run `cargo xtask setup`", recipe.display()))?;
    let words = |key: &str| -> Vec<String> {
        recipe[key].as_array().into_iter().flatten().filter_map(|w| w.as_str().map(str::to_owned)).collect()
    };
    let command_line = words("command");
    let (program, first_args) =
        command_line.split_first().ok_or("the BPF toolchain has no command: run `cargo xtask setup`")?;

    let target_dir = out_dir.join("ebpf");
    let mut command = Command::new(program);
    command.args(first_args).arg("build").args(words("args"));
    command.args(["--package", PACKAGE, "--release", "--target", TARGET, "--target-dir"]).arg(&target_dir);
    command.current_dir(workspace);
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    for (name, value) in recipe["env"].as_object().into_iter().flatten() {
        command.env(name, value.as_str().unwrap_or_default());
    }
    let output = command.output().map_err(|e| format!("{program}: {e}; run `cargo xtask setup`"))?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the BPF programs do not build: {}", log.replace('\n', "\\n")));
    }
    Ok(target_dir.join(TARGET).join("release").join(PACKAGE))
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
