//! Pods: their cgroups are enrolled as labels say, and the DNS server knows them.
//!
//! In: objects and cgroups as they come and go. Out: enrolments, clients of the DNS server. Never: a decision about a pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context;
use nix::ifaddrs::getifaddrs;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Agent, QUEUE};
use crate::{
    dns::{ClientTable, Clients, DnsError},
    enrol::{Cgroup, Change, PodCgroups},
    model::{Namespace, ObjectRef},
    pods::{Decision, NodeDns, Pods, Wanted},
    sink::MapError,
    source::Event,
    status::{PodRow, PodsStatus},
};

/// The pods of this node, and what was done about them.
pub(super) struct PodEnrolments {
    pub(super) pods: Pods,
    dns: NodeDns,
    clients: Arc<Clients>,
    /// The cgroups that are enrolled for pods.
    enrolled: BTreeSet<u64>,
    /// The cgroups that flags speak of: they are not for labels to decide.
    configured: BTreeSet<u64>,
    failures: BTreeMap<ObjectRef, EnrolFailure>,
    /// Whether all pods have been told, so that what nobody wants can go.
    is_synced: bool,
    /// Whether something is to be tried again.
    retries: bool,
}

/// Why a pod that is to be enrolled is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EnrolFailure {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl PodEnrolments {
    /// None yet.
    pub(super) fn new(pods: Pods, dns: NodeDns, clients: Arc<Clients>) -> Self {
        Self {
            pods,
            dns,
            clients,
            enrolled: BTreeSet::new(),
            configured: BTreeSet::new(),
            failures: BTreeMap::new(),
            is_synced: false,
            retries: false,
        }
    }

    /// Takes in where the pods' cgroups are.
    pub(super) fn hear(&mut self, change: Change) {
        match change {
            Change::Appeared { pod_id, cgroup } => self.pods.found(pod_id, cgroup),
            Change::Gone { pod_id, cgroup } => self.pods.gone(&pod_id, &cgroup),
        }
    }

    /// Leaves these cgroups to the flags.
    pub(super) fn set_configured(&mut self, configured: BTreeSet<u64>) {
        self.configured = configured;
    }

    /// Keeps a cgroup that an earlier agent enrolled until it is known what its pod is to be.
    pub(super) fn keep(&mut self, cgroup: u64) {
        self.enrolled.insert(cgroup);
    }

    /// The pods that are to be enrolled, and are not.
    pub(super) fn failures(&self) -> impl Iterator<Item = (&ObjectRef, &EnrolFailure)> {
        self.failures.iter()
    }

    /// Why a pod is not enrolled; none when it is.
    fn why_not(
        &self,
        pod: &ObjectRef,
        decision: &Decision,
        cgroup: Option<&Cgroup>,
    ) -> Option<(&'static str, String)> {
        match (decision, self.failures.get(pod), cgroup) {
            (Decision::LeaveAlone(why), ..) => Some((why.reason(), why.to_string())),
            (Decision::Enrol, Some(failure), _) => Some((failure.reason, failure.message.clone())),
            (Decision::Enrol, None, None) => Some((
                "NoCgroup",
                "its cgroup is not there; it is enrolled when the kubelet makes it".to_owned(),
            )),
            (Decision::Enrol, None, Some(_)) => None,
        }
    }

    /// What `explain` needs to know of a pod that is called `namespace/name`.
    pub(super) fn client(&self, pod: &ObjectRef) -> Option<Result<PathBuf, (&'static str, String)>> {
        let (decision, cgroup) = self.pods.get(pod)?;
        match (self.why_not(pod, decision, cgroup), cgroup) {
            (Some(why), _) => Some(Err(why)),
            (None, cgroup) => cgroup.map(|cgroup| Ok(cgroup.path.clone())),
        }
    }

    /// Whether this is the cgroup of a pod that is enrolled.
    pub(super) fn is_enrolled(&self, cgroup: u64) -> bool {
        self.enrolled.contains(&cgroup)
    }
}

/// Passes on what happens to the pods' cgroups until `shutdown`.
async fn watch(mut cgroups: PodCgroups, out: mpsc::Sender<Vec<Change>>, shutdown: CancellationToken) {
    while let Some(next) = shutdown.run_until_cancelled(cgroups.next()).await {
        match next {
            Ok(changes) => {
                if out.send(changes).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the cgroup tree is not watched any more: new pods are not enrolled");
                return;
            }
        }
    }
}

impl Agent {
    /// Watches the pods' cgroups, if pods are enrolled, and takes in where they are.
    pub(super) fn watch_pods(
        &mut self,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<mpsc::Receiver<Vec<Change>>> {
        let (out, changes) = mpsc::channel(QUEUE);
        if let Some(own) = &mut self.pods {
            let (cgroups, found) = PodCgroups::open(self.attach.cgroup.clone())
                .context("cannot watch the cgroups of pods: raise fs.inotify.max_user_instances")?;
            found.into_iter().for_each(|change| own.hear(change));
            tasks.spawn(watch(cgroups, out, shutdown.clone()));
        }
        Ok(changes)
    }

    /// Takes in what the source tells.
    pub(super) fn event(&mut self, event: Event) {
        if let Some(own) = &mut self.pods {
            match &event {
                Event::Apply(object) => own.pods.apply(object),
                Event::Delete(object) => own.pods.delete(object),
                Event::Problems { .. } | Event::Synced => {}
            }
        }
        self.reporting.hear(&event);
        self.reconciler.event(event);
    }

    /// Takes in what happened to the pods' cgroups. One that is gone is enrolled no more, whatever the source says.
    pub(super) fn pod_cgroups(&mut self, changes: Vec<Change>) {
        let Some(own) = &mut self.pods else { return };
        for change in changes {
            if let Change::Gone { cgroup, .. } = &change
                && own.enrolled.remove(&cgroup.id)
                && let Err(error) = self.reconciler.sink_mut().unenrol(cgroup.id)
            {
                tracing::warn!(cgroup = %cgroup.path.display(), %error, "could not remove an enrolment");
                own.keep(cgroup.id);
                own.retries = true;
            }
            own.hear(change);
        }
    }

    /// Has what failed tried again by the next [`Agent::enrol_pods`].
    pub(super) fn retry_pods(&mut self) {
        if let Some(own) = &mut self.pods {
            own.retries |= !own.failures.is_empty();
        }
        // The node's own addresses may have changed.
        self.publish_clients();
    }

    /// Makes the enrolled cgroups those of the pods that are to be enrolled. New ones first: their first process may be near.
    pub(super) async fn enrol_pods(&mut self) {
        let is_synced = self.reconciler.report().synced;
        let Some(own) = &mut self.pods else { return };
        let has_synced = is_synced && !own.is_synced;
        own.is_synced |= is_synced;
        let is_changed = own.pods.take_changed();
        if !is_changed && !has_synced && !std::mem::take(&mut own.retries) {
            return;
        }
        let wanted: Vec<_> =
            own.pods.wanted().filter(|wanted| !own.configured.contains(&wanted.cgroup.id)).collect();
        let is_wanted = |pod: &ObjectRef| wanted.iter().any(|wanted| wanted.pod == *pod);
        own.failures.retain(|pod, _| is_wanted(pod));
        let mut failed = self.enrol_each(&wanted).await;
        if is_synced && self.unenrol_all_but(&wanted) && !failed.is_empty() {
            // There may be room now.
            failed = self.enrol_each(&failed).await;
        }
        if let Some(own) = &mut self.pods
            && own.failures.len() != failed.len()
        {
            own.failures.retain(|pod, _| failed.iter().any(|wanted| wanted.pod == *pod));
        }
        self.publish_clients();
    }

    /// Enrols what is not; returns what could not be.
    async fn enrol_each(&mut self, wanted: &[Wanted]) -> Vec<Wanted> {
        let mut failed = Vec::new();
        for Wanted { pod, cgroup } in wanted {
            let done = self.enrol(cgroup, &pod.namespace).await;
            let Some(own) = &mut self.pods else { break };
            match done {
                Ok(()) => {
                    own.enrolled.insert(cgroup.id);
                }
                Err(error) => {
                    let reason = error.downcast_ref::<MapError>().map(MapError::reason);
                    let reason = reason.or_else(|| error.downcast_ref::<DnsError>().map(DnsError::reason));
                    let failure = EnrolFailure {
                        reason: reason.unwrap_or("NotEnrolled"),
                        message: format!("{error:#}"),
                    };
                    if own.failures.get(pod) != Some(&failure) {
                        tracing::error!(pod = %pod, reason = failure.reason, error = failure.message, "not enrolled");
                        own.failures.insert(pod.clone(), failure);
                    }
                    failed.push(Wanted { pod: pod.clone(), cgroup: cgroup.clone() });
                }
            }
        }
        failed
    }

    /// Says whether there was something.
    fn unenrol_all_but(&mut self, wanted: &[Wanted]) -> bool {
        let Some(own) = &mut self.pods else { return false };
        let wanted: BTreeSet<u64> = wanted.iter().map(|wanted| wanted.cgroup.id).collect();
        let left: Vec<u64> = own.enrolled.difference(&wanted).copied().collect();
        for id in &left {
            match self.reconciler.sink_mut().unenrol(*id) {
                Ok(()) => {
                    own.enrolled.remove(id);
                    tracing::info!(cgroup = id, "no longer enrolled");
                }
                Err(error) => {
                    own.retries = true;
                    tracing::warn!(cgroup = id, %error, "could not remove an enrolment");
                }
            }
        }
        !left.is_empty()
    }

    /// `namespace/name` of the pod whose cgroup this is.
    pub(super) fn pod_of(&self, cgroup: u64) -> Option<String> {
        let own = self.pods.as_ref()?;
        let mut found = own.pods.iter().filter(|(_, _, at)| at.is_some_and(|at| at.id == cgroup));
        found.next().map(|(pod, ..)| shown(pod))
    }

    /// The pods that are not enrolled, with the reason of each.
    pub(super) fn pods_left_alone(&self) -> Vec<PodRow> {
        let Some(own) = &self.pods else { return Vec::new() };
        let rows = own.pods.iter().filter_map(|(pod, decision, cgroup)| {
            let (reason, message) = own.why_not(pod, decision, cgroup)?;
            let cgroup = cgroup.map(|cgroup| cgroup.path.display().to_string());
            Some(PodRow { pod: shown(pod), cgroup, reason: reason.to_owned(), message })
        });
        rows.collect()
    }

    pub(super) fn pods_status(&self) -> Option<PodsStatus> {
        let own = self.pods.as_ref()?;
        let mut status = PodsStatus { enrolled: own.enrolled.len(), ..PodsStatus::default() };
        for (pod, decision, cgroup) in own.pods.iter() {
            if let Some((reason, _)) = own.why_not(pod, decision, cgroup) {
                *status.left_alone.entry(reason.to_owned()).or_default() += 1;
            }
        }
        Some(status)
    }

    /// Tells the DNS server who its clients are. Until all pods are known, it is everybody.
    pub(super) fn publish_clients(&self) {
        let Some(own) = self.pods.as_ref().filter(|own| own.is_synced) else { return };
        let mut table = ClientTable::default();
        let local = local_addresses();
        local.iter().for_each(|address| table.refuse(*address));
        for asker in own.pods.askers() {
            let addresses = if asker.host_network { &local } else { &asker.addresses };
            for address in addresses {
                match (asker.is_enrolled, asker.was_enrolled) {
                    (true, _) => table.serve(*address, &asker.namespace, &asker.search),
                    (false, true) => table.forward(*address, &asker.namespace),
                    (false, false) => table.refuse(*address),
                }
            }
            if asker.is_expected() {
                table.expect(&asker.namespace, &asker.search);
            }
        }
        // What flags and `exec` enrol runs on the node.
        let others = self.reconciler.sink().workloads().filter(|(cgroup, _)| !own.is_enrolled(*cgroup));
        let namespaces: BTreeSet<&Namespace> =
            others.filter_map(|(_, enrolment)| enrolment.namespace.as_ref()).collect();
        for namespace in namespaces {
            let domains = own.dns.domains_of(namespace);
            local.iter().for_each(|address| table.serve(*address, namespace, &domains));
        }
        own.clients.set(table);
    }
}

/// `namespace/name`.
fn shown(pod: &ObjectRef) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// The addresses of this network namespace, all of loopback as one.
pub(super) fn local_addresses() -> Vec<IpAddr> {
    let interfaces = getifaddrs().inspect_err(|error| {
        tracing::warn!(%error, "the node's addresses are not known: pods of its network get no answers from us");
    });
    let addresses = interfaces.into_iter().flatten().filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    addresses.filter(|address| !address.is_loopback()).chain([Ipv4Addr::LOCALHOST.into()]).collect()
}
