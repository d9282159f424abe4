//! An HTTPRoute at a waypoint of the cluster.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::cluster::Kubectl;
use tests::poll;
use tests::waypoint::Waypoint;

use super::{BOUND, Scene, ask, goes_through, head, on_node};
use crate::conditions::until_condition;
use crate::{LIMIT, api};

/// Requests for one.test get a header on their way back, and those with a header of their own go to who is not there.
const ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: marked, namespace: default}
spec:
  parentRefs: [{group: networking.istio.io, kind: ServiceEntry, name: one}]
  rules:
  - matches: [{headers: [{name: x-canary, value: "1"}]}]
    backendRefs: [{group: networking.istio.io, kind: ServiceEntry, name: canary, port: 80}]
  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-routed, value: "yes"}]}}]
    backendRefs: [{group: networking.istio.io, kind: ServiceEntry, name: one, port: 80}]
"#;

/// What the route is told by the controller, as `Accepted` and `ResolvedRefs`; empty while that is nothing.
fn told(kubectl: &Kubectl) -> anyhow::Result<Vec<String>> {
    let route = kubectl.json(&["get", "httproute", "marked"])?;
    let parents = route["status"]["parents"].as_array().into_iter().flatten();
    let own: Vec<_> = parents.filter(|parent| parent["controllerName"] == "kmesh-se.io/waypoint").collect();
    ensure!(own.len() < 2, "{route}");
    let conditions = own.into_iter().flat_map(|parent| parent["conditions"].as_array().into_iter().flatten());
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    Ok(conditions
        .map(|c| format!("{} {} {}", text(c, "type"), text(c, "status"), text(c, "reason")))
        .collect())
}

/// The match of its first rule.
const CANARY: &str = r#"headers: [{name: x-canary, value: "1"}]"#;

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn an_http_route_is_followed_by_a_waypoint_of_the_cluster_and_its_entry_says_so() -> anyhow::Result<()> {
    if !Waypoint::is_possible() {
        return Ok(());
    }
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    let scene = Scene::start(&api, 9464, &[], || kubectl.apply(&on_node("one")).map(drop))?;
    kubectl.apply(BOUND)?;
    let waypoint = scene.waypoint()?;
    let tail = || format!("{}\n{}", scene.tail(), waypoint.tail());
    let routed = |wanted: bool| {
        let is_so =
            || head(&scene.agent, &api).filter(|head| head.contains("x-routed: yes") == wanted).map(drop);
        let what = if wanted { "requests to go as the route says" } else { "the route to be forgotten" };
        poll::until(what, LIMIT, is_so).with_context(tail)
    };
    goes_through(&scene.agent, &api).with_context(tail)?;
    routed(false)?;
    kubectl.apply(ROUTE)?;
    routed(true)?;
    let canary = ["-H", "x-canary: 1", "-o", "/dev/null", "-w", "%{http_code}", "http://one.test/"];
    let answered = |wanted: &str| {
        let is_so =
            || ask(&scene.agent, &api, &canary).ok().filter(|o| o.stdout == wanted.as_bytes()).map(drop);
        poll::until(&format!("the canary to answer {wanted}"), LIMIT, is_so).with_context(tail)
    };
    answered("500")?;
    let says = |wanted| until_condition(kubectl, "one", "kmesh-se.io/RequestsRouted", wanted);
    let hears = |accepted: &str, resolved: &str| {
        let wanted = [accepted, resolved].map(str::to_owned);
        let is_so = || told(kubectl).ok().filter(|told| *told == wanted).map(drop);
        let until = poll::until(&format!("the route to be told {wanted:?}"), LIMIT, is_so);
        until.with_context(|| format!("{:?}\n{}", told(kubectl), tail()))
    };
    let (accepted, resolved) = ("Accepted True Accepted", "ResolvedRefs True ResolvedRefs");
    says(Some(("False", "RouteBackendMissing"))).with_context(tail)?;
    hears(accepted, "ResolvedRefs False BackendNotFound")?;
    // What somebody wipes comes back, and what another controller says of its own parent stays.
    let condition = json!({"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let others = json!({"parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gateway"},
        "controllerName": "example.com/other", "conditions": [condition]});
    let patch = json!([{"op": "replace", "path": "/status/parents", "value": [others]}]).to_string();
    kubectl.run(&["patch", "httproute", "marked", "--subresource=status", "--type=json", "-p", &patch])?;
    hears(accepted, "ResolvedRefs False BackendNotFound")?;

    kubectl.apply(&on_node("canary"))?;
    answered("200")?;
    says(Some(("True", "RouteAccepted"))).with_context(tail)?;
    hears(accepted, resolved)?;

    // Envoy counts no further than to a thousand. What it does not take is told, and what it took before goes on.
    let refused = ROUTE.replace(CANARY, "path: {type: RegularExpression, value: '/a{1001}'}");
    kubectl.apply(&refused)?;
    says(Some(("False", "RouteRejected"))).with_context(tail)?;
    hears("Accepted False RouteRejected", resolved)?;
    until_condition(kubectl, "one", "istio.io/WaypointBound", Some(("False", "WaypointRejected")))?;
    answered("200")?;
    routed(true)?;
    kubectl.apply(ROUTE)?;
    says(Some(("True", "RouteAccepted"))).with_context(tail)?;
    hears(accepted, resolved)?;
    until_condition(kubectl, "one", "istio.io/WaypointBound", Some(("True", "WaypointAccepted")))?;

    // A route that is for no ServiceEntry any more is told nothing.
    let parents =
        json!([{"op": "replace", "path": "/spec/parentRefs", "value": [{"name": "gateway"}]}]).to_string();
    kubectl.run(&["patch", "httproute", "marked", "--type=json", "-p", &parents])?;
    routed(false)?;
    let is_alone = || {
        let route = kubectl.json(&["get", "httproute", "marked"]).ok()?;
        (route["status"]["parents"] == json!([others])).then_some(())
    };
    poll::until("only what others say to be left", LIMIT, is_alone).with_context(tail)?;
    kubectl.run(&["delete", "httproute", "marked"])?;
    says(None).with_context(tail)?;
    ensure!(head(&scene.agent, &api).is_some_and(|head| head.contains("server: envoy")), "{}", tail());
    drop(waypoint);
    scene.end()?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
