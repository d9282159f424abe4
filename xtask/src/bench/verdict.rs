//! What was to be reached, and whether it was.
//!
//! In: a report. Out: a line for each target. Never: a yes where the interval allows a no.

use ::tests::load::Kind;

use super::report::{Arm, Report};
use super::series::Series;

/// The targets speak of so many ServiceEntries and frontends.
const ENTRIES: u64 = 100_000;
const FRONTENDS: u64 = 1_000_000;

const ENVOY: &str = "This is Envoy's own cost as far as a hit is as fast as direct; it is dialled straight, without \
    the redirection of a sidecar.";
const WAYPOINT: &str =
    "The way to Envoy is a hit's; what is more is what the agent tells Envoy to do for Istio's users.";
const CHANGE: &str = "From the renaming of the file: the system's notice, reading and parsing, building the host, the \
    writes, and the grace periods that they wait for. The target is meant from the event on.";
const NOT_ENROLLED: &str = "The ancestor cgroup is asked for and looked up in an array, for each depth that holds \
    enrolled cgroups (here one); the empty program is two instructions.";
const MISS: &str =
    "As for who is not enrolled, and a look at the ports of DNS and at one bit for the address.";
const HIT: &str = "One look-up in a hash (the frontend), six in arrays, the socket's cookie, a random number, two counters, and \
    64 bytes that are remembered for the socket, at a place that no cache holds.";

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of the interval is on the right side.
    Reached,
    /// All of it is on the wrong side.
    Missed,
    /// The noise is larger than the difference.
    CannotTell,
    /// Reached, but with less than the target speaks of.
    TooFew,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Verdict::Reached => "reached",
            Verdict::Missed => "missed",
            Verdict::CannotTell => "cannot tell",
            Verdict::TooFew => "well, with too few",
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

impl Line {
    fn ratio(what: impl Into<String>, series: &Series, bound: Bound) -> Line {
        let measured = format!("{:.3} ({:.3}–{:.3})", series.median, series.low, series.high);
        let verdict = bound.judge(series.low, series.high);
        Line { what: what.into(), target: bound.text(""), measured, verdict, why: "" }
    }

    fn value(what: impl Into<String>, value: f64, unit: &str, bound: Bound) -> Line {
        let (measured, verdict) = (format!("{value:.1}{unit}"), bound.judge(value, value));
        Line { what: what.into(), target: bound.text(unit), measured, verdict, why: "" }
    }

    fn because(self, why: &'static str) -> Line {
        Line { why, ..self }
    }

    /// A target for `wanted` entries or frontends that is reached with fewer is not reached yet.
    fn with(self, count: u64, wanted: u64) -> Line {
        let few = self.verdict == Verdict::Reached && count < wanted;
        Line { verdict: if few { Verdict::TooFew } else { self.verdict }, ..self }
    }
}

/// Every target of which there is a measurement.
pub(super) fn lines(report: &Report) -> Vec<Line> {
    let mut lines = traffic(report);
    lines.extend(hooks(report));
    lines.extend(scale(report));
    lines
}

fn traffic(report: &Report) -> Vec<Line> {
    let rows = [
        ("CRR p50, hit / direct", Kind::Crr, Arm::Hit, Arm::Direct, Bound::AtMost(1.02), ""),
        ("CRR p50, hit / nftables DNAT", Kind::Crr, Arm::Hit, Arm::Nftables, Bound::AtMost(1.0), ""),
        ("CRR p50, Envoy / hit", Kind::Crr, Arm::Envoy, Arm::Hit, Bound::AtLeast(1.8), ENVOY),
        (
            "CRR p50, VIP through waypoint / Envoy",
            Kind::Crr,
            Arm::Waypoint,
            Arm::Envoy,
            Bound::AtMost(1.05),
            WAYPOINT,
        ),
        ("RR p50, hit / direct", Kind::Rr, Arm::Hit, Arm::Direct, Bound::AtMost(1.01), ""),
        ("RR p50, Envoy / hit", Kind::Rr, Arm::Envoy, Arm::Hit, Bound::AtLeast(1.8), ENVOY),
        (
            "RR p50, VIP through waypoint / Envoy",
            Kind::Rr,
            Arm::Waypoint,
            Arm::Envoy,
            Bound::AtMost(1.05),
            WAYPOINT,
        ),
        ("STREAM throughput, hit / direct", Kind::Stream, Arm::Hit, Arm::Direct, Bound::AtLeast(0.99), ""),
        ("UDP p50, hit / direct", Kind::Udp, Arm::Hit, Arm::Direct, Bound::AtMost(1.05), ""),
    ];
    let line = |(what, kind, above, below, bound, why)| {
        let (above, below) = (report.row(kind, above)?, report.row(kind, below)?);
        Some(Line::ratio(what, &above.metric().over(below.metric()), bound).because(why))
    };
    rows.into_iter().filter_map(line).collect()
}

fn hooks(report: &Report) -> Vec<Line> {
    let rows = [(Arm::NotEnrolled, 1.5, NOT_ENROLLED), (Arm::Miss, 2.0, MISS), (Arm::Hit, 5.0, HIT)];
    let line = |(arm, bound, why): (Arm, f64, &'static str)| {
        let hook = report.hooks.iter().find(|hook| hook.arm == arm)?;
        let what = format!("connect4, {} / empty program", arm.label());
        Some(Line::ratio(what, &hook.ratio, Bound::AtMost(bound)).because(why))
    };
    let mut lines: Vec<_> = rows.into_iter().filter_map(line).collect();
    let mut hits = report.hooks.iter().filter(|hook| hook.arm == Arm::Hit);
    if let (Some(few), Some(many)) = (hits.next(), hits.next_back()) {
        let [fewer, more] = [few, many].map(|hook| hook.frontends.unwrap_or(0));
        let what = format!("connect4, hit among {more} / among {fewer} frontends");
        lines.push(Line::ratio(what, &many.ns.over(&few.ns), Bound::AtMost(1.5)).with(more, FRONTENDS));
    }
    lines
}

fn scale(report: &Report) -> Vec<Line> {
    let (Some(few), Some(many)) = (report.scale.first(), report.scale.last()) else { return Vec::new() };
    let (entries, change) = (many.entries, many.change(99));
    let mib = many.rss_bytes as f64 / f64::from(1 << 20);
    let what = format!("one change among {entries} entries, file to flipped, p99");
    let mut lines = vec![Line::value(what, change, " ms", Bound::AtMost(2.0)).because(CHANGE)];
    if entries > few.entries {
        let what = format!("one change, among {entries} / among {} entries, p99", few.entries);
        lines.push(Line::value(what, change / few.change(99), "", Bound::AtMost(1.5)));
    }
    let what = format!("memory of the agent with {entries} entries");
    lines.push(Line::value(what, mib, " MiB", Bound::AtMost(300.0)));
    let what = format!("cold start with {entries} entries, to programmed");
    lines.push(Line::value(what, many.programmed_secs, " s", Bound::AtMost(20.0)));
    lines.into_iter().map(|line| line.with(entries.into(), ENTRIES)).collect()
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
    #[test]
    fn a_target_reached_with_fewer_entries_is_not_reached_yet() {
        let reached = || Line::value("memory", 170.0, " MiB", Bound::AtMost(300.0));
        assert_eq!(reached().with(10_000, ENTRIES).verdict, Verdict::TooFew);
        assert_eq!(reached().with(100_000, ENTRIES).verdict, Verdict::Reached);
        let missed = Line::value("memory", 400.0, " MiB", Bound::AtMost(300.0));
        assert_eq!(missed.with(10_000, ENTRIES).verdict, Verdict::Missed);
    }
}
