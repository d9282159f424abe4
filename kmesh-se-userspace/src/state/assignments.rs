//! The ports of services at their waypoint, as they are saved.
//!
//! In: the pool. Out: rows of a JSON file, and the pool again. Never: a port for a service that was not saved.

use serde::{Deserialize, Serialize};

use super::{StateDir, StateError, WAYPOINT};
use crate::{
    desired::{PortAssignment, PortPool, PortRange, ServiceKey},
    model::{HostName, Kind, Namespace, ObjectRef},
};

#[derive(Serialize, Deserialize, Default)]
struct SavedAssignments {
    services: Vec<SavedAssignment>,
}

#[derive(Serialize, Deserialize)]
struct SavedAssignment {
    host: String,
    namespace: String,
    name: String,
    port: u16,
    /// The port of its listener.
    listener: u16,
    /// As [`PortAssignment::is_committed`].
    committed: bool,
}

impl StateDir {
    /// A pool over `range` in which every service has the port that it had before.
    ///
    /// # Errors
    /// As [`StateDir::load_vips`].
    pub fn load_assignments(&self, range: PortRange) -> Result<PortPool, StateError> {
        let mut pool = PortPool::new(range);
        for saved in self.load::<SavedAssignments>(WAYPOINT)?.services {
            let entry = ObjectRef {
                kind: Kind::ServiceEntry,
                namespace: Namespace::new(&saved.namespace),
                name: saved.name.as_str().into(),
            };
            let service = ServiceKey { host: HostName::new(&saved.host), entry, port: saved.port };
            pool.restore(&service, PortAssignment { port: saved.listener, is_committed: saved.committed });
        }
        Ok(pool)
    }

    /// Saves which service has which port.
    ///
    /// # Errors
    /// As [`StateDir::save_vips`].
    pub fn save_assignments(&self, pool: &PortPool) -> Result<(), StateError> {
        let services = pool.iter().map(|(service, assignment)| SavedAssignment {
            host: service.host.to_string(),
            namespace: service.entry.namespace.to_string(),
            name: service.entry.name.to_string(),
            port: service.port,
            listener: assignment.port,
            committed: assignment.is_committed,
        });
        self.save(WAYPOINT, SavedAssignments { services: services.collect() })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_service_keeps_its_port_over_a_restart() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let state = StateDir::open(dir.path())?;
        let range: PortRange = "2000-2009".parse()?;
        let service = |port| {
            let entry =
                ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::new("shop"), name: "a".into() };
            ServiceKey { host: HostName::new("a.com"), entry, port }
        };
        let mut pool = state.load_assignments(range)?;
        pool.ensure(&service(80), false, Timestamp::UNIX_EPOCH)?;
        pool.ensure(&service(81), true, Timestamp::UNIX_EPOCH)?;
        state.save_assignments(&pool)?;

        let again = state.load_assignments(range)?;
        assert_eq!(again.get(&service(80)), Some(&PortAssignment { port: 2000, is_committed: false }));
        assert_eq!(again.get(&service(81)), Some(&PortAssignment { port: 2001, is_committed: true }));
        assert_eq!(state.load_assignments("3000-3009".parse()?)?.iter().count(), 0, "other ports");
        Ok(())
    }
}
