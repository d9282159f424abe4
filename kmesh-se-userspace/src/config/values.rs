//! What single flags are given.
//!
//! In: words of the command line. Out: values. Never: a look at the machine.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use kmesh_se_common::limits as l;

use crate::model::Namespace;

/// What `--source` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of files.
    File(PathBuf),
    /// The API server of a cluster.
    Kube,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(dir) => write!(f, "file:{}", dir.display()),
            Self::Kube => f.write_str("kube"),
        }
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("file", dir)) if !dir.is_empty() => Ok(Self::File(dir.into())),
            None if text == "kube" => Ok(Self::Kube),
            _ => Err(format!("`{text}` is not a source: write file:DIR, or kube")),
        }
    }
}

/// One `--enrol`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolArg {
    /// Whose view the cgroup has.
    pub namespace: Namespace,
    /// The cgroup.
    pub cgroup: PathBuf,
}

impl FromStr for EnrolArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, path) = match text.split_once('=') {
            Some((namespace, path)) if !namespace.contains('/') => (Namespace::new(namespace), path),
            _ => (Namespace::default(), text),
        };
        if !path.starts_with('/') || namespace.as_str().is_empty() {
            return Err(format!("`{text}` is not a cgroup to enrol: write /PATH or NAMESPACE=/PATH"));
        }
        Ok(Self { namespace, cgroup: path.into() })
    }
}

/// One `--resolver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolverArg(pub SocketAddr);

impl FromStr for ResolverArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>()
            .map(|ip| SocketAddr::new(ip, l::DNS_PORT))
            .or_else(|_| text.parse())
            .map(Self)
            .map_err(|_| {
                format!("`{text}` is not an address: write 10.0.0.10, 10.0.0.10:53 or [fd00::10]:53")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_an_address_with_or_without_a_port() {
        for (text, wanted) in [
            ("10.0.0.10", Some("10.0.0.10:53")),
            ("10.0.0.10:5353", Some("10.0.0.10:5353")),
            ("fd00::10", Some("[fd00::10]:53")),
            ("[fd00::10]:53", Some("[fd00::10]:53")),
            ("dns.example.com", None),
            ("", None),
        ] {
            let parsed = text.parse::<ResolverArg>().ok().map(|r| r.0.to_string());
            assert_eq!(parsed.as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn a_cgroup_is_enrolled_for_a_namespace() {
        for (text, wanted) in [
            ("/sys/fs/cgroup/x", Some(("default", "/sys/fs/cgroup/x"))),
            ("shop=/sys/fs/cgroup/x", Some(("shop", "/sys/fs/cgroup/x"))),
            ("/sys/fs/cgroup/a=b", Some(("default", "/sys/fs/cgroup/a=b"))),
            ("shop=x", None),
            ("=/x", None),
            ("x", None),
        ] {
            let parsed = text.parse::<EnrolArg>().ok();
            let seen = parsed.as_ref().map(|e| (e.namespace.as_str(), e.cgroup.to_str().unwrap_or_default()));
            assert_eq!(seen, wanted, "{text}");
        }
    }
}
