//! What the maps and the DNS server should hold, host by host.
//!
//! In: a `Snapshot`, `Resolved` names and VIPs. Out: [`HostDesired`]. Never: I/O, a clock, tokio or aya.

mod names;

pub use names::*;

use std::fmt;

use serde::Serialize;

use crate::model::Namespace;

/// Whose view: every namespace without a view of its own, or one namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Scope {
    /// The whole mesh.
    Mesh,
    /// The clients of one namespace, where its view differs from the mesh's.
    Namespace(Namespace),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("*"),
            Self::Namespace(namespace) => namespace.fmt(f),
        }
    }
}
