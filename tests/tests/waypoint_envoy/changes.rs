//! Changes: small, quick, and unnoticed by those whom they do not concern.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tests::topology::{BACKEND, BACKEND_2, Options};

use crate::*;

const QUIET: Options = Options { httpbin: false, ttl_secs: 1, records: &[] };
const SERVICES: u16 = 1000;
/// How long all of them may take on a machine that does nothing else; elsewhere [`LIMIT`] is told for each part.
const ALL: Duration = Duration::from_secs(10);
/// How many are waited for together.
const PART: usize = 200;
/// How often the backends change, and how many requests are answered at least between that.
const CHANGES: usize = 40;
const BETWEEN: usize = 20;
/// More than one change takes: a cluster and a route.
const SMALL: u64 = 2_000;

#[test]
fn a_thousand_services_are_taken_in_seconds_and_one_change_is_small() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(QUIET)? else { return Ok(()) };
    greeter(&way.topology.backend, (BACKEND, 9000).into(), "backend")?;
    let protocol = |number: u16| if number.is_multiple_of(2) { Protocol::Http } else { Protocol::Tcp };
    let make = |number: u16| {
        let service = service(20_000 + number, protocol(number), vec![at(BACKEND, 9000)]);
        (key(&format!("h{number}.test"), 80), service)
    };
    let services: Vec<_> = (0..SERVICES).map(make).collect();
    let began = Instant::now();
    for (key, service) in &services {
        way.xds.set(key, Some(service.clone()));
    }
    for part in services.chunks(PART) {
        way.serves(part)?;
    }
    let took = began.elapsed();
    let all = way.node()?.sent;
    println!(
        "{SERVICES} services after {:.1} s, {} resources, {} bytes",
        took.as_secs_f64(),
        all.resources,
        all.bytes
    );
    assert!(!tests::is_long() || took < poll::stretched(ALL), "{took:?}");
    assert_eq!(all.resources, 2 * u64::from(SERVICES) + u64::from(SERVICES / 2));
    for number in [1, SERVICES - 1] {
        assert_eq!(hear(&mut way.connect(20_000 + number)?)?, "220 backend");
    }

    let before = way.node()?.sent;
    let began = Instant::now();
    let (key, service) = make(500);
    way.serves(&[(key, Service { endpoints: vec![at(BACKEND_2, 9000)], ..service })])?;
    let sent = way.node()?.sent;
    let bytes = sent.bytes - before.bytes;
    println!("one change after {:.3} s, {bytes} bytes", began.elapsed().as_secs_f64());
    assert_eq!(sent.resources - before.resources, 2, "a cluster and a route");
    assert_eq!(sent.responses - before.responses, 2);
    assert!(bytes < SMALL, "{bytes} bytes");
    way.end()
}

#[test]
fn a_server_that_starts_anew_moves_nothing_and_drops_no_connection() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(QUIET)? else { return Ok(()) };
    greeter(&way.topology.backend, (BACKEND, 9000).into(), "backend")?;
    let make = |number: u16, protocol| {
        let service = service(20_000 + number, protocol, vec![at(BACKEND, 9000)]);
        (key(&format!("h{number}.test"), 80), service)
    };
    let eds = |(key, service): (ServiceKey, Service)| (key, Service { discovery: Discovery::Eds, ..service });
    let services = [
        make(1, Protocol::Tcp),
        make(2, Protocol::Http),
        eds(make(3, Protocol::Tcp)),
        eds(make(4, Protocol::Http)),
    ];
    way.serves(&services)?;
    let mut open = way.connect(20_001)?;
    assert_eq!(hear(&mut open)?, "220 backend");
    for _ in 0..3 {
        way.restart_server()?;
        let keys: Vec<_> = services.iter().map(|(key, _)| key).collect();
        way.taken(&keys)?;
        assert_eq!(way.node()?.sent.resources, 0, "everything is as it was");
        assert_eq!(say(&mut open, "still here")?, "backend still here");
        assert_eq!(hear(&mut way.connect(20_003)?)?, "220 backend");
    }
    // And it goes on: one that goes, one that comes.
    way.xds.set(&services[1].0, None);
    way.serves(&[make(5, Protocol::Tcp)])?;
    poll::until("the listener to go", LIMIT, || way.connect(20_002).is_err().then_some(()))?;
    assert_eq!(hear(&mut way.connect(20_005)?)?, "220 backend");
    assert_eq!(say(&mut open, "still here")?, "backend still here");
    way.end()
}

/// Answers each request with its own name, on connections that stay open.
fn answerer(netns: &Netns, address: SocketAddr, name: &'static str) -> anyhow::Result<()> {
    let listener = netns.inside(|| TcpListener::bind(address))??;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || -> anyhow::Result<()> {
                stream.set_nodelay(true)?;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                loop {
                    while !hear(&mut stream)?.is_empty() {}
                    stream.write_all(answer.as_bytes())?;
                }
            });
        }
    });
    Ok(())
}

/// Asks once; the answer's body.
fn ask(stream: &mut TcpStream) -> anyhow::Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")?;
    let status = hear(stream)?;
    let mut length = 0;
    loop {
        let line = hear(stream)?;
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let body = String::from_utf8(body)?;
    if status != "HTTP/1.1 200 OK" {
        bail!("{status}: {body}");
    }
    Ok(body)
}

#[test]
fn no_request_fails_while_backends_change() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(QUIET)? else { return Ok(()) };
    let backends = [(BACKEND, "first"), (BACKEND_2, "second")];
    for (address, name) in backends {
        answerer(&way.topology.backend, (address, 9000).into(), name)?;
    }
    let listed = [Discovery::Static, Discovery::Eds].into_iter().zip([20_001, 20_002]);
    let listed: Vec<_> = listed.map(|(discovery, port)| (key("a.test", port), discovery, port)).collect();
    let to = |address: IpAddr| {
        let of = |(key, discovery, port): &(ServiceKey, Discovery, u16)| {
            let service = service(*port, Protocol::Http, vec![at(address, 9000)]);
            (key.clone(), Service { discovery: *discovery, ..service })
        };
        listed.iter().map(of).collect::<Vec<_>>()
    };
    way.serves(&to(BACKEND))?;
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut streams = Vec::new();
    for (_, _, port) in &listed {
        for _ in 0..2 {
            let stream = way.connect(*port)?;
            stream.set_nodelay(true)?;
            streams.push((stream, *port));
        }
    }
    let (stopped, counted) = (&stop, &asked);
    let answers = std::thread::scope(|scope| {
        let clients: Vec<_> = streams
            .into_iter()
            .map(|(mut stream, port)| {
                scope.spawn(move || {
                    let mut seen = BTreeSet::new();
                    while !stopped.load(Ordering::Relaxed) {
                        seen.insert(ask(&mut stream).with_context(|| format!("at port {port}"))?);
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    anyhow::Ok(seen)
                })
            })
            .collect();
        let changed = (0..CHANGES).try_for_each(|round| {
            way.serves(&to(backends[(round + 1) % 2].0))?;
            // Each version is at work for a while.
            let enough = counted.load(Ordering::Relaxed) + BETWEEN;
            let asked = || {
                counted.load(Ordering::Relaxed) >= enough || clients.iter().any(|client| client.is_finished())
            };
            poll::until("requests to be answered", LIMIT, || asked().then_some(()))
        });
        stop.store(true, Ordering::Relaxed);
        let answers: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        changed.map(|()| answers)
    })?;
    println!("{} requests", asked.load(Ordering::Relaxed));
    for answer in answers {
        let seen = answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        assert_eq!(seen.len(), 2, "{seen:?}");
    }
    way.end()
}
