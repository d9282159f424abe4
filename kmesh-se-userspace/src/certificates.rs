//! Certificates that the program makes for itself, and when it makes new ones.
//!
//! In: what was kept of them, and the time. Out: an authority, what it signed, and what clients are to trust. Never: a clock, a
//! file, the network: who uses them keeps and serves them.
//!
//! An [`Authority`] signs; a [`Keyring`] is one in use, with the certificate that servers show and the next authority beside it
//! when its time has come. An authority knows nothing of who asks, so it can sign for other servers, and for clients, too.

mod authority;
mod keyring;
#[cfg(test)]
mod tests;

pub use self::{
    authority::{Authority, Issued, client_uri},
    keyring::{Keyring, Policy, is_due},
};

/// Why certificates cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// What was kept lacks a part.
    #[error("{name} is missing")]
    Missing {
        /// Which.
        name: &'static str,
    },
    /// What was kept cannot be read.
    #[error("{name} cannot be read: {cause}")]
    Unreadable {
        /// Which part.
        name: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// Parts do not belong together.
    #[error("{name} does not fit: {cause}")]
    Unfit {
        /// Which part.
        name: &'static str,
        /// To what.
        cause: &'static str,
    },
    /// None can be made.
    #[error("no certificate can be made")]
    Make {
        /// Why not.
        source: rcgen::Error,
    },
}

impl CertificateError {
    /// CamelCase code for labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "CertificateMissing",
            Self::Unreadable { .. } => "CertificateUnreadable",
            Self::Unfit { .. } => "CertificateUnfit",
            Self::Make { .. } => "CertificateNotMade",
        }
    }
}
