//! The state between any two steps of the flow, as values that can be printed.
//!
//! In: the loop's state; on request the kernel's maps. Out: JSON. Never: a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use kmesh_se_common::{
    addr,
    maps::{self, AddressKey, Cidr, CidrKey, Service},
};
use serde_json::{Value, json};

use super::Agent;
use crate::{
    admin::DumpState,
    desired::{Address, AddressRule, Frontend, Keys, LedTo, NameView, Scope, ServiceKey, Tables},
    diff::{MapOp, diff},
    model::{HostName, Transport, WaypointName},
    sink::{MapError, Sink, aya::AyaMaps, range_at, unlisted_of},
};

impl Agent {
    pub(super) fn dump(&self, state: DumpState, from_kernel: bool) -> anyhow::Result<Value> {
        Ok(match state {
            DumpState::Snapshot => self.dump_snapshot()?,
            DumpState::Resolved => self.dump_resolved()?,
            DumpState::Desired => self.dump_desired()?,
            DumpState::Actual => self.dump_actual(from_kernel)?,
            DumpState::Diff => self.dump_diff(),
        })
    }

    fn dump_snapshot(&self) -> Result<Value, serde_json::Error> {
        let snapshot = self.reconciler.snapshot();
        Ok(json!({
            "revision": snapshot.revision,
            "serviceEntries": serde_json::to_value(snapshot.entries().collect::<Vec<_>>())?,
            "workloads": serde_json::to_value(snapshot.workloads().collect::<Vec<_>>())?,
            "httpRoutes": serde_json::to_value(snapshot.routes().collect::<Vec<_>>())?,
        }))
    }

    fn dump_resolved(&self) -> Result<Value, serde_json::Error> {
        let (snapshot, in_use) = (self.reconciler.snapshot(), self.reconciler.resolution());
        let mut users: BTreeMap<HostName, BTreeSet<&HostName>> = BTreeMap::new();
        for host in snapshot.hosts() {
            for name in crate::desired::wanted_names(snapshot, host) {
                users.entry(name).or_default().insert(host);
            }
        }
        for (host, ..) in self.reconciler.leases().iter() {
            users.entry(host.clone()).or_default().insert(host);
        }
        let mut names = Vec::new();
        for (name, status) in self.name_status() {
            let mut row = serde_json::to_value(&status)?;
            row["addresses"] = status.addresses.iter().map(|address| json!(address)).collect();
            row["inUse"] = in_use.get(&name).into_iter().flat_map(|a| a.iter()).map(|a| json!(a)).collect();
            row["usedBy"] = json!(users.get(&name).cloned().unwrap_or_default());
            names.push(row);
        }
        Ok(json!({ "names": names }))
    }

    fn desired_tables(&self) -> Tables {
        let desired = self.reconciler.desired();
        let mut keys = Keys::default();
        desired.hosts().for_each(|(_, host)| keys.extend(host.tables.clone().into_keys()));
        self.reconciler.rows(&keys)
    }

    fn dump_desired(&self) -> Result<Value, serde_json::Error> {
        let mut value = tables(&self.desired_tables());
        let hosts = self.reconciler.desired().hosts();
        let names = hosts.flat_map(|(host, desired)| {
            let views = desired.names.views.iter().chain(&desired.concrete.views);
            views.map(move |(scope, view)| name(host, scope, view))
        });
        value["names"] = names.collect();
        value["pending"] = serde_json::to_value(self.pending())?;
        value["revision"] = json!(self.reconciler.snapshot().revision);
        Ok(value)
    }

    fn dump_actual(&self, from_kernel: bool) -> Result<Value, MapError> {
        let sink = self.reconciler.sink();
        let mut value = tables(sink.actual());
        value["revision"] = json!(self.reconciler.report().revision);
        if from_kernel {
            value["kernel"] = self.dump_kernel(sink)?;
        }
        Ok(value)
    }

    /// The kernel's maps, and where they differ from what the sink believes.
    fn dump_kernel(&self, sink: &Sink<AyaMaps>) -> Result<Value, MapError> {
        let mut differences = Vec::new();
        let mut believed: BTreeMap<String, String> = BTreeMap::new();
        for (frontend, key) in &sink.actual().frontends {
            believed.insert(frontend.to_string(), key.to_string());
        }
        let mut frontends = Vec::new();
        for (key, id) in sink.maps().read_frontends()? {
            let transport = if key.proto == 17 { Transport::Udp } else { Transport::Tcp };
            let scope = sink.scope_of(key.scope);
            let address = range_at(key.addr, key.prefix);
            let shown = match (&scope, address) {
                (Some(scope), Some(address)) => {
                    Frontend { scope: scope.clone(), address, port: key.port, transport }.to_string()
                }
                _ => {
                    let (first, prefix) = (addr::to_ip(key.addr), key.prefix);
                    format!("{first} ({prefix} bits) port {} {transport:?} scope id {}", key.port, key.scope)
                }
            };
            let service =
                sink.service_of(id).map_or_else(|| format!("unknown service {id}"), ToString::to_string);
            match believed.remove(&shown) {
                None => differences.push(format!("frontend {shown} is only in the kernel")),
                Some(wanted) if wanted != service => {
                    differences.push(format!("frontend {shown} leads to {service}, not to {wanted}"));
                }
                Some(_) => {}
            }
            frontends.push(json!({
                "scope": scope.map(|scope| scope.to_string()), "scopeId": key.scope, "address": address,
                "port": key.port, "protocol": transport, "serviceId": id, "service": service,
            }));
        }
        differences
            .extend(believed.keys().map(|frontend| format!("frontend {frontend} is missing in the kernel")));

        let addresses = self.dump_kernel_addresses(sink, &mut differences)?;
        let mut services = Vec::new();
        let mut ids: Vec<_> = sink.service_ids().collect();
        ids.sort_unstable_by_key(|(id, _)| *id);
        for (id, key) in ids {
            services.push(self.dump_kernel_service(sink, id, key, &mut differences)?);
        }
        let waypoints = self.dump_kernel_waypoints(sink, &mut differences)?;
        self.compare_workloads(sink, &mut differences)?;
        Ok(json!({
            "differs": !differences.is_empty(), "differences": differences, "frontends": frontends,
            "addresses": addresses, "services": services, "waypoints": waypoints,
            "levels": sink.maps().read_levels(),
        }))
    }

    fn dump_kernel_addresses(
        &self,
        sink: &Sink<AyaMaps>,
        differences: &mut Vec<String>,
    ) -> Result<Vec<Value>, MapError> {
        let mut believed = sink.actual().addresses.clone();
        let mut addresses = Vec::new();
        let single = |(key, value): (AddressKey, maps::Address)| {
            (key.scope, Some(addr::to_ip(key.addr).into()), addr::to_ip(key.addr), value)
        };
        let cidr = |(key, value): (CidrKey, Cidr)| {
            let range = u8::try_from(value.prefix).ok().and_then(|prefix| range_at(key.addr, prefix));
            (u32::from_be_bytes(key.scope), range, addr::to_ip(key.addr), value.rule)
        };
        let (singles, cidrs) = (sink.maps().read_addresses()?, sink.maps().read_cidrs()?);
        let rows = singles.into_iter().map(single).chain(cidrs.into_iter().map(cidr));
        for (scope_id, range, first, value) in rows {
            let address = range.unwrap_or_else(|| first.into());
            let scope = sink.scope_of(scope_id);
            let wanted = scope
                .clone()
                .zip(range)
                .and_then(|(scope, address)| believed.remove(&Address { scope, address }));
            let sorts_by = sink.service_of(value.sorts_by).cloned();
            let found = AddressRule { unlisted: unlisted_of(value.unlisted), sorts_by };
            if wanted.as_ref() != Some(&found) {
                let shown = scope.as_ref().map_or_else(|| format!("id {scope_id}"), ToString::to_string);
                differences.push(match wanted {
                    Some(wanted) => {
                        format!("address {address} scope {shown} has {found:?}, not {wanted:?}")
                    }
                    None => format!("address {address} scope {shown} is only in the kernel"),
                });
            }
            addresses.push(json!({
                "scope": scope.map(|scope| scope.to_string()), "scopeId": scope_id, "address": address,
                "unlisted": found.unlisted, "sortsBy": found.sorts_by.map(|key| key.to_string()),
            }));
        }
        let missing = believed
            .keys()
            .map(|a| format!("address {} scope {} is missing in the kernel", a.address, a.scope));
        differences.extend(missing);
        Ok(addresses)
    }

    fn dump_kernel_service(
        &self,
        sink: &Sink<AyaMaps>,
        id: u32,
        key: &ServiceKey,
        differences: &mut Vec<String>,
    ) -> Result<Value, MapError> {
        let Some(live) = self.live_service(id)? else {
            differences.push(format!("service {key} is missing in the kernel"));
            return Ok(json!({ "id": id, "service": key.to_string() }));
        };
        let believed: BTreeSet<_> =
            sink.actual().backends_of(key).iter().map(|b| (b.address, b.port)).collect();
        let found: BTreeSet<_> = live.backends.iter().map(|b| (b.address, b.port)).collect();
        if found != believed {
            differences.push(format!("service {key} leads to {found:?}, not to {believed:?}"));
        }
        let backends: Vec<_> = live
            .backends
            .iter()
            .map(|b| json!({ "id": b.id, "address": b.address, "port": b.port, "sharePercent": b.share * 100.0 }))
            .collect();
        Ok(json!({
            "id": id, "service": key.to_string(), "slotBase": live.slot_base, "slotCount": live.slot_count,
            "waypointId": live.through.as_ref().map(|through| through.id),
            "waypointPort": live.through.as_ref().map(|through| through.port), "backends": backends,
        }))
    }

    fn dump_kernel_waypoints(
        &self,
        sink: &Sink<AyaMaps>,
        differences: &mut Vec<String>,
    ) -> Result<Vec<Value>, MapError> {
        let mut waypoints = Vec::new();
        let mut ids: Vec<_> = sink.waypoint_ids().collect();
        ids.sort_unstable_by_key(|(id, _)| *id);
        for (id, name) in ids {
            let word = sink.maps().read_service(id).unwrap_or(Service::EMPTY);
            let found: BTreeSet<_> =
                self.live_backends(word)?.iter().map(|backend| backend.address).collect();
            let believed = sink.actual().waypoints.get(name);
            if believed != Some(&found) {
                differences.push(format!("waypoint {name} has {found:?}, not {believed:?}"));
            }
            waypoints.push(json!({
                "id": id, "name": name.to_string(), "slotBase": word.slot_base, "slotCount": word.slot_count(),
                "replicas": found,
            }));
        }
        Ok(waypoints)
    }

    fn compare_workloads(&self, sink: &Sink<AyaMaps>, differences: &mut Vec<String>) -> Result<(), MapError> {
        let live: BTreeSet<u64> = sink.maps().read_workloads()?.into_iter().map(|(id, _)| id).collect();
        let believed: BTreeSet<u64> = sink.workloads().map(|(id, _)| id).collect();
        differences
            .extend(believed.difference(&live).map(|id| format!("cgroup {id} is missing in the kernel")));
        differences.extend(live.difference(&believed).map(|id| format!("cgroup {id} is only in the kernel")));
        Ok(())
    }

    fn dump_diff(&self) -> Value {
        let ops = diff(self.reconciler.sink().actual(), &self.desired_tables());
        json!({ "operations": ops.iter().map(operation).collect::<Vec<_>>() })
    }
}

fn tables(tables: &Tables) -> Value {
    let services: Vec<_> = tables.services.iter().map(|(key, led_to)| service(key, Some(led_to))).collect();
    let waypoints: Vec<_> =
        tables.waypoints.iter().map(|(name, replicas)| waypoint(name, Some(replicas))).collect();
    let frontends: Vec<_> = tables.frontends.iter().map(|(f, key)| frontend(f, Some(key))).collect();
    let addresses: Vec<_> = tables.addresses.iter().map(|(a, rule)| address(a, Some(rule))).collect();
    json!({ "services": services, "waypoints": waypoints, "frontends": frontends, "addresses": addresses })
}

fn service(key: &ServiceKey, led_to: Option<&LedTo>) -> Value {
    let mut row =
        json!({ "host": key.host, "entry": key.entry.to_string(), "port": key.port, "backends": [] });
    match led_to {
        Some(LedTo::Backends(backends)) => row["backends"] = json!(backends),
        Some(LedTo::Waypoint(waypoint, port)) => {
            row["waypoint"] = json!({ "name": waypoint.to_string(), "port": port });
        }
        None => {}
    }
    row
}

fn waypoint(name: &WaypointName, replicas: Option<&BTreeSet<IpAddr>>) -> Value {
    json!({ "name": name.to_string(), "replicas": replicas })
}

fn frontend(frontend: &Frontend, key: Option<&ServiceKey>) -> Value {
    json!({
        "scope": frontend.scope.to_string(), "address": frontend.address, "port": frontend.port,
        "protocol": frontend.transport, "service": key.map(ToString::to_string),
    })
}

fn address(address: &Address, rule: Option<&AddressRule>) -> Value {
    json!({
        "scope": address.scope.to_string(), "address": address.address, "unlisted": rule.map(|rule| rule.unlisted),
        "sortsBy": rule.and_then(|rule| rule.sorts_by.as_ref()).map(ToString::to_string),
    })
}

fn name(host: &HostName, scope: &Scope, view: &NameView) -> Value {
    json!({
        "name": host, "scope": scope.to_string(), "addresses": view.vips, "answersV4": view.answers_v4,
        "answersV6": view.answers_v6, "entry": view.entry.to_string(),
    })
}

fn operation(op: &MapOp) -> Value {
    let (word, value) = match op {
        MapOp::SetWaypoint(name, replicas) => ("setWaypoint", waypoint(name, Some(replicas))),
        MapOp::RemoveWaypoint(name) => ("removeWaypoint", waypoint(name, None)),
        MapOp::SetService(key, led_to) => ("setService", service(key, Some(led_to))),
        MapOp::RemoveService(key) => ("removeService", service(key, None)),
        MapOp::SetFrontend(at, key) => ("setFrontend", frontend(at, Some(key))),
        MapOp::RemoveFrontend(at) => ("removeFrontend", frontend(at, None)),
        MapOp::SetAddress(at, rule) => ("setAddress", address(at, Some(rule))),
        MapOp::RemoveAddress(at) => ("removeAddress", address(at, None)),
    };
    json!({ "op": word, "row": value })
}
