//! A real folder, and what is told of it.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
};

use tempfile::TempDir;

use super::*;
use crate::{model::Object, source::Problem};

/// Longer than anything here takes; only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(20);

fn entry(name: &str, host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {{hosts: [{host}]}}\n"
    )
}

/// What a test waits for.
fn told(event: &Event) -> String {
    match event {
        Event::Apply(Object::ServiceEntry(e)) => format!("apply {} {}", e.metadata.name, e.spec.hosts[0]),
        Event::Apply(object) => format!("apply {}", object.object_ref()),
        Event::Delete(object) => format!("delete {}", object.name),
        Event::Problems { origin, problems } => {
            let name = Path::new(origin).file_name().unwrap_or_default().to_string_lossy().into_owned();
            let reasons: Vec<_> = problems.iter().map(|p| p.reason).collect();
            format!("{name} {}", reasons.join(","))
        }
        Event::Synced => "synced".to_owned(),
    }
}

struct Watched {
    folder: TempDir,
    events: mpsc::Receiver<Event>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), FileSourceError>>,
    /// All problems told so far, by the name of the file.
    problems: Vec<Problem>,
}

impl Watched {
    /// Watches a folder that `prepare` has filled. Only notifications tell of changes, as no rescan is near.
    fn start(prepare: impl FnOnce(&Path)) -> Self {
        Self::start_with(Options { rescan: PATIENCE * 10, ..Self::quick() }, prepare)
    }

    fn quick() -> Options {
        Options {
            quiet: Duration::from_millis(20),
            quiet_closed: Duration::from_millis(20),
            retry: Duration::from_millis(20),
            ..Options::default()
        }
    }

    fn start_with(options: Options, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("d")).expect("created");
        prepare(&folder.path().join("d"));
        let (tx, events) = mpsc::channel(1);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(watch(folder.path().join("d"), options, tx, shutdown.clone()));
        Self { folder, events, shutdown, task, problems: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("d").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    async fn next(&mut self) -> String {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event in time");
        let event = event.expect("the source is running");
        if let Event::Problems { problems, .. } = &event {
            self.problems.extend(problems.clone());
        }
        told(&event)
    }

    #[track_caller]
    fn expect(&mut self, expected: &[&str]) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            for expected in expected {
                assert_eq!(self.next().await, *expected, "at {caller}");
            }
        }
    }

    /// Stops the source; nothing may be left to tell.
    async fn end(mut self) {
        self.shutdown.cancel();
        let result = tokio::time::timeout(PATIENCE, &mut self.task).await.expect("it stops in time");
        result.expect("no panic").expect("no error");
        assert_eq!(self.events.recv().await, None);
    }
}

#[tokio::test]
async fn tells_what_is_there_then_synced_then_changes() {
    let mut watched = Watched::start(|d| fs::write(d.join("a.yaml"), entry("x", "a.com")).expect("written"));
    watched.expect(&["apply x a.com", "synced"]).await;
    watched.write("b.yml", &entry("y", "b.com"));
    watched.expect(&["apply y b.com"]).await;
    watched.write("a.yaml", &entry("x", "c.com"));
    watched.expect(&["apply x c.com"]).await;
    fs::write(watched.path("new.tmp"), entry("y", "d.com")).expect("written");
    fs::rename(watched.path("new.tmp"), watched.path("b.yml")).expect("renamed");
    watched.expect(&["apply y d.com"]).await;
    fs::remove_file(watched.path("a.yaml")).expect("removed");
    watched.expect(&["delete x"]).await;
    // Renamed without a change: nothing to tell, so the next event is that of the next change.
    fs::rename(watched.path("b.yml"), watched.path("c.json")).expect("renamed");
    watched.write("z.yaml", &entry("z", "z.com"));
    watched.expect(&["apply z z.com"]).await;
    fs::rename(watched.path("z.yaml"), watched.path("z.yaml.off")).expect("renamed");
    watched.expect(&["delete z"]).await;
    watched.end().await;
}

#[tokio::test]
async fn temporary_files_of_editors_and_other_names_are_not_read() {
    let others =
        [".a.yaml", "a.yaml~", ".a.yaml.swp", "#a.yaml#", "a.yaml.tmp", "a.tmp", "yaml", "README.md", "4913"];
    let fill =
        |d: &Path| others.iter().for_each(|n| fs::write(d.join(n), entry("x", "a.com")).expect("written"));
    let mut watched = Watched::start(fill);
    watched.expect(&["synced"]).await;
    others.iter().for_each(|name| watched.write(name, &entry("x", "b.com")));
    watched.write("z.yaml", &entry("z", "z.com"));
    watched.expect(&["apply z z.com"]).await;
    watched.end().await;
}

#[tokio::test]
async fn a_file_that_is_written_slowly_is_read_once_it_is_whole() {
    let mut watched = Watched::start_with(
        Options { quiet: Duration::from_millis(300), rescan: PATIENCE * 10, ..Options::default() },
        |_| {},
    );
    watched.expect(&["synced"]).await;
    let mut file = fs::File::create(watched.path("a.yaml")).expect("created");
    let text = entry("x", "a.com");
    let mut written = tokio::time::interval(Duration::from_millis(20));
    for piece in text.as_bytes().chunks(10) {
        written.tick().await;
        file.write_all(piece).expect("written");
        assert!(watched.events.try_recv().is_err(), "told of half a file");
    }
    watched.expect(&["apply x a.com"]).await;
    watched.end().await;
}

#[tokio::test]
async fn a_file_that_is_moved_into_place_is_read_at_once() {
    // Whatever is not moved stays unread for longer than the test has patience.
    let long = PATIENCE * 10;
    let options = Options { quiet: long, quiet_closed: long, rescan: long, ..Options::default() };
    let mut watched = Watched::start_with(options, |d| {
        fs::write(d.join("a.yaml"), entry("x", "a.com")).expect("written");
    });
    watched.expect(&["apply x a.com", "synced"]).await;
    watched.write("open.yaml", "{");
    for host in ["b.com", "c.com", "d.com"] {
        watched.write(".draft", &entry("x", host));
        fs::rename(watched.path(".draft"), watched.path("a.yaml")).expect("renamed");
        watched.expect(&[&format!("apply x {host}")]).await;
    }
    // To another name: the object stays all the time.
    fs::rename(watched.path("a.yaml"), watched.path("b.yaml")).expect("renamed");
    watched.write(".draft", &entry("x", "e.com"));
    fs::rename(watched.path(".draft"), watched.path("b.yaml")).expect("renamed");
    watched.expect(&["apply x e.com"]).await;
    watched.end().await;
}

#[tokio::test]
async fn an_editor_that_puts_the_old_file_aside_leaves_no_gap() {
    let options = Options { rescan: PATIENCE * 10, ..Options::default() };
    let mut watched = Watched::start_with(options, |d| {
        fs::write(d.join("a.yaml"), entry("x", "a.com")).expect("written");
    });
    watched.expect(&["apply x a.com", "synced"]).await;
    fs::rename(watched.path("a.yaml"), watched.path("a.yaml~")).expect("renamed");
    let mut file = fs::File::create(watched.path("a.yaml")).expect("created");
    let text = entry("x", "b.com");
    file.write_all(&text.as_bytes()[..40]).expect("written");
    file.write_all(&text.as_bytes()[40..]).expect("written");
    drop(file);
    watched.expect(&["apply x b.com"]).await;
    watched.end().await;
}

#[tokio::test]
async fn half_a_file_keeps_its_objects_until_it_is_whole_or_removed() {
    let whole = format!("{}---\n{}", entry("x", "a.com"), entry("y", "b.com"));
    let mut watched = Watched::start(|d| fs::write(d.join("a.yaml"), &whole).expect("written"));
    watched.expect(&["apply x a.com", "apply y b.com", "synced"]).await;
    watched.write("a.yaml", &whole[..whole.len() - 4]);
    watched.expect(&["a.yaml InvalidSyntax"]).await;
    assert!(watched.problems[0].message.contains("last good version stays in use"), "{:?}", watched.problems);
    watched.write("a.yaml", &whole.replace("b.com", "c.com"));
    watched.expect(&["apply y c.com", "a.yaml "]).await;
    watched.write("a.yaml", "{");
    watched.expect(&["a.yaml InvalidSyntax"]).await;
    fs::remove_file(watched.path("a.yaml")).expect("removed");
    watched.expect(&["delete x", "delete y", "a.yaml "]).await;
    watched.end().await;
}

#[tokio::test]
async fn each_thing_that_is_no_good_file_is_one_problem_and_the_others_work() {
    let socket = std::cell::RefCell::new(None);
    let fill = |d: &Path| {
        fs::create_dir(d.join("a-folder.yaml")).expect("created");
        nix::unistd::mkfifo(&d.join("b-pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("created");
        *socket.borrow_mut() = Some(UnixListener::bind(d.join("c-socket.yaml")).expect("bound"));
        fs::write(d.join("d-empty.yaml"), "").expect("written");
        fs::File::create(d.join("e-large.yaml")).and_then(|f| f.set_len(50 << 20)).expect("sized");
        fs::write(d.join("f-broken.yaml"), "a: [").expect("written");
        fs::write(d.join("g-kind.yaml"), "apiVersion: v1\nkind: Secret\nmetadata: {name: p}\n")
            .expect("written");
        symlink("nowhere", d.join("h-link.yaml")).expect("linked");
        symlink("i-loop.yaml", d.join("i-loop.yaml")).expect("linked");
        symlink("/dev/zero", d.join("j-device.yaml")).expect("linked");
        fs::write(d.join(OsStr::from_bytes(b"k-\xff.yaml")), "").expect("written");
        fs::write(d.join("z.yaml"), entry("good", "a.com")).expect("written");
    };
    let mut watched = Watched::start(fill);
    watched.expect(&["apply good a.com"]).await;
    watched
        .expect(&[
            "a-folder.yaml NotAFile",
            "b-pipe.yaml NotAFile",
            "c-socket.yaml NotAFile",
            "d-empty.yaml FileEmpty",
            "e-large.yaml FileTooLarge",
            "f-broken.yaml InvalidSyntax",
            "g-kind.yaml KindNotUsed",
            "h-link.yaml DanglingLink",
            "i-loop.yaml FileUnreadable",
            "j-device.yaml NotAFile",
            "k-\u{fffd}.yaml FileNameNotUtf8",
            "synced",
        ])
        .await;
    let all: String = watched.problems.iter().map(|p| format!("{}\n", p.message)).collect();
    for word in ["a folder", "a pipe", "a socket", "a device", "16777216 bytes", "nowhere", "kind Secret"] {
        assert!(all.contains(word), "{word} in {all}");
    }
    fs::remove_file(watched.path("b-pipe.yaml")).expect("removed");
    watched.write("b-pipe.yaml", &entry("b", "b.com"));
    watched.expect(&["apply b b.com", "b-pipe.yaml "]).await;
    fs::remove_dir(watched.path("a-folder.yaml")).expect("removed");
    watched.expect(&["a-folder.yaml "]).await;
    watched.end().await;
}

#[tokio::test]
async fn a_file_whose_mode_forbids_reading_is_a_problem_until_it_allows_it() {
    let mut watched = Watched::start(|d| {
        fs::write(d.join("a.yaml"), entry("x", "a.com")).expect("written");
    });
    watched.expect(&["apply x a.com", "synced"]).await;
    fs::set_permissions(watched.path("a.yaml"), fs::Permissions::from_mode(0o000)).expect("set");
    if fs::read(watched.path("a.yaml")).is_ok() {
        println!("skipped: this user may read every file");
        return;
    }
    watched.expect(&["a.yaml FileUnreadable"]).await;
    fs::set_permissions(watched.path("a.yaml"), fs::Permissions::from_mode(0o600)).expect("set");
    watched.expect(&["a.yaml "]).await;
    watched.end().await;
}

#[tokio::test]
async fn a_config_map_is_swapped_as_a_whole() {
    let version = |d: &Path, name: &str, host: &str| {
        fs::create_dir(d.join(name)).expect("created");
        fs::write(d.join(name).join("a.yaml"), entry("x", host)).expect("written");
    };
    let mut watched = Watched::start(|d| {
        version(d, "..v1", "one.com");
        symlink("..v1", d.join("..data")).expect("linked");
        symlink("..data/a.yaml", d.join("a.yaml")).expect("linked");
    });
    watched.expect(&["apply x one.com", "synced"]).await;
    for (name, host) in [("..v2", "two.com"), ("..v3", "three.com")] {
        version(&watched.path(""), name, host);
        symlink(name, watched.path("..data_tmp")).expect("linked");
        fs::rename(watched.path("..data_tmp"), watched.path("..data")).expect("renamed");
        watched.expect(&[&format!("apply x {host}")]).await;
    }
    watched.end().await;
}

#[tokio::test]
async fn a_rescan_sees_what_nobody_told_of() {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let target = elsewhere.path().join("target");
    fs::write(&target, entry("x", "a.com")).expect("written");
    let options = Options { rescan: Duration::from_millis(50), ..Watched::quick() };
    let mut watched = Watched::start_with(options, |d| symlink(&target, d.join("a.yaml")).expect("linked"));
    watched.expect(&["apply x a.com", "synced"]).await;
    fs::write(&target, entry("x", "b.com")).expect("written");
    watched.expect(&["apply x b.com"]).await;
    watched.end().await;
}

#[tokio::test]
async fn the_first_of_two_definitions_wins_and_the_other_takes_over() {
    let mut watched = Watched::start(|d| {
        fs::write(d.join("a.yaml"), entry("x", "a.com")).expect("written");
        fs::write(d.join("b.yaml"), entry("x", "b.com")).expect("written");
    });
    watched.expect(&["apply x a.com", "b.yaml ObjectDuplicate", "synced"]).await;
    fs::remove_file(watched.path("a.yaml")).expect("removed");
    watched.expect(&["apply x b.com", "b.yaml "]).await;
    watched.end().await;
}

#[tokio::test]
async fn a_folder_that_goes_keeps_its_objects_and_is_read_when_it_is_back() {
    let mut watched = Watched::start(|d| fs::write(d.join("a.yaml"), entry("x", "a.com")).expect("written"));
    watched.expect(&["apply x a.com", "synced"]).await;
    let (here, away) = (watched.path(""), watched.folder.path().join("away"));
    for host in ["b.com", "c.com"] {
        fs::rename(&here, &away).expect("renamed");
        watched.expect(&["d FolderLost"]).await;
        fs::create_dir(&here).expect("created");
        watched.write("a.yaml", &entry("x", "a.com"));
        // Depending on when it is looked at, the new folder may be seen without the file first.
        loop {
            match watched.next().await.as_str() {
                "delete x" | "apply x a.com" => {}
                "d " => break,
                other => panic!("{other}"),
            }
        }
        watched.write("a.yaml", &entry("x", host));
        while watched.next().await != format!("apply x {host}") {}
        watched.write("a.yaml", &entry("x", "a.com"));
        watched.expect(&["apply x a.com"]).await;
        fs::remove_dir_all(&away).expect("removed");
    }
    // Its files go first, and that may be seen alone.
    fs::remove_dir_all(&here).expect("removed");
    while watched.next().await != "d FolderLost" {}
    watched.end().await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_at_the_start_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("written");
    for (path, reason) in [(folder.path().join("none"), "FolderMissing"), (file, "NotAFolder")] {
        let (tx, _events) = mpsc::channel(1);
        let error = watch(path.clone(), Options::default(), tx, CancellationToken::new()).await;
        let error = error.expect_err("an error");
        assert_eq!(error.reason(), reason);
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[tokio::test]
async fn ends_when_nobody_listens() {
    let watched = Watched::start(|d| fs::write(d.join("a.yaml"), entry("x", "a.com")).expect("written"));
    drop(watched.events);
    let result = tokio::time::timeout(PATIENCE, watched.task).await.expect("it stops in time");
    result.expect("no panic").expect("no error");
}
