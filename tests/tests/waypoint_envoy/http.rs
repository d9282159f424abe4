//! HTTP: the tutorial's answers, and that backends see what the client sent.

use kmesh_se::model::Protocol;
use kmesh_se::waypoint::{Discovery, Endpoint, EndpointHost, Service};
use serde_json::{Value, json};
use tests::poll;
use tests::topology::{BACKEND, BACKEND_2, NODE, Options, SLEEP, v6};
use tests::tutorial::missing_headers;

use crate::*;

const FAKE: (&str, u16) = ("kmesh-fake.com", 80);
const PORT: u16 = 20_001;

/// The tutorial's first entry.
fn fake(discovery: Discovery) -> Service {
    let host = EndpointHost::Name(HostName::new("httpbin.default.svc.cluster.local"));
    let endpoints = vec![Endpoint { host, port: 8000, weight: 1 }];
    Service { discovery, ..service(PORT, Protocol::Http, endpoints) }
}

fn json(text: &str) -> anyhow::Result<Value> {
    serde_json::from_str(text).with_context(|| format!("no JSON: {text}"))
}

#[test]
fn answers_are_those_of_the_tutorial_and_envoy_adds_what_it_shows() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(Options::default())? else { return Ok(()) };
    way.serves(&[(key(FAKE.0, FAKE.1), fake(Discovery::StrictDns))])?;
    let curl = |arguments: &[&str]| way.curl(FAKE, (NODE, PORT), arguments);

    let headers = json!({"Accept": "*/*", "Host": "kmesh-fake.com", "User-Agent": "curl/test"});
    assert_eq!(json(&curl(&["http://kmesh-fake.com/headers"])?)?, json!({"headers": headers}));
    let get = json!({
        "args": {}, "headers": headers, "origin": SLEEP.to_string(), "url": "http://kmesh-fake.com/get",
    });
    assert_eq!(json(&curl(&["http://kmesh-fake.com/get"])?)?, get);
    assert_eq!(curl(&["http://kmesh-fake.com/status/200"])?, "");
    let code = ["-o", "/dev/null", "-w", "%{http_code}", "http://kmesh-fake.com/status/418"];
    assert_eq!(curl(&code)?, "418");

    let head = curl(&["-I", "http://kmesh-fake.com/headers"])?;
    assert!(missing_headers(&head).is_empty(), "{head}");
    let expected = [
        "access-control-allow-credentials",
        "access-control-allow-origin",
        "content-length",
        "content-type",
        "date",
        "server",
        "x-envoy-decorator-operation",
        "x-envoy-upstream-service-time",
    ];
    assert_eq!(header_names(&head), expected.map(str::to_owned).into());

    let line = "\"GET /status/418 HTTP/1.1\" 418 - via_upstream - \"-\" 0 ";
    let of = |line: &str| way.envoy.lines_with(line).first().cloned();
    let logged = poll::until("the access log", LIMIT, || of(line))?;
    let end = format!("{}:{PORT} {SLEEP}:", NODE);
    assert!(logged.contains(" default/entry|kmesh-fake.com|80 ") && logged.contains(&end), "{logged}");
    assert!(logged.ends_with(" - default"), "{logged}");
    assert!(
        logged.contains(&format!("\"{SLEEP}\" \"curl/test\" \"-\" \"kmesh-fake.com\" \"{BACKEND}:8000\" ")),
        "{logged}"
    );
    way.end()
}

#[test]
fn backends_see_what_the_client_sent_and_its_address() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(Options::default())? else { return Ok(()) };
    way.serves(&[(key(FAKE.0, FAKE.1), fake(Discovery::StrictDns))])?;
    let all = |listener: IpAddr, arguments: &[&str]| -> anyhow::Result<Value> {
        let mut command = arguments.to_vec();
        command.push("http://kmesh-fake.com/headers?show_env=1");
        Ok(json(&way.curl(FAKE, (listener, PORT), &command)?)?["headers"].take())
    };
    let plain = json!({
        "Accept": "*/*", "Host": "kmesh-fake.com", "User-Agent": "curl/test", "X-Forwarded-For": SLEEP.to_string(),
    });
    assert_eq!(all(NODE, &[])?, plain);
    let with = |more: Value| {
        let mut all = plain.clone();
        for (name, value) in more.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        all
    };
    // The other family, where the client has another address.
    assert_eq!(all(v6(NODE), &[])?, with(json!({"X-Forwarded-For": v6(SLEEP).to_string()})));
    assert_eq!(all(NODE, &["-H", "Host: other.example"])?, with(json!({"Host": "other.example"})));
    let sent =
        ["-H", "X-Forwarded-Proto: https", "-H", "X-Request-Id: 7", "-H", "X-Forwarded-For: 192.0.2.1"];
    let chain = format!("192.0.2.1,{SLEEP}");
    let kept = json!({"X-Forwarded-Proto": "https", "X-Request-Id": "7", "X-Forwarded-For": chain});
    assert_eq!(all(NODE, &sent)?, with(kept));
    assert_eq!(all(NODE, &["--http1.0"])?, plain);
    assert_eq!(all(NODE, &["--http1.0", "-H", "Host:"])?, plain, "without a host, the service's own");
    way.end()
}

#[test]
fn names_are_resolved_by_the_resolvers_that_were_given_and_followed() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(Options { httpbin: false, ..Options::default() })? else { return Ok(()) };
    let ports = [(BACKEND, "first"), (BACKEND_2, "second"), (v6(BACKEND), "sixth")];
    for (address, name) in ports {
        greeter(&way.topology.backend, (address, 8000).into(), name)?;
    }
    let tcp = |discovery, port| Service { protocol: Protocol::Tcp, listener_port: port, ..fake(discovery) };
    let services = [(Discovery::StrictDns, 20_001), (Discovery::LogicalDns, 20_002)]
        .map(|(discovery, port)| (key("kmesh-fake.com", port), tcp(discovery, port)));
    way.serves(&services)?;
    let reach = |way: &Way, port, name: &str| {
        let greeting = format!("220 {name}");
        poll::until(&format!("{greeting} at {port}"), LIMIT, || {
            let mut stream = way.connect(port).ok()?;
            (hear(&mut stream).ok()? == greeting).then_some(())
        })
    };
    for port in [20_001, 20_002] {
        reach(&way, port, "first")?;
    }
    for (address, name) in [(BACKEND_2, "second"), (v6(BACKEND), "sixth")] {
        way.topology.dns.set(&[("httpbin.default.svc.cluster.local", address)])?;
        for port in [20_001, 20_002] {
            reach(&way, port, name)?;
        }
    }
    way.end()
}

#[test]
fn a_web_socket_is_opened_and_carries_bytes_both_ways() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(Options { httpbin: false, ..Options::default() })? else { return Ok(()) };
    let address = SocketAddr::from((BACKEND, 9000));
    let listener = way.topology.backend.inside(|| TcpListener::bind(address))??;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || -> anyhow::Result<()> {
                while !hear(&mut stream)?.is_empty() {}
                write!(
                    stream,
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
                )?;
                loop {
                    let line = hear(&mut stream)?;
                    writeln!(stream, "you said {line}")?;
                }
            });
        }
    });
    way.serves(&[(key("ws.test", 80), service(PORT, Protocol::Http, vec![at(BACKEND, 9000)]))])?;
    let mut stream = way.connect(PORT)?;
    write!(
        stream,
        "GET /chat HTTP/1.1\r\nHost: ws.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )?;
    assert_eq!(hear(&mut stream)?, "HTTP/1.1 101 Switching Protocols");
    while !hear(&mut stream)?.is_empty() {}
    assert_eq!(say(&mut stream, "one")?, "you said one");
    assert_eq!(say(&mut stream, "two")?, "you said two");
    way.end()
}
