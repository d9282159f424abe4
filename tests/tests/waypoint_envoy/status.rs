//! What of an Envoy's own page can be reached from elsewhere.

use kmesh_se::model::Protocol;
use tests::poll;
use tests::topology::{BACKEND, NODE, Options};

use crate::*;

#[test]
fn of_the_admin_page_readiness_and_counters_can_be_read_and_nothing_else() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(Options::default())? else { return Ok(()) };
    let backend = || vec![at(BACKEND, 8000)];
    way.serves(&[
        (key("one.test", 80), service(20_001, Protocol::Tcp, backend())),
        (key("web.test", 80), service(20_002, Protocol::Http, backend())),
    ])?;
    let code = |words: &[&str]| {
        let quiet = ["--path-as-is", "-o", "/dev/null", "-w", "%{http_code}"];
        way.curl(("envoy.test", 80), (NODE, STATUS_PORT), &[&quiet, words].concat())
    };
    let ready = || (code(&["http://envoy.test/ready"]).ok()? == "200").then_some(());
    poll::until("Envoy to be ready", LIMIT, ready).with_context(|| way.envoy.tail())?;
    let name = |host: &str| format!("envoy_cluster_name=\"default/entry|{host}|80\"");
    way.curl(("web.test", 80), (NODE, 20_002), &["http://web.test/get"])?;
    way.curl(("one.test", 80), (NODE, 20_001), &["http://one.test/get"])?;
    let counters =
        way.curl(("envoy.test", 80), (NODE, STATUS_PORT), &["http://envoy.test/stats/prometheus"])?;
    for line in [
        "envoy_server_live{} 1",
        "envoy_listener_manager_listener_added{} 3",
        &format!("envoy_cluster_upstream_rq_xx{{envoy_response_code_class=\"2\",{}}} 1", name("web.test")),
        &format!("envoy_cluster_upstream_cx_total{{{}}} 1", name("web.test")),
        &format!("envoy_cluster_upstream_cx_total{{{}}} 1", name("one.test")),
    ] {
        assert!(counters.lines().any(|counter| counter == line), "{line} is not in\n{counters}");
    }
    // Hundreds of others for each service would be most of its cost.
    let of_one = counters.lines().filter(|line| line.contains(&name("one.test"))).count();
    assert!((10..20).contains(&of_one), "{of_one} of one.test in\n{counters}");
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
