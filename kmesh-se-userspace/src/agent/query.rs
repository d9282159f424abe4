//! Answers to the admin socket.
//!
//! In: queries. Out: the loop's state in the words of `status`. Never: a change, but for the cgroup of a command.

use std::collections::{BTreeMap, BTreeSet};

use kmesh_se_common::addr;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Agent, Programs, events, heartbeat::HEARTBEAT_MAX, pods::PodEnrolments};
use crate::{
    admin::{AdminSocket, Query},
    desired::{Backend, Frontend, ServiceKey},
    enrol::Cgroup,
    loader,
    model::{Issue, Namespace, Transport, is_namespace},
    reconcile::HostUse,
    status::{
        BackendStatus, ConditionStatus, DnsStatus, ExecAnswer, FailingName, FailureStatus, IssueStatus,
        MapStatus, ObjectStatus, OtherProgram, ProblemStatus, ProgramStatus, ProgramsStatus, Refusal,
        ResolveStatus, RouteStatus, ServiceStatus, Services, SourceStatus, Status,
    },
};

/// Serves the admin socket; an error is no reason to stop.
pub(super) async fn serve_admin(
    admin: AdminSocket,
    queries: mpsc::Sender<Query>,
    shutdown: CancellationToken,
) {
    if let Err(error) = admin.serve(queries, shutdown).await {
        tracing::error!(%error, "the admin socket failed");
    }
}

impl Agent {
    pub(super) async fn answer(&mut self, query: Query) {
        // Whoever asked may be gone; then nobody waits for the answer.
        match query {
            Query::Status(reply) => {
                let routes = self.routes_status().await;
                drop(reply.send(self.status(routes)));
            }
            Query::Services(reply) => drop(reply.send(self.services())),
            Query::Backends(reply) => drop(reply.send(self.backends())),
            Query::Names(reply) => drop(reply.send(self.names())),
            Query::Workloads(reply) => drop(reply.send(self.workloads())),
            Query::AskToExplain(request, done) => self.ask_to_explain(&request, done),
            Query::Explain(request, reply) => {
                drop(reply.send(self.explain(&request).map_err(|e| format!("{e:#}"))));
            }
            Query::Dump(state, from_kernel, reply) => {
                drop(reply.send(self.dump(state, from_kernel).map_err(|e| format!("{e:#}"))));
            }
            Query::Trace(tracer, reply) => {
                drop(reply.send(self.add_tracer(tracer).map_err(|e| format!("{e:#}"))));
            }
            Query::Exec(namespace, reply) => {
                let answer = self.enrol_command(&namespace).await.map_err(|e| format!("{e:#}"));
                drop(reply.send(answer));
            }
        }
    }

    async fn enrol_command(&mut self, namespace: &Namespace) -> anyhow::Result<ExecAnswer> {
        anyhow::ensure!(
            is_namespace(namespace.as_str()),
            "`{namespace}` is not a name of a namespace: at most 63 of a-z, 0-9 and '-', with a letter or digit at both ends"
        );
        let cgroup = self.commands.create(&self.attach.cgroup.path, namespace)?;
        if let Err(error) = self.enrol(&cgroup, namespace).await {
            drop(cgroup.remove());
            return Err(error);
        }
        self.publish_clients();
        Ok(ExecAnswer { cgroup: cgroup.path.display().to_string() })
    }

    /// A command and all that it started are gone.
    pub(super) fn forget_command(&mut self, cgroup: &Cgroup) {
        if let Err(error) = self.reconciler.sink_mut().unenrol(cgroup.id) {
            tracing::warn!(cgroup = %cgroup.path.display(), %error, "could not remove an enrolment");
        }
        self.publish_clients();
        if let Err(error) = cgroup.remove() {
            tracing::warn!(%error, "a cgroup stays");
        }
    }

    /// What is missing until connections and names are served as the source says, one sentence each.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.reconciler.report().synced {
            missing.push(format!("the source {} has not been read yet", self.args.source));
        }
        if !matches!(self.programs, Programs::Attached(_)) {
            missing.push("the programs are not attached".to_owned());
        }
        if self.dns.last_beat().is_none_or(|at| at.elapsed() > HEARTBEAT_MAX) {
            missing.push("the DNS server does not answer; clients use their own resolver".to_owned());
        }
        missing
    }

    fn status(&self, routes: Vec<RouteStatus>) -> Status {
        let report = self.reconciler.report();
        let dns = self.dns_status();
        let programs = self.programs_status();
        let failures: Vec<_> = report
            .failures()
            .map(|(host, reason, message)| FailureStatus {
                host: host.to_string(),
                reason: reason.to_owned(),
                message: message.to_owned(),
            })
            .collect();
        let mut unhealthy_because = self.missing();
        unhealthy_because
            .extend(failures.iter().map(|f| format!("{} is not wholly programmed: {}", f.host, f.message)));
        let not_enrolled = self.pods.iter().flat_map(PodEnrolments::failures);
        unhealthy_because
            .extend(not_enrolled.map(|(pod, failure)| format!("{pod} is not enrolled: {}", failure.message)));
        let waypoint = self.waypoint_status();
        unhealthy_because.extend(waypoint.iter().filter(|w| !w.running && w.services > 0).map(|waypoint| {
            let why = waypoint.last_end.as_deref().unwrap_or("it is being started");
            format!("the waypoint does not run: {why}; its log is {}", waypoint.log)
        }));
        Status {
            healthy: unhealthy_because.is_empty(),
            unhealthy_because,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_secs: self.started.elapsed().as_secs(),
            revision: report.revision,
            source: self.source_status(),
            programs,
            routes,
            workloads: self.reconciler.sink().workloads().count(),
            pods: self.pods_status(),
            maps: self.map_status(),
            failures,
            pending: self.pending(),
            waypoint,
            dns,
            resolve: self.resolve_status(),
            counters: self
                .reconciler
                .sink()
                .maps()
                .counts()
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect(),
            refusals: self.refusals(),
        }
    }

    pub(super) fn pending(&self) -> Vec<ConditionStatus> {
        let pending = self.reconciler.pending();
        pending.map(|(entry, host, condition)| ConditionStatus::of(&entry.object, host, condition)).collect()
    }

    fn source_status(&self) -> SourceStatus {
        let report = self.reconciler.report();
        let objects = report.objects().map(|(object, said)| ObjectStatus {
            kind: object.kind.to_string(),
            namespace: object.namespace.to_string(),
            name: object.name.to_string(),
            accepted: said.errors.is_empty(),
            errors: said.errors.iter().map(issue).collect(),
            warnings: said.warnings.iter().map(issue).collect(),
        });
        let problems = report.problems().flat_map(|(origin, problems)| {
            problems.iter().map(|p| ProblemStatus {
                origin: origin.clone(),
                reason: p.reason.to_owned(),
                message: p.message.clone(),
            })
        });
        SourceStatus {
            location: self.args.source.to_string(),
            synced: report.synced,
            entries: self.reconciler.snapshot().entries().count(),
            objects: objects.collect(),
            problems: problems.collect(),
        }
    }

    fn programs_status(&self) -> ProgramsStatus {
        match &self.programs {
            Programs::Attached(loaded) => ProgramsStatus {
                attached: true,
                cgroup: loaded.cgroup.display().to_string(),
                programs: loaded
                    .programs
                    .iter()
                    .map(|p| ProgramStatus { name: p.name.to_owned(), id: p.id })
                    .collect(),
                others: loader::others_at(&self.attach.cgroup, loaded)
                    .into_iter()
                    .map(|(id, name)| OtherProgram { name, id })
                    .collect(),
                rivals: loader::rivals(&self.attach.cgroup, loaded, &self.args.pin),
            },
            Programs::Loaded(_) | Programs::Gone => ProgramsStatus::default(),
        }
    }

    fn map_status(&self) -> Vec<MapStatus> {
        let usage = self.reconciler.sink().usage();
        usage
            .into_iter()
            .map(|u| MapStatus { name: u.name.to_owned(), used: u.used, capacity: u.capacity })
            .collect()
    }

    fn dns_status(&self) -> DnsStatus {
        let queries =
            serde_json::to_value(self.dns.stats()).and_then(serde_json::from_value).unwrap_or_default();
        DnsStatus {
            listen: self.listen.to_string(),
            resolvers: self.resolvers.iter().map(ToString::to_string).collect(),
            last_beat_ms: self
                .dns
                .last_beat()
                .map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
            queries,
        }
    }

    fn resolve_status(&self) -> ResolveStatus {
        let names = self.resolver.status();
        let failing = names.iter().filter_map(|n| {
            let error = n.last_error.clone()?;
            Some(FailingName { name: n.name.to_string(), stale: n.stale, age_secs: n.age_secs, error })
        });
        let hosts = self.reconciler.desired().hosts().map(|(host, _)| host);
        ResolveStatus {
            names: names.iter().filter(|name| !name.rests).count(),
            idle: names.iter().filter(|name| name.rests).count(),
            not_asked_for: hosts
                .filter(|host| self.reconciler.host_use(host) == Some(HostUse::NotAskedFor))
                .count(),
            failing: failing.collect(),
        }
    }

    fn refusals(&self) -> Vec<Refusal> {
        let sink = self.reconciler.sink();
        let refusal = |event: kmesh_se_common::maps::Event| Refusal {
            reason: events::reason(event.outcome).to_owned(),
            pid: event.pid,
            namespace: sink.namespace_of(event.scope).map(ToString::to_string).unwrap_or_default(),
            address: addr::to_ip(event.addr),
            port: event.port,
            protocol: if event.proto == 6 { "TCP" } else { "UDP" }.to_owned(),
        };
        self.refusals.newest().into_iter().map(refusal).collect()
    }

    /// What the maps hold, by service.
    fn services(&self) -> Services {
        let sink = self.reconciler.sink();
        let mut frontends: BTreeMap<&ServiceKey, Vec<&Frontend>> = BTreeMap::new();
        for (frontend, key) in &sink.actual().frontends {
            frontends.entry(key).or_default().push(frontend);
        }
        let rows = sink.actual().services.keys().map(|key| {
            let frontends = frontends.remove(key).unwrap_or_default();
            self.service(key, &sink.actual().backends_of(key), &frontends)
        });
        Services { services: rows.collect(), pending: self.pending() }
    }

    fn service(&self, key: &ServiceKey, backends: &[Backend], frontends: &[&Frontend]) -> ServiceStatus {
        let sink = self.reconciler.sink();
        let count = sink.service_id(key).map(|id| sink.maps().service_count(id)).unwrap_or_default();
        let vips: BTreeSet<_> = frontends.iter().map(|f| f.address).collect();
        let scopes: BTreeSet<_> = frontends.iter().map(|f| f.scope.to_string()).collect();
        let is_udp = frontends.iter().any(|f| f.transport == Transport::Udp);
        ServiceStatus {
            namespace: key.entry.namespace.to_string(),
            name: key.entry.name.to_string(),
            host: key.host.to_string(),
            vips: vips.into_iter().collect(),
            port: key.port,
            protocol: if is_udp { "UDP" } else { "TCP" }.to_owned(),
            scopes: scopes.into_iter().collect(),
            backends: backends
                .iter()
                .map(|b| BackendStatus {
                    address: b.address,
                    port: b.port,
                    weight: b.weight,
                    source: b.source.to_string(),
                })
                .collect(),
            connects: count.connects,
            refused: count.refused,
            conditions: self.waypoint_conditions(key),
        }
    }
}

fn issue(issue: &Issue) -> IssueStatus {
    IssueStatus {
        field: issue.field.clone(),
        reason: issue.reason.to_owned(),
        message: issue.message.clone(),
    }
}
