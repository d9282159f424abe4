//! What of an Envoy's own page can be reached from elsewhere.

use kmesh_se::model::Protocol;
use tests::poll;
use tests::topology::{BACKEND, NODE, Options};

use crate::*;

#[test]
fn of_the_admin_page_readiness_and_counters_can_be_read_and_nothing_else() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(Options::default())? else { return Ok(()) };
    way.serves(&[(key("one.test", 80), service(20_001, Protocol::Tcp, vec![at(BACKEND, 8000)]))])?;
    let code = |words: &[&str]| {
        let quiet = ["--path-as-is", "-o", "/dev/null", "-w", "%{http_code}"];
        way.curl(("envoy.test", 80), (NODE, STATUS_PORT), &[&quiet, words].concat())
    };
    let ready = || (code(&["http://envoy.test/ready"]).ok()? == "200").then_some(());
    poll::until("Envoy to be ready", LIMIT, ready).with_context(|| way.envoy.tail())?;
    let counters =
        way.curl(("envoy.test", 80), (NODE, STATUS_PORT), &["http://envoy.test/stats/prometheus"])?;
    assert!(counters.contains("envoy_server_live"), "{counters}");
    for words in [
        &["http://envoy.test/"][..],
        &["http://envoy.test/config_dump"],
        &["http://envoy.test/ready/../config_dump"],
        &["http://envoy.test/stats"],
        &["-X", "POST", "http://envoy.test/quitquitquit"],
        &["-X", "POST", "http://envoy.test/ready"],
    ] {
        assert_eq!(code(words)?, "404", "{words:?}");
    }
    way.end()
}
