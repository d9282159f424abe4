//! The sink's ids in words, for those who read the maps.
//!
//! In: ids found in the maps. Out: the rows that the sink wrote under them. Never: a read of a map.

use kmesh_se_common::maps::SCOPE_MESH;

use super::{Maps, Sink};
use crate::{
    desired::{Scope, ServiceKey},
    model::{Namespace, WaypointName},
};

impl<M: Maps> Sink<M> {
    /// The service that has an id.
    #[must_use]
    pub fn service_of(&self, id: u32) -> Option<&ServiceKey> {
        self.services.iter().find(|(_, ids)| ids.id == id).map(|(key, _)| key)
    }

    /// All services with their ids.
    pub fn service_ids(&self) -> impl Iterator<Item = (u32, &ServiceKey)> {
        self.services.iter().map(|(key, ids)| (ids.id, key))
    }

    /// All waypoints with their ids.
    pub fn waypoint_ids(&self) -> impl Iterator<Item = (u32, &WaypointName)> {
        self.waypoints.iter().map(|(name, ids)| (ids.id, name))
    }

    /// The scope that has an id; none if the sink has given no such id.
    #[must_use]
    pub fn scope_of(&self, id: u32) -> Option<Scope> {
        if id == SCOPE_MESH {
            return Some(Scope::Mesh);
        }
        self.namespace_of(id).cloned().map(Scope::Namespace)
    }

    /// The id of a namespace's own scope, while it has rows of its own.
    #[must_use]
    pub fn private_scope(&self, namespace: &Namespace) -> Option<u32> {
        self.scopes.get(namespace).filter(|scope| scope.rows > 0).map(|scope| scope.id)
    }

    /// The enrolled cgroup of a workload that events name by this number.
    #[must_use]
    pub fn cgroup_of(&self, workload: u32) -> Option<u64> {
        self.workloads.iter().find(|(_, (id, _))| *id == workload).map(|(cgroup, _)| *cgroup)
    }

    /// The number by which events name an enrolled cgroup.
    #[must_use]
    pub fn workload_id(&self, cgroup: u64) -> Option<u32> {
        self.workloads.get(&cgroup).map(|(id, _)| *id)
    }
}
