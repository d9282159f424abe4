//! What the nodes say, and which of them are there.
//!
//! In: their Leases, the time. Out: whether all of them hold an entry, and which do not. Never: a comparison of clocks: a node is
//! there while its Lease changes.

mod follow;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

pub(super) use self::follow::follow;
use crate::node_report::{self, Exception, NodeReport};

/// How many nodes a message names.
const NAMED: usize = 3;

/// What is told of Leases.
#[derive(Debug)]
pub(super) enum News {
    /// These are all.
    All(Vec<Lease>),
    /// One is new, or has changed.
    One(Box<Lease>),
    /// The one of this name is gone.
    Gone(String),
    /// They are not known any more: who is silent may be there all the same.
    Lost,
}

/// One node.
#[derive(Debug)]
struct Node {
    lease: String,
    report: NodeReport,
    version: Option<String>,
    changed_at: Instant,
    duration: Duration,
}

/// All nodes that are there.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    nodes: BTreeMap<String, Node>,
    /// Entry -> the nodes that do not hold it as it says.
    lacking: BTreeMap<String, BTreeSet<String>>,
    /// Whether they are known, and since when.
    known_since: Option<Instant>,
    /// Entries whose nodes say something else now.
    touched: BTreeSet<String>,
    /// Whether more entries may be held by all now, or fewer nodes are waited for.
    has_moved: bool,
}

/// How the nodes hold an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// There is none, or it is not known.
    Unknown,
    /// By all.
    ByAll,
    /// Not by these, and how they are named.
    Waits(String),
    /// Not as it says, by these.
    Lacks(Exception, String),
}

impl Nodes {
    /// Takes in what is told at `now`.
    pub(super) fn hear(&mut self, news: News, now: Instant) {
        match news {
            News::All(leases) => {
                let names: BTreeSet<_> = leases.iter().filter_map(|l| l.metadata.name.clone()).collect();
                let gone: Vec<_> =
                    self.nodes.iter().filter(|(_, node)| !names.contains(&node.lease)).collect();
                let gone: Vec<_> = gone.into_iter().map(|(name, _)| name.clone()).collect();
                gone.iter().for_each(|name| self.remove(name));
                // Nobody was silent while nobody listened.
                if self.known_since.is_none() {
                    self.nodes.values_mut().for_each(|node| node.changed_at = now);
                }
                leases.iter().for_each(|lease| self.apply(lease, now));
                self.known_since.get_or_insert(now);
                self.has_moved = true;
            }
            News::One(lease) => self.apply(&lease, now),
            News::Gone(lease) => {
                let name =
                    self.nodes.iter().find(|(_, node)| node.lease == lease).map(|(name, _)| name.clone());
                name.iter().for_each(|name| self.remove(name));
            }
            News::Lost => self.known_since = None,
        }
    }

    fn apply(&mut self, lease: &Lease, now: Instant) {
        let Some((name, report)) = node_report::read(lease) else { return };
        let duration = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let duration = duration.and_then(|secs| u64::try_from(secs).ok()).unwrap_or_default();
        let version = lease.metadata.resource_version.clone();
        let before = self.nodes.get(&name);
        if before.is_some_and(|node| node.version == version) {
            return;
        }
        let old = before.map(|node| node.report.clone()).unwrap_or_default();
        self.has_moved |= before.is_none() || old.applied != report.applied;
        self.except(&name, &old, &report);
        let node = Node {
            lease: lease.metadata.name.clone().unwrap_or_default(),
            report,
            version,
            changed_at: now,
            duration: Duration::from_secs(duration),
        };
        self.nodes.insert(name, node);
    }

    /// The node `name` says something else of entries.
    fn except(&mut self, name: &str, old: &NodeReport, new: &NodeReport) {
        for entry in old.exceptions.keys().filter(|entry| !new.exceptions.contains_key(*entry)) {
            if let Some(nodes) = self.lacking.get_mut(entry) {
                nodes.remove(name);
                if nodes.is_empty() {
                    self.lacking.remove(entry);
                }
            }
            self.touched.insert(entry.clone());
        }
        for (entry, exception) in &new.exceptions {
            self.lacking.entry(entry.clone()).or_default().insert(name.to_owned());
            if old.exceptions.get(entry) != Some(exception) {
                self.touched.insert(entry.clone());
            }
        }
    }

    fn remove(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name) {
            self.except(name, &node.report, &NodeReport::default());
            self.has_moved = true;
        }
    }

    /// Forgets nodes that have not renewed their Leases.
    pub(super) fn forget(&mut self, now: Instant) {
        if self.known_since.is_none() {
            return;
        }
        let silent = |node: &Node| now.duration_since(node.changed_at) >= node.duration;
        let gone: Vec<_> =
            self.nodes.iter().filter(|(_, node)| silent(node)).map(|(name, _)| name.clone()).collect();
        for name in gone {
            tracing::info!(node = name, "a node has not renewed its Lease: it is not waited for any more");
            self.remove(&name);
        }
    }

    /// The entries of which nodes say something else since this was last asked, and whether others may be held by all now.
    pub(super) fn take_changes(&mut self) -> (BTreeSet<String>, bool) {
        (std::mem::take(&mut self.touched), std::mem::take(&mut self.has_moved))
    }

    /// Whether there are any, as far as is known.
    pub(super) fn are_known(&self) -> bool {
        self.known_since.is_some() && !self.nodes.is_empty()
    }

    /// Whether all of them have applied this version.
    pub(super) fn have(&self, version: u64) -> bool {
        self.known_since.is_some() && self.nodes.values().all(|node| node.report.applied >= version)
    }

    /// How the nodes hold `entry` as it was in this version.
    pub(super) fn hold(&self, entry: &str, version: u64) -> Held {
        if !self.are_known() {
            return Held::Unknown;
        }
        let behind: Vec<_> = self.nodes.iter().filter(|(_, node)| node.report.applied < version).collect();
        if !behind.is_empty() {
            return Held::Waits(named(behind.into_iter().map(|(name, _)| name)));
        }
        let lacking = self.lacking.get(entry).into_iter().flatten();
        let of = |name: &String| self.nodes.get(name)?.report.exceptions.get(entry);
        match lacking.clone().filter_map(of).min() {
            Some(worst) => {
                let same = lacking.filter(|name| of(name).is_some_and(|other| other.reason == worst.reason));
                Held::Lacks(worst.clone(), named(same))
            }
            None => Held::ByAll,
        }
    }
}

/// The first of these nodes. A number would change with every node that comes.
fn named<'a>(nodes: impl Iterator<Item = &'a String>) -> String {
    let mut names: Vec<_> = nodes.take(NAMED + 1).map(String::as_str).collect();
    let is_cut = names.len() > NAMED;
    names.truncate(NAMED);
    let word = if names.len() == 1 { "node" } else { "nodes" };
    format!("{word} {}{}", names.join(", "), if is_cut { " and others" } else { "" })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::node_report::Lack;

    fn lease(node: &str, applied: u64, lacks: &[(&str, Lack)], version: u64) -> Lease {
        let exceptions = lacks.iter().map(|(entry, reason)| {
            ((*entry).to_owned(), Exception { reason: *reason, message: format!("{reason:?}") })
        });
        let report = NodeReport::new(applied, exceptions.collect());
        let mut lease = node_report::lease(node, &report, Timestamp::UNIX_EPOCH).expect("a Lease");
        lease.metadata.resource_version = Some(version.to_string());
        lease
    }

    fn one(node: &str, applied: u64, lacks: &[(&str, Lack)], version: u64) -> News {
        News::One(Box::new(lease(node, applied, lacks, version)))
    }

    #[test]
    fn an_entry_is_held_when_the_last_node_has_it_and_a_silent_node_is_not_waited_for() {
        let (mut nodes, now) = (Nodes::default(), Instant::now());
        assert_eq!(nodes.hold("a/a", 1), Held::Unknown);
        nodes.hear(News::All(Vec::new()), now);
        assert_eq!(nodes.hold("a/a", 1), Held::Unknown);
        nodes.hear(News::All(vec![lease("n1", 10, &[], 1), lease("n2", 5, &[], 2)]), now);
        assert_eq!(nodes.take_changes(), (BTreeSet::new(), true));
        assert_eq!(nodes.hold("a/a", 5), Held::ByAll);
        assert_eq!(nodes.hold("a/a", 7), Held::Waits("node n2".to_owned()));
        nodes.hear(one("n2", 7, &[], 3), now);
        assert_eq!((nodes.hold("a/a", 7), nodes.take_changes().1), (Held::ByAll, true));
        // One renews its Lease and says the same, the other does not.
        let later = now + Duration::from_secs(80);
        nodes.hear(one("n1", 10, &[], 4), later);
        assert_eq!(nodes.take_changes(), (BTreeSet::new(), false));
        nodes.forget(later);
        assert_eq!(nodes.hold("a/a", 9), Held::Waits("node n2".to_owned()));
        nodes.forget(now + Duration::from_secs(90));
        assert_eq!((nodes.hold("a/a", 9), nodes.take_changes().1), (Held::ByAll, true));
    }

    #[test]
    fn who_lacks_an_entry_is_named_with_the_worst_reason_until_it_has_it() {
        let (mut nodes, now) = (Nodes::default(), Instant::now());
        let all = vec![
            lease("n1", 9, &[("a/a", Lack::StaleNames)], 1),
            lease("n2", 9, &[("a/a", Lack::NoBackends), ("a/b", Lack::NoBackends)], 2),
            lease("n3", 9, &[], 3),
        ];
        nodes.hear(News::All(all), now);
        let (touched, _) = nodes.take_changes();
        assert_eq!(touched.into_iter().collect::<Vec<_>>(), ["a/a", "a/b"]);
        let worst = Exception { reason: Lack::NoBackends, message: "NoBackends".to_owned() };
        assert_eq!(nodes.hold("a/a", 9), Held::Lacks(worst, "node n2".to_owned()));
        nodes.hear(one("n2", 9, &[("a/b", Lack::NoBackends)], 4), now);
        let (touched, has_moved) = nodes.take_changes();
        assert_eq!((touched.into_iter().collect::<Vec<_>>(), has_moved), (vec!["a/a".to_owned()], false));
        let stale = Exception { reason: Lack::StaleNames, message: "StaleNames".to_owned() };
        assert_eq!(nodes.hold("a/a", 9), Held::Lacks(stale, "node n1".to_owned()));
        nodes.hear(News::Gone(node_report::lease_name("n1")), now);
        assert_eq!(nodes.hold("a/a", 9), Held::ByAll);
    }

    #[test]
    fn nobody_is_silent_while_nobody_listens() {
        let (mut nodes, now) = (Nodes::default(), Instant::now());
        nodes.hear(News::All(vec![lease("n1", 1, &[], 1)]), now);
        nodes.hear(News::Lost, now);
        let later = now + Duration::from_secs(600);
        nodes.forget(later);
        assert_eq!(nodes.hold("a/a", 1), Held::Unknown);
        nodes.hear(News::All(vec![lease("n1", 1, &[], 1)]), later);
        nodes.forget(later + Duration::from_secs(80));
        assert_eq!(nodes.hold("a/a", 1), Held::ByAll);
        nodes.forget(later + Duration::from_secs(91));
        assert_eq!(nodes.hold("a/a", 1), Held::Unknown);
    }

    #[test]
    fn many_nodes_are_not_counted() {
        let (mut nodes, now) = (Nodes::default(), Instant::now());
        nodes.hear(News::All((0..9).map(|i| lease(&format!("n{i}"), 1, &[], i)).collect()), now);
        assert_eq!(nodes.hold("a/a", 2), Held::Waits("nodes n0, n1, n2 and others".to_owned()));
    }
}
