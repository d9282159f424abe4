//! Bytes as a file of the watched folder, all the way to what the maps and the DNS server would hold.
//!
//! In: a file's content. Out: nothing. Never: the file system.

use jiff::Timestamp;
use kmesh_se::{
    desired::{self, DYNAMIC_RANGES, Known, LeaseLimits, Leases, NO_WAYPOINTS, User, VipPool, VipRanges},
    model::{HostName, Namespace, Parsed, Resolved, Snapshot, parse, validate},
};

/// Reads, validates and plans.
///
/// # Panics
/// When something is wrong.
pub fn yaml(bytes: &[u8]) {
    let mut snapshot = Snapshot::default();
    for item in parse(bytes) {
        let Parsed::Object { object, .. } = item else { continue };
        let verdict = validate(&object);
        assert_eq!(verdict.accepted.is_none(), !verdict.errors.is_empty(), "{:?}", verdict.errors);
        assert!(verdict.errors.iter().all(|issue| !issue.message.is_empty()), "an error without words");
        verdict.accepted.map(|accepted| snapshot.apply(accepted));
    }
    let now = Timestamp::UNIX_EPOCH;
    let (mut vips, mut resolved) = (VipPool::new(VipRanges::default()), Resolved::new());
    let mut leases = Leases::new(DYNAMIC_RANGES, LeaseLimits::default());
    for host in snapshot.hosts() {
        if desired::needs_vip(&snapshot, host) {
            let _ = vips.ensure(host, now, |address| snapshot.is_written(address));
        }
        for name in desired::wanted_names(&snapshot, host) {
            resolved.entry(name).or_default().v4.push([10, 0, 0, 1].into());
        }
    }
    let known = Known { snapshot: &snapshot, resolved: &resolved, vips: &vips, waypoints: &NO_WAYPOINTS };
    for host in snapshot.hosts() {
        let desired = desired::host(known, host);
        let led_to = desired.tables.frontends.values().all(|key| desired.tables.services.contains_key(key));
        assert!(led_to, "a frontend of {host} leads nowhere");
        if let Some(suffix) = host.wildcard_suffix() {
            let name = HostName::new(&format!("x.{suffix}"));
            let _ = leases.ask(&name, &User::of(Namespace::default()), now);
            let _ = leases.ensure_vips(&name, now, |_| false);
            let _ = desired::concrete(known, leases.vips(&name), &name);
        }
    }
    let _ = desired::plan(known, &leases, &Namespace::default());
}
