//! What the webhook answers.
//!
//! In: an AdmissionReview as it came. Out: one with the answer, and the verdict for the count. Never: I/O, a clock, or a word that
//! `kmesh-se validate` does not say of the object.

use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation},
    response::{StatusCause, StatusDetails, StatusSummary},
};
use serde_json::Value;

use super::counts::Verdict;
use crate::model::{GROUP, Issue, Judgement, Kind, read_object, validate};

/// The version of reviews that is understood.
const API_VERSION: &str = "admission.k8s.io/v1";
/// So many errors of one object are listed.
const MAX_ERRORS: usize = 500;
/// So many warnings; the API server itself shortens those that follow its first 4096 bytes.
const MAX_WARNINGS: usize = 50;

/// What came is no review that can be answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswerable {
    /// Something else.
    #[error("this is no AdmissionReview: {cause}")]
    NotAReview {
        /// What is wrong with it.
        cause: serde_json::Error,
    },
    /// One of another version.
    #[error("an AdmissionReview of {API_VERSION} is expected here, not {kind:?} of {api_version:?}")]
    OtherVersion {
        /// As it came.
        kind: String,
        /// As it came.
        api_version: String,
    },
    /// One without a request.
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

/// Answers a review.
///
/// # Errors
/// It is none: tell the client.
pub(super) fn answer(body: &[u8]) -> Result<(AdmissionReview<DynamicObject>, Verdict), Unanswerable> {
    let review: AdmissionReview<DynamicObject> =
        serde_json::from_slice(body).map_err(|cause| Unanswerable::NotAReview { cause })?;
    if review.types.api_version != API_VERSION || review.types.kind != "AdmissionReview" {
        let kube::core::TypeMeta { kind, api_version } = review.types;
        return Err(Unanswerable::OtherVersion { kind, api_version });
    }
    let request: AdmissionRequest<DynamicObject> = review.try_into().map_err(|_| Unanswerable::NoRequest)?;
    let mut response = AdmissionResponse::from(&request);
    let verdict = judge(request, &mut response);
    Ok((response.into_review(), verdict))
}

fn judge(request: AdmissionRequest<DynamicObject>, response: &mut AdmissionResponse) -> Verdict {
    let kind = match request.kind.kind.as_str() {
        "ServiceEntry" => Kind::ServiceEntry,
        "WorkloadEntry" => Kind::WorkloadEntry,
        _ => return Verdict::Allowed,
    };
    let is_judged = request.kind.group == GROUP
        && request.sub_resource.as_deref().is_none_or(str::is_empty)
        && matches!(request.operation, Operation::Create | Operation::Update);
    let Some(object) = request.object.filter(|_| is_judged) else { return Verdict::Allowed };

    // Who only labels, or takes a finalizer off, need not put right what was there before.
    let is_update = request.operation == Operation::Update;
    let is_unchanged =
        is_update && request.old_object.is_some_and(|old| old.data.get("spec") == object.data.get("spec"));
    let goes = object.metadata.deletion_timestamp.is_some();
    let api_version = format!("{GROUP}/{}", request.kind.version);
    let value = serde_json::to_value(object).unwrap_or(Value::Null);
    let (errors, mut warnings) = match read_object(kind, &api_version, value) {
        Ok((object, unknown)) => {
            let Judgement { errors, mut warnings, .. } = validate(&object);
            warnings.extend(unknown);
            (errors, told(&warnings, MAX_WARNINGS))
        }
        Err(errors) => (errors, Vec::new()),
    };
    let verdict = match (errors.as_slice(), is_unchanged) {
        ([], _) => Verdict::Allowed,
        (_, true) => {
            warnings =
                told(&errors, MAX_WARNINGS).into_iter().map(|error| format!("rejected: {error}")).collect();
            Verdict::Unchanged
        }
        (_, false) => {
            let details = StatusDetails {
                name: request.name,
                group: GROUP.to_owned(),
                kind: request.kind.kind,
                causes: errors.iter().take(MAX_ERRORS).map(cause).collect(),
                uid: String::new(),
                retry_after_seconds: 0,
            };
            refuse(response, &errors, details);
            Verdict::Refused
        }
    };
    let is_silent = warnings.is_empty() || (goes && is_unchanged);
    response.warnings = (!is_silent).then_some(warnings);
    verdict
}

fn refuse(response: &mut AdmissionResponse, errors: &[Issue], details: StatusDetails) {
    let lines = told(errors, MAX_ERRORS);
    response.allowed = false;
    response.result.status = Some(StatusSummary::Failure);
    // With `Invalid`, kubectl would not say who refuses.
    (response.result.code, response.result.reason) = (400, "BadRequest".to_owned());
    response.result.message = match lines.as_slice() {
        [one] => one.clone(),
        _ => format!("{} errors:\n  {}", errors.len(), lines.join("\n  ")),
    };
    response.result.details = Some(details);
}

/// In the words of `kmesh-se validate`, one line each.
fn told(issues: &[Issue], max: usize) -> Vec<String> {
    let mut lines: Vec<_> = issues.iter().take(max).map(ToString::to_string).collect();
    if issues.len() > max {
        lines.push(format!("and {} more, which `kmesh-se validate` lists", issues.len() - max));
    }
    lines
}

fn cause(issue: &Issue) -> StatusCause {
    StatusCause {
        reason: issue.reason.to_owned(),
        message: issue.message.clone(),
        field: issue.field.clone(),
    }
}

#[cfg(test)]
mod tests;
