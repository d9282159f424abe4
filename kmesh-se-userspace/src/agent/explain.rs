//! Gathers what an explanation is made from.
//!
//! In: the loop's state, and the kernel's maps as they are now. Out: [`Facts`]. Never: a judgement; that is for
//! `explain`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use anyhow::Context;
use kmesh_se_common::{
    addr,
    maps::{
        AddressKey, CidrKey, FrontendKey, PREFIX_SINGLE, SCOPE_MESH, Service, WORKLOAD_EXEMPT,
        WORKLOAD_PRIVATE_VIEW, Workload,
    },
};

use tokio::sync::oneshot;

use super::{Agent, Programs};
use crate::{
    desired::{self, AddressRange, Frontend, NameView, Scope, User},
    dns::Ask,
    enrol::Cgroup,
    explain::{
        AgentFacts, Answered, Asked, Client, Dial, EnrolledAs, EntryFacts, ExplainRequest, Explanation,
        Facts, FailureFacts, LiveBackend, LiveService, LiveWaypoint, Lookup, NameFacts, RejectedFacts,
        SourceFacts, Trouble, explain, shares,
    },
    model::{EndpointAddress, Entry, ExportTo, HostName, Kind, Namespace, ObjectRef, Transport},
    reconcile::HostUse,
    resolve::{NO_ADDRESS, NO_SUCH_NAME},
    sink::{MapError, range_at, unlisted_of},
};

/// Whose view the kernel applies: the scopes in which it looks, in order.
type Scopes = Vec<(u32, Scope)>;

impl Agent {
    pub(super) fn explain(&self, request: &ExplainRequest) -> anyhow::Result<Explanation> {
        let asked = Asked::parse(&request.target, request.udp)?;
        let (client, live) = self.client(request)?;
        let namespace = match &client {
            Client::Cgroup { enrolled: Some(EnrolledAs { namespace: Some(namespace), .. }), .. } => namespace,
            Client::Pod { pod, .. } => pod.split_once('/').map_or(pod.as_str(), |(namespace, _)| namespace),
            _ => &request.namespace,
        };
        let namespace = Namespace::new(namespace);
        let scopes = self.scopes(&namespace, live);
        let (host, found_by) = match (&asked.host, asked.address) {
            (Some(name), _) => (Some(self.deciding_host(name, &namespace)), None),
            (None, Some(address)) => self.user_at(address, &scopes).unzip(),
            (None, None) => (None, None),
        };
        let name = host.as_ref().map(|host| self.name_facts(host, &namespace));
        let name = name.filter(|name| !name.entries.is_empty() || !name.rejected.is_empty());
        let dials = self.dials(&asked, host.as_ref(), name.as_ref(), &namespace, &scopes)?;
        let mut services = BTreeMap::new();
        for id in dials.iter().flat_map(|dial| &dial.lookups).filter_map(|lookup| lookup.service) {
            if let Some(service) = self.live_service(id)? {
                services.insert(id, service);
            }
        }
        Ok(explain(&Facts {
            target: request.target.clone(),
            namespace: namespace.to_string(),
            agent: self.agent_facts(),
            client,
            sources: self.sources(),
            asked,
            name,
            found_by,
            dials,
            services,
        }))
    }

    fn agent_facts(&self) -> AgentFacts {
        let report = self.reconciler.report();
        AgentFacts {
            attached: matches!(self.programs, Programs::Attached(_)),
            synced: report.synced,
            dns_served: self.dns.last_beat().is_some_and(|at| at.elapsed() < super::heartbeat::HEARTBEAT_MAX),
            problems: report.problems().count(),
        }
    }

    /// Asks for the host that is to be explained, as a client would, if its backends are resolved only then. `done` is told when
    /// they are.
    pub(super) fn ask_to_explain(&mut self, request: &ExplainRequest, done: oneshot::Sender<()>) {
        let Ok(asked) = Asked::parse(&request.target, request.udp) else { return };
        let namespace = Namespace::new(&request.namespace);
        let host = match (&asked.host, asked.address) {
            (Some(name), _) => Some(self.deciding_host(name, &namespace)),
            (None, Some(address)) => {
                self.user_at(address, &self.scopes(&namespace, None)).map(|(host, _)| host)
            }
            (None, None) => None,
        };
        let asleep = host.filter(|host| self.reconciler.host_use(host).is_some_and(HostUse::is_asleep));
        if let Some(host) = asleep {
            self.demand(Ask { name: host, user: User::of(namespace), done });
        }
    }

    /// Who asks; for a cgroup also the element of the kernel's map that applies to it.
    fn client(&self, request: &ExplainRequest) -> anyhow::Result<(Client, Option<Workload>)> {
        let sink = self.reconciler.sink();
        let of_pod = match &request.pod {
            None => None,
            Some(pod) => match self.explained_pod(pod)? {
                Ok(path) => Some(path),
                Err((reason, message)) => {
                    let reason = reason.to_owned();
                    return Ok((Client::Pod { pod: pod.clone(), reason, message }, None));
                }
            },
        };
        let Some(path) = of_pod.or_else(|| request.cgroup.as_ref().map(PathBuf::from)) else {
            let namespace = Namespace::new(&request.namespace);
            let is_of = |workload: &Workload| {
                workload.flags & WORKLOAD_EXEMPT == 0 && sink.namespace_of(workload.scope) == Some(&namespace)
            };
            let enrolled =
                sink.maps().read_workloads()?.iter().filter(|(_, workload)| is_of(workload)).count();
            return Ok((Client::Anybody { enrolled }, None));
        };
        let cgroup = Cgroup::open(&path)?;
        let shown = cgroup.path.display().to_string();
        for at in cgroup.with_ancestors() {
            let Some(live) = sink.maps().read_workload(at.id)? else { continue };
            let namespace = (live.flags & WORKLOAD_EXEMPT == 0)
                .then(|| sink.namespace_of(live.scope).map(ToString::to_string).unwrap_or_default());
            let enrolled = EnrolledAs {
                path: at.path.display().to_string(),
                namespace,
                is_looked_up: sink.maps().read_levels().contains(&at.level),
            };
            return Ok((Client::Cgroup { path: shown, enrolled: Some(enrolled) }, Some(live)));
        }
        Ok((Client::Cgroup { path: shown, enrolled: None }, None))
    }

    /// The cgroup of an enrolled pod, or why it is not enrolled.
    fn explained_pod(&self, pod: &str) -> anyhow::Result<Result<PathBuf, (&'static str, String)>> {
        let own = self.pods.as_ref().context("this agent does not enrol pods: see --enrol-pods")?;
        let (namespace, name) = pod.split_once('/').context("a pod is written as NAMESPACE/NAME")?;
        let reference =
            ObjectRef { kind: Kind::Pod, namespace: Namespace::new(namespace), name: name.into() };
        own.client(&reference).with_context(|| format!("no pod {pod} is known on this node"))
    }

    fn scopes(&self, namespace: &Namespace, live: Option<Workload>) -> Scopes {
        let private = match live {
            Some(live) => (live.flags & WORKLOAD_PRIVATE_VIEW != 0).then_some(live.scope),
            None => self.reconciler.sink().private_scope(namespace),
        };
        let private = private.map(|id| (id, Scope::Namespace(namespace.clone())));
        private.into_iter().chain([(SCOPE_MESH, Scope::Mesh)]).collect()
    }

    /// The host whose entries decide about `name`: itself, or the longest wildcard above it, that is visible; else the
    /// first that some object names.
    fn deciding_host(&self, name: &HostName, namespace: &Namespace) -> HostName {
        let snapshot = self.reconciler.snapshot();
        let candidates: Vec<_> =
            std::iter::once(name.clone()).chain(desired::wildcards_above(name)).collect();
        let scope = Scope::Namespace(namespace.clone());
        if self.reconciler.leases().contains(name) && desired::dynamic_view(snapshot, name, &scope).is_some()
        {
            return name.clone();
        }
        let is_seen = |host: &&HostName| desired::view_for(snapshot, host, &scope).is_some();
        let report = self.reconciler.report();
        let is_named =
            |host: &&HostName| snapshot.has_host(host) || report.rejected_for(host).next().is_some();
        let found = candidates.iter().find(is_seen).or_else(|| candidates.iter().find(is_named));
        found.unwrap_or(name).clone()
    }

    fn user_at(&self, address: IpAddr, scopes: &Scopes) -> Option<(HostName, AddressRange)> {
        let desired = self.reconciler.desired();
        let (host, range) = desired.user_at(scopes.iter().map(|(_, scope)| scope), address)?;
        Some((host.clone(), range))
    }

    fn name_facts(&self, host: &HostName, namespace: &Namespace) -> NameFacts {
        let (snapshot, report) = (self.reconciler.snapshot(), self.reconciler.report());
        let scope = Scope::Namespace(namespace.clone());
        // A concrete name is given by the entries of its wildcard.
        let dynamic =
            desired::dynamic_view(snapshot, host, &scope).filter(|_| self.reconciler.leases().contains(host));
        let (named, view) = match dynamic {
            Some((wildcard, view)) => (wildcard, Some(view)),
            None => (host.clone(), desired::view_for(snapshot, host, &scope)),
        };
        let is_concrete = named != *host;
        let entries = snapshot.entries_of(&named).map(|entry| {
            let serves = view.iter().flat_map(|v| &v.entries).find(|(e, _)| e.object == entry.object);
            let serves =
                serves.iter().flat_map(|(_, ports)| ports).map(|p| (p.number, p.protocol.transport()));
            self.entry_facts(entry, host, namespace, serves.collect())
        });
        let rejected = report.rejected_for(host).map(|(object, said)| RejectedFacts {
            object: object.to_string(),
            errors: said.errors.iter().map(ToString::to_string).collect(),
        });
        let failures = report.failures().filter(|(of, ..)| **of == named).map(|(_, reason, message)| {
            FailureFacts { reason: reason.to_owned(), message: message.to_owned() }
        });
        let wanted = self.reconciler.desired().get(host);
        let wanted = wanted.and_then(|d| if is_concrete { &d.concrete } else { &d.names }.view(namespace));
        let names = self.reconciler.names();
        let answered = if is_concrete { names.get_concrete(host) } else { names.get(host) };
        let answered = answered.as_ref().and_then(|entry| {
            let is_own = entry.views.contains_key(&Scope::Namespace(namespace.clone()));
            let view = entry.view(namespace).filter(|view| !view.vips.is_empty() && !view.waits)?;
            Some(answered_facts(view, if is_own { namespace.as_str() } else { "*" }))
        });
        let mut pending = self
            .reconciler
            .pending()
            .filter(|(entry, of, _)| **of == named && entry.is_visible_to(namespace));
        NameFacts {
            pending: pending
                .next()
                .map(|(entry, _, condition)| format!("{}: {}", entry.object, condition.message)),
            host: host.to_string(),
            entries: entries.collect(),
            service: desired::service_that_wins(snapshot, host, namespace).map(|s| s.object.to_string()),
            rejected: rejected.collect(),
            answered,
            vips: wanted.map(|view| view.vips.clone()).unwrap_or_default(),
            failures: failures.collect(),
        }
    }

    fn entry_facts(
        &self,
        entry: &Entry,
        host: &HostName,
        namespace: &Namespace,
        serves: Vec<(u16, Transport)>,
    ) -> EntryFacts {
        let snapshot = self.reconciler.snapshot();
        let endpoints: Vec<_> = snapshot.endpoints_of(entry).collect();
        let ranges = entry.addresses.iter().map(|network| AddressRange::from(*network));
        EntryFacts {
            object: entry.object.to_string(),
            is_visible: entry.is_visible_to(namespace),
            visible_to: match &entry.export_to {
                ExportTo::All => "every namespace".to_owned(),
                ExportTo::Nobody => "nobody".to_owned(),
                ExportTo::Namespaces(list) => {
                    list.iter().map(Namespace::as_str).collect::<Vec<_>>().join(" and ")
                }
            },
            serves,
            ports: entry.ports.iter().map(|p| (p.number, p.protocol.transport())).collect(),
            resolution: entry.resolution,
            endpoints: endpoints.len(),
            has_selector: entry.workload_selector.is_some(),
            only_unix: !endpoints.is_empty()
                && endpoints.iter().all(|e| matches!(e.address, EndpointAddress::Unix(_))),
            ranges: ranges.filter(|range| range.single().is_none()).collect(),
            names: desired::names_of(snapshot, entry, host).iter().map(ToString::to_string).collect(),
        }
    }

    /// What clients would dial, with what the kernel finds for each.
    fn dials(
        &self,
        asked: &Asked,
        host: Option<&HostName>,
        name: Option<&NameFacts>,
        namespace: &Namespace,
        scopes: &Scopes,
    ) -> Result<Vec<Dial>, MapError> {
        let addresses: Vec<IpAddr> = match (asked.address, name.and_then(|name| name.answered.as_ref())) {
            (Some(address), _) => vec![address],
            (None, Some(answered)) => answered.v4.iter().chain(&answered.v6).copied().collect(),
            (None, None) => Vec::new(),
        };
        let transport = if asked.udp { Transport::Udp } else { Transport::Tcp };
        let served = name.into_iter().flat_map(|n| &n.entries).flat_map(|e| e.serves.iter().copied());
        let ports: BTreeSet<_> = match (asked.port, name) {
            (Some(port), _) => BTreeSet::from([(port, transport)]),
            (None, Some(_)) => served.filter(|(_, t)| !asked.udp || *t == Transport::Udp).collect(),
            // Nothing is known of the address: what the kernel knows is the same for every port.
            (None, None) => BTreeSet::from([(0, transport)]),
        };
        let mut dials = Vec::new();
        for (port, transport) in ports {
            for address in &addresses {
                dials.push(self.dial(*address, port, transport, host, namespace, scopes)?);
            }
        }
        Ok(dials)
    }

    fn dial(
        &self,
        address: IpAddr,
        port: u16,
        transport: Transport,
        host: Option<&HostName>,
        namespace: &Namespace,
        scopes: &Scopes,
    ) -> Result<Dial, MapError> {
        let maps = self.reconciler.sink().maps();
        let desired = self.reconciler.desired();
        let wanted = host.and_then(|host| desired.get(host));
        let views = [Scope::Namespace(namespace.clone()), Scope::Mesh];
        let own = AddressRange::around(address).find_map(|address| {
            views.iter().find_map(|scope| {
                let frontend = Frontend { scope: scope.clone(), address, port, transport };
                let key = wanted?.tables.frontends.get(&frontend)?.clone();
                Some((frontend, key))
            })
        });
        let frontend = own.as_ref().map(|(frontend, _)| frontend);
        let winner = frontend.and_then(|frontend| desired.winner_of(frontend)).cloned();
        let straight = frontend.and_then(|frontend| desired.straight_at(frontend)).cloned();
        let proto = match transport {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        };
        let addr = addr::from_ip(address);
        let service =
            |scope, addr, prefix| maps.read_frontend(&FrontendKey { scope, addr, port, proto, prefix });
        let single = |(id, scope): &(u32, Scope)| {
            let known = maps.read_address(&AddressKey { scope: *id, addr })?;
            let unlisted = known.map(|known| unlisted_of(known.unlisted));
            let service = service(*id, addr, PREFIX_SINGLE)?;
            Ok(Lookup { scope: scope.clone(), service, unlisted, range: None })
        };
        let range = |(id, scope): &(u32, Scope)| {
            let Some(cidr) = maps.read_cidr(CidrKey::new(*id, addr))? else { return Ok(None) };
            let prefix = u8::try_from(cidr.prefix).unwrap_or(u8::MAX);
            let (service, unlisted) =
                (service(*id, cidr.addr, prefix)?, Some(unlisted_of(cidr.rule.unlisted)));
            let range = range_at(cidr.addr, prefix);
            Ok(Some(Lookup { scope: scope.clone(), service, unlisted, range }))
        };
        let mut lookups: Vec<Lookup> = scopes.iter().map(single).collect::<Result<_, MapError>>()?;
        if lookups.iter().all(|lookup| lookup.service.is_none() && lookup.unlisted.is_none()) {
            let ranges: Vec<_> = scopes.iter().map(range).collect::<Result<_, MapError>>()?;
            lookups.extend(ranges.into_iter().flatten());
            // The narrowest first, of equal ones that of the first scope.
            lookups.sort_by_key(|lookup| lookup.range.map(|range| u8::MAX - range.prefix_len()));
        }
        Ok(Dial { address, port, transport, lookups, own, winner, straight })
    }

    /// A service as the kernel has it.
    pub(super) fn live_service(&self, id: u32) -> Result<Option<LiveService>, MapError> {
        let sink = self.reconciler.sink();
        let maps = sink.maps();
        let Some(mut word) = maps.read_service(id) else { return Ok(None) };
        let mut through = None;
        if let Some((waypoint, port)) = word.waypoint() {
            word = maps.read_service(waypoint).unwrap_or(Service::EMPTY);
            let name = sink.waypoint_ids().find(|(id, _)| *id == waypoint).map(|(_, name)| name.clone());
            through = Some(LiveWaypoint { id: waypoint, name, port });
        }
        let mut backends = self.live_backends(word)?;
        if let Some(LiveWaypoint { port, .. }) = through {
            backends.iter_mut().for_each(|backend| backend.port = port);
        }
        let key = sink.service_of(id).cloned();
        let waypoint = key.as_ref().and_then(|key| self.waypoint_facts(key));
        let wanted = key.as_ref().and_then(|key| {
            let led_to = self.reconciler.desired().get(&key.host)?.tables.services.get(key)?;
            Some(self.reconciler.backends_of(led_to).into_owned())
        });
        Ok(Some(LiveService {
            key,
            slot_base: word.slot_base,
            slot_count: word.slot_count(),
            through,
            backends,
            wanted: wanted.unwrap_or_default(),
            waypoint,
        }))
    }

    /// The backends of a run of slots, with their shares.
    pub(super) fn live_backends(&self, word: Service) -> Result<Vec<LiveBackend>, MapError> {
        let maps = self.reconciler.sink().maps();
        let v6_base = word.slot_base.saturating_add(word.v4_count.into());
        let mut backends = Vec::new();
        for (base, count) in [(word.slot_base, word.v4_count), (v6_base, word.v6_count)] {
            let ids = (0..u32::from(count)).map(|offset| base.saturating_add(offset));
            let slots: Vec<_> =
                ids.filter_map(|id| maps.read_slot(id).transpose()).collect::<Result<_, _>>()?;
            for (id, share) in shares(&slots) {
                if let Some(backend) = maps.read_backend(id)? {
                    let address = addr::to_ip(backend.addr);
                    backends.push(LiveBackend { id, address, port: backend.port, share });
                }
            }
        }
        backends.sort_by_key(|backend| (backend.address, backend.port));
        Ok(backends)
    }

    fn sources(&self) -> BTreeMap<String, SourceFacts> {
        let names = self.resolver.status();
        let facts = names.into_iter().map(|name| {
            let trouble = name.last_error.map(|error| match &*error {
                NO_SUCH_NAME => Trouble::NotFound,
                NO_ADDRESS => Trouble::NoAddress,
                _ => Trouble::Failed(error),
            });
            (name.name.to_string(), SourceFacts { age_secs: name.age_secs, stale: name.stale, trouble })
        });
        facts.collect()
    }
}

fn answered_facts(view: &NameView, scope: &str) -> Answered {
    let of = |is_v4: bool| view.vips.iter().copied().filter(move |vip| vip.is_ipv4() == is_v4);
    let mut answered =
        Answered { entry: view.entry.to_string(), scope: scope.to_owned(), ..Answered::default() };
    for (answers, is_v4) in [(view.answers_v4, true), (view.answers_v6, false)] {
        match (answers, is_v4) {
            (true, true) => answered.v4 = of(true).collect(),
            (true, false) => answered.v6 = of(false).collect(),
            (false, _) => answered.withheld.extend(of(is_v4)),
        }
    }
    answered
}
