//! The webhook, as the API server asks it and people see it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::agent::program;
use tests::cluster::{ApiServer, Kubectl};
use tests::poll;

use super::{Controller, LIMIT, api, entry};

const CONFIG: &str = "kmse-test";
const ADDRESS: &str = "127.0.0.1:9443";
const DENIED: &str = "admission webhook \"validation.kmesh-se.io\" denied the request";

/// What the chart has, but for the address.
fn configure(kubectl: &Kubectl) -> anyhow::Result<()> {
    let config = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": CONFIG},
        "webhooks": [{
            "name": "validation.kmesh-se.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Ignore", "matchPolicy": "Equivalent", "timeoutSeconds": 10,
            "clientConfig": {"url": format!("https://{ADDRESS}/validate")},
            "rules": [{
                "apiGroups": ["networking.istio.io"], "apiVersions": ["v1", "v1beta1", "v1alpha3"],
                "operations": ["CREATE", "UPDATE"], "resources": ["serviceentries", "workloadentries"],
            }],
        }],
    });
    kubectl.apply(&config.to_string()).map(drop)
}

/// A controller whose webhook the API server asks.
fn start<'a>(api: &'a ApiServer, port: u16, address: &str, more: &[&str]) -> anyhow::Result<Controller<'a>> {
    let flags = ["--webhook", address, "--webhook-host", "127.0.0.1", "--webhook-config", CONFIG];
    Controller::start(api, port, &[&flags[..], more].concat())
}

/// An entry that the definitions take and validation does not: NONE has no endpoints.
fn bad(name: &str) -> String {
    entry(name, &["bad.test"], "").replace("resolution: STATIC", "resolution: NONE")
}

fn is_refused(kubectl: &Kubectl, name: &str) -> bool {
    let applied = kubectl.apply(&bad(name));
    let _ = kubectl.run(&["delete", "serviceentry", name, "--ignore-not-found"]);
    applied.is_err_and(|error| format!("{error:#}").contains(DENIED))
}

/// The API server takes a moment to know whom to ask.
fn until_refused(kubectl: &Kubectl, controller: &Controller<'_>) -> anyhow::Result<()> {
    let waited =
        poll::until("a bad entry to be refused", LIMIT, || is_refused(kubectl, "tried").then_some(()));
    waited.with_context(|| controller.process.tail())
}

/// The lines of `kmesh-se validate` about errors, or warnings.
fn words(object: &str, what: &str) -> anyhow::Result<Vec<String>> {
    let mut command = Command::new(program()?);
    command.args(["validate", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("no stdin")?, object.as_bytes())?;
    let text = String::from_utf8(child.wait_with_output()?.stdout)?;
    let line = |line: &str| line.trim().strip_prefix(what)?.strip_prefix(": ").map(str::to_owned);
    Ok(text.lines().filter_map(line).collect())
}

/// The objects of the scenarios whose names begin with `prefix`.
fn scenarios(prefix: &str) -> anyhow::Result<Vec<String>> {
    let mut objects = Vec::new();
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios"))? {
        let file = file?;
        if !file.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let text = std::fs::read_to_string(file.path())?;
        let (_, block) = text.split_once("objects: |\n").context("no objects")?;
        let lines = block.lines().take_while(|line| line.is_empty() || line.starts_with("  "));
        let lines: Vec<_> = lines.map(|line| line.get(2..).unwrap_or_default()).collect();
        objects.extend(lines.join("\n").split("---\n").map(str::to_owned));
    }
    objects.sort();
    Ok(objects)
}

/// What kubectl says, whether it ends well or not.
fn applied(kubectl: &Kubectl, object: &str) -> anyhow::Result<(bool, String)> {
    let mut command = kubectl.command(&["apply", "-f", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("no stdin")?, object.as_bytes())?;
    let output = child.wait_with_output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn the_api_server_refuses_what_validate_rejects_in_its_words() -> anyhow::Result<()> {
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    configure(kubectl)?;
    // Nobody is there to ask: what is bad is taken.
    kubectl.apply(&bad("before"))?;
    kubectl.run(&[
        "patch",
        "serviceentry",
        "before",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":["a.test/b"]}}"#,
    ])?;
    let controller = start(&api, 9401, ADDRESS, &[])?;
    until_refused(kubectl, &controller)?;

    // What the definitions take is refused by all of its errors.
    let mut refused = 0;
    for object in scenarios("rejected-")? {
        let errors = words(&object, "error")?;
        let (is_taken, said) = applied(kubectl, &object)?;
        if !said.contains(DENIED) {
            assert!(!is_taken || errors.is_empty(), "{object}\n{errors:?}\n{said}");
            continue;
        }
        refused += 1;
        assert!(!is_taken && !errors.is_empty(), "{object}");
        for error in errors {
            assert!(said.contains(&error), "{error}\nis not in: {said}");
        }
    }
    assert!(refused >= 15, "only {refused}");
    let mut warned = 0;
    for object in scenarios("warned-")? {
        let (is_taken, said) = applied(kubectl, &object)?;
        assert!(is_taken, "{object}: {said}");
        for warning in words(&object, "warning")? {
            warned += 1;
            assert!(said.contains(&format!("Warning: {warning}")), "{warning}\nis not in: {said}");
        }
    }
    assert!(warned >= 5, "only {warned}");

    // In all versions, and WorkloadEntries, too; names that the API server makes are names.
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let (_, said) = applied(kubectl, &bad("tried").replace("io/v1", &format!("io/{version}")))?;
        assert!(said.contains(DENIED), "{version}: {said}");
    }
    let workload = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w, namespace: default}\n\
                    spec: {address: \"unix:///tmp/\"}\n";
    let (_, said) = applied(kubectl, workload)?;
    let error = words(workload, "error")?.pop().context("it is bad")?;
    assert!(said.contains(DENIED) && said.contains(&error), "{error}: {said}");
    let good = entry("made-", &["made.test"], "").replace("name: made-", "generateName: made-");
    kubectl.feed(&["create", "-f", "-"], &good)?;

    // What was bad before can be labelled and goes; a change of it is judged; its status is not.
    let output = kubectl.output(&["label", "serviceentry", "before", "a=b"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let error = words(&bad("before"), "error")?.pop().context("it is bad")?;
    assert!(output.status.success() && said.contains(&format!("Warning: rejected: {error}")), "{said}");
    let status = r#"{"status":{"addresses":[{"value":"240.240.9.9"}]}}"#;
    kubectl.run(&[
        "patch",
        "serviceentry",
        "before",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ])?;
    let spec = r#"{"spec":{"hosts":["other.test"]}}"#;
    let changed = kubectl.run(&["patch", "serviceentry", "before", "--type=merge", "-p", spec]);
    assert!(changed.is_err_and(|error| format!("{error:#}").contains(DENIED)));
    kubectl.run(&["delete", "serviceentry", "before", "--wait=false"])?;
    let bare = r#"{"metadata":{"finalizers":null}}"#;
    kubectl.run(&["patch", "serviceentry", "before", "--type=merge", "-p", bare])?;
    kubectl.until(&["get", "serviceentries"], LIMIT, |table| !table.contains("before"))?;

    // Whoever else comes by.
    let url = format!("https://{ADDRESS}/validate");
    let mut curl = api.netns().command("curl");
    let output = poll::output(curl.args(["-sk", "-w", "%{http_code}", "-d", "garbage", &url]))?;
    let said = String::from_utf8(output.stdout)?;
    assert!(said.contains("this is no AdmissionReview") && said.ends_with("400"), "{said}");
    let count = |verdict: &str| {
        controller.metric(&format!("kmesh_se_controller_webhook_requests_total{{verdict=\"{verdict}\"}}"))
    };
    assert!(count("refused")? >= refused && count("allowed")? >= 5);
    assert_eq!(count("malformed")?, 1);
    assert!(count("unchanged")? >= 2);

    // A caBundle that somebody changes is put right; nothing else of the configuration is.
    let path = "/webhooks/0/clientConfig/caBundle";
    let other = json!([{"op": "remove", "path": path}, {"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": 9}]);
    kubectl.run(&[
        "patch",
        "validatingwebhookconfiguration",
        CONFIG,
        "--type=json",
        "-p",
        &other.to_string(),
    ])?;
    let config = ["get", "validatingwebhookconfiguration", CONFIG];
    poll::until("the caBundle to be back", LIMIT, || {
        let webhook = kubectl.json(&config).ok()?["webhooks"][0].clone();
        assert_eq!(webhook["timeoutSeconds"], 9);
        webhook["clientConfig"]["caBundle"].is_string().then_some(())
    })?;
    until_refused(kubectl, &controller)?;

    controller.kill()?;
    kubectl.apply(&bad("after"))?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}

/// What is in the Secret, by name.
fn secret(kubectl: &Kubectl) -> anyhow::Result<Value> {
    Ok(kubectl.json(&["get", "secret", "kmesh-se-webhook"])?["data"].clone())
}

/// Whether who trusts the configuration's caBundle gets on with the server.
fn is_trusted(api: &ApiServer, address: &str) -> anyhow::Result<bool> {
    let file = api.run().folder()?.join("bundle.pem");
    let path = "jsonpath={.webhooks[0].clientConfig.caBundle}";
    let bundle = api.kubectl().run(&["get", "validatingwebhookconfiguration", CONFIG, "-o", path])?;
    let mut decode = Command::new("base64");
    decode.arg("-d").stdin(Stdio::piped()).stdout(std::fs::File::create(&file)?);
    let mut child = decode.spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("no stdin")?, bundle.as_bytes())?;
    ensure!(child.wait()?.success(), "no base64: {bundle}");
    let mut curl = api.netns().command("curl");
    curl.args(["-s", "--max-time", "10", "--cacert"]).arg(&file).arg(format!("https://{address}/validate"));
    Ok(poll::output(&mut curl)?.status.success())
}

#[test]
#[ignore = "needs Kubernetes' programs: `cargo xtask cluster` runs it"]
fn certificates_change_while_entries_are_applied() -> anyhow::Result<()> {
    let (api, _shared) = api()?;
    let kubectl = api.kubectl();
    configure(kubectl)?;
    let other = "127.0.0.1:9444";
    // A certificate is replaced after 20 s, and an authority passes on within 6 s of being lost.
    let life = ["--webhook-lifetime", "30"];
    let one = start(&api, 9401, ADDRESS, &life)?;
    let two = start(&api, 9402, other, &life)?;
    until_refused(kubectl, &one)?;
    let serves =
        |address| poll::until("both to be trusted", LIMIT, || is_trusted(&api, address).ok()?.then_some(()));
    [ADDRESS, other].into_iter().try_for_each(serves)?;
    let first = secret(kubectl)?;
    let began = Instant::now();

    // Broken, then lost, while one bad entry after another is refused: nothing is taken because nobody could be asked.
    let mut seen = vec![first["ca.crt"].clone()];
    let mut certificates = vec![first["tls.crt"].clone()];
    let mut count = 0;
    let (mut is_broken, mut is_lost) = (false, false);
    while began.elapsed() < poll::stretched(Duration::from_secs(40)) || seen.len() < 5 {
        ensure!(
            began.elapsed() < Duration::from_secs(240),
            "authorities do not change: {}",
            one.process.tail()
        );
        ensure!(is_refused(kubectl, "tried"), "after {:?}\n{}", began.elapsed(), one.process.tail());
        count += 1;
        if !is_broken && began.elapsed() > Duration::from_secs(3) {
            is_broken = true;
            let broken = json!({"data": {"ca.key": "bm9uc2Vuc2U=", "tls.crt": null}}).to_string();
            kubectl.run(&["patch", "secret", "kmesh-se-webhook", "--type=merge", "-p", &broken])?;
        } else if !is_lost && began.elapsed() > Duration::from_secs(22) {
            is_lost = true;
            kubectl.run(&["delete", "secret", "kmesh-se-webhook"])?;
        }
        let Ok(now) = secret(kubectl) else { continue };
        for (list, name) in [(&mut seen, "ca.crt"), (&mut certificates, "tls.crt")] {
            if now[name].is_string() && list.last() != Some(&now[name]) {
                list.push(now[name].clone());
            }
        }
    }
    assert!(count >= 5, "{count}");
    // The first, it and a second, the second; it and a third, the third.
    assert!(certificates.len() >= 3, "{certificates:#?}");
    let log = format!("{}{}", one.process.tail(), two.process.tail());
    assert!(log.contains("the Secret was broken, and is replaced"), "{log}");

    // Two controllers, one authority, which the other goes on with.
    [ADDRESS, other].into_iter().try_for_each(serves)?;
    one.stop()?;
    two.until_it_leads()?;
    let before = secret(kubectl)?["tls.crt"].clone();
    poll::until("the other controller to make a certificate", Duration::from_secs(60), || {
        (secret(kubectl).ok()?["tls.crt"] != before).then_some(())
    })?;
    serves(other)?;
    let ends = "kmesh_se_controller_webhook_certificate_expiry_timestamp_seconds{certificate=\"serving\"}";
    assert!(two.metric(ends)? > 1_700_000_000);
    two.stop()?;
    assert_eq!(api.end(), Vec::<String>::new());
    Ok(())
}
