//! The cgroups of pods as they come and go.
//!
//! In: the cgroup tree, and what inotify tells of it. Out: [`Change`]s. Never: a cgroup of a hierarchy of version 1.
//!
//! Not the crate that watches folders of files: it hears of every file that is opened in a directory, and the kubelet opens
//! many all the time. Here only directories are heard of, and only those that may hold pods are watched.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::timeout,
};

use super::{
    Cgroup,
    kubepods::{Child, Place},
};
use crate::poll::{self, Owning};

/// How often the tree is looked through while not all of it can be watched.
const LOOK: Duration = Duration::from_secs(1);

/// What happened to a pod's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there now.
    Appeared {
        /// The pod's id.
        pod_id: String,
        /// The cgroup.
        cgroup: Cgroup,
    },
    /// It is there no more.
    Gone {
        /// The pod's id.
        pod_id: String,
        /// The cgroup that it had.
        cgroup: Cgroup,
    },
}

/// The pods' cgroups below one cgroup.
#[derive(Debug)]
pub struct PodCgroups {
    root: Cgroup,
    inotify: AsyncFd<Owning<Inotify>>,
    watched: HashMap<WatchDescriptor, (Cgroup, Place)>,
    /// By path: the pod's id, and the cgroup.
    found: Found,
    /// Why not all directories are watched.
    unwatched: Option<Errno>,
}

type Found = BTreeMap<PathBuf, (String, Cgroup)>;

impl PodCgroups {
    /// Watches the tree below `root`, and says what is there.
    ///
    /// # Errors
    /// There is no inotify left for this user; the limit is `fs.inotify.max_user_instances`.
    pub fn open(root: Cgroup) -> io::Result<(Self, Vec<Change>)> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let inotify = poll::register(inotify, Interest::READABLE)?;
        let mut pods = Self { root, inotify, watched: HashMap::new(), found: Found::new(), unwatched: None };
        let changes = pods.look();
        Ok((pods, changes))
    }

    /// What happens next.
    ///
    /// # Errors
    /// The kernel tells nothing any more.
    pub async fn next(&mut self) -> io::Result<Vec<Change>> {
        loop {
            let events = if self.unwatched.is_some() {
                match timeout(LOOK, self.read()).await {
                    Ok(events) => events?,
                    Err(_) => {
                        let changes = self.look();
                        if changes.is_empty() {
                            continue;
                        }
                        return Ok(changes);
                    }
                }
            } else {
                self.read().await?
            };
            let changes: Vec<_> = events.into_iter().flat_map(|event| self.hear(&event)).collect();
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    async fn read(&self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.get_inner().0.read_events() {
                Ok(events) => return Ok(events),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn hear(&mut self, event: &InotifyEvent) -> Vec<Change> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            tracing::warn!("too many cgroups came and went at once: looking through the whole tree");
            return self.look();
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.watched.remove(&event.wd);
            return Vec::new();
        }
        let (Some((parent, place)), Some(name)) = (self.watched.get(&event.wd), &event.name) else {
            return Vec::new();
        };
        let path = parent.path.join(name);
        if event.mask.contains(AddWatchFlags::IN_DELETE) {
            return self.lose(&path);
        }
        let (level, place) = (parent.level + 1, *place);
        let mut found = Found::new();
        self.see(path, level, place, &mut found);
        let mut changes = Vec::new();
        for (path, new) in found {
            match self.found.insert(path, new.clone()) {
                Some(old) if old == new => continue,
                Some(old) => changes.push(gone(old)),
                None => {}
            }
            changes.push(appeared(new));
        }
        changes
    }

    /// A directory is gone.
    fn lose(&mut self, path: &Path) -> Vec<Change> {
        let below: Vec<_> = self.found.keys().filter(|known| known.starts_with(path)).cloned().collect();
        below.iter().filter_map(|known| self.found.remove(known)).map(gone).collect()
    }

    /// Looks through the whole tree.
    fn look(&mut self) -> Vec<Change> {
        self.unwatched = None;
        let mut new = Found::new();
        let name = self.root.path.file_name().unwrap_or_default().to_string_lossy();
        let place = Place::of(&name);
        self.enter(self.root.clone(), place, &mut new);
        let old = std::mem::replace(&mut self.found, new.clone());
        let is_gone = |(path, pod): &(PathBuf, (String, Cgroup))| new.get(path) != Some(pod);
        let mut changes: Vec<_> = old.clone().into_iter().filter(is_gone).map(|(_, pod)| gone(pod)).collect();
        let is_new = |(path, pod): &(PathBuf, (String, Cgroup))| old.get(path) != Some(pod);
        changes.extend(new.clone().into_iter().filter(is_new).map(|(_, pod)| appeared(pod)));
        changes
    }

    /// Takes in the directory at `path`, which is in one of this `place`.
    fn see(&mut self, path: PathBuf, level: u8, place: Place, found: &mut Found) {
        let Some(child) = path.file_name().map(|name| place.child(&name.to_string_lossy())) else { return };
        if child == Child::Other {
            return;
        }
        // What goes away meanwhile is not looked for.
        let Some(metadata) = fs::metadata(&path).ok().filter(fs::Metadata::is_dir) else { return };
        let cgroup = Cgroup { path: path.clone(), id: metadata.ino(), level };
        match child {
            Child::Pod(pod_id) => drop(found.insert(path, (pod_id, cgroup))),
            Child::Place(place) => self.enter(cgroup, place, found),
            Child::Other => {}
        }
    }

    /// Watches a directory first, then lists it, so that nothing falls between the two.
    fn enter(&mut self, cgroup: Cgroup, place: Place, found: &mut Found) {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_DONT_FOLLOW;
        let (path, level) = (cgroup.path.clone(), cgroup.level + 1);
        match self.inotify.get_ref().0.add_watch(&path, flags) {
            Ok(watch) => drop(self.watched.insert(watch, (cgroup, place))),
            Err(Errno::ENOENT) => return,
            Err(error) => {
                if self.unwatched.replace(error).is_none() {
                    let consequence = "pods are found within a second, not at once";
                    tracing::warn!(%error, cgroup = %path.display(), consequence, "cannot watch a cgroup: raise fs.inotify.max_user_watches");
                }
            }
        }
        for child in fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok) {
            if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.see(child.path(), level, place, found);
            }
        }
    }
}

fn appeared((pod_id, cgroup): (String, Cgroup)) -> Change {
    Change::Appeared { pod_id, cgroup }
}

fn gone((pod_id, cgroup): (String, Cgroup)) -> Change {
    Change::Gone { pod_id, cgroup }
}

/// The first directories of kubelets below `root`, itself included.
#[must_use]
pub fn first_directories(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting =
        vec![(root.to_owned(), Place::of(&root.file_name().unwrap_or_default().to_string_lossy()))];
    while let Some((path, place)) = waiting.pop() {
        if place == Place::Pods {
            found.push(path);
            continue;
        }
        for child in fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok) {
            if child.file_type().is_ok_and(|kind| kind.is_dir())
                && let Child::Place(place) = place.child(&child.file_name().to_string_lossy())
            {
                waiting.push((child.path(), place));
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 3] = [
        "0e5b1d3c-6f0e-4a55-9d3e-5b0c2f1e7a90",
        "0e5b1d3c-6f0e-4a55-9d3e-5b0c2f1e7a91",
        "0e5b1d3c-6f0e-4a55-9d3e-5b0c2f1e7a92",
    ];

    fn open(root: &Path) -> (PodCgroups, Vec<Change>) {
        let id = fs::metadata(root).expect("a folder").ino();
        PodCgroups::open(Cgroup { path: root.to_owned(), id, level: 3 }).expect("inotify")
    }

    fn said(changes: &[Change]) -> Vec<(bool, String, u8)> {
        let mut said: Vec<_> = changes
            .iter()
            .map(|change| match change {
                Change::Appeared { pod_id, cgroup } => (true, pod_id.clone(), cgroup.level),
                Change::Gone { pod_id, cgroup } => (false, pod_id.clone(), cgroup.level),
            })
            .collect();
        said.sort();
        said
    }

    /// All that is told until there are so many.
    async fn until(pods: &mut PodCgroups, count: usize) -> Vec<(bool, String, u8)> {
        let mut changes = Vec::new();
        while changes.len() < count {
            let next = timeout(Duration::from_secs(10), pods.next()).await.expect("in time");
            changes.extend(next.expect("events"));
        }
        said(&changes)
    }

    #[tokio::test]
    async fn pods_are_told_of_that_are_there_come_and_go() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let first = folder.path().join("kubepods/burstable").join(format!("pod{}", IDS[0]));
        fs::create_dir_all(&first)?;
        let (mut pods, changes) = open(folder.path());
        assert_eq!(said(&changes), [(true, IDS[0].to_owned(), 6)]);
        // A class that appears later, with its pods at once, and a pod of the class Guaranteed.
        fs::create_dir_all(folder.path().join("kubepods/besteffort").join(format!("pod{}", IDS[1])))?;
        fs::create_dir(folder.path().join(format!("kubepods/pod{}", IDS[2])))?;
        let wanted = [(true, IDS[1].to_owned(), 6), (true, IDS[2].to_owned(), 5)];
        assert_eq!(until(&mut pods, 2).await, wanted);
        fs::remove_dir(&first)?;
        assert_eq!(until(&mut pods, 1).await, [(false, IDS[0].to_owned(), 6)]);
        fs::create_dir(&first)?;
        assert_eq!(until(&mut pods, 1).await, [(true, IDS[0].to_owned(), 6)]);
        Ok(())
    }

    #[tokio::test]
    async fn the_kubelets_directory_may_appear_after_the_start_and_below_another() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (mut pods, changes) = open(folder.path());
        assert_eq!(changes, []);
        let id = IDS[0].replace('-', "_");
        let path =
            folder.path().join("a/b/kubelet-kubepods.slice").join(format!("kubelet-kubepods-pod{id}.slice"));
        fs::create_dir_all(path)?;
        assert_eq!(until(&mut pods, 1).await, [(true, IDS[0].to_owned(), 7)]);
        fs::remove_dir_all(folder.path().join("a"))?;
        assert_eq!(until(&mut pods, 1).await, [(false, IDS[0].to_owned(), 7)]);
        Ok(())
    }

    #[tokio::test]
    async fn a_look_through_the_tree_tells_what_was_missed() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let pod = |id| folder.path().join("kubepods").join(format!("pod{id}"));
        fs::create_dir_all(pod(IDS[0]))?;
        let (mut pods, _) = open(folder.path());
        fs::remove_dir(pod(IDS[0]))?;
        fs::create_dir(pod(IDS[1]))?;
        let wanted = [(false, IDS[0].to_owned(), 5), (true, IDS[1].to_owned(), 5)];
        assert_eq!(said(&pods.look()), wanted);
        assert_eq!(pods.look(), [], "nothing is told twice");
        Ok(())
    }

    #[test]
    fn the_first_directory_is_found_at_any_of_some_depths() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        assert_eq!(first_directories(folder.path()), [] as [PathBuf; 0]);
        let (one, two) =
            (folder.path().join("kubepods.slice"), folder.path().join("docker/x/kubelet/kubepods"));
        fs::create_dir_all(&two)?;
        fs::create_dir_all(one.join("kubepods-burstable.slice"))?;
        assert_eq!(first_directories(folder.path()), [two, one.clone()]);
        assert_eq!(first_directories(&one), [one]);
        Ok(())
    }
}
