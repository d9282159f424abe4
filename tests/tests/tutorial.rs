//! The tutorial's questions, answered by the real httpbin through the kernel.

use serde_json::{Value, json};
use tests::stage::{Stage, examples_folder};
use tests::topology::{Options, SLEEP};

fn with_examples() -> anyhow::Result<Stage> {
    let read = |name: &str| std::fs::read_to_string(examples_folder().join(name));
    let (fake, real) = (read("external-fake-svc.yaml")?, read("external-httpbin-org.yaml")?);
    Stage::start(Options::default(), &[("fake.yaml", &fake), ("real.yaml", &real)])
}

fn curl(stage: &Stage, url: &str) -> anyhow::Result<Value> {
    let (well, body) = stage.says(true, &["curl", "-s", "-A", "curl/test", url])?;
    assert!(well, "curl {url} failed\n{}", stage.agent.log_tail());
    Ok(serde_json::from_str(&body)?)
}

#[test]
fn answers_come_from_httpbin_which_sees_the_client_itself() -> anyhow::Result<()> {
    let stage = with_examples()?;
    let headers = |host: &str| json!({"Accept": "*/*", "Host": host, "User-Agent": "curl/test"});
    assert_eq!(curl(&stage, "http://kmesh-fake.com/headers")?, json!({"headers": headers("kmesh-fake.com")}));
    let get = json!({
        "args": {}, "headers": headers("kmesh-fake.com"), "origin": SLEEP.to_string(),
        "url": "http://kmesh-fake.com/get",
    });
    assert_eq!(curl(&stage, "http://kmesh-fake.com/get")?, get);
    assert_eq!(curl(&stage, "http://httpbin.org/headers")?, json!({"headers": headers("httpbin.org")}));
    assert_eq!(stage.says(true, &["curl", "-s", "http://kmesh-fake.com/status/200"])?, (true, String::new()));
    let teapot =
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}\\n", "http://kmesh-fake.com/status/418"];
    assert_eq!(stage.says(true, &teapot)?, (true, "418\n".to_owned()));

    let clients = stage.topology.httpbin.as_ref().expect("it was started").clients(5)?;
    assert_eq!(clients, vec![SLEEP.to_string(); 5]);
    Ok(())
}

#[test]
fn many_requests_at_once_are_all_answered() -> anyhow::Result<()> {
    let stage = with_examples()?;
    let mut command = vec!["curl", "-sZ", "--parallel-immediate", "-o", "/dev/null", "-w", "%{http_code}\\n"];
    command.extend(["http://kmesh-fake.com/status/200?n=[1-50]"]);
    let (well, codes) = stage.says(true, &command)?;
    assert!(well, "{codes}");
    assert_eq!(codes, "200\n".repeat(50));
    Ok(())
}
