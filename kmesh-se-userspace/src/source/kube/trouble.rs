//! Why a request to the API server failed, by what there is to do.
//!
//! In: errors of the client. Out: a [`Trouble`]. Never: a retry.

use std::{error::Error as _, fmt::Write as _};

use kube::core::Status;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The API server cannot be reached, or breaks off.
    #[error("the API server does not answer ({cause})")]
    Unreachable {
        /// What the network says.
        cause: String,
    },
    /// The API server answers, but cannot do it now.
    #[error("the API server answers {code}: {message}")]
    Unable {
        /// The HTTP status.
        code: u16,
        /// What it says.
        message: String,
    },
    /// What the API server says is not what it should be: something else may answer in its place.
    #[error("the answer of the API server cannot be read ({cause})")]
    Unreadable {
        /// What is wrong with it.
        cause: String,
    },
    /// The API server does not know who asks.
    #[error("the API server does not accept the credentials ({message}); check the token or certificate")]
    Unauthorized {
        /// What it says.
        message: String,
    },
    /// RBAC does not allow it.
    #[error("{} is not allowed to; add the rule to its role", user.as_deref().unwrap_or("this client"))]
    Forbidden {
        /// Who is not allowed, if the API server says so.
        user: Option<String>,
    },
    /// The resource is not served.
    #[error("the API server has no such resource")]
    NotServed,
    /// What was asked for lies too far in the past, or in a future that this server does not know.
    #[error("the API server does not have this version of the state any more")]
    Expired,
    /// The request itself is refused: a selector that does not exist, a parameter that the server does not know.
    #[error("the API server refuses the request ({message})")]
    Refused {
        /// What it says.
        message: String,
    },
}

impl Trouble {
    /// The API server has not answered in time.
    #[must_use]
    pub fn no_answer() -> Self {
        Self::Unreachable { cause: "no answer".to_owned() }
    }

    /// What `error` is about.
    #[must_use]
    pub fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::Unreadable { cause: causes(error) }
            }
            _ => Self::Unreachable { cause: causes(error) },
        }
    }

    /// What the API server means by `status`.
    #[must_use]
    pub fn of_status(status: &Status) -> Self {
        let message = || status.message.trim().to_owned();
        match status.code {
            400 | 422 => Self::Refused { message: message() },
            401 => Self::Unauthorized { message: message() },
            403 => Self::Forbidden { user: user_of(&status.message) },
            404 => Self::NotServed,
            410 => Self::Expired,
            // After a restore of etcd, the server's versions begin below the one that we know.
            504 if status.message.contains("Too large resource version") => Self::Expired,
            code => Self::Unable { code, message: message() },
        }
    }

    /// Whether it is about the API server as a whole, not about one resource.
    pub(super) fn is_of_server(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Unable { .. }
                | Self::Unreadable { .. }
                | Self::Unauthorized { .. }
        )
    }

    /// CamelCase code for labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "ApiServerUnreachable",
            Self::Unable { .. } => "ApiServerUnable",
            Self::Unreadable { .. } => "ApiServerUnreadable",
            Self::Unauthorized { .. } => "Unauthorized",
            Self::Forbidden { .. } => "Forbidden",
            Self::NotServed => "ResourceNotServed",
            Self::Expired => "VersionExpired",
            Self::Refused { .. } => "RequestRefused",
        }
    }
}

/// Who is meant by `… User "system:serviceaccount:kmesh:agent" cannot watch …`.
fn user_of(message: &str) -> Option<String> {
    let (_, after) = message.split_once("User \"")?;
    let (user, _) = after.split_once('"')?;
    let account = user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
    Some(match account {
        Some((namespace, name)) => format!("ServiceAccount {namespace}/{name}"),
        None => format!("user {user}"),
    })
}

/// The innermost causes, which say what happened; the outer ones only that something did.
fn causes(error: &kube::Error) -> String {
    let mut chain = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        chain.push(cause.to_string());
        next = cause.source();
    }
    if chain.is_empty() {
        return error.to_string();
    }
    let mut text = String::new();
    for cause in chain.iter().skip(chain.len().saturating_sub(2)) {
        let separator = if text.is_empty() { "" } else { ": " };
        // Some causes repeat theirs.
        if !text.contains(cause.as_str()) {
            let _ = write!(text, "{separator}{cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u16, message: &str) -> Trouble {
        Trouble::of_status(&Status::failure(message, "").with_code(code))
    }

    #[test]
    fn who_is_not_allowed_is_named_as_people_do() {
        let forbidden =
            "nodes is forbidden: User \"system:serviceaccount:kmesh:agent\" cannot watch resource";
        for (message, wanted) in [
            (forbidden, "ServiceAccount kmesh/agent is not allowed to; add the rule to its role"),
            ("User \"jane\" cannot", "user jane is not allowed to; add the rule to its role"),
            ("no", "this client is not allowed to; add the rule to its role"),
        ] {
            assert_eq!(of(403, message).to_string(), wanted);
        }
    }

    #[test]
    fn a_version_of_the_future_is_as_good_as_one_of_the_past() {
        assert_eq!(of(410, "too old resource version: 1 (5)"), Trouble::Expired);
        assert_eq!(of(504, "Too large resource version: 9, current: 5"), Trouble::Expired);
        assert_eq!(of(504, "timeout").reason(), "ApiServerUnable");
    }
}
