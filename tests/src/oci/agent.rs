//! The image of the agent.
//!
//! In: a built `kmesh-se`, static or not. Out: an image with it, the libraries that it needs, and the licences. Never: a
//! shell, or a file that anybody but root can write.

use std::path::Path;

use super::{Image, Layer};

/// Where the program is in the image.
const PROGRAM: &str = "/usr/bin/kmesh-se";
const LICENCES: &[&str] = &["LICENSE-APACHE", "LICENSE-MIT", "kmesh-se-ebpf/LICENSE-GPL-2.0"];

/// An image called `name` that starts `program`.
///
/// # Errors
/// When the program or a library that it needs is missing.
pub fn agent_image(name: &str, architecture: &'static str, program: &Path) -> anyhow::Result<Image> {
    let mut layer = Layer::default();
    layer.copy(program, PROGRAM)?;
    layer.add_libraries()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    for licence in LICENCES {
        let file = Path::new(licence).file_name().unwrap_or_default().to_string_lossy();
        layer.copy(&root.join(licence), &format!("/usr/share/doc/kmesh-se/{file}"))?;
    }
    let labels = [
        ("title", "kmesh-se"),
        ("description", "Istio ServiceEntries done in the kernel: the node agent"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("licenses", "Apache-2.0 AND (MIT OR GPL-2.0-only)"),
    ];
    Ok(Image {
        name: name.to_owned(),
        architecture,
        entrypoint: vec![PROGRAM.to_owned()],
        labels: labels
            .map(|(name, value)| (format!("org.opencontainers.image.{name}"), value.to_owned()))
            .into(),
        layers: vec![layer],
        ..Image::default()
    })
}
