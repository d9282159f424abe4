//! Waypoints: an unmodified Envoy that hears of services over xDS and learns by its port which one a client wants.

mod waypoint_envoy {
    mod bytes;
    mod changes;
    mod grpc;
    mod http;
    mod refusals;
    mod status;
}

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kmesh_se::desired::ServiceKey;
use kmesh_se::model::{HostName, Kind, Namespace, ObjectRef, Others, Protocol};
use kmesh_se::waypoint::{
    self, Bootstrap, Discovery, Endpoint, EndpointHost, NodeInfo, Service, Settings, Xds,
};
use tests::clean::Run;
use tests::netns::Netns;
use tests::poll;
use tests::topology::{DNS, NODE, Options, Topology, v6};
use tests::waypoint::Waypoint;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// How long Envoy may take for what it does at once.
const LIMIT: Duration = Duration::from_secs(20);
/// Where Envoy says whether it is ready.
const STATUS_PORT: u16 = 15021;
/// The waypoint's id.
const ID: &str = "waypoint-1";

/// The port of a host that every test's services have.
fn key(host: &str, port: u16) -> ServiceKey {
    let entry = ObjectRef { kind: Kind::ServiceEntry, namespace: Namespace::default(), name: "entry".into() };
    ServiceKey { host: HostName::new(host), entry, port }
}

/// An endpoint by its address.
fn at(address: IpAddr, port: u16) -> Endpoint {
    Endpoint { host: EndpointHost::Address(address), port, weight: 1 }
}

/// A service with these endpoints, listed.
fn service(listener_port: u16, protocol: Protocol, endpoints: Vec<Endpoint>) -> Service {
    let (rules, others) = (Vec::new(), Others::new());
    Service { listener_port, protocol, discovery: Discovery::Static, endpoints, rules, others }
}

/// A running server; `end` ends it.
struct Server {
    end: oneshot::Sender<()>,
    done: tokio::task::JoinHandle<()>,
}

/// An Envoy on the node, configured by a server of this process; clients are in another namespace. In the order in which it is
/// taken down.
struct Way {
    envoy: Waypoint,
    server: Option<Server>,
    xds: Xds,
    runtime: Runtime,
    socket: PathBuf,
    topology: Topology,
    run: Run,
}

impl Way {
    /// Starts all of it without a service; none, with a line that says so, where there is no Envoy.
    fn start(options: Options) -> anyhow::Result<Option<Way>> {
        if !Waypoint::is_possible() {
            return Ok(None);
        }
        let run = Run::begin()?;
        let topology = Topology::start(&run, options)?;
        let folder = run.folder()?;
        let socket = folder.join("xds.sock");
        let runtime = Runtime::new()?;
        let xds = Way::server_of();
        let bootstrap = Bootstrap {
            node: ID.to_owned(),
            cluster: "waypoints".to_owned(),
            server: waypoint::Server::Socket(socket.clone()),
            admin: Some(folder.join("envoy.sock")),
            status: Some((NODE.to_string(), STATUS_PORT)),
        };
        let envoy = Waypoint::start(&topology.node, &folder, &bootstrap.config(), Bootstrap::arguments)?;
        let mut way = Way { envoy, server: None, xds, runtime, socket, topology, run };
        way.serve();
        Ok(Some(way))
    }

    fn server_of() -> Xds {
        let listen = vec![NODE, v6(NODE)];
        Xds::new(Settings { listen, resolvers: vec![(DNS, 53).into()], access_log: true })
    }

    fn serve(&mut self) {
        let (end, ended) = oneshot::channel();
        let (xds, socket) = (self.xds.clone(), self.socket.clone());
        let done = self.runtime.spawn(async move {
            let ended = async {
                let _ = ended.await;
            };
            if let Err(error) = xds.serve_unix(&socket, ended).await {
                panic!("{error}");
            }
        });
        self.server = Some(Server { end, done });
    }

    /// Sets services and waits until Envoy has taken all of them.
    fn serves(&mut self, services: &[(ServiceKey, Service)]) -> anyhow::Result<()> {
        for (key, service) in services {
            self.xds.set(key, Some(service.clone()));
        }
        self.xds.synced();
        let keys = services.iter().map(|(key, _)| key).collect::<Vec<_>>();
        self.taken(&keys)
    }

    /// Waits until Envoy has taken these services as they were set last.
    fn taken(&mut self, keys: &[&ServiceKey]) -> anyhow::Result<()> {
        let mut missing = keys.to_vec();
        let waited = poll::until("Envoy to take the services", LIMIT, || {
            missing.retain(|key| {
                let standings = self.xds.standing(key);
                !standings.iter().any(|(_, standing)| standing.serves && standing.current)
            });
            missing.is_empty().then_some(())
        });
        self.envoy.lives()?;
        waited.with_context(|| {
            let first = missing.first().map(|key| self.xds.standing(key));
            format!("{} are missing, the first stands {first:?}\n{}", missing.len(), self.envoy.tail())
        })
    }

    /// What is known of Envoy.
    fn node(&self) -> anyhow::Result<NodeInfo> {
        let nodes = self.xds.nodes();
        nodes.into_iter().find(|node| &*node.id == ID).context("no Envoy has been here")
    }

    /// Ends the server and starts another one, which knows the same services when it begins to tell anything.
    fn restart_server(&mut self) -> anyhow::Result<()> {
        let Some(Server { end, done }) = self.server.take() else { bail!("no server") };
        let _ = end.send(());
        self.runtime.block_on(done)?;
        let services = self.xds.services();
        self.xds = Way::server_of();
        self.serve();
        for (key, service) in services {
            self.xds.set(&key, Some(service));
        }
        self.xds.synced();
        Ok(())
    }

    /// What curl says in the client's namespace, where `host:port` is a port of the waypoint.
    fn curl(
        &self,
        (host, port): (&str, u16),
        listener: (IpAddr, u16),
        arguments: &[&str],
    ) -> anyhow::Result<String> {
        let address = SocketAddr::from(listener);
        let through = format!("{host}:{port}:{}:{}", bracketed(address.ip()), address.port());
        let mut command =
            vec!["curl", "-sS", "--max-time", "20", "-A", "curl/test", "--connect-to", &through];
        command.extend(arguments);
        let output = poll::output(&mut self.topology.plain_client(&command))?;
        if !output.status.success() {
            bail!("{command:?}: {}\n{}", String::from_utf8_lossy(&output.stderr), self.envoy.tail());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A connection from the client's namespace to a port of the waypoint.
    fn connect(&self, port: u16) -> anyhow::Result<TcpStream> {
        let stream = self.topology.sleep.inside(|| TcpStream::connect((NODE, port)))??;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    /// Ends all of it; what is left is wrong.
    fn end(self) -> anyhow::Result<()> {
        let Way { envoy, server, runtime, topology, run, .. } = self;
        drop((envoy, server, topology));
        runtime.shutdown_timeout(Duration::from_secs(5));
        let left = run.end();
        if !left.is_empty() {
            bail!("left behind: {left:?}");
        }
        Ok(())
    }
}

fn bracketed(address: IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

/// A server that talks first, then repeats each line with its own name; until the process ends.
fn greeter(netns: &Netns, address: SocketAddr, name: &'static str) -> anyhow::Result<()> {
    let listener = netns.inside(|| TcpListener::bind(address))??;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                writeln!(stream, "220 {name}")?;
                for line in BufReader::new(stream.try_clone()?).lines() {
                    writeln!(stream, "{name} {}", line?)?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    Ok(())
}

/// Says a line and hears one.
fn say(stream: &mut TcpStream, line: &str) -> anyhow::Result<String> {
    writeln!(stream, "{line}")?;
    hear(stream)
}

/// Hears a line, byte by byte, so that nothing of the next one is taken.
fn hear(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("the line did not come")?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8(line)?.trim_end().to_owned())
}

/// The names of the headers of an answer, in lower case.
fn header_names(answer: &str) -> BTreeSet<String> {
    let lines = answer.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.map(|(name, _)| name.to_ascii_lowercase()).collect()
}
