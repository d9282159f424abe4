//! A service that Envoy does not take is told of in its own words, and nothing else suffers.

use tests::topology::{BACKEND, NODE, Options};

use crate::*;

const QUIET: Options = Options { httpbin: false, ttl_secs: 1, records: &[] };

#[test]
fn a_service_that_is_refused_is_told_of_and_the_others_go_on() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(QUIET)? else { return Ok(()) };
    greeter(&way.topology.backend, (BACKEND, 9000).into(), "backend")?;
    let taken = way.topology.node.inside(|| TcpListener::bind((NODE, 20_002)))??;
    let tcp = |port| service(port, Protocol::Tcp, vec![at(BACKEND, 9000)]);
    let [good, port_taken, named, later] = ["a", "b", "c", "d"].map(|host| key(&format!("{host}.test"), 80));
    let name = EndpointHost::Name(HostName::new("no-address.test"));
    let by_name = service(20_003, Protocol::Http, vec![Endpoint { host: name, port: 80, weight: 1 }]);
    way.xds.set(&port_taken, Some(tcp(20_002)));
    way.xds.set(&named, Some(by_name));
    way.serves(&[(good.clone(), tcp(20_001))])?;

    let refused = |key: &ServiceKey| {
        let rejections = way.xds.rejections();
        rejections.into_iter().find(|(rejected, _, _)| rejected == key).map(|(_, node, why)| (node, why))
    };
    let what = |key: &ServiceKey| poll::until("a refusal", LIMIT, || refused(key));
    let (node, why) = what(&port_taken)?;
    assert_eq!(&*node, ID);
    assert!(why.contains("Address already in use") && why.contains("20002"), "{why}");
    assert!(!why.contains("a.test") && !why.contains("c.test"), "{why}");
    let (_, why) = what(&named)?;
    assert!(why.contains("no-address.test"), "{why}");
    assert!(way.xds.standing(&named).iter().all(|(_, standing)| !standing.serves && !standing.current));

    // Others come and work; those two are not sent again: three clusters and two listeners, and that two are not to be.
    let sent = |way: &Way, resources| {
        let what = format!("{resources} resources to be sent");
        poll::until(&what, LIMIT, || {
            way.node().is_ok_and(|node| node.sent.resources == resources).then_some(())
        })
    };
    sent(&way, 7)?;
    way.serves(&[(later, tcp(20_004))])?;
    sent(&way, 9)?;
    for port in [20_001, 20_004] {
        assert_eq!(hear(&mut way.connect(port)?)?, "220 backend");
    }
    assert_eq!(way.node()?.rejected, 2);

    // Put right, they are taken.
    drop(taken);
    way.serves(&[(port_taken, tcp(20_005)), (named, tcp(20_003))])?;
    assert_eq!(way.node()?.rejected, 0);
    assert_eq!(hear(&mut way.connect(20_005)?)?, "220 backend");
    way.end()
}

#[test]
fn a_change_that_is_refused_leaves_the_last_good_version_at_work() -> anyhow::Result<()> {
    let Some(mut way) = Way::start(QUIET)? else { return Ok(()) };
    greeter(&way.topology.backend, (BACKEND, 9000).into(), "backend")?;
    let key = key("a.test", 80);
    let good = service(20_001, Protocol::Tcp, vec![at(BACKEND, 9000)]);
    way.serves(&[(key.clone(), good.clone())])?;
    let name = EndpointHost::Name(HostName::new("no-address.test"));
    let bad = Service { endpoints: vec![Endpoint { host: name, port: 80, weight: 1 }], ..good.clone() };
    way.xds.set(&key, Some(bad.clone()));
    let refused = |way: &Way| {
        poll::until("a refusal", LIMIT, || {
            let standing = way.xds.standing(&key).into_iter().map(|(_, standing)| standing).next()?;
            standing.rejected.is_some().then_some(standing)
        })
    };
    let standing = refused(&way)?;
    assert!(standing.serves && !standing.current, "{standing:?}");
    assert_eq!(hear(&mut way.connect(20_001)?)?, "220 backend");

    // A server that starts does not take Envoy's word for having what it refused.
    way.restart_server()?;
    let standing = refused(&way)?;
    assert!(standing.serves && !standing.current, "{standing:?}");
    assert_eq!(hear(&mut way.connect(20_001)?)?, "220 backend");
    way.serves(&[(key.clone(), good)])?;
    way.end()
}
