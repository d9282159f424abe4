//! What is wrong with collections and their objects, in words.
//!
//! In: failed requests. Out: problems by origin. Never: a word that changes while the problem is the same.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::super::{Trouble, follow::Verb, resource::Collection};
use crate::{
    model::{Kind, ObjectRef, VERSIONS},
    source::Problem,
};

/// The origin of what concerns every collection.
const SERVER: &str = "kube";
/// The origin of what concerns Nodes.
pub(super) const NODES: &str = "kube:nodes";

/// An API server that has just started knows no rules yet, and forbids everything for about this long.
const RULES_KNOWN: SignedDuration = SignedDuration::from_secs(3);

/// That a collection cannot be followed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    verb: Verb,
    trouble: Trouble,
    since: Timestamp,
}

impl Fault {
    /// Notes a failure at `now`; one like the last is the same fault.
    pub(super) fn set(fault: &mut Option<Self>, verb: Verb, trouble: Trouble, now: Timestamp) -> &Self {
        let last = fault.take().filter(|fault| fault.trouble.reason() == trouble.reason());
        fault.insert(last.unwrap_or(Self { verb, trouble, since: now }))
    }

    /// Whether the API server has understood and says no, so that to wait for something else would be in vain.
    pub(super) fn is_settled(&self, now: Timestamp) -> bool {
        match self.trouble {
            Trouble::NotServed | Trouble::Refused { .. } => true,
            Trouble::Forbidden { .. } => now.duration_since(self.since) >= RULES_KNOWN,
            _ => false,
        }
    }
}

/// The problems that faults are.
pub(super) fn by_origin<'a>(
    faults: impl Iterator<Item = (&'a Collection, &'a Fault)>,
) -> BTreeMap<String, Vec<Problem>> {
    let mut of_server: Option<&Fault> = None;
    let mut found: BTreeMap<String, Vec<Problem>> = BTreeMap::new();
    for (collection, fault) in faults {
        if fault.trouble.is_of_server() {
            if of_server.is_none_or(|first| fault.since < first.since) {
                of_server = Some(fault);
            }
            continue;
        }
        let problem = Problem { reason: reason(&fault.trouble), message: message(collection, fault) };
        let problems = found.entry(format!("{SERVER}:{}", collection.resource())).or_default();
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    if let Some(fault) = of_server {
        let message =
            format!("{}, since {:.0}; what it said before stays in use", fault.trouble, fault.since);
        found.insert(SERVER.to_owned(), vec![Problem { reason: reason(&fault.trouble), message }]);
    }
    found
}

fn reason(trouble: &Trouble) -> &'static str {
    match trouble {
        Trouble::NotServed => "CrdMissing",
        trouble => trouble.reason(),
    }
}

fn message(collection: &Collection, fault: &Fault) -> String {
    let (resource, verb, group) = (collection.resource(), fault.verb.as_str(), collection.group());
    match &fault.trouble {
        Trouble::Forbidden { user } => {
            let user = user.as_deref().unwrap_or("the agent");
            let api_group = if group.is_empty() { "\"\"" } else { group };
            format!(
                "{user} may not {verb} {resource}, so {} are not seen; add {{apiGroups: [{api_group}], resources: \
                 [{resource}], verbs: [list, watch]}} to its ClusterRole",
                plural(collection.kind())
            )
        }
        Trouble::NotServed => {
            let of_group = if group.is_empty() { String::new() } else { format!(".{group}") };
            format!(
                "the API server has no resource {resource}{of_group} in version {}; install its CustomResourceDefinition, \
                 Istio's or by `kmesh-se crds | kubectl apply -f -`, and it is picked up",
                VERSIONS.join(", ")
            )
        }
        trouble => format!("cannot {verb} {collection}: {trouble}"),
    }
}

fn plural(kind: Kind) -> String {
    match kind {
        Kind::ServiceEntry => "ServiceEntries".to_owned(),
        Kind::WorkloadEntry => "WorkloadEntries".to_owned(),
        Kind::HttpRoute => "HTTPRoutes".to_owned(),
        kind => format!("{kind}s"),
    }
}

/// No Node has the name that this node is thought to have.
pub(super) fn unknown_node(node: &ObjectRef) -> Problem {
    let message = format!(
        "there is no Node called {}, so the Pods of this node are not known; name this node with --node",
        node.name
    );
    Problem { reason: "NodeUnknown", message }
}

/// Where problems of an object come from.
pub(super) fn origin_of(object: &ObjectRef) -> String {
    let kind = plural(object.kind).to_ascii_lowercase();
    format!("{SERVER}:{kind}/{}/{}", object.namespace, object.name)
}
