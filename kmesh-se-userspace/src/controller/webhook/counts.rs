//! What the webhook counts, for Prometheus.
//!
//! In: verdicts, ends of certificates. Out: families of `/metrics`. Never: a row while no webhook is served.

use std::{
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The object is as it should be, or none that is judged.
    Allowed,
    /// It is not.
    Refused,
    /// It is not, but was so before, and only its metadata changes.
    Unchanged,
    /// Nothing that an API server sends.
    Malformed,
}

impl Verdict {
    const ALL: [(Self, &str); 4] = [
        (Self::Allowed, "allowed"),
        (Self::Refused, "refused"),
        (Self::Unchanged, "unchanged"),
        (Self::Malformed, "malformed"),
    ];
}

/// All counts; none before it is started.
#[derive(Debug, Default)]
pub(in crate::controller) struct Counts(Mutex<Option<Numbers>>);

#[derive(Debug, Default)]
struct Numbers {
    requests: [u64; Verdict::ALL.len()],
    /// When the certificate that is shown ends, and the newest authority.
    ends: Option<[Timestamp; 2]>,
}

impl Counts {
    fn change(&self, change: impl FnOnce(&mut Numbers)) {
        if let Some(numbers) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            change(numbers);
        }
    }

    /// Counts from now on.
    pub(super) fn start(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Numbers::default());
    }

    /// A request has ended.
    pub(super) fn request(&self, verdict: Verdict) {
        let place = Verdict::ALL.iter().position(|(other, _)| *other == verdict);
        self.change(|now| now.requests[place.unwrap_or_default()] += 1);
    }

    /// A certificate is shown.
    pub(super) fn shows(&self, certificate: Timestamp, authority: Timestamp) {
        self.change(|now| now.ends = Some([certificate, authority]));
    }

    /// Adds the families.
    pub(in crate::controller) fn write(&self, text: &mut String) {
        self.change(|now| {
            // Writing to a string does not fail.
            let _ = text.write_str(
                "# HELP kmesh_se_controller_webhook_requests_total Requests to the webhook.\n\
                 # TYPE kmesh_se_controller_webhook_requests_total counter\n",
            );
            for ((_, name), count) in Verdict::ALL.iter().zip(now.requests) {
                let _ = writeln!(
                    text,
                    "kmesh_se_controller_webhook_requests_total{{verdict=\"{name}\"}} {count}"
                );
            }
            let Some(ends) = now.ends else { return };
            let _ = text.write_str(
                "# HELP kmesh_se_controller_webhook_certificate_expiry_timestamp_seconds When it ends.\n\
                 # TYPE kmesh_se_controller_webhook_certificate_expiry_timestamp_seconds gauge\n",
            );
            for (name, at) in ["serving", "authority"].iter().zip(ends) {
                let _ = writeln!(
                    text,
                    "kmesh_se_controller_webhook_certificate_expiry_timestamp_seconds{{certificate=\"{name}\"}} {}",
                    at.as_second()
                );
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_there_once_a_webhook_is() {
        let counts = Counts::default();
        let text = || {
            let mut text = String::new();
            counts.write(&mut text);
            text
        };
        counts.request(Verdict::Refused);
        assert_eq!(text(), "");
        counts.start();
        counts.request(Verdict::Refused);
        assert!(!text().contains("expiry"));
        counts.shows(Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        for line in [
            "kmesh_se_controller_webhook_requests_total{verdict=\"refused\"} 1",
            "kmesh_se_controller_webhook_requests_total{verdict=\"allowed\"} 0",
            "kmesh_se_controller_webhook_certificate_expiry_timestamp_seconds{certificate=\"serving\"} 0",
        ] {
            assert!(text().lines().any(|other| other == line), "{line} is not in:\n{}", text());
        }
    }
}
