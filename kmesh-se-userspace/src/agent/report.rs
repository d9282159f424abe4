//! What the agent says of its node to the controller, if it is to.
//!
//! In: the loop's state. Out: a Lease of the node's own. Never: a wait of the loop, or a write of anything else.

mod lease;

use std::collections::{BTreeMap, BTreeSet};

use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use self::lease::Writer;
use super::{Agent, Programs, input::Input};
use crate::{
    model::{HostName, Object, ObjectRef},
    node_report::{Exception, Lack, NodeReport, key},
    reconcile::Reconciler,
    resolve::NameStatus,
    sink::Maps,
    source::Event,
};

/// How often the loop's state is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_secs(5);
/// Addresses that were confirmed later than this are no news, although the newest query failed.
const STALE_SECS: u64 = 60;

/// What is to be said.
pub(super) struct Reporting {
    out: Option<watch::Sender<Option<NodeReport>>>,
    /// The newest entry that was told.
    seen: u64,
    looked_at: Option<Instant>,
}

impl Reporting {
    /// Says nothing, to nobody.
    pub(super) fn off() -> Self {
        Self { out: None, seen: 0, looked_at: None }
    }

    /// The source tells something.
    pub(super) fn hear(&mut self, event: &Event) {
        if self.out.is_some()
            && let Event::Apply(Object::ServiceEntry(raw)) = event
        {
            self.seen = self.seen.max(raw.metadata.resource_version.parse().unwrap_or_default());
        }
    }
}

impl Agent {
    /// Has it said from now on, by a task of `tasks` that ends with `shutdown`, if it is to be.
    pub(super) fn start_reporting(
        &mut self,
        input: &Input,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) {
        let (Some(namespace), Some((client, node))) = (&self.args.report_namespace, input.cluster()) else {
            return;
        };
        let (out, reports) = watch::channel(None);
        self.reporting.out = Some(out);
        let (writer, shutdown) = (Writer::new(client, namespace, node), shutdown.clone());
        tasks.spawn(async move {
            let _ = shutdown.run_until_cancelled(writer.run(reports)).await;
        });
    }

    /// Has it said what the maps hold, when it is time to look.
    pub(super) fn report(&mut self) {
        let is_time = self.reporting.looked_at.is_none_or(|at| at.elapsed() >= LOOK);
        let serves = matches!(self.programs, Programs::Attached(_)) && self.reconciler.report().synced;
        if self.reporting.out.is_none() || !is_time || !serves || self.reconciler.is_dirty() {
            return;
        }
        self.reporting.looked_at = Some(Instant::now());
        let exceptions = exceptions(&self.reconciler, &self.resolver.status());
        let report = NodeReport::new(self.reporting.seen, exceptions);
        if let Some(out) = &self.reporting.out {
            out.send_if_modified(|said| {
                let is_new = said.as_ref() != Some(&report);
                *said = Some(report);
                is_new
            });
        }
    }
}

/// The entries that the maps do not hold as they say, or whose backends are not what DNS says now.
fn exceptions<M: Maps>(reconciler: &Reconciler<M>, names: &[NameStatus]) -> BTreeMap<String, Exception> {
    let mut found: BTreeMap<String, Exception> = BTreeMap::new();
    let mut add = |object: &ObjectRef, reason, message: String| {
        let new = Exception { reason, message };
        found.entry(key(object)).and_modify(|old| *old = old.clone().min(new.clone())).or_insert(new);
    };
    let snapshot = reconciler.snapshot();
    let is_asleep = |host: &HostName| reconciler.host_use(host).is_some_and(|host_use| host_use.is_asleep());
    let mut of_host = |host: &HostName, reason, message: &str| {
        for entry in snapshot.entries_of(host) {
            add(&entry.object, reason, message.to_owned());
        }
    };
    for (host, reason, message) in reconciler.report().failures() {
        let reason = if reason == "MapFull" { Lack::MapFull } else { Lack::NotWritten };
        of_host(host, reason, message);
    }
    let mut unanswered = BTreeSet::new();
    for name in names.iter().filter(|name| name.last_error.is_some() && !name.rests) {
        if name.addresses.is_empty() {
            unanswered.extend(reconciler.dependents(&name.name));
        }
        let age = name.age_secs.unwrap_or_default();
        if name.stale && age >= STALE_SECS {
            let message = format!("DNS has not confirmed the addresses of {} {}", name.name, bucket(age));
            let in_use = reconciler.dependents(&name.name).filter(|host| !is_asleep(host));
            for host in in_use {
                of_host(host, Lack::StaleNames, &message);
            }
        }
    }
    for (host, desired) in reconciler.desired().hosts() {
        if is_asleep(host) || !desired.unresolved.is_empty() && !unanswered.contains(host) {
            continue;
        }
        let mut backends: BTreeMap<&ObjectRef, bool> = BTreeMap::new();
        for (key, led_to) in &desired.tables.services {
            *backends.entry(&key.entry).or_default() |= !led_to.is_nowhere();
        }
        for (object, _) in backends.into_iter().filter(|(_, has_some)| !has_some) {
            let message = match reconciler.host_use(host) {
                Some(_) => format!("no address is known of the names behind {host}"),
                None => format!("{host} has no endpoint that takes connections"),
            };
            add(object, Lack::NoBackends, message);
        }
    }
    found
}

/// An age in words that stay the same for a while.
fn bucket(secs: u64) -> &'static str {
    match secs {
        0..600 => "for minutes",
        600..3600 => "for more than ten minutes",
        3600..21_600 => "for more than an hour",
        _ => "for more than six hours",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::{
        agent::NameTable,
        desired::{LeaseLimits, Leases, VipPool, VipRanges},
        model::{Addresses, Parsed, parse},
        sink::{Capacities, Sink, memory::MemoryMaps},
    };

    fn reconciler(capacities: Capacities, objects: &str) -> Reconciler<MemoryMaps> {
        let sink = Sink::new(MemoryMaps::new(capacities), capacities);
        let limits = LeaseLimits { names: 2, idle: jiff::SignedDuration::from_secs(600) };
        let leases = Leases::new(crate::desired::DYNAMIC_RANGES, limits);
        let vips = VipPool::new(VipRanges::default());
        let mut reconciler = Reconciler::new(sink, vips, leases, Arc::new(NameTable::default()));
        for parsed in parse(objects.as_bytes()) {
            let Parsed::Object { object, .. } = parsed else { panic!("{parsed:?}") };
            reconciler.event(Event::Apply(object));
        }
        reconciler.event(Event::Synced);
        let step = reconciler.prepare(Timestamp::UNIX_EPOCH);
        reconciler.commit(step);
        reconciler
    }

    fn entry(name: &str, more: &str) -> String {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{hosts: [{name}.test], ports: [{{number: 80, name: http, protocol: HTTP}}], {more}}}\n"
        )
    }

    fn name(name: &str, addresses: &[&str], age_secs: Option<u64>) -> NameStatus {
        let v4: Vec<_> = addresses.iter().map(|a| a.parse().expect("an address")).collect();
        let addresses = Addresses { v4, v6: Vec::new() };
        NameStatus {
            name: HostName::new(name),
            stale: !addresses.is_empty(),
            addresses,
            age_secs,
            next_refresh_secs: 1,
            rests: false,
            last_error: Some("no answer".to_owned()),
        }
    }

    fn shown(exceptions: &BTreeMap<String, Exception>) -> Vec<String> {
        exceptions.iter().map(|(e, x)| format!("{e} {}: {}", x.reason.as_str(), x.message)).collect()
    }

    #[test]
    fn entries_without_a_backend_and_with_stale_names_are_told_and_those_that_nobody_uses_are_not() {
        let dns = "resolution: DNS, addresses: [192.0.2.1], endpoints: [{address: NAME}]";
        let objects = entry("good", "resolution: STATIC, endpoints: [{address: 10.0.0.1}]")
            + &entry("none", "resolution: STATIC, workloadSelector: {labels: {app: a}}")
            + &entry("dead", &dns.replace("NAME", "dead.name"))
            + &entry("stale", &dns.replace("NAME", "stale.name").replace("192.0.2.1", "192.0.2.2"))
            + &entry("asleep", "resolution: DNS, endpoints: [{address: dead.name}]")
            + &entry("new", &dns.replace("NAME", "new.name").replace("192.0.2.1", "192.0.2.3"));
        let mut reconciler = reconciler(Capacities::default(), &objects);
        let address = "10.0.0.2".parse().expect("an address");
        reconciler.resolved(HostName::new("stale.name"), Addresses { v4: vec![address], v6: Vec::new() });
        let step = reconciler.prepare(Timestamp::UNIX_EPOCH);
        reconciler.commit(step);
        let names = [name("dead.name", &[], None), name("stale.name", &["10.0.0.2"], Some(700))];
        let told = exceptions(&reconciler, &names);
        assert_eq!(
            shown(&told),
            [
                "shop/dead NoBackends: no address is known of the names behind dead.test",
                "shop/none NoBackends: none.test has no endpoint that takes connections",
                "shop/stale StaleNames: DNS has not confirmed the addresses of stale.name for more than ten minutes",
            ]
        );
        // A failure that has only begun is no news.
        let names = [name("stale.name", &["10.0.0.2"], Some(30))];
        assert_eq!(shown(&exceptions(&reconciler, &names)).len(), 1);
    }

    #[test]
    fn a_full_map_comes_before_what_follows_from_it() {
        let capacities = Capacities { services: 1, ..Capacities::default() };
        let objects = entry("a", "resolution: STATIC, endpoints: [{address: 10.0.0.1}]")
            + &entry("b", "resolution: STATIC, workloadSelector: {labels: {app: a}}");
        let told = exceptions(&reconciler(capacities, &objects), &[]);
        let reasons: Vec<_> = told.values().map(|exception| exception.reason).collect();
        assert_eq!(reasons, [Lack::MapFull], "{told:?}");
    }
}
