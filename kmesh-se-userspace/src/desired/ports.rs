//! Ports for services at their waypoint, which learns from the port what a connection is for.
//!
//! In: services, in the order in which they are to be served, and the time. Out: one port for each, the same for as long as it is
//! bound. Never: two services at one port, or a port again that was released a short while ago.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    str::FromStr,
};

use jiff::{SignedDuration, Timestamp};

use super::{Few, ServiceKey, vips::Family};
use crate::model::HostName;

/// How long the listener of a service stays that goes past its waypoint again: longer than a connection that was led there is
/// on its way.
const DRAIN: SignedDuration = SignedDuration::from_secs(5);
/// How long a released port rests after that.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(60);

/// The ports that listeners may have, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Text that is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no range of ports: write FIRST-LAST, both 1024 to 65535")]
pub struct PortRangeError {
    text: String,
}

impl Default for PortRange {
    /// Below what systems give to clients (from 32768) and Kubernetes to node ports (from 30000).
    fn default() -> Self {
        Self { first: 20_000, last: 29_999 }
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let port = |digits: &str| digits.trim().parse().ok().filter(|port: &u16| *port >= 1024);
        let parsed = text.split_once('-').and_then(|(first, last)| Some((port(first)?, port(last)?)));
        match parsed {
            Some((first, last)) if first <= last => Ok(Self { first, last }),
            _ => Err(PortRangeError { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// No port is free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no port of {range} is left for its listener; give a larger range with --waypoint-ports")]
pub struct PortsExhausted {
    /// The range.
    pub range: PortRange,
}

/// The place of a service at its waypoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAssignment {
    /// The port of its listener.
    pub port: u16,
    /// Whether connections are led to the waypoint, or wait for it. Until then they go on past it, as they did before the
    /// service was bound.
    pub is_committed: bool,
}

/// Which service has which port.
#[derive(Clone, Debug)]
pub struct PortPool {
    range: PortRange,
    assignments: BTreeMap<HostName, Few<ServiceKey, PortAssignment>>,
    ports: Family<u16>,
    /// Services that go past their waypoint again, whose listeners stay until the time.
    leaving: BTreeMap<ServiceKey, (Timestamp, PortAssignment)>,
    resting: VecDeque<(Timestamp, u16)>,
}

impl PortPool {
    /// Nothing at all, and no room for it.
    pub(super) const EMPTY: Self = Self {
        range: PortRange { first: 1, last: 0 },
        assignments: BTreeMap::new(),
        ports: Family { first: 1, last: 0, next: 1, taken: BTreeSet::new() },
        leaving: BTreeMap::new(),
        resting: VecDeque::new(),
    };

    /// An empty pool over `range`.
    #[must_use]
    pub fn new(range: PortRange) -> Self {
        let PortRange { first, last } = range;
        Self { range, ports: Family { first, last, next: first, taken: BTreeSet::new() }, ..Self::EMPTY }
    }

    /// Gives a service the place that it had in an earlier life, unless the port is outside the range or taken. To be called before
    /// others are given one.
    pub fn restore(&mut self, service: &ServiceKey, assignment: PortAssignment) {
        if self.get(service).is_none() && self.ports.take(assignment.port) {
            self.insert(service, assignment);
        }
    }

    /// Has a port that was released in an earlier life rest until `until`. To be called before others are given one.
    pub fn restore_resting(&mut self, port: u16, until: Timestamp) {
        if self.ports.take(port) {
            self.resting.push_back((until, port));
        }
    }

    /// The ports that nobody has and nobody may have yet, each with the time until then; also those whose listeners are on their
    /// way out.
    pub fn resting(&self) -> impl Iterator<Item = (u16, Timestamp)> {
        let leaving = self.leaving.values().map(|(until, assignment)| (assignment.port, *until + QUARANTINE));
        self.resting.iter().map(|(until, port)| (*port, *until)).chain(leaving)
    }

    /// Gives `service` a port if it has none; a new one is committed or not. Says whether something changed.
    ///
    /// # Errors
    /// [`PortsExhausted`].
    pub fn ensure(
        &mut self,
        service: &ServiceKey,
        is_committed: bool,
        now: Timestamp,
    ) -> Result<bool, PortsExhausted> {
        if self.get(service).is_some() {
            return Ok(false);
        }
        let assignment = match self.leaving.remove(service) {
            Some((_, left)) => PortAssignment { is_committed, ..left },
            None => {
                self.wake(now);
                let port = self.ports.allocate(|_| false).ok_or(PortsExhausted { range: self.range })?;
                PortAssignment { port, is_committed }
            }
        };
        self.insert(service, assignment);
        Ok(true)
    }

    /// The connections of `service` are led to its waypoint from now on. Says whether that is new.
    pub fn commit(&mut self, service: &ServiceKey) -> bool {
        let assignment =
            self.assignments.get_mut(&service.host).and_then(|assignments| assignments.get_mut(service));
        assignment.is_some_and(|assignment| !std::mem::replace(&mut assignment.is_committed, true))
    }

    /// Takes the ports of `host`'s services back, but for those that `keeps`. Their listeners stay until
    /// [`PortPool::take_left`]. Says whether something changed.
    pub fn release(&mut self, host: &HostName, keeps: impl Fn(&ServiceKey) -> bool, now: Timestamp) -> bool {
        let Some(assignments) = self.assignments.get_mut(host) else { return false };
        let had = assignments.len();
        assignments.retain(|service, assignment| {
            let stays = keeps(service);
            if !stays {
                self.leaving.insert(service.clone(), (now + DRAIN, *assignment));
            }
            stays
        });
        let has = assignments.len();
        if has == 0 {
            self.assignments.remove(host);
        }
        has < had
    }

    /// The services whose listeners have stayed for long enough after their release: they are to go now.
    pub fn take_left(&mut self, now: Timestamp) -> Vec<ServiceKey> {
        let left: Vec<_> =
            self.leaving.iter().filter(|(_, (until, _))| *until <= now).map(|(key, _)| key.clone()).collect();
        for service in &left {
            if let Some((_, assignment)) = self.leaving.remove(service) {
                self.resting.push_back((now + QUARANTINE, assignment.port));
            }
        }
        left
    }

    /// The place of `service`, if it has one.
    #[must_use]
    pub fn get(&self, service: &ServiceKey) -> Option<&PortAssignment> {
        self.assignments.get(&service.host)?.get(service)
    }

    /// All services with their places.
    pub fn iter(&self) -> impl Iterator<Item = (&ServiceKey, &PortAssignment)> {
        self.assignments.values().flat_map(Few::iter)
    }

    /// The hosts that have a port.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.assignments.keys()
    }

    fn insert(&mut self, service: &ServiceKey, assignment: PortAssignment) {
        self.assignments.entry(service.host.clone()).or_default().insert(service.clone(), assignment);
    }

    fn wake(&mut self, now: Timestamp) {
        while let Some((_, port)) = self.resting.pop_front_if(|(until, _)| *until <= now) {
            self.ports.taken.remove(&port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Kind, Namespace, ObjectRef};

    fn service(name: &str) -> ServiceKey {
        let entry =
            ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::default(), name: name.into() };
        ServiceKey { host: HostName::new(&format!("{name}.com")), entry, port: 80 }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn port(pool: &PortPool, name: &str) -> Option<u16> {
        pool.get(&service(name)).map(|assignment| assignment.port)
    }

    fn pool(range: &str) -> PortPool {
        PortPool::new(range.parse().expect("a range"))
    }

    #[test]
    fn a_range_has_two_ends_in_order() {
        assert_eq!("2000-2001".parse(), Ok(PortRange { first: 2000, last: 2001 }));
        assert_eq!(PortRange::default().to_string().parse(), Ok(PortRange::default()));
        for text in ["", "2000", "2001-2000", "80-90", "1-70000", "a-b"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_service_keeps_its_port_and_nobody_else_gets_it() {
        let mut pool = pool("2000-2001");
        assert_eq!(pool.ensure(&service("a"), true, at(0)), Ok(true));
        assert_eq!(pool.ensure(&service("b"), false, at(0)), Ok(true));
        assert_eq!(pool.ensure(&service("a"), false, at(0)), Ok(false));
        assert_eq!((port(&pool, "a"), port(&pool, "b")), (Some(2000), Some(2001)));
        assert!(
            pool.get(&service("a")).is_some_and(|assignment| assignment.is_committed),
            "what it was stays"
        );
        let full = pool.ensure(&service("c"), true, at(0)).expect_err("none is left");
        assert!(full.to_string().contains("2000-2001"), "{full}");
        assert!(pool.commit(&service("b")) && !pool.commit(&service("b")) && !pool.commit(&service("c")));
    }

    #[test]
    fn a_released_port_drains_then_rests() {
        let mut pool = pool("2000-2000");
        pool.ensure(&service("a"), true, at(0)).expect("there is room");
        assert!(pool.release(&HostName::new("a.com"), |_| false, at(0)));
        assert!(!pool.release(&HostName::new("a.com"), |_| false, at(0)));
        assert_eq!(pool.take_left(at(4)), []);
        assert_eq!(pool.take_left(at(5)), [service("a")]);
        assert!(pool.ensure(&service("b"), true, at(64)).is_err(), "it rests");
        assert_eq!(pool.ensure(&service("b"), true, at(65)), Ok(true));
        assert_eq!(port(&pool, "b"), Some(2000));
    }

    #[test]
    fn a_service_that_comes_back_in_time_has_its_listener_still() {
        let mut pool = pool("2000-2009");
        pool.ensure(&service("a"), true, at(0)).expect("there is room");
        pool.ensure(&service("b"), true, at(0)).expect("there is room");
        pool.release(&HostName::new("a.com"), |_| false, at(0));
        pool.ensure(&service("a"), false, at(3)).expect("there is room");
        assert_eq!(pool.get(&service("a")), Some(&PortAssignment { port: 2000, is_committed: false }));
        assert_eq!(pool.take_left(at(10)), []);
    }

    #[test]
    fn an_earlier_life_is_gone_on_with() {
        let mut pool = pool("2000-2002");
        let assignment = |port| PortAssignment { port, is_committed: true };
        pool.restore(&service("a"), assignment(2001));
        pool.restore(&service("b"), assignment(2001));
        pool.restore(&service("c"), assignment(1999));
        assert_eq!((port(&pool, "a"), port(&pool, "b"), port(&pool, "c")), (Some(2001), None, None));
        pool.ensure(&service("b"), true, at(0)).expect("there is room");
        assert_eq!(
            port(&pool, "b"),
            Some(2002),
            "not at once one that may have been released shortly before"
        );
        let all: Vec<_> = pool.iter().map(|(key, assignment)| (key.clone(), assignment.port)).collect();
        assert_eq!(all, [(service("a"), 2001), (service("b"), 2002)]);
    }
}
