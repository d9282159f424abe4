//! Rules of RBAC that are missing are named, and the rest goes on.

use tests::agent::Agent;
use tests::cluster::{ApiServer, Kubectl};

use super::{CRDS, Scene, entry};

/// All that the agent asks for: group and resource.
const RULES: [(&str, &str); 7] = [
    ("", "namespaces"),
    ("", "nodes"),
    ("", "pods"),
    ("", "services"),
    ("networking.istio.io", "serviceentries"),
    ("networking.istio.io", "workloadentries"),
    ("gateway.networking.k8s.io", "httproutes"),
];

/// Gives the agent's account these rules and no others.
fn allow<'a>(kubectl: &Kubectl, rules: impl Iterator<Item = &'a (&'a str, &'a str)>) -> anyhow::Result<()> {
    let rule = |(group, resource): &(&str, &str)| {
        format!("- {{apiGroups: ['{group}'], resources: [{resource}], verbs: [list, watch]}}\n")
    };
    let rules: String = rules.map(rule).collect();
    kubectl
        .apply(&format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: agent}}\nrules:\n{rules}"
        ))
        .map(drop)
}

/// Makes the agent's account with all rules, and a kubeconfig for it.
fn account(api: &ApiServer) -> anyhow::Result<std::path::PathBuf> {
    let kubectl = api.kubectl();
    kubectl.install_crds(CRDS)?;
    kubectl.apply(&entry("v1", "one", "192.0.2.1"))?;
    kubectl.run(&["create", "namespace", "kmesh"])?;
    kubectl.run(&["-n", "kmesh", "create", "serviceaccount", "agent"])?;
    let words =
        ["create", "clusterrolebinding", "agent", "--clusterrole=agent", "--serviceaccount=kmesh:agent"];
    kubectl.run(&words)?;
    allow(kubectl, RULES.iter())?;
    api.kubeconfig_of("kmesh", "agent")
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn a_rule_that_is_missing_is_named_and_the_rest_goes_on() -> anyhow::Result<()> {
    let mut scene = Scene::start(account)?;
    scene.until_serves(&["one.test"])?;
    for missing in RULES {
        let (group, resource) = missing;
        scene.agent.pause()?;
        allow(scene.kubectl(), RULES.iter().filter(|rule| **rule != missing))?;
        scene.agent = Agent::start_with(scene.api.run(), scene.api.netns(), scene.flags.clone(), &[])?;
        let message = scene.until_problem(&format!("kube:{resource}"), Some("Forbidden"))?;
        for word in ["ServiceAccount kmesh/agent", "watch", resource, group] {
            assert!(message.contains(word), "{word} is not in: {message}");
        }
        let status = scene.agent.get("/status")?;
        assert_eq!(status["source"]["synced"], true, "{status:#}");
        let problems = status["source"]["problems"].as_array().cloned().unwrap_or_default();
        let others = problems
            .iter()
            .filter(|p| p["reason"] == "Forbidden" && p["origin"] != format!("kube:{resource}"));
        assert_eq!(others.count(), 0, "{problems:#?}");
        if resource != "serviceentries" {
            scene.until_serves(&["one.test"])?;
        }
    }
    // The rule comes while the agent runs.
    allow(scene.kubectl(), RULES.iter())?;
    scene.until_problem("kube:workloadentries", None)?;
    scene.end()
}
