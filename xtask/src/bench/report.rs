//! What a run of the benchmark found.
//!
//! In: measurements. Out: JSON and back, so that table, plots and page come from the same data. Never: a
//! number that cannot be traced to its rounds.

use std::path::Path;
use std::time::Duration;

use ::tests::load::Kind;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::machine::{self, Machine};
use super::series::Series;

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) settings: Settings,
    /// When it began, UTC.
    pub(crate) date: String,
    /// What was measured.
    pub(crate) commit: String,
    pub(crate) took_secs: f64,
    /// The one-minute load average before and after.
    pub(crate) load_average: [f64; 2],
    /// What was not measured and why.
    pub(crate) skipped: Vec<String>,
    pub(crate) traffic: Vec<Traffic>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) scale: Vec<Scale>,
}

/// How it was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    pub(crate) quick: bool,
    pub(crate) rounds: u32,
    pub(crate) slot_millis: u64,
    /// Of clients, server and proxy.
    pub(crate) nice: i8,
    pub(crate) client_cpu: usize,
    pub(crate) server_cpu: usize,
    /// Versions; none if not there.
    pub(crate) envoy: Option<String>,
    pub(crate) nftables: Option<String>,
}

/// A way from the client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Arm {
    Direct,
    /// The same as [`Arm::Direct`]: what differs is noise.
    Again,
    Empty,
    NotEnrolled,
    Miss,
    Hit,
    Nftables,
    Envoy,
    Waypoint,
}

impl Arm {
    /// For people.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Arm::Direct => "direct",
            Arm::Again => "direct, again",
            Arm::Empty => "empty program",
            Arm::NotEnrolled => "not enrolled",
            Arm::Miss => "miss",
            Arm::Hit => "hit",
            Arm::Nftables => "nftables DNAT",
            Arm::Envoy => "Envoy tcp_proxy",
            Arm::Waypoint => "VIP through waypoint",
        }
    }
}

/// One kind of traffic on one way.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Traffic {
    pub(crate) kind: Kind,
    pub(crate) arm: Arm,
    /// Latency of a request, microseconds: the median of the percentiles of each round. Not of bulk.
    pub(crate) p50_us: Series,
    pub(crate) p90_us: Series,
    pub(crate) p99_us: Series,
    /// Requests, or bits of bulk, in a second.
    pub(crate) per_second: Series,
    /// To direct: of the p50, or of the bulk's rate.
    pub(crate) ratio: Series,
    /// Datagrams without an answer, in all rounds.
    pub(crate) lost: u64,
}

impl Traffic {
    /// What ratios are made of.
    pub(crate) fn metric(&self) -> &Series {
        if self.kind == Kind::Stream { &self.per_second } else { &self.p50_us }
    }
}

/// What one run of connect4 costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hook {
    pub(crate) arm: Arm,
    /// Elements in the frontend map; none for the empty program.
    pub(crate) frontends: Option<u64>,
    /// Nanoseconds, as the kernel counts them.
    pub(crate) ns: Series,
    /// To the empty program.
    pub(crate) ratio: Series,
}

/// An agent with many entries.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Scale {
    pub(crate) entries: u32,
    pub(crate) frontends: u64,
    /// From the start of the process to the last element in the maps.
    pub(crate) programmed_secs: f64,
    /// Resident memory when all is programmed, before any change.
    pub(crate) rss_bytes: u64,
    /// From the change of a file to the first connection that began after the flip, milliseconds.
    pub(crate) change_ms: Vec<f64>,
}

/// Four decimals are more than was measured, and come back from JSON as they went.
fn round(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let rounded = number.as_f64().map(|number| (number * 1e4).round() / 1e4);
            *value = rounded.map_or(Value::Null, Value::from);
        }
        Value::Array(values) => values.iter_mut().for_each(round),
        Value::Object(fields) => fields.values_mut().for_each(round),
        _ => (),
    }
}

impl Scale {
    /// A percentile of the changes, milliseconds.
    pub(crate) fn change(&self, percent: usize) -> f64 {
        let mut sorted = self.change_ms.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
        sorted.get(rank).copied().unwrap_or(0.0)
    }
}

impl Report {
    pub(crate) fn begin(settings: Settings, skipped: Vec<String>) -> Report {
        let load = machine::load_average();
        Report {
            machine: Machine::look(),
            settings,
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            commit: machine::commit(),
            took_secs: 0.0,
            load_average: [load, load],
            skipped,
            traffic: Vec::new(),
            hooks: Vec::new(),
            scale: Vec::new(),
        }
    }

    /// The report as its JSON will hold it, so that what is printed now and made from the file later agree.
    pub(crate) fn end(mut self, took: Duration) -> anyhow::Result<Report> {
        self.took_secs = took.as_secs_f64();
        self.load_average[1] = machine::load_average();
        let mut whole = serde_json::to_value(self)?;
        round(&mut whole);
        Ok(serde_json::from_value(whole)?)
    }

    pub(crate) fn read(path: &Path) -> anyhow::Result<Report> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no report of bench", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        // A line for each row, so that a new run is a readable difference.
        let mut text = String::from("{\n");
        let whole = serde_json::to_value(self)?;
        let fields = whole.as_object().context("a report is an object")?;
        for (number, (name, value)) in fields.iter().enumerate() {
            let comma = if number + 1 < fields.len() { "," } else { "" };
            let rows = value.as_array().filter(|rows| rows.iter().all(Value::is_object));
            let value = match rows.filter(|rows| !rows.is_empty()) {
                Some(rows) => {
                    let rows: Vec<_> = rows.iter().map(|row| format!("  {row}")).collect();
                    format!("[\n{}\n ]", rows.join(",\n"))
                }
                None => value.to_string(),
            };
            text += &format!(" \"{name}\": {value}{comma}\n");
        }
        std::fs::write(path, text + "}\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// The row of this traffic and way.
    pub(crate) fn row(&self, kind: Kind, arm: Arm) -> Option<&Traffic> {
        self.traffic.iter().find(|row| row.kind == kind && row.arm == arm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rounded_number_comes_back_from_json_as_it_went() -> anyhow::Result<()> {
        let numbers: Vec<f64> = (1..2000).map(|number| f64::from(number).sqrt() * 12_345.678_9).collect();
        let mut rounded = serde_json::to_value(&numbers)?;
        round(&mut rounded);
        let again: Value = serde_json::from_str(&rounded.to_string())?;
        assert_eq!(again, rounded);
        assert!((again[0].as_f64().context("a number")? - numbers[0]).abs() < 1e-4);
        Ok(())
    }
}
