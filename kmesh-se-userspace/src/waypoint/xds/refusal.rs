//! Which resources of an answer an Envoy refused, from what it says.
//!
//! In: its words, and the names that it was sent. Out: each refused name with the part that is about it. Never: a guess:
//! words that name nobody refuse nobody.
//!
//! Envoy applies what is good of a response and names the rest: `Error adding/updating listener(s) NAME: why\nNAME: why\n`,
//! and for clusters the same with commas.

use std::sync::Arc;

/// The names that `words` are about, in the order in which they come.
pub(super) fn refused(words: &str, sent: &[Arc<str>]) -> Vec<(Arc<str>, String)> {
    let mut found: Vec<(usize, &Arc<str>)> = Vec::new();
    for name in sent {
        let is_told = |at: &usize| {
            let before = words[..*at].chars().next_back();
            let after = words[at + name.len()..].chars().next();
            before.is_none_or(char::is_whitespace) && after == Some(':')
        };
        found.extend(words.match_indices(&**name).map(|(at, _)| at).find(is_told).map(|at| (at, name)));
    }
    found.sort_unstable();
    let ends = found.iter().skip(1).map(|(at, _)| *at).chain([words.len()]);
    let why = |((at, name), end): (&(usize, &Arc<str>), usize)| {
        let about = words[at + name.len() + 1..end].trim().trim_end_matches(',');
        (Arc::clone(name), about.to_owned())
    };
    found.iter().zip(ends).map(why).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn finds_each_refused_listener_with_its_reason() {
        let words = "Error adding/updating listener(s) default/e|a.test|80: cannot bind '192.0.2.1:1': Cannot assign \
                     requested address\ndefault/e|b.test|80: no filter chain\n";
        let sent = names(&["default/e|a.test|80", "default/e|a.test|8080", "default/e|b.test|80"]);
        let found = refused(words, &sent);
        assert_eq!(
            found,
            [
                (sent[0].clone(), "cannot bind '192.0.2.1:1': Cannot assign requested address".to_owned()),
                (sent[2].clone(), "no filter chain".to_owned())
            ]
        );
    }

    #[test]
    fn finds_clusters_behind_commas_and_no_name_that_another_begins_with() {
        let words =
            "Error adding/updating cluster(s) n/e|a.test|8080: malformed IP address: x, n/e|b.test|1: bad";
        let sent = names(&["n/e|a.test|80", "n/e|b.test|1", "n/e|a.test|8080"]);
        let found = refused(words, &sent);
        assert_eq!(
            found,
            [(sent[2].clone(), "malformed IP address: x".to_owned()), (sent[1].clone(), "bad".to_owned())]
        );
    }

    #[test]
    fn words_that_name_nobody_refuse_nobody() {
        assert!(refused("Proto constraint validation failed", &names(&["n/e|a.test|80"])).is_empty());
    }
}
