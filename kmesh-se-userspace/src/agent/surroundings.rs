//! Where the agent listens for DNS, whose queries it captures, and where it resolves.
//!
//! In: flags; for what they do not say, the host or the cluster. Out: addresses. Never: an address that changes later.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use kmesh_se_common::limits::DNS_PORT;
use tokio::time::{sleep, timeout};

use super::{RESOLV_CONF, input::Input, pods::local_addresses};
use crate::{
    config::AgentArgs,
    dns::{DnsListen, MAX_RESOLVERS},
    health::{Health, Step},
    resolve,
    source::kube::{self, Discovered},
    state::{KnownCluster, StateDir},
};

/// Where NodeLocal DNSCache listens on each node, by its own manifests.
const NODE_LOCAL_CACHE: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10));
/// How long the API server has for its answer; then what it said last counts.
const ANSWER: Duration = Duration::from_secs(5);
/// How often it is asked again for what it does not say.
const AGAIN: Duration = Duration::from_secs(2);
/// How often the cluster's DNS is looked for while it is not there.
const LOOK: Duration = Duration::from_secs(10);

/// The addresses around the agent.
pub(super) struct Surroundings {
    pub(super) listen: DnsListen,
    /// The resolvers whose port 53 is captured.
    pub(super) captured: Vec<SocketAddr>,
    /// The resolvers that the agent asks.
    pub(super) asked: Vec<SocketAddr>,
    /// The cluster says of no DNS; whoever can ask it.
    lacks_dns: Option<(::kube::Client, String)>,
}

impl Surroundings {
    /// Finds out what the flags do not say. In a cluster that was never reached before, waits until it is.
    pub(super) async fn find(args: &AgentArgs, input: &Input, health: &Health) -> anyhow::Result<Self> {
        let given: Vec<_> = args.resolver.iter().map(|resolver| resolver.0).collect();
        match input {
            Input::Cluster(client, node, _) if given.is_empty() || args.dns_listen.is_empty() => {
                let found = discover(client, node, &StateDir::open(&args.state)?, health).await?;
                let listen = if args.dns_listen.is_empty() { at_node(&found) } else { args.dns_listen()? };
                if given.is_empty() {
                    Self::of_cluster(listen, &found, client, node)
                } else {
                    Ok(Self::at(listen, given))
                }
            }
            Input::Cluster(..) | Input::Folder(_) if !given.is_empty() => {
                Ok(Self::at(args.dns_listen()?, given))
            }
            Input::Cluster(..) | Input::Folder(_) => {
                Ok(Self::at(args.dns_listen()?, resolve::system_servers(RESOLV_CONF.as_ref())?))
            }
        }
    }

    fn at(listen: DnsListen, resolvers: Vec<SocketAddr>) -> Self {
        Self { listen, captured: resolvers.clone(), asked: resolvers, lacks_dns: None }
    }

    fn of_cluster(
        listen: DnsListen,
        found: &Discovered,
        client: &::kube::Client,
        node: &str,
    ) -> anyhow::Result<Self> {
        let cluster: Vec<_> = found.cluster_dns.iter().map(|ip| SocketAddr::new(*ip, DNS_PORT)).collect();
        // What pods with the policy Default ask is the node's.
        let own = match resolve::system_servers(RESOLV_CONF.as_ref()) {
            Err(error) if cluster.is_empty() => return Err(error.into()),
            own => own.unwrap_or_default(),
        };
        let cache = local_addresses().contains(&NODE_LOCAL_CACHE);
        let cache = cache.then_some(SocketAddr::new(NODE_LOCAL_CACHE, DNS_PORT));
        let mut captured = Vec::new();
        for resolver in cluster.iter().copied().chain(cache).chain(own.iter().copied()) {
            if !captured.contains(&resolver) && captured.len() < MAX_RESOLVERS {
                captured.push(resolver);
            }
        }
        if !cluster.is_empty() {
            return Ok(Self { listen, captured, asked: cluster, lacks_dns: None });
        }
        tracing::warn!(
            "the cluster has no DNS Service (kube-system/kube-dns, or labelled k8s-app=kube-dns): only the node's own resolvers \
             are captured until there is one; name others with --resolver"
        );
        Ok(Self { listen, captured, asked: own, lacks_dns: Some((client.clone(), node.to_owned())) })
    }

    /// Returns when the cluster has a DNS Service that it did not have. The ports of namespaces are counted by resolvers, so
    /// this is for a new agent to begin with.
    pub(super) async fn outdated(self) -> anyhow::Error {
        let Some((client, node)) = self.lacks_dns else { return std::future::pending().await };
        loop {
            sleep(LOOK).await;
            if let Ok(found) = kube::discover(&client, &node).await
                && let Some(address) = found.cluster_dns.first()
            {
                return anyhow::anyhow!(
                    "the cluster has a DNS Service now, at {address}: the agent must be started again to serve it, and \
                     leaves everything in place until it is"
                );
            }
        }
    }
}

/// What the cluster says, or what it said last.
async fn discover(
    client: &::kube::Client,
    node: &str,
    state: &StateDir,
    health: &Health,
) -> anyhow::Result<Discovered> {
    let mut is_told = false;
    loop {
        health.turn(Step::Starting, vec!["waiting for the API server".to_owned()]);
        let error = match timeout(ANSWER, kube::discover(client, node)).await {
            Ok(Ok(found)) => {
                let Discovered { cluster_dns: dns, node_addresses: node } = found.clone();
                state.save_cluster(&KnownCluster { dns, node })?;
                return Ok(found);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ANSWER:?}"),
        };
        if let Some(KnownCluster { dns: cluster_dns, node: node_addresses }) = state.load_cluster()? {
            tracing::warn!(
                error,
                "the cluster does not say where its DNS is: going on with what it said last"
            );
            return Ok(Discovered { cluster_dns, node_addresses });
        }
        if !std::mem::replace(&mut is_told, true) {
            tracing::warn!(
                error,
                "waiting for the API server, to learn the addresses of DNS and of this node"
            );
        }
        sleep(AGAIN).await;
    }
}

/// The node's own addresses, by which every pod reaches it.
fn at_node(found: &Discovered) -> DnsListen {
    let loopback = DnsListen::loopback();
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for ip in &found.node_addresses {
        if addresses.iter().all(|other| other.is_ipv4() != ip.is_ipv4()) {
            addresses.push((*ip, loopback.port()).into());
        }
    }
    DnsListen::new(&addresses).unwrap_or_else(|error| {
        tracing::warn!(%error, "no address of this node is known: only processes of its own network get our names");
        loopback
    })
}
