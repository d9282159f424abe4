//! What holds for any entries.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const HOSTS: [&str; 4] = ["a.com", "b.com", "c.com", "*.w.com"];
const NAMESPACES: [&str; 3] = ["one", "two", "three"];
const NAMES: [&str; 4] = ["x.net", "y.net", "a.com", "b.com"];

fn export_to() -> impl Strategy<Value = ExportTo> {
    let list = prop::sample::subsequence(NAMESPACES.to_vec(), 1..=2);
    let list = list.prop_map(|l| ExportTo::Namespaces(l.into_iter().map(Namespace::new).collect()));
    prop_oneof![3 => Just(ExportTo::All), 1 => Just(ExportTo::Nobody), 2 => list]
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let address = prop_oneof![
        (1u8..4).prop_map(|n| format!("10.0.0.{n}")),
        (1u8..3).prop_map(|n| format!("fd00::{n}")),
        // Addresses that are written, or allocated.
        prop::sample::select(vec!["1.2.3.4", "fd01::1", "240.240.0.1", "240.240.0.2"])
            .prop_map(str::to_owned),
        prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned),
    ];
    (address, 1u32..4).prop_map(|(address, weight)| Endpoint { weight, ..endpoint(&address) })
}

fn any_waypoint() -> impl Strategy<Value = WaypointLabel> {
    let bound = prop::sample::select(vec!["one", "two"]).prop_map(|name| {
        let namespace = Namespace::new(name);
        WaypointLabel::Bound(crate::model::WaypointName { namespace, name: "way".into() })
    });
    prop_oneof![2 => Just(WaypointLabel::Unset), 1 => bound]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let place = (prop::sample::select(NAMESPACES.to_vec()), 0u8..3, prop::option::of(1i64..4));
    let hosts = prop::sample::subsequence(HOSTS.to_vec(), 1..=2);
    let addresses = prop::sample::subsequence(
        vec!["1.2.3.4/32", "fd01::1/128", "240.240.0.2/32", "1.2.3.0/24", "0.0.0.0/0", "fd01::/64"],
        0..=3,
    );
    let resolution = prop::sample::select(vec![
        Resolution::None,
        Resolution::Static,
        Resolution::Dns,
        Resolution::DnsRoundRobin,
    ]);
    let ports = prop::sample::subsequence(vec![80u16, 81, 82], 1..=3);
    let endpoints = prop::collection::vec(any_endpoint(), 0..3);
    let addresses = prop_oneof![2 => Just(Vec::new()), 1 => addresses];
    let switches = (any::<bool>(), any::<bool>(), any_waypoint());
    (place, hosts, addresses, resolution, ports, endpoints, export_to(), switches).prop_map(
        |(
            (namespace, name, age),
            hosts,
            addresses,
            resolution,
            ports,
            endpoints,
            export_to,
            (allocate, selects, waypoint),
        )| {
            with(entry(&format!("{namespace}/e{name}"), 0, "-"), |e| {
                e.created = age.map(|s| Timestamp::from_second(s).expect("a time"));
                e.hosts = hosts.into_iter().map(HostName::new).collect();
                e.addresses = addresses.into_iter().map(|a| a.parse().expect("a network")).collect();
                e.resolution = resolution;
                e.ports = ports.into_iter().map(|p| port(p, &format!("p{p}"))).collect();
                e.export_to = export_to;
                e.may_allocate = allocate;
                e.waypoint = waypoint;
                if selects {
                    e.workload_selector = Some([("app".into(), "a".into())].into());
                } else {
                    e.endpoints = endpoints;
                }
            })
        },
    )
}

fn any_workload() -> impl Strategy<Value = Workload> {
    let place = (prop::sample::select(NAMESPACES.to_vec()), 0u8..2);
    (place, prop::sample::select(vec!["a", "b"]), any_endpoint()).prop_map(|((namespace, name), app, at)| {
        Workload {
            endpoints: vec![at],
            ..workload(&format!("{namespace}/w{name}"), &[("app", app)], "10.9.9.9")
        }
    })
}

#[derive(Clone, Debug)]
enum Step {
    Entry(Box<Entry>),
    Workload(Workload),
    /// Removes one of the objects that are there.
    Remove(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any_entry().prop_map(|entry| Step::Entry(Box::new(entry))),
        1 => any_workload().prop_map(Step::Workload),
        2 => any::<prop::sample::Index>().prop_map(Step::Remove),
    ];
    prop::collection::vec(step, 1..20)
}

pub(super) fn answers() -> Resolved {
    resolved(&[("x.net", &["10.1.0.2", "10.1.0.1", "fd02::1"]), ("y.net", &[])])
}

/// Takes a step; returns the hosts that it touches.
fn take(snapshot: &mut Snapshot, objects: &mut Vec<ObjectRef>, step: &Step) -> BTreeSet<HostName> {
    match step {
        Step::Entry(entry) => {
            objects.retain(|o| *o != entry.object);
            objects.push(entry.object.clone());
            snapshot.apply_entry(Arc::new(Entry::clone(entry)))
        }
        Step::Workload(workload) => {
            objects.retain(|o| *o != workload.object);
            objects.push(workload.object.clone());
            snapshot.apply_workload(Arc::new(workload.clone()))
        }
        Step::Remove(_) if objects.is_empty() => BTreeSet::new(),
        Step::Remove(index) => {
            let object = objects.remove(index.index(objects.len()));
            snapshot.remove(&object)
        }
    }
}

/// Waypoints with replicas of both families and no listeners.
pub(super) fn waypoints() -> Waypoints {
    let ports = PortPool::new(PortRange::default());
    Waypoints::at(vec![ip("10.9.9.1"), ip("fd00::9")], ports, Unavailable::Refuse)
}

/// Gives all services of `snapshot` a port, and those of all ports but 82 a listener.
pub(super) fn listen(waypoints: &mut Waypoints, snapshot: &Snapshot) {
    let mut services = BTreeSet::new();
    for host in snapshot.hosts() {
        for entry in snapshot.entries_of(host) {
            services.extend(entry.ports.iter().map(|port| ServiceKey {
                host: host.clone(),
                entry: entry.object.clone(),
                port: port.number,
            }));
        }
    }
    let ports = waypoints.ports_mut().expect("a proxy of this node");
    for service in &services {
        ports.ensure(service, true, Timestamp::UNIX_EPOCH).expect("there is room");
    }
    services.retain(|service| service.port != 82);
    drop(waypoints.set_listeners(services, BTreeMap::new()));
}

pub(super) fn keys(desired: &Desired) -> Keys {
    let mut keys = Keys::default();
    desired.hosts().for_each(|(_, host)| keys.extend(host.tables.clone().into_keys()));
    keys
}

pub(super) fn build_all(snapshot: &Snapshot, pool: &VipPool, waypoints: &Waypoints) -> (Desired, Tables) {
    let mut desired = Desired::default();
    let resolved = answers();
    let known = Known { snapshot, resolved: &resolved, vips: pool, waypoints };
    for name in snapshot.hosts() {
        desired.set(name, Some(host(known, name)));
    }
    let rows = desired.rows(&keys(&desired), |waypoint| replicas(known, waypoint));
    (desired, rows)
}

/// Allocates by age, as the agent does.
pub(super) fn allocate(snapshot: &Snapshot) -> VipPool {
    let mut pool = VipPool::new(VipRanges::default());
    let mut hosts: Vec<_> = snapshot.hosts().filter(|h| needs_vip(snapshot, h)).collect();
    hosts.sort_by_cached_key(|h| (snapshot.entries_of(h).next().map(|e| (e.created, e.object.clone())), *h));
    for host in hosts {
        pool.ensure(host, Timestamp::UNIX_EPOCH, |a| snapshot.is_written(a)).expect("there is room");
    }
    pool
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(entries in prop::collection::vec(any_entry(), 1..8), seed in any::<u64>()) {
        // One object once; what a later one of the same name says is an update.
        let mut seen = BTreeSet::new();
        let entries: Vec<_> = entries.into_iter().filter(|e| seen.insert(e.object.clone())).collect();
        let mut shuffled = entries.clone();
        shuffled.sort_by_key(|e| {
            use std::hash::{DefaultHasher, Hash, Hasher};
            let mut hasher = DefaultHasher::new();
            (seed, &e.object).hash(&mut hasher);
            hasher.finish()
        });
        let (one, other) = (snapshot(entries), snapshot(shuffled));
        let (pool_one, pool_other) = (allocate(&one), allocate(&other));
        prop_assert_eq!(pool_one.iter().collect::<Vec<_>>(), pool_other.iter().collect::<Vec<_>>());
        let mut waypoints = waypoints();
        listen(&mut waypoints, &one);
        let (one, rows_one) = build_all(&one, &pool_one, &waypoints);
        let (other, rows_other) = build_all(&other, &pool_other, &waypoints);
        prop_assert_eq!(rows_one, rows_other);
        prop_assert_eq!(one.hosts().collect::<Vec<_>>(), other.hosts().collect::<Vec<_>>());
    }

    #[test]
    fn host_by_host_is_as_from_scratch_and_addresses_stay(steps in steps()) {
        let mut snapshot = Snapshot::default();
        let mut objects = Vec::new();
        let mut pool = VipPool::new(VipRanges::default());
        let mut desired = Desired::default();
        let mut rows = Tables::default();
        let mut waypoints = waypoints();
        for step in &steps {
            let before = pool.clone();
            let changed = take(&mut snapshot, &mut objects, step);
            for name in &changed {
                if needs_vip(&snapshot, name) {
                    let ensured = pool.ensure(name, Timestamp::UNIX_EPOCH, |a| snapshot.is_written(a));
                    let ensured = ensured.expect("there is room");
                    prop_assert!(before.get(name).is_none_or(|had| *had == ensured), "the VIP of {} moved", name);
                } else {
                    pool.release(name, Timestamp::UNIX_EPOCH);
                }
            }
            listen(&mut waypoints, &snapshot);
            let resolved = answers();
            let known = Known { snapshot: &snapshot, resolved: &resolved, vips: &pool, waypoints: &waypoints };
            let mut rebuild = |name: &HostName, desired: &mut Desired| {
                let exists = snapshot.has_host(name);
                let built = exists.then(|| host(known, name));
                let touched = desired.set(name, built);
                // What is not touched keeps its rows.
                let new = desired.rows(&touched, |waypoint| replicas(known, waypoint));
                rows.services.retain(|k, _| !touched.services.contains(k));
                rows.waypoints.retain(|k, _| !touched.waypoints.contains(k));
                rows.frontends.retain(|k, _| !touched.frontends.contains(k));
                rows.addresses.retain(|k, _| !touched.addresses.contains(k));
                rows.services.extend(new.services);
                rows.waypoints.extend(new.waypoints);
                rows.frontends.extend(new.frontends);
                rows.addresses.extend(new.addresses);
                touched
            };
            // As the reconciler does: what has endpoints there, and what has endpoints at those.
            let (mut built, mut next) = (BTreeSet::new(), changed);
            for _ in 0..3 {
                let mut followers = BTreeSet::new();
                for name in next {
                    let touched = rebuild(&name, &mut desired);
                    followers.extend(desired.followers(&touched).cloned());
                    let needs = |h: &&HostName| wanted_names(&snapshot, h).contains(&name);
                    followers.extend(snapshot.hosts().filter(needs).cloned());
                    built.insert(name);
                }
                next = followers.difference(&built).cloned().collect();
            }
            let (scratch, expected) = build_all(&snapshot, &pool, &waypoints);
            prop_assert_eq!(&rows, &expected);
            prop_assert_eq!(desired.hosts().collect::<Vec<_>>(), scratch.hosts().collect::<Vec<_>>());
            let through: BTreeSet<_> = rows.services.values().filter_map(LedTo::waypoint).collect();
            prop_assert_eq!(through, rows.waypoints.keys().collect());
            for (frontend, key) in &rows.frontends {
                prop_assert!(rows.services.contains_key(key));
                let address = Address { scope: frontend.scope.clone(), address: frontend.address };
                prop_assert!(rows.addresses.contains_key(&address));
            }
            for (address, key) in rows.addresses.iter().filter_map(|(a, rule)| Some((a, rule.sorts_by.as_ref()?))) {
                let own = |f: &&Frontend| f.scope == address.scope && f.address == address.address;
                let services: BTreeSet<_> = rows.frontends.iter().filter(|(f, _)| own(f)).map(|(_, s)| s).collect();
                prop_assert!(services.contains(key), "{:?} is sorted by {}, not one of its services", address, key);
            }
            for (name, host) in desired.hosts() {
                for (scope, view) in &host.names.views {
                    for vip in &view.vips {
                        let address = Address { scope: scope.clone(), address: (*vip).into() };
                        prop_assert!(rows.addresses.contains_key(&address), "{} answers an address that is not known", name);
                    }
                }
            }
        }
        for object in objects {
            for name in snapshot.remove(&object) {
                desired.set(&name, None.or_else(|| {
                    let exists = snapshot.has_host(&name);
                    let resolved = answers();
                    let known =
                        Known { snapshot: &snapshot, resolved: &resolved, vips: &pool, waypoints: &waypoints };
                    exists.then(|| host(known, &name))
                }));
            }
        }
        prop_assert_eq!(desired.hosts().count(), 0);
        prop_assert_eq!(desired.waypoints().count(), 0);
        prop_assert_eq!(build_all(&snapshot, &pool, &waypoints).1, Tables::default());
    }
}
