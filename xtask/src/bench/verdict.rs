//! What was to be reached, and whether it was.
//!
//! In: a report. Out: a line for each target. Never: a yes where the interval allows a no.

use ::tests::load::Kind;

use super::report::{Arm, Report};
use super::series::Series;

const FILE_QUIET: &str = "The file source waits until a file was quiet for 100 ms, so that half-written files are not \
    read; the target is meant from the event that follows.";
const NOT_ENROLLED: &str = "It asks for the ancestor cgroup and looks that up in a hash, for each depth that holds \
    enrolled cgroups (here one); the empty program is two instructions.";
const MISS: &str = "Three hash look-ups (enrolment, frontend, address) and one of the socket's storage, which must be \
    forgotten if there is any.";
const HIT: &str = "What the socket dialled is remembered in socket storage, which the kernel allocates at its first \
    connect; the rest is two hash look-ups, array look-ups and counters.";

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of the interval is on the right side.
    Reached,
    /// All of it is on the wrong side.
    Missed,
    /// The noise is larger than the difference.
    CannotTell,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Verdict::Reached => "reached",
            Verdict::Missed => "missed",
            Verdict::CannotTell => "cannot tell",
        }
    }
}

/// One target.
pub(super) struct Line {
    pub(super) what: String,
    pub(super) target: String,
    pub(super) measured: String,
    pub(super) verdict: Verdict,
    /// Where the difference comes from, as far as it is known; for targets that are missed.
    pub(super) why: &'static str,
}

/// Which side is good.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn judge(self, low: f64, high: f64) -> Verdict {
        let (reached, missed) = match self {
            Bound::AtMost(bound) => (high <= bound, low > bound),
            Bound::AtLeast(bound) => (low >= bound, high < bound),
        };
        match (reached, missed) {
            (true, _) => Verdict::Reached,
            (_, true) => Verdict::Missed,
            _ => Verdict::CannotTell,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Bound::AtMost(bound) => format!("≤ {bound}{unit}"),
            Bound::AtLeast(bound) => format!("≥ {bound}{unit}"),
        }
    }
}

/// Every target of which there is a measurement.
pub(super) fn lines(report: &Report) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut ratio = |what: String, series: &Series, bound: Bound, why| {
        let measured = format!("{:.3} ({:.3}–{:.3})", series.median, series.low, series.high);
        let verdict = bound.judge(series.low, series.high);
        lines.push(Line { what, target: bound.text(""), measured, verdict, why });
    };
    let against = |kind, above: Arm, below: Arm| {
        let (above, below) = (report.row(kind, above)?, report.row(kind, below)?);
        Some(above.metric().over(below.metric()))
    };
    let traffic = [
        ("CRR p50, hit / direct", Kind::Crr, Arm::Hit, Arm::Direct, Bound::AtMost(1.02)),
        ("CRR p50, hit / nftables DNAT", Kind::Crr, Arm::Hit, Arm::Nftables, Bound::AtMost(1.0)),
        ("CRR p50, Envoy / hit", Kind::Crr, Arm::Envoy, Arm::Hit, Bound::AtLeast(1.8)),
        ("RR p50, hit / direct", Kind::Rr, Arm::Hit, Arm::Direct, Bound::AtMost(1.01)),
        ("RR p50, Envoy / hit", Kind::Rr, Arm::Envoy, Arm::Hit, Bound::AtLeast(1.8)),
        ("STREAM throughput, hit / direct", Kind::Stream, Arm::Hit, Arm::Direct, Bound::AtLeast(0.99)),
        ("UDP p50, hit / direct", Kind::Udp, Arm::Hit, Arm::Direct, Bound::AtMost(1.05)),
    ];
    for (what, kind, above, below, bound) in traffic {
        if let Some(series) = against(kind, above, below) {
            ratio(what.to_owned(), &series, bound, "");
        }
    }

    let hook = |arm| report.hooks.iter().find(move |hook| hook.arm == arm);
    for (arm, bound, why) in
        [(Arm::NotEnrolled, 1.5, NOT_ENROLLED), (Arm::Miss, 2.0, MISS), (Arm::Hit, 5.0, HIT)]
    {
        if let Some(hook) = hook(arm) {
            ratio(
                format!("connect4, {} / empty program", arm.label()),
                &hook.ratio,
                Bound::AtMost(bound),
                why,
            );
        }
    }
    let mut hits = report.hooks.iter().filter(|hook| hook.arm == Arm::Hit);
    if let (Some(few), Some(many)) = (hits.next(), hits.next_back()) {
        let count = |hook: &super::report::Hook| hook.frontends.unwrap_or(0);
        let what = format!("connect4, hit among {} / among {} frontends", count(many), count(few));
        ratio(what, &many.ns.over(&few.ns), Bound::AtMost(1.5), "");
    }

    let mut exact = |what: String, value: f64, unit: &str, bound: Bound, why| {
        let verdict = bound.judge(value, value);
        let measured = format!("{value:.1}{unit}");
        lines.push(Line { what, target: bound.text(unit), measured, verdict, why });
    };
    if let (Some(few), Some(many)) = (report.scale.first(), report.scale.last()) {
        let what = format!("one change among {} entries, file to flipped, p99", many.entries);
        exact(what, many.change(99), " ms", Bound::AtMost(2.0), FILE_QUIET);
        if many.entries > few.entries {
            let what = format!("one change, among {} / among {} entries, p99", many.entries, few.entries);
            exact(what, many.change(99) / few.change(99), "", Bound::AtMost(1.5), "");
        }
        let mib = many.rss_bytes as f64 / f64::from(1 << 20);
        exact(
            format!("memory of the agent with {} entries", many.entries),
            mib,
            " MiB",
            Bound::AtMost(300.0),
            "",
        );
        let what = format!("cold start with {} entries, to programmed", many.entries);
        exact(what, many.programmed_secs, " s", Bound::AtMost(20.0), "");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_across_the_bound_is_no_answer() {
        assert_eq!(Bound::AtMost(1.02).judge(0.99, 1.01), Verdict::Reached);
        assert_eq!(Bound::AtMost(1.02).judge(0.99, 1.03), Verdict::CannotTell);
        assert_eq!(Bound::AtMost(1.02).judge(1.03, 1.05), Verdict::Missed);
        assert_eq!(Bound::AtLeast(1.8).judge(1.9, 2.1), Verdict::Reached);
        assert_eq!(Bound::AtLeast(1.8).judge(1.7, 1.9), Verdict::CannotTell);
        assert_eq!(Bound::AtLeast(1.8).judge(1.2, 1.7), Verdict::Missed);
    }
}
