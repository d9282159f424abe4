//! What a host's name answers to whom.
//!
//! In: made by `desired::build`. Out: read by the DNS server's `NameTable`. Never: a query.

use std::net::IpAddr;

use super::{Few, Scope};
use crate::model::{Namespace, ObjectRef};

/// The answers for one host. A namespace with a view of its own gets that view, all others the mesh's;
/// no view, or a view without addresses, means that the name is not ours for that client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameEntry {
    /// View by scope. A namespace whose view is the mesh's has none of its own.
    pub views: Few<Scope, NameView>,
    /// Whether all names that backends come from were answered, or have failed; until then a client is better off to wait.
    /// Not known where the views are built.
    pub is_complete: bool,
}

/// What one view of a name answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameView {
    /// The virtual addresses, of both families; no ranges, which no answer can hold.
    pub vips: Vec<IpAddr>,
    /// Whether an A query gets the IPv4 addresses: some backend can be reached from an IPv4 socket.
    pub answers_v4: bool,
    /// Whether an AAAA query gets the IPv6 addresses.
    pub answers_v6: bool,
    /// The entry that this view comes from.
    pub entry: ObjectRef,
    /// Whether its backends come from names.
    pub from_names: bool,
    /// Whether none of these was ever answered: an address would lead nowhere.
    pub waits: bool,
    /// A DYNAMIC_DNS wildcard: each name below it gets addresses of its own when it is asked for.
    pub on_demand: bool,
}

impl NameView {
    /// The view of a namespace that has `host` from elsewhere, although the mesh has it from here.
    pub(super) fn not_ours(entry: ObjectRef) -> Self {
        Self {
            vips: Vec::new(),
            answers_v4: false,
            answers_v6: false,
            entry,
            from_names: false,
            waits: false,
            on_demand: false,
        }
    }
}

impl NameEntry {
    /// The same when nothing more will be known: nobody waits.
    #[must_use]
    pub fn known(mut self) -> Self {
        self.is_complete = true;
        self.views.values_mut().for_each(|view| view.waits = false);
        self
    }

    /// What a client of `namespace` sees.
    #[must_use]
    pub fn view(&self, namespace: &Namespace) -> Option<&NameView> {
        self.views.get(&Scope::Namespace(namespace.clone())).or_else(|| self.views.get(&Scope::Mesh))
    }
}
