//! Asks by ureq.
//!
//! In: `HOST PORT PATH any|4|6`. Out: `== LIBRARY STATUS` and the body. Never: a second try.

use std::time::Duration;

use anyhow::{Context as _, bail};
use ureq::Agent;
use ureq::config::IpFamily;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, path, family] = &words[..] else { bail!("usage: client HOST PORT PATH any|4|6") };
    let family = match &**family {
        "4" => IpFamily::Ipv4Only,
        "6" => IpFamily::Ipv6Only,
        _ => IpFamily::Any,
    };
    let config = Agent::config_builder().ip_family(family).timeout_global(Some(Duration::from_secs(5)));
    let agent: Agent = config.build().into();
    let host = if port == "80" { host.clone() } else { format!("{host}:{port}") };
    let mut answer = agent.get(format!("http://{host}{path}")).call().context("no answer")?;
    let body = answer.body_mut().read_to_string()?;
    println!("== ureq {}\n{body}", answer.status().as_u16());
    Ok(())
}
