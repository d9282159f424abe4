//! The plan as a program sees it.

use serde_json::{Value, json};

use super::*;
use crate::cli::{Format, output::Shared};

const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  \
                     hosts: [a.com]\n  ports: [{number: 80, name: http, protocol: HTTP}]\n  resolution: STATIC\n";

fn parse_args(flags: &[&str]) -> Result<Args, clap::Error> {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }
    let flags = [&["plan", "-"], flags].concat();
    <Command as clap::Parser>::try_parse_from(flags).map(|command| command.args)
}

fn args(flags: &[&str]) -> Args {
    parse_args(flags).expect("flags")
}

fn plan(flags: &[&str], stdin: &str) -> (Answer, Value) {
    let shared = Shared::default();
    let answer = run_with(&args(flags), &mut stdin.as_bytes(), &mut Output::to(shared.clone(), Format::Json));
    (answer.expect("planned"), serde_json::from_str(&shared.text()).expect("JSON"))
}

/// The backends of the first port of the first service.
fn addresses(plan: &Value) -> Vec<&str> {
    let backends = plan["services"][0]["ports"][0]["backends"].as_array().expect("a list");
    backends.iter().filter_map(|b| b["address"].as_str()).collect()
}

#[test]
fn a_plan_is_told_in_the_contract_s_json() {
    let (answer, plan) =
        plan(&[], &format!("{ENTRY}  endpoints: [{{address: 10.0.0.1, ports: {{http: 8000}}}}]\n"));
    assert_eq!(answer, Answer::Yes);
    let expected = json!({
        "services": [{
            "namespace": "default", "name": "a", "host": "a.com", "resolution": "STATIC",
            "vips": ["240.240.0.1", "2001:2::1"],
            "ports": [{"name": "http", "number": 80, "protocol": "HTTP", "mode": "balance",
                       "backends": [{"address": "10.0.0.1", "port": 8000, "weight": 1, "source": "10.0.0.1"}]}],
            "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""}],
        }],
        "names": [{"name": "a.com", "addresses": ["240.240.0.1", "2001:2::1"], "entry": "default/a"}],
        "rejected": [],
    });
    assert_eq!(plan, expected);
}

#[test]
fn what_is_rejected_is_named_also_when_there_is_nothing_else() {
    let bad = ENTRY.replace("number: 80", "number: 0");
    let shared = Shared::default();
    let answer = run_with(
        &args(&[]),
        &mut format!("{bad}---\n- x\n").as_bytes(),
        &mut Output::to(shared.clone(), Format::Text),
    );
    assert_eq!(answer.expect("planned"), Answer::No);
    assert_eq!(
        shared.text(),
        "No ServiceEntry that this namespace sees.\n\
         rejected: ServiceEntry default/a at -:1: spec.ports[0].number: port 0 is not in 1..65535 (PortOutOfRange)\n\
         rejected: - default/- at -:9: an object is expected here, not a list; start with apiVersion and kind \
         (NotAnObject)\n"
    );
}

#[test]
fn a_namespace_that_cannot_be_one_is_refused() {
    for namespace in ["", "X", "a b", "a.b", "../a"] {
        let refused = parse_args(&["--namespace", namespace]).expect_err("refused");
        assert!(refused.to_string().contains("is not a name of a namespace"), "{refused}");
    }
}

#[test]
fn the_client_s_place_chooses_the_nearest_backends() {
    let entry = format!(
        "{ENTRY}  endpoints: [{{address: 10.0.0.1, locality: eu/eu-1}}, {{address: 10.0.0.2, locality: us/us-1}}]\n"
    );
    assert_eq!(addresses(&plan(&[], &entry).1), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(addresses(&plan(&["--locality", "us/us-1"], &entry).1), ["10.0.0.2"]);
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/region: eu}}\n";
    assert_eq!(addresses(&plan(&["--node", "n1"], &format!("{entry}{node}")).1), ["10.0.0.1"]);
}

#[test]
fn pods_serve_and_services_keep_their_names() {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: x}}\n\
               status: {podIP: 10.0.0.7, conditions: [{type: Ready, status: \"True\"}]}\n";
    let (_, with_pod) = plan(&[], &format!("{ENTRY}  workloadSelector: {{labels: {{app: x}}}}\n{pod}"));
    assert_eq!(addresses(&with_pod), ["10.0.0.7"]);

    let named = ENTRY.replace("a.com", "web.shop.svc.cluster.local");
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n";
    let (answer, plan) = plan(&["--namespace", "other"], &format!("{named}{service}"));
    assert_eq!(answer, Answer::Yes);
    assert_eq!(plan["names"], json!([]));
    let lost = &plan["services"][0]["conditions"][1];
    assert_eq!((&lost["type"], &lost["reason"]), (&json!("Shadowed"), &json!("KubernetesServiceWins")));
    assert!(lost["message"].as_str().is_some_and(|text| text.contains("Service shop/web")), "{lost}");
}

#[test]
fn virtual_addresses_depend_on_age_and_name_and_not_on_the_order_of_the_input() {
    let entry = |name: &str, host: &str, created: &str| {
        ENTRY.replace("{name: a}", &format!("{{name: {name}{created}}}")).replace("a.com", host)
    };
    let young = entry("a", "young.com", ", creationTimestamp: \"2026-01-02T00:00:00Z\"");
    let old = entry("z", "old.com", ", creationTimestamp: \"2026-01-01T00:00:00Z\"");
    let ageless = entry("y", "ageless.com", "");
    let names = |parts: [&str; 3]| plan(&[], &parts.join("---\n")).1["names"].clone();
    let expected = names([&young, &old, &ageless]);
    let first: Vec<_> =
        expected.as_array().expect("a list").iter().map(|n| (&n["name"], &n["addresses"][0])).collect();
    let pairs =
        json!([["ageless.com", "240.240.0.1"], ["old.com", "240.240.0.2"], ["young.com", "240.240.0.3"]]);
    assert_eq!(json!(first), pairs);
    for parts in [[&old, &young, &ageless], [&ageless, &old, &young], [&young, &ageless, &old]] {
        assert_eq!(names(parts.map(String::as_str)), expected);
    }
}

#[test]
fn registry_only_says_what_a_client_would_lose() {
    let entry = |name: &str, spec: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  hosts: \
             ['{name}.com']\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  {spec}\n---\n"
        )
    };
    let input = [
        entry("known", "resolution: STATIC\n  endpoints: [{address: 10.0.0.1}]"),
        entry("straight", "resolution: NONE"),
        entry("range", "resolution: NONE\n  addresses: [10.0.0.0/8]"),
        entry("*.names", "resolution: DYNAMIC_DNS").replace("name: *.names", "name: names"),
        entry("*.wild", "resolution: STATIC\n  endpoints: [{address: 10.0.0.1}]")
            .replace("name: *.wild", "name: wild"),
    ]
    .concat();
    let told = |flags: &[&str]| -> Vec<String> {
        let (_, plan) = plan(flags, &input);
        assert_eq!(plan["rejected"], json!([]));
        assert_eq!(plan["outboundPolicy"].as_str(), flags.last().copied());
        let services = plan["services"].as_array().expect("a list").iter();
        let reasons = |service: &Value| {
            let conditions = service["conditions"].as_array().expect("a list").iter();
            conditions.filter_map(|c| c["reason"].as_str()).map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        services
            .map(|s| format!("{} {} {}", s["host"], s["ports"][0]["mode"], reasons(s)).replace('"', ""))
            .collect()
    };
    let (open, closed) = (told(&[]), told(&["--outbound-policy", "registry-only"]));
    let added: Vec<_> =
        closed.iter().zip(&open).filter(|(closed, open)| closed != open).map(|(closed, _)| closed).collect();
    assert_eq!(
        added,
        [
            "range.com passthrough Accepted OtherPortsRefused",
            "straight.com unsupported Accepted RefusedByPolicy",
            "*.wild.com unsupported Accepted NoAddress RefusedByPolicy",
        ],
        "{closed:?}"
    );
}
