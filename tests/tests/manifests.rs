//! What is applied to a cluster, as a real API server takes it: the definitions of `kmesh-se crds`, and the Helm chart.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::agent::definitions;
use tests::cluster::chart::{Helm, chart};
use tests::cluster::{ApiServer, programs};
use tests::servers::Process;
use tests::stage::examples_folder;
use tests::{agent, poll};

const LIMIT: Duration = Duration::from_secs(60);
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];
const NAMES: [&str; 2] = ["serviceentries.networking.istio.io", "workloadentries.networking.istio.io"];

/// Every example, applied in every version, reads the same in every version.
fn examples_read_the_same_in_all_versions(api: &ApiServer) -> anyhow::Result<()> {
    let kubectl = api.kubectl();
    let mut count = 0;
    for file in std::fs::read_dir(examples_folder())? {
        let text = std::fs::read_to_string(file?.path())?;
        for version in VERSIONS {
            let text =
                text.replace("networking.istio.io/v1alpha3\n", &format!("networking.istio.io/{version}\n"));
            assert!(text.contains(&format!("networking.istio.io/{version}\n")), "{text}");
            kubectl.apply(&text)?;
            let read = |version: &str| {
                kubectl.json(&["get", &format!("serviceentries.{version}.networking.istio.io"), "-A"])
            };
            let specs = |list: Value| {
                list["items"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|item| item["spec"].clone())
                    .collect::<Vec<_>>()
            };
            let first = specs(read(VERSIONS[0])?);
            assert!(!first.is_empty());
            for other in VERSIONS {
                assert_eq!(specs(read(other)?), first, "{version} read as {other}");
            }
            kubectl.run(&["delete", "serviceentries", "--all", "-A"])?;
            count += 1;
        }
    }
    assert!(count >= 2 * VERSIONS.len());
    Ok(())
}

fn entry(spec: Value) -> String {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
           "metadata": {"name": "tried", "namespace": "default"}, "spec": spec})
    .to_string()
}

#[test]
#[ignore = "needs programs that `cargo xtask cluster` builds"]
fn our_definitions_are_taken_by_an_api_server_and_serve_all_versions() -> anyhow::Result<()> {
    let api = ApiServer::start()?;
    api.kubectl().install_crds(&definitions()?)?;
    examples_read_the_same_in_all_versions(&api)?;

    // What they refuse, by the field.
    let kubectl = api.kubectl();
    for (spec, field) in [
        (json!({}), "spec.hosts"),
        (json!({"hosts": []}), "spec.hosts"),
        (json!({"hosts": ["a.test"], "resolution": "SOMETIMES"}), "spec.resolution"),
        (json!({"hosts": ["a.test"], "ports": [{"name": "http", "number": 70000}]}), "spec.ports[0].number"),
        (json!({"hosts": ["a.test"], "ports": [{"number": 80}]}), "spec.ports[0].name"),
        (json!({"hosts": ["a.test"], "host": "b.test"}), "spec.host"),
    ] {
        let error = kubectl.apply(&entry(spec.clone())).expect_err("it is refused");
        assert!(format!("{error:#}").contains(field), "{spec}: {error:#}");
    }

    // What people see.
    kubectl.apply(&entry(json!({"hosts": ["a.test"], "location": "MESH_EXTERNAL", "resolution": "DNS"})))?;
    let table = kubectl.run(&["get", "se"])?;
    let head: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(head, ["NAME", "HOSTS", "LOCATION", "RESOLUTION", "ACCEPTED", "PROGRAMMED", "AGE"]);
    assert!(table.contains("a.test") && table.contains("MESH_EXTERNAL"), "{table}");
    let told = kubectl.run(&["explain", "serviceentry.spec.endpoints.weight"])?;
    assert!(told.contains("Its share"), "{told}");

    // Status is apart, and keeps what others write there.
    let status =
        json!({"status": {"addresses": [{"value": "240.240.0.9", "host": "a.test"}], "others": {"x": 1}}});
    let patch = ["patch", "se", "tried", "--subresource=status", "--type=merge", "-p", &status.to_string()];
    kubectl.run(&patch)?;
    kubectl.apply(&entry(json!({"hosts": ["a.test"], "resolution": "NONE"})))?;
    assert_eq!(kubectl.json(&["get", "se", "tried"])?["status"], status["status"]);
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}

#[test]
#[ignore = "needs programs that `cargo xtask cluster` builds"]
fn istios_definitions_serve_the_same_entries_and_ours_take_their_place() -> anyhow::Result<()> {
    let api = ApiServer::start()?;
    let istios = std::fs::read_to_string(programs::istios_definitions())
        .context("no definitions of Istio: `cargo xtask cluster` gets them")?;
    let ours: Vec<_> = istios
        .split("\n---\n")
        .filter(|text| NAMES.iter().any(|name| text.contains(&format!("name: {name}"))))
        .collect();
    assert_eq!(ours.len(), NAMES.len());
    api.kubectl().install_crds(&ours.join("\n---\n"))?;
    examples_read_the_same_in_all_versions(&api)?;
    // Objects of before stay readable when the definitions change, either way.
    let kubectl = api.kubectl();
    kubectl.apply(&entry(json!({"hosts": ["a.test"], "resolution": "DNS"})))?;
    let before = kubectl.json(&["get", "se", "tried"])?["spec"].clone();
    api.kubectl().install_crds(&definitions()?)?;
    assert_eq!(kubectl.json(&["get", "se", "tried"])?["spec"], before);
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}

#[test]
fn the_charts_definitions_are_those_of_the_program() -> anyhow::Result<()> {
    let committed = std::fs::read_to_string(chart().join("files/crds.yaml"))?;
    assert!(
        committed == definitions()?,
        "they differ: kmesh-se crds > deploy/charts/kmesh-se/files/crds.yaml brings them up to date"
    );
    Ok(())
}

#[test]
#[ignore = "needs programs that `cargo xtask cluster` builds"]
fn the_chart_installs_upgrades_and_goes_and_leaves_other_definitions_alone() -> anyhow::Result<()> {
    let api = ApiServer::start()?;
    let (helm, kubectl) = (Helm::of(&api)?, api.kubectl());
    let chart = chart().display().to_string();
    helm.run(&["lint", "--strict", &chart])?;
    for (value, said) in [
        ("nonsense=1", "nonsense"),
        ("mode=other", "/mode"),
        ("paths.run=/run", "/paths/run"),
        ("controller.replicas=0", "/controller/replicas"),
        ("controller.webhook.timeoutSeconds=60", "/controller/webhook/timeoutSeconds"),
    ] {
        // Helm itself knows no version of Kubernetes that is new enough when it was not built by its own makefile.
        let refused = helm.output(&["template", &chart, "--kube-version", "1.36.0", "--set", value])?;
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && error.contains(said), "{value}: {error}");
    }

    kubectl.run(&["create", "namespace", "kmesh-se"])?;
    let install = ["install", "kmesh-se", &chart, "-n", "kmesh-se", "--set", "resolvers={10.96.0.10}"];
    helm.run(&install)?;
    let set = kubectl.json(&["get", "daemonset", "kmesh-se", "-n", "kmesh-se"])?;
    nothing_is_privileged(&set, Some(&["BPF", "NET_ADMIN", "PERFMON"]));
    let resolver = |word: &Value| word == "--resolver=10.96.0.10";
    let words = set["spec"]["template"]["spec"]["containers"][0]["args"].as_array();
    assert!(words.is_some_and(|words| words.iter().any(resolver)), "{words:?}");
    the_program_knows_its_flags(&set)?;
    let controller = kubectl.json(&["get", "deployment", "kmesh-se-controller", "-n", "kmesh-se"])?;
    nothing_is_privileged(&controller, None);
    the_program_knows_its_flags(&controller)?;
    assert_eq!(controller["spec"]["replicas"], 2);
    let budget = kubectl.json(&["get", "poddisruptionbudget", "kmesh-se-controller", "-n", "kmesh-se"])?;
    assert_eq!(budget["spec"]["selector"], controller["spec"]["selector"]);
    assert_ne!(set["spec"]["selector"], controller["spec"]["selector"]);
    for name in NAMES {
        let crd = kubectl.json(&["get", "crd", name])?;
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    // What the agent is allowed to, and that it may write nothing but a Lease.
    let may_as = |account: &str, words: &[&str]| {
        let account = format!("--as=system:serviceaccount:kmesh-se:{account}");
        let output = kubectl.output(&[&["auth", "can-i", &account], words].concat())?;
        anyhow::Ok(output.stdout.starts_with(b"yes"))
    };
    let may = |verb: &str, what: &str| may_as("kmesh-se", &[verb, what, "-A"]);
    for what in ["serviceentries", "workloadentries", "namespaces", "nodes", "pods", "services"] {
        assert!(may("list", what)? && may("watch", what)?, "{what}");
        assert!(!may("update", what)? && !may("create", what)? && !may("delete", what)?, "{what}");
    }
    // kubectl does not ask about a resource that is not served.
    let role = kubectl.json(&["get", "clusterrole", "kmesh-se"])?;
    let of_routes = |rule: &&Value| rule["resources"] == json!(["httproutes"]);
    let rule = role["rules"].as_array().and_then(|rules| rules.iter().find(of_routes)).context("no rule")?;
    assert_eq!(rule["verbs"], json!(["list", "watch"]), "{rule}");
    assert!(!may("list", "secrets")?);
    for (words, is_allowed) in [
        (["create", "leases.coordination.k8s.io", "-n", "kmesh-se"], true),
        (["patch", "leases.coordination.k8s.io/kmesh-se-node-a", "-n", "kmesh-se"], true),
        (["patch", "leases.coordination.k8s.io/kmesh-se-node-a", "-n", "default"], false),
        (["delete", "leases.coordination.k8s.io/kmesh-se-node-a", "-n", "kmesh-se"], false),
    ] {
        assert_eq!(may_as("kmesh-se", &words)?, is_allowed, "{words:?}");
    }
    // The controller writes the status of entries, and the Lease of its own namespace.
    let lease = "leases.coordination.k8s.io/kmesh-se-controller";
    for (words, is_allowed) in [
        (&["list", "serviceentries", "-A"][..], true),
        (&["watch", "serviceentries", "-A"], true),
        (&["patch", "serviceentries", "--subresource=status", "-A"], true),
        (&["patch", "serviceentries", "-A"], false),
        (&["update", "serviceentries", "-A"], false),
        (&["list", "pods", "-A"], false),
        (&["watch", "services", "-A"], true),
        (&["create", "events.events.k8s.io", "-A"], true),
        (&["watch", "leases.coordination.k8s.io", "-n", "kmesh-se"], true),
        (&["watch", "leases.coordination.k8s.io", "-n", "default"], false),
        (&["create", "leases.coordination.k8s.io", "-n", "kmesh-se"], true),
        (&["update", lease, "-n", "kmesh-se"], true),
        (&["update", "leases.coordination.k8s.io/other", "-n", "kmesh-se"], false),
        (&["update", lease, "-n", "default"], false),
    ] {
        assert_eq!(may_as("kmesh-se-controller", words)?, is_allowed, "{words:?}");
    }
    the_charts_rules_are_enough(&api)?;
    the_charts_webhook_comes_and_goes(&api, &helm)?;

    let upgrade = ["upgrade", "kmesh-se", &chart, "-n", "kmesh-se", "--reuse-values", "--set"];
    helm.run(&[&upgrade[..], &["log=debug"]].concat())?;
    kubectl.run(&["get", "crd", NAMES[0]])?;
    helm.run(&[&upgrade[..], &["mode=cleanup"]].concat())?;
    let sets = kubectl.json(&["get", "daemonsets", "-n", "kmesh-se"])?;
    assert_eq!(sets["items"].as_array().map(Vec::len), Some(1), "{sets}");
    let set = &sets["items"][0];
    nothing_is_privileged(set, Some(&["BPF", "NET_ADMIN", "PERFMON"]));
    let controllers = kubectl.json(&["get", "deployments", "-n", "kmesh-se"])?;
    assert_eq!(controllers["items"], json!([]), "no address is allocated while nodes are cleaned");
    assert_eq!(set["spec"]["template"]["spec"]["initContainers"][0]["args"], json!(["cleanup", "--wait"]));
    assert!(!may("list", "pods")?, "what cleans up needs nothing of the API server");
    helm.run(&["uninstall", "kmesh-se", "-n", "kmesh-se"])?;
    // The definitions stay, with all entries.
    kubectl.run(&["get", "crd", NAMES[0], NAMES[1]])?;

    // They are nobody's now, as Istio's would be: a new release leaves them as they are.
    for name in NAMES {
        let annotate = ["annotate", "crd", name, "meta.helm.sh/release-name=istio-base", "--overwrite"];
        kubectl.run(&annotate)?;
    }
    helm.run(&install)?;
    let crd = kubectl.json(&["get", "crd", NAMES[0]])?;
    assert_eq!(crd["metadata"]["annotations"]["meta.helm.sh/release-name"], "istio-base");
    assert!(
        !helm.run(&["get", "manifest", "kmesh-se", "-n", "kmesh-se"])?.contains("CustomResourceDefinition")
    );
    helm.run(&["uninstall", "kmesh-se", "-n", "kmesh-se"])?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}

/// A controller with the rights of the chart alone gives an entry its addresses.
fn the_charts_rules_are_enough(api: &ApiServer) -> anyhow::Result<()> {
    let kubectl = api.kubectl();
    let kubeconfig = api.kubeconfig_of("kmesh-se", "kmesh-se-controller")?;
    kubectl.apply(&entry(json!({"hosts": ["a.test"], "resolution": "STATIC",
        "ports": [{"name": "http", "number": 80, "protocol": "HTTP"}], "endpoints": [{"address": "10.0.0.1"}]})))?;
    let mut command = api.netns().command(agent::program()?);
    command.args(["controller", "--lease=kmesh-se-controller", "--lease-namespace=kmesh-se"]);
    command.arg("--kubeconfig").arg(kubeconfig);
    let controller = Process::start(&mut command, &api.run().folder()?.join("controller.log"))?;
    let wide = ["get", "serviceentries", "-o", "wide"];
    let table = kubectl.until(&wide, LIMIT, |table| table.contains("240.240.0.1"));
    let table = table.with_context(|| controller.tail())?;
    let head: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    let wanted =
        ["NAME", "HOSTS", "LOCATION", "RESOLUTION", "ACCEPTED", "PROGRAMMED", "AGE", "ADDRESS", "REASON"];
    assert_eq!(head, wanted);
    assert!(table.lines().any(|row| row.starts_with("tried") && row.contains("True")), "{table}");
    // Events, too, and all that it reads.
    kubectl.apply(&entry(
        json!({"hosts": ["a.test"], "resolution": "STATIC", "endpoints": [{"address": "a.name"}]}),
    ))?;
    let is_told = |events: &str| events.contains("EndpointNotAnIp");
    kubectl.until(&["get", "events.v1.events.k8s.io"], LIMIT, is_told).with_context(|| controller.tail())?;
    assert!(!controller.output().contains("is not allowed to"), "{}", controller.output());
    kubectl.run(&["delete", "serviceentry", "tried"]).map(drop)
}

/// A controller with the rights of the chart alone keeps the webhook's certificates; nothing of them is left when it goes.
fn the_charts_webhook_comes_and_goes(api: &ApiServer, helm: &Helm) -> anyhow::Result<()> {
    let (kubectl, chart) = (api.kubectl(), chart().display().to_string());
    let upgrade = ["upgrade", "kmesh-se", &chart, "-n", "kmesh-se", "--reuse-values", "--set"];
    // As after an upgrade from a chart that had none.
    helm.run(&[&upgrade[..], &["controller.webhook=null"]].concat())?;
    helm.run(&[&upgrade[..], &["controller.webhook.enabled=true,controller.webhook.port=9443,controller.webhook.timeoutSeconds=3"]].concat())?;
    let deployment = kubectl.json(&["get", "deployment", "kmesh-se-controller", "-n", "kmesh-se"])?;
    nothing_is_privileged(&deployment, None);
    the_program_knows_its_flags(&deployment)?;
    let config = ["get", "validatingwebhookconfiguration", "kmesh-se-webhook.kmesh-se"];
    let hook = kubectl.json(&config)?["webhooks"][0].clone();
    assert_eq!((&hook["failurePolicy"], &hook["sideEffects"]), (&json!("Ignore"), &json!("None")), "{hook}");
    assert_eq!(hook["matchPolicy"], "Equivalent");
    let service = kubectl.json(&["get", "service", "kmesh-se-webhook", "-n", "kmesh-se"])?;
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    for (name, value) in service["spec"]["selector"].as_object().context("no selector")? {
        assert_eq!(&labels[name], value, "{name}");
    }

    for (verb, what, is_allowed) in [
        ("get", "secrets/kmesh-se-webhook", true),
        ("update", "secrets/kmesh-se-webhook", true),
        ("delete", "secrets/kmesh-se-webhook", false),
        ("create", "secrets", false),
        ("list", "secrets", false),
        ("get", "secrets/other", false),
        ("patch", "validatingwebhookconfigurations/kmesh-se-webhook.kmesh-se", true),
        ("update", "validatingwebhookconfigurations/kmesh-se-webhook.kmesh-se", false),
        ("patch", "validatingwebhookconfigurations/other", false),
    ] {
        let account = "--as=system:serviceaccount:kmesh-se:kmesh-se-controller";
        let output = kubectl.output(&["auth", "can-i", account, verb, what, "-n", "kmesh-se"])?;
        assert_eq!(output.stdout.starts_with(b"yes"), is_allowed, "{verb} {what}");
    }

    let args =
        deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().context("no flags")?;
    let args: Vec<_> = args.iter().filter_map(Value::as_str).collect();
    let mut command = api.netns().command(agent::program()?);
    command.args(args).arg("--lease-namespace=kmesh-se");
    command.arg("--kubeconfig").arg(api.kubeconfig_of("kmesh-se", "kmesh-se-controller")?);
    let controller = Process::start(&mut command, &api.run().folder()?.join("controller-webhook.log"))?;
    let bundle =
        || kubectl.json(&config).ok()?["webhooks"][0]["clientConfig"]["caBundle"].as_str().map(str::to_owned);
    let first = poll::until("the caBundle to be there", LIMIT, bundle).with_context(|| controller.tail())?;
    let secret = ["get", "secret", "kmesh-se-webhook", "-n", "kmesh-se"];
    let kept = kubectl.json(&secret)?["data"].clone();
    assert_eq!(kept.as_object().map(serde_json::Map::len), Some(4));
    helm.run(&[&upgrade[..], &["log=info"]].concat())?;
    assert_eq!(kubectl.json(&secret)?["data"], kept, "an upgrade leaves the certificates");
    assert_eq!(bundle().as_deref(), Some(first.as_str()));

    helm.run(&[&upgrade[..], &["controller.webhook.enabled=false"]].concat())?;
    drop(controller);
    for words in [&config[..], &secret, &["get", "service", "kmesh-se-webhook", "-n", "kmesh-se"]] {
        assert!(!kubectl.output(words)?.status.success(), "{words:?} is left");
    }
    Ok(())
}

/// None of the containers; `capabilities` are all that it has.
fn nothing_is_privileged(set: &Value, capabilities: Option<&[&str]>) {
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!((&pod["hostPID"], &pod["hostIPC"]), (&Value::Null, &Value::Null));
    let all = [&pod["containers"], &pod["initContainers"]].into_iter().filter_map(Value::as_array).flatten();
    let mut count = 0;
    for container in all {
        let security = &container["securityContext"];
        assert_eq!(security["privileged"], false, "{container}");
        assert_eq!(security["allowPrivilegeEscalation"], false, "{container}");
        assert_eq!(security["readOnlyRootFilesystem"], true, "{container}");
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{container}");
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{container}");
        assert_eq!(security["capabilities"]["add"], json!(capabilities), "{container}");
        count += 1;
    }
    assert!(count > 0);
}

/// The program would refuse a flag that it does not have before it comes to `--help`.
fn the_program_knows_its_flags(set: &Value) -> anyhow::Result<()> {
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let words = container["args"].as_array().context("no arguments")?;
    let words: Vec<_> = words.iter().filter_map(Value::as_str).collect();
    let help = poll::output(Command::new(agent::program()?).args(&words).arg("--help"))?;
    assert!(help.status.success(), "{words:?}: {}", String::from_utf8_lossy(&help.stderr));
    // Variables that it would not read would be in vain.
    let help = String::from_utf8(help.stdout)?;
    for name in container["env"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str()) {
        assert!(help.contains(name), "{name}");
    }
    Ok(())
}
