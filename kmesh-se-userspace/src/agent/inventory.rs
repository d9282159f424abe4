//! Lists for people: backends, names, workloads.
//!
//! In: the loop's state. Out: the same in the words of `status`. Never: a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
};

use super::Agent;
use crate::{
    desired::{NameView, Scope},
    enrol,
    model::HostName,
    reconcile::HostUse,
    resolve::NameStatus,
    status::{BackendRow, BackendUse, Backends, NameRow, Names, SourceRow, WorkloadRow, Workloads},
};

impl Agent {
    pub(super) fn name_status(&self) -> BTreeMap<HostName, NameStatus> {
        let names = self.resolver.status();
        names.into_iter().map(|status| (status.name.clone(), status)).collect()
    }

    /// What the maps hold, by backend.
    pub(super) fn backends(&self) -> Backends {
        let sink = self.reconciler.sink();
        let names = self.name_status();
        let mut rows: BTreeMap<(IpAddr, u16), BackendRow> = BTreeMap::new();
        for key in sink.actual().services.keys() {
            let backends = sink.actual().backends_of(key);
            let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
            let connects = sink.service_id(key).map(|id| sink.maps().service_count(id).connects);
            for backend in backends.iter() {
                let row = rows.entry((backend.address, backend.port)).or_insert_with(|| BackendRow {
                    address: backend.address,
                    port: backend.port,
                    services: Vec::new(),
                    age_secs: None,
                    stale: false,
                });
                let about = names.get(&HostName::new(&backend.source));
                let age_secs = about.and_then(|about| about.age_secs);
                let stale = about.is_some_and(|about| about.stale);
                row.age_secs = row.age_secs.max(age_secs);
                row.stale |= stale;
                let share = f64::from(backend.weight) / total.max(1) as f64;
                row.services.push(BackendUse {
                    namespace: key.entry.namespace.to_string(),
                    name: key.entry.name.to_string(),
                    host: key.host.to_string(),
                    service_port: key.port,
                    weight: backend.weight,
                    share_percent: (share * 10_000.0).round() / 100.0,
                    source: backend.source.to_string(),
                    age_secs,
                    stale,
                    service_connects: connects.unwrap_or_default(),
                });
            }
        }
        Backends { backends: rows.into_values().collect() }
    }

    /// What the DNS server answers, and what waits to be.
    pub(super) fn names(&self) -> Names {
        let status = self.name_status();
        let mut names = Vec::new();
        for (host, desired) in self.reconciler.desired().hosts() {
            let answered = self.reconciler.names().get(host).unwrap_or_default();
            let uses = self.reconciler.host_use(host);
            let sources: Vec<_> = crate::desired::wanted_names(self.reconciler.snapshot(), host)
                .iter()
                .map(|name| source_row(name, status.get(name)))
                .collect();
            for (scope, view) in &desired.names.views {
                // What is answered counts; a view that waits shows what it will be.
                let current = answered.views.get(scope);
                let is_answered =
                    current.is_some_and(|view| !view.waits || uses.is_some_and(HostUse::is_asleep));
                names.push(name_row(host, scope, current.unwrap_or(view), is_answered, uses, &sources));
            }
            let answered = self.reconciler.names().get_concrete(host).unwrap_or_default();
            let sources = [source_row(host, status.get(host))];
            for (scope, view) in &desired.concrete.views {
                let current = answered.views.get(scope);
                names.push(name_row(host, scope, current.unwrap_or(view), current.is_some(), uses, &sources));
            }
        }
        Names { names }
    }

    /// Who is enrolled.
    pub(super) fn workloads(&self) -> Workloads {
        let sink = self.reconciler.sink();
        let ids: BTreeSet<u64> = sink.workloads().map(|(id, _)| id).collect();
        let paths = enrol::paths_of(&ids);
        let rows = sink.workloads().map(|(id, enrolment)| {
            let path = paths.get(&id);
            let processes = path.and_then(|path| fs::read_to_string(path.join("cgroup.procs")).ok());
            WorkloadRow {
                pod: self.pod_of(id),
                id,
                cgroup: path.map(|path| path.display().to_string()),
                processes: processes.map(|text| text.lines().count()),
                workload: sink.workload_id(id).unwrap_or_default(),
                namespace: enrolment.namespace.as_ref().map(ToString::to_string),
                level: enrolment.level,
                dns_port: (enrolment.dns_port != 0).then_some(enrolment.dns_port),
                exempt: enrolment.namespace.is_none(),
            }
        });
        Workloads { workloads: rows.collect(), pods_left_alone: self.pods_left_alone() }
    }
}

fn name_row(
    host: &HostName,
    scope: &Scope,
    view: &NameView,
    is_published: bool,
    uses: Option<HostUse>,
    sources: &[SourceRow],
) -> NameRow {
    NameRow {
        name: host.to_string(),
        scope: scope.to_string(),
        addresses: view.vips.clone(),
        answers_v4: view.answers_v4,
        answers_v6: view.answers_v6,
        entry: format!("{}/{}", view.entry.namespace, view.entry.name),
        answered: is_published && !view.vips.is_empty(),
        resolved: uses.filter(|_| view.from_names),
        on_demand: view.on_demand,
        resolved_from: sources.to_vec(),
        age_secs: sources.iter().filter_map(|source| source.age_secs).max(),
        stale: sources.iter().any(|source| source.stale),
    }
}

fn source_row(name: &HostName, status: Option<&NameStatus>) -> SourceRow {
    SourceRow {
        name: name.to_string(),
        addresses: status.map(|status| status.addresses.iter().collect()).unwrap_or_default(),
        age_secs: status.and_then(|status| status.age_secs),
        next_refresh_secs: status.map(|status| status.next_refresh_secs).unwrap_or_default(),
        stale: status.is_some_and(|status| status.stale),
        error: status.and_then(|status| status.last_error.clone()),
    }
}
