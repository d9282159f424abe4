//! What the programs can do without, but with a consequence that an operator should know.
//!
//! In: the running kernel's version. Out: which features it lacks. Never: a feature without which the programs do not load.

use aya::util::KernelVersion;

/// What newer kernels have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The kernel's name for it.
    pub name: &'static str,
    /// The first Linux that has it: major and minor number.
    pub since: (u8, u8),
    /// What is different without it.
    pub without: &'static str,
}

pub(super) const SET_RETVAL: Feature = Feature {
    name: "bpf_set_retval",
    since: (5, 18),
    without: "refused calls end with EPERM instead of ECONNREFUSED or EHOSTUNREACH",
};
pub(super) const MPTCP: Feature = Feature {
    name: "bpf_skc_to_mptcp_sock",
    since: (5, 19),
    without: "MPTCP sockets cannot be told from TCP ones and are handled like them",
};

/// The features that the running kernel lacks; all, if its version is not known.
#[must_use]
pub fn missing_features() -> Vec<Feature> {
    missing(KernelVersion::current().unwrap_or(KernelVersion::new(0, 0, 0)))
}

fn missing(kernel: KernelVersion) -> Vec<Feature> {
    let is_old = |feature: &Feature| kernel < KernelVersion::new(feature.since.0, feature.since.1, 0);
    [SET_RETVAL, MPTCP].into_iter().filter(is_old).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_is_missing_before_the_kernel_that_brought_it() {
        let on = |major, minor| missing(KernelVersion::new(major, minor, 0));
        assert_eq!(on(5, 10), [SET_RETVAL, MPTCP]);
        assert_eq!(on(5, 17), [SET_RETVAL, MPTCP]);
        assert_eq!(on(5, 18), [MPTCP]);
        assert_eq!(on(5, 19), []);
        assert_eq!(on(6, 1), []);
    }
}
