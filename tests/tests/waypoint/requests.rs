//! HTTPRoutes of services that go through the waypoint: a real agent, a real Envoy, and servers that say who they are.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, TcpListener};

use tests::netns::Netns;
use tests::topology::{BACKEND, BACKEND_2};

use super::*;

/// Where the others listen, beside httpbin.
const OTHER: u16 = 9001;
/// Of two others.
const SHARED: u16 = 9002;

/// A server that answers every request with its name and the request as it came; until the process ends.
fn answerer(netns: &Netns, address: (IpAddr, u16), name: &'static str) -> anyhow::Result<()> {
    let listener = netns.inside(|| TcpListener::bind(address))??;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone()?).lines();
                loop {
                    let mut request = String::new();
                    loop {
                        let Some(line) = lines.next() else { return std::io::Result::Ok(()) };
                        let line = line?;
                        if line.is_empty() {
                            break;
                        }
                        request += &line;
                        request.push('\n');
                    }
                    let body = format!("{name}\n{request}");
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nx-server: {name}\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    );
                    (&stream).write_all((head + &body).as_bytes())?;
                }
            });
        }
    });
    Ok(())
}

/// An entry `name.test` whose endpoint is one of the others.
fn other(name: &str, address: IpAddr, port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         hosts: [{name}.test]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: STATIC\n  \
         endpoints: [{{address: {address}, ports: {{http: {port}}}}}]\n"
    )
}

/// A route of the tutorial's first entry with these rules.
fn route(name: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         parentRefs: [{{group: networking.istio.io, kind: ServiceEntry, name: external-fake-svc}}]\n  rules:\n{rules}"
    )
}

/// A backend of a rule.
fn to(name: &str) -> String {
    format!("{{group: networking.istio.io, kind: ServiceEntry, name: {name}, port: 80}}")
}

/// The tutorial, bound to the waypoint, and two others.
fn routed() -> anyhow::Result<Option<Stage>> {
    let (first, second) = (other("first", BACKEND, OTHER), other("second", BACKEND_2, SHARED));
    let files = [("namespace.yaml", NAMESPACE), ("first.yaml", &*first), ("second.yaml", &*second)];
    let Some(stage) = stage(&files, &[])? else { return Ok(None) };
    answerer(&stage.topology.backend, (BACKEND, OTHER), "first")?;
    answerer(&stage.topology.backend, (BACKEND_2, SHARED), "second")?;
    stage.agent.until_through(4)?;
    Ok(Some(stage))
}

/// The whole answer of the tutorial's first host, head and body.
fn ask(stage: &Stage, path: &str, more: &[&str]) -> anyhow::Result<String> {
    let url = format!("http://kmesh-fake.com{path}");
    let command = [&["curl", "-isS", "--max-time", "20", &url], more].concat();
    let (well, answer) = stage.says(true, &command)?;
    anyhow::ensure!(well, "{command:?} failed\n{}", stage.agent.log_tail());
    Ok(answer.to_ascii_lowercase())
}

/// Waits until an answer has all of these words.
fn until_has(stage: &Stage, path: &str, more: &[&str], words: &[&str]) -> anyhow::Result<String> {
    let mut last = String::new();
    let found = poll::until(&format!("{path} to be answered with {words:?}"), poll::stretched(LIMIT), || {
        last = ask(stage, path, more).ok()?;
        words.iter().all(|word| last.contains(word)).then_some(())
    });
    found.with_context(|| format!("last: {last}\n{}", stage.agent.log_tail()))?;
    Ok(last)
}

#[test]
fn requests_go_where_the_rules_say_and_back_when_the_route_is_gone() -> anyhow::Result<()> {
    let Some(stage) = routed()? else { return Ok(()) };
    let rules = format!(
        "  - matches: [{{headers: [{{name: x-who, value: first}}]}}]\n    backendRefs: [{}]\n  - backendRefs: [{}]\n",
        to("first"),
        to("external-fake-svc"),
    );
    stage.write("route.yaml", &route("by-header", &rules))?;
    let told = until_has(&stage, "/headers", &["-H", "x-who: first"], &["x-server: first"])?;
    assert!(told.contains("x-envoy-decorator-operation: first.test:80/*"), "{told}");
    assert!(told.contains("host: kmesh-fake.com"), "{told}");
    assert!(!ask(&stage, "/headers", &[])?.contains("x-server"), "others go to the service itself");

    // Of two routes the longer path comes first, whatever the names are.
    let narrow =
        format!("  - matches: [{{path: {{value: /headers}}}}]\n    backendRefs: [{}]\n", to("second"));
    stage.write("a-narrow.yaml", &route("z-narrow", &narrow))?;
    until_has(&stage, "/headers", &["-H", "x-who: first"], &["x-server: second"])?;
    until_has(&stage, "/get", &["-H", "x-who: first"], &["x-server: first"])?;
    let explained = stage.agent.ask(&["explain", "kmesh-fake.com:80"])?;
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("HTTPRoute default/by-header"), "{explained}");
    assert_eq!(conditions(&stage, "kmesh-fake.com")?, ["True WaypointAccepted", "True RouteAccepted"]);

    // A rule that is for nothing of it: no such page.
    stage.remove("route.yaml")?;
    until_has(&stage, "/get", &["-H", "x-who: first"], &[" 404 "])?;
    stage.remove("a-narrow.yaml")?;
    until_has(&stage, "/headers", &["-H", "x-who: first"], &[" 200 ", "\"x-who\": \"first\""])?;
    assert_eq!(conditions(&stage, "kmesh-fake.com")?, ["True WaypointAccepted"]);
    assert_eq!(stage.end()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn shares_are_as_the_weights_say_and_who_is_not_there_is_answered_with_500() -> anyhow::Result<()> {
    let Some(stage) = routed()? else { return Ok(()) };
    let backends = |weights: &[(&str, u32)]| {
        let one = |(name, weight): &(&str, u32)| to(name).replace('}', &format!(", weight: {weight}}}"));
        let all: Vec<_> = weights.iter().map(one).collect();
        route("shares", &format!("  - backendRefs: [{}]\n", all.join(", ")))
    };
    let count = |stage: &Stage, times: usize| -> anyhow::Result<BTreeMap<String, usize>> {
        let urls = format!("http://kmesh-fake.com/get?[1-{times}]");
        let format = "%{http_code} %header{x-server}\\n";
        let (_, told) = stage.says(true, &["curl", "-sS", "-o", "/dev/null", "-w", format, &urls])?;
        let mut counts = BTreeMap::new();
        for line in told.lines().filter(|line| line.len() > 2 && line.as_bytes()[3] == b' ') {
            *counts.entry(line.trim().to_owned()).or_default() += 1;
        }
        Ok(counts)
    };
    stage.write("route.yaml", &backends(&[("first", 9), ("second", 1)]))?;
    until_has(&stage, "/get", &[], &["x-server: "])?;
    let counts = count(&stage, 500)?;
    let of = |name: &str| counts.get(name).copied().unwrap_or_default();
    assert_eq!(of("200 first") + of("200 second"), 500, "{counts:?}");
    // Ten times the deviation that one expects of 500 throws.
    assert!((10..=120).contains(&of("200 second")), "{counts:?}");

    stage.write("route.yaml", &backends(&[("first", 1), ("nobody", 1)]))?;
    until("half of it to be refused", || {
        let counts = count(&stage, 40)?;
        let of = |name: &str| counts.get(name).copied().unwrap_or_default();
        Ok(of("500") > 2 && of("200 first") > 2 && of("500") + of("200 first") == 40)
    })?;
    assert_eq!(conditions(&stage, "kmesh-fake.com")?, ["True WaypointAccepted", "False RouteBackendMissing"]);
    // It comes.
    stage.write("nobody.yaml", &other("nobody", BACKEND_2, SHARED))?;
    until("both to answer", || {
        let counts = count(&stage, 40)?;
        Ok(counts.keys().all(|line| line.starts_with("200")) && counts.contains_key("200 second"))
    })?;
    stage.remove("nobody.yaml")?;
    stage.write("route.yaml", &backends(&[("nobody", 1)]))?;
    until_has(&stage, "/get", &[], &[" 500 "])?;
    assert_eq!(stage.end()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn headers_paths_and_times_are_as_the_filters_say() -> anyhow::Result<()> {
    let Some(stage) = routed()? else { return Ok(()) };
    let (first, itself) = (to("first"), to("external-fake-svc"));
    let rules = format!(
        "  - matches: [{{path: {{value: /changed}}}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {{set: [{{name: x-set, value: 100%}}], add: [{{name: x-more, value: two}}], remove: [x-gone]}}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{add: [{{name: x-added, value: here}}], remove: [x-server]}}
    - type: URLRewrite
      urlRewrite: {{hostname: inner.test, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}
    backendRefs: [{first}]
  - matches: [{{path: {{value: /moved}}}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {{scheme: https, hostname: other.test, statusCode: 301, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /new}}}}
  - matches: [{{path: {{value: /delay}}}}]
    timeouts: {{request: 500ms}}
    backendRefs: [{itself}]
  - matches: [{{path: {{type: RegularExpression, value: '/v[0-9]+/x'}}, queryParams: [{{name: q, value: '1'}}], method: GET}}]
    filters:
    - type: URLRewrite
      urlRewrite: {{path: {{type: ReplaceFullPath, replaceFullPath: /whole}}}}
    backendRefs: [{first}]
"
    );
    stage.write("route.yaml", &route("filters", &rules))?;
    let sent = ["-H", "x-set: old", "-H", "x-more: one", "-H", "x-gone: 1"];
    let told = until_has(&stage, "/changed/a/b?q=1", &sent, &["x-added: here"])?;
    for word in ["get /a/b?q=1 http/1.1", "host: inner.test", "x-set: 100%\n", "x-more: one", "x-more: two"] {
        assert!(told.contains(word), "{word} is not in {told}");
    }
    for word in ["x-gone", "x-set: old", "x-server:"] {
        assert!(!told.contains(word), "{word} is in {told}");
    }
    assert!(ask(&stage, "/changed", &[])?.contains("get / http/1.1"));
    let told = ask(&stage, "/moved/a?q=1", &[])?;
    assert!(told.contains(" 301 ") && told.contains("location: https://other.test/new/a?q=1"), "{told}");
    assert!(ask(&stage, "/delay/5", &[])?.contains(" 504 "));
    assert!(ask(&stage, "/v12/x?q=1", &[])?.contains("get /whole?q=1 http/1.1"));
    for (path, more) in [("/v12/x?q=2", &[][..]), ("/v12/xy?q=1", &[]), ("/v12/x?q=1", &["-X", "PUT"])] {
        assert!(ask(&stage, path, more)?.contains(" 404 "), "{path}");
    }
    assert_eq!(stage.end()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_route_that_is_wrong_is_told_and_harms_nobody() -> anyhow::Result<()> {
    let Some(stage) = routed()? else { return Ok(()) };
    stage.write("bad.yaml", &route("bad", "  - filters: [{type: Odd}]\n"))?;
    until("it to be rejected", || {
        Ok(stage.agent.get("/status")?.to_string().contains("RouteFilterUnsupported"))
    })?;
    assert!(ask(&stage, "/headers", &[])?.contains(" 200 "));
    // What Envoy cannot resolve is refused by it alone.
    let rules = format!(
        "  - matches: [{{path: {{value: /first}}}}]\n    backendRefs: [{}]\n  - backendRefs: [{}]\n",
        to("first"),
        to("external-fake-svc")
    );
    stage.write("bad.yaml", &route("good", &rules))?;
    until_has(&stage, "/first", &[], &["x-server: first"])?;
    assert!(ask(&stage, "/headers", &[])?.contains(" 200 "));
    // Envoy counts no further than to a thousand. What it took before goes on, and nobody is told that it does not.
    let refused = rules.replace("value: /first", "type: RegularExpression, value: '/a{1001}'");
    stage.write("bad.yaml", &route("good", &refused))?;
    let explain = || -> anyhow::Result<String> {
        let output = stage.agent.ask(&["explain", "kmesh-fake.com:80"])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    until("the change to be refused", || Ok(explain()?.contains("WaypointRejected")))?;
    assert!(explain()?.contains("connections go through it as before that: "), "{}", explain()?);
    until_has(&stage, "/first", &[], &["x-server: first"])?;
    assert_eq!(stage.end()?, Vec::<String>::new());
    Ok(())
}
