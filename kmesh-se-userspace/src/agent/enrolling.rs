//! Who is handled: the cgroups of the flags, those of commands, and what an earlier agent left.
//!
//! In: cgroups and namespaces. Out: enrolments, with DNS listeners for their namespaces. Never: a cgroup that is made or
//! removed here.

use std::collections::{BTreeMap, BTreeSet};

use super::Agent;
use crate::{desired::Scope, enrol::Cgroup, model::Namespace, sink::Enrolment};

impl Agent {
    /// Goes on with the commands that an earlier agent enrolled, and keeps its pods until the source has told of them; what
    /// else it enrolled is for the flags to say again.
    pub(super) async fn enrol_again(&mut self, cgroups: &BTreeMap<u64, Cgroup>) -> anyhow::Result<()> {
        for cgroup in cgroups.values() {
            // Their names tell it, and not the maps, which may be of another layout or size.
            if let Some(namespace) = cgroup.command_namespace() {
                self.enrol(cgroup, &namespace).await?;
                self.commands.watch(cgroup.clone());
            }
        }
        let configured: BTreeSet<u64> =
            self.args.enrol.iter().filter_map(|arg| Cgroup::open(&arg.cgroup).ok()).map(|c| c.id).collect();
        if let Some(pods) = &mut self.pods {
            pods.set_configured(configured.clone());
        }
        let enrolled =
            self.reconciler.sink().workloads().map(|(id, e)| (e.dns_port, id, e.namespace.clone()));
        let mut enrolled: Vec<_> = enrolled.collect();
        // In the order of their ports, most namespaces get the same ones again.
        enrolled.sort();
        for (_, id, namespace) in enrolled {
            let cgroup = cgroups.get(&id);
            let is_command = cgroup.is_some_and(|cgroup| cgroup.command_namespace().is_some());
            if is_command || configured.contains(&id) {
                continue;
            }
            let is_pod = self.pods.as_ref().is_some_and(|own| own.pods.has_cgroup(id));
            match (cgroup, namespace, &mut self.pods) {
                (Some(cgroup), Some(namespace), Some(pods)) if is_pod => {
                    pods.keep(id);
                    self.enrol(cgroup, &namespace).await?;
                }
                _ => self.reconciler.sink_mut().unenrol(id)?,
            }
        }
        Ok(())
    }

    /// Enrols the cgroups of the flags, and exempts the agent's own if one of them contains it.
    pub(super) async fn enrol_configured(&mut self) -> anyhow::Result<()> {
        if self.args.enrol.is_empty() {
            return Ok(());
        }
        let own = Cgroup::own()?;
        for arg in self.args.enrol.clone() {
            let cgroup = Cgroup::open(&arg.cgroup)?;
            anyhow::ensure!(
                cgroup.id != own.id,
                "the agent itself runs in the cgroup {} that it is to enrol: start it from another cgroup",
                cgroup.path.display()
            );
            if own.path.starts_with(&cgroup.path) {
                let exempt = Enrolment { level: own.level, namespace: None, dns_port: 0 };
                self.reconciler.sink_mut().enrol(own.id, exempt)?;
            }
            self.enrol(&cgroup, &arg.namespace).await?;
        }
        Ok(())
    }

    /// Enrols a cgroup for a namespace, whose DNS listeners are opened with its first client.
    pub(super) async fn enrol(&mut self, cgroup: &Cgroup, namespace: &Namespace) -> anyhow::Result<()> {
        let dns_port = match self.dns_ports.get(namespace) {
            Some(port) => *port,
            None => {
                let port = self.dns.listen(namespace.clone())?;
                self.dns_ports.insert(namespace.clone(), port);
                self.reconciler
                    .sink_mut()
                    .maps_mut()
                    .set_dns_ports(self.listen.port(), self.dns.last_port())?;
                port
            }
        };
        let scope = Scope::Namespace(namespace.clone());
        self.has_new_namespaces |= self.reconciler.sink_mut().reserve_scopes(std::iter::once(&scope));
        let enrolment = Enrolment { level: cgroup.level, namespace: Some(namespace.clone()), dns_port };
        if self.reconciler.sink().enrolment(cgroup.id) == Some(&enrolment) {
            return Ok(());
        }
        self.reconciler.sink_mut().enrol(cgroup.id, enrolment)?;
        tracing::info!(cgroup = %cgroup.path.display(), namespace = %namespace, "enrolled");
        Ok(())
    }
}
