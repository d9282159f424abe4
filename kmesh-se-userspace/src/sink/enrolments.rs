//! Enrolled cgroups, and the scopes of namespaces.
//!
//! In: enrolments, and which scopes have rows. Out: workloads that know whether to look for a view of their own. Never: a
//! row of that view.

use std::collections::{BTreeMap, BTreeSet};

use kmesh_se_common::{
    limits::{LEVEL_END, MAX_LEVELS},
    maps::{SCOPE_MESH, WORKLOAD_EXEMPT, WORKLOAD_PRIVATE_VIEW, Workload},
};

use super::{Enrolment, MapError, Maps, Sink};
use crate::{desired::Scope, model::Namespace};

/// The scope of a namespace.
#[derive(Debug)]
pub(super) struct ScopeId {
    pub(super) id: u32,
    /// Frontends and addresses in it.
    pub(super) rows: u32,
}

impl<M: Maps> Sink<M> {
    /// Enrols a cgroup, or changes its enrolment.
    ///
    /// # Errors
    /// The map is full, or cgroups are enrolled at too many depths; then nothing has changed.
    pub fn enrol(&mut self, cgroup: u64, enrolment: Enrolment) -> Result<(), MapError> {
        let mut levels = self.levels(Some(cgroup));
        levels.insert(enrolment.level);
        if levels.len() > MAX_LEVELS {
            return Err(MapError::Levels);
        }
        // The programs find a cgroup only at a depth that they know.
        self.write_levels(&levels)?;
        let id = self.workloads.get(&cgroup).map_or(self.next_workload, |(id, _)| *id);
        if let Err(error) = self.write_workload(cgroup, id, &enrolment) {
            self.write_levels(&self.levels(None))?;
            return Err(error);
        }
        self.workloads.insert(cgroup, (id, enrolment));
        self.next_workload = self.next_workload.max(id + 1);
        Ok(())
    }

    /// Removes a cgroup. Its id may be used for another cgroup once this returns.
    ///
    /// # Errors
    /// The kernel refused; the cgroup may still be enrolled, and this can be tried again.
    pub fn unenrol(&mut self, cgroup: u64) -> Result<(), MapError> {
        if !self.workloads.contains_key(&cgroup) {
            return Ok(());
        }
        self.maps.remove_workload(cgroup)?;
        self.workloads.remove(&cgroup);
        self.limbo.hash_elements = true;
        self.write_levels(&self.levels(None))
    }

    /// The id of a scope. A namespace keeps its id, over restarts too.
    pub(super) fn scope_id(&mut self, scope: &Scope) -> u32 {
        match scope {
            Scope::Mesh => SCOPE_MESH,
            Scope::Namespace(namespace) => self.scope(namespace).id,
        }
    }

    /// Gives ids to the namespaces of `scopes`; says whether there was a new one, to be saved before a row uses it.
    pub fn reserve_scopes<'a>(&mut self, scopes: impl Iterator<Item = &'a Scope>) -> bool {
        let before = self.scopes.len();
        for scope in scopes {
            self.scope_id(scope);
        }
        self.scopes.len() > before
    }

    /// The ids of all namespaces.
    #[must_use]
    pub fn scope_ids(&self) -> BTreeMap<Namespace, u32> {
        self.scopes.iter().map(|(namespace, scope)| (namespace.clone(), scope.id)).collect()
    }

    fn scope(&mut self, namespace: &Namespace) -> &mut ScopeId {
        let next = self.scopes.values().map(|scope| scope.id).max().unwrap_or(SCOPE_MESH) + 1;
        self.scopes.entry(namespace.clone()).or_insert(ScopeId { id: next, rows: 0 })
    }

    /// Counts a row of a scope that is about to be written. Before the first one its workloads are told to look there.
    pub(super) fn add_row(&mut self, scope: &Scope) -> Result<(), MapError> {
        let Scope::Namespace(namespace) = scope else { return Ok(()) };
        self.scope(namespace).rows += 1;
        if self.scope(namespace).rows > 1 {
            return Ok(());
        }
        self.write_workloads_of(namespace).inspect_err(|_| self.drop_row(scope))
    }

    /// Takes a row off the count. After the last one, workloads need not look there any more.
    pub(super) fn drop_row(&mut self, scope: &Scope) {
        let Scope::Namespace(namespace) = scope else { return };
        self.scope(namespace).rows -= 1;
        if self.scope(namespace).rows == 0
            && let Err(error) = self.write_workloads_of(namespace)
        {
            tracing::warn!(%namespace, %error, "workloads still look for a view that is gone; it costs them a look-up");
        }
    }

    fn write_workloads_of(&mut self, namespace: &Namespace) -> Result<(), MapError> {
        let members = self.workloads.iter().filter(|(_, (_, e))| e.namespace.as_ref() == Some(namespace));
        let members: Vec<_> = members.map(|(cgroup, (id, e))| (*cgroup, *id, e.clone())).collect();
        members.into_iter().try_for_each(|(cgroup, id, e)| self.write_workload(cgroup, id, &e))
    }

    fn write_workload(&mut self, cgroup: u64, id: u32, enrolment: &Enrolment) -> Result<(), MapError> {
        let (scope, flags) = match &enrolment.namespace {
            None => (SCOPE_MESH, WORKLOAD_EXEMPT),
            Some(namespace) => {
                let scope = self.scope(namespace);
                (scope.id, if scope.rows > 0 { WORKLOAD_PRIVATE_VIEW } else { 0 })
            }
        };
        self.settle_hash_elements()?;
        self.maps
            .insert_workload(cgroup, Workload { scope, id, flags, dns_port: enrolment.dns_port, _pad: 0 })?;
        // The kernel reuses the element that a replaced value had.
        self.limbo.hash_elements |= self.workloads.contains_key(&cgroup);
        Ok(())
    }

    /// The depths of all enrolled cgroups but one.
    pub(super) fn levels(&self, without: Option<u64>) -> BTreeSet<u8> {
        let others = self.workloads.iter().filter(|(cgroup, _)| Some(**cgroup) != without);
        others.map(|(_, (_, enrolment))| enrolment.level).collect()
    }

    pub(super) fn write_levels(&mut self, levels: &BTreeSet<u8>) -> Result<(), MapError> {
        let mut list = [LEVEL_END; MAX_LEVELS];
        for (place, level) in list.iter_mut().zip(levels.iter().rev()) {
            *place = *level;
        }
        self.maps.set_levels(list)
    }
}
