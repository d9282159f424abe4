//! gRPC: a stream both ways through the waypoint, with a server of gRPC that is at hand: another xDS server.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use futures_util::stream;
use tests::topology::{BACKEND, NODE, Options};
use tonic::transport::Channel;

use crate::*;

const QUIET: Options = Options { httpbin: false, ttl_secs: 1, records: &[] };
const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// Another server, in the backends' namespace.
fn other(way: &Way, port: u16) -> anyhow::Result<Xds> {
    let xds = Way::server_of();
    xds.synced();
    let address = SocketAddr::from((BACKEND, port));
    let listener = way.topology.backend.inside(|| TcpListener::bind(address))??;
    listener.set_nonblocking(true)?;
    let serve = xds.clone();
    way.runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let accepted = stream::poll_fn(move |context| {
            listener.poll_accept(context).map(|accepted| Some(accepted.map(|(stream, _)| stream)))
        });
        serve.serve(accepted, std::future::pending()).await.map_err(std::io::Error::other)
    });
    Ok(xds)
}

#[test]
fn a_stream_of_grpc_lives_in_both_directions() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(QUIET)? else { return Ok(()) };
    let backend = other(&way, 50_051)?;
    way.serves(&[(key("grpc.test", 50_051), service(20_001, Protocol::Grpc, vec![at(BACKEND, 50_051)]))])?;
    let talk = async {
        let channel = Channel::builder(format!("http://{NODE}:20001").parse()?).connect().await?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let (requests, mut queue) = tokio::sync::mpsc::channel::<DeltaDiscoveryRequest>(4);
        let node = Some(Node { id: "through-envoy".into(), ..Node::default() });
        let first =
            DeltaDiscoveryRequest { node, type_url: CLUSTERS.into(), ..DeltaDiscoveryRequest::default() };
        requests.send(first).await?;
        let requests_stream = stream::poll_fn(move |context| queue.poll_recv(context));
        let mut answers = client.delta_aggregated_resources(requests_stream).await?.into_inner();
        // Each answer follows a change at the server, and is followed by the client's own word.
        let empty = answers.message().await?.context("an answer")?;
        assert!(empty.resources.is_empty());
        let mut nonce = empty.nonce;
        for number in 1..=50_u16 {
            let acknowledged = DeltaDiscoveryRequest {
                type_url: CLUSTERS.into(),
                response_nonce: nonce,
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(acknowledged).await?;
            let host = format!("h{number}.test");
            backend.set(&key(&host, 80), Some(service(number, Protocol::Tcp, vec![at(BACKEND, 80)])));
            let answer = answers.message().await?.context("an answer")?;
            assert_eq!(answer.resources.len(), 1);
            assert_eq!(answer.resources[0].name, format!("default/entry|{host}|80"));
            nonce = answer.nonce;
        }
        anyhow::Ok(())
    };
    // In the client's namespace, with a runtime of its own that makes its sockets there.
    way.topology.sleep.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { tokio::time::timeout(LIMIT, talk).await })?
    })??;
    way.end()
}

#[test]
fn a_client_that_talks_nonsense_is_told_so() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(QUIET)? else { return Ok(()) };
    let backend = other(&way, 50_051)?;
    way.serves(&[(key("grpc.test", 50_051), service(20_001, Protocol::Grpc, vec![at(BACKEND, 50_051)]))])?;
    let ask = |request: DeltaDiscoveryRequest| async move {
        let channel = Channel::builder(format!("http://{NODE}:20001").parse()?).connect().await?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let requests = stream::iter([request]);
        let answer = match client.delta_aggregated_resources(requests).await {
            Ok(answers) => answers.into_inner().message().await,
            Err(status) => Err(status),
        };
        anyhow::Ok(answer.expect_err("it is sent away"))
    };
    let node = || Some(Node { id: "odd".into(), ..Node::default() });
    let nobody = DeltaDiscoveryRequest { type_url: CLUSTERS.into(), ..DeltaDiscoveryRequest::default() };
    let unknown =
        DeltaDiscoveryRequest { node: node(), type_url: "x".into(), ..DeltaDiscoveryRequest::default() };
    let told = way.topology.sleep.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { anyhow::Ok([ask(nobody).await?, ask(unknown).await?]) })
    })??;
    assert!(told.iter().all(|status| status.code() == tonic::Code::InvalidArgument), "{told:?}");
    assert!(told[0].message().contains("no node id"), "{told:?}");
    assert!(told[1].message().contains("the type \"x\" is not served here"), "{told:?}");
    assert!(backend.nodes().iter().all(|node| !node.connected));
    way.end()
}
