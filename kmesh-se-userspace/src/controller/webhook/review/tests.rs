//! Reviews as an API server sends them.

use serde_json::{Value, json};

use super::*;

fn entry(number: u64) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "e", "namespace": "n", "uid": "u", "creationTimestamp": "2026-11-28T12:00:00Z"},
        "spec": {"hosts": ["a.com"], "ports": [{"number": number, "name": "http", "protocol": "HTTP"}],
                 "resolution": "DNS", "subjectAltNames": ["spiffe://x"]},
    })
}

fn request(operation: &str, object: Value, old: Value) -> Value {
    let kind = if object.is_null() { &old["kind"] } else { &object["kind"] }.clone();
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "r-1", "operation": operation, "name": "e", "namespace": "n", "dryRun": false,
            "kind": {"group": "networking.istio.io", "version": "v1", "kind": kind},
            "resource": {"group": "networking.istio.io", "version": "v1", "resource": "serviceentries"},
            "userInfo": {"username": "jane"}, "object": object, "oldObject": old, "options": null,
        },
    })
}

fn answered(review: &Value) -> (Value, Verdict) {
    let (answer, verdict) = answer(review.to_string().as_bytes()).expect("a review");
    let answer = serde_json::to_value(answer).expect("JSON");
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["response"]["uid"], "r-1");
    (answer["response"].clone(), verdict)
}

#[test]
fn a_good_object_passes_with_its_warnings() {
    let (response, verdict) = answered(&request("CREATE", entry(80), Value::Null));
    assert_eq!((verdict, &response["allowed"]), (Verdict::Allowed, &json!(true)));
    let warning = "spec.subjectAltNames: names of certificates need TLS, so they are not enforced at this layer \
                   (SubjectAltNamesNotEnforced)";
    assert_eq!(response["warnings"], json!([warning]));
}

#[test]
fn a_bad_object_is_refused_with_every_error() {
    let (response, verdict) = answered(&request("CREATE", entry(0), Value::Null));
    assert_eq!((verdict, &response["allowed"]), (Verdict::Refused, &json!(false)));
    let status = &response["status"];
    assert_eq!(status["message"], "spec.ports[0].number: port 0 is not in 1..65535 (PortOutOfRange)");
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "PortOutOfRange", "message": "port 0 is not in 1..65535", "field": "spec.ports[0].number"}])
    );
    assert_eq!(response["warnings"].as_array().map(Vec::len), Some(1), "warnings are told, too");

    let mut worse = entry(0);
    worse["spec"]["resolution"] = json!("SOMETIMES");
    let (response, _) = answered(&request("UPDATE", worse, entry(0)));
    let message = response["status"]["message"].as_str().expect("a text");
    let lines: Vec<_> = message.lines().collect();
    assert_eq!(lines[0], "2 errors:", "{message}");
    assert!(
        lines[1].starts_with("  spec.ports[0].number: ") && lines[2].starts_with("  spec.resolution: "),
        "{message}"
    );
}

#[test]
fn who_changes_only_metadata_need_not_put_right_what_was_there() {
    let mut labelled = entry(0);
    labelled["metadata"]["labels"] = json!({"a": "b"});
    labelled["status"] = json!({"addresses": [{"value": "240.240.0.1"}]});
    let (response, verdict) = answered(&request("UPDATE", labelled.clone(), entry(0)));
    assert_eq!((verdict, &response["allowed"]), (Verdict::Unchanged, &json!(true)));
    let told = "rejected: spec.ports[0].number: port 0 is not in 1..65535 (PortOutOfRange)";
    assert_eq!(response["warnings"], json!([told]));
    // Finalizers of what goes are taken off in silence.
    labelled["metadata"]["deletionTimestamp"] = json!("2026-11-28T12:00:00Z");
    let (response, _) = answered(&request("UPDATE", labelled.clone(), entry(0)));
    assert_eq!((&response["allowed"], &response["warnings"]), (&json!(true), &Value::Null));
    // A change of the spec is judged, whatever was there before.
    let (response, _) = answered(&request("UPDATE", labelled, entry(80)));
    assert_eq!(response["allowed"], false);
}

#[test]
fn what_is_not_ours_passes() {
    let other = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "e"}, "spec": 7});
    let mut status = request("UPDATE", entry(0), entry(80));
    status["request"]["subResource"] = json!("status");
    let mut group = request("CREATE", entry(0), Value::Null);
    group["request"]["kind"]["group"] = json!("other.io");
    for review in
        [request("CREATE", other, Value::Null), status, group, request("DELETE", Value::Null, entry(0))]
    {
        let (response, verdict) = answered(&review);
        assert_eq!((verdict, &response["allowed"]), (Verdict::Allowed, &json!(true)), "{review}");
    }
}

#[test]
fn many_errors_are_cut_off_and_said_to_be() {
    let mut many = entry(80);
    many["spec"]["resolution"] = json!("STATIC");
    many["spec"]["endpoints"] = (0..4000).map(|_| json!({"address": "no address"})).collect();
    let (response, _) = answered(&request("CREATE", many, Value::Null));
    let message = response["status"]["message"].as_str().expect("a text");
    assert!(message.starts_with("4000 errors:\n"), "{}", &message[..100]);
    assert!(
        message.ends_with("and 3500 more, which `kmesh-se validate` lists"),
        "{}",
        &message[message.len() - 100..]
    );
}

#[test]
fn what_is_no_review_is_told_so() {
    let other = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": null});
    let empty = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"});
    for (body, said) in [
        ("".to_owned(), "no AdmissionReview"),
        ("\u{0}garbage".to_owned(), "no AdmissionReview"),
        ("[]".to_owned(), "no AdmissionReview"),
        ("{}".to_owned(), "no AdmissionReview"),
        (format!("{}1", "[".repeat(100_000)), "no AdmissionReview"),
        (other.to_string(), "\"admission.k8s.io/v1beta1\""),
        (empty.to_string(), "has no request"),
    ] {
        let error = answer(body.as_bytes()).expect_err(said).to_string();
        assert!(error.contains(said), "{error}");
    }
}
