//! Whether the tests that `docs/compatibility.md` names are there.
//!
//! In: the page's tables, the sources, the scenarios. Out: what is wrong, a line each. Never: a run of a test.

use std::collections::BTreeSet;

/// The heading of the column that names tests.
const COLUMN: &str = "proof";

/// What is wrong with the tables of `page`: a row without a test, or with one that is not in `tests`.
pub(super) fn unbacked_rows(page: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut column = None;
    let mut rows = 0;
    for (number, line) in (1..).zip(page.lines()) {
        let Some(cells) = cells(line) else {
            column = None;
            continue;
        };
        let Some(column) = column else {
            column = cells.iter().position(|cell| *cell == COLUMN);
            continue;
        };
        if cells.iter().all(|cell| cell.chars().all(|c| "-: ".contains(c))) {
            continue;
        }
        rows += 1;
        let names: Vec<_> =
            cells.get(column).into_iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        if names.is_empty() {
            wrong.push(format!("line {number}: the row {:?} names no test", cells[0]));
        }
        let missing = names.into_iter().filter(|name| !tests.contains(*name));
        wrong.extend(missing.map(|name| format!("line {number}: there is no test `{name}`")));
    }
    if rows == 0 {
        wrong.push(format!("no table has a column {COLUMN:?}"));
    }
    wrong
}

/// The cells of a row of a table.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inside = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inside.split('|').map(str::trim).collect())
}

/// The names of the tests in a Rust source: functions right below `#[test]`, `#[tokio::test]` and the like.
pub(super) fn tests_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.contains("::test");
            continue;
        }
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some(name) = name.filter(|_| is_test) {
            names.push(name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect());
        }
        is_test = is_test && (line.is_empty() || line.starts_with("//"));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_must_name_a_test_that_exists() {
        let tests = BTreeSet::from(["a_test".to_owned(), "a-scenario".to_owned()]);
        let page =
            "| what | proof |\n|---|---|\n| a | `a_test`, `a-scenario` |\n| b | `gone` |\n| c | by hand |\n";
        let wrong = unbacked_rows(page, &tests);
        assert_eq!(wrong, ["line 4: there is no test `gone`", "line 5: the row \"c\" names no test"]);
        assert!(unbacked_rows(&page.lines().take(3).collect::<Vec<_>>().join("\n"), &tests).is_empty());
        assert_eq!(unbacked_rows("# no table\n", &tests).len(), 1);
    }

    #[test]
    fn finds_tests_by_their_attribute() {
        let text = "fn no() {}\n#[test]\nfn one() {}\n    #[tokio::test(start_paused = true)]\n    async fn two() {}\n\
                    #[test]\n#[ignore = \"slow\"]\nfn three() {}\n#[derive(Debug)]\nfn not() {}\n";
        assert_eq!(tests_in(text), ["one", "two", "three"]);
    }
}
