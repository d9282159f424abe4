//! Looks at a folder in, events out; no disk.

use std::io;

use super::*;
use crate::model::{Object, parse_documents};

/// A ServiceEntry with this name and host.
fn entry(name: &str, host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {{hosts: [{host}]}}\n"
    )
}

fn entries(names: &[&str]) -> String {
    names.iter().map(|name| format!("---\n{}", entry(name, "a.com"))).collect()
}

type File<'a> = (&'a str, Result<&'a str, ReadError>);

struct Folder {
    state: State,
    /// What the last look wants read again.
    again: BTreeSet<String>,
}

impl Folder {
    fn new() -> Self {
        Self { state: State::new(Path::new("/f"), Duration::from_secs(30)), again: BTreeSet::new() }
    }

    /// A look that finds these files; a full one but for those that are still being written, if these are given.
    fn look(&mut self, files: Vec<File<'_>>, all_but: Option<&[&str]>) -> Vec<String> {
        if let Some(all_but) = all_but {
            let names = files.iter().map(|(n, _)| (*n).to_owned()).collect();
            let listing = Listing { names, unreadable_names: Vec::new() };
            self.state.present(&listing, &all_but.iter().map(|n| (*n).to_owned()).collect());
        }
        for (name, found) in files {
            match found {
                Ok(text) => {
                    let draft = Draft::of(text.as_bytes(), self.state.contents(name));
                    let unknown: Vec<_> = draft.unknown().collect();
                    let read = draft.with(&mut parse_documents(&unknown).into_iter());
                    self.state.read(name, read, None);
                }
                Err(error) => self.state.unreadable(name, &error),
            }
        }
        let mut events: Vec<_> = self.state.news().collect();
        let (more, again) = self.state.finish(None);
        events.extend(more);
        self.again = again;
        told(events)
    }

    fn lost(&mut self) -> Vec<String> {
        told(self.state.lost(&io::ErrorKind::NotFound.into()))
    }

    /// The objects that were told and are not gone, with the digests of what was told of them.
    fn told(&self) -> BTreeMap<&str, u64> {
        self.state.objects.iter().filter_map(|(r, known)| Some((&*r.name, known.told?))).collect()
    }

    fn names(&self) -> Vec<&str> {
        self.told().into_keys().collect()
    }

    /// How many objects are in memory.
    fn kept(&self) -> usize {
        let held = self.state.files.values().flat_map(|contents| &contents.objects);
        held.filter(|held| held.object.is_some()).count()
    }

    /// A full look that finds these files.
    fn all(&mut self, files: &[(&str, &str)]) -> Vec<String> {
        self.look(files.iter().map(|(n, t)| (*n, Ok(*t))).collect(), Some(&[]))
    }
}

/// Each event in one line; messages by the function below.
fn told(events: Vec<Event>) -> Vec<String> {
    events
        .into_iter()
        .map(|event| match event {
            Event::Apply(Object::ServiceEntry(e)) => {
                format!("apply {} {}", e.metadata.name, e.spec.hosts.join(","))
            }
            Event::Apply(object) => format!("apply {}", object.object_ref()),
            Event::Delete(object) => format!("delete {}", object.name),
            Event::Problems { origin, problems } => {
                let reasons: Vec<_> = problems.iter().map(|p| p.reason).collect();
                format!("problems {origin} {reasons:?}")
            }
            Event::Synced => "synced".to_owned(),
        })
        .collect()
}

/// The messages told of `name`, as things are.
fn messages(folder: &Folder, name: &str) -> Vec<String> {
    let problems = folder.state.told_problems.get(&format!("/f/{name}"));
    problems.into_iter().flatten().map(|p| p.message.clone()).collect()
}

#[test]
fn only_what_changes_is_told() {
    let mut folder = Folder::new();
    let two = entries(&["x", "y"]);
    assert_eq!(folder.all(&[("a.yaml", &two)]), ["apply x a.com", "apply y a.com"]);
    assert_eq!(folder.all(&[("a.yaml", &two)]), [""; 0]);
    assert_eq!(folder.all(&[("a.yaml", &format!("# other text, same objects\n{two}"))]), [""; 0]);
    let changed = two.replacen("a.com", "b.com", 1);
    assert_eq!(folder.all(&[("a.yaml", &changed)]), ["apply x b.com"]);
    assert_eq!(folder.all(&[("a.yaml", &entry("x", "b.com"))]), ["delete y"]);
    assert_eq!(folder.all(&[("b.yaml", &entry("x", "b.com"))]), [""; 0], "the file was renamed");
    assert_eq!(folder.all(&[("b.yaml", &entry("z", "b.com"))]), ["apply z b.com", "delete x"]);
    assert_eq!(folder.all(&[]), ["delete z"]);
}

#[test]
fn an_object_whose_text_breaks_stays_until_it_is_whole_or_removed() {
    let mut folder = Folder::new();
    let whole = entries(&["x", "y", "z"]);
    folder.all(&[("a.yaml", &whole)]);
    let broken = whole.replacen("{name: y}", "{name: y", 1);
    assert_eq!(folder.all(&[("a.yaml", &broken)]), ["problems /f/a.yaml [\"InvalidSyntax\"]"]);
    assert!(messages(&folder, "a.yaml")[0].contains("stay"), "{:?}", messages(&folder, "a.yaml"));
    assert_eq!(folder.all(&[("a.yaml", &whole)]), ["problems /f/a.yaml []"]);
    folder.all(&[("a.yaml", &broken)]);
    assert_eq!(folder.all(&[("a.yaml", &entries(&["x", "z"]))]), ["delete y", "problems /f/a.yaml []"]);
    folder.all(&[("a.yaml", &broken)]);
    assert_eq!(folder.all(&[]), ["delete x", "delete z", "problems /f/a.yaml []"]);
}

#[test]
fn half_a_file_keeps_the_objects_of_the_other_half() {
    let whole = entries(&["x", "y", "z"]);
    let reference = {
        let mut folder = Folder::new();
        folder.all(&[("a.yaml", &whole)]);
        folder
    };
    assert_eq!(reference.names(), ["x", "y", "z"]);
    let mut cut_in_text = 0;
    for length in 0..whole.len() {
        let mut folder = Folder::new();
        folder.all(&[("a.yaml", &whole)]);
        folder.all(&[("a.yaml", &whole[..length])]);
        let has_problem = !messages(&folder, "a.yaml").is_empty();
        if has_problem {
            assert_eq!(folder.names(), ["x", "y", "z"], "cut at {length}: {:?}", &whole[..length]);
            cut_in_text += 1;
        }
        folder.all(&[("a.yaml", &whole)]);
        assert_eq!(folder.told(), reference.told());
        assert!(messages(&folder, "a.yaml").is_empty());
    }
    assert!(cut_in_text > 50, "{cut_in_text}");
}

#[test]
fn a_wrong_type_keeps_that_object_only() {
    let mut folder = Folder::new();
    folder.all(&[("a.yaml", &entries(&["x", "y"]))]);
    let wrong = entry("x", "a.com").replace("[a.com]", "5");
    assert_eq!(folder.all(&[("a.yaml", &wrong)]), ["delete y", "problems /f/a.yaml [\"WrongType\"]"]);
    let messages = messages(&folder, "a.yaml");
    assert!(messages[0].contains("spec.hosts") && messages[0].contains("last good version"), "{messages:?}");
}

#[test]
fn a_file_that_cannot_be_read_keeps_its_objects_and_others_go_on() {
    let mut folder = Folder::new();
    let (x, y) = (entry("x", "a.com"), entry("y", "a.com"));
    folder.all(&[("a.yaml", &x)]);
    let denied = || ReadError::Io { source: io::ErrorKind::PermissionDenied.into() };
    let events = folder.look(vec![("a.yaml", Err(denied())), ("b.yaml", Ok(&y))], Some(&[]));
    assert_eq!(events, ["apply y a.com", "problems /f/a.yaml [\"FileUnreadable\"]"]);
    let events = folder.look(vec![("a.yaml", Err(denied())), ("b.yaml", Ok(&y))], Some(&[]));
    assert_eq!(events, [""; 0]);
    assert_eq!(folder.all(&[("a.yaml", &x), ("b.yaml", &y)]), ["problems /f/a.yaml []"]);
    assert_eq!(folder.all(&[("a.yaml", ""), ("b.yaml", &y)]), ["problems /f/a.yaml [\"FileEmpty\"]"]);
    assert!(messages(&folder, "a.yaml")[0].contains("1 object"), "{:?}", messages(&folder, "a.yaml"));
    assert_eq!(
        folder.all(&[("a.yaml", "# no objects\n"), ("b.yaml", &y)]),
        ["delete x", "problems /f/a.yaml []"]
    );
}

#[test]
fn the_first_of_two_definitions_wins_and_the_other_takes_over() {
    let mut folder = Folder::new();
    let (first, second) = (entry("x", "first.com"), entry("x", "second.com"));
    assert_eq!(
        folder.all(&[("a.yaml", &first), ("b.yaml", &second)]),
        ["apply x first.com", "problems /f/b.yaml [\"ObjectDuplicate\"]"]
    );
    let message = &messages(&folder, "b.yaml")[0];
    assert!(message.contains("ServiceEntry default/x") && message.contains("a.yaml (line 1)"), "{message}");
    assert_eq!(folder.all(&[("b.yaml", &second)]), ["apply x second.com", "problems /f/b.yaml []"]);
    assert_eq!(
        folder.all(&[("a.yaml", &first), ("b.yaml", &second)]),
        ["apply x first.com", "problems /f/b.yaml [\"ObjectDuplicate\"]"]
    );
    // Twice in one file.
    let mut folder = Folder::new();
    let both = format!("{first}---\n{second}");
    assert_eq!(
        folder.all(&[("a.yaml", &both)]),
        ["apply x first.com", "problems /f/a.yaml [\"ObjectDuplicate\"]"]
    );
    assert_eq!(folder.all(&[("a.yaml", &second)]), ["apply x second.com", "problems /f/a.yaml []"]);
}

#[test]
fn each_wrong_document_is_one_clear_problem() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: p}\n";
    let nameless = entry("x", "a.com").replace("{name: x}", "{}");
    let misspelt = entry("y", "a.com").replace("spec:", "spek: 1\nspec:");
    for (text, reason, word) in [
        (secret, "KindNotUsed", "kind Secret (v1) is not used by kmesh-se"),
        (&nameless, "NameMissing", "metadata.name"),
        (&misspelt, "UnknownField", "ServiceEntry default/y: spek:"),
        ("just text", "NotAnObject", "line 1"),
        ("a: [", "InvalidSyntax", "not valid YAML"),
        (" \n", "FileEmpty", "empty"),
    ] {
        let mut folder = Folder::new();
        let good = entry("good", "a.com");
        folder.all(&[("a.yaml", text), ("b.yaml", &good)]);
        let messages = messages(&folder, "a.yaml");
        assert!(messages.len() == 1 && messages[0].contains(word), "{text:?}: {messages:?}");
        assert_eq!(folder.state.told_problems["/f/a.yaml"][0].reason, reason);
        assert!(folder.names().contains(&"good"));
    }
}

#[test]
fn a_lost_folder_keeps_everything() {
    let mut folder = Folder::new();
    let x = entry("x", "a.com");
    folder.all(&[("a.yaml", &x)]);
    assert_eq!(folder.lost(), ["problems /f [\"FolderLost\"]"]);
    assert_eq!(folder.lost(), [""; 0]);
    assert_eq!(folder.all(&[("a.yaml", &x)]), ["problems /f []"]);
    folder.lost();
    assert_eq!(folder.all(&[]), ["delete x", "problems /f []"]);
}

#[test]
fn a_partial_look_says_nothing_of_other_files() {
    let mut folder = Folder::new();
    let (x, y, z) = (entry("x", "a.com"), entry("y", "a.com"), entry("z", "a.com"));
    folder.all(&[("a.yaml", &x), ("b.yaml", &y)]);
    assert_eq!(folder.look(vec![("c.yaml", Ok(&z))], None), ["apply z a.com"]);
    assert_eq!(folder.look(vec![("a.yaml", Err(ReadError::Gone))], None)[0], "delete x");
    // An editor has moved b.yaml away to write it anew.
    assert_eq!(folder.look(vec![("c.yaml", Ok(&z))], Some(&["b.yaml"])), [""; 0]);
}

#[test]
fn a_flood_of_problems_is_cut_short_and_counted() {
    let mut folder = Folder::new();
    folder.all(&[("a.yaml", &"---\n5\n".repeat(MAX_PROBLEMS + 7))]);
    let messages = messages(&folder, "a.yaml");
    assert_eq!(messages.len(), MAX_PROBLEMS + 1);
    assert!(messages[MAX_PROBLEMS].starts_with("7 more"), "{}", messages[MAX_PROBLEMS]);
}

#[test]
fn an_object_is_not_kept_once_it_was_told() {
    let mut folder = Folder::new();
    let two = entries(&["x", "y"]);
    folder.all(&[("a.yaml", &two), ("b.yaml", &entry("z", "a.com"))]);
    assert_eq!(folder.kept(), 0);
    folder.all(&[("a.yaml", &two.replacen("a.com", "b.com", 1)), ("b.yaml", &entry("z", "a.com"))]);
    assert_eq!(folder.kept(), 0);
    // The second definition of an object waits for its turn.
    folder.all(&[("a.yaml", &two), ("c.yaml", &entry("x", "c.com"))]);
    assert_eq!(folder.kept(), 1);
    assert_eq!(folder.again.len(), 0);
}

#[test]
fn only_documents_that_changed_are_parsed_again() {
    let mut folder = Folder::new();
    let names: Vec<_> = (0..1000).map(|n| format!("e{n}")).collect();
    let text = entries(&names.iter().map(String::as_str).collect::<Vec<_>>());
    folder.all(&[("a.yaml", &text)]);
    let changed = format!(
        "# one line more\n{}",
        text.replacen("e500}\nspec: {hosts: [a.com]", "e500}\nspec: {hosts: [b.com]", 1)
    );
    let draft = Draft::of(changed.as_bytes(), folder.state.contents("a.yaml"));
    assert_eq!(draft.unknown().count(), 1);
    assert_eq!(folder.all(&[("a.yaml", &changed)]), ["apply e500 b.com"]);
    // Where the others are is known all the same.
    let twice = format!("{changed}---\n{}", entry("e999", "c.com"));
    folder.all(&[("a.yaml", &twice)]);
    let line = changed.lines().position(|line| line.contains("e999}")).expect("it is there") - 2;
    let message = &messages(&folder, "a.yaml")[0];
    assert!(message.contains(&format!("a.yaml (line {})", line + 1)), "{message}, not {line}");
}

#[test]
fn a_definition_that_was_used_is_read_again_when_another_comes_before_it() {
    let (first, second) = (entry("x", "first.com"), entry("x", "second.com"));
    let mut folder = Folder::new();
    folder.all(&[("b.yaml", &second)]);
    folder.all(&[("a.yaml", &first), ("b.yaml", &second)]);
    assert_eq!(folder.again, BTreeSet::from(["b.yaml".to_owned()]));
    assert_eq!(folder.look(vec![("b.yaml", Ok(&second))], None), [""; 0]);
    assert_eq!((folder.kept(), folder.again.len()), (1, 0));
    // So that it is there at once when it is needed, even if its file is broken by then.
    assert_eq!(
        folder.all(&[("b.yaml", "{")]),
        ["apply x second.com", "problems /f/b.yaml [\"InvalidSyntax\"]"]
    );
}

#[test]
fn a_definition_that_cannot_be_read_again_goes_with_the_one_before_it() {
    let (first, second) = (entry("x", "first.com"), entry("x", "second.com"));
    let mut folder = Folder::new();
    folder.all(&[("b.yaml", &second)]);
    folder.all(&[("a.yaml", &first), ("b.yaml", &second)]);
    folder.look(vec![("b.yaml", Ok("{"))], None);
    assert_eq!(folder.again.len(), 0, "it would be read for ever");
    assert_eq!(folder.look(vec![("a.yaml", Err(ReadError::Gone))], None)[0], "delete x");
    assert_eq!(folder.look(vec![("b.yaml", Ok(&second))], None)[0], "apply x second.com");
    assert_eq!(folder.all(&[]), ["delete x"]);
}

#[test]
fn a_list_of_which_something_was_lost_is_read_as_a_whole() {
    let item = |name: &str| format!("- {{metadata: {{name: {name}}}, spec: {{hosts: [a.com]}}}}\n");
    let list = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntryList\nitems:\n{}{}",
        item("x"),
        item("y")
    );
    let mut folder = Folder::new();
    assert_eq!(folder.all(&[("a.yaml", &list)]), ["apply x a.com", "apply y a.com"]);
    folder.all(&[("a.yaml", &format!("{}---\n{{", entry("x", "b.com")))]);
    assert_eq!(folder.names(), ["x", "y"]);
    assert_eq!(folder.all(&[("a.yaml", &list)])[0], "apply x a.com");
    assert_eq!(folder.names(), ["x", "y"]);
}
