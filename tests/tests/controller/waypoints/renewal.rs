//! Certificates that end while an Envoy uses them.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tests::cluster::bulk::Bulk;
use tests::poll;
use tests::waypoint::Waypoint;

use super::{BOUND, SERVES, Scene, goes_through, head, mount, on_node};
use crate::conditions::condition;
use crate::{Controller, api};

const SECRET: &str = "/api/v1/namespaces/default/secrets/waypoint-kmesh-se-xds";
/// Of a certificate; the shortest that there is. Their authority lasts four times as long.
const LIFETIME: &str = "--waypoint-lifetime=10";
/// Longer than the first authority lasts.
const GONE: Duration = Duration::from_secs(90);

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn an_envoy_comes_back_with_new_certificates_when_the_first_and_their_authority_are_gone()
-> anyhow::Result<()> {
    if !Waypoint::is_possible() {
        return Ok(());
    }
    let (api, _shared) = api()?;
    let (kubectl, bulk) = (api.kubectl(), Bulk::start(&api)?);
    let make = || kubectl.apply(&on_node("one")).map(drop);
    let mut scene = Scene::start(&api, 9463, &[LIFETIME], make)?;
    kubectl.apply(BOUND)?;
    let mut waypoint = scene.waypoint()?;
    goes_through(&scene.agent, &api).with_context(|| format!("{}\n{}", scene.tail(), waypoint.tail()))?;

    // The kubelet of the Pod, when it is looked at.
    let keys = scene.keys.clone();
    let authorities = || std::fs::read_to_string(keys.join("ca.crt"));
    let first = authorities()?;
    let mut mounted = String::new();
    let mut renew = || -> anyhow::Result<()> {
        let secret = bulk.get(SECRET)?;
        let version = secret["metadata"]["resourceVersion"].as_str().context("a version")?;
        if mounted != version {
            mount(kubectl, &keys)?;
            version.clone_into(&mut mounted);
        }
        Ok(())
    };
    let mut failed = 0;
    let gone = || {
        renew().ok()?;
        failed += u32::from(head(&scene.agent, &api).is_none_or(|head| !head.contains("server: envoy")));
        (!authorities().ok()?.contains(first.trim())).then_some(())
    };
    poll::until("the first authority to be gone", GONE, gone)
        .with_context(|| format!("{}\n{}", scene.tail(), waypoint.tail()))?;
    ensure!(failed == 0, "{failed} requests failed meanwhile\n{}\n{}", scene.tail(), waypoint.tail());
    waypoint.lives()?;

    // The next controller is another connection. It does not know the first certificates, nor their authority.
    scene.controller.kill()?;
    scene.controller = Controller::start(&api, 9463, &[&SERVES[..], &[LIFETIME]].concat())?;
    kubectl.apply(&on_node("two"))?;
    let bound = || {
        renew().ok()?;
        (condition(kubectl, "two", "istio.io/WaypointBound").ok()??["status"] == "True").then_some(())
    };
    poll::until("an entry that is new to be taken by the Envoy", GONE, bound)
        .with_context(|| format!("{}\n{}", scene.tail(), waypoint.tail()))?;
    waypoint.lives()?;
    drop(waypoint);
    scene.end()?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
