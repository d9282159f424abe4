//! How the kubelet names the cgroups of pods.
//!
//! In: names of directories. Out: which of them are pods, or may hold some. Never: a file.
//!
//! With the cgroupfs driver a pod is at `kubepods/burstable/pod<id>`, with systemd's at
//! `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<id, with _ for ->.slice`; pods of the class Guaranteed are
//! right below the first. A kubelet that has a cgroup root of its own writes its name before the others.

use super::COMMAND_PREFIX;

/// How far below a directory the first directory of the kubelet is looked for: a kubelet in a container has its own there.
const DEPTH: u8 = 4;
/// No pod's id is shorter.
const ID_LENGTH: usize = 32;

/// What a directory is to the kubelet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Something else, which may hold the kubelet's first directory at most so many levels below.
    Above(u8),
    /// The kubelet's first directory.
    Pods,
    /// That of a class, in the first.
    Class,
}

/// What a directory in another is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Child {
    /// One that may hold pods.
    Place(Place),
    /// A pod with this id.
    Pod(String),
    /// Nothing of the kubelet's.
    Other,
}

impl Place {
    /// That of a directory at which a search begins.
    pub(super) fn of(name: &str) -> Self {
        if is_first(name) { Self::Pods } else { Self::Above(DEPTH) }
    }

    /// What the directory `name` is, here.
    pub(super) fn child(self, name: &str) -> Child {
        match self {
            Self::Above(_) if is_first(name) => Child::Place(Self::Pods),
            Self::Above(left) if left > 1 && !name.starts_with(COMMAND_PREFIX) => {
                Child::Place(Self::Above(left - 1))
            }
            Self::Above(_) => Child::Other,
            Self::Pods if is_class(name) => Child::Place(Self::Class),
            Self::Pods | Self::Class => pod_id(name).map_or(Child::Other, Child::Pod),
        }
    }
}

/// `kubepods`, `kubepods.slice`, `<root>-kubepods.slice`.
fn is_first(name: &str) -> bool {
    match name.strip_suffix(".slice") {
        Some(stem) => stem == "kubepods" || stem.ends_with("-kubepods"),
        None => name == "kubepods",
    }
}

fn is_class(name: &str) -> bool {
    match name.strip_suffix(".slice").and_then(|stem| stem.rsplit_once('-')) {
        Some((before, class)) => is_first(&format!("{before}.slice")) && is_class(class),
        None => matches!(name, "burstable" | "besteffort"),
    }
}

fn pod_id(name: &str) -> Option<String> {
    let id = match name.strip_suffix(".slice") {
        Some(stem) => stem.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let is_id = id.len() >= ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_id.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0e5b1d3c-6f0e-4a55-9d3e-5b0c2f1e7a9b";

    /// What the last directory of a path is, looked at from the first on.
    fn at(path: &str) -> Child {
        let mut place = Place::Above(DEPTH);
        let mut last = Child::Place(place);
        for name in path.split('/') {
            last = place.child(name);
            match &last {
                Child::Place(next) => place = *next,
                Child::Pod(_) | Child::Other => {}
            }
        }
        last
    }

    #[test]
    fn pods_are_found_by_their_ids_whatever_the_driver_and_class() {
        let slice = ID.replace('-', "_");
        for path in [
            format!("kubepods/pod{ID}"),
            format!("kubepods/burstable/pod{ID}"),
            format!("kubepods/besteffort/pod{ID}"),
            format!("kubepods.slice/kubepods-pod{slice}.slice"),
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice"),
            format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice"),
            format!("docker/0123/kubelet/kubepods/burstable/pod{ID}"),
            format!(
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
                 kubelet-kubepods-burstable-pod{slice}.slice"
            ),
        ] {
            assert_eq!(at(&path), Child::Pod(ID.to_owned()), "{path}");
        }
        assert_eq!(at("kubepods/pod0123456789abcdef0123456789abcdef"), {
            Child::Pod("0123456789abcdef0123456789abcdef".to_owned())
        });
    }

    #[test]
    fn other_directories_are_none() {
        for path in [
            "kubepods/system",
            "kubepods/pods",
            "kubepods/podman-0123456789abcdef0123456789abcdef",
            "kubepods/burstable/burstable",
            "kubepods.slice/kubepods-pod.slice",
            "kubepods.slice/machine-qemu.slice",
            "kmse-exec-default-1-1",
            "a/b/c/d",
        ] {
            assert_eq!(at(path), Child::Other, "{path}");
        }
        assert_eq!(at(&format!("pod{ID}")), Child::Place(Place::Above(DEPTH - 1)), "not the kubelet's");
        assert_eq!(Place::of("kubepods.slice"), Place::Pods);
        assert_eq!(Place::of("kmesh-se"), Place::Above(DEPTH));
    }
}
