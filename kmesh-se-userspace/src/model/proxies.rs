//! What the controller says of a waypoint of the cluster: its replicas, and where each service is served there.
//!
//! In: a ConfigMap that the controller wrote, or what it is to write. Out: the other of both. Never: a port that is chosen here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{HostName, Issue, Kind, Metadata, Namespace, ObjectRef, Reason, WaypointName};

/// The label of these ConfigMaps; its value says nothing.
pub const WAYPOINT_LISTENERS_LABEL: &str = "kmesh-se.io/waypoint-listeners";
/// The key in their data: the waypoint, as `namespace/name`.
const WAYPOINT: &str = "waypoint";
/// The addresses of its replicas that take connections, as a list in JSON.
const REPLICAS: &str = "replicas";
/// Its listeners, as a list in JSON, one in each line.
const LISTENERS: &str = "listeners";
/// The ports that nobody has, and that nobody may have before a time, as an object in JSON.
const RESTING: &str = "resting";

/// A ConfigMap as written.
#[derive(Clone, Debug, Default, PartialEq, Hash, Deserialize)]
#[serde(default, expecting = "an object")]
#[expect(missing_docs, reason = "the names are Kubernetes' own")]
pub struct ConfigMap {
    pub metadata: Metadata,
    pub data: BTreeMap<String, String>,
}

/// A waypoint of the cluster as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WaypointProxies {
    /// The ConfigMap.
    pub object: ObjectRef,
    /// The waypoint.
    pub waypoint: WaypointName,
    /// The addresses of the replicas that have every listener which is ready; sorted.
    pub replicas: Vec<IpAddr>,
    /// The listeners of each host, by entry and port.
    pub listeners: BTreeMap<HostName, Vec<Listener>>,
    /// Ports that were released, each with the time before which nobody gets it.
    pub resting: BTreeMap<u16, Timestamp>,
}

/// Where a waypoint serves one port of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// The host.
    pub host: String,
    /// The namespace of the entry.
    pub namespace: String,
    /// Its name.
    pub entry: String,
    /// The port that clients dial.
    pub port: u16,
    /// The port of the waypoint that stands for it.
    pub listener: u16,
    /// Whether every replica has it.
    pub ready: bool,
    /// Why the waypoint refused it, in its own words; then its last good version serves, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
}

impl Listener {
    /// The entry.
    #[must_use]
    pub fn object(&self) -> ObjectRef {
        let (kind, namespace) = (Kind::ServiceEntry, Namespace::new(&self.namespace));
        ObjectRef { kind, namespace, name: self.entry.as_str().into() }
    }
}

impl WaypointProxies {
    /// The listener of a port of `host`, if it has one.
    #[must_use]
    pub fn listener(&self, host: &HostName, entry: &ObjectRef, port: u16) -> Option<&Listener> {
        self.listeners.get(host)?.iter().find(|listener| {
            (listener.port, &*listener.entry, &*listener.namespace)
                == (port, &*entry.name, entry.namespace.as_str())
        })
    }

    /// The hosts whose connections may go another way than with `before`, or whose names may be answered otherwise. Other replicas
    /// of the same families are the waypoint's own affair.
    #[must_use]
    pub fn touched<'a>(&'a self, before: Option<&'a Self>) -> BTreeSet<HostName> {
        let hosts = |of: &'a Self| of.listeners.keys().cloned();
        let Some(before) = before.filter(|before| before.families() == self.families()) else {
            return hosts(self).chain(before.into_iter().flat_map(hosts)).collect();
        };
        let all = hosts(self).chain(hosts(before)).collect::<BTreeSet<_>>();
        all.into_iter().filter(|host| self.listeners.get(host) != before.listeners.get(host)).collect()
    }

    /// Whether it has replicas with IPv4 addresses, and with IPv6 addresses.
    fn families(&self) -> (bool, bool) {
        (self.replicas.iter().any(IpAddr::is_ipv4), self.replicas.iter().any(IpAddr::is_ipv6))
    }

    /// As the data of a ConfigMap.
    #[must_use]
    pub fn data(&self) -> BTreeMap<String, String> {
        let lines: Vec<_> = self.listeners.values().flatten().map(json).collect();
        [
            (WAYPOINT, self.waypoint.to_string()),
            (REPLICAS, json(&self.replicas)),
            (LISTENERS, format!("[{}]", lines.join(",\n"))),
            (RESTING, json(&self.resting)),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    /// Reads what [`Self::data`] wrote.
    ///
    /// # Errors
    /// Every key that cannot be read.
    pub fn read(object: ObjectRef, data: &BTreeMap<String, String>) -> Result<Self, Vec<Issue>> {
        let mut issues = Vec::new();
        let waypoint = data.get(WAYPOINT).and_then(|text| text.split_once('/'));
        if waypoint.is_none() {
            let message = "the waypoint that this is about is not named, as namespace/name";
            issues.push(Issue::new(format!("data.{WAYPOINT}"), Reason::WrongType, message));
        }
        let replicas: Vec<IpAddr> = value(data, REPLICAS, &mut issues);
        let listed: Vec<Listener> = value(data, LISTENERS, &mut issues);
        let resting = value(data, RESTING, &mut issues);
        let Some((namespace, name)) = waypoint.filter(|_| issues.is_empty()) else { return Err(issues) };
        let waypoint = WaypointName { namespace: Namespace::new(namespace), name: name.into() };
        let mut listeners: BTreeMap<_, Vec<Listener>> = BTreeMap::new();
        for listener in listed {
            listeners.entry(HostName::new(&listener.host)).or_default().push(listener);
        }
        Ok(Self { object, waypoint, replicas, listeners, resting })
    }
}

/// Texts, numbers and lists of them are JSON without fail.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn value<T: for<'a> Deserialize<'a> + Default>(
    data: &BTreeMap<String, String>,
    key: &str,
    issues: &mut Vec<Issue>,
) -> T {
    let Some(text) = data.get(key) else { return T::default() };
    serde_json::from_str(text).unwrap_or_else(|error| {
        let message = format!("it is not as the controller writes it: {error}");
        issues.push(Issue::new(format!("data.{key}"), Reason::WrongType, message));
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(host: &str, listener: u16, ready: bool) -> Listener {
        let (namespace, entry) = ("shop".to_owned(), "one".to_owned());
        Listener { host: host.to_owned(), namespace, entry, port: 80, listener, ready, rejected: None }
    }

    fn proxies(replicas: &[&str], listeners: Vec<Listener>) -> WaypointProxies {
        let (kind, namespace) = (Kind::ConfigMap, Namespace::new("kmesh-se"));
        let mut by_host: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for listener in listeners {
            by_host.entry(HostName::new(&listener.host)).or_default().push(listener);
        }
        WaypointProxies {
            object: ObjectRef { kind, namespace, name: "waypoint.shop.way".into() },
            waypoint: WaypointName { namespace: Namespace::new("shop"), name: "way".into() },
            replicas: replicas.iter().map(|text| text.parse().expect("an address")).collect(),
            listeners: by_host,
            resting: BTreeMap::from([(20_009, Timestamp::UNIX_EPOCH)]),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut all = proxies(
            &["10.0.0.1", "fd00::1"],
            vec![listener("a.com", 20_000, true), listener("b.com", 20_001, false)],
        );
        all.listeners
            .values_mut()
            .flatten()
            .for_each(|listener| listener.rejected = Some("no\n\"".to_owned()));
        assert_eq!(WaypointProxies::read(all.object.clone(), &all.data()), Ok(all.clone()));
        let (host, entry) = (HostName::new("a.com"), listener("a.com", 0, true).object());
        assert_eq!(all.listener(&host, &entry, 80).map(|found| found.listener), Some(20_000));
        assert_eq!(all.listener(&host, &entry, 81), None);
    }

    #[test]
    fn every_key_that_cannot_be_read_is_told() {
        let all = proxies(&[], Vec::new());
        let broken = all.data().into_keys().map(|key| (key, "{".to_owned())).collect();
        let issues = WaypointProxies::read(all.object, &broken).expect_err("nothing can be read");
        let fields: Vec<_> = issues.iter().map(|issue| issue.field.as_str()).collect();
        assert_eq!(fields, ["data.waypoint", "data.replicas", "data.listeners", "data.resting"]);
    }

    #[test]
    fn a_listener_touches_its_host_and_a_family_of_replicas_all() {
        let hosts = |touched: BTreeSet<HostName>| -> Vec<String> {
            touched.iter().map(ToString::to_string).collect()
        };
        let before =
            proxies(&["10.0.0.1"], vec![listener("a.com", 20_000, true), listener("b.com", 20_001, false)]);
        let now =
            proxies(&["10.0.0.1"], vec![listener("a.com", 20_000, true), listener("b.com", 20_001, true)]);
        assert_eq!(hosts(now.touched(Some(&before))), ["b.com"]);
        assert_eq!(hosts(proxies(&["10.0.0.1"], Vec::new()).touched(Some(&before))), ["a.com", "b.com"]);
        let with = |replicas: &[&str]| {
            proxies(replicas, vec![listener("a.com", 20_000, true), listener("b.com", 20_001, false)])
        };
        assert_eq!(hosts(with(&["10.0.0.1", "10.0.0.2"]).touched(Some(&before))), Vec::<String>::new());
        assert_eq!(hosts(with(&["10.0.0.1", "fd00::1"]).touched(Some(&before))), ["a.com", "b.com"]);
        assert_eq!(hosts(with(&[]).touched(Some(&before))), ["a.com", "b.com"]);
        assert_eq!(hosts(before.touched(Some(&before))), Vec::<String>::new());
    }
}
